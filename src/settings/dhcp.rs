//! Reads `[dhcp]`: what an appliance does about DHCP on its site's LAN. HQ signs these settings into a release. A lab
//! without HQ writes them into `lineside.toml`.

use std::net::Ipv4Addr;

use bundle::limits::{MAX_MODEL_BYTES, MAX_SETTING_ADDRESSES, MAX_SETTING_ITEMS};
use bundle::{DhcpMode, DhcpSettings, VendorOption};
use ids::Oui;

use crate::problem::Problem;
use crate::table::{Table, Wrong};

/// The most addresses of a range. No LAN of phones needs as many, but a range with one wrong digit often has more.
const MAX_RANGE: u32 = 4096;
/// The longest value of an option, in bytes: its length is one octet (RFC 2132 §2).
const MAX_OPTION_BYTES: usize = 255;
/// The longest domain name as text, in bytes. RFC 1035 §2.3.4 allows 255 octets on the wire.
const MAX_DOMAIN_BYTES: usize = 253;

const RANGE: &str = "the first and the last address of a range: [\"192.168.1.200\", \"192.168.1.250\"]";
const ADDRESSES: &str = "a list of IPv4 addresses: [\"192.168.1.1\"]";
const CLASSES: &str = "a list of texts that option 60 or 124 starts with: [\"Polycom-\"]";
const OUIS: &str = "a list of how MAC addresses begin: [\"00:04:f2\"]";
const HEX: &str = "pairs of hex digits without spaces: \"0104c0a80105\"";

/// Reads the keys of the table into `dhcp`; what the table leaves out stays as it is. It also ends the table, so a
/// caller with further keys in it takes them first.
///
/// Values that are read without a problem also keep the limits of a release (`SiteSettings::validate`).
pub fn read_dhcp(mut table: Table<'_>, dhcp: &mut DhcpSettings, problems: &mut Vec<Problem>) {
    let mut blame = table.line();
    if let Some((line, mode)) = table.value("mode", problems) {
        dhcp.mode = mode;
        blame = line;
    }
    let before = problems.len();
    if let Some((line, range)) = table.checked("range", RANGE, problems, range) {
        dhcp.range = Some(range);
        blame = line;
    }
    let range_is_wrong = problems.len() > before;
    for (key, target) in [
        ("routers", &mut dhcp.routers),
        ("dns", &mut dhcp.dns),
        ("ntp", &mut dhcp.ntp),
        ("tftp-servers", &mut dhcp.tftp_servers),
    ] {
        if let Some(addresses) = table.list(key, ADDRESSES, MAX_SETTING_ADDRESSES, problems, host) {
            *target = addresses;
        }
    }
    if let Some((_, name)) = table.checked("domain", "a domain name: \"example.net\"", problems, domain) {
        dhcp.domain = name;
    }
    if let Some(seconds) = table.number("lease-seconds", 120..=604_800, problems) {
        dhcp.lease_seconds = Some(seconds);
    }
    if let Some(classes) = table.list("phone-classes", CLASSES, MAX_SETTING_ITEMS, problems, class) {
        dhcp.phone_classes = classes;
    }
    if let Some(classes) = table.list("offer-classes", CLASSES, MAX_SETTING_ITEMS, problems, class) {
        dhcp.offer_classes = Some(classes);
    }
    if let Some(ouis) = table.list("phone-ouis", OUIS, MAX_SETTING_ITEMS, problems, oui) {
        dhcp.phone_ouis = ouis;
    }
    let options = table.tables("vendor-options", problems);
    if options.len() > MAX_SETTING_ITEMS {
        let message = format!("are {}, over the {MAX_SETTING_ITEMS} allowed", options.len());
        problems.push(table.problem(table.line(), "vendor-options", &message));
    }
    if !options.is_empty() {
        dhcp.vendor_options = options.into_iter().filter_map(|option| vendor_option(option, problems)).collect();
    }
    if !range_is_wrong {
        agree(&table, blame, dhcp, problems);
    }
    table.finish(problems);
}

