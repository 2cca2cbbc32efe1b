#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod planted;

use super::super::testing::sample;
use super::*;

const PHONE: &str = "00:1b:54:00:00:01,sample-office,cisco-8941,Reception,101,Reception,101,secret:sip-101";

#[test]
fn the_whole_output_names_place_reason_and_hint() {
    let sample = sample();
    sample
        .replace(
            "phones.csv",
            "00:1b:54:00:00:02,sample-office,cisco-9971",
            "00:1b:54:00:00:02,sampel-office,cisco-9971",
        )
        .replace("fleet.toml", "mode = \"auto\"", "moed = \"auto\"");
    assert_eq!(
        check(&sample.layout).to_string(),
        "fleet.toml:27: unknown key `defaults.dhcp.moed`\n  hint: did you mean `mode`?\n\
         phones.csv:6: there is no site `sampel-office`\n  hint: did you mean `sample-office`?\n\
         2 problems"
    );
}

#[test]
fn all_problems_come_in_one_run() {
    let sample = sample();
    sample
        .replace("fleet.toml", "poll-seconds = 300", "poll-seconds = 3")
        .append("phones.csv", "not-a-mac,sample-office,polycom,,,,,\n")
        .write("sites/notes.txt", "")
        .write("templates/polycom/stray.xml", "");
    assert_eq!(sample.problems().len(), 4, "{:#?}", sample.problems());
}

#[test]
fn a_missing_fleet_file_says_how_to_begin() {
    let dir = tempfile::tempdir().unwrap();
    let report = check(&Layout::new(dir.path()));
    assert_eq!(report.problems.len(), 1);
    assert!(report.to_string().contains("fleet.toml: the file is missing\n  hint: start a fleet directory"));
}

#[test]
fn broken_toml_is_a_problem_with_its_line() {
    let sample = sample();
    sample.append("sites/sample-office.toml", "\n[dhcp\n");
    let problems = sample.problems();
    assert!(
        problems
            .iter()
            .any(|problem| problem.starts_with("sites/sample-office.toml:1") && problem.contains("not TOML")),
        "{problems:#?}"
    );
}

#[test]
fn a_phone_is_listed_once_in_the_whole_fleet() {
    let sample = sample();
    super::super::init::add_site(&sample.layout, "branch").unwrap();
    sample.append("phones.csv", "001B.5400.0001,branch,cisco-8941,Copy,1,1,1,1\n");
    assert_eq!(sample.problems(), ["phones.csv:8: phone 00:1b:54:00:00:01 is already on line 5"]);
}

#[test]
fn addresses_that_no_phone_has_are_refused() {
    let sample = sample();
    sample.replace("phones.csv", "00:1b:54:00:00:01", "01:00:5e:00:00:01");
    assert_eq!(sample.problems(), ["phones.csv:5: 01:00:5e:00:00:01 can be no device's address"]);
    sample.replace("phones.csv", "01:00:5e:00:00:01", "00:1b:54:00:00");
    assert!(sample.problems()[0].starts_with("phones.csv:5: `00:1b:54:00:00` is not a MAC address"));
}

#[test]
fn an_unknown_model_is_named_with_the_known_ones() {
    let sample = sample();
    sample.replace("phones.csv", "cisco-8941", "cisco-8942");
    let report = check(&sample.layout);
    assert_eq!(
        report.problems[0].to_string(),
        "phones.csv:5: there are no templates for model `cisco-8942`\n  hint: did you mean `cisco-8941`?"
    );
}

#[test]
fn a_missing_variable_is_one_problem_with_template_line_and_phone() {
    let sample = sample();
    sample.replace("fleet.toml", "ntp_server = \"pool.ntp.org\"", "");
    assert_eq!(
        sample.problems(),
        [
            "templates/common/cisco-sip.xml.j2:9: `ntp_server` is not set for phone 00:1b:54:00:00:01 (phones.csv:5) and 1 other",
            "templates/polycom/common.cfg.j2:8: `ntp_server` is not set",
        ]
    );
}

