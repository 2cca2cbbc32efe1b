//! The options that client and server negotiate: RFC 2347 to 2349 and RFC 7440. The server answers only options that were
//! asked for. A value out of range is ignored or clamped, never fatal. An unknown option is ignored and never echoed.

use std::time::Duration;

use super::packet::{OACK_HEADER, RequestOption, push_option};
use ids::MacAddr;

/// The block size without an option (RFC 1350 §2).
pub const DEFAULT_BLKSIZE: u16 = 512;

/// The block sizes that RFC 2348 knows.
pub const BLKSIZE_RANGE: std::ops::RangeInclusive<u16> = 8..=65464;

/// The largest window that is ever agreed to (RFC 7440 would allow 65,535 blocks).
pub const MAX_WINDOWSIZE: u16 = 64;

/// The most bytes in one window, whatever the size of its blocks. It bounds the memory of a transfer, and it fits the
/// receive buffer that Linux gives a socket (208 KiB); 64 blocks of an Ethernet frame are 92 KiB.
pub const MAX_WINDOW_BYTES: u32 = 128 * 1024;

/// IPv4 without options, UDP, and the head of a DATA packet.
const OVERHEAD_BYTES: u32 = 20 + 8 + 4;

/// The largest block that is ever agreed to: what one Ethernet frame of 1500 octets carries. The server's own interface may
/// carry more, but phones and the switches before them do not, and a longer frame is lost without a word.
pub const MAX_BLKSIZE: u16 = 1468;

/// The largest `blksize` and `windowsize` that the server agrees to, on one interface at one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionLimits {
    max_blksize: u16,
    max_windowsize: u16,
}

impl OptionLimits {
    /// The limits for an interface of this MTU. A site's settings can only narrow them.
    pub fn new(mtu: u32, max_blksize: Option<u16>, max_windowsize: Option<u16>) -> Self {
        let by_mtu = u16::try_from(mtu.saturating_sub(OVERHEAD_BYTES)).unwrap_or(u16::MAX);
        // Every interface carries 512: IPv4 fragments where it must, and nothing smaller can be asked of a plain client.
        let bound = by_mtu.clamp(DEFAULT_BLKSIZE, MAX_BLKSIZE);
        Self {
            max_blksize: max_blksize.unwrap_or(bound).clamp(*BLKSIZE_RANGE.start(), bound),
            max_windowsize: max_windowsize.unwrap_or(MAX_WINDOWSIZE).clamp(1, MAX_WINDOWSIZE),
        }
    }

    /// The largest block, in bytes.
    pub const fn max_blksize(&self) -> u16 {
        self.max_blksize
    }
}

/// What client and server agreed on for one transfer (RFC 2347).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NegotiatedOptions {
    /// Bytes in a block (RFC 2348).
    pub blksize: u16,
    /// Blocks in a window (RFC 7440); 1 is lock-step.
    pub windowsize: u16,
    /// The client's wish for the time before a resend (RFC 2349), 1 to 255 s; `None` lets the server measure.
    pub timeout: Option<Duration>,
    /// The OACK packet; `None` if no option was agreed, and then the first block is the answer.
    pub oack: Option<Box<[u8]>>,
}

impl Default for NegotiatedOptions {
    /// RFC 1350 without options.
    fn default() -> Self {
        Self { blksize: DEFAULT_BLKSIZE, windowsize: 1, timeout: None, oack: None }
    }
}

