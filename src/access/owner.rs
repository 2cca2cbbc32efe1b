//! MAC addresses in file names.
//!
//! The manifest says which device a file belongs to. This file reads the names that no manifest lists: a request for
//! `SEP<MAC>.cnf.xml` of another phone is a guess even if there is no such file.

use ids::{FileName, MacAddr};

/// Whose a file name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameOwner {
    /// It carries this device's address, whole or its last ten digits.
    Device(MacAddr),
    /// It carries ten digits with which the addresses of several devices of the inventory end, among them these two. It is
    /// nobody's: it must not be served to the wrong one.
    Several(MacAddr, MacAddr),
    /// It is a gateway's name, made of the last ten digits of an address that the inventory does not have.
    NoDevice,
    /// It carries no address.
    Shared,
}

/// Reads a name: by the inventory first, then by the general rule. `inventory` answers whether an address is in it.
pub fn of(name: &FileName, inventory: &dyn Fn(MacAddr) -> bool) -> NameOwner {
    match find(name, &|mac| inventory(mac).then_some(mac), &|tail| Tail::search(tail, inventory)) {
        Some(Tail::Of(mac)) => NameOwner::Device(mac),
        Some(Tail::OfSeveral(one, other)) => NameOwner::Several(one, other),
        None => match by_rule(name) {
            Some(mac) => NameOwner::Device(mac),
            None if name.folded().split('/').any(|component| gateway_digits(component).is_some()) => {
                NameOwner::NoDevice
            }
            None => NameOwner::Shared,
        },
    }
}

/// The inventory address that a name carries anywhere, however it is written, or whose last ten digits it carries as Cisco's
/// gateways and the second port of an ATA do. `None` also if several devices have these digits.
///
/// Whole addresses go before parts of them, earlier path components before later ones.
pub fn in_inventory(name: &FileName, inventory: &dyn Fn(MacAddr) -> bool) -> Option<MacAddr> {
    match find(name, &|mac| inventory(mac).then_some(mac), &|tail| Tail::search(tail, inventory))? {
        Tail::Of(mac) => Some(mac),
        Tail::OfSeveral(..) => None,
    }
}

/// Whether a name carries this device's address, whole or its last ten digits.
pub fn carries(name: &FileName, mac: MacAddr) -> bool {
    let [_, own @ ..] = mac.octets();
    find(name, &|found| (found == mac).then_some(mac), &|tail| (tail == own).then_some(Tail::Of(mac))).is_some()
}

/// The devices of an inventory whose addresses end with the same ten digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    Of(MacAddr),
    OfSeveral(MacAddr, MacAddr),
}

impl Tail {
    /// The octet that the name left out can be any.
    fn search([b, c, d, e, f]: [u8; 5], inventory: &dyn Fn(MacAddr) -> bool) -> Option<Self> {
        let all = (0..=255u8).map(|a| MacAddr::new([a, b, c, d, e, f])).filter(|mac| inventory(*mac));
        all.fold(None, |found: Option<Self>, mac| Some(found.map_or(Self::Of(mac), |found| found.and(mac))))
    }

    /// The same digits, and one more device.
    pub(super) fn and(self, mac: MacAddr) -> Self {
        match self {
            Self::Of(one) if one != mac => Self::OfSeveral(one, mac),
            same => same,
        }
    }
}

/// What [`in_inventory`] does, with the search for the owners of ten digits left to the caller, who may have an index.
pub(super) fn find(
    name: &FileName,
    whole: &dyn Fn(MacAddr) -> Option<MacAddr>,
    tail: &dyn Fn([u8; 5]) -> Option<Tail>,
) -> Option<Tail> {
    let compact = || name.as_str().split('/').map(compact);
    let whole = compact().find_map(|text| windows(&text).find_map(|octets| whole(MacAddr::new(octets))));
    if let Some(mac) = whole {
        return Some(Tail::Of(mac));
    }
    let folded = name.folded();
    folded.split('/').find_map(|component| {
        let found = tails(component).filter_map(tail);
        // One name can be read in two ways: `vgc…` as `VGC`, or as `VG` and digits that begin with `c`.
        found.reduce(|one, other| match other {
            Tail::Of(mac) => one.and(mac),
            Tail::OfSeveral(..) => other,
        })
    })
}

/// A path component without what separates the octets of an address.
fn compact(component: &str) -> Vec<u8> {
    component.bytes().filter(|byte| !matches!(byte, b':' | b'-' | b'_' | b'.')).collect()
}

