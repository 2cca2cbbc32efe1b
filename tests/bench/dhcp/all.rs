//! `all`, side by side with dnsmasq and Kea: DORA per second, CPU and memory per lease, latency at a steady rate, a phone
//! that was never there, and a site after a power cut.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::messages::{self, ACK, OFFER};
use crate::net::{Host, Net, Running, can_run, wait_for};

const FLIGHT: usize = 16;
const PHONES: u32 = 3000;

/// Where a server is, and the relay that asks it.
#[derive(Clone, Copy)]
struct Place {
    server: Ipv4Addr,
    relay: Ipv4Addr,
}

const CABLE: Place = Place { server: Ipv4Addr::new(10, 79, 0, 1), relay: Ipv4Addr::new(10, 79, 0, 2) };
const LOOPBACK: Place = Place { server: Ipv4Addr::new(127, 79, 0, 1), relay: Ipv4Addr::new(127, 79, 0, 2) };

pub fn run() {
    if !can_run("the benchmark of `all`", &["ip", "dnsmasq", "kea-dhcp4"]) {
        return;
    }
    println!(
        "\nall: {PHONES} phones that were never here, {FLIGHT} in flight, then 200 a second; through a relay agent"
    );
    println!(
        "{:<34} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "server", "DORA/s", "CPU/DORA", "p50", "p99", "p50@200", "p99@200", "RSS +"
    );
    for kind in ["lineside, no link to ask", "lineside", "Kea, lease file", "dnsmasq, no ping"] {
        row(kind);
    }
    never_seen();
    power_cut();
}

fn row(kind: &str) {
    let mut net = Net::new();
    let (box_, load) = (net.host("server"), net.host("load"));
    let place = if kind.contains("no link") { LOOPBACK } else { CABLE };
    let load = if kind.contains("no link") { box_.clone() } else { cable(&net, &box_, &load) };
    let dir = net.dir();
    let server = start(kind, &box_, &dir);
    let socket = {
        let relay = place.relay;
        load.inside(move || messages::socket(None, relay, 67)).join().unwrap()
    };
    ready(&socket, place);
    let (before, cpu) = (resident_kib(server.id()), cpu(server.id()));
    let begin = Instant::now();
    let mut times = closed(&socket, place, PHONES);
    let wall = begin.elapsed();
    let spent = self::cpu(server.id()).saturating_sub(cpu);
    let grown = resident_kib(server.id()).saturating_sub(before);
    let done = times.len();
    times.sort();
    let mut steady = open(&socket, place, 200, 1000);
    steady.sort();
    let millis = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    println!(
        "{kind:<34} {:>8.0} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        done as f64 / wall.as_secs_f64(),
        millis(spent / u32::try_from(done.max(1)).unwrap()),
        millis(at(&times, 50)),
        millis(at(&times, 99)),
        millis(at(&steady, 50)),
        millis(at(&steady, 99)),
        format!("{grown} KiB"),
    );
    if done < PHONES as usize || steady.len() < 1000 {
        println!("  of {PHONES} phones {done} got a lease; at 200/s {} exchanges", steady.len());
    }
}

fn cable(net: &Net, server: &Host, load: &Host) -> Host {
    net.cable((server, "eth0"), (load, "eth0"));
    server.sh(&format!("ip address add {}/16 dev eth0", CABLE.server));
    load.sh(&format!("ip address add {}/16 dev eth0", CABLE.relay));
    load.clone()
}

