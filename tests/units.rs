//! The systemd units: what they promise about exposure, that systemd understands them, and that the appliance runs on
//! sockets from systemd without any capability.

#![allow(unreachable_pub, clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

#[allow(dead_code, reason = "the tests with other programs use more of it")]
#[path = "clients/net.rs"]
mod net;
#[allow(dead_code, reason = "the image's tests use more of it")]
#[path = "clients/tpm.rs"]
mod tpm;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use net::{Net, can_run_as, text, wait_for};
use tpm::Tpm;

/// The highest exposure that `systemd-analyze security` may print, in tenths. What is left to the daemon: the network,
/// Unix sockets, and netlink for the neighbour table; with [`DHCP`] a real-time priority.
const EXPOSURE: &[(&str, u32)] = &[
    ("lineside.service", 11),
    ("lineside-enroll.service", 11),
    ("lineside-hq.service", 11),
    ("lineside-hq-backup.service", 11),
    ("lineside-wipe-token.service", 11),
    ("lineside-led@.service", 13),
    ("lineside-seal.service", 14),
    ("lineside-firewall.service", 17),
];
/// Those that only the image has: one has to tell the kernel of a partition's end, one talks with udev, one asks for
/// addresses.
const IMAGE_EXPOSURE: &[(&str, u32)] = &[
    ("lineside-os-good.service", 11),
    ("lineside-os-grow.service", 16),
    ("lineside-os-health.service", 13),
    ("lineside-os-install.service", 13),
    ("lineside-os-online.service", 16),
    ("lineside-os-reset.service", 20),
    ("lineside-os-state.service", 11),
    ("lineside-os-var.service", 11),
];
/// What all of those have in common.
const IMAGE_SANDBOX: &str = "lineside-os-.service.d/sandbox.conf";
/// What DHCP adds to `lineside.service`.
const DHCP: &str = "lineside.service.d/dhcp.conf";
/// The exposure with it.
const WITH_DHCP: u32 = 13;

/// Keys that are newer than the oldest systemd we run on (252), which says so and goes on without.
const NEWER_KEYS: &[&str] = &["RestartSteps", "RestartMaxDelaySec", "ImportCredential"];

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn image_units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("image/rootfs/usr/lib/systemd/system")
}

#[test]
fn no_unit_is_more_exposed_than_it_promises() {
    if !can_run_as("no_unit_is_more_exposed_than_it_promises", &["systemd-analyze"], false) {
        return;
    }
    let exposed = |unit: &Path, most: u32| {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(unit)
            .output()
            .unwrap();
        let text = text(&output);
        let overall =
            text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{text}"));
        println!("{overall}");
        let level: f64 = overall.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        assert!(level * 10.0 < f64::from(most) + 0.5, "{} is over {most} tenths:\n{text}", unit.display());
    };
    // Each alone: systemd reads what lies beside a unit too.
    for (from, gates, shared) in
        [(units(), EXPOSURE, None), (image_units(), IMAGE_EXPOSURE, Some(image_units().join(IMAGE_SANDBOX)))]
    {
        for (unit, most) in gates {
            let alone = tempfile::tempdir().unwrap();
            fs::copy(from.join(unit), alone.path().join(unit)).unwrap();
            if let Some(shared) = &shared {
                let beside = alone.path().join(IMAGE_SANDBOX);
                fs::create_dir_all(beside.parent().unwrap()).unwrap();
                fs::copy(shared, beside).unwrap();
            }
            exposed(&alone.path().join(unit), *most);
        }
        for entry in fs::read_dir(&from).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let gated = gates.iter().any(|(unit, _)| *unit == name);
            assert!(!name.ends_with(".service") || gated, "{name} is not gated");
        }
    }
    exposed(&units().join("lineside.service"), WITH_DHCP);
}

