//! HQ on two machines with a user each: the desk has the keys, the host serves. The commands are those of
//! `src/hq/README.md`, "Two machines".

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::fleet::hq_program;
use super::net::{Host, Net, Running, can_run, sh, text, wait_for};

/// HQ's host, as sites and the desk reach it.
const HOST: &str = "10.99.0.1";
/// Its name in the chapter.
const NAME: &str = "hq.example.net";
/// The user who serves.
const AS: &str = "setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=-all --bounding-set=-all";

/// The lines of the chapter: which machine, and what is typed there.
fn chapter() -> Vec<(String, String)> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/hq/README.md")).unwrap();
    let (_, chapter) = readme.split_once("\n## Two machines\n").expect("the chapter is there");
    let chapter = chapter.split("\n## ").next().unwrap();
    let (_, block) = chapter.split_once("\n```sh\n").expect("it has commands");
    let block = block.split("\n```").next().unwrap();
    block
        .lines()
        .filter_map(|line| line.split_once("$ "))
        .map(|(machine, line)| (machine.to_owned(), line.split("  #").next().unwrap().trim_end().to_owned()))
        .collect()
}

struct Stage {
    // In the order in which they have to end.
    appliance: Option<Running>,
    serve: Option<Running>,
    desk: Host,
    host: Host,
    site: Host,
    dir: PathBuf,
    _names: Vec<super::net::Hosts>,
    _net: Net,
}