fn start(kind: &str, host: &Host, dir: &Path) -> Running {
    let file = |name: &str, text: String| {
        fs::write(dir.join(name), text).unwrap();
        dir.join(name).to_str().unwrap().to_owned()
    };
    let log = dir.join("server.log");
    if kind.starts_with("lineside") {
        let (lan, net) = if kind.contains("no link") {
            ("interface = \"lo\"\nallow-loopback = true", "127.79")
        } else {
            ("interface = \"eth0\"", "10.79")
        };
        if kind.contains("no link") {
            host.sh(
                "ip address flush dev lo && ip address add 127.79.0.1/16 dev lo && ip address add 127.79.0.2/16 dev lo",
            );
        }
        let config = format!(
            "[lan]\n{lan}\n[storage]\nstate = {:?}\n[status]\nsocket = {:?}\n[tftp]\nenabled = false\n[dhcp]\nmode = \"all\"\n\
             range = [\"{net}.16.0\", \"{net}.31.255\"]\nphone-classes = [\"Polycom-\"]\n[log]\nfilter = \"warn\"\n",
            dir.join("state").to_str().unwrap(),
            dir.join("status.sock").to_str().unwrap(),
        );
        let config = file("lineside.toml", config);
        return host
            .start(&["env", "-u", "LINESIDE_LOG", env!("CARGO_BIN_EXE_lineside"), "--config", &config, "run"], &log);
    }
    if kind.starts_with("dnsmasq") {
        let leases = format!("--dhcp-leasefile={}", file("leases", String::new()));
        let words = "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --pid-file --interface=eth0 --user=root \
                     --log-facility=/dev/null --quiet-dhcp --no-ping --dhcp-lease-max=5000 \
                     --dhcp-range=10.79.16.0,10.79.31.255,12h";
        let words: Vec<&str> = words.split_whitespace().chain([leases.as_str()]).collect();
        return host.start(&words, &log);
    }
    let leases = file("leases.csv", String::new());
    fs::remove_file(&leases).unwrap();
    let config = format!(
        r#"{{"Dhcp4": {{"interfaces-config": {{"interfaces": ["eth0"]}}, "valid-lifetime": 43200,
        "lease-database": {{"type": "memfile", "persist": true, "name": "{leases}"}},
        "subnet4": [{{"subnet": "10.79.0.0/16", "id": 1, "pools": [{{"pool": "10.79.16.0-10.79.31.255"}}]}}],
        "loggers": [{{"name": "kea-dhcp4", "severity": "ERROR", "output_options": [{{"output": "stdout"}}]}}]}}}}"#
    );
    let config = file("kea.conf", config);
    let dir = dir.to_str().unwrap();
    let line = format!("KEA_PIDFILE_DIR={dir} KEA_LOCKFILE_DIR={dir} exec kea-dhcp4 -c {config}");
    host.start(&["sh", "-c", &line], &log)
}

fn mac(phone: u32) -> [u8; 6] {
    let [_, a, b, c] = phone.to_be_bytes();
    [0x00, 0x04, 0xf2, a, b, c]
}

/// Waits until the server leases.
fn ready(socket: &UdpSocket, place: Place) {
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut bytes = [0; 1500];
    wait_for(Duration::from_secs(30), || {
        let _ = socket.send_to(&messages::discover(1, [2, 0, 0, 0, 0, 1], place.relay), (place.server, 67));
        socket.recv(&mut bytes).ok()
    })
    .expect("a server that leases");
    while socket.recv(&mut bytes).is_ok() {}
}

struct Flight {
    phone: u32,
    begin: Instant,
    sent: Instant,
}

/// Every phone once, so many at a time; from DISCOVER to ACK.
fn closed(socket: &UdpSocket, place: Place, phones: u32) -> Vec<Duration> {
    let mut flights: HashMap<u32, Flight> = HashMap::new();
    let mut waiting = 0..phones;
    let mut times = Vec::new();
    let mut bytes = [0; 1500];
    let end = Instant::now() + Duration::from_secs(60);
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let launch = |phone: u32, flights: &mut HashMap<u32, Flight>| {
        let now = Instant::now();
        let begin = flights.get(&(phone + 100)).map_or(now, |flight| flight.begin);
        socket.send_to(&messages::discover(phone + 100, mac(phone), place.relay), (place.server, 67)).unwrap();
        flights.insert(phone + 100, Flight { phone, begin, sent: now });
    };
    loop {
        while flights.len() < FLIGHT {
            let Some(phone) = waiting.next() else { break };
            launch(phone, &mut flights);
        }
        if flights.is_empty() || Instant::now() > end {
            return times;
        }
        let Ok(length) = socket.recv(&mut bytes) else {
            let late: Vec<u32> =
                flights.values().filter(|f| f.sent.elapsed() > Duration::from_secs(1)).map(|f| f.phone).collect();
            late.into_iter().for_each(|phone| launch(phone, &mut flights));
            continue;
        };
        let Some(number) = messages::xid(&bytes[..length]) else { continue };
        let Some(flight) = flights.get_mut(&number) else { continue };
        match messages::kind(&bytes[..length]) {
            Some(OFFER) => {
                flight.sent = Instant::now();
                let request = messages::select(&bytes[..length], mac(flight.phone), place.relay).unwrap();
                socket.send_to(&request, (place.server, 67)).unwrap();
            }
            Some(ACK) => {
                times.push(flight.begin.elapsed());
                flights.remove(&number);
            }
            _ => {}
        }
    }
}