#[test]
fn an_empty_cell_is_not_an_empty_password() {
    let sample = sample();
    sample.replace("phones.csv", "Reception,101,secret:sip-101", "Reception,101,");
    assert_eq!(
        sample.problems(),
        ["templates/common/cisco-sip.xml.j2:81: `password` is not set for phone 00:1b:54:00:00:01 (phones.csv:5)"]
    );
}

#[test]
fn a_template_that_does_not_parse_is_a_problem_with_its_line() {
    let sample = sample();
    sample.append("templates/polycom/line.cfg.j2", "{% if %}\n");
    let problems = sample.problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].starts_with("templates/polycom/line.cfg.j2:12: "), "{problems:#?}");
}

#[test]
fn a_template_that_is_not_there_is_named() {
    let sample = sample();
    sample.replace("templates/polycom/model.toml", "\"line.cfg.j2\"", "\"lines.cfg.j2\"");
    assert_eq!(
        sample.problems(),
        ["templates/polycom/model.toml:12: there is no template templates/polycom/lines.cfg.j2"]
    );
}

#[test]
fn a_name_with_an_address_must_be_the_devices_own() {
    let sample = sample();
    sample.replace(
        "templates/polycom/model.toml",
        "name = \"polycom-common.cfg\"",
        "name = \"0004f2000003-common.cfg\"",
    );
    assert_eq!(
        sample.problems(),
        [
            "templates/polycom/model.toml:24: 0004f2000003-common.cfg carries the address 00:04:f2:00:00:03, but other phones could fetch it"
        ]
    );
    sample.replace(
        "templates/polycom/model.toml",
        "name = \"0004f2000003-common.cfg\"",
        "name = \"polycom-common.cfg\"",
    );
    sample.replace("templates/polycom/model.toml", "{{ phone.mac }}-line.cfg", "001b54000001-line.cfg");
    assert_eq!(
        sample.problems(),
        [
            "templates/polycom/model.toml:12: 001b54000001-line.cfg carries the address 00:1b:54:00:00:01, but is made for 00:04:f2:00:00:03"
        ]
    );
}

#[test]
fn a_name_stands_for_one_file() {
    let sample = sample();
    sample.write("files/POLYCOM-common.cfg", "x");
    let problems = sample.problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains("site sample-office gets a second"), "{problems:#?}");
}

#[test]
fn files_of_one_phone_do_not_lie_in_files() {
    let sample = sample();
    sample.write("files/SEP001B54000009.cnf.xml", "<device/>");
    assert_eq!(
        sample.problems(),
        [
            "files/SEP001B54000009.cnf.xml: the name carries the address 00:1b:54:00:00:09, but every phone could fetch the file"
        ]
    );
    sample.replace("fleet.toml", "# repository", "device-files = true\n# repository");
    assert_eq!(sample.problems(), Vec::<String>::new());
}

#[test]
fn a_gateways_file_is_for_the_one_device_whose_address_ends_with_its_digits() {
    let sample = sample();
    sample.replace("fleet.toml", "# repository", "device-files = true\n# repository");
    sample.write("files/VG1B5400000100.cnf.xml", "").write("files/AN1B5400000901.cnf.xml", "");
    assert_eq!(
        sample.problems(),
        [
            "files/AN1B5400000901.cnf.xml: the name has the last ten digits of a gateway's address, and no phone's ends with them"
        ]
    );
    sample.replace("phones.csv", "00:04:f2:00:00:03,", "02:1b:54:00:00:01,");
    let problems = sample.problems();
    assert!(
        problems.contains(&"files/VG1B5400000100.cnf.xml: the addresses 00:1b:54:00:00:01 and 02:1b:54:00:00:01 both end with the digits in the name".to_owned()),
        "{problems:#?}"
    );
}

