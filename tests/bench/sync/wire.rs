//! Bytes between a site and HQ, and what the site's process needs to take 100 MB over.

use std::time::Duration;

use crate::Table;
use crate::content::{Numbers, model_toml, phones, template};
use crate::world::{Hq, Site};
use crate::{peers, store};

/// Phones at the large site and bytes of its two images: 100 MB in all.
const PHONES: u64 = 2_000;
const IMAGES: [(&str, usize); 2] = [("app.sbn", 50_000_000), ("dsp.sbn", 33_000_000)];
const SMALL: u64 = 20;

pub fn chapter(quick: bool, table: &mut Table) {
    let dir = tempfile::tempdir().unwrap();
    let hq = Hq::start(dir.path());
    let mut numbers = Numbers::new(1);
    let images = IMAGES.map(|(name, bytes)| (name, if quick { bytes / 10 } else { bytes }));
    for (name, bytes) in images {
        hq.write(&format!("firmware/bench/{name}"), numbers.bytes(bytes));
    }
    hq.write("templates/bench/model.toml", model_toml(&images.map(|(name, _)| name)));
    hq.write("templates/bench/SEP.cnf.xml.j2", template());
    let mut csv = "mac,site,model,label,own\n".to_owned();
    phones(&mut csv, "large", 0x10_0000, PHONES, &mut numbers);
    phones(&mut csv, "small", 0x20_0000, SMALL, &mut numbers);
    std::fs::remove_file(hq.fleet.join("sites/sample-office.toml")).unwrap();
    hq.run(&["site", "add", "large"]);
    hq.run(&["site", "add", "small"]);
    hq.write("phones.csv", &csv);
    // Only polls that are asked for.
    let settings = std::fs::read_to_string(hq.fleet.join("fleet.toml")).unwrap();
    hq.write("fleet.toml", settings.replace("poll-seconds = 300", "poll-seconds = 86400"));

    let small = hq.appliance(dir.path(), "small");
    let mut large = hq.appliance(dir.path(), "large");
    hq.proxy.settled();
    hq.run(&["publish"]);

    println!(
        "the first release: {PHONES} files of 8 KB and two images, {} bytes",
        images.map(|(_, n)| n).iter().sum::<usize>()
    );
    store::take_over(&hq, &mut large, dir.path(), &csv, &images.map(|(name, _)| name), table);
    small.poll();
    small.serves(1);
    hq.proxy.settled();

    println!("\npolls of a site that is up to date (TLS included, TCP and IP not)");
    idle(&hq, &small, table);
    // From here on over kept connections, as in a site's life; the handshake's bytes are told above.
    hq.proxy.clear();
    large.poll();
    hq.proxy.settled();

    println!("\none configuration of 8 KB changed");
    let changes = [("large", 0x10_0007, &large, Some(18_000.0)), ("small", 0x20_0007, &small, Some(10_000.0))];
    for (name, number, site, target) in changes {
        let before = csv.clone();
        change(&mut csv, number, &mut numbers);
        hq.write("phones.csv", &csv);
        hq.run(&["publish"]);
        hq.proxy.clear();
        site.poll();
        site.serves(2);
        hq.proxy.settled();
        show(&hq);
        let total = hq.proxy.total();
        let what = format!("one of {} configurations changed", count(name));
        table.row(format!("{what}, check-in included, down"), total.down as f64, "bytes", target);
        table.row(format!("{what}, up"), total.up as f64, "bytes", None);
        if name == "large" {
            let images = images.map(|(image, _)| hq.fleet.join("firmware/bench").join(image));
            peers::same_change(dir.path(), &before, &csv, &images, table);
        }
    }
}

fn count(name: &str) -> u64 {
    if name == "large" { PHONES } else { SMALL }
}

/// Gives one phone another configuration of the same length.
fn change(csv: &mut String, number: u64, numbers: &mut Numbers) {
    let mut line = String::new();
    phones(&mut line, "x", number, 1, numbers);
    let own = line.trim_end().rsplit(',').next().unwrap();
    let mac = crate::content::mac(number);
    let changed: Vec<String> =
        csv.lines()
            .map(|old| {
                if old.starts_with(&mac) {
                    format!("{},{own}", old.rsplit_once(',').unwrap().0)
                } else {
                    old.to_owned()
                }
            })
            .collect();
    *csv = changed.join("\n") + "\n";
}

fn idle(hq: &Hq, site: &Site, table: &mut Table) {
    // Cut, so that it comes with a handshake; more than enough time passes for whatever was due.
    hq.proxy.cut();
    std::thread::sleep(Duration::from_millis(300));
    hq.proxy.clear();
    site.poll();
    hq.proxy.settled();
    show(hq);
    let (handshake, down) = (hq.proxy.total().both(), hq.proxy.total().down);
    table.row("idle poll with a full handshake, both ways", handshake as f64, "bytes", Some(5_000.0));
    table.row("  of which down", down as f64, "bytes", None);

    hq.proxy.clear();
    site.poll();
    hq.proxy.settled();
    show(hq);
    let exchanges = hq.proxy.exchanges();
    assert_eq!(exchanges.len(), 1, "a poll and nothing else");
    table.row("idle poll on a kept connection, both ways", exchanges[0].both() as f64, "bytes", Some(350.0));
}

fn show(hq: &Hq) {
    for exchange in hq.proxy.exchanges() {
        println!("  connection {}: {} up, {} down", exchange.connection, exchange.up, exchange.down);
    }
}
