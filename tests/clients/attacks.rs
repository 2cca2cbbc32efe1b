//! What is tried against provisioning servers, against the shipped program: public tools' patterns, and an ARP thief.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::net::{can_run, wait_for};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment, POLYCOM, POLYCOM_FILE, STRANGER};
use super::wire::{NOT_FOUND, datagram, frame, get, hear, hear_for, mac, raw, request, rrq, socket, udp_frame};

fn alerts<'a>(status: &'a Value, code: &str) -> Vec<&'a Value> {
    status["alerts"].as_array().unwrap().iter().filter(|alert| alert["code"] == code).collect()
}

/// Default names that SeeYouCM-Thief asks for first.
const SEE_YOU_CM: [&str; 10] = [
    "XMLDefault.cnf.xml",
    "SEPDefault.cnf.xml",
    "SIPDefault.cnf",
    "ITLFile.tlv",
    "CTLFile.tlv",
    "RingList.xml",
    "DistinctiveRingList.xml",
    "jabber-config.xml",
    "ConfigFileCacheList.txt",
    "dialplan.xml",
];

/// What tftp_loot's generic candidates and nmap's tftp-enum list are like: routers' configurations, boot images, default
/// phone files, and a climb out of the directory.
const DEFAULT_NAMES: [&str; 24] = [
    "running-config",
    "startup-config",
    "router-confg",
    "network-confg",
    "cisconet.cfg",
    "ciscortr.cfg",
    "config.txt",
    "backup.cfg",
    "sip.cfg",
    "phone1.cfg",
    "000000000000.cfg",
    "000000000000-directory.xml",
    "aastra.cfg",
    "y000000000028.cfg",
    "snom300.htm",
    "cfg.xml",
    "pxelinux.0",
    "pxelinux.cfg/default",
    "bootmgr.exe",
    "winnt.sif",
    "../../../../etc/passwd",
    "..\\..\\boot.ini",
    "/etc/shadow",
    "C:\\windows\\win.ini",
];

#[test]
fn public_tools_get_no_secret_byte_and_raise_one_alert_and_a_phone_that_guesses_still_boots() {
    if !can_run("public_tools_get_no_secret_byte", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let secrets = [site.preview(CISCO, CISCO_FILE), site.preview(POLYCOM, POLYCOM_FILE)];
    // What a phone's own file shares with the one for everybody is no secret.
    let shared = site.preview(POLYCOM, "000000000000.cfg");
    let holds = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|at| at == part);
    let own: Vec<&[u8]> = secrets.iter().flat_map(|file| file.windows(24).step_by(8)).collect();
    let own: Vec<&[u8]> = own.into_iter().filter(|part| !holds(&shared, part)).collect();
    assert!(own.len() > 100);
    let is_secret = |bytes: &[u8]| own.iter().any(|part| holds(bytes, part));
    // 4,096 addresses around the known phone's, as SeeYouCM-Thief does; the phone's own is among them.
    let brute = (0..4096u32).map(|tail| format!("SEP001B54000{tail:03X}.cnf.xml"));
    let names: Vec<String> =
        SEE_YOU_CM.iter().chain(&DEFAULT_NAMES).map(|name| (*name).to_owned()).chain(brute).collect();

    let stranger = site.phone_at(STRANGER, "192.168.77.66");
    let thief = socket(&stranger, "192.168.77.66:0");
    assert_eq!(get(&thief, BOX_LAN, CISCO_FILE).unwrap_err(), NOT_FOUND);
    let (mut refused, mut data) = (0, Vec::new());
    let mut sort = |packets: Vec<Vec<u8>>| {
        for packet in packets {
            match packet.get(..2) {
                Some([0, 3]) => data.push(packet),
                _ => {
                    assert_eq!(packet, NOT_FOUND, "the same packet for everything that is not served");
                    refused += 1;
                }
            }
        }
    };
    for names in names.chunks(64) {
        for name in names {
            thief.send_to(&rrq(name), format!("{BOX_LAN}:69")).unwrap();
        }
        sort(hear_for(&thief, Duration::from_millis(30)));
    }
    sort(hear_for(&thief, Duration::from_secs(1)));
    println!("of {} requests {refused} were refused, {} blocks came", names.len(), data.len());
    assert!(refused > 100, "{refused}");
    assert!(!data.iter().any(|packet| is_secret(packet)), "a phone's own bytes left");
    let status = site.status();
    let scans = alerts(&status, "guessing-device");
    assert_eq!((scans.len(), &scans[0]["count"]), (1, &Value::from(1)), "{status:#}");
    assert!(scans[0]["text"].as_str().unwrap().contains(STRANGER));

    // The same from the phone itself, or from somebody under its address: it still boots, at once.
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let guesses = socket(&phone, "192.168.77.20:0");
    assert!(get(&guesses, BOX_LAN, CISCO_FILE).is_ok(), "the box knows whose address it is");
    for name in names.iter().skip(40).take(1000).filter(|name| *name != CISCO_FILE) {
        guesses.send_to(&rrq(name), format!("{BOX_LAN}:69")).unwrap();
    }
    let boot = socket(&phone, "192.168.77.20:0");
    for name in ["CTLSEP001B54000001.tlv", "ITLSEP001B54000001.tlv", "ITLFile.tlv"] {
        assert_eq!(get(&boot, BOX_LAN, name).unwrap_err(), NOT_FOUND, "{name}");
    }
    assert_eq!(get(&boot, BOX_LAN, CISCO_FILE), Ok(secrets[0].clone()));
    let status = site.status();
    assert_eq!(alerts(&status, "guessing-device").len(), 2, "one more, for the phone: {status:#}");
    assert!(status["counters"]["tftp.rate-limited"].as_u64() > Some(0), "{status:#}");
}