impl NegotiatedOptions {
    /// Answers the options of a request. `len` is the file's size in bytes as it will be sent: the answer to `tsize`.
    pub fn negotiate(asked: &AskedOptions, len: u64, limits: &OptionLimits) -> Self {
        let blksize = asked.number(OptionKind::Blksize).filter(|size| *size >= u64::from(*BLKSIZE_RANGE.start()));
        // RFC 2348: the server answers with a value at most as large.
        let blksize = blksize.map(|size| u16::try_from(size).unwrap_or(u16::MAX).min(limits.max_blksize));
        // RFC 2349: the very same value or no answer.
        let seconds = asked.number(OptionKind::Timeout).filter(|seconds| (1..=255).contains(seconds));
        let tsize = asked.number(OptionKind::Tsize).map(|_| len);
        let agreed_blksize = blksize.unwrap_or(DEFAULT_BLKSIZE);
        let by_memory = u16::try_from(MAX_WINDOW_BYTES / u32::from(agreed_blksize)).unwrap_or(u16::MAX).max(1);
        // RFC 7440 §3: 0 is no window.
        let windowsize = asked.number(OptionKind::Windowsize).filter(|size| *size > 0);
        let windowsize =
            windowsize.map(|size| u16::try_from(size).unwrap_or(u16::MAX).min(limits.max_windowsize).min(by_memory));
        let answer = |kind| match kind {
            OptionKind::Blksize => blksize.map(u64::from),
            OptionKind::Timeout => seconds,
            OptionKind::Tsize => tsize,
            OptionKind::Windowsize => windowsize.map(u64::from),
        };
        Self {
            blksize: agreed_blksize,
            windowsize: windowsize.unwrap_or(1),
            timeout: seconds.map(Duration::from_secs),
            oack: asked.oack(answer),
        }
    }
}

/// The options of a request that the server knows, read once. It keeps nothing of the datagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AskedOptions {
    /// In the client's order. RFC 2347: an option may be specified only once; the first one counts.
    asked: [Option<AskedOption>; OptionKind::ALL.len()],
    hint: Option<MacAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AskedOption {
    kind: OptionKind,
    /// The client's spelling, which the OACK repeats. It has as many letters as [`OptionKind::name`].
    spelling: [u8; MAX_NAME_BYTES],
    value: AskedValue,
}

/// RFC 2347: numbers are decimal ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AskedValue {
    Number(u64),
    /// More digits than any number here has.
    TooLarge,
    NoNumber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OptionKind {
    Blksize,
    Timeout,
    Tsize,
    Windowsize,
}

/// The longest of [`OptionKind::name`].
const MAX_NAME_BYTES: usize = 10;

impl OptionKind {
    const ALL: [Self; 4] = [Self::Blksize, Self::Timeout, Self::Tsize, Self::Windowsize];

    const fn name(self) -> &'static [u8] {
        match self {
            Self::Blksize => b"blksize",
            Self::Timeout => b"timeout",
            Self::Tsize => b"tsize",
            Self::Windowsize => b"windowsize",
        }
    }
}

