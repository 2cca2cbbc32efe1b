//! The appliance as a process: what it tells systemd, what signals do, and the demo's way for load tests.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::net::{can_run, wait_for};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment};

/// Reads what was sent to systemd's socket until a message that starts so comes.
fn hears(socket: &UnixDatagram, wanted: &str, within: Duration) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let end = Instant::now() + within;
    let mut buffer = [0; 1024];
    while Instant::now() < end {
        if let Ok(length) = socket.recv(&mut buffer)
            && String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == wanted)
        {
            return true;
        }
    }
    false
}

#[test]
fn systemd_hears_ready_watchdog_and_stopping() {
    if !can_run("systemd_hears", &["ip", "curl", "env"]) {
        return;
    }
    let mut site = Deployment::new();
    site.enroll();
    let path = site.net.dir().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    let notify = format!("NOTIFY_SOCKET={}", path.display());
    site.start_as(&["env", &notify, "WATCHDOG_USEC=1500000"]);
    assert!(hears(&socket, "READY=1", Duration::from_secs(20)), "{}", site.appliance_log());
    assert!(hears(&socket, "WATCHDOG=1", Duration::from_secs(3)), "{}", site.appliance_log());
    assert!(hears(&socket, "WATCHDOG=1", Duration::from_secs(3)), "the watchdog is petted once only");
    let mut appliance = site.appliance.take().unwrap();
    appliance.signal("TERM");
    assert!(hears(&socket, "STOPPING=1", Duration::from_secs(3)), "{}", appliance.log());
    assert!(appliance.ends_within(Duration::from_secs(10)).success());
}

#[test]
fn sighup_polls_now() {
    if !can_run("sighup_polls_now", &["ip", "curl"]) {
        return;
    }
    let site = Deployment::ready();
    let polls = |site: &Deployment| site.status()["counters"]["poll.ok"].as_u64().unwrap_or(0);
    let before = polls(&site);
    site.appliance.as_ref().unwrap().signal("HUP");
    let polled = wait_for(Duration::from_secs(10), || (polls(&site) > before).then_some(()));
    assert!(polled.is_some(), "{}", site.appliance_log());
}

#[test]
fn a_running_transfer_is_finished_before_the_process_ends() {
    if !can_run("a_running_transfer_is_finished", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::new();
    fs::write(site.fleet.join("files/tones.bin"), vec![7; 100_000]).unwrap();
    site.enroll();
    site.hq(&["publish"]);
    site.start();
    site.serves(1);
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let (under_way, told) = std::sync::mpsc::channel();
    let fetch = phone.inside(move || slow_fetch("tones.bin", &under_way));
    told.recv_timeout(Duration::from_secs(20)).expect("the transfer begins");
    let mut appliance = site.appliance.take().unwrap();
    appliance.signal("TERM");
    assert_eq!(fetch.join().unwrap(), 100_000, "{}", appliance.log());
    assert!(appliance.ends_within(Duration::from_secs(10)).success());
}

/// A phone that thinks for 10 ms about each of 196 blocks; tells when it has ten. Returns the bytes that it got.
fn slow_fetch(name: &str, under_way: &std::sync::mpsc::Sender<()>) -> usize {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket.send_to(format!("\0\x01{name}\0octet\0").as_bytes(), (BOX_LAN, 69)).unwrap();
    let (mut buffer, mut got, mut expected) = ([0; 1024], 0, 1u16);
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let block = u16::from_be_bytes([buffer[2], buffer[3]]);
        assert_eq!(buffer[1], 3, "not a DATA packet");
        if block == expected {
            got += length - 4;
            expected += 1;
        }
        if expected == 10 {
            let _ = under_way.send(());
        }
        std::thread::sleep(Duration::from_millis(10));
        socket.send_to(&[0, 4, buffer[2], buffer[3]], from).unwrap();
        if length < 516 {
            break;
        }
    }
    got
}

#[test]
fn a_roll_back_at_the_site_serves_the_release_before_and_holds() {
    if !can_run("a_roll_back_at_the_site", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let first = site.preview(CISCO, CISCO_FILE);
    site.edit("templates/cisco-8941/SEP.cnf.xml.j2", "</device>", "<!-- worse --></device>");
    site.hq(&["publish"]);
    site.serves(2);
    let (done, said) = site.try_lineside(&["roll-back"]);
    assert!(done && said.contains("back from generation 2 to 1"), "{said}");
    let fetch = format!("curl -s -m 20 tftp://{BOX_LAN}/{CISCO_FILE}");
    assert_eq!(phone.try_sh(&fetch).stdout, first);
    site.polls_until("the poll after it", |status| status["state"] == "rolled-back");
    assert_eq!(site.status()["generation"], 1);
    site.edit("templates/cisco-8941/SEP.cnf.xml.j2", "worse", "better");
    site.hq(&["publish"]);
    site.serves(3);
    assert!(String::from_utf8_lossy(&phone.try_sh(&fetch).stdout).contains("better"));
}

#[test]
fn the_demo_serves_a_directory_through_the_whole_path() {
    if !can_run("the_demo_serves_a_directory", &["curl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("SEP001B54000001.cnf.xml"), "mine").unwrap();
    fs::create_dir(dir.path().join("tones")).unwrap();
    fs::write(dir.path().join("tones/ring.raw"), vec![1; 100_000]).unwrap();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let at = format!("127.0.0.1:{port}");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--stay", "--files", dir.path().to_str().unwrap(), "--tftp", &at])
        .args(["--neighbour", "127.0.5.1=00:1b:54:00:00:01"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let fetch = |from: &str, name: &str| {
        let url = format!("tftp://{at}/{name}");
        let output = Command::new("curl").args(["-s", "-m", "5", "--interface", from, &url]).output().unwrap();
        (output.status.code(), output.stdout)
    };
    let served =
        wait_for(Duration::from_secs(60), || (fetch("127.0.5.1", "tones/ring.raw").0 == Some(0)).then_some(()));
    let own = fetch("127.0.5.1", "SEP001B54000001.cnf.xml");
    let shared = fetch("127.0.5.2", "tones/ring.raw");
    let stranger = fetch("127.0.5.2", "SEP001B54000001.cnf.xml");
    Command::new("kill").args(["-TERM", &demo.id().to_string()]).status().unwrap();
    let ended = demo.wait().unwrap();
    assert!(served.is_some(), "the demo never served");
    assert_eq!(own, (Some(0), b"mine".to_vec()));
    assert_eq!(shared, (Some(0), vec![1; 100_000]));
    assert_eq!(stranger, (Some(68), Vec::new()));
    assert!(ended.success());
}
