//! DHCP clients that others wrote get an address and learn their TFTP server.

use std::time::Duration;

use super::net::{can_run, text};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment};

const ALL: &str = "\n[dhcp]\nmode = \"all\"\nrange = [\"192.168.77.100\", \"192.168.77.110\"]\nrouters = [\"192.168.77.254\"]\nlease-seconds = 600\n";

pub fn leasing() -> Deployment {
    let site = Deployment::new();
    let path = site.fleet.join("sites/sample-office.toml");
    let settings = std::fs::read_to_string(&path).unwrap();
    let kept: String = without_table(&settings, "dhcp");
    std::fs::write(&path, kept + ALL).unwrap();
    let mut site = site;
    site.enroll();
    site.hq(&["publish"]);
    site.start();
    site.serves(1);
    // Other servers have their chance to show first.
    let leases = super::net::wait_for(Duration::from_secs(20), || (site.status()["dhcp-mode"] == "all").then_some(()));
    assert!(leases.is_some(), "{:#}", site.status());
    site
}

/// The file without one table, so that the test can write its own.
pub fn without_table(text: &str, name: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line.trim() == format!("[{name}]");
        }
        if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[test]
fn dhclient_gets_a_lease_with_options_66_and_150_and_then_its_file() {
    if !can_run("dhclient_gets_a_lease", &["ip", "dhclient", "curl"]) {
        return;
    }
    let mut site = leasing();
    let phone = site.phone(CISCO);
    let dir = site.net.dir();
    let config = "option tftp150 code 150 = array of ip-address;\nsend vendor-class-identifier \"Cisco Systems, Inc. IP Phone CP-8941\";\nrequest subnet-mask, routers, tftp-server-name, tftp150;\ntimeout 20;\n";
    std::fs::write(dir.join("dhclient.conf"), config).unwrap();
    std::fs::write(dir.join("leases"), "").unwrap();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (conf, kept, pid) = (path("dhclient.conf"), path("leases"), path("pid"));
    let words = ["dhclient", "-4", "-d", "-sf", "/bin/true", "-cf", &conf, "-lf", &kept, "-pf", &pid, "eth0"];
    let client = phone.start(&words, &dir.join("dhclient.log"));
    client.says("bound to 192.168.77.1");
    let leases = std::fs::read_to_string(dir.join("leases")).unwrap();
    for part in [
        "fixed-address 192.168.77.1".to_owned(),
        format!("option tftp-server-name \"{BOX_LAN}\""),
        format!("option tftp150 {BOX_LAN}"),
        "option routers 192.168.77.254".to_owned(),
        "option subnet-mask 255.255.255.0".to_owned(),
        "option dhcp-lease-time 600".to_owned(),
    ] {
        assert!(leases.contains(&part), "no `{part}` in:\n{leases}\n{}\n{}", client.log(), site.appliance_log());
    }
    let address = leases.split("fixed-address ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    phone.sh(&format!("ip addr add {address}/24 dev eth0"));
    let got = phone.try_sh(&format!("curl -s -m 20 tftp://{BOX_LAN}/{CISCO_FILE}"));
    assert_eq!(got.stdout, site.preview(CISCO, CISCO_FILE), "{}", site.appliance_log());
}

#[test]
fn udhcpc_gets_a_lease_with_options_66_and_150() {
    if !can_run("udhcpc_gets_a_lease", &["ip", "busybox"]) {
        return;
    }
    let mut site = leasing();
    let phone = site.phone(CISCO);
    let dir = site.net.dir();
    let script = dir.join("script");
    std::fs::write(&script, "#!/bin/sh\n[ \"$1\" = bound ] && env > \"$(dirname \"$0\")/bound\"\nexit 0\n").unwrap();
    super::net::sh(&format!("chmod +x {}", script.display()));
    let said = phone.try_sh(&format!(
        "busybox udhcpc -i eth0 -n -q -f -t 5 -T 2 -s {} -O tftp -O 150 -V 'Cisco Systems, Inc. IP Phone CP-9971'",
        script.display()
    ));
    let bound = std::fs::read_to_string(dir.join("bound")).unwrap_or_default();
    // busybox knows no name for option 150 and shows its bytes in hex: 192.168.77.1.
    for part in ["ip=192.168.77.1", &format!("tftp={BOX_LAN}"), "opt150=c0a84d01", "router=192.168.77.254"] {
        assert!(bound.contains(part), "no `{part}` in:\n{bound}\n{}\n{}", text(&said), site.appliance_log());
    }
}

#[test]
fn a_lease_survives_kill_9_and_the_same_phone_gets_the_same_address() {
    if !can_run("a_lease_survives", &["ip", "busybox"]) {
        return;
    }
    let mut site = leasing();
    let phone = site.phone(CISCO);
    let lease = |site: &Deployment| {
        let said = phone.try_sh("busybox udhcpc -i eth0 -n -q -f -t 5 -T 2 -s /bin/true");
        let said = text(&said);
        let (_, rest) = said.split_once("lease of ").unwrap_or_else(|| panic!("{said}\n{}", site.appliance_log()));
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let first = lease(&site);
    site.appliance.as_ref().unwrap().signal("KILL");
    site.appliance = None;
    let other = site.phone("00:1b:54:00:00:77");
    site.start();
    let stranger = text(&other.try_sh("busybox udhcpc -i eth0 -n -q -f -t 5 -T 2 -s /bin/true"));
    assert!(
        stranger.contains("lease of 192.168.77.1") && !stranger.contains(&format!("lease of {first} ")),
        "{stranger}"
    );
    assert_eq!(lease(&site), first);
}
