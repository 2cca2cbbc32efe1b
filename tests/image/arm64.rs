//! The arm64 image with its boot loader: updates, fall-back, power cuts, and a Raspberry Pi 3B. Slow without KVM.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::boot::environment_is_an_appliances;
use super::disk::{Disk, Updates};
use super::lan::{Lan, Lease, PROGRAMS, built, image};
use super::net::{can_run, wait_for};
use super::vm::{Board, Machine, Vm};

/// A machine that is emulated instruction by instruction takes its time.
const START: Duration = Duration::from_secs(400);
/// A boot that does not become healthy is given up after this many seconds, not 180, so that three of them are a test.
const IMPATIENT: &str = "systemd.setenv=LINESIDE_SECONDS=40";

fn can_boot(test: &str) -> bool {
    let there = can_run(test, PROGRAMS) && can_run(test, &["qemu-system-aarch64", "mkfs.vfat"]);
    assert!(!there || Path::new("/usr/lib/u-boot/qemu_arm64/u-boot.bin").exists(), "u-boot-qemu is not installed");
    there
}

/// A site on an arm64 machine.
struct Site {
    lan: Lan,
    disk: Disk,
    image: PathBuf,
    /// Whether its card loses what was not flushed when the power goes.
    forgetful: bool,
}

impl Site {
    fn new() -> Self {
        let image = image("arm64");
        let lan = Lan::new();
        let disk = Disk::of(&image.join("disk.img"), &lan.net.dir());
        disk.put(&lan.token(), "lineside-token.toml");
        Self { lan, disk, image, forgetful: false }
    }

    fn power_on(&self, updates: Option<&Path>) -> Vm {
        Vm::start(&Machine {
            board: Board::Virt,
            disk: &self.disk,
            switch: &self.lan.switch,
            image: &self.image,
            command_line: IMPATIENT,
            updates,
            forgetful: self.forgetful,
            tpm: None,
        })
    }

    /// From power-on with the token file to a phone with its file.
    fn enrols(&self, vm: &mut Vm) -> Lease {
        self.lan.publish_once_enrolled(START, || vm.tail());
        let lease = self.lan.lease_with_us(START, || vm.tail());
        self.lan.take(&lease);
        self.serves(&lease, vm);
        lease
    }

    fn serves(&self, lease: &Lease, vm: &Vm) {
        let got = wait_for(START, || self.lan.fetch(&lease.tftp));
        assert_eq!(got.unwrap_or_else(|| panic!("it does not serve:\n{}", vm.tail())), self.lan.expected());
    }

    /// A disk with updates: the second is to be installed once the version that the first names runs and is good.
    fn updates(&self, bundles: &[(&str, &str)], again: bool) -> PathBuf {
        let updates = Updates::new(&self.lan.net.dir().join("updates.img"));
        for (after, dir) in bundles {
            updates.put(&image(dir).join("update.raucb"), &format!("after-{after}.raucb"));
        }
        if again {
            updates.put(Path::new("/dev/null"), "again");
        }
        updates.path
    }
}

#[test]
#[ignore = "takes many minutes and needs images: tests/image/run full"]
fn arm64_updates_into_the_other_slot_and_a_broken_update_falls_back() {
    if !can_boot("arm64_updates") {
        return;
    }
    let site = Site::new();
    let mut vm = site.power_on(None);
    let lease = site.enrols(&mut vm);
    println!("version 1 serves after {:.0?}", vm.started.elapsed());
    vm.probes("good", START, |good| good == "true");
    let first = vm.probes("machine-id", START, |id| id.len() == 32);

    site.lan.offers("arm64-2");
    vm.probes("version", START * 2, |version| version == built("2"));
    vm.probes("good", START, |good| good == "true");
    println!("version 2 is good after {:.0?}", vm.started.elapsed());
    vm.probes("outcome", START, |outcome| outcome == "installed");
    assert_eq!(vm.probe("slot").as_deref(), Some("B"));
    assert_eq!(vm.probe("tried_version").as_deref(), Some(&*built("2")));
    assert_eq!(vm.probes("machine-id", START, |_| true), first, "the machine is the same");
    site.serves(&lease, &vm);
    site.lan.hears(&format!("{} in slot B", built("2")), START, || vm.tail());

    site.lan.offers("arm64-broken");
    vm.probes("version", START * 2, |version| version == built("3"));
    println!("version 3, which is broken, starts after {:.0?}", vm.started.elapsed());
    vm.probes("version", START * 3, |version| version == built("2"));
    vm.probes("good", START, |good| good == "true");
    println!("version 2 is back after {:.0?}", vm.started.elapsed());
    let outcome = vm.probe("outcome").unwrap();
    assert!(outcome.starts_with(&format!("fell back: {} was not healthy", built("3"))), "{outcome}");
    assert_eq!(vm.probe("tried_version").as_deref(), Some(&*built("3")));
    assert_eq!(vm.serial().matches("slot A, left: A 0,").count(), 1, "three boots were tried");
    assert_eq!(vm.probes("machine-id", START, |_| true), first);
    site.serves(&lease, &vm);
    site.lan.hears(&format!("fell back: {} was not healthy", built("3")), START, || vm.tail());
    println!("HQ hears why; memory in use: {} MB", vm.probe("used-mb").unwrap());
}

