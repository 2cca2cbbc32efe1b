//! DHCP options: reading them whole (RFC 3396), and writing them. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

pub use dhcproto::v4::OptionCode;

/// Option 150 (RFC 5859): TFTP servers as a list of addresses.
pub const TFTP_SERVERS: OptionCode = OptionCode::TFTPServerAddress;
/// Option 66: the name of the TFTP server. We write its address as text.
pub const TFTP_SERVER_NAME: OptionCode = OptionCode::TFTPServerName;

const PAD: u8 = 0;
const END: u8 = 255;
/// The most octets of one option; a longer value goes on in the next one (RFC 3396).
const MAX_PART: usize = 255;

/// Option 52 (overload): `file` (bit 0) and `sname` (bit 1) hold options, too.
const OVERLOAD: u8 = 52;

/// Vendor classes of one or more enterprises (RFC 3925 §3).
const VENDOR_IDENTIFYING_CLASS: u8 = 124;

/// The options of a message by their codes. An option that came in parts is one value here, and so is one that came more
/// than once (see `Repeats`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// Reads the options field, then `file` and `sname` if option 52 says so (RFC 3396 §7: in this order).
    ///
    /// An option that ends outside its field ends the field, and the options before it count. Some phones end their options
    /// in junk.
    pub fn parse(options: &[u8], file: &[u8], sname: &[u8]) -> Self {
        let mut all = Self::default();
        let mut last = all.read(options, None);
        let overload = all.byte(OptionCode::from(OVERLOAD)).unwrap_or(0);
        if overload & 1 != 0 {
            last = all.read(file, last);
        }
        if overload & 2 != 0 {
            all.read(sname, last);
        }
        all
    }

    /// Reads a field, and says which option is its last. `split` is the last option of the field before: a server that
    /// runs out of room there may write the rest of it first thing in the next field (RFC 3396 §5).
    fn read(&mut self, mut field: &[u8], mut split: Option<u8>) -> Option<u8> {
        let mut last = split;
        while let Some((&code, rest)) = field.split_first() {
            match code {
                PAD => field = rest,
                END => break,
                _ => {
                    let Some((&length, rest)) = rest.split_first() else { break };
                    let Some((value, rest)) = rest.split_at_checked(usize::from(length)) else { break };
                    field = rest;
                    self.take(code, value, split.take() == Some(code));
                    last = Some(code);
                }
            }
        }
        last
    }

    /// Takes one more part or copy of an option.
    fn take(&mut self, code: u8, value: &[u8], is_rest: bool) {
        let whole = self.0.entry(code).or_default();
        // RFC 3396 §5: a value that is too long for one option goes on in the next.
        let is_rest = is_rest || whole.len().is_multiple_of(MAX_PART);
        match Repeats::of(code) {
            Repeats::Size(size) => {
                if whole.len() < size && (whole.is_empty() || value.len() >= size) {
                    *whole = value.get(..size).unwrap_or(value).to_vec();
                }
            }
            _ if whole.as_slice() == value && value.len() != MAX_PART => {}
            Repeats::Addresses if !whole.len().is_multiple_of(4) && !is_rest => {}
            Repeats::Addresses | Repeats::Items => whole.extend_from_slice(value),
            Repeats::Whole => {
                if is_rest {
                    whole.extend_from_slice(value);
                }
            }
        }
    }

    /// The whole value of an option, if the message has the option.
    pub fn get(&self, code: OptionCode) -> Option<&[u8]> {
        self.0.get(&u8::from(code)).map(Vec::as_slice)
    }

    /// The value of an option of one octet; `None` if the option is missing or shorter. So with every reader of one value of
    /// a fixed size.
    pub fn byte(&self, code: OptionCode) -> Option<u8> {
        self.first(code).map(|[byte]| byte)
    }

    /// The value of an option of one 16-bit number.
    pub fn number(&self, code: OptionCode) -> Option<u16> {
        self.first(code).map(u16::from_be_bytes)
    }

    /// The value of an option of one 32-bit time, in seconds.
    pub fn seconds(&self, code: OptionCode) -> Option<u32> {
        self.first(code).map(u32::from_be_bytes)
    }

    fn first<const N: usize>(&self, code: OptionCode) -> Option<[u8; N]> {
        self.get(code).and_then(<[u8]>::first_chunk).copied()
    }

    /// All options in the order of their codes.
    pub fn iter(&self) -> impl Iterator<Item = (OptionCode, &[u8])> {
        self.0.iter().map(|(&code, value)| (OptionCode::from(code), value.as_slice()))
    }

    /// The value of an option of one address.
    pub fn address(&self, code: OptionCode) -> Option<Ipv4Addr> {
        self.first::<4>(code).map(Ipv4Addr::from)
    }

    /// The value of an option of any number of addresses. An incomplete last address does not count.
    pub fn addresses(&self, code: OptionCode) -> Vec<Ipv4Addr> {
        let value = self.get(code).unwrap_or_default();
        value.chunks_exact(4).filter_map(|part| <[u8; 4]>::try_from(part).ok()).map(Ipv4Addr::from).collect()
    }

    /// The vendor class (option 60) without the NULs that some phones end it with.
    pub fn vendor_class(&self) -> Option<&[u8]> {
        let mut class = self.get(OptionCode::ClassIdentifier)?;
        while let Some((0, rest)) = class.split_last() {
            class = rest;
        }
        Some(class)
    }
}