#[test]
fn a_load_that_nobody_has_is_found_through_every_hop() {
    let sample = sample();
    let model = "templates/cisco-9971/model.toml";
    sample.replace(model, "# load = ", "load = ");
    assert_eq!(
        sample.problems(),
        [
            "templates/cisco-9971/model.toml:15: a configuration names the load sip9971.9-4-2SR4-1, but no sip9971.9-4-2SR4-1.loads is served to it"
        ]
    );
    sample.replace(model, "firmware = []", "firmware = [\"sip9971.9-4-2SR4-1.loads\"]");
    let hop = "templates/cisco-9971/model.toml:7: firmware/cisco-9971/sip9971.9-4-2SR4-1.loads is named here, but is not there";
    assert!(sample.problems().contains(&hop.to_owned()), "{:#?}", sample.problems());
    sample.write("firmware/cisco-9971/sip9971.9-4-2SR4-1.loads", "kern9971.sebn\r\nrootfs9971.sebn\r\n");
    sample.write("firmware/cisco-9971/kern9971.sebn", "k");
    assert_eq!(
        sample.problems(),
        ["firmware/cisco-9971/sip9971.9-4-2SR4-1.loads: lists rootfs9971.sebn, which is not in firmware/cisco-9971"]
    );
    sample.write("firmware/cisco-9971/rootfs9971.sebn", "r");
    assert_eq!(sample.problems(), Vec::<String>::new());
    assert_eq!(check(&sample.layout).files, 9);
}

#[test]
fn dhcp_ranges_are_checked() {
    let cases = [
        (
            "range = [\"192.168.1.9\", \"192.168.1.2\"]",
            "`dhcp.range` ends at 192.168.1.2, before it begins at 192.168.1.9",
        ),
        (
            "range = [\"192.168.1.9\", \"192.186.1.20\"]",
            "`dhcp.range` 192.168.1.9 to 192.186.1.20 has 1179660 addresses",
        ),
        (
            "range = [\"224.0.0.1\", \"224.0.0.9\"]",
            "`dhcp.range` 224.0.0.1 to 224.0.0.9 holds addresses that no host can have",
        ),
        ("range = \"192.168.1.9\"", ""),
        ("mode = \"all\"", "this `dhcp.mode` leases addresses, but there is no `range`"),
        ("mode = \"everything\"", ""),
        ("lease-seconds = 5", "`dhcp.lease-seconds` is 5, but must be 120 to 604800"),
    ];
    for (text, message) in cases {
        let sample = sample();
        sample.replace("sites/sample-office.toml", "[dhcp]", &format!("[dhcp]\n{text}"));
        let problems = sample.problems();
        assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
        assert!(problems[0].starts_with("sites/sample-office.toml:8: "), "{text}: {problems:#?}");
        assert!(problems[0].contains(message), "{text}: {problems:#?}");
    }
    let sample = sample();
    sample.replace(
        "sites/sample-office.toml",
        "[dhcp]",
        "[dhcp]\nmode = \"phones-only\"\nrange = [\"10.0.0.1\", \"10.0.0.9\"]\nrouters = [\"10.0.0.1\"]",
    );
    assert!(sample.problems()[0].contains("`dhcp.range` holds 10.0.0.1"), "{:#?}", sample.problems());
}

#[test]
fn settings_of_vendor_options_are_checked() {
    let sample = sample();
    sample.append(
        "sites/sample-office.toml",
        "\n[[dhcp.vendor-options]]\nvendor-class = \"x\"\ncode = 43\nvalue = \"0g\"\n",
    );
    assert_eq!(
        sample.problems(),
        ["sites/sample-office.toml:18: `dhcp.vendor-options.value` is not at most 255 bytes in hex"]
    );
}

#[test]
fn a_secret_that_nobody_has_is_a_problem_of_its_line() {
    let sample = sample();
    sample.replace("phones.csv", "secret:sip-102", "secret:sip-999");
    assert_eq!(sample.problems(), ["phones.csv:6: there is no secret `sip-999`: it is not in secrets.age"]);
}