#[test]
#[ignore = "takes many minutes and needs images: tests/image/run full"]
fn arm64_serves_again_after_power_cuts_at_any_moment() {
    if !can_boot("arm64_power_cuts") || !can_run("arm64_power_cuts", &["nbdkit"]) {
        return;
    }
    let cuts: u32 = std::env::var("LINESIDE_CUTS").map_or(20, |cuts| cuts.parse().unwrap());
    let seed = std::env::var("LINESIDE_SEED").map_or_else(|_| std::process::id(), |seed| seed.parse().unwrap());
    println!("{cuts} cuts, LINESIDE_SEED={seed}");
    let mut state = u64::from(seed) + 1;
    // An xorshift is random enough.
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let site = Site { forgetful: true, ..Site::new() };
    // It always has an update to install, to and fro.
    let updates = site.updates(&[(&built("1"), "arm64-2"), (&built("2"), "arm64")], true);
    let mut vm = site.power_on(Some(&updates));
    let lease = site.enrols(&mut vm);
    for cut in 1..=cuts {
        // One in three while it starts, the others after it served, when it is busy with the update.
        let during_start = cut % 3 == 0;
        if during_start {
            vm.cut_power();
            vm = site.power_on(Some(&updates));
        }
        // An update is handed over some 20 seconds after the first file, and takes half a minute.
        let after = Duration::from_millis(random(if during_start { 60_000 } else { 90_000 }));
        std::thread::sleep(after);
        let doing = format!("version {:?}, installing {:?}", vm.probe("version"), vm.probe("installing"));
        vm.cut_power();
        vm = site.power_on(Some(&updates));
        site.serves(&lease, &vm);
        println!(
            "cut {cut} ({}, {after:.1?}): {doing}; serves {:.0?} later",
            if during_start { "starting" } else { "serving" },
            vm.started.elapsed()
        );
    }
    vm.probes("good", START, |good| good == "true");
}

#[test]
#[ignore = "takes many minutes and needs images: tests/image/run full"]
fn arm64_survives_a_torn_slot_state_and_forgets_by_a_file() {
    if !can_boot("arm64_torn_slot_state") {
        return;
    }
    let site = Site::new();
    let mut vm = site.power_on(None);
    site.enrols(&mut vm);
    vm.probes("good", START, |good| good == "true");
    let first = vm.probes("machine-id", START, |id| id.len() == 32);
    vm.cut_power();

    // Half of the first copy is of another time.
    let mut torn = site.disk.read("slots.env").unwrap();
    torn[40..].fill(0xa5);
    site.disk.write("slots.env", &torn);
    site.disk.write("factory-reset", b"");
    let mut vm = site.power_on(None);
    vm.probes("good", START, |good| good == "true");
    assert_eq!(vm.probe("machine-id"), Some(first), "the second copy knew it");
    let answer = site.lan.lease();
    assert!(!answer.unwrap_or_default().contains("opt150="), "it still serves as the site that it was");
    vm.cut_power();
    assert!(site.disk.read("factory-reset").is_none(), "the file would reset it at every start");
    assert_eq!(site.disk.read("slots.env"), site.disk.read("slots.bak"), "both copies are whole again");

    // It can become a site again.
    site.disk.put(&site.lan.token(), "lineside-token.toml");
    let vm = site.power_on(None);
    let serves = || site.lan.serve.as_ref().unwrap().log().matches("appliance enrolled").count() == 2;
    wait_for(START, || serves().then_some(())).unwrap_or_else(|| panic!("not enrolled again:\n{}", vm.tail()));
}

#[test]
#[ignore = "takes many minutes and needs images: tests/image/run full"]
fn arm64_starts_on_a_raspberry_pi_3b() {
    if !can_boot("arm64_raspberry_pi_3b") {
        return;
    }
    let site = Site::new();
    let mut vm = Vm::start(&Machine {
        board: Board::Pi3,
        disk: &site.disk,
        switch: &site.lan.switch,
        image: &site.image,
        command_line: "",
        updates: None,
        forgetful: false,
        tpm: None,
    });
    vm.says("Starting kernel", START);
    println!("kernel after {:.0?}", vm.started.elapsed());
    vm.says("Finished lineside-os-good.service", START * 2);
    println!("marked good after {:.0?}", vm.started.elapsed());
    vm.cut_power();
    assert_eq!(site.disk.read("slots.env"), site.disk.read("slots.bak"));
}

#[test]
#[ignore = "needs an image: tests/image/run full"]
fn arm64_has_a_boot_loader_with_an_appliances_environment() {
    if !can_boot("arm64_boot_loader") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::of(&image("arm64").join("disk.img"), dir.path());
    let u_boot = dir.path().join("u-boot.bin");
    std::fs::write(&u_boot, disk.read("u-boot.bin").unwrap()).unwrap();
    environment_is_an_appliances(&u_boot).unwrap();
    // Nobody else's environment takes its place.
    assert!(disk.read("uboot.env").is_none());
}