#[test]
fn not_yours_and_not_found_take_the_same_time() {
    if !can_run("not_yours_and_not_found_take_the_same_time", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let socket = socket(&phone, "192.168.77.20:0");
    assert!(get(&socket, BOX_LAN, CISCO_FILE).is_ok());
    // One that is there and another phone's, one of a phone that is there, one of nobody's, and no address at all.
    let kinds = [POLYCOM_FILE, "0004f2000002.cfx", "0004f2999992.cfg", "nothing-here.cfg"];
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); kinds.len()];
    for _ in 0..60 {
        for (name, times) in kinds.iter().zip(&mut times) {
            let asked = Instant::now();
            assert_eq!(get(&socket, BOX_LAN, name).unwrap_err(), NOT_FOUND);
            times.push(asked.elapsed());
        }
    }
    let medians: Vec<Duration> = times
        .iter_mut()
        .map(|times| {
            times.sort();
            times[times.len() / 2]
        })
        .collect();
    println!("medians of 60: {:?}", kinds.iter().zip(&medians).collect::<Vec<_>>());
    // Generous, for busy machines: a lookup that read the disk or the release would be far slower than its neighbour.
    let (least, most) = (medians.iter().min().unwrap(), medians.iter().max().unwrap());
    assert!(*most < *least * 2 + Duration::from_micros(300), "{medians:?}");
}