/// Checks the keys that must agree with each other: `mode`, `range`, `routers` and `tftp-servers`.
fn agree(table: &Table<'_>, line: usize, dhcp: &DhcpSettings, problems: &mut Vec<Problem>) {
    let Some((first, last)) = dhcp.range else {
        if matches!(dhcp.mode, DhcpMode::PhonesOnly | DhcpMode::All) {
            let message = format!("this `{}` leases addresses, but there is no `range`", table.full("mode"));
            problems.push(
                Problem::at_line(&table.source().name, line, message)
                    .hint("add range = [\"192.168.1.200\", \"192.168.1.250\"], outside the router's own range"),
            );
        }
        return;
    };
    let mut servers = dhcp.routers.iter().chain(&dhcp.tftp_servers);
    if let Some(inside) = servers.find(|address| (first..=last).contains(*address)) {
        let message = format!("holds {inside}, which a router or TFTP server has");
        problems.push(table.problem(line, "range", &message).hint("choose a range without it"));
    }
    if let Some(outside) = dhcp.routers.iter().find(|router| !same_network(**router, first)) {
        let message = format!("is not in the network of the router {outside}");
        problems
            .push(table.problem(line, "range", &message).hint("phones can reach only a router of their own network"));
    }
}

fn range((first, last): (Ipv4Addr, Ipv4Addr)) -> Result<(Ipv4Addr, Ipv4Addr), Wrong> {
    if first > last {
        return Err(
            Wrong::new(format!("ends at {last}, before it begins at {first}")).hint("write the lower address first")
        );
    }
    if !is_host(first) || !is_host(last) {
        return Err(Wrong::new(format!("{first} to {last} holds addresses that no host can have"))
            .hint("use addresses of the LAN"));
    }
    let size = (u32::from(last) - u32::from(first)).saturating_add(1);
    if size > MAX_RANGE || !same_network(first, last) {
        return Err(Wrong::new(format!("{first} to {last} has {size} addresses"))
            .hint(format!("a range lies in one subnet, with at most {MAX_RANGE}")));
    }
    Ok((first, last))
}

/// Whether two addresses can be on one LAN. No LAN of phones is larger than a /16, so a greater distance is a mistake.
fn same_network(a: Ipv4Addr, b: Ipv4Addr) -> bool {
    ids::Lan::new(a, 16).contains(b)
}

fn host(address: Ipv4Addr) -> Result<Ipv4Addr, Wrong> {
    if is_host(address) {
        Ok(address)
    } else {
        Err(Wrong::new(format!("is {address}, which can be no host's address")))
    }
}

/// Whether a host may have the address. Loopback passes, because the demo's LAN is there. An appliance refuses a range
/// outside its own LAN in any case.
fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.octets() >= [240, 0, 0, 0])
}

fn domain(name: String) -> Result<String, Wrong> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    if name.len() <= MAX_DOMAIN_BYTES && name.bytes().all(good) {
        return Ok(name);
    }
    Err(Wrong::new(format!("is `{}`, which is no domain name", name.escape_debug())))
}

/// Checks the start of a vendor class (option 60 or 124): printable, not empty and not too long.
fn class(text: String) -> Result<String, Wrong> {
    if text.trim().is_empty() {
        return Err(Wrong::new("is an empty text, which every device matches").hint("leave it out"));
    }
    if text.len() > MAX_MODEL_BYTES || text.chars().any(char::is_control) {
        return Err(Wrong::new(format!("is not at most {MAX_MODEL_BYTES} bytes of printable text")));
    }
    Ok(text)
}

fn oui(text: String) -> Result<Oui, Wrong> {
    text.parse().map_err(|_| {
        Wrong::new(format!("is `{}`, which is not how a MAC address begins", text.escape_debug()))
            .hint("write the six hex digits that the IEEE gave the vendor, for example \"00:04:f2\"")
    })
}

fn vendor_option(mut table: Table<'_>, problems: &mut Vec<Problem>) -> Option<VendorOption> {
    for key in ["vendor-class", "code", "value"] {
        table.require(key, problems);
    }
    let class = table.checked("vendor-class", "what option 60 starts with: \"Polycom-\"", problems, class);
    let code = table.number::<u8>("code", 1..=254, problems);
    let value = table.checked("value", HEX, problems, option_value);
    table.finish(problems);
    Some(VendorOption { vendor_class: class?.1, code: code?, value: value?.1 })
}