/// Every 12 hex digits in a row, as octets, at whatever place.
fn windows(text: &[u8]) -> impl Iterator<Item = [u8; 6]> + '_ {
    text.windows(12).filter_map(octets)
}

fn octets<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut octets = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    data_encoding::HEXLOWER_PERMISSIVE.decode_mut(digits, &mut octets).ok()?;
    Some(octets)
}

/// Prefixes of Cisco's gateways, before the last ten digits of a MAC address and two or three digits for the port, or none:
/// analogue and ISDN ports, VG2xx and VG3xx, and IOS gateways.
const GATEWAYS: [&str; 5] = ["an", "br", "vgc", "vg", "skigw"];

/// The prefix of an ATA, whose second port has ten digits and `01`.
const ATA: &str = "ata";

/// Two-letter prefixes before whole addresses only: profiles of the ATA 186.
const WHOLE: [&str; 3] = ["gk", "ld", "ff"];

/// The ten digits in a component that is a gateway's name, whatever the inventory has. 12 digits of which the last two are
/// no number are a whole address.
fn gateway_digits(component: &str) -> Option<&[u8]> {
    let port = |prefix: &str| component.strip_prefix(prefix).and_then(before_port);
    let second = || component.strip_prefix(ATA).and_then(before_port).filter(|(_, port)| *port == b"01");
    GATEWAYS.iter().find_map(|prefix| port(prefix)).or_else(second).map(|(digits, _)| digits)
}

/// The ten hex digits with which `text` begins, and the number of a port after them: none, two or three digits.
fn before_port(text: &str) -> Option<(&[u8], &[u8])> {
    let (digits, port) = text.as_bytes().get(..run(text.as_bytes()))?.split_at_checked(10)?;
    let is_port = matches!(port.len(), 0 | 2 | 3) && port.iter().all(u8::is_ascii_digit);
    is_port.then_some((digits, port))
}

/// The places in a component where the last ten digits of an address can stand, as octets. Parts of firmware have version
/// numbers that can look so, and zeros where the maker's number would be are a model's (`y000000000028.cfg`).
fn tails(component: &str) -> impl Iterator<Item = [u8; 5]> + '_ {
    let text = component.as_bytes();
    let prefixed = gateway_digits(component).and_then(octets);
    let short = GATEWAYS.iter().filter_map(move |prefix| before_port(component.strip_prefix(prefix)?));
    // Further kinds of ports have two letters, too.
    let letters = component.get(..2).filter(|two| two.bytes().all(|byte| byte.is_ascii_lowercase()));
    let letters = letters.filter(|two| !WHOLE.contains(two)).and_then(|two| before_port(component.strip_prefix(two)?));
    let starts = (0..text.len()).filter(move |at| run(text.get(*at..).unwrap_or_default()) >= 10);
    let loose = starts.filter_map(move |at| {
        let rest = text.get(at..)?;
        let is_first = at.checked_sub(1).and_then(|at| text.get(at)).is_none_or(|byte| !byte.is_ascii_hexdigit());
        let is_whole_run = is_first && run(rest) == 10;
        let is_second_port = rest.get(10..12) == Some(b"01");
        (is_whole_run || is_second_port).then(|| rest.get(..10))?
    });
    let others = short.chain(letters).map(|(digits, _)| digits).chain(loose);
    let others = others.filter_map(octets).filter(|tail: &[u8; 5]| !tail.starts_with(&[0, 0]));
    prefixed.into_iter().chain(others).filter(|_| !is_firmware(component))
}

