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
//! are noisy: read the ratios, not the absolute figures.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod load;
mod peers;
mod servers;

use std::path::Path;
use std::time::Duration;

use load::{Phones, Taken};
use servers::Server;

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
    println!("server on core 0, phones on core 1; ratios are to the floor of the same row\n");
    for row in rows(quick) {
        if !wanted.is_empty() && !wanted.iter().any(|word| row.name.contains(word.as_str())) {
            continue;
        }
        println!("{}: {} × {} bytes", row.name, row.phones.count, row.phones.bytes);
        println!(
            "  {:<12} {:>10} {:>7} {:>9} {:>9} {:>9} {:>8} {:>8} {:>7}",
            "server", "us/block", "ratio", "MB/s", "p50 ms", "p99 ms", "idle MB", "peak MB", "failed"
        );
        measure(&row, dir.path());
        println!();
    }
}

fn measure(row: &Row, dir: &Path) {
    let files = dir.join(format!("files-{}", row.phones.bytes));
    std::fs::create_dir_all(&files).unwrap();
    let content: Vec<u8> = (0..row.phones.bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(files.join("image.bin"), &content).unwrap();

    let mut floor = None;
    for kind in servers::KINDS {
        let Some(server) = Server::start(kind, &files, &row.phones) else {
            println!("  {kind:<12} not installed");
            continue;
        };
        let address = server.address();
        let idle = server.resident_bytes();
        // The first fetch pays for caches and lazy set-up; a peer that needs it gets it too.
        let warm = load::run(&Phones::new(1, row.phones.bytes).blksize(1428), address, &content);
        assert!(kind == "floor" || warm.failed == 0, "{kind} does not serve");
        server.forget_peak();
        let before = server.cpu();
        let taken = load::run(&row.phones, address, &content);
        let cpu = server.cpu() - before;
        // The floor costs what its blocks cost; the others too, whatever else they do.
        let per_block = cpu.as_secs_f64() * 1e6 / taken.blocks.max(1) as f64;
        if kind == "floor" {
            floor = Some(per_block);
        }
        print_row(kind, per_block, floor, &taken, [idle, server.peak_bytes()]);
    }
}

fn print_row(kind: &str, per_block: f64, floor: Option<f64>, taken: &Taken, memory: [Option<u64>; 2]) {
    let ratio = floor.map_or(f64::NAN, |floor| per_block / floor);
    let speed = taken.bytes as f64 / 1e6 / taken.wall.as_secs_f64();
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let [idle, peak] =
        memory.map(|bytes| bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6)));
    println!(
        "  {kind:<12} {per_block:>10.2} {ratio:>7.2} {speed:>9.1} {:>9.1} {:>9.1} {idle:>8} {peak:>8} {:>7}",
        ms(taken.percentile(50)),
        ms(taken.percentile(99)),
        taken.failed
    );
}
