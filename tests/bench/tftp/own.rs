//! A device's own file over a virtual cable between two network namespaces: by frames, and by sockets as all other files.
//!
//! Both are the same program on the same release. The second may open no packet socket, and so sends as if there were no
//! frames. It needs root; the phones are addresses of one device, because the cable has one end.
//!
//! The network cards of small boards do not segment UDP, so that every block is handed to the driver by itself: the kernel
//! cuts what `UDP_SEGMENT` sends just before. A virtual cable would take whole windows, as no wire does; it is told not to.
//! Nor does a wire have the sender's processor receive: each end's stack runs on its own end's core (`rps_cpus`), which are the
//! cores that `main` gives the server and the phones. Without that most of a frame's price is the phone's way to receive it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;

use crate::load::Phones;
use crate::servers::{Hq, Server};
use crate::{Figures, ROUNDS, Row, heading, median, print_row, round, write_file};

const MAC: &str = "02:00:00:00:00:77";
const NAME: &str = "SEP020000000077.cnf.xml";
const BOX: Ipv4Addr = Ipv4Addr::new(10, 123, 0, 1);

/// The rows: in lock-step, and in windows.
fn rows(quick: bool) -> Vec<Row> {
    let bytes = if quick { 500_000 } else { 5_000_000 };
    let phones = || Phones::new(20, bytes).of([10, 123, 7], NAME);
    vec![
        Row { name: "own file, lock-step, 512", phones: phones() },
        Row { name: "own file, lock-step, blksize 1428", phones: phones().blksize(1428) },
        Row { name: "own file, windows of 16, blksize 1428", phones: phones().blksize(1428).windowsize(16) },
    ]
}

pub fn run(quick: bool, wanted: &[&String], dir: &Path) {
    for row in rows(quick) {
        if !wanted.is_empty() && !wanted.iter().any(|word| row.name.contains(word.as_str())) {
            continue;
        }
        heading(&row);
        let Some(cable) = Cable::new() else {
            println!("  needs root and iproute2\n");
            continue;
        };
        measure(&row, dir, &cable);
        println!();
    }
}

fn measure(row: &Row, dir: &Path, cable: &Cable) {
    let files = dir.join(format!("own-{}", row.phones.bytes));
    let content = write_file(&files, NAME, row.phones.bytes);
    let address = SocketAddrV4::new(BOX, 6969);
    let at_home = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 6969);
    let neighbours: Vec<_> = (0..row.phones.count).map(|index| (row.phones.address(index), MAC.to_owned())).collect();
    let hq = Hq::publish(&files, at_home, &neighbours).expect("the demo publishes");
    let config = hq.keep.path().join("lineside.toml");
    let settings = std::fs::read_to_string(&config).unwrap();
    let settings = settings.replace("interface = \"lo\"\nallow-loopback = true", "interface = \"lan0\"");
    let settings = settings.replace("[dhcp]", "[dhcp]\nenabled = false").replace("\"error\"", "\"info\"");
    std::fs::write(&config, settings).unwrap();
    let lineside = std::env::var("BENCH_LINESIDE").unwrap_or_else(|_| env!("CARGO_BIN_EXE_lineside").to_owned());
    let plain = ["ip", "netns", "exec", &cable.server];
    let barred = [&plain[..], &["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]].concat();
    let run = [&lineside, "--config", config.to_str().unwrap(), "run"];

    // The phones' sockets are in the other namespace, and so is this thread.
    let (phones, row_phones) = (cable.phones.clone(), row.phones.clone());
    let words = [("by frames", [&plain[..], &run].concat()), ("by sockets", [&barred[..], &run].concat())];
    let words = words.map(|(kind, words)| (kind, words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>()));
    let row = Row { name: row.name, phones: row_phones };
    let measured = std::thread::spawn(move || {
        let namespace = std::fs::File::open(format!("/run/netns/{phones}")).unwrap();
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        // One after the other in each round: they have one state directory and one address.
        let mut figures: [Vec<Figures>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for ((kind, words), figures) in words.iter().zip(&mut figures) {
                let server = Server::of(words.clone(), address, None);
                assert!(server.answers(&row.phones), "{kind} does not answer");
                let warm = crate::load::run(&row.phones.one(), address, &content);
                assert!(warm.failed == 0, "{kind} does not serve");
                figures.push(round(&row, &server, &content));
            }
        }
        let sockets = median(&figures[1], |figures| figures.per_block);
        print_row("by sockets", &figures[1], Some(sockets), None);
        print_row("by frames", &figures[0], Some(sockets), None);
    });
    measured.join().unwrap();
}

/// Two namespaces and a cable. Dropping it removes them.
struct Cable {
    server: String,
    phones: String,
}

impl Cable {
    fn new() -> Option<Self> {
        let [server, phones] = ["box", "ph"].map(|name| format!("lsb{}-{name}", std::process::id()));
        let this = Self { server, phones };
        let (a, b) = (&this.server, &this.phones);
        let line = format!(
            "ip netns add {a} && ip netns add {b} && ip -n {a} link set lo up && \
             ip link add lan0 netns {a} type veth peer name eth0 netns {b} && \
             ip -n {a} link set lan0 gso_max_segs 1 && \
             ip -n {b} link set eth0 address {MAC} && ip -n {a} link set lan0 up && ip -n {b} link set eth0 up && \
             ip -n {a} addr add {BOX}/16 dev lan0 && ip -n {b} addr add 10.123.255.1/16 dev eth0 && \
             ip -n {b} route add local 10.123.7.0/24 dev eth0 && \
             ip netns exec {b} sh -c 'echo 1 >/proc/sys/net/ipv4/ip_nonlocal_bind' && \
             ip netns exec {a} sh -c 'echo 1 >/sys/class/net/lan0/queues/rx-0/rps_cpus' && \
             ip netns exec {b} ethtool -K eth0 gro on && \
             ip netns exec {b} sh -c 'cd /sys/class/net/eth0 && echo 2 >napi_defer_hard_irqs && \
             echo 20000 >gro_flush_timeout && echo 1 >threaded' && \
             for thread in $(pgrep '^napi/eth0-'); do taskset -pc 1 $thread; done"
        );
        let made = Command::new("sh").args(["-c", &line]).output().ok()?;
        made.status.success().then_some(this)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.phones] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}
