//! The tables `[dhcp]`, `[tftp]` and `[update]`: the fleet's defaults, then the site's own keys over them.

use std::net::Ipv4Addr;

use crate::problem::Problem;
use crate::source::Table;
use bundle::{DhcpMode, SiteSettings, VendorOption};
use ids::{Lan, Oui};

/// How an appliance behaves, and when it may change over to a new release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// What the manifest carries as settings.
    pub site: SiteSettings,
    /// From and until, in minutes of the day UTC.
    pub activation_window: Option<(u16, u16)>,
    /// The image that the appliance shall run, by its name in `images/`.
    pub image: Option<ImageName>,
}

/// An image and where it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// Its name in `images/`, without the suffix.
    pub name: String,
    /// The file, relative to the fleet directory.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

/// More addresses than any LAN of phones has; a slip of a digit gives more.
const MAX_RANGE: u32 = 4096;

const DHCP_KEYS: [&str; 12] = [
    "mode",
    "range",
    "routers",
    "dns",
    "ntp",
    "domain",
    "lease-seconds",
    "tftp-servers",
    "vendor-options",
    "phone-classes",
    "phone-ouis",
    "offer-classes",
];
const TFTP_KEYS: [&str; 3] = ["max-blksize", "max-windowsize", "accept-logs"];
const UPDATE_KEYS: [&str; 3] = ["poll-seconds", "activation-window", "image"];

/// Reads the three tables out of `parent` over `settings`.
pub(super) fn apply(parent: &mut Table<'_>, settings: &mut Settings, problems: &mut Vec<Problem>) {
    let table = parent.table("dhcp", problems);
    dhcp(table, settings, problems);

    let mut table = parent.table("tftp", problems);
    let tftp = &mut settings.site.tftp;
    within(&mut table, "max-blksize", 512, 65_464, &mut tftp.max_blksize, problems);
    within(&mut table, "max-windowsize", 1, 64, &mut tftp.max_windowsize, problems);
    if let Some((_, value)) = table.value("accept-logs", problems) {
        tftp.accept_logs = value;
    }
    table.finish(&TFTP_KEYS, problems);

    let mut table = parent.table("update", problems);
    within(&mut table, "poll-seconds", 60, 86_400, &mut settings.site.poll_seconds, problems);
    if let Some((line, times)) = table.value::<[String; 2]>("activation-window", problems) {
        let [from, until] = times.each_ref().map(|text| minutes(text));
        match (from, until) {
            (Some(from), Some(until)) if from != until => settings.activation_window = Some((from, until)),
            _ => problems.push(
                Problem::at_line(&table.source().name, line, "`activation-window` is not two times of the day")
                    .hint("write two different times in UTC: [\"01:00\", \"04:30\"]"),
            ),
        }
    }
    if let Some((line, name)) = table.value::<String>("image", problems) {
        // A site says "" to leave the fleet's choice.
        let file = table.source().name.clone();
        settings.image = (!name.is_empty()).then_some(ImageName { name, file, line });
    }
    table.finish(&UPDATE_KEYS, problems);
}

fn dhcp(mut table: Table<'_>, settings: &mut Settings, problems: &mut Vec<Problem>) {
    let file = table.source().name.clone();
    let dhcp = &mut settings.site.dhcp;
    let mut blame = table.line();
    if let Some((line, mode)) = table.value("mode", problems) {
        dhcp.mode = mode;
        blame = line;
    }
    if let Some((line, (first, last))) = table.value::<(Ipv4Addr, Ipv4Addr)>("range", problems) {
        blame = line;
        match range_problem(first, last) {
            Some((message, hint)) => {
                problems.push(Problem::at_line(&file, line, format!("`dhcp.range` {message}")).hint(hint));
            }
            None => dhcp.range = Some((first, last)),
        }
    }
    for (key, target) in [
        ("routers", &mut dhcp.routers),
        ("dns", &mut dhcp.dns),
        ("ntp", &mut dhcp.ntp),
        ("tftp-servers", &mut dhcp.tftp_servers),
    ] {
        if let Some((line, addresses)) = table.value::<Vec<Ipv4Addr>>(key, problems) {
            if let Some(wrong) = addresses.iter().find(|address| !is_host(**address)) {
                problems.push(Problem::at_line(&file, line, format!("`dhcp.{key}`: {wrong} can be no host's address")));
            } else if addresses.len() > 8 {
                problems.push(Problem::at_line(&file, line, format!("`dhcp.{key}` has more than 8 addresses")));
            } else {
                *target = addresses;
            }
        }
    }
    if let Some((line, domain)) = table.value::<String>("domain", problems) {
        let good = domain.len() <= 253 && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
        if good {
            dhcp.domain = domain;
        } else {
            problems.push(Problem::at_line(&file, line, format!("`dhcp.domain`: `{domain}` is no domain name")));
        }
    }
    within(&mut table, "lease-seconds", 120, 604_800, &mut dhcp.lease_seconds, problems);
    if let Some(classes) = classes(&mut table, "phone-classes", problems) {
        dhcp.phone_classes = classes;
    }
    if let Some(classes) = classes(&mut table, "offer-classes", problems) {
        dhcp.offer_classes = Some(classes);
    }
    if let Some((line, ouis)) = table.value::<Vec<String>>("phone-ouis", problems) {
        for wrong in ouis.iter().filter(|text| text.parse::<Oui>().is_err()) {
            problems.push(
                Problem::at_line(&file, line, format!("`dhcp.phone-ouis`: `{wrong}` is not how a MAC address begins"))
                    .hint("write the six hex digits that the IEEE gave the vendor, for example \"00:04:f2\""),
            );
        }
        dhcp.phone_ouis = ouis.iter().filter_map(|text| text.parse().ok()).collect();
    }
    let options = table.tables("vendor-options", problems);
    if !options.is_empty() {
        dhcp.vendor_options = options.into_iter().filter_map(|option| vendor_option(option, problems)).collect();
    }
    table.finish(&DHCP_KEYS, problems);

    let Some((first, last)) = dhcp.range else {
        if matches!(dhcp.mode, DhcpMode::PhonesOnly | DhcpMode::All) {
            problems.push(
                Problem::at_line(&file, blame, "this `dhcp.mode` leases addresses, but there is no `range`")
                    .hint("add range = [\"192.168.1.200\", \"192.168.1.250\"], outside the router's own range"),
            );
        }
        return;
    };
    if let Some(inside) =
        dhcp.routers.iter().chain(&dhcp.tftp_servers).find(|address| (first..=last).contains(*address))
    {
        problems.push(
            Problem::at_line(&file, blame, format!("`dhcp.range` holds {inside}, which a router or TFTP server has"))
                .hint("choose a range without it"),
        );
    }
    if let Some(outside) = dhcp.routers.iter().find(|router| !same_network(**router, first)) {
        problems.push(
            Problem::at_line(&file, blame, format!("`dhcp.range` is not in the network of the router {outside}"))
                .hint("phones can reach only a router of their own network"),
        );
    }
}

