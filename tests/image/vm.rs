//! QEMU, without KVM unless it is there: the machine that the image runs on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::boot;
use super::disk::Disk;
use super::net::{Host, Running, wait_for};
use super::tpm::Tpm;

/// Started in the virtual machine by systemd from a credential that only a virtual machine can have, so that the image
/// stays as it is shipped. Writes what the tests want to know to the serial port, and does what they ask for.
const PROBE: &str = include_str!("probe.service");

/// What to start.
pub struct Machine<'a> {
    pub board: Board,
    pub disk: &'a Disk,
    /// The switch that its network card is plugged into.
    pub switch: &'a Host,
    /// What `image/build` made.
    pub image: &'a Path,
    /// More for the kernel's command line.
    pub command_line: &'a str,
    /// A second disk with updates, which the probe hands to the appliance's system.
    pub updates: Option<&'a Path>,
    /// Whether the card forgets, when the power goes, what it was not told to keep.
    pub forgetful: bool,
    /// The board's TPM, where it has one.
    pub tpm: Option<&'a Tpm>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Board {
    /// amd64; kernel and initrd are given from outside.
    Pc,
    /// arm64 with U-Boot.
    Virt,
    /// A Raspberry Pi 3B with U-Boot from the emulated card. It has no network here.
    Pi3,
}

/// A running one; the power goes when it is dropped.
pub struct Vm {
    child: Child,
    /// What holds the writes that a forgetful card was not told to keep.
    cache: Option<Running>,
    serial: PathBuf,
    pub started: Instant,
}

fn socket(machine: &Machine<'_>) -> PathBuf {
    machine.disk.path.with_extension("socket")
}

/// A card with a cache that keeps writes from the card until the machine flushes them.
fn cache(machine: &Machine<'_>) -> Running {
    let (socket, card) = (socket(machine), &machine.disk.path);
    let _ = fs::remove_file(&socket);
    let (at, file) = (socket.display().to_string(), format!("file={}", card.display()));
    let words = ["nbdkit", "--foreground", "--unix", &at, "--filter=cache", "file", &file, "cache=writeback"];
    let running = machine.switch.start(&words, &card.with_extension("nbdkit.log"));
    wait_for(Duration::from_secs(10), || socket.exists().then_some(()))
        .unwrap_or_else(|| panic!("nbdkit does not serve:\n{}", running.log()));
    running
}