impl Stage {
    fn new() -> Self {
        let mut net = Net::new();
        let (desk, host, site) = (net.host("desk"), net.host("host"), net.host("site"));
        net.cable((&host, "desk0"), (&desk, "eth0"));
        net.cable((&host, "wan0"), (&site, "wan0"));
        host.sh(&format!("ip addr add {HOST}/24 dev wan0 && ip addr add 10.98.0.1/24 dev desk0"));
        desk.sh(&format!("ip addr add 10.98.0.2/24 dev eth0 && ip route add {HOST}/32 via 10.98.0.1"));
        site.sh("ip addr add 10.99.0.2/24 dev wan0 && ip link add lan0 type veth peer name lan1 && ip link set lan0 up && ip link set lan1 up");
        site.sh("ip addr add 192.168.77.1/24 dev lan0");
        let names =
            [&desk, &host, &site].map(|machine| machine.hosts(&format!("127.0.0.1 localhost\n{HOST} {NAME}\n")));
        let dir = net.dir();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        for machine in ["desk", "host"] {
            fs::create_dir(dir.join(machine)).unwrap();
        }
        // A desk is its owner's alone; the host is its user's.
        fs::set_permissions(dir.join("desk"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::copy(hq_program(), dir.join("lineside-hq")).unwrap();
        sh(&format!("chown nobody:nogroup {}", dir.join("host").display()));
        Self { appliance: None, serve: None, desk, host, site, dir, _names: names.into(), _net: net }
    }

    /// A line of the chapter, on this stage: other paths, `cp` for `scp`, and no editor.
    fn line(&self, line: &str) -> String {
        let dir = self.dir.display();
        line.replace(
            "scp -rp acme/online root@hq.example.net:/var/lib/lineside-hq/",
            &format!("cp -rp acme/online {dir}/host/"),
        )
        .replace("/var/lib/lineside-hq", &format!("{dir}/host"))
        .replace("~/", &format!("{dir}/desk/"))
    }

    fn at_desk(&self, folder: &str, line: &str) -> (bool, String) {
        let dir = self.dir.display();
        let line = format!("cd {dir}/desk/{folder} && export PATH={dir}:$PATH HOME={dir}/desk && {}", self.line(line));
        let output = self.desk.try_sh(&line);
        (output.status.success(), text(&output))
    }

    fn desk(&self, line: &str) -> String {
        let (done, said) = self.at_desk("acme", line);
        assert!(done, "`{line}`: {said}\nthe host:\n{}", self.serve.as_ref().map(Running::log).unwrap_or_default());
        said
    }

    fn host(&self, line: &str) -> String {
        self.host.sh(&format!("PATH={}:$PATH {AS} {}", self.dir.display(), self.line(line)))
    }

    /// Does what the chapter says, up to the login.
    fn set_up(&mut self) {
        let mut token = String::new();
        for (machine, line) in chapter() {
            let dir = self.dir.display().to_string();
            match machine.as_str() {
                "desk" if line.starts_with("lineside-hq init") || line.starts_with("scp") => {
                    let (done, said) = self.at_desk("", &line);
                    assert!(done, "`{line}`: {said}");
                }
                "host" if line.contains("chown") => {
                    drop(sh(&self.line(&line).replace("lineside-hq:", "nobody:nogroup")))
                }
                "host" if line.contains(" serve ") => {
                    let words = format!("export PATH={dir}:$PATH; exec {AS} {}", self.line(&line));
                    self.serve = Some(self.host.start(&["sh", "-c", &words], &self.dir.join("host.log")));
                    self.serve.as_ref().unwrap().says("operators are answered");
                    // Nothing of the operators' is on the sites' port.
                    let probe =
                        format!("curl -sk -m 5 -o /dev/null -w '%{{http_code}}' https://{NAME}:8443/api/v1/state");
                    assert_eq!(text(&self.site.try_sh(&probe)), "403");
                }
                "host" => token = self.host(&line),
                "desk" if line.contains(" login ") => {
                    fs::write(self.dir.join("desk/token"), &token).unwrap();
                    self.desk(&format!("{line} --token {dir}/desk/token"));
                    return;
                }
                _ => panic!("no such machine: {machine}"),
            }
        }
        panic!("the chapter has no login");
    }

    fn lineside(&self, words: &[&str]) -> (bool, String) {
        let config = self.dir.join("lineside.toml");
        let (state, socket) = (self.dir.join("state"), self.dir.join("status.sock"));
        let image = self.dir.join("image.toml");
        let settings = format!(
            "[lan]\ninterface = \"lan0\"\n[storage]\nstate = \"{}\"\n[update]\npoll-seconds = 60\n[status]\nsocket = \"{}\"\n\
             [image]\nstate = \"{}\"\n",
            state.display(),
            socket.display(),
            image.display()
        );
        fs::write(&config, settings).unwrap();
        let program = super::site::lineside_program();
        let words = [&[program, "--config", config.to_str().unwrap()], words].concat();
        let output = self.site.command(&words).output().unwrap();
        (output.status.success(), text(&output))
    }

    fn start_appliance(&mut self) {
        let config = self.dir.join("lineside.toml").display().to_string();
        let words = [super::site::lineside_program(), "--config", &config, "run"];
        self.appliance = Some(self.site.start(&words, &self.dir.join("appliance.log")));
    }

    /// Waits until the site says this of itself after a poll.
    fn polls_until(&self, what: &str) {
        let mut said = String::new();
        let heard = wait_for(Duration::from_secs(60), || {
            let _ = self.lineside(&["status", "--poll"]);
            said = self.lineside(&["status", "--json"]).1;
            said.replace(' ', "").contains(what).then_some(())
        });
        assert!(heard.is_some(), "never {what}: {said}\n{}", self.appliance.as_ref().unwrap().log());
    }

    /// Every regular file that the serving user can read, on this stage.
    fn readable(&self) -> Vec<PathBuf> {
        let found = sh(&format!("{AS} find {} -type f -readable 2>/dev/null || true", self.dir.display()));
        found.lines().map(PathBuf::from).collect()
    }
}

/// The secret of a key file, in hex, and what follows `key` in a token's.
fn secret_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap();
    line.split_whitespace().last().unwrap().to_owned()
}

#[test]
fn a_host_that_never_had_a_key_serves_what_the_desk_pushes() {
    if !can_run("two_machines", &["ip", "curl", "setpriv"]) {
        return;
    }
    let mut stage = Stage::new();
    stage.set_up();
    assert!(!stage.dir.join("desk/acme/online/online.key").exists(), "the desk has no online key");

    // From here on the chapter's other commands.
    let said = stage.desk("lineside-hq site enroll sample-office --output ~/lineside-token.toml");
    assert!(said.contains("good for one appliance"), "{said}");
    let token = stage.dir.join("desk/lineside-token.toml");
    let (done, said) = stage.lineside(&["enroll", token.to_str().unwrap()]);
    assert!(done, "{said}\n{}", stage.serve.as_ref().unwrap().log());
    let said = stage.desk("lineside-hq publish");
    assert!(said.contains("published   generation 1"), "{said}");
    stage.start_appliance();
    stage.polls_until("\"generation\":1");
    let seen = wait_for(Duration::from_secs(30), || {
        let fleet = stage.desk("lineside-hq fleet");
        (fleet.contains("sample-office") && fleet.contains(env!("CARGO_PKG_VERSION"))).then_some(())
    });
    assert!(seen.is_some(), "{}", stage.desk("lineside-hq fleet"));

    // What the serving user can read holds none of the fleet's keys; the desk's owner has them all.
    let keys = stage.dir.join("desk/acme/keys");
    let mut secrets: Vec<String> =
        ["release", "publisher", "secrets", "recovery", "root-1", "root-2", "root-3", "firmware-1"]
            .iter()
            .map(|name| secret_of(&keys.join(format!("{name}.key"))))
            .collect();
    secrets
        .push(fs::read_to_string(keys.join("host.toml")).unwrap().split("token = \"").nth(1).unwrap()[..68].to_owned());
    let readable = stage.readable();
    assert!(readable.iter().any(|path| path.ends_with("online/online.key")), "it reads its own: {readable:?}");
    for path in &readable {
        let bytes = fs::read(path).unwrap();
        for secret in &secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "the serving user reads a key of the desk in {}", path.display());
        }
    }

    // Nothing to publish is nothing to push; a change is one generation more.
    assert!(stage.desk("lineside-hq plan").contains("nothing to publish"));
    stage.desk("sed -i 's,</device>,<!-- second --></device>,' templates/cisco-8941/SEP.cnf.xml.j2");
    assert!(stage.desk("lineside-hq publish").contains("published   generation 2"));
    stage.polls_until("\"generation\":2");

    // The desk locks the site out, on the host.
    assert!(stage.desk("lineside-hq site revoke sample-office").contains("revoked sample-office: 1 certificate"));
    stage.polls_until("revoked");

    // Without its token the desk is a stranger.
    stage.host("lineside-hq api-token revoke desk --dir /var/lib/lineside-hq/online");
    let (done, said) = stage.at_desk("acme", "lineside-hq fleet");
    assert!(!done && said.contains("does not accept the API token"), "{said}");
    stage.desk("lineside-hq logout");
    assert!(!keys.join("host.toml").exists());
}