/// The vendor classes that a device names, in option 60 and in the data of option 124 (RFC 3925 §3).
///
/// Phones pack the text of option 124 in three ways: as it is, behind a length, or as a sub-option.
pub fn vendor_classes(options: &Options) -> Vec<&[u8]> {
    let mut found: Vec<&[u8]> = options.vendor_class().into_iter().collect();
    let mut rest = options.get(OptionCode::from(VENDOR_IDENTIFYING_CLASS)).unwrap_or_default();
    // Enterprise number of four octets, then length and data.
    while let Some((&length, more)) = rest.get(4..).and_then(<[u8]>::split_first) {
        let Some((data, next)) = more.split_at_checked(usize::from(length)) else { break };
        found.push(data);
        let behind_length = data.split_first().filter(|(first, text)| usize::from(**first) == text.len());
        found.extend(behind_length.map(|(_, text)| text));
        if let Some((_, [second, text @ ..])) = data.split_first()
            && usize::from(*second) == text.len()
        {
            found.push(text);
        }
        rest = next;
    }
    found
}

/// Whether a vendor class starts with `start`. Case does not count, nor do NULs at the end of either. An empty `start` fits
/// nothing, so that a slip in a setting cannot take every device for a phone.
pub fn class_starts_with(class: &[u8], start: &str) -> bool {
    let start = start.trim_end_matches('\0').as_bytes();
    !start.is_empty() && class.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// Writes one option. A value over 255 octets is written in parts (RFC 3396).
pub fn emit(code: OptionCode, value: &[u8], to: &mut Vec<u8>) {
    let mut parts = value.chunks(MAX_PART);
    // An option without a value is still an option (for example an empty option 82 or 61).
    let first = parts.next().unwrap_or_default();
    for part in std::iter::once(first).chain(parts) {
        to.push(code.into());
        to.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        to.extend_from_slice(part);
    }
}

/// How many octets [`emit`] writes for a value.
pub fn emitted_len(value: &[u8]) -> usize {
    value.len() + 2 * value.len().div_ceil(MAX_PART).max(1)
}

/// What an option that comes more than once in a message means.
///
/// RFC 3396 §5 lets a sender write a long value in parts. Most that write an option twice mean a copy, though, or correct
/// themselves, and their parts put together are a value that nobody meant: a lease time of 921,600 seconds out of 3600.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeats {
    /// The option has one value of so many octets. The first copy that is long enough counts, as for dhclient, dhcpcd,
    /// udhcpc and dnsmasq. It is never put together.
    Size(usize),
    /// A list of addresses: another copy makes it longer, unless the list ends within an address.
    Addresses,
    /// The value consists of items that say themselves where they end, or is the class of a phone that writes it in pieces:
    /// another copy goes on where the one before ended.
    Items,
    /// A text, or what is not known. The first copy that is not empty counts, and goes on in the next only after a part
    /// that is full. So two names never become one, even if the first is no machine's: who writes a short text in two
    /// halves has no phone that reads it.
    Whole,
}

impl Repeats {
    const fn of(code: u8) -> Self {
        match code {
            19 | 20 | 23 | 29..=31 | 34 | 36 | 37 | 39 | 46 | 52 | 53 | 116 => Self::Size(1),
            13 | 22 | 26 | 57 => Self::Size(2),
            1 | 2 | 16 | 24 | 28 | 32 | 35 | 38 | 50 | 51 | 54 | 58 | 59 | 108 | 118 => Self::Size(4),
            3..=11 | 21 | 33 | 41 | 42 | 44 | 45 | 48 | 49 | 65 | 68..=76 | 150 => Self::Addresses,
            // RFC 2132 §8.4, §9.8 and §9.13, RFC 3004, 3046, 3361, 3397, 3442 (249 before it was 121) and 3925.
            43 | 55 | 60 | 77 | 82 | 119..=121 | 124 | 125 | 249 => Self::Items,
            _ => Self::Whole,
        }
    }
}