/// A LAN of phones larger than a /16 does not exist; anything further apart is a slip.
fn same_network(a: Ipv4Addr, b: Ipv4Addr) -> bool {
    Lan::new(a, 16).contains(b)
}

fn range_problem(first: Ipv4Addr, last: Ipv4Addr) -> Option<(String, &'static str)> {
    if first > last {
        return Some((format!("ends at {last}, before it begins at {first}"), "write the lower address first"));
    }
    if !is_host(first) || !is_host(last) {
        return Some((format!("{first} to {last} holds addresses that no host can have"), "use addresses of the LAN"));
    }
    let size = (u32::from(last) - u32::from(first)).saturating_add(1);
    if size > MAX_RANGE || !same_network(first, last) {
        return Some((
            format!("{first} to {last} has {size} addresses"),
            "a range lies in one subnet, with at most 4096",
        ));
    }
    None
}

/// Loopback passes: the demo's LAN is there, and an appliance takes no range outside its own LAN anyway.
fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.octets() >= [240, 0, 0, 0])
}

/// Starts of vendor classes.
fn classes(table: &mut Table<'_>, key: &'static str, problems: &mut Vec<Problem>) -> Option<Vec<String>> {
    let file = table.source().name.clone();
    let (line, classes) = table.value::<Vec<String>>(key, problems)?;
    if classes.iter().any(|class| class.trim().is_empty()) {
        problems.push(
            Problem::at_line(&file, line, format!("`dhcp.{key}` holds an empty text, which every device matches"))
                .hint("leave it out"),
        );
        return None;
    }
    Some(classes)
}

fn vendor_option(mut table: Table<'_>, problems: &mut Vec<Problem>) -> Option<VendorOption> {
    let file = table.source().name.clone();
    let class = table.required::<String>("vendor-class", problems);
    let code = table.required::<u8>("code", problems);
    let value = table.required::<String>("value", problems);
    table.finish(&["vendor-class", "code", "value"], problems);
    let ((line, class), (code_line, code), (value_line, value)) = (class?, code?, value?);
    if class.trim().is_empty() {
        problems.push(Problem::at_line(&file, line, "`vendor-class` is empty, which every device matches"));
        return None;
    }
    if !(1..=254).contains(&code) {
        problems.push(Problem::at_line(&file, code_line, "`code` is not 1 to 254"));
        return None;
    }
    match data_encoding::HEXLOWER_PERMISSIVE.decode(value.as_bytes()) {
        Ok(value) if value.len() <= 255 => Some(VendorOption { vendor_class: class, code, value }),
        _ => {
            problems.push(
                Problem::at_line(&file, value_line, "`value` is not at most 255 bytes in hex")
                    .hint("pairs of hex digits without spaces: \"0104c0a80105\""),
            );
            None
        }
    }
}

/// Takes a number of this range into `target`.
fn within<T: TryFrom<i64>>(
    table: &mut Table<'_>,
    key: &str,
    least: i64,
    most: i64,
    target: &mut Option<T>,
    problems: &mut Vec<Problem>,
) {
    let Some((line, number)) = table.value::<i64>(key, problems) else { return };
    match T::try_from(number) {
        Ok(value) if (least..=most).contains(&number) => *target = Some(value),
        _ => problems.push(Problem::at_line(
            &table.source().name,
            line,
            format!("`{key}` is {number}, but must be {least} to {most}"),
        )),
    }
}

/// Minutes of the day of `HH:MM`.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |part: &str| (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok());
    let (hours, minutes): (u16, u16) = (digits(hours)??, digits(minutes)??);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}
