//! The amd64 image: units and root file system, from power-on to a phone's file. Minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::disk::{Disk, Updates};
use super::lan::{FILE, Lan, PROGRAMS, built, image};
use super::net::{can_run, text, wait_for};
use super::tpm::{self, Tpm};
use super::vm::{Board, Machine, Vm};

/// What an idle system may use of its memory, in MB.
const MEMORY: u32 = 110;
/// How a private key begins on a card that everybody can read, and how an encrypted one does (`src/update/at_rest.rs`).
const CLEAR_KEY: &str = "-BEGIN PRIVATE KEY-";
const SEALED_KEY: &str = "LSREST1";

#[test]
#[ignore = "takes minutes and needs an image: tests/run"]
fn amd64_becomes_a_site_by_a_token_file_and_serves_beside_a_home_router() {
    if !can_run("amd64_becomes_a_site", PROGRAMS) {
        return;
    }
    let image = image("amd64");
    let lan = Lan::new();
    let disk = Disk::of(&image.join("disk.img"), &lan.net.dir());
    disk.put(&lan.token(), "lineside-token.toml");
    // A system that is lower than what runs, signed as it must be.
    let updates = Updates::new(&lan.net.dir().join("updates.img"));
    updates.put(&lower_bundle(&lan.net.dir()), &format!("after-{}.raucb", built(env!("CARGO_PKG_VERSION"))));
    let offered = std::cell::Cell::new(None);
    let machine = |command_line| Machine {
        board: Board::Pc,
        disk: &disk,
        switch: &lan.switch,
        image: &image,
        command_line,
        updates: offered.get(),
        forgetful: false,
        tpm: None,
    };

    // Power on.
    let mut vm = Vm::start(&machine(""));
    lan.publish_once_enrolled(Duration::from_secs(300), || vm.tail());
    println!("enrolled after {:.0?}", vm.started.elapsed());
    let lease = lan.lease_with_us(Duration::from_secs(300), || vm.tail());
    println!("{:.0?}: {lease:?}", vm.started.elapsed());
    assert_eq!(lease.from, "192.168.77.1", "the router leases");
    assert_eq!(lease.tftp, lease.option_150());
    lan.take(&lease);
    let got = wait_for(Duration::from_secs(300), || lan.fetch(&lease.tftp));
    assert_eq!(got.unwrap_or_else(|| panic!("no {FILE}:\n{}", vm.tail())), lan.expected());
    println!("served after {:.0?}", vm.started.elapsed());
    vm.probes("good", Duration::from_secs(400), |good| good == "true");
    assert_eq!(vm.probe("slot").as_deref(), Some("A"));
    let failed = vm.probes("failed", Duration::from_secs(120), |_| true);
    assert_eq!(failed, "units", "units that failed");
    assert!(!vm.serial().contains("login:"), "somebody could log in");
    let data = vm.probes("data-mb", Duration::from_secs(120), |_| true);
    assert!(data.parse::<u32>().unwrap() > 1000, "the data partition has {data} MB of a card of 2 GB");
    assert_eq!(vm.probe("watchdog").as_deref(), Some("15s"));
    only_the_three_ports_answer(&lan, &lease.tftp);
    lan.hears("on the card as files of mode 0600", Duration::from_secs(120), || vm.tail());
    // After the start, and what the start needed, are over.
    let used = vm.probes("used-mb", Duration::from_secs(200), |used| used.parse::<u32>().unwrap() <= MEMORY);
    println!("memory in use: {used} MB, at most {MEMORY} allowed");
    vm.cut_power();

    // The token is used up, and the slot has its boots; both copies of the state say so.
    assert!(disk.read("lineside-token.toml").is_none(), "the token file is still on the card");
    assert_eq!(disk.read("slots.env").unwrap(), disk.read("slots.bak").unwrap());
    assert!(disk.data_has(CLEAR_KEY), "without a TPM the keys are plain files");

    // How long serving takes, against the same image that does nothing else. The site's state is kept.
    let bare = "systemd.mask=lineside.service systemd.mask=lineside-enroll.service systemd.mask=lineside-tftp.socket \
        systemd.mask=lineside-dhcp.socket systemd.mask=lineside-dhcp-client.socket systemd.mask=lineside-os-health.service";
    let mut vm = Vm::start(&machine(bare));
    vm.says("probe: multi-user", Duration::from_secs(300));
    let to_multi_user: f64 = vm.probe("multi-user").unwrap().parse().unwrap();
    let bare = vm.started.elapsed();
    vm.cut_power();
    offered.set(Some(updates.path.as_path()));
    let mut vm = Vm::start(&machine(""));
    wait_for(Duration::from_secs(300), || lan.fetch(&lease.tftp))
        .unwrap_or_else(|| panic!("it does not serve after a power cut:\n{}", vm.tail()));
    let serving = vm.started.elapsed();
    println!(
        "power on to the first file {serving:.1?}; bare boot to multi-user {bare:.1?} (kernel: {to_multi_user} s); ratio {:.2}",
        serving.as_secs_f64() / bare.as_secs_f64()
    );
    vm.probes("good", Duration::from_secs(400), |good| good == "true");
    let outcome = vm.probes("outcome", Duration::from_secs(200), |outcome| !outcome.is_empty());
    assert!(outcome.starts_with("refused: ") && outcome.contains("0.0.1"), "RAUC takes what is lower: {outcome}");
    println!("a lower system is {outcome}");
    assert_eq!(vm.probe("slot").as_deref(), Some("A"));
    assert_eq!(vm.probe("version"), Some(built(env!("CARGO_PKG_VERSION"))), "the image says whose keys sign it");
}