/// Puts options into the order in which a client asks for them (RFC 2132 §9.8): those that it does not ask for come last,
/// and the mask comes before the router, whatever the client's order (§3.3).
pub fn sort_as_asked(options: &mut [(OptionCode, Vec<u8>)], asked: &[u8]) {
    let place = |code: OptionCode| asked.iter().position(|&asked| asked == u8::from(code)).unwrap_or(usize::MAX);
    options.sort_by_key(|(code, _)| place(*code));
    let at = |wanted: OptionCode| options.iter().position(|(code, _)| *code == wanted);
    if let (Some(mask), Some(router)) = (at(OptionCode::SubnetMask), at(OptionCode::Router))
        && router < mask
    {
        options.swap(mask, router);
    }
}

/// Overwrites an option of a message with padding, wherever it is. What cannot be read stays as it is.
pub fn blank(message: &mut [u8], code: OptionCode) {
    let overload = super::message::read_options(message).and_then(|all| all.byte(OptionCode::from(OVERLOAD)));
    for (field, bit) in [(240..message.len(), 0), (108..236, 1), (44..108, 2)] {
        if bit == 0 || overload.unwrap_or(0) & bit != 0 {
            blank_in(message.get_mut(field).unwrap_or_default(), code.into());
        }
    }
}

fn blank_in(mut field: &mut [u8], wanted: u8) {
    while let [code, rest @ ..] = field {
        match (*code, rest) {
            (PAD, rest) => field = rest,
            (END, _) | (_, []) => return,
            (_, [length, rest @ ..]) => {
                let Some((value, rest)) = rest.split_at_mut_checked(usize::from(*length)) else { return };
                if *code == wanted {
                    value.fill(PAD);
                    (*code, *length) = (PAD, PAD);
                }
                field = rest;
            }
        }
    }
}