#[test]
fn a_new_host_does_not_serve_beside_keys_that_it_can_read_and_an_old_one_says_so() {
    if !can_run("keys_beside", &["curl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fleet = dir.path().join("acme");
    let run = |words: &[&str]| {
        let mut command = Command::new(hq_program());
        let output = command.arg("--fleet").arg(&fleet).args(words).output().unwrap();
        (output.status.success(), text(&output))
    };
    assert!(run(&["init", fleet.to_str().unwrap()]).0);
    let serve = |words: &[&str]| {
        let mut all = vec!["3", hq_program(), "--fleet", fleet.to_str().unwrap(), "serve", "--listen", "127.0.0.1:0"];
        all.extend_from_slice(words);
        text(&Command::new("timeout").args(all).output().unwrap())
    };
    let said = serve(&[]);
    assert!(said.contains("can read keys that are not its own") && said.contains("keys/release.key"), "{said}");
    assert!(said.contains("keys move DIR") && !said.contains("HQ is listening"), "{said}");
    let said = serve(&["--keys-here"]);
    assert!(said.contains("KEYS HERE") && said.contains("HQ is listening"), "{said}");
    // A set-up of a version before this one.
    let mark = fleet.join("online/keys-apart.toml");
    fs::rename(&mark, dir.path().join("mark")).unwrap();
    let said = serve(&[]);
    assert!(said.contains("The next version will not start so") && said.contains("HQ is listening"), "{said}");
    fs::rename(dir.path().join("mark"), &mark).unwrap();
    // And the way out of it.
    let away = dir.path().join("away/keys");
    assert!(run(&["keys", "move", away.to_str().unwrap()]).0);
    let said = serve(&[]);
    assert!(said.contains("HQ is listening") && !said.contains("KEYS HERE"), "{said}");
    let (done, said) = run(&["keys", "show"]);
    assert!(done, "{said}");
}
