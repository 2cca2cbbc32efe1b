//! What happens to a running appliance: its card decays, its address changes, phones bring their logs.

use std::fs;
use std::time::Duration;

use super::net::{Host, can_run, text, wait_for};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment, POLYCOM, POLYCOM_FILE, tree};
use super::wire::{NOT_FOUND, get, put, rrq, socket};

const REFUSED: &[u8] = b"\0\x05\0\x02Access violation\0";

#[test]
fn a_blob_that_decays_on_the_card_is_noticed_before_a_byte_leaves_and_fetched_again() {
    if !can_run("a_blob_that_decays_on_the_card", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let expected = site.preview(CISCO, CISCO_FILE);
    // HQ cannot be asked at first, so that what is damaged stays so; and nothing is in memory yet.
    site.serve = None;
    let mut appliance = site.appliance.take().unwrap();
    appliance.signal("TERM");
    appliance.ends_within(Duration::from_secs(10));
    site.start();
    for path in tree(&site.state.join("objects")) {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let socket = socket(&phone, "192.168.77.20:0");
    for _ in 0..2 {
        // As a phone does, asked again if the machine is too busy to answer in two seconds.
        let answer = wait_for(Duration::from_secs(20), || {
            let answer = get(&socket, BOX_LAN, CISCO_FILE).unwrap_err();
            (!answer.is_empty()).then_some(answer)
        });
        let expected = &b"\0\x05\0\0temporary failure\0"[..];
        assert_eq!(answer.as_deref(), Some(expected), "an ERROR, and not a byte of the file");
    }
    let status = site.status();
    let damaged = status["alerts"].as_array().unwrap().iter().filter(|alert| alert["code"] == "damaged-file").count();
    assert_eq!(damaged, 1, "{status:#}");
    assert_eq!(status["transfers"][0]["outcome"], "failed", "{status:#}");
    assert_eq!(status["transfers"][0]["bytes"], 0, "{status:#}");

    site.serve();
    site.try_lineside(&["status", "--poll"]);
    let healed = wait_for(Duration::from_secs(30), || {
        let got = get(&socket, BOX_LAN, CISCO_FILE);
        assert!(got.as_ref().is_ok_and(|got| *got == expected) || got.is_err(), "never other bytes: {got:?}");
        got.ok()
    });
    assert!(healed.is_some(), "{:#}\n{}", site.status(), site.appliance_log());
    assert_eq!(site.status()["generation"], 1);
}

/// What the box's DHCP tells a Polycom phone that asks with DHCPINFORM for its TFTP server.
fn inform(phone: &Host, address: &str) -> Option<Vec<u8>> {
    let socket = socket(phone, &format!("{address}:68"));
    socket.set_broadcast(true).unwrap();
    let octets: Vec<u8> = address.split('.').map(|octet| octet.parse().unwrap()).collect();
    let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    message.extend(octets);
    message.extend([0; 12]);
    message.extend([0x00, 0x04, 0xf2, 0, 0, 2]);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, 8, 60, 15]);
    message.extend(b"Polycom-SPIP670");
    message.extend([55, 2, 66, 160, 255]);
    socket.send_to(&message, "255.255.255.255:67").unwrap();
    super::wire::hear(&socket).map(|(answer, _)| answer)
}