fn option_value(text: String) -> Result<Vec<u8>, Wrong> {
    match data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()) {
        Ok(value) if value.len() <= MAX_OPTION_BYTES => Ok(value),
        _ => Err(Wrong::new(format!("is not at most {MAX_OPTION_BYTES} bytes in hex"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::source::Source;

    fn read(text: &str) -> (DhcpSettings, Vec<String>) {
        let source = Source::new("x.toml", text);
        let mut problems = Vec::new();
        let mut dhcp = DhcpSettings::default();
        let mut root = source.toml(&mut problems);
        read_dhcp(root.table("dhcp", &mut problems), &mut dhcp, &mut problems);
        root.finish(&mut problems);
        (dhcp, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_key_is_read() {
        let (dhcp, problems) = read(concat!(
            "[dhcp]\nmode = \"phones-only\"\nrange = [\"192.168.1.200\", \"192.168.1.250\"]\n",
            "routers = [\"192.168.1.1\"]\ndns = [\"192.168.1.2\", \"192.168.1.3\"]\nntp = [\"192.168.1.4\"]\n",
            "domain = \"example.net\"\nlease-seconds = 600\ntftp-servers = [\"192.168.1.5\"]\n",
            "phone-classes = [\"Polycom-\"]\nphone-ouis = [\"00:04:f2\"]\noffer-classes = []\n",
            "[[dhcp.vendor-options]]\nvendor-class = \"Cisco\"\ncode = 43\nvalue = \"0104c0A80105\"\n",
        ));
        assert_eq!(problems, Vec::<String>::new());
        let expected = DhcpSettings {
            mode: DhcpMode::PhonesOnly,
            range: Some(([192, 168, 1, 200].into(), [192, 168, 1, 250].into())),
            routers: vec![[192, 168, 1, 1].into()],
            dns: vec![[192, 168, 1, 2].into(), [192, 168, 1, 3].into()],
            ntp: vec![[192, 168, 1, 4].into()],
            domain: "example.net".into(),
            lease_seconds: Some(600),
            tftp_servers: vec![[192, 168, 1, 5].into()],
            vendor_options: vec![VendorOption {
                vendor_class: "Cisco".into(),
                code: 43,
                value: vec![1, 4, 0xc0, 0xa8, 1, 5],
            }],
            phone_classes: vec!["Polycom-".into()],
            phone_ouis: vec!["00:04:f2".parse().unwrap()],
            offer_classes: Some(Vec::new()),
        };
        assert_eq!(dhcp, expected);
    }

    #[test]
    fn all_problems_are_told_in_one_run() {
        let (_, problems) = read(concat!(
            "[dhcp]\nmode = \"most\"\nrnage = []\nrouters = \"192.168.1.1\"\ndns = [\"8.8.8\", \"0.0.0.0\"]\n",
            "domain = \"a b\"\nlease-seconds = 5\nphone-classes = [\" \"]\nphone-ouis = [\"00:04\", \"xx\"]\n",
            "[[dhcp.vendor-options]]\nvendor-class = \"x\"\ncode = 255\nvalue = \"0g\"\n[[dhcp.vendor-options]]\n",
        ));
        let first: Vec<_> = problems.iter().map(|problem| problem.lines().next().unwrap()).collect();
        let expected = [
            "x.toml:2: `dhcp.mode`: unknown variant `most`, expected one of `auto`, `shadow`, `inform`, `augment`, `phones-only`, `all`",
            "x.toml:4: `dhcp.routers` must be a list, not text",
            "x.toml:5: `dhcp.dns[0]`: invalid IPv4 address syntax",
            "x.toml:5: `dhcp.dns[1]` is 0.0.0.0, which can be no host's address",
            "x.toml:6: `dhcp.domain` is `a b`, which is no domain name",
            "x.toml:7: `dhcp.lease-seconds` is 5, but must be 120 to 604800",
            "x.toml:8: `dhcp.phone-classes[0]` is an empty text, which every device matches",
            "x.toml:9: `dhcp.phone-ouis[0]` is `00:04`, which is not how a MAC address begins",
            "x.toml:9: `dhcp.phone-ouis[1]` is `xx`, which is not how a MAC address begins",
            "x.toml:12: `dhcp.vendor-options.code` is 255, but must be 1 to 254",
            "x.toml:13: `dhcp.vendor-options.value` is not at most 255 bytes in hex",
            "x.toml:14: `dhcp.vendor-options.vendor-class` is missing",
            "x.toml:14: `dhcp.vendor-options.code` is missing",
            "x.toml:14: `dhcp.vendor-options.value` is missing",
            "x.toml:3: unknown key `dhcp.rnage`",
        ];
        assert_eq!(first, expected);
        assert!(problems.last().unwrap().ends_with("hint: did you mean `range`?"));
    }

    #[test]
    fn keys_must_agree() {
        for (text, expected) in [
            (
                "[dhcp]\nmode = \"all\"\n",
                "x.toml:2: this `dhcp.mode` leases addresses, but there is no `range`\n  hint: add range = [\"192.168.1.200\", \"192.168.1.250\"], outside the router's own range",
            ),
            (
                "[dhcp]\nrange = [\"10.0.0.1\", \"10.0.0.9\"]\nrouters = [\"10.0.0.9\"]\n",
                "x.toml:2: `dhcp.range` holds 10.0.0.9, which a router or TFTP server has\n  hint: choose a range without it",
            ),
            (
                "[dhcp]\nrange = [\"10.0.0.1\", \"10.0.0.9\"]\nrouters = [\"10.1.0.1\"]\n",
                "x.toml:2: `dhcp.range` is not in the network of the router 10.1.0.1\n  hint: phones can reach only a router of their own network",
            ),
            // One mistake is reported once.
            (
                "[dhcp]\nmode = \"all\"\nrange = [\"10.0.0.9\", \"10.0.0.1\"]\n",
                "x.toml:3: `dhcp.range` ends at 10.0.0.1, before it begins at 10.0.0.9\n  hint: write the lower address first",
            ),
        ] {
            assert_eq!(read(text).1, [expected]);
        }
    }

    #[test]
    fn what_the_table_leaves_out_stays_as_it_was() {
        let source = Source::new("x.toml", "[dhcp]\nntp = []\n");
        let mut problems = Vec::new();
        let base = DhcpSettings { domain: "a".into(), ntp: vec![[10, 0, 0, 1].into()], ..DhcpSettings::default() };
        let mut dhcp = base.clone();
        read_dhcp(source.toml(&mut problems).table("dhcp", &mut problems), &mut dhcp, &mut problems);
        assert_eq!((dhcp, problems), (DhcpSettings { ntp: Vec::new(), ..base }, Vec::new()));
    }

    /// Values at and over every bound, of every kind.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i64>().prop_map(|number| number.to_string()),
            (0..300i64).prop_map(|number| number.to_string()),
            "[ -~]{0,80}".prop_map(|text| format!("{:?}", text)),
            "[a-z.]{240,260}".prop_map(|text| format!("{text:?}")),
            prop::collection::vec(any::<u32>().prop_map(|ip| format!("\"{}\"", Ipv4Addr::from(ip))), 0..10)
                .prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec("[a-zA-Z-]{0,66}".prop_map(|text| format!("{text:?}")), 0..70)
                .prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec((0..3u8, 0..3u8).prop_map(|(a, b)| format!("\"00:0{a}:f{b}\"")), 0..70)
                .prop_map(|list| format!("[{}]", list.join(","))),
            "[0-9a-f]{500,520}".prop_map(|hex| format!("[{{ vendor-class = \"x\", code = 1, value = {hex:?} }}]")),
            prop::sample::select(vec!["\"all\"", "\"inform\"", "[\"10.0.0.1\", \"10.0.0.9\"]"]).prop_map(str::to_owned),
        ]
    }

    proptest! {
        #[test]
        fn what_is_read_without_a_problem_may_stand_in_a_release(
            keys in prop::collection::btree_map(prop::sample::select(vec![
                "mode", "range", "routers", "dns", "ntp", "domain", "lease-seconds", "tftp-servers", "vendor-options",
                "phone-classes", "phone-ouis", "offer-classes",
            ]), value(), 1..3),
        ) {
            let lines: Vec<_> = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
            let (dhcp, problems) = read(&format!("[dhcp]\n{}", lines.concat()));
            if problems.is_empty() {
                let site = bundle::SiteSettings { dhcp, ..bundle::SiteSettings::default() };
                prop_assert_eq!(site.validate().map_err(|error| error.to_string()), Ok(()));
            }
        }
    }
}