/// The MAC address in a name that neither the manifest nor the inventory explains.
///
/// 12 hex digits with no more of them on either side, also after a known prefix that ends in a hex letter (`ata`, `ff`,
/// `e` …), six pairs, or three groups of four. Not: names of gateways, which have only the last ten digits of an address; multicast, all zero and OUI `000000` (`y000000000028.cfg` is a
/// model's file), the last group of a UUID, parts of firmware.
pub fn by_rule(name: &FileName) -> Option<MacAddr> {
    let folded = name.folded();
    let mut components = folded.split('/').peekable();
    while let Some(component) = components.next() {
        let is_file = components.peek().is_none();
        if is_file && is_firmware(component) {
            return None;
        }
        if gateway_digits(component).is_some() {
            continue;
        }
        let text = component.as_bytes();
        let found = after_prefix(text).or_else(|| plain(text)).or_else(|| pairs(text)).or_else(|| groups(text));
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Known prefixes that end in a hex digit. Without this list, nobody could see where the address begins.
const PREFIXES: [&[u8]; 6] = [b"ata", b"spa", b"vgc", b"ld", b"ff", b"e"];

/// Extensions of images and their parts. Version numbers in such names can look like addresses (`D00404000032.sbin`).
const FIRMWARE: [&str; 12] = ["sbn", "sbin", "sb2", "zup", "loads", "ld", "rom", "rfs", "jar", "fw", "tar", "zz"];

fn is_firmware(component: &str) -> bool {
    // Grandstream's binary configuration, `cfg<MAC>.bin`, is the one `.bin` with an address.
    component.rsplit_once('.').is_some_and(|(stem, extension)| {
        FIRMWARE.contains(&extension) || extension == "bin" && !stem.starts_with("cfg")
    })
}

fn after_prefix(text: &[u8]) -> Option<MacAddr> {
    PREFIXES.iter().find_map(|prefix| {
        let rest = text.strip_prefix(*prefix)?;
        (run(rest) == 12).then(|| rest.get(..12).and_then(device))?
    })
}

/// 12 hex digits, bounded on both sides.
fn plain(text: &[u8]) -> Option<MacAddr> {
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let digits = run(rest);
        if digits == 12 && !is_end_of_uuid(text.get(..at).unwrap_or_default()) {
            let found = rest.get(..12).and_then(device);
            if found.is_some() {
                return found;
            }
        }
        at += digits.max(1);
    }
    None
}

/// Six pairs with one separator between all of them: `00-04-f2-aa-bb-cc`.
fn pairs(text: &[u8]) -> Option<MacAddr> {
    separated(text, 17, 2, b":-_")
}

/// Three groups of four with dots: `0004.f2aa.bbcc`.
fn groups(text: &[u8]) -> Option<MacAddr> {
    separated(text, 14, 4, b".")
}

fn separated(text: &[u8], length: usize, group: usize, separators: &[u8]) -> Option<MacAddr> {
    text.windows(length).enumerate().find_map(|(at, window)| {
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        let after = text.get(at + length);
        if [before, after].into_iter().flatten().any(u8::is_ascii_hexdigit) {
            return None;
        }
        let separator = *window.get(group).filter(|byte| separators.contains(byte))?;
        let mut digits = Vec::with_capacity(12);
        for (at, &byte) in window.iter().enumerate() {
            if at % (group + 1) < group {
                digits.push(byte);
            } else if byte != separator {
                return None;
            }
        }
        device(&digits)
    })
}

/// How many hex digits `text` begins with.
fn run(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count()
}

/// Whether the text before a group is the first four groups of a UUID: 8-4-4-4 digits and a hyphen.
fn is_end_of_uuid(before: &[u8]) -> bool {
    before.len().checked_sub(24).and_then(|at| before.get(at..)).is_some_and(|groups| {
        groups.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    })
}

/// These octets as an address, if one device can have it.
fn device(digits: &[u8]) -> Option<MacAddr> {
    let mac = MacAddr::new(octets(digits)?);
    (mac.is_unicast() && mac.oui() != [0; 3]).then_some(mac)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    const NAMES: &str = include_str!("../../tests/vectors/names.tsv");

    fn name(text: &str) -> FileName {
        text.parse().unwrap()
    }

    /// The vectors: name, owner if any, whether only the inventory can tell.
    fn vectors() -> impl Iterator<Item = (FileName, Option<MacAddr>, bool)> {
        NAMES.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(|line| {
            let (text, rest) = line.split_once('\t').unwrap();
            let (owner, comment) = rest.split_once('#').unwrap_or((rest, ""));
            let owner = owner.trim();
            let owner = (owner != "shared").then(|| owner.parse().unwrap());
            (name(text), owner, comment.contains("only by inventory"))
        })
    }

    fn phone() -> MacAddr {
        "0004f2aabbcc".parse().unwrap()
    }

    #[test]
    fn the_inventory_finds_its_phones_in_every_known_name() {
        for (name, owner, _) in vectors() {
            assert_eq!(in_inventory(&name, &|mac| mac == phone()), owner, "{name}");
            assert_eq!(carries(&name, phone()), owner.is_some(), "{name}");
        }
        assert!(vectors().count() > 70);
    }

    #[test]
    fn an_inventory_of_other_phones_finds_nothing() {
        let other: MacAddr = "0004f2aabbcd".parse().unwrap();
        for (name, _, _) in vectors() {
            assert_eq!(in_inventory(&name, &|mac| mac == other), None, "{name}");
        }
    }

    #[test]
    fn the_rule_agrees_with_every_known_name_that_needs_no_inventory() {
        for (name, owner, only_by_inventory) in vectors() {
            if !only_by_inventory {
                assert_eq!(by_rule(&name), owner, "{name}");
            }
        }
    }

    #[test]
    fn the_rule_finds_addresses_in_further_spellings() {
        for text in [
            "devices/0004F2AABBCC/config.cfg",
            "pb/0004f2aabbcc.xml",
            "0004.f2aa.bbcc.cfg",
            "00:04:f2:aa:bb:cc.xml",
            "snomD785-0004F2AABBCC.htm",
            "CIP0004F2AABBCC.cnf.xml",
            "AN0004F2AABBCC.cnf.xml",
            "SKIGW0004F2AABBCC.cnf.xml",
            "algo0004f2aabbcc.conf",
            "0004f2aabbcc_phonebook.xml",
            "0004f2aabbcc-smartblf.xml",
        ] {
            assert_eq!(by_rule(&name(text)), Some(phone()), "{text}");
        }
    }

    #[test]
    fn the_rule_does_not_take_other_numbers_for_addresses() {
        for text in [
            "y000000000108.cfg",
            "000000000000-calls.xml",
            "ffffffffffff.cfg",
            "FFFFFFFFFFFF-phone.cfg",
            "ff-ff-ff-ff-ff-ff.cfg",
            "01005e000001.cfg",
            "000000123456.cfg",
            "550e8400-e29b-41d4-a716-446655440000.cfg",
            "d41d8cd98f00b204e9800998ecf8427e.xml",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "P00308000500.bin",
            "D00404000032.sbin",
            "3f2a9c1b7d4e.bin",
            "SIP42.9-4-2SR3-1S.loads",
            "P0S3-8-12-00.sb2",
            "term65.default.loads",
            "20171126103000.txt",
            "0004f2aabbc.cfg",
            "0004f2aabbccd.cfg",
            "00-04-f2-aa-bb.cfg",
            "00-04_f2-aa-bb-cc.cfg",
            "softkeys.xml",
            "English_United_States/mk-sip.jar",
            "7921-kate.utf-8.xml",
        ] {
            assert_eq!(by_rule(&name(text)), None, "{text}");
        }
    }

    #[test]
    fn a_second_port_goes_to_its_owner_and_a_phone_of_that_very_address_goes_first() {
        let ata = phone();
        let clash: MacAddr = "04f2aabbcc01".parse().unwrap();
        let port = name("ATA04F2AABBCC01.cnf.xml.sgn");
        assert_eq!(in_inventory(&port, &|mac| mac == ata), Some(ata));
        assert_eq!(in_inventory(&port, &|mac| mac == ata || mac == clash), Some(clash));
        assert_eq!(in_inventory(&name("ATA04F2AABBCC02.cnf.xml"), &|mac| mac == ata), None);
    }

    #[test]
    fn a_gateways_ports_are_its_own_and_nobodys_if_no_device_fits() {
        let gateway: MacAddr = "001bd4a1b070".parse().unwrap();
        let with = |mac: MacAddr| move |other| other == mac;
        for text in [
            "AN1BD4A1B07001.cnf.xml",
            "AN1BD4A1B070001.cnf.xml",
            "BR1BD4A1B070010.cnf.xml",
            "VG1BD4A1B07000.cnf.xml",
            "vg1bd4a1b07023.cnf.xml.sgn",
            "VGC1BD4A1B07000.cnf.xml",
            "VGC1BD4A1B070.cnf.xml",
            "SKIGW1BD4A1B070.cnf.xml",
            "SKIGW1BD4A1B070",
            "ATA1BD4A1B07001.cnf.xml",
            "Communicator/AN1BD4A1B07001.cnf.xml",
        ] {
            assert_eq!(of(&name(text), &with(gateway)), NameOwner::Device(gateway), "{text}");
            assert!(carries(&name(text), gateway), "{text}");
            assert_eq!(of(&name(text), &with(phone())), NameOwner::NoDevice, "{text}");
            assert_eq!(by_rule(&name(text)), None, "{text}");
        }
        for text in ["2345-12670-001.sip.ld", "y000000000028.cfg", "000000000000.cfg", "XMLDefault.cnf.xml", "an.cfg"] {
            assert_eq!(of(&name(text), &|_| false), NameOwner::Shared, "{text}");
        }
        // A model's number is no part of an address, whatever laboratory has a device of it.
        for mac in ["020000000028", "022345126700", "024512670001"] {
            for text in ["2345-12670-001.sip.ld", "y000000000028.cfg", "000000000000.cfg"] {
                assert!(!carries(&name(text), mac.parse().unwrap()), "{text} {mac}");
            }
        }
    }

    #[test]
    fn ten_digits_that_two_devices_share_are_nobodys() {
        let (one, other): (MacAddr, MacAddr) = ("001bd4a1b070".parse().unwrap(), "021bd4a1b070".parse().unwrap());
        let both = |mac| mac == one || mac == other;
        for text in ["AN1BD4A1B07001.cnf.xml", "VG1BD4A1B07000.cnf.xml", "SKIGW1BD4A1B070.cnf.xml"] {
            assert_eq!(of(&name(text), &both), NameOwner::Several(one, other), "{text}");
            assert_eq!(in_inventory(&name(text), &both), None, "{text}");
        }
        assert_eq!(of(&name("VG001BD4A1B070.cnf.xml"), &both), NameOwner::Device(one), "a whole address");
        // Read as `VGC` it is one's, read as `VG` and a digit more the other's.
        let (short, long): (MacAddr, MacAddr) = ("021bd4a1b070".parse().unwrap(), "02c1bd4a1b07".parse().unwrap());
        let owner = of(&name("VGC1BD4A1B07000.cnf.xml"), &|mac| mac == short || mac == long);
        assert!(matches!(owner, NameOwner::Several(..)), "{owner:?}");
    }

    #[test]
    fn the_longest_hostile_name_is_read_without_harm() {
        for fill in ["01", "0", "f", "-", "0-", "00-04-", "é"] {
            let hostile = fill.repeat(255 / fill.len());
            let hostile = name(&hostile);
            assert_eq!(in_inventory(&hostile, &|_| false), None);
            let _ = by_rule(&hostile);
        }
    }

    proptest::proptest! {
        #[test]
        fn an_address_is_found_wherever_it_stands(
            octets: [u8; 6],
            before in "[g-z]{0,8}[-_.]?",
            after in "([-_.][a-z]{0,8})?",
            directory in "([a-z]{1,5}/)?",
        ) {
            let mac = MacAddr::new(octets);
            for text in [mac.lower(), mac.upper(), mac.to_string(), mac.to_string().replace(':', "_")] {
                let name: FileName = format!("{directory}{before}{text}{after}").parse().unwrap();
                proptest::prop_assert_eq!(in_inventory(&name, &|found| found == mac), Some(mac));
                proptest::prop_assert!(carries(&name, mac));
            }
        }

        #[test]
        fn a_gateways_name_is_served_to_no_other_device(
            octets: [u8; 6],
            others in proptest::collection::vec(proptest::array::uniform6(0u8..), 0..8),
            prefix in "(AN|BR|VG|VGC|SKIGW|an|vg)",
            port in "([0-9]{2,3})?",
            shares: bool,
        ) {
            let mac = MacAddr::new(octets);
            let [first, rest @ ..] = octets;
            let [b, c, d, e, f] = rest;
            let twin = MacAddr::new([first ^ 2, b, c, d, e, f]);
            let mut inventory: Vec<MacAddr> = others.into_iter().map(MacAddr::new).collect();
            inventory.push(mac);
            inventory.extend(shares.then_some(twin));
            let digits = &mac.upper()[2..];
            let name: FileName = format!("{prefix}{digits}{port}.cnf.xml").parse().unwrap();
            match of(&name, &|mac| inventory.contains(&mac)) {
                NameOwner::Device(owner) => {
                    // Another device may have these 12 digits as its whole address.
                    let whole = name.folded().contains(&owner.lower());
                    proptest::prop_assert!(whole || owner == mac && !shares, "{name}: {owner}");
                }
                NameOwner::Several(..) => proptest::prop_assert!(shares || inventory.len() > 1),
                other => proptest::prop_assert!(false, "{name}: {other:?}"),
            }
        }
    }
}
