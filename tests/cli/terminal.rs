//! Questions, asked and answered at a terminal. `script` (bsdutils, on every Debian) makes the terminal.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::Stage;

/// How long a question may take to come.
const ASKED_WITHIN: Duration = Duration::from_secs(60);

/// What a terminal showed, and whether the command ended well.
struct Shown {
    text: String,
    ended_well: bool,
}

impl Stage {
    /// Runs a command that must end well, without a terminal.
    fn does(&self, command: &str) {
        let done = self.shell(&["sh", "-c", command]).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Runs a command at a terminal, and types `answer` once a question stands there.
    fn at_terminal(&self, command: &str, answer: &str) -> Shown {
        let mut script = self.shell(&["script", "-qefc", command, "/dev/null"]);
        let mut running = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut keyboard, mut screen) = (running.stdin.take().unwrap(), running.stdout.take().unwrap());
        let (sender, shown) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                let _ = sender.send(bytes[..length].to_vec());
            }
        });
        let (mut text, until) = (Vec::new(), Instant::now() + ASKED_WITHIN);
        while !String::from_utf8_lossy(&text).contains("[y/N]") {
            match shown.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(more) => text.extend(more),
                Err(why) => panic!("{command} asked nothing ({why}): {}", String::from_utf8_lossy(&text)),
            }
        }
        writeln!(keyboard, "{answer}").unwrap();
        let ended_well = running.wait().unwrap().success();
        reader.join().unwrap();
        text.extend(shown.try_iter().flatten());
        Shown { text: String::from_utf8_lossy(&text).replace('\r', ""), ended_well }
    }
}

/// A fleet directory `hq`.
fn fleet() -> Stage {
    let stage = Stage::new();
    stage.does("lineside-hq init hq --name Example --url https://hq.example.net:8443");
    stage
}

#[test]
fn publish_asks_about_a_changed_recipient_and_does_what_is_answered() {
    let stage = fleet();
    stage.does("lineside-hq --fleet hq publish");
    // Somebody puts a key of their own in the recovery key's place.
    let planted = "07".repeat(32);
    stage.does(&format!("echo {planted} > hq/root/recovery.pub"));
    let statement = || std::fs::read_to_string(stage.dir.path().join("hq/root/recipients.json")).unwrap();
    let before = statement();
    for answer in ["n", "", "perhaps"] {
        let no = stage.at_terminal("lineside-hq --fleet hq publish", answer);
        assert!(no.text.contains("who can open releases would change:"), "{}", no.text);
        assert!(no.text.contains(&format!("+ recipient {}", &planted[..16])), "{}", no.text);
        assert!(no.text.contains("nobody proved this\nSeal to these from now on? [y/N]"), "{}", no.text);
        assert!(!no.ended_well && no.text.contains("error: nothing was published"), "{}", no.text);
        assert_eq!(statement(), before);
    }
    let yes = stage.at_terminal("lineside-hq --fleet hq publish", "y");
    assert!(yes.ended_well, "{}", yes.text);
    assert!(statement().contains(&planted));
    // It was agreed to, and is no question any more.
    stage.does("lineside-hq --fleet hq publish");
}

#[test]
fn keys_sign_shows_what_changes_and_signs_only_after_a_yes() {
    let stage = fleet();
    stage.does("lineside-hq --fleet hq keys root new-version --threshold firmware=3");
    let path = stage.dir.path().join("hq/root/2.root.json.pending");
    let sign = "lineside-hq --fleet hq keys sign hq/root/2.root.json.pending --key hq/keys/root-1.key";
    let before = std::fs::read(&path).unwrap();
    for answer in ["n", ""] {
        let no = stage.at_terminal(sign, answer);
        assert!(no.text.contains("~ firmware: 2 of 3 must sign -> 3 of 3 must sign"), "{}", no.text);
        assert!(no.text.contains("Sign hq/root/2.root.json.pending? [y/N]"), "{}", no.text);
        assert!(!no.ended_well && no.text.contains("was not signed"), "{}", no.text);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    let yes = stage.at_terminal(sign, "yes");
    assert!(yes.ended_well && yes.text.contains("signed hq/root/2.root.json.pending with the key "), "{}", yes.text);
    assert_ne!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_root_with_the_time_of_a_clock_that_nothing_bears_out_is_prepared_after_a_yes() {
    let stage = fleet();
    // A machine for ceremonies, which knows no other clock.
    stage.does("rm -r hq/online");
    let command = "lineside-hq --fleet hq keys root new-version --set-time";
    let path = stage.dir.path().join("hq/root/2.root.json.pending");
    let no = stage.at_terminal(command, "n");
    assert!(no.text.contains("no other clock is known") && !no.ended_well && !path.exists(), "{}", no.text);
    let yes = stage.at_terminal(command, "y");
    assert!(yes.ended_well && yes.text.contains("sites set the time that they remember to"), "{}", yes.text);
    assert!(path.exists());
}