/// Version 0.0.1 of the system, such as RAUC has it, with nothing in it.
fn lower_bundle(dir: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let keys = Command::new(root.join("image/bundle/dev-keys")).output().unwrap();
    let keys = PathBuf::from(String::from_utf8(keys.stdout).unwrap().trim());
    let conf = fs::read_to_string(root.join("image/rootfs/etc/rauc/system.conf")).unwrap();
    let conf: Vec<String> = conf
        .lines()
        .filter(|line| !line.starts_with("min-bundle-version="))
        .map(|line| line.replace("@ARCH@", "amd64"))
        .collect();
    fs::write(dir.join("system.conf"), conf.join("\n") + "\n").unwrap();
    let content = dir.join("lower");
    fs::create_dir(&content).unwrap();
    // What does not compress: RAUC makes no bundle of less than a page.
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    fs::write(content.join("rootfs.ext4"), bytes).unwrap();
    let manifest = "[update]\ncompatible=lineside-amd64\nversion=0.0.1\n\n[bundle]\nformat=verity\n\n\
        [image.rootfs]\nfilename=rootfs.ext4\n";
    fs::write(content.join("manifest.raucm"), manifest).unwrap();
    let bundle = dir.join("lower.raucb");
    let arg = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
    let made = Command::new("rauc")
        .args([arg("conf", dir.join("system.conf")), arg("cert", keys.join("cert.pem"))])
        .args([arg("key", keys.join("key.pem")), arg("keyring", keys.join("ca.pem")), "bundle".to_owned()])
        .args([&content, &bundle])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made));
    bundle
}

#[test]
#[ignore = "takes minutes and needs an image: tests/run"]
fn amd64_with_a_tpm_keeps_its_keys_for_that_board() {
    if !can_run("amd64_with_a_tpm", &[PROGRAMS, tpm::PROGRAMS].concat()) {
        return;
    }
    let image = image("amd64");
    let lan = Lan::new();
    let disk = Disk::of(&image.join("disk.img"), &lan.net.dir());
    disk.put(&lan.token(), "lineside-token.toml");
    let (own, other) = (Tpm::of_machine(&lan.net.dir().join("own")), Tpm::of_machine(&lan.net.dir().join("other")));
    let power_on = |tpm| {
        Vm::start(&Machine {
            board: Board::Pc,
            disk: &disk,
            switch: &lan.switch,
            image: &image,
            command_line: "",
            updates: None,
            forgetful: false,
            tpm: Some(tpm),
        })
    };
    let vm = power_on(&own);
    lan.publish_once_enrolled(Duration::from_secs(300), || vm.tail());
    let lease = lan.lease_with_us(Duration::from_secs(300), || vm.tail());
    lan.take(&lease);
    let serves = |vm: &Vm| {
        let got = wait_for(Duration::from_secs(300), || lan.fetch(&lease.tftp));
        assert_eq!(got.unwrap_or_else(|| panic!("no {FILE}:\n{}", vm.tail())), lan.expected());
    };
    serves(&vm);
    lan.hears("on the card encrypted, for this board's TPM alone", Duration::from_secs(120), || vm.tail());
    vm.cut_power();
    assert!(disk.data_has(SEALED_KEY), "no key on the card is encrypted");
    assert!(!disk.data_has(CLEAR_KEY), "a key lies on the card in clear");

    let vm = power_on(&own);
    serves(&vm);
    vm.cut_power();

    // The card in another board.
    let mut vm = power_on(&other);
    vm.says("probe: multi-user", Duration::from_secs(300));
    let served = wait_for(Duration::from_secs(20), || lan.fetch(&lease.tftp));
    assert!(served.is_none(), "another board serves as this site:\n{}", vm.tail());
    vm.cut_power();
    // Which changes nothing on the card.
    let vm = power_on(&own);
    serves(&vm);
}

/// A scan of all TCP ports and those of UDP that systems tend to have.
fn only_the_three_ports_answer(lan: &Lan, address: &str) {
    let began = Instant::now();
    let tcp = lan
        .phone
        .try_sh(&format!("nmap -n -Pn -sS -p- --min-rate 6000 --max-retries 1 -T5 --host-timeout 90s -oG - {address}"));
    let tcp = text(&tcp);
    assert!(tcp.contains("Ports: 6970/closed/tcp"), "TCP 6970 must be refused at once:\n{tcp}");
    assert!(!tcp.contains("/open/"), "a TCP port is open:\n{tcp}");
    assert_eq!(tcp.matches("/closed/").count(), 1, "more than 6970 answers:\n{tcp}");
    let udp = lan.phone.try_sh(&format!(
        "nmap -n -Pn -sU -p 7,53,67,68,69,111,123,137,138,161,500,514,546,547,631,1900,5353,5355,6970 --max-retries 1 -T5 -oG - {address}"
    ));
    let udp = text(&udp);
    let answering: Vec<&str> = udp
        .split(['\t', ','])
        .filter(|port| port.contains("/open/") || port.contains("/closed/"))
        .map(|port| port.trim().trim_start_matches("Ports: "))
        .collect();
    assert!(answering.iter().all(|port| ["67/", "68/", "69/"].iter().any(|ours| port.starts_with(ours))), "{udp}");
    println!("port scan in {:.0?}: TCP 6970 refused, nothing else; UDP {answering:?}", began.elapsed());
}
