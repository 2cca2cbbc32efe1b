//! Who may have what, on the wire: an emptied neighbour table, phones behind one device, lock-outs.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::net::{can_run, wait_for};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment, POLYCOM, POLYCOM_FILE, STRANGER};
use super::wire::{NOT_FOUND, get, socket};

fn alerts<'a>(status: &'a Value, code: &str) -> Vec<&'a str> {
    let all = status["alerts"].as_array().unwrap().iter();
    all.filter(|alert| alert["code"] == code).map(|alert| alert["text"].as_str().unwrap()).collect()
}

#[test]
fn the_first_request_after_the_neighbour_table_was_emptied_is_served_at_once() {
    if !can_run("the_first_request_after_the_neighbour_table_was_emptied", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phones =
        [(CISCO, CISCO_FILE, "192.168.77.20"), (POLYCOM, POLYCOM_FILE, "192.168.77.21")].map(|(mac, name, address)| {
            let host = site.phone_at(mac, address);
            (socket(&host, &format!("{address}:0")), name, site.preview(mac, name))
        });
    let mut slow = Vec::new();
    let mut ask = |what: &str, round: usize| {
        // Another phone is the first one in each round.
        for (socket, name, expected) in phones.iter().cycle().skip(round).take(phones.len()) {
            let asked = Instant::now();
            let got = get(socket, BOX_LAN, name);
            if got.as_ref() != Ok(expected) || asked.elapsed() > Duration::from_secs(1) {
                slow.push(format!("{what}, round {round}: {name} after {:?}: {:?}", asked.elapsed(), got.is_ok()));
            }
        }
    };
    for round in 0..20 {
        site.site.sh("ip neigh flush dev lan0");
        ask("emptied before", round);
    }
    // So long before that nobody is asked for any more.
    site.site.sh("ip neigh flush dev lan0");
    std::thread::sleep(Duration::from_millis(1500));
    ask("emptied long before", 0);
    // The table is emptied once more when the kernel has just asked, or has just had its answer.
    for round in 0..20 {
        let mut flush = site.site.command(&["ip", "neigh", "flush", "dev", "lan0"]).spawn().unwrap();
        ask("emptied meanwhile", round);
        flush.wait().unwrap();
    }
    let counters = site.status()["counters"].clone();
    assert!(slow.is_empty(), "{} of 82: {slow:#?}\n{counters:#}", slow.len());
    // Phones that it knew were asked for anew: at least once in two rounds, as what is emptied while it asks is asked for once.
    assert!(counters["neighbours.asked"].as_u64() >= Some(20), "the table was not empty: {counters:#}");
    assert_eq!(site.status()["counters"]["tftp.refused"], serde_json::Value::Null);
}

#[test]
fn guesses_under_any_address_cost_nobody_a_shared_file() {
    if !can_run("guesses_under_any_address", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::new();
    fs::write(site.fleet.join("files/OS79XX.TXT"), "P003-8-12-00").unwrap();
    site.enroll();
    site.hq(&["publish"]);
    site.start();
    site.serves(1);
    for (mac, address) in [(CISCO, "192.168.77.20"), (STRANGER, "192.168.77.66")] {
        let host = site.phone_at(mac, address);
        let socket = socket(&host, &format!("{address}:0"));
        for number in 0..100 {
            assert_eq!(get(&socket, BOX_LAN, &format!("SEP0015650102{number:02X}.cnf.xml")).unwrap_err(), NOT_FOUND);
        }
        assert_eq!(get(&socket, BOX_LAN, "OS79XX.TXT"), Ok(b"P003-8-12-00".to_vec()), "{mac}");
        assert_eq!(get(&socket, BOX_LAN, "SEP001565010299.cnf.xml").unwrap_err(), NOT_FOUND);
    }
    let status = site.status();
    assert_eq!(alerts(&status, "guessing-device").len(), 2, "both are reported: {status:#}");
    assert!(status["counters"]["tftp.refused.locked-out"].as_u64() > Some(0), "{status:#}");
}

#[test]
fn six_phones_behind_a_repeater_are_one_alert_that_says_so_and_get_shared_files() {
    if !can_run("six_phones_behind_a_repeater", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::new();
    let phones: Vec<(String, String)> =
        (1..=6).map(|last| (format!("00:04:f2:00:01:{last:02x}"), format!("192.168.77.{}", 20 + last))).collect();
    let inventory = fs::read_to_string(site.fleet.join("phones.csv")).unwrap();
    let line = inventory.lines().find(|line| line.starts_with(POLYCOM)).unwrap().to_owned();
    let more: String = phones.iter().map(|(mac, _)| line.replace(POLYCOM, mac) + "\n").collect();
    fs::write(site.fleet.join("phones.csv"), inventory + &more).unwrap();
    fs::write(site.fleet.join("files/ring.txt"), "ring").unwrap();
    site.enroll();
    site.hq(&["publish"]);
    site.start();
    site.serves(1);

    // A repeater that forwards by address and answers ARP for everybody behind it: one MAC on the LAN.
    let inner = site.net.switch("inner");
    let repeater = site.net.host("repeater");
    site.net.plug(&repeater, "eth0", &site.lan, Some(STRANGER));
    site.net.plug(&repeater, "in0", &inner, None);
    repeater.sh("ip addr add 192.168.77.9/24 dev eth0");
    repeater.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    for interface in ["eth0", "in0"] {
        repeater.sh(&format!("echo 1 >/proc/sys/net/ipv4/conf/{interface}/proxy_arp"));
        repeater.sh(&format!("echo 0 >/proc/sys/net/ipv4/neigh/{interface}/proxy_delay"));
        repeater.sh(&format!("echo 0 >/proc/sys/net/ipv4/conf/{interface}/rp_filter"));
    }
    let mut sockets = Vec::new();
    for (number, (mac, address)) in phones.iter().enumerate() {
        let host = site.net.host(&format!("in{number}"));
        site.net.plug(&host, "eth0", &inner, Some(mac));
        host.sh(&format!("ip addr add {address}/24 dev eth0"));
        repeater.sh(&format!("ip route add {address}/32 dev in0"));
        sockets.push(socket(&host, &format!("{address}:0")));
    }
    for _ in 0..2 {
        for (socket, (mac, _)) in sockets.iter().zip(&phones) {
            let mac = mac.replace(':', "");
            for end in [".cfg", "-phone.cfg", "-web.cfg", "-license.cfg", "-directory.xml", "-calls.xml", "-line.cfg"] {
                let refused = get(socket, BOX_LAN, &format!("{mac}{end}")).unwrap_err();
                assert_eq!(refused, NOT_FOUND, "{mac}{end}: {}", site.appliance_log());
            }
            assert_eq!(get(socket, BOX_LAN, "ring.txt"), Ok(b"ring".to_vec()), "{mac}");
        }
    }
    let status = site.status();
    let told = alerts(&status, "behind-one-device");
    assert_eq!(told.len(), 1, "{status:#}");
    assert!(told[0].starts_with("6 phones seem to sit behind one device (02:00:00:00:00:99)"), "{told:?}");
    for accusing in ["guessing-device", "address-conflict"] {
        assert_eq!(alerts(&status, accusing), Vec::<&str>::new(), "{status:#}");
    }
    assert_eq!(status["counters"]["tftp.refused.locked-out"], Value::Null, "{status:#}");
}

#[test]
fn the_demo_serves_what_it_can_of_a_directory_with_a_fifo_and_a_link_that_leads_out() {
    if !can_run("the_demo_serves_what_it_can", &["curl"]) {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("shadow"), "secret").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("ring.raw"), "ring").unwrap();
    fs::write(at("VG1B5400000100.cnf.xml"), "port").unwrap();
    nix::unistd::mkfifo(&at("fifo.cfg"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("ring.raw", at("bell.raw")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("shadow"), at("out.cfg")).unwrap();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!("127.0.0.1:{port}");
    let log = outside.path().join("log");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--stay", "--files", dir.path().to_str().unwrap(), "--tftp", &server])
        .args(["--neighbour", "127.0.5.1=00:1b:54:00:00:01"])
        .stdout(fs::File::create(&log).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let fetch = |from: &str, name: &str| {
        let url = format!("tftp://{server}/{name}");
        let output = Command::new("curl").args(["-s", "-m", "5", "--interface", from, &url]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let said = || fs::read_to_string(&log).unwrap();
    let served = wait_for(Duration::from_secs(60), || said().contains("serving 3 files (1 of").then_some(()));
    let got = ["ring.raw", "bell.raw", "out.cfg", "fifo.cfg"].map(|name| fetch("127.0.5.2", name));
    let (own, others) = (fetch("127.0.5.1", "VG1B5400000100.cnf.xml"), fetch("127.0.5.2", "VG1B5400000100.cnf.xml"));
    Command::new("kill").args(["-TERM", &demo.id().to_string()]).status().unwrap();
    demo.wait().unwrap();
    assert!(served.is_some(), "{}", said());
    let file = |text: &str| (Some(0), text.to_owned());
    let refused = (Some(68), String::new());
    assert_eq!(got, [file("ring"), file("ring"), refused.clone(), refused.clone()]);
    assert_eq!((own, others), (file("port"), refused));
    assert!(said().contains("not served: fifo.cfg: a FIFO, no regular file\n"), "{}", said());
    assert!(said().contains("not served: out.cfg: a link that leads out of the directory\n"), "{}", said());
}
