//! The same race while the same appliance serves 50 phones by TFTP as fast as they take it.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::net::{self, Host, wait_for};
use crate::site::{BOX_LAN, Deployment};
use crate::{capture, messages, race, show};

/// So many phones on so many hosts: an appliance lets one device have eight transfers.
const HOSTS: usize = 10;
const PHONES_EACH: usize = 5;

pub fn while_serving(boots: usize) {
    if !net::can_run("the benchmark beside TFTP", &["ip", "curl", "tcpdump", "dnsmasq"]) {
        return;
    }
    let mut site = Deployment::new();
    fs::write(site.fleet.join("files/ring.bin"), vec![7; 4 << 20]).unwrap();
    let path = site.fleet.join("sites/sample-office.toml");
    let settings = fs::read_to_string(&path).unwrap().replacen("[dhcp]\n", "[dhcp]\nmode = \"augment\"\n", 1);
    fs::write(&path, settings).unwrap();
    site.enroll();
    site.hq(&["publish"]);
    let router = site.phone_at("02:00:00:00:00:01", "192.168.77.254");
    let words = "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --pid-file --interface=eth0 --user=root --log-facility=- \
                 --leasefile-ro --dhcp-authoritative --dhcp-range=192.168.77.50,192.168.77.199,600s";
    let running = router.start(&words.split_whitespace().collect::<Vec<_>>(), &site.net.dir().join("router.log"));
    running.says("DHCP, IP range");
    site.start();
    site.serves(1);
    let known = wait_for(Duration::from_secs(20), || {
        site.status()["dhcp-servers"].as_array().is_some_and(|all| all.len() == 1).then_some(())
    });
    assert!(known.is_some(), "{:#}", site.status());

    let path = site.net.dir().join("lan.pcap");
    let words = format!("tcpdump -i br0 -n -U -w {} udp port 67 or udp port 68", path.display());
    let capture = site.lan.start(&words.split(' ').collect::<Vec<_>>(), &site.net.dir().join("tcpdump.log"));
    capture.says("listening on");

    let stop = Arc::new(AtomicBool::new(false));
    let bytes = Arc::new(AtomicU64::new(0));
    let mut phones = Vec::new();
    for number in 0..HOSTS {
        let address = format!("192.168.77.{}", 200 + number);
        let host = site.phone_at(&format!("02:00:00:00:01:{number:02x}"), &address);
        for _ in 0..PHONES_EACH {
            phones.push(fetch(&host, &address, &stop, &bytes));
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    let (before, begin) = (bytes.load(Ordering::Relaxed), Instant::now());
    let phone = site.phone(crate::site::POLYCOM);
    let (outcomes, starts) = race(&phone, [0x00, 0x04, 0xf2, 0, 0, 2], BOX_LAN.parse().unwrap(), boots);
    let speed = (bytes.load(Ordering::Relaxed) - before) as f64 / 1e6 / begin.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    phones.into_iter().for_each(|phone| phone.join().unwrap());
    drop(capture);
    let mac = site.site.sh("cat /sys/class/net/lan0/address");
    let mac: Vec<u8> = mac.trim().split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    let ours = capture::answers(&path, mac.try_into().unwrap());
    show("DnsmasqAuthoritative, TFTP", &outcomes, &ours[0]);
    show("the same, starts again", &starts, &ours[1]);
    println!("  meanwhile {} phones took {speed:.0} MB/s by TFTP in windows of 16", HOSTS * PHONES_EACH);
}

/// One phone that fetches again and again until it is told to stop.
fn fetch(host: &Host, address: &str, stop: &Arc<AtomicBool>, bytes: &Arc<AtomicU64>) -> std::thread::JoinHandle<()> {
    let (own, stop, bytes) = (address.parse::<Ipv4Addr>().unwrap(), Arc::clone(stop), Arc::clone(bytes));
    host.inside(move || {
        while !stop.load(Ordering::Relaxed) {
            let socket = messages::socket(None, own, 0);
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            one(&socket, &stop, &bytes);
        }
    })
}

fn one(socket: &UdpSocket, stop: &AtomicBool, bytes: &AtomicU64) {
    let request = [&b"\0\x01ring.bin\0octet\0blksize\0"[..], b"1428\0windowsize\0", b"16\0"].concat();
    socket.send_to(&request, (BOX_LAN, 69)).unwrap();
    let mut packet = [0; 2048];
    let mut next = 1_u16;
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut packet) else { return };
        match packet[..length] {
            [0, 6, ..] => drop(socket.send_to(&[0, 4, 0, 0], from)),
            [0, 3, high, low, ..] => {
                if u16::from_be_bytes([high, low]) == next {
                    bytes.fetch_add(length as u64 - 4, Ordering::Relaxed);
                    let last = length < 1428 + 4;
                    if next.is_multiple_of(16) || last {
                        let _ = socket.send_to(&[0, 4, high, low], from);
                    }
                    if last {
                        return;
                    }
                    next = next.wrapping_add(1);
                }
            }
            _ => return std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
