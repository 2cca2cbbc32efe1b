//! HQ's work for many sites: from scratch, with nothing to do, and with one site changed.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lineside::hq::secrets;
use lineside::repository::layout::Layout;
use zeroize::Zeroizing;

use crate::Table;
use crate::content::Numbers;
use crate::world::{done, hq};

const PHONES: u64 = 10;

pub fn chapter(quick: bool, table: &mut Table) {
    let sites: u64 = if quick { 500 } else { 10_000 };
    let dir = tempfile::tempdir().unwrap();
    let fleet = dir.path().join("fleet");
    done(Command::new(hq()).arg("init").arg(&fleet).args(["--name", "Bench", "--url", "https://hq.example.net"]));
    make(&fleet, sites);

    println!("\nHQ with {sites} sites of {PHONES} phones, each with a password of its own in secrets.age");
    let share = sites as f64 / 10_000.0;
    let run = |words: &[&str]| timed(&fleet, words);
    let (check, peak, _) = run(&["check"]);
    table.row("check", check.as_secs_f64(), "s", None);
    table.row("  peak memory", peak, "MB", None);
    let (first, peak, said) = run(&["publish"]);
    println!("  {}", said.lines().last().unwrap_or_default());
    table.row("publish from scratch", first.as_secs_f64(), "s", Some(60.0 * share));
    table.row("  peak memory", peak, "MB", None);
    let (again, peak, said) = run(&["publish"]);
    assert!(said.contains(&format!("{sites} sites unchanged")), "{said}");
    table.row("publish with nothing to do", again.as_secs_f64(), "s", None);
    table.row("  peak memory", peak, "MB", None);
    let path = fleet.join("phones.csv");
    let csv = fs::read_to_string(&path).unwrap();
    fs::write(&path, csv.replacen(",Desk 3,", ",Corner,", 1)).unwrap();
    let (one, _, said) = run(&["publish"]);
    assert!(said.contains(&format!("{} sites unchanged", sites - 1)), "{said}");
    table.row("publish, one site changed", one.as_secs_f64(), "s", Some(1.0));
    let text = fs::read_to_string(&path).unwrap().replacen(",Desk 4,", ",Corner,", 1);
    fs::write(&path, text).unwrap();
    let (one, _, said) = run(&["publish", "site-00000"]);
    assert!(said.contains("generation 3"), "{said}");
    table.row("publish site-00000, changed", one.as_secs_f64(), "s", Some(1.0));
}

/// Sites, phones, passwords, and a sealing key for each site as if an appliance had enrolled.
fn make(fleet: &Path, sites: u64) {
    let layout = Layout::new(fleet);
    let mut numbers = Numbers::new(2);
    let mut csv = "mac,site,model,label,extension,display_name,auth_user,password\n".to_owned();
    let mut passwords = std::collections::BTreeMap::new();
    fs::remove_file(layout.sites().join("sample-office.toml")).unwrap();
    for number in 0..sites {
        let (name, id) = (format!("site-{number:05}"), format!("s-{:016x}", numbers.next()));
        fs::write(
            layout.sites().join(format!("{name}.toml")),
            format!("id = \"{id}\"\n[dhcp]\nmode = \"inform\"\n[variables]\nproxy = \"sip{number}.example.net\"\n"),
        )
        .unwrap();
        let key: Vec<u8> = (0..4).flat_map(|_| numbers.next().to_le_bytes()).collect();
        let token = data_encoding::HEXLOWER.encode(&numbers.next().to_le_bytes());
        fs::write(
            layout.enrolled().join(format!("{id}.toml")),
            format!(
                "site = \"{id}\"\n\n[[appliance]]\nrecipient = \"{}\"\ntoken = \"{token}\"\nenrolled = \"2026-01-01T00:00:00Z\"\n",
                data_encoding::HEXLOWER.encode(&key)
            ),
        )
        .unwrap();
        for phone in 0..PHONES {
            let index = number * PHONES + phone;
            let model = ["cisco-8941", "cisco-9971", "polycom"][(index % 3) as usize];
            let (mac, extension) = (crate::content::mac(index), 100 + phone);
            writeln!(csv, "{mac},{name},{model},Desk {phone},{extension},Desk {phone},u{index},secret:p{index}")
                .unwrap();
            passwords.insert(format!("p{index}"), Zeroizing::new(numbers.text(20)));
        }
    }
    fs::write(layout.phones_csv(), csv).unwrap();
    secrets::write(&layout, &passwords).unwrap();
}

/// Runs `lineside-hq`: how long it took, its peak memory in MB, and what it said.
fn timed(fleet: &Path, words: &[&str]) -> (Duration, f64, String) {
    // Everything that was written before is somebody else's.
    done(Command::new("sync").arg("-f").arg(fleet));
    let at = Instant::now();
    let child = Command::new(hq())
        .arg("--fleet")
        .arg(fleet)
        .args(words)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let id = child.id();
    let watch = std::thread::spawn(move || {
        let mut peak = 0.0f64;
        while let Ok(status) = fs::read_to_string(format!("/proc/{id}/status")) {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"));
            let Some(kilobytes) = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()) else {
                break;
            };
            peak = peak.max(kilobytes * 1024.0 / 1e6);
            std::thread::sleep(Duration::from_millis(20));
        }
        peak
    });
    let output = child.wait_with_output().unwrap();
    let taken = at.elapsed();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words:?}\n{out}\n{err}");
    (taken, watch.join().unwrap(), out.into_owned())
}