#[test]
fn a_thief_who_claims_an_unplugged_phones_address_gets_not_one_byte() {
    if !can_run("a_thief_who_claims_an_unplugged_phones_address", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    assert_eq!(
        get(&socket(&phone, "192.168.77.20:0"), BOX_LAN, CISCO_FILE),
        Ok(site.preview(CISCO, CISCO_FILE)),
        "the box knows whose address it is"
    );
    phone.sh("ip link del eth0");

    // The thief asks under the phone's address without saying by ARP that it has it: so the request is the phone's.
    let thief = site.phone_at(STRANGER, "192.168.77.66");
    thief.sh("ip addr flush dev eth0 && ip addr add 192.168.77.20/24 dev eth0");
    let mac = site.site.sh("cat /sys/class/net/lan0/address");
    thief.sh("echo 8 >/proc/sys/net/ipv4/conf/all/arp_ignore");
    thief.sh(&format!("ip neigh replace {BOX_LAN} lladdr {} nud permanent dev eth0", mac.trim()));
    let ears = socket(&thief, "192.168.77.20:0");
    ears.send_to(&request(1, CISCO_FILE, &[("blksize", "8")]), format!("{BOX_LAN}:69")).unwrap();
    let plain = socket(&thief, "192.168.77.20:0");
    plain.send_to(&rrq(CISCO_FILE), format!("{BOX_LAN}:69")).unwrap();
    let begun =
        wait_for(Duration::from_secs(5), || (site.status()["counters"]["tftp.rrq"].as_u64() == Some(3)).then_some(()));
    assert!(begun.is_some(), "{}", site.appliance_log());

    // Now it claims the address, and waits for what is sent again.
    thief.sh("echo 0 >/proc/sys/net/ipv4/conf/all/arp_ignore");
    thief.sh(&format!("ip neigh del {BOX_LAN} dev eth0"));
    let claim = socket(&thief, "192.168.77.20:0");
    claim.send_to(b"", format!("{BOX_LAN}:9")).unwrap();
    let heard = [hear_for(&ears, Duration::from_secs(6)), hear_for(&plain, Duration::from_millis(100))].concat();
    assert!(heard.is_empty(), "the thief heard {} packets: {heard:?}\n{}", heard.len(), site.appliance_log());

    // What is left: that the transfers were begun as the phone's and ended, and who took the address.
    let status = site.status();
    let ended: Vec<&Value> =
        status["transfers"].as_array().unwrap().iter().filter(|t| t["outcome"] == "failed").collect();
    assert_eq!(ended.len(), 2, "{status:#}");
    assert!(ended.iter().all(|transfer| transfer["device"] == CISCO && transfer["bytes"] == 0), "{status:#}");
    // The claim ended them, or that nobody answered for the phone within a second.
    let ended = ["tftp.binding-lost", "tftp.not-there"].map(|name| status["counters"][name].as_u64().unwrap_or(0));
    assert!(ended.iter().sum::<u64>() >= 2, "{status:#}");
    let conflicts = alerts(&status, "address-conflict");
    assert_eq!(conflicts.len(), 1, "{status:#}");
    let text = conflicts[0]["text"].as_str().unwrap();
    assert!(text.starts_with(&format!("192.168.77.20 went from phone {CISCO} to {STRANGER}, ")), "{text}");
    // Asked again under that address, it is a stranger.
    assert_eq!(get(&claim, BOX_LAN, CISCO_FILE).unwrap_err(), NOT_FOUND);
}

#[test]
fn a_claim_by_arp_that_lasts_less_than_a_millisecond_gets_not_one_byte_in_400_tries() {
    const TRIES: u16 = 400;
    if !can_run("a_claim_by_arp_that_lasts_less_than_a_millisecond", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::new();
    // To see what frames are for: with this the appliance may open no packet socket, and the thief gets some.
    if std::env::var_os("LINESIDE_WITHOUT_FRAMES").is_some() {
        site.under = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"].map(str::to_owned).to_vec();
    }
    site.enroll();
    site.hq(&["publish"]);
    site.start();
    site.serves(1);
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let own = site.preview(CISCO, CISCO_FILE);
    assert_eq!(get(&socket(&phone, "192.168.77.20:0"), BOX_LAN, CISCO_FILE), Ok(own.clone()), "the box knows it");

    // The phone answers what it did not ask for, as phones do: with ERROR 5, so that no transfer stays.
    let phones = raw(&phone, "eth0");
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let phones = std::thread::spawn(move || {
        let mut blocks = 0;
        while !told.load(Ordering::Relaxed) {
            let Some(heard) = frame(&phones) else { continue };
            let Some((from, to, [0, 3, ..])) = datagram(&heard) else { continue };
            let (here, box_mac): ([u8; 6], [u8; 6]) =
                (heard[..6].try_into().unwrap(), heard[6..12].try_into().unwrap());
            assert_eq!(here, mac(CISCO), "a block for another hardware address");
            phones.send(&udp_frame((here, box_mac), to, from, b"\0\x05\0\x05Unknown transfer ID\0")).unwrap();
            blocks += 1;
        }
        blocks
    });

    // Every frame of the thief is from its own address; only what its ARP says is not true, for a moment.
    let thief = site.phone_at(STRANGER, "192.168.77.66");
    let box_mac = mac(&site.site.sh("cat /sys/class/net/lan0/address"));
    let (thief_mac, phone_mac) = (mac(STRANGER), mac(CISCO));
    let thiefs = raw(&thief, "eth0");
    let claim = |whose: [u8; 6]| {
        let address = [192, 168, 77, 20];
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &whose, &address, &[0; 6], &address].concat();
        [&box_mac[..], &thief_mac, &[8, 6], &arp].concat()
    };
    let (mut stolen, mut blocks) = (0, 0);
    for attempt in 0..TRIES {
        let from = format!("192.168.77.20:{}", 20_000 + attempt).parse().unwrap();
        let to = format!("{BOX_LAN}:69").parse().unwrap();
        let request = udp_frame((thief_mac, box_mac), from, to, &rrq(CISCO_FILE));
        let (take, back) = (claim(thief_mac), claim(phone_mac));
        let begun = Instant::now();
        thiefs.send(&take).unwrap();
        thiefs.send(&request).unwrap();
        // From at once to 0.4 ms later.
        while begun.elapsed() < Duration::from_micros(u64::from(attempt)) {}
        thiefs.send(&back).unwrap();
        let end = Instant::now() + Duration::from_millis(35);
        while Instant::now() < end {
            let Some(heard) = frame(&thiefs) else { continue };
            if let Some((_, _, [0, 3, _, _, bytes @ ..])) = datagram(&heard) {
                (stolen, blocks) = (stolen + bytes.len(), blocks + 1);
                assert!(own.starts_with(bytes), "a block of the file");
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    let reached = phones.join().unwrap();
    println!("of {TRIES} tries {blocks} brought the thief a block, {stolen} bytes; {reached} blocks reached the phone");
    assert_eq!(stolen, 0, "{}", site.appliance_log());
    assert!(reached > TRIES / 20, "the requests were decided as the phone's: {reached}\n{:#}", site.status());
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(get(&socket(&phone, "192.168.77.20:0"), BOX_LAN, CISCO_FILE), Ok(own), "the phone is served");
}

#[test]
fn after_a_restart_of_the_box_a_phone_that_is_up_is_resolved_and_answered_within_a_second() {
    if !can_run("after_a_restart_of_the_box_a_phone_that_is_up_is_resolved", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    // The phone knows the box and has no reason to ask by ARP; the box knows nobody.
    let mac = site.site.sh("cat /sys/class/net/lan0/address");
    phone.sh(&format!("ip neigh replace {BOX_LAN} lladdr {} nud permanent dev eth0", mac.trim()));
    let mut appliance = site.appliance.take().unwrap();
    appliance.signal("TERM");
    appliance.ends_within(Duration::from_secs(10));
    site.site.sh("ip neigh flush dev lan0");
    site.start();
    site.serves(1);
    site.site.sh("ip neigh flush dev lan0");

    let socket = socket(&phone, "192.168.77.20:0");
    let asked = Instant::now();
    assert_eq!(get(&socket, BOX_LAN, CISCO_FILE), Ok(site.preview(CISCO, CISCO_FILE)), "{}", site.appliance_log());
    println!("resolved and served in {:?}", asked.elapsed());
    let status = site.status();
    assert_eq!(status["counters"]["tftp.held"], 1, "it was not known: {status:#}");
    let took = status["transfers"][0]["milliseconds"].as_u64().unwrap();
    assert!(took < 1000, "{took} ms");
}

#[test]
fn a_client_that_never_answers_gets_at_most_3_kb_and_five_packets() {
    if !can_run("a_client_that_never_answers", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let options: [&[(&str, &str)]; 3] =
        [&[], &[("blksize", "1468"), ("windowsize", "64"), ("tsize", "0")], &[("timeout", "1"), ("blksize", "8")]];
    let polycom = site.phone_at(POLYCOM, "192.168.77.21");
    let short = socket(&polycom, "192.168.77.21:0");
    short.send_to(&rrq(POLYCOM_FILE), format!("{BOX_LAN}:69")).unwrap();
    let asked: Vec<UdpSocket> = options
        .iter()
        .map(|options| {
            let socket = socket(&phone, "192.168.77.20:0");
            socket.send_to(&request(1, CISCO_FILE, options), format!("{BOX_LAN}:69")).unwrap();
            socket
        })
        .collect();
    std::thread::sleep(Duration::from_secs(16));
    for (socket, options) in asked.iter().zip(options) {
        let heard = hear_for(socket, Duration::from_millis(50));
        let bytes: usize = heard.iter().map(Vec::len).sum();
        println!("{options:?}: {} packets, {bytes} bytes", heard.len());
        assert!((1..=5).contains(&heard.len()) && bytes <= 3000, "{options:?}: {} packets, {bytes} bytes", heard.len());
    }
    let status = site.status();
    let ended = |status: &Value, outcome: &str| {
        status["transfers"].as_array().unwrap().iter().filter(|transfer| transfer["outcome"] == outcome).count()
    };
    assert_eq!(ended(&status, "timed-out"), 3, "a bounded time: {status:#}");
    // A file of one block was sent whole; only its acknowledgement would prove that it came.
    assert_eq!(ended(&status, "unconfirmed"), 1, "{status:#}");

    // An ERROR at any moment ends it: nothing comes after it.
    let socket = socket(&phone, "192.168.77.20:0");
    socket.send_to(&rrq(CISCO_FILE), format!("{BOX_LAN}:69")).unwrap();
    let (_, from) = hear(&socket).expect("the first block");
    socket.send_to(b"\0\x05\0\0enough\0", from).unwrap();
    assert!(hear_for(&socket, Duration::from_millis(1500)).is_empty());
    let status = site.status();
    assert_eq!(ended(&status, "aborted"), 1, "{status:#}");
    // That this LAN has no DHCP server is one.
    let all = status["alerts"].as_array().unwrap();
    assert_eq!(all.len(), alerts(&status, "dhcp-mode").len(), "probes and silent phones are no alarm: {status:#}");
}

#[test]
fn a_device_that_answers_for_76_addresses_leaves_a_phone_its_place() {
    const SHARED: &str = "000000000000.cfg";
    if !can_run("a_device_that_answers_for_76_addresses", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let own = site.preview(CISCO, CISCO_FILE);
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let phone = socket(&phone, "192.168.77.20:0");
    assert!(get(&phone, BOX_LAN, CISCO_FILE).is_ok());
    let crowd = site.phone_at(STRANGER, "192.168.77.100");
    let addresses: Vec<String> = (100..176).map(|last| format!("192.168.77.{last}")).collect();
    crowd.sh(&addresses[1..].iter().map(|one| format!("ip addr add {one}/24 dev eth0\n")).collect::<String>());
    for address in &addresses {
        let _ = get(&socket(&crowd, &format!("{address}:0")), BOX_LAN, SHARED).expect("the box resolves it");
    }
    // Without bounds for a device, 600 transfers would begin: all that there may be.
    let sockets: Vec<UdpSocket> = (0..8)
        .flat_map(|_| addresses.iter().map(|address| socket(&crowd, &format!("{address}:0"))).collect::<Vec<_>>())
        .collect();
    let began = Instant::now();
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
        socket.send_to(&rrq(SHARED), format!("{BOX_LAN}:69")).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let is_data = |socket: &UdpSocket| {
        let mut packet = [0; 1500];
        socket.recv(&mut packet).is_ok() && packet[..2] == [0, 3]
    };
    let served = sockets.iter().filter(|socket| is_data(socket)).count();
    // Who does not answer gives way after a second.
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    println!("{served} of {} transfers began within {:?}", sockets.len(), began.elapsed());
    assert!(served > 8 && served <= 64 * (seconds + 1), "{served} in {seconds} s");
    assert_eq!(get(&phone, BOX_LAN, CISCO_FILE), Ok(own), "{}", site.appliance_log());
}