#[test]
fn the_lan_address_changes_and_goes_and_comes_and_the_services_follow_without_a_restart() {
    if !can_run("the_lan_address_changes", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let expected = site.preview(POLYCOM, POLYCOM_FILE);
    let phone = site.phone_at(POLYCOM, "192.168.77.20");
    assert_eq!(get(&socket(&phone, "192.168.77.20:0"), BOX_LAN, POLYCOM_FILE), Ok(expected.clone()));
    let served = |host: &Host, own: &str, server: &str| {
        wait_for(Duration::from_secs(15), || {
            get(&socket(host, &format!("{own}:0")), server, POLYCOM_FILE).ok().filter(|got| *got == expected)
        })
        .is_some()
    };

    // Another network: a router was replaced.
    site.site.sh("ip addr flush dev lan0 && ip addr add 192.168.88.5/24 dev lan0");
    phone.sh("ip addr flush dev eth0 && ip addr add 192.168.88.20/24 dev eth0");
    assert!(served(&phone, "192.168.88.20", "192.168.88.5"), "{}", site.appliance_log());
    let told = wait_for(Duration::from_secs(15), || inform(&phone, "192.168.88.20"));
    let told = told.unwrap_or_else(|| panic!("DHCP is silent:\n{}", site.appliance_log()));
    assert!(told.windows(12).any(|part| part == b"192.168.88.5"), "option 66 names the new address: {told:?}");

    // The interface is down for a moment: nothing has to begin anew.
    site.site.sh("ip link set lan0 down && sleep 3 && ip link set lan0 up");
    assert!(served(&phone, "192.168.88.20", "192.168.88.5"), "{}", site.appliance_log());

    // No address at all, and then the first again.
    site.site.sh("ip addr flush dev lan0");
    let alerted = wait_for(Duration::from_secs(10), || {
        let status = site.status();
        status["alerts"].as_array().unwrap().iter().any(|alert| alert["code"] == "no-lan").then_some(())
    });
    assert!(alerted.is_some(), "{:#}", site.status());
    site.site.sh("ip addr add 192.168.77.1/24 dev lan0");
    phone.sh("ip addr flush dev eth0 && ip addr add 192.168.77.20/24 dev eth0");
    assert!(served(&phone, "192.168.77.20", BOX_LAN), "{}", site.appliance_log());

    // Another interface of that name: a USB adapter was plugged in again.
    let mac = site.site.sh("cat /sys/class/net/lan0/address");
    site.site.sh("ip link del lan0");
    site.net.plug(&site.site, "lan0", &site.lan, Some(mac.trim()));
    site.site.sh("ip addr add 192.168.77.1/24 dev lan0");
    assert!(served(&phone, "192.168.77.20", BOX_LAN), "{}", site.appliance_log());

    let status = site.status();
    assert_eq!(status["counters"]["lan.changed"], 3, "{status:#}");
    assert!(!status["alerts"].as_array().unwrap().iter().any(|alert| alert["code"] == "no-lan"), "{status:#}");
    assert_eq!(site.appliance_log().matches(" starting").count(), 1, "the process went on:\n{}", site.appliance_log());
}

#[test]
fn a_polycom_brings_its_own_log_where_hq_says_so_and_nobody_brings_anything_else() {
    if !can_run("a_polycom_brings_its_own_log", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let polycom = site.phone_at(POLYCOM, "192.168.77.21");
    let cisco = site.phone_at(CISCO, "192.168.77.20");
    let (own, other) = (socket(&polycom, "192.168.77.21:0"), socket(&cisco, "192.168.77.20:0"));
    let log = b"boot\x1b[2J\nregistered\n".repeat(100);
    assert_eq!(put(&own, BOX_LAN, "0004f2000002-app.log", &log), REFUSED, "off by default");

    site.edit("fleet.toml", "# accept-logs = false", "accept-logs = true");
    site.hq(&["publish"]);
    site.serves(2);
    let last = put(&own, BOX_LAN, "0004f2000002-app.log", &log);
    let [_, blocks] = u16::try_from(log.len() / 512 + 1).unwrap().to_be_bytes();
    assert_eq!(last, [0, 4, 0, blocks], "{}", site.appliance_log());
    for (socket, name) in [
        (&other, "0004f2000002-app.log"),
        (&other, "0004f2000002-boot.log"),
        (&own, "0004f2000002-phone.cfg"),
        (&own, "0004f2000002-directory.xml"),
        (&own, POLYCOM_FILE),
        (&own, "001b54000001-app.log"),
        (&own, "logs/0004f2000002-app.log"),
        (&own, "../0004f2000002-app.log"),
        (&own, "new.txt"),
    ] {
        assert_eq!(put(socket, BOX_LAN, name, b"x"), REFUSED, "{name}");
    }
    // It is in no served tree, not even for its writer.
    own.send_to(&rrq("0004f2000002-app.log"), format!("{BOX_LAN}:69")).unwrap();
    assert_eq!(super::wire::hear(&own).unwrap().0, NOT_FOUND);

    let kept: Vec<_> = tree(&site.state.join("logs"));
    assert_eq!(kept, [site.state.join("logs/0004f2000002-app.log")]);
    assert!(fs::read(&kept[0]).unwrap().ends_with(&log));
    let (done, list) = site.try_lineside(&["logs"]);
    assert!(done && list.contains("0004f2000002-app.log"), "{list}");
    let (done, shown) = site.try_lineside(&["logs", POLYCOM]);
    assert!(done && shown.contains("registered") && !shown.contains('\x1b'), "{shown}");
    let status = site.status();
    assert_eq!(status["counters"]["tftp.refused.write-refused"], 10, "{status:#}");
    // The record comes when the last acknowledgement need not be repeated any more.
    let taken = wait_for(Duration::from_secs(10), || {
        let status = site.status();
        status["transfers"].as_array().unwrap().iter().find(|one| one["outcome"] == "received").cloned()
    });
    let taken = taken.unwrap_or_else(|| panic!("{:#}", site.status()));
    assert_eq!((&taken["device"], &taken["bytes"]), (&POLYCOM.into(), &log.len().into()));

    // A client that others wrote, and the text that people see.
    let said = polycom.try_sh(&format!("echo by curl | curl -s -m 20 -T - tftp://{BOX_LAN}/0004f2000002-boot.log"));
    assert!(said.status.success(), "{}", text(&said));
    let (_, shown) = site.try_lineside(&["logs", POLYCOM]);
    assert!(shown.contains("by curl"), "{shown}");
    let (_, people) = site.try_lineside(&["status"]);
    assert!(people.contains("last transfers") && people.contains("received"), "{people}");
}
