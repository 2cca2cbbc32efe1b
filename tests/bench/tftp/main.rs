//! TFTP servers side by side: CPU per DATA block, speed, tail latency, memory.
//!
//! ```sh
//! cargo bench --bench tftp              # every row; as root on Debian it finds dnsmasq and tftpd-hpa
//! cargo bench --bench tftp -- --quick   # a tenth of the data
//! cargo bench --bench tftp -- lock      # rows whose name contains "lock"
//! ```
//!
//! Each server is a process of its own pinned to core 0; the phones are pinned to core 1. Lineside serves through its
//! real path: published at HQ, enrolled, pulled, sealed on disk, policy on. The floor is a bare epoll loop that answers
//! every packet with one of the same size (for windows: with one UDP GSO send), measured in the same run. Machines
//! are noisy: read the ratios, not the absolute figures. The rows `own file` go over a virtual cable, because loopback has no
//! Ethernet addresses; their ratio is to the same file sent by sockets.

#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod load;
mod own;
mod peers;
mod servers;

use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use load::{Phones, Taken};
use servers::{Processes, Server};

/// How often each row is run.
const ROUNDS: usize = 3;

/// One line of the table.
struct Row {
    name: &'static str,
    phones: Phones,
}

fn rows(quick: bool) -> Vec<Row> {
    let size = |bytes: u64| if quick { bytes / 10 } else { bytes };
    let many = if quick { 50 } else { 500 };
    vec![
        Row { name: "lock-step, 512", phones: Phones::new(50, size(10_000_000)) },
        Row { name: "lock-step, blksize 1428", phones: Phones::new(50, size(10_000_000)).blksize(1428) },
        Row {
            name: "windows of 16, blksize 1428",
            phones: Phones::new(50, size(10_000_000)).blksize(1428).windowsize(16),
        },
        Row { name: "one phone, windows of 64", phones: Phones::new(1, size(50_000_000)).blksize(1428).windowsize(64) },
        Row {
            name: "many phones, 1 MB, windows of 16",
            phones: Phones::new(many, size(1_000_000)).blksize(1428).windowsize(16),
        },
        Row { name: "many phones, 8 KB", phones: Phones::new(many, 8_192) },
        Row { name: "many phones, 8 KB, 2 % loss", phones: Phones::new(many, 8_192).loss(0.02) },
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(peer) = arguments.first().and_then(|first| first.strip_prefix("serve-")) {
        return peers::serve(peer, &arguments[1..]);
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let dir = tempfile::tempdir().unwrap();

    load::pin(1);
    println!("server on core 0, phones on core 1; {ROUNDS} rounds, medians; ratios are to the floor of the same row\n");
    for row in rows(quick) {
        if !wanted.is_empty() && !wanted.iter().any(|word| row.name.contains(word.as_str())) {
            continue;
        }
        heading(&row);
        measure(&row, dir.path());
        println!();
    }
    own::run(quick, &wanted, dir.path());
}

fn heading(row: &Row) {
    println!("{}: {} × {} bytes", row.name, row.phones.count, row.phones.bytes);
    println!(
        "  {:<12} {:>10} {:>7} {:>9} {:>9} {:>9} {:>8} {:>8} {:>7}",
        "server", "us/block", "ratio", "MB/s", "p50 ms", "p99 ms", "idle MB", "peak MB", "failed"
    );
}

/// What one server did in one round.
struct Figures {
    per_block: f64,
    taken: Taken,
    peak: u64,
}

fn measure(row: &Row, dir: &Path) {
    let files = dir.join(format!("files-{}", row.phones.bytes));
    let content = write_file(&files, "image.bin", row.phones.bytes);

    let mut servers = Vec::new();
    for kind in servers::KINDS {
        // The floor never sends again.
        if kind == "floor" && row.phones.loss > 0.0 {
            continue;
        }
        let Some(server) = Server::start(kind, &files, &row.phones) else {
            println!("  {kind:<12} not installed");
            continue;
        };
        let idle = server.resident_bytes();
        // The first fetch pays for caches and lazy set-up; a peer that needs it gets it too.
        let warm = load::run(&Phones::new(1, row.phones.bytes).blksize(1428), server.address(), &content);
        assert!(warm.failed == 0, "{kind} does not serve");
        servers.push((kind, server, idle, Vec::new()));
    }
    // A round of each in turn, so that a bad moment of the machine hits all.
    for _ in 0..ROUNDS {
        for (_, server, _, figures) in &mut servers {
            figures.push(round(row, server, &content));
        }
    }
    let mut floor = None;
    for (kind, _, idle, figures) in &mut servers {
        if *kind == "floor" {
            floor = Some(median(figures, |figures| figures.per_block));
        }
        print_row(kind, figures, floor, *idle);
    }
}

/// Writes a file of this length that does not compress, and returns its content.
fn write_file(dir: &Path, name: &str, bytes: u64) -> Vec<u8> {
    let content: Vec<u8> = (0..bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join(name), &content).unwrap();
    content
}

fn round(row: &Row, server: &Server, content: &[u8]) -> Figures {
    server.forget_peak();
    let sampler = Sampler::start(server.processes());
    let before = server.cpu();
    let taken = load::run(&row.phones, server.address(), content);
    // A server that forks ends its children after their last packet.
    std::thread::sleep(Duration::from_millis(50));
    let cpu = server.cpu() - before;
    let sampled = sampler.stop();
    // The floor costs what its blocks cost; the others too, whatever else they do.
    let per_block = cpu.as_secs_f64() * 1e6 / taken.blocks.max(1) as f64;
    Figures { per_block, taken, peak: sampled.max(server.peak_bytes().unwrap_or(0)) }
}

/// Looks now and then at how much memory all processes of a server have: one high-water mark is of one process.
struct Sampler {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<u64>,
}

impl Sampler {
    fn start(processes: Processes) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while stopped.recv_timeout(Duration::from_millis(100)) == Err(mpsc::RecvTimeoutError::Timeout) {
                most = most.max(processes.proportional_bytes());
            }
            most
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

fn median(figures: &[Figures], of: impl Fn(&Figures) -> f64) -> f64 {
    let mut all: Vec<f64> = figures.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn print_row(kind: &str, figures: &[Figures], floor: Option<f64>, idle: Option<u64>) {
    let per_block = median(figures, |figures| figures.per_block);
    let ratio = floor.map_or_else(|| "-".to_owned(), |floor| format!("{:.2}", per_block / floor));
    let speed = median(figures, |Figures { taken, .. }| taken.bytes as f64 / 1e6 / taken.wall.as_secs_f64());
    let late = |percent| median(figures, |figures| figures.taken.percentile(percent).as_secs_f64() * 1e3);
    let idle = idle.map_or_else(|| "-".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6));
    let peak = median(figures, |figures| figures.peak as f64 / 1e6);
    let failed: u32 = figures.iter().map(|figures| figures.taken.failed).sum();
    println!(
        "  {kind:<12} {per_block:>10.2} {ratio:>7} {speed:>9.1} {:>9.1} {:>9.1} {idle:>8} {peak:>8.1} {failed:>7}",
        late(50),
        late(99),
    );
}