/// The value of an option that lists these addresses.
pub fn address_list(addresses: &[Ipv4Addr]) -> Vec<u8> {
    addresses.iter().flat_map(Ipv4Addr::octets).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    // RFC 3396 §5 to §8; RFC 2132 §9.3 (overload).
    #[test]
    fn an_option_in_parts_is_put_together_across_all_fields() {
        let options = Options::parse(
            &[60, 3, b'C', b'i', b's', 52, 1, 3, 12, 1, b'x', 60, 2, b'c', b'o', 255],
            &[60, 1, b' ', 255, 60, 1, b'!'],
            &[60, 1, b'S', 0, 0],
        );
        assert_eq!(options.get(OptionCode::ClassIdentifier), Some(&b"Cisco S"[..]));
    }

    #[test]
    fn without_overload_the_name_fields_hold_no_options() {
        let options = Options::parse(&[53, 1, 1, 255], &[60, 1, b'x'], &[60, 1, b'y']);
        assert_eq!(options.get(OptionCode::ClassIdentifier), None);
    }

    #[test]
    fn a_cut_off_option_does_not_count_and_those_before_it_do() {
        let options = Options::parse(&[53, 1, 1, 60, 9, b'x'], &[], &[]);
        assert_eq!(options.byte(OptionCode::MessageType), Some(1));
        assert_eq!(options.get(OptionCode::ClassIdentifier), None);
    }

    #[test]
    fn a_vendor_class_is_compared_from_its_start_only() {
        assert!(class_starts_with(b"Cisco Systems, Inc. IP Phone CP-7941G", "cisco systems, inc. IP phone"));
        assert!(!class_starts_with(b"my Cisco Systems, Inc. IP Phone", "Cisco Systems, Inc. IP Phone"));
        assert!(!class_starts_with(b"Cisco", "Cisco Systems"));
        assert!(!class_starts_with(b"anything", ""));
        assert!(!class_starts_with(b"anything", "\0"));
    }

    // RFC 3925 §3.
    #[test]
    fn vendor_classes_are_found_in_options_60_and_124_however_they_are_packed() {
        let class = b"Polycom-VVX";
        for packed in [class.to_vec(), [&[11], &class[..]].concat(), [&[15, 11], &class[..]].concat()] {
            let mut value = vec![0, 0, 0, 9, 1, b'x', 0, 0, 0x36, 0x3d];
            value.push(u8::try_from(packed.len()).expect("short"));
            value.extend(&packed);
            let mut bytes = vec![60, 3, b'a', b'b', b'c'];
            emit(OptionCode::from(VENDOR_IDENTIFYING_CLASS), &value, &mut bytes);
            let options = Options::parse(&bytes, &[], &[]);
            let found = vendor_classes(&options);
            assert_eq!(found.first(), Some(&&b"abc"[..]));
            assert!(found.contains(&&b"x"[..]), "{found:?}");
            assert!(found.iter().any(|class| class_starts_with(class, "Polycom-")), "{found:?}");
        }
        for hostile in [&[0, 0, 0, 9][..], &[0, 0, 0, 9, 200, b'P'], &[0], &[0, 0, 0, 9, 0, 0, 0, 0, 9, 0]] {
            let mut bytes = Vec::new();
            emit(OptionCode::from(VENDOR_IDENTIFYING_CLASS), hostile, &mut bytes);
            let options = Options::parse(&bytes, &[], &[]);
            assert!(vendor_classes(&options).iter().all(|class| class.is_empty()), "{hostile:?}");
        }
    }

    #[test]
    fn an_option_that_comes_in_equal_copies_is_read_once() {
        for copies in 1..=4 {
            let written = [&[53, 1, 5][..], &[54, 4, 192, 168, 1, 1], &[51, 4, 0, 0, 14, 16], &[57, 2, 2, 64]].concat();
            let more = [&[15, 3, b'l', b'a', b'n'][..], &[6, 8, 1, 1, 1, 1, 8, 8, 8, 8]].concat();
            let options = Options::parse(&[written, more].concat().repeat(copies), &[], &[]);
            assert_eq!(options.byte(OptionCode::MessageType), Some(5));
            assert_eq!(options.address(OptionCode::ServerIdentifier), Some(Ipv4Addr::new(192, 168, 1, 1)));
            assert_eq!(options.seconds(OptionCode::AddressLeaseTime), Some(3600));
            assert_eq!(options.number(OptionCode::MaxMessageSize), Some(576));
            assert_eq!(options.get(OptionCode::DomainName), Some(&b"lan"[..]));
            assert_eq!(options.addresses(OptionCode::DomainNameServer).len(), 2, "{copies}");
        }
        // A copy in the name fields, too (overload).
        let options = Options::parse(&[52, 1, 3, 54, 4, 10, 0, 0, 1], &[54, 4, 10, 0, 0, 1], &[54, 4, 10, 0, 0, 1]);
        assert_eq!(options.get(OptionCode::ServerIdentifier), Some(&[10, 0, 0, 1][..]));
    }

    #[test]
    fn of_unequal_copies_the_first_counts_and_what_is_too_short_does_not() {
        let options = Options::parse(&[54, 4, 10, 0, 0, 1, 54, 4, 10, 0, 0, 2, 53, 1, 2, 53, 1, 5], &[], &[]);
        assert_eq!(options.address(OptionCode::ServerIdentifier), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(options.byte(OptionCode::MessageType), Some(2));
        let options = Options::parse(&[51, 5, 0, 0, 14, 16, 0, 58, 3, 0, 0, 1, 53, 0, 57, 1, 2], &[], &[]);
        assert_eq!(options.seconds(OptionCode::AddressLeaseTime), Some(3600));
        assert_eq!((options.seconds(OptionCode::Renewal), options.byte(OptionCode::MessageType)), (None, None));
        assert_eq!(options.number(OptionCode::MaxMessageSize), None);
    }

    #[test]
    fn of_a_value_of_a_fixed_size_the_first_copy_that_is_long_enough_counts() {
        for code in [1, 50, 51, 54, 58, 59] {
            for short in [&[][..], &[0], &[0, 14], &[0, 14, 16]] {
                let mut bytes = Vec::new();
                for value in [short, &[0, 0, 14, 16], &[9, 9, 9, 9]] {
                    emit(OptionCode::from(code), value, &mut bytes);
                }
                let options = Options::parse(&bytes, &[], &[]);
                assert_eq!(options.get(OptionCode::from(code)), Some(&[0, 0, 14, 16][..]), "{code} {short:?}");
            }
            let short = Options::parse(&[code, 3, 0, 14, 16, code, 2, 0, 0], &[], &[]);
            assert_eq!((short.seconds(OptionCode::from(code)), short.address(OptionCode::from(code))), (None, None));
        }
        let options = Options::parse(&[57, 1, 2, 57, 2, 2, 64, 53, 0, 53, 1, 5, 52, 0, 52, 1, 1], &[53, 1, 2], &[]);
        assert_eq!(
            (options.number(OptionCode::MaxMessageSize), options.byte(OptionCode::MessageType)),
            (Some(576), Some(5))
        );
    }

    #[test]
    fn two_texts_are_not_put_together_unless_the_first_is_full() {
        for (code, texts, first) in [
            (66, ["192.168.77.2", "192.168.77.2:69"], "192.168.77.2"),
            (66, ["", "192.168.77.2"], "192.168.77.2"),
            (15, ["lan", "example.com"], "lan"),
            (12, ["pbx", "router"], "pbx"),
            (160, ["http://10.9.9.9", "192.168.77.2"], "http://10.9.9.9"),
        ] {
            let mut bytes = Vec::new();
            texts.iter().for_each(|text| emit(OptionCode::from(code), text.as_bytes(), &mut bytes));
            let options = Options::parse(&bytes, &[], &[]);
            assert_eq!(options.get(OptionCode::from(code)), Some(first.as_bytes()), "{code} {texts:?}");
        }
        let long = "x".repeat(300);
        let mut bytes = Vec::new();
        emit(TFTP_SERVER_NAME, long.as_bytes(), &mut bytes);
        emit(TFTP_SERVER_NAME, b"192.168.77.2", &mut bytes);
        assert_eq!(Options::parse(&bytes, &[], &[]).get(TFTP_SERVER_NAME), Some(long.as_bytes()));
        // RFC 3396 §5: what did not fit into the options field goes on first thing in the next.
        let options = Options::parse(&[52, 1, 3, 66, 3, b'p', b'b', b'x', 255], &[66, 1, b'.', 255], &[66, 1, b'a', 0]);
        assert_eq!(options.get(TFTP_SERVER_NAME), Some(&b"pbx.a"[..]));
    }

    #[test]
    fn a_list_of_addresses_goes_on_only_after_a_whole_address() {
        let options =
            Options::parse(&[150, 4, 10, 0, 0, 1, 150, 4, 10, 0, 0, 2, 6, 3, 1, 1, 1, 6, 4, 8, 8, 8, 8], &[], &[]);
        assert_eq!(options.addresses(TFTP_SERVERS), [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]);
        assert!(options.addresses(OptionCode::DomainNameServer).is_empty());
    }

    #[test]
    fn an_option_is_blanked_in_every_field_and_nothing_else_is() {
        let mut message = vec![1; 240];
        message[236..].copy_from_slice(&[99, 130, 83, 99]);
        message[108..114].copy_from_slice(&[80, 1, 9, 12, 1, b'x']);
        message[44..47].copy_from_slice(&[80, 0, 255]);
        message.extend([53, 1, 1, 80, 0, 52, 1, 1, 61, 2, 80, 0, 255, 80, 0]);
        let before = message.clone();
        blank(&mut message, OptionCode::from(80));
        assert_eq!(message[240..], [53, 1, 1, 0, 0, 52, 1, 1, 61, 2, 80, 0, 255, 80, 0]);
        assert_eq!(message[108..114], [0, 0, 0, 12, 1, b'x']);
        assert_eq!(message[44..108], before[44..108], "sname holds no options here");
        for length in 0..message.len() {
            blank(&mut before[..length].to_vec(), OptionCode::from(80));
        }
    }

    // RFC 3396 §5.
    #[test]
    fn a_long_value_of_equal_parts_is_still_one_value() {
        let mut bytes = Vec::new();
        emit(OptionCode::from(43), &[7; 510], &mut bytes);
        assert_eq!(Options::parse(&bytes, &[], &[]).get(OptionCode::from(43)), Some(&[7; 510][..]));
    }

    // RFC 2132 §9.13.
    #[test]
    fn nuls_at_the_end_of_a_vendor_class_do_not_count() {
        let options = Options::parse(&[60, 4, b'S', b'P', 0, 0], &[], &[]);
        assert_eq!(options.vendor_class(), Some(&b"SP"[..]));
    }

    // RFC 3396 §4.
    #[test]
    fn long_values_are_written_in_parts_and_read_back() {
        let value: Vec<u8> = (0..=255).cycle().take(600).collect();
        let mut bytes = Vec::new();
        emit(OptionCode::RelayAgentInformation, &value, &mut bytes);
        assert_eq!(bytes.len(), emitted_len(&value));
        assert_eq!(Options::parse(&bytes, &[], &[]).get(OptionCode::RelayAgentInformation), Some(value.as_slice()));
    }
}
