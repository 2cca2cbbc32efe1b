//! The boot loader: U-Boot itself with the environment and the script of the image, on a card with slots that hold a
//! kernel of ten instructions. Seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::net::{can_run, text};

const U_BOOT: &str = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";
const TOOLS: &[&str] =
    &["qemu-system-aarch64", "mkimage", "mkenvimage", "mkfs.vfat", "mke2fs", "mcopy", "sfdisk", "perl"];
/// What the kernel says when it is started.
const STARTED: &str = "KERNEL";
/// As the image has it: slot A was flashed, B is empty.
const FLASHED: &str = include_str!("../../image/boot/slots.txt");

fn can_boot(test: &str) -> bool {
    let there = can_run(test, TOOLS);
    let u_boot = Path::new(U_BOOT).exists();
    assert!(!there || u_boot || std::env::var("CI").as_deref() != Ok("true"), "u-boot-qemu is not installed");
    if there && !u_boot {
        eprintln!("SKIPPED {test}: it needs u-boot-qemu");
    }
    there && u_boot
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    text(&output)
}

/// U-Boot with the environment that the image gives it.
pub fn with_our_environment(u_boot: &Path, new: &Path, interface: &str) {
    let script = repository().join("image/boot/environment");
    run(&[&script.display().to_string(), &u_boot.display().to_string(), &new.display().to_string(), interface]);
}

/// What a U-Boot's environment says, as this prints it, and whether that is an appliance's.
pub fn environment_is_an_appliances(u_boot: &Path) -> Result<(), String> {
    let script = repository().join("image/boot/environment");
    let shown = run(&[&script.display().to_string(), "--show", &u_boot.display().to_string()]);
    let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    let wrong = |why: &str| Err(format!("{why}:\n{shown}"));
    if !matches!(value("bootdelay"), Some("0" | "-2")) {
        return wrong("bootdelay");
    }
    if !matches!(value("stdin"), Some("serial" | "nulldev")) {
        return wrong("a keyboard is asked");
    }
    // A U-Boot whose command ends shows its prompt.
    if !value("bootcmd").is_some_and(|command| command.ends_with("; reset")) {
        return wrong("bootcmd may end");
    }
    for name in ["preboot", "boot_targets", "altbootcmd", "bootcmd_dhcp", "dhcpuboot"] {
        if value(name).is_some() {
            return wrong(name);
        }
    }
    for word in ["usb", "pxe", "dhcp", "tftp", "bootp", "bootflow", "distro"] {
        if shown.to_lowercase().contains(word) {
            return wrong(word);
        }
    }
    Ok(())
}

/// A Linux image for `booti` that writes [`STARTED`] to the serial port and switches the machine off.
fn kernel() -> Vec<u8> {
    let mut code: Vec<u32> = vec![0xd2a1_2001]; // mov x1, #0x09000000: the serial port
    for letter in STARTED.bytes().chain(*b"\n") {
        code.push(0x5280_0002 | u32::from(letter) << 5); // mov w2, #letter
        code.push(0xb900_0022); // str w2, [x1]
    }
    code.extend([0x5280_0100, 0x72b0_8000, 0xd400_0002, 0x1400_0000]); // SYSTEM_OFF by hvc
    // Small, because `booti` allows ten times the packed size.
    let mut image = vec![0; 256];
    image[..4].copy_from_slice(&0x1400_0010u32.to_le_bytes()); // b 64
    image[16..24].copy_from_slice(&4096u64.to_le_bytes()); // size
    image[24..32].copy_from_slice(&10u64.to_le_bytes()); // little-endian, pages of 4 KB, anywhere
    image[56..60].copy_from_slice(b"ARM\x64");
    for (at, word) in code.iter().enumerate() {
        image[64 + at * 4..][..4].copy_from_slice(&word.to_le_bytes());
    }
    image
}

/// A card: the FAT partition, and two slots that hold a system or nothing.
struct Card(tempfile::TempDir);