impl Vm {
    pub fn start(machine: &Machine<'_>) -> Self {
        let dir = machine.disk.path.parent().unwrap();
        let serial = dir.join("serial.log");
        let _ = fs::remove_file(&serial);
        let unit = dir.join("probe.service");
        fs::write(&unit, PROBE).unwrap();
        let cache = machine.forgetful.then(|| cache(machine));
        let drive = if cache.is_some() {
            format!("file=nbd+unix:///?socket={},format=raw,cache=writeback", socket(machine).display())
        } else {
            format!("file={},format=raw,cache=unsafe", machine.disk.path.display())
        };
        let to_log = format!("file:{}", serial.display());
        let credential =
            format!("name=opt/io.systemd.credentials/systemd.extra-unit.t.service,file={}", unit.display());
        let common = ["-display", "none", "-monitor", "none", "-no-user-config", "-nodefaults"];
        let network =
            ["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n0"];
        let virtio = format!("if=none,id=d0,{drive}");
        let devices = [
            &["-drive", virtio.as_str(), "-device", "virtio-blk-pci,drive=d0", "-device", "virtio-rng-pci"][..],
            &["-device", "i6300esb", "-smp", "2", "-m", "1024", "-fw_cfg", &credential, "-serial", &to_log],
        ]
        .concat();
        let socket = machine.tpm.map(|tpm| format!("socket,id=c0,path={}", tpm.socket().display()));
        let updates =
            machine.updates.map(|path| format!("if=none,id=d1,file={},format=raw,readonly=on", path.display()));
        let more = updates.iter().flat_map(|drive| ["-drive", drive, "-device", "virtio-blk-pci,drive=d1"]);
        let tpm = socket.iter().flat_map(|socket| {
            ["-chardev", socket, "-tpmdev", "emulator,id=t0,chardev=c0", "-device", "tpm-crb,tpmdev=t0"]
        });
        let devices: Vec<&str> = devices.into_iter().chain(more).chain(tpm).collect();
        let given = machine.command_line;
        let command_line = match machine.board {
            Board::Pc => format!(
                "lineside.slot=A rauc.slot=A panic=10 quiet fsck.repair=yes console=ttyS0 systemd.wants=t.service {given}"
            ),
            Board::Virt => format!("console=ttyAMA0 systemd.wants=t.service {given}"),
            // QEMU's model of the Pi's watchdog resets at once. There is no fw_cfg on this board, hence no probe.
            Board::Pi3 => {
                format!("console=ttyS1,115200 systemd.watchdog_sec=0 systemd.journald.forward_to_console=1 {given}")
            }
        };
        if machine.board != Board::Pc {
            machine.disk.write("cmdline.txt", format!("extra={command_line}\n").as_bytes());
        }
        let kernel = machine.image.join("vmlinuz").display().to_string();
        let initrd = machine.image.join("initrd.img").display().to_string();
        let mut words: Vec<&str> = Vec::new();
        let sd = format!("if=sd,{drive}");
        let boot = machine.image.join("raspi3b");
        let virt_boot = dir.join("u-boot.bin");
        let (u_boot, tree) = (boot.join("u-boot.bin"), boot.join("bcm2837-rpi-3-b.dtb"));
        match machine.board {
            Board::Pc => {
                // -cpu max without KVM; with it the machine's own.
                words.extend(["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
                words.extend(["-kernel", &kernel, "-initrd", &initrd, "-append", &command_line]);
                words.extend(common.iter().chain(&network).chain(&devices));
            }
            Board::Virt => {
                words.extend(["qemu-system-aarch64", "-M", "virt", "-accel", "tcg,thread=multi", "-cpu", "cortex-a72"]);
                // With the image's environment; on this board the card is elsewhere.
                boot::with_our_environment(Path::new("/usr/lib/u-boot/qemu_arm64/u-boot.bin"), &virt_boot, "virtio");
                words.extend(["-bios", virt_boot.to_str().unwrap()]);
                words.extend(common.iter().chain(&network).chain(&devices));
            }
            Board::Pi3 => {
                fs::create_dir_all(&boot).unwrap();
                for file in [&u_boot, &tree] {
                    let name = file.file_name().unwrap().to_str().unwrap();
                    fs::write(file, machine.disk.read(name).unwrap()).unwrap();
                }
                words.extend(["qemu-system-aarch64", "-M", "raspi3b", "-accel", "tcg,thread=multi"]);
                words.extend(["-kernel", u_boot.to_str().unwrap(), "-dtb", tree.to_str().unwrap(), "-drive", &sd]);
                // The console is the second serial port.
                words.extend(["-display", "none", "-monitor", "none", "-serial", "null", "-serial", &to_log]);
            }
        }
        let mut command = machine.switch.command(&words);
        let log = fs::File::create(dir.join("qemu.log")).unwrap();
        let started = Instant::now();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, cache, serial, started }
    }

    /// What came over the serial port so far.
    pub fn serial(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// Waits until the serial port's output holds this; how long after the start that was.
    pub fn says(&mut self, what: &str, limit: Duration) -> Duration {
        let said = wait_for(limit, || {
            assert!(self.child.try_wait().unwrap().is_none(), "QEMU ended:\n{}", self.tail());
            self.serial().contains(what).then(|| self.started.elapsed())
        });
        said.unwrap_or_else(|| panic!("never said `{what}` in {limit:?}:\n{}", self.tail()))
    }

    /// The newest value that the probe printed under this name.
    pub fn probe(&self, name: &str) -> Option<String> {
        let key = format!("probe: {name} = ");
        let serial = self.serial();
        let line = serial.lines().rev().find(|line| line.contains(&key) && !line.ends_with(&key))?;
        Some(line.split_once(&key)?.1.trim().trim_matches('"').to_owned())
    }

    /// Waits until the probe prints a value under this name that will do.
    pub fn probes(&mut self, name: &str, limit: Duration, will_do: impl Fn(&str) -> bool) -> String {
        wait_for(limit, || {
            assert!(self.child.try_wait().unwrap().is_none(), "QEMU ended:\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(300));
            self.probe(name).filter(|value| will_do(value))
        })
        .unwrap_or_else(|| panic!("{name} is {:?} after {limit:?}:\n{}", self.probe(name), self.tail()))
    }

    /// The end of what it said.
    pub fn tail(&self) -> String {
        let text = self.serial();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(120)..).unwrap_or_default().join("\n")
    }

    /// Pulls the plug.
    pub fn cut_power(self) {
        drop(self);
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // The card first, so that nothing that happens while the machine ends reaches it.
        drop(self.cache.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