#[test]
fn a_secret_does_not_go_into_a_file_that_others_can_fetch() {
    let sample = sample();
    sample
        .replace("fleet.toml", "sip_port = 5060", "sip_port = 5060\nadmin_pin = \"secret:sip-101\"")
        .append("templates/polycom/common.cfg.j2", "{{ admin_pin }}\n");
    assert_eq!(
        sample.problems(),
        ["templates/polycom/common.cfg.j2:11: admin_pin is a secret, but other phones could fetch polycom-common.cfg"]
    );
}

#[test]
fn a_password_in_clear_is_noted() {
    let sample = sample();
    sample.replace("phones.csv", "secret:sip-102", "hunter2").replace("phones.csv", "secret:sip-103", "hunter3");
    let report = check(&sample.layout);
    assert!(report.is_clean());
    assert_eq!(report.notes, ["phones.csv:6: `password` holds 2 values in clear; `secret:NAME` keeps them out of git"]);
}

#[test]
fn without_the_key_the_rest_is_checked_all_the_same() {
    let sample = sample();
    std::fs::remove_file(sample.layout.key("secrets")).unwrap();
    sample.replace("phones.csv", "secret:sip-102", "secret:sip-999");
    let report = check(&sample.layout);
    assert!(report.is_clean());
    assert!(report.to_string().starts_with("note: keys/secrets.key is not here"));
}

#[test]
fn a_csv_with_too_many_fields_says_how_to_quote() {
    let sample = sample();
    sample.replace("phones.csv", PHONE, &PHONE.replace("Reception", "Reception, left"));
    assert_eq!(sample.problems(), ["phones.csv:5: the line has 10 fields, but the header names 8"]);
}

#[test]
fn lines_are_counted_over_comments_and_empty_lines() {
    let sample = sample();
    sample.append("phones.csv", "# moved\n\n# twice\r\n\nbad,sample-office,polycom,,,,,\n");
    assert!(sample.problems()[0].starts_with("phones.csv:12: `bad` is not a MAC address"), "{:#?}", sample.problems());
}

#[test]
fn columns_must_be_usable_names() {
    let sample = sample();
    sample.replace("phones.csv", "mac,site,model,label,extension", "mac,site,model,label,exten-sion");
    assert_eq!(sample.problems(), ["phones.csv:4: `exten-sion` cannot name a variable"]);
    sample.replace("phones.csv", "exten-sion", "phone");
    assert_eq!(sample.problems(), ["phones.csv:4: `phone` is taken: templates know phone, site, fleet, loop"]);
    sample.replace("phones.csv", "mac,site,model,label,phone", "MAC,site,model,label,extension");
    assert_eq!(sample.problems(), ["phones.csv:4: the header has no column `mac`"]);
}

#[test]
fn a_rendered_file_over_what_phones_take_is_refused() {
    let sample = sample();
    sample.append("templates/polycom/common.cfg.j2", "{% for i in range(9000) %}{{ i }} {{ \"x\" * 60 }}{% endfor %}");
    let problems = sample.problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains("bytes, over the 550000 that phones take"), "{problems:#?}");
}

#[test]
fn values_are_escaped_in_what_phones_get() {
    let sample = sample();
    sample.replace("phones.csv", "Reception,101,Reception", "Reception,101,R&D <1>");
    let (fleet, report) = read(&sample.layout);
    assert!(report.is_clean(), "{report}");
    let fleet = fleet.unwrap();
    let site = &fleet.inventory.sites["sample-office"];
    let files = fleet.site_files(site, &fleet.inventory.phones_of("sample-office"), &mut Findings::default());
    let config = files.iter().find(|file| file.name.as_str() == "SEP001B54000001.cnf.xml").unwrap();
    let Body::Rendered(bytes) = &config.body else { panic!("a config is rendered") };
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.contains("<displayName>R&amp;D &lt;1&gt;</displayName>"), "{text}");
    assert!(text.starts_with("<?xml version=\"1.0\""));
    assert!(text.contains("<webAccess>1</webAccess>"));
    assert_eq!(config.scope, Scope::Device("001b54000001".parse().unwrap()));
}