impl Card {
    fn new(state: &str, filled: [bool; 2]) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        let disk = this.path("disk");
        fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
        let table = "label: dos\nlabel-id: 0xed6e0001\nstart=4MiB, size=32MiB, type=c, bootable\n\
            start=36MiB, size=8MiB, type=83\nstart=44MiB, size=8MiB, type=83\n";
        fs::write(this.path("table"), table).unwrap();
        let table = fs::File::open(this.path("table")).unwrap();
        let status = Command::new("sfdisk").arg("--quiet").arg(&disk).stdin(table).status().unwrap();
        assert!(status.success());
        run(&["mkfs.vfat", "--offset", "8192", &disk, "32768"]);
        for (filled, offset) in filled.into_iter().zip([36u64 << 20, 44 << 20]) {
            if filled {
                let tree = this.path("tree");
                fs::create_dir_all(format!("{tree}/boot")).unwrap();
                fs::write(format!("{tree}/boot/initrd.img"), "initrd").unwrap();
                fs::write(format!("{tree}/boot/vmlinuz"), kernel()).unwrap();
                run(&["gzip", "-f", &format!("{tree}/boot/vmlinuz")]);
                let offset = format!("offset={offset}");
                run(&[
                    "mke2fs",
                    "-q",
                    "-t",
                    "ext4",
                    "-O",
                    "^has_journal,^metadata_csum_seed,^orphan_file",
                    "-E",
                    &offset,
                    "-d",
                    &tree,
                    &disk,
                    "8M",
                ]);
            }
        }
        fs::write(this.path("slots.txt"), state).unwrap();
        run(&["mkenvimage", "-s", "0x4000", "-o", &this.path("slots.env"), &this.path("slots.txt")]);
        this.put("slots.env", &fs::read(this.path("slots.env")).unwrap());
        let script = repository().join("image/boot/boot.cmd");
        let made = this.path("boot.scr");
        run(&["mkimage", "-A", "arm64", "-T", "script", "-C", "none", "-d", &script.display().to_string(), &made]);
        this.put("boot.scr", &fs::read(&made).unwrap());
        this
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn fat(&self) -> String {
        format!("{}@@4M", self.path("disk"))
    }

    fn put(&self, name: &str, content: &[u8]) {
        let from = self.path("put");
        fs::write(&from, content).unwrap();
        run(&["mcopy", "-o", "-i", &self.fat(), &from, &format!("::{name}")]);
    }

    /// The state in one of the two copies, as `NAME=VALUE` a line.
    fn state(&self, copy: &str) -> Vec<String> {
        let to = self.path("got");
        run(&["mcopy", "-n", "-o", "-i", &self.fat(), &format!("::{copy}"), &to]);
        let bytes = fs::read(to).unwrap();
        let names = bytes[4..].split(|byte| *byte == 0).take_while(|name| !name.is_empty());
        names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
    }

