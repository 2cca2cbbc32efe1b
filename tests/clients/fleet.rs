//! HQ's directory of a fleet with one site, as `lineside-hq init` makes it, and `lineside-hq` at work on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::net::{Host, Running, text, wait_for};

/// Where HQ serves.
pub const HQ: &str = "10.99.0.1";
/// Phones that the sample inventory has at the sample site: an address for a line of each of these models.
pub const CISCO: &str = "00:1b:54:00:00:01";
pub const POLYCOM: &str = "00:04:f2:00:00:02";
pub const CISCO_FILE: &str = "SEP001B54000001.cnf.xml";
pub const POLYCOM_FILE: &str = "0004f2000002.cfg";

pub fn hq_program() -> &'static str {
    env!("CARGO_BIN_EXE_lineside-hq")
}

/// A new fleet in this directory, with these of the two phones and no others.
pub fn init(fleet: &Path, phones: &[&str]) {
    let url = format!("https://{HQ}:8443");
    run(Command::new(hq_program()).arg("init").arg(fleet).args(["--name", "Test", "--url", &url]));
    let path = fleet.join("phones.csv");
    let sample = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = sample.lines().filter(|line| !line.starts_with('#')).collect();
    let mut inventory = format!("{}\n", lines.first().unwrap());
    for mac in phones {
        let model = if *mac == CISCO { "cisco-8941" } else { "polycom" };
        let line = lines.iter().find(|line| line.contains(model)).unwrap_or_else(|| panic!("no {model} in {sample}"));
        inventory += &format!("{mac},{}\n", line.split_once(',').unwrap().1);
    }
    fs::write(path, inventory).unwrap();
}

/// Runs `lineside-hq` on the fleet; it must succeed.
pub fn hq(fleet: &Path, words: &[&str]) -> String {
    run(Command::new(hq_program()).arg("--fleet").arg(fleet).args(words))
}

/// Starts `lineside-hq serve` on this host, through other programs if need be, and waits until it answers.
pub fn serve(fleet: &Path, host: &Host, through: &[String], log: &Path) -> Running {
    let listen = format!("{HQ}:8443");
    let mut words = vec![hq_program(), "--fleet", fleet.to_str().unwrap(), "serve", "--keys-here", "--listen", &listen];
    // What HQ is started through gives it another clock, which no other clock bears out.
    words.extend((!through.is_empty()).then_some("--clock-is-right"));
    let running = host.start(&after(through, &words), log);
    wait_for(Duration::from_secs(30), || {
        let probe = host.try_sh(&format!("curl -sk -m 2 -o /dev/null https://{HQ}:8443/v1/root"));
        probe.status.success().then_some(())
    })
    .unwrap_or_else(|| panic!("HQ does not serve:\n{}", running.log()));
    running
}

/// A token file for the sample site, beside the fleet.
pub fn token(fleet: &Path) -> PathBuf {
    let path = fleet.with_file_name("lineside-token.toml");
    let _ = fs::remove_file(&path);
    hq(fleet, &["site", "enroll", "sample-office", "--output", path.to_str().unwrap()]);
    path
}

/// What the phone must get under this name, as HQ shows it.
pub fn preview(fleet: &Path, mac: &str, name: &str) -> Vec<u8> {
    let output = Command::new(hq_program())
        .arg("--fleet")
        .arg(fleet)
        .args(["preview", "sample-office", mac, name])
        .output()
        .unwrap();
    assert!(output.status.success() && !output.stdout.is_empty(), "{}", text(&output));
    output.stdout
}

/// A command through others, which are named first.
pub fn after<'a>(first: &'a [String], words: &[&'a str]) -> Vec<&'a str> {
    first.iter().map(String::as_str).chain(words.iter().copied()).collect()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}:\n{}", text(&output));
    text(&output)
}