impl AskedOptions {
    /// Reads the options of a request.
    pub fn of(options: &[RequestOption<'_>]) -> Self {
        let mut this = Self::default();
        for option in options {
            if option.name.eq_ignore_ascii_case(b"grandstream_ID") && this.hint.is_none() {
                this.hint = std::str::from_utf8(option.value).ok().and_then(|value| value.parse().ok());
            }
            let kind = OptionKind::ALL.into_iter().find(|kind| option.name.eq_ignore_ascii_case(kind.name()));
            let Some(kind) = kind.filter(|kind| this.find(*kind).is_none()) else { continue };
            let mut spelling = [0; MAX_NAME_BYTES];
            for (at, letter) in spelling.iter_mut().zip(option.name) {
                *at = *letter;
            }
            if let Some(free) = this.asked.iter_mut().find(|asked| asked.is_none()) {
                *free = Some(AskedOption { kind, spelling, value: AskedValue::of(option.value) });
            }
        }
        this
    }

    /// How many bytes a client says that it will send (RFC 2349: `tsize` of a WRQ). A number over `u64` counts as its
    /// maximum.
    pub fn announced_size(&self) -> Option<u64> {
        match self.find(OptionKind::Tsize)?.value {
            AskedValue::Number(size) => Some(size),
            AskedValue::TooLarge => Some(u64::MAX),
            AskedValue::NoNumber => None,
        }
    }

    /// The MAC address that a device gives as its own in its options, as Grandstream's do in every request. Anybody can
    /// write anything there, so it is a hint for people and never a reason to serve.
    pub const fn device_hint(&self) -> Option<MacAddr> {
        self.hint
    }

    fn find(&self, kind: OptionKind) -> Option<&AskedOption> {
        self.asked.iter().flatten().find(|asked| asked.kind == kind)
    }

    /// The option's number. An option with anything else is ignored.
    fn number(&self, kind: OptionKind) -> Option<u64> {
        match self.find(kind)?.value {
            AskedValue::Number(number) => Some(number),
            AskedValue::TooLarge | AskedValue::NoNumber => None,
        }
    }

    /// The OACK in the client's order and spelling (RFC 2347), byte for byte: Cisco refuses one that has a NUL too many.
    fn oack(&self, answer: impl Fn(OptionKind) -> Option<u64>) -> Option<Box<[u8]>> {
        let mut packet = OACK_HEADER.to_vec();
        for asked in self.asked.iter().flatten() {
            if let Some(value) = answer(asked.kind) {
                let name = asked.spelling.get(..asked.kind.name().len()).unwrap_or_default();
                push_option(RequestOption { name, value: value.to_string().as_bytes() }, &mut packet);
            }
        }
        (packet.len() > OACK_HEADER.len()).then(|| packet.into_boxed_slice())
    }
}

impl AskedValue {
    fn of(value: &[u8]) -> Self {
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Self::NoNumber;
        }
        let number = std::str::from_utf8(value).ok().filter(|digits| digits.len() <= 20);
        number.and_then(|digits| digits.parse().ok()).map_or(Self::TooLarge, Self::Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;

    const ETHERNET: u32 = 1500;

    fn negotiate(options: &[(&str, &str)]) -> NegotiatedOptions {
        agree_on(ETHERNET, options)
    }

    fn agree_on(mtu: u32, options: &[(&str, &str)]) -> NegotiatedOptions {
        let asked: Vec<_> = options
            .iter()
            .map(|(name, value)| RequestOption { name: name.as_bytes(), value: value.as_bytes() })
            .collect();
        NegotiatedOptions::negotiate(&AskedOptions::of(&asked), 1234, &OptionLimits::new(mtu, None, None))
    }

    fn answer(options: &[(&str, &str)]) -> Option<String> {
        negotiate(options).oack.map(|oack| oack.iter().copied().map(char::from).collect())
    }

    #[test]
    fn without_options_there_is_no_oack() {
        assert_eq!(negotiate(&[]), NegotiatedOptions::default());
    }

    #[test]
    fn tsize_gets_the_real_size_and_not_a_byte_more() {
        // uftpd issue 43: Cisco refuses an OACK with an extra NUL.
        assert_eq!(answer(&[("tsize", "0")]).as_deref(), Some("\0\u{6}tsize\x001234\0"));
    }

    #[test]
    fn options_are_answered_in_the_clients_order_and_spelling() {
        let oack = answer(&[("TSIZE", "0"), ("BlkSize", "1024"), ("timeout", "4")]);
        assert_eq!(oack.as_deref(), Some("\0\u{6}TSIZE\x001234\0BlkSize\x001024\0timeout\x004\0"));
    }

    #[test]
    fn blksize_is_clamped_to_the_mtu() {
        // RFC 2348 leaves room for 8 to 65464; 1468 is what fits Ethernet unfragmented.
        for asked in ["1468", "1469", "8192", "65464", "65465", "4294967296"] {
            assert_eq!(negotiate(&[("blksize", asked)]).blksize, 1468, "{asked}");
        }
        assert_eq!(negotiate(&[("blksize", "1467")]).blksize, 1467);
        assert_eq!(negotiate(&[("blksize", "8")]).blksize, 8);
        assert_eq!(agree_on(1000, &[("blksize", "1468")]).blksize, 968);
    }

    #[test]
    fn blksize_stays_within_an_ethernet_frame_whatever_the_interface_carries() {
        // Jumbo frames on the server's own network card say nothing of phones and of the switches before them.
        for mtu in [1500, 4096, 9000, 65_536] {
            for asked in ["1468", "4096", "8192", "65464"] {
                assert_eq!(agree_on(mtu, &[("blksize", asked)]).blksize, 1468, "{mtu} {asked}");
            }
        }
        let asked = AskedOptions::of(&[RequestOption { name: b"blksize", value: b"4096" }]);
        assert_eq!(NegotiatedOptions::negotiate(&asked, 0, &OptionLimits::new(9000, Some(4096), None)).blksize, 1468);
    }

    #[test]
    fn values_out_of_range_are_ignored_and_the_rest_is_answered() {
        for option in [
            ("blksize", "7"),
            ("blksize", "-1"),
            ("blksize", "x"),
            ("blksize", ""),
            ("blksize", "99999999999999999999"),
            ("timeout", "0"),
            ("timeout", "256"),
            ("windowsize", "0"),
            ("tsize", "large"),
        ] {
            assert_eq!(negotiate(&[option]), NegotiatedOptions::default(), "{option:?}");
            assert_eq!(answer(&[option, ("BLKSIZE2", "9")]), None, "{option:?}");
        }
    }

    #[test]
    fn windowsize_is_clamped_to_64_which_fits_the_memory_of_one_transfer() {
        assert_eq!(negotiate(&[("windowsize", "65535"), ("blksize", "1468")]).windowsize, 64);
        assert_eq!(negotiate(&[("windowsize", "16")]).windowsize, 16);
        assert!(64 * u32::from(MAX_BLKSIZE) <= MAX_WINDOW_BYTES);
    }

    #[test]
    fn a_site_can_narrow_the_limits_but_not_widen_them() {
        let asked =
            [RequestOption { name: b"blksize", value: b"8000" }, RequestOption { name: b"windowsize", value: b"99" }];
        let narrow = NegotiatedOptions::negotiate(
            &AskedOptions::of(&asked),
            0,
            &OptionLimits::new(ETHERNET, Some(1024), Some(8)),
        );
        assert_eq!((narrow.blksize, narrow.windowsize), (1024, 8));
        let wide = NegotiatedOptions::negotiate(
            &AskedOptions::of(&asked),
            0,
            &OptionLimits::new(ETHERNET, Some(9000), Some(900)),
        );
        assert_eq!((wide.blksize, wide.windowsize), (1468, 64));
    }

    #[test]
    fn grandstreams_own_options_are_never_echoed_but_name_the_device() {
        let options = [
            ("blksize", "1024"),
            ("tsize", "0"),
            ("timeout", "4"),
            ("grandstream_ID", "000b82aabbcc"),
            ("grandstream_MODEL", "HT502"),
        ];
        assert_eq!(answer(&options).as_deref(), Some("\0\u{6}blksize\x001024\0tsize\x001234\0timeout\x004\0"));
        let asked = [RequestOption { name: b"Grandstream_id", value: b"000b82aabbcc" }];
        assert_eq!(AskedOptions::of(&asked).device_hint(), Some(MacAddr::new([0, 0x0b, 0x82, 0xaa, 0xbb, 0xcc])));
        let asked = [RequestOption { name: b"grandstream_ID", value: b"\xff" }];
        assert_eq!(AskedOptions::of(&asked).device_hint(), None);
    }

    #[test]
    fn of_two_options_with_one_name_the_first_counts() {
        let oack = answer(&[("blksize", "1024"), ("BLKSIZE", "512")]);
        assert_eq!(oack.as_deref(), Some("\0\u{6}blksize\x001024\0"));
    }

    #[test]
    fn our_oack_is_a_packet() {
        let terms = negotiate(&[("blksize", "1024"), ("windowsize", "4")]);
        let packet = terms.oack.expect("two options were asked");
        let Ok(Packet::Oack(options)) = Packet::parse(&packet) else { panic!("no OACK") };
        assert_eq!(options.len(), 2);
    }
}