#[test]
fn systemd_understands_every_unit() {
    if !can_run_as("systemd_understands_every_unit", &["systemd-analyze"], false) {
        return;
    }
    // A root of its own: the programs are where the package puts them, and the system's own units stand beside ours.
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    let system = at("usr/lib/systemd/system");
    for dir in ["usr/bin", "usr/sbin", "usr/lib/lineside", "usr/lib/systemd", "etc"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    for dir in ["bin", "sbin", "lib"] {
        std::os::unix::fs::symlink(Path::new("usr").join(dir), at(dir)).unwrap();
    }
    let copied = Command::new("cp").args(["-r", "/usr/lib/systemd/system"]).arg(&system).status().unwrap();
    assert!(copied.success());
    for program in [
        "usr/bin/lineside",
        "usr/bin/lineside-hq",
        "usr/lib/lineside/led",
        "usr/lib/lineside/seal",
        "usr/lib/lineside/firewall",
        "usr/sbin/nft",
        "usr/bin/shred",
        "usr/bin/sh",
    ] {
        fs::write(at(program), "#!/bin/sh\n").unwrap();
        fs::set_permissions(at(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(units()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if [".service", ".socket", ".path"].iter().any(|suffix| name.ends_with(suffix)) {
            fs::copy(entry.path(), system.join(&name)).unwrap();
            names.push(name.replace("@.", "@fault."));
        }
    }
    fs::create_dir_all(system.join("lineside.service.d")).unwrap();
    fs::copy(units().join(DHCP), system.join(DHCP)).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no", &format!("--root={}", root.path().display())])
        .args(&names)
        .output()
        .unwrap();
    let text = text(&output);
    let complaints: Vec<&str> =
        text.lines().filter(|line| !NEWER_KEYS.iter().any(|key| line.contains(&format!("'{key}'")))).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert!(names.len() > 8, "{names:?}");
}

#[test]
fn the_key_to_the_keys_on_the_card_is_this_boards_alone() {
    let test = "the_key_to_the_keys_on_the_card_is_this_boards_alone";
    if !can_run_as(test, &[tpm::PROGRAMS, &["systemd-creds"]].concat(), false) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (kept, handed) = (dir.path().join("kept"), dir.path().join("handed"));
    let tpm = Tpm::new(&dir.path().join("tpm"));
    let seal = |tpm: &Tpm| {
        let mut command = Command::new(units().join("seal"));
        command.env("LINESIDE_SEAL", &kept).env("LINESIDE_CREDSTORE", &handed).env("LINESIDE_TPM", tpm.device());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        fs::read(handed.join("lineside.identity")).unwrap()
    };
    let unseal = |tpm: &Tpm| {
        let mut command = Command::new("systemd-creds");
        command.args(["decrypt", "--name=lineside.identity", &format!("--tpm2-device={}", tpm.device())]);
        command.arg(handed.join("lineside.identity")).arg("-").output().unwrap()
    };
    let first = seal(&tpm);
    let key = unseal(&tpm);
    assert!(key.status.success() && key.stdout.len() == 32, "{}", text(&key));
    assert!(!first.windows(8).any(|window| key.stdout.starts_with(window)), "the key is in the file");
    // At the next start it is the same one.
    fs::remove_file(handed.join("lineside.identity")).unwrap();
    assert_eq!(seal(&tpm), first);
    assert_eq!(unseal(&tpm).stdout, key.stdout);
    let mode = fs::metadata(kept.join("lineside.identity")).unwrap().mode() & 0o7777;
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    // The card in another board.
    let other = Tpm::new(&dir.path().join("other"));
    let refused = unseal(&other);
    assert!(!refused.status.success() && refused.stdout.is_empty(), "another board has the key");
}

#[test]
fn every_blink_code_is_shown_and_documented() {
    let guide = fs::read_to_string(units().parent().unwrap().join("image/README.md")).unwrap();
    let leds = tempfile::tempdir().unwrap();
    let act = leds.path().join("ACT");
    fs::create_dir(&act).unwrap();
    for (code, on, off, told) in [
        ("enrolling", "500", "500", "even and slow, half a second on and off"),
        ("serving", "2900", "100", "on, with a short wink every three seconds"),
        ("stale", "100", "1900", "off, with a short flash every two seconds"),
        ("fault", "50", "50", "fast, ten flashes a second"),
    ] {
        fs::write(act.join("trigger"), "mmc0").unwrap();
        let status = Command::new(units().join("led")).arg(code).env("LINESIDE_LEDS", leds.path()).status().unwrap();
        assert!(status.success(), "{code}");
        let read = |file: &str| fs::read_to_string(act.join(file)).unwrap().trim().to_owned();
        assert_eq!((read("trigger"), read("delay_on"), read("delay_off")), ("timer".into(), on.into(), off.into()));
        let row = format!("| {told} | ");
        assert!(guide.lines().any(|line| line.starts_with(&row)), "{code} is not documented as `{told}`");
    }
}

#[test]
fn the_appliance_runs_on_sockets_from_systemd_without_any_capability() {
    let test = "the_appliance_runs_on_sockets_from_systemd_without_any_capability";
    if !can_run_as(test, &["ip", "python3", "setpriv", "curl"], true) {
        return;
    }
    let mut net = Net::new();
    let (appliance, phone) = (net.host("box"), net.host("phone"));
    net.cable((&appliance, "lan0"), (&phone, "eth0"));
    appliance.sh("ip addr add 192.168.77.1/24 dev lan0");
    phone.sh("ip addr add 192.168.77.2/24 dev eth0");
    let dir = net.dir();
    let state = dir.join("state");
    fs::create_dir(&state).unwrap();
    for path in [&dir, &state] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let program = dir.join("lineside");
    fs::copy(env!("CARGO_BIN_EXE_lineside"), &program).unwrap();
    let config = dir.join("lineside.toml");
    fs::write(
        &config,
        format!(
            "[lan]\ninterface = \"lan0\"\n[storage]\nstate = \"{}\"\n[status]\nsocket = \"{}\"\n",
            state.display(),
            dir.join("status.sock").display()
        ),
    )
    .unwrap();
    let (notify, program, config) =
        (dir.join("notify").display().to_string(), program.display().to_string(), config.display().to_string());
    let words = [
        &["python3", "-c", AS_SYSTEMD, &notify, &program, "setpriv", "--reuid=65534", "--regid=65534"][..],
        &["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"],
        &[&program, "--config", &config, "run"],
    ]
    .concat();
    let running = appliance.start(&words, &dir.join("log"));
    // The first request wakes it and may be lost: it came before the LAN was known.
    wait_for(Duration::from_secs(30), || {
        let output = phone.try_sh("curl -s -m 3 --tftp-no-options tftp://192.168.77.1/nothing.cfg");
        // 68: "File not found on server", an answer.
        (output.status.code() == Some(68)).then_some(())
    })
    .unwrap_or_else(|| panic!("no answer; it said:\n{}", running.log()));
    let status = fs::read_to_string(format!("/proc/{}/status", running.id())).unwrap();
    let capabilities = status.lines().find(|line| line.starts_with("CapEff:")).unwrap();
    assert!(capabilities.ends_with("\t0000000000000000"), "{capabilities}");
    assert!(running.log().contains("DHCP is up"), "{}", running.log());
    for complaint in ["no raw socket", "conflicts of addresses cannot be seen", "cannot be looked for", "is closed"] {
        assert!(!running.log().contains(complaint), "{}", running.log());
    }
    // RFC 1123 §4.2.3.1. The socket is systemd's, which bound it to no address.
    let asked = phone.command(&["python3", "-c", ASK_EVERYBODY]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&asked.stdout), "192.168.77.255: silence\n192.168.77.1: answer\n", "{asked:?}");
    // The thread of `augment` is there, on a socket that sees frames.
    let has_line = fs::read_dir(format!("/proc/{}/task", running.id())).unwrap().any(|task| {
        fs::read_to_string(task.unwrap().path().join("comm")).is_ok_and(|name| name.starts_with("dhcp-fast"))
    });
    assert!(has_line, "{}", running.log());
}

/// What systemd does with the units: takes what `lineside open-packet-sockets` hands over, opens the ports, and becomes
/// the command with all of them.
const AS_SYSTEMD: &str = r#"
import os, socket, subprocess, sys
path, program, command = sys.argv[1], sys.argv[2], sys.argv[3:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
notify.settimeout(10)
opener = subprocess.Popen([program, "open-packet-sockets"], env={"NOTIFY_SOCKET": path})
sockets = {}
while True:
    message, fds, _, _ = socket.recv_fds(notify, 4096, 8)
    said = dict(line.split("=", 1) for line in message.decode().split())
    if "FDSTORE" in said:
        sockets[said["FDNAME"]] = fds
    if "BARRIER" in said:
        assert opener.poll() is None, "it did not wait"
        os.close(fds[0])
        break
assert opener.wait(10) == 0
assert {name: len(fds) for name, fds in sockets.items()} == {
    "packet-arp": 2, "packet-beside": 1, "packet-dhcp": 4, "packet-send": 1, "packet-tftp": 1,
    "packet-tagged": 1, "packet-tftp-arp": 1,
}
sockets = [(name, fd) for name, fds in sockets.items() for fd in fds]
keep = []
for name, port in ("tftp", 69), ("dhcp", 67), ("dhcp-client", 68):
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    listener.bind(("0.0.0.0", port))
    keep.append(listener)
    sockets.append((name, listener.fileno()))
# High first: a number that is dealt out must not be one that is still to be dealt.
high = [os.dup2(fd, 100 + i) for i, (_, fd) in enumerate(sockets)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(high)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=":".join(name for name, _ in sockets))
os.execvp(command[0], command)
"#;

/// Asks for a file by broadcast and then from the appliance itself.
const ASK_EVERYBODY: &str = r#"
import socket
for server in "192.168.77.255", "192.168.77.1":
    phone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    phone.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    phone.settimeout(3)
    phone.sendto(b"\0\1nothing.cfg\0octet\0", (server, 69))
    try:
        phone.recv(600)
        print(f"{server}: answer")
    except TimeoutError:
        print(f"{server}: silence")
"#;