/// Phones that come back at a steady rate, however long each takes; from DISCOVER to ACK.
fn open(socket: &UdpSocket, place: Place, each_second: u32, count: u32) -> Vec<Duration> {
    let begin = Instant::now();
    let mut begun: HashMap<u32, Instant> = HashMap::new();
    let mut times = Vec::new();
    let mut bytes = [0; 1500];
    let mut next = 0;
    socket.set_nonblocking(true).unwrap();
    loop {
        if next < count && begin.elapsed() >= Duration::from_secs(1) * next / each_second {
            let number = 1_000_000 + next;
            begun.insert(number, Instant::now());
            socket.send_to(&messages::discover(number, mac(next), place.relay), (place.server, 67)).unwrap();
            next += 1;
        }
        if let Ok(length) = socket.recv(&mut bytes) {
            let message = &bytes[..length];
            let Some((number, start)) = messages::xid(message).and_then(|number| Some((number, *begun.get(&number)?)))
            else {
                continue;
            };
            match messages::kind(message) {
                Some(OFFER) => {
                    let request = messages::select(message, mac(number - 1_000_000), place.relay).unwrap();
                    socket.send_to(&request, (place.server, 67)).unwrap();
                }
                Some(ACK) => {
                    begun.remove(&number);
                    times.push(start.elapsed());
                }
                _ => {}
            }
        } else if next == count && (begun.is_empty() || begin.elapsed() > Duration::from_secs(30)) {
            socket.set_nonblocking(false).unwrap();
            return times;
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// OFFERs to phones that were never there, five a second, while each address is asked for on the link before.
fn never_seen() {
    let mut net = Net::new();
    let (box_, load) = (net.host("server"), net.host("load"));
    let load = cable(&net, &box_, &load);
    let _server = start("lineside", &box_, &net.dir());
    let socket = load.inside(|| messages::socket(None, CABLE.relay, 67)).join().unwrap();
    ready(&socket, CABLE);
    std::thread::sleep(Duration::from_secs(1));
    let mut bytes = [0; 1500];
    let mut times = Vec::new();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    for phone in 0..50 {
        let begin = Instant::now();
        socket.send_to(&messages::discover(phone, mac(phone), CABLE.relay), (CABLE.server, 67)).unwrap();
        if socket.recv(&mut bytes).is_ok() {
            times.push(begin.elapsed());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    times.sort();
    println!(
        "lineside: OFFER to a phone that was never here, conflict detection on, 5 a second: {}/50, median {:?}, worst {:?}",
        times.len(),
        at(&times, 50),
        at(&times, 100)
    );
}

/// Fifty phones have leases; power goes and comes, and all of them start at once.
fn power_cut() {
    let mut net = Net::new();
    let (box_, load) = (net.host("server"), net.host("load"));
    let load = cable(&net, &box_, &load);
    let server = start("lineside", &box_, &net.dir());
    let socket = load.inside(|| messages::socket(None, CABLE.relay, 67)).join().unwrap();
    ready(&socket, CABLE);
    let leased = closed(&socket, CABLE, 50).len();
    server.signal("KILL");
    drop(server);
    let begin = Instant::now();
    let _server = start("lineside", &box_, &net.dir());
    // Phones repeat themselves; every 20 ms here.
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut bytes = [0; 1500];
    while begin.elapsed() < Duration::from_secs(30) {
        let _ = socket.send_to(&messages::discover(9, mac(0), CABLE.relay), (CABLE.server, 67));
        if socket.recv(&mut bytes).is_ok() {
            break;
        }
    }
    let (up, begin) = (begin.elapsed(), Instant::now());
    let again = closed(&socket, CABLE, 50).len();
    println!(
        "lineside: after kill -9 it answers {up:?} after its start; then {again} of {leased} phones are leased within {:?}",
        begin.elapsed()
    );
}

fn at(sorted: &[Duration], share: usize) -> Duration {
    sorted.get((sorted.len() * share / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Processor time of a process and its threads.
fn cpu(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}
