//! TFTP clients that others wrote fetch what HQ published, and only what is theirs.

use super::net::{can_run, text};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment, POLYCOM, POLYCOM_FILE, STRANGER};

#[test]
fn four_clients_fetch_a_file_published_at_hq_byte_for_byte() {
    if !can_run("four_clients_fetch_a_file", &["ip", "curl", "tftp", "atftp", "busybox"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let dir = site.net.dir();
    let expected = site.preview(CISCO, CISCO_FILE);
    let clients = [
        ("curl", format!("curl -s -m 20 -o out tftp://{BOX_LAN}/{CISCO_FILE}")),
        ("curl without options", format!("curl -s -m 20 --tftp-no-options -o out tftp://{BOX_LAN}/{CISCO_FILE}")),
        ("curl, blksize 1400", format!("curl -s -m 20 --tftp-blksize 1400 -o out tftp://{BOX_LAN}/{CISCO_FILE}")),
        ("tftp-hpa", format!("tftp -m binary {BOX_LAN} -c get {CISCO_FILE} out")),
        ("atftp", format!("atftp -g -r {CISCO_FILE} -l out {BOX_LAN}")),
        (
            "atftp, blksize",
            format!("atftp --option 'blksize 1024' --option 'tsize 0' -g -r {CISCO_FILE} -l out {BOX_LAN}"),
        ),
        ("busybox", format!("busybox tftp -g -r {CISCO_FILE} -l out {BOX_LAN}")),
        ("busybox, blksize", format!("busybox tftp -b 1024 -g -r {CISCO_FILE} -l out {BOX_LAN}")),
    ];
    for (client, line) in &clients {
        let said = phone.try_sh(&format!("cd {} && rm -f out && {line}", dir.display()));
        let got = std::fs::read(dir.join("out")).unwrap_or_default();
        assert_eq!(got, expected, "{client}: {}\n{}", text(&said), site.appliance_log());
    }
    let delivered = site.status()["counters"]["tftp.delivered"].as_u64().unwrap();
    assert_eq!(delivered, clients.len() as u64, "every transfer ended with its last block acknowledged");
}

#[test]
fn a_phone_gets_its_own_files_and_no_other_phones() {
    if !can_run("a_phone_gets_its_own_files", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let cisco = site.phone_at(CISCO, "192.168.77.20");
    let polycom = site.phone_at(POLYCOM, "192.168.77.21");
    let stranger = site.phone_at(STRANGER, "192.168.77.66");
    let fetch = |name: &str| format!("curl -s -m 20 tftp://{BOX_LAN}/{name}");

    assert_eq!(polycom.try_sh(&fetch(POLYCOM_FILE)).stdout, site.preview(POLYCOM, POLYCOM_FILE));
    for (who, host, name) in [
        ("another phone", &polycom, CISCO_FILE),
        ("a stranger", &stranger, CISCO_FILE),
        ("a stranger", &stranger, POLYCOM_FILE),
        ("the owner's neighbour", &cisco, POLYCOM_FILE),
    ] {
        let refused = host.try_sh(&fetch(name));
        assert!(refused.stdout.is_empty(), "{who} got {name}");
        // curl's exit status 68 is TFTP's ERROR 1, the same as for a name that does not exist.
        assert_eq!(refused.status.code(), Some(68), "{who}: {}", text(&refused));
    }
    assert_eq!(stranger.try_sh(&fetch("no-such-file.cfg")).status.code(), Some(68));
    let status = site.status();
    let reasons = status["counters"]["tftp.refused.other-device"].as_u64().unwrap_or(0)
        + status["counters"]["tftp.refused.unknown-device"].as_u64().unwrap_or(0);
    assert!(reasons >= 4, "{status:#}");
}

#[test]
fn a_write_is_refused_with_the_same_error_whether_the_file_exists_or_not() {
    if !can_run("a_write_is_refused", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let cisco = site.phone_at(CISCO, "192.168.77.20");
    let put = |name: &str| format!("echo changed | curl -s -m 20 -T - tftp://{BOX_LAN}/{name}");
    for name in [CISCO_FILE, "new-file.cfg"] {
        // 69: TFTP's ERROR 2, access violation.
        assert_eq!(cisco.try_sh(&put(name)).status.code(), Some(69), "{name}");
    }
    assert_eq!(
        cisco.try_sh(&format!("curl -s -m 20 tftp://{BOX_LAN}/{CISCO_FILE}")).stdout,
        site.preview(CISCO, CISCO_FILE)
    );
}