    /// From power-on to the first restart or the kernel, with somebody who leans on the keyboard, in at most so many
    /// seconds; what the serial port said.
    fn boots(&self, u_boot: &Path, seconds: &str) -> String {
        let drive = format!("if=none,id=d0,file={},format=raw", self.path("disk"));
        let mut command = Command::new("timeout");
        command.arg(seconds).args([
            "qemu-system-aarch64",
            "-M",
            "virt",
            "-accel",
            "tcg",
            "-cpu",
            "cortex-a72",
            "-m",
            "1024",
            "-bios",
        ]);
        command.arg(u_boot).args(["-drive", &drive, "-device", "virtio-blk-pci,drive=d0", "-serial", "stdio"]);
        command.args(["-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0"]);
        command.args(["-device", "qemu-xhci", "-device", "usb-kbd"]);
        command.args(["-display", "none", "-monitor", "none", "-no-reboot", "-nodefaults"]);
        let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut keyboard = running.stdin.take().unwrap();
        std::thread::spawn(move || {
            use std::io::Write as _;
            while keyboard.write_all(b" \r").is_ok() {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        text(&running.wait_with_output().unwrap()).replace('\r', "")
    }

    /// With the image's own environment.
    fn starts(&self) -> String {
        let u_boot = self.0.path().join("u-boot.bin");
        with_our_environment(Path::new(U_BOOT), &u_boot, "virtio");
        self.boots(&u_boot, "60")
    }
}

#[test]
fn the_boot_loader_asks_nobody_and_boots_from_the_card_alone() {
    if !can_boot("the_boot_loader_asks_nobody") {
        return;
    }
    let card = Card::new(FLASHED, [true, false]);
    let said = card.starts();
    assert!(said.contains(STARTED), "{said}");
    // Nothing to start from: it tries again.
    run(&["mdel", "-i", &card.fat(), "::boot.scr"]);
    let said = card.starts();
    assert!(said.contains("resetting"), "{said}");
    for forbidden in ["Hit any key", "=>", "USB", "usb", "DHCP", "BOOTP", "PXE", "TFTP"] {
        assert!(!said.contains(forbidden), "{forbidden}: {said}");
    }
    environment_is_an_appliances(&card.0.path().join("u-boot.bin")).unwrap();
    // As Debian has it, it would.
    let said = card.boots(Path::new(U_BOOT), "25");
    assert!(said.contains("Hit any key") && said.contains("=>"), "this test cannot fail: {said}");
    environment_is_an_appliances(Path::new(U_BOOT)).unwrap_err();
}

#[test]
fn the_kernel_gets_words_from_the_card_that_say_where_messages_go_and_no_others() {
    if !can_boot("the_kernel_gets_words_from_the_card") {
        return;
    }
    let card = Card::new(FLASHED, [true, false]);
    let good = "console=ttyS1,115200 console=tty0 loglevel=7 earlycon ignore_loglevel systemd.log_level=debug \
        systemd.journald.forward_to_console=1 systemd.watchdog_sec=0 systemd.wants=t.service \
        systemd.setenv=LINESIDE_SECONDS=40";
    let bad = [
        "init=/bin/sh",
        "rdinit=/bin/sh",
        "systemd.unit=rescue.target",
        "systemd.debug_shell=1",
        "single",
        "S",
        "1",
        "emergency",
        "rescue",
        "-b",
        "root=/dev/sda",
        "lineside.slot=B",
        "systemd.wants=rescue.service",
        "module.sig_enforce=0",
        "systemd.wants=t.service.d",
        "systemd.setenv=SYSTEMD_SULOGIN_FORCE=1",
        "systemd.run=/bin/sh",
        "loglevel=7;reset",
        "systemd.mask=nftables.service",
        "xconsole=ttyS0",
        "console=ttyS0\tinit=/bin/sh",
        "\"console=ttyS0",
        "$bootargs",
        "${bootargs}",
        "console=ttyS0,115200n8r",
        "INIT=/bin/sh",
        "systemd_wants=t.service",
        "console=tty0init=/bin/sh",
    ];
    card.put("cmdline.txt", format!("extra={good} {}\n", bad.join(" ")).as_bytes());
    let said = card.starts();
    let line = said.lines().find_map(|line| line.strip_prefix("kernel: ")).unwrap_or_else(|| panic!("{said}"));
    let given = line.split_once("@CONSOLE@").unwrap().1.replace("console=ttyS0 ", "");
    assert_eq!(given.trim(), good, "{said}");
    assert!(said.contains("cmdline.txt: init=/bin/sh is not allowed"), "{said}");
    assert!(said.contains(STARTED), "{said}");
}

fn has(state: &[String], what: &str) -> bool {
    state.iter().any(|line| line == what)
}

#[test]
fn a_slot_that_cannot_be_read_is_told_and_the_other_is_tried_if_it_was_good() {
    if !can_boot("a_slot_that_cannot_be_read") {
        return;
    }
    let good = "BOOT_ORDER=A B\nBOOT_A_LEFT=3\nBOOT_B_LEFT=3\nBOOT_A_GOOD=1\nBOOT_B_GOOD=1\nMACHINE_ID=abc\n";
    let card = Card::new(good, [false, true]);
    let said = card.starts();
    assert!(said.contains("slot A cannot be read") && said.contains("rauc.slot=B") && said.contains(STARTED), "{said}");
    for copy in ["slots.env", "slots.bak"] {
        let state = card.state(copy);
        assert!(
            has(&state, "BOOT_UNREADABLE=A") && has(&state, "BOOT_A_LEFT=2") && has(&state, "MACHINE_ID=abc"),
            "{state:?}"
        );
    }
    // One that is not known to be good is not: an update that was cut short, or an empty slot.
    let card = Card::new(&good.replace("BOOT_B_GOOD=1", "BOOT_B_GOOD=0"), [false, true]);
    let said = card.starts();
    assert!(said.contains("slot A cannot be read") && said.contains("resetting"), "{said}");
    assert!(!said.contains("rauc.slot=B") && !said.contains(STARTED), "{said}");
    assert!(has(&card.state("slots.env"), "BOOT_UNREADABLE=A"));
    // Once it can be read, nothing is said any more.
    let card = Card::new(&format!("{good}BOOT_UNREADABLE=A\n"), [true, true]);
    let said = card.starts();
    assert!(said.contains("rauc.slot=A") && said.contains(STARTED), "{said}");
    assert!(!card.state("slots.env").iter().any(|line| line.starts_with("BOOT_UNREADABLE")));
}

#[test]
fn where_no_slot_has_boots_left_those_that_were_good_begin_again() {
    if !can_boot("where_no_slot_has_boots_left") {
        return;
    }
    let spent = |order: &str, a: u8, b: u8| {
        format!("BOOT_ORDER={order}\nBOOT_A_LEFT=0\nBOOT_B_LEFT=0\nBOOT_A_GOOD={a}\nBOOT_B_GOOD={b}\n")
    };
    for (state, a, b) in [
        (spent("B A", 1, 0), 3, 0),
        (spent("A B", 0, 1), 0, 3),
        (spent("A B", 1, 1), 3, 3),
        (spent("A B", 0, 0), 3, 0),
        (spent("B A", 0, 0), 0, 3),
    ] {
        let card = Card::new(&state, [true, true]);
        let said = card.starts();
        assert!(said.contains("from the start") && said.contains("resetting"), "{said}");
        let now = card.state("slots.env");
        assert!(has(&now, &format!("BOOT_A_LEFT={a}")) && has(&now, &format!("BOOT_B_LEFT={b}")), "{state}{now:?}");
    }
}
