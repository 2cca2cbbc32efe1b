use std::fmt;
use std::str::FromStr;

/// The Ethernet address of a device on the site's LAN.
///
/// `Display` writes `00:04:f2:aa:bb:cc`. `FromStr` takes upper and lower case, with `:`, `-`, `.` or no separators, as
/// people copy it from labels, switches and spreadsheets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

/// Why a text is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address; write 12 hex digits, for example 00:04:f2:aa:bb:cc")]
pub struct MacAddrError(String);

impl MacAddr {
    /// The address with these six octets, first octet of the OUI first.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The six octets in wire order.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The first three octets, which the IEEE gave the vendor.
    pub const fn oui(self) -> [u8; 3] {
        let [a, b, c, ..] = self.0;
        [a, b, c]
    }

    /// Whether it can be the address of one device: it is neither a group's (multicast) nor all zero.
    pub const fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && u64::from_be_bytes(self.widen()) != 0
    }

    /// The address as 12 lower-case hex digits without separators. Polycom and Yealink write it so in file names.
    pub fn lower(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The address as 12 upper-case hex digits without separators. Cisco writes it so in file names.
    pub fn upper(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02X}")).collect()
    }

    const fn widen(self) -> [u8; 8] {
        let [a, b, c, d, e, f] = self.0;
        [0, 0, a, b, c, d, e, f]
    }
}

/// The first three octets of a MAC address, which tell the vendor of the device (IEEE MA-L).
///
/// `Display` writes `00:04:f2`. `FromStr` takes the same spellings as that of [`MacAddr`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oui([u8; 3]);

impl Oui {
    /// The vendor of this device.
    pub const fn of(mac: MacAddr) -> Self {
        Self(mac.oui())
    }
}

impl FromStr for Oui {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || MacAddrError(text.chars().take(40).collect());
        // The longest spelling has 8 characters. With six zeros it is the spelling of a whole address.
        if text.len() > 8 {
            return Err(wrong());
        }
        let whole: MacAddr = format!("{text}000000").parse().map_err(|_| wrong())?;
        let oui = Self::of(whole);
        // No vendor has zero, or the first octets of a group's address.
        if oui.0 == [0; 3] || oui.0.first().is_some_and(|first| first & 1 != 0) { Err(wrong()) } else { Ok(oui) }
    }
}

impl fmt::Display for Oui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}")
    }
}

impl fmt::Debug for Oui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

crate::text_serde!(Oui);

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || MacAddrError(text.chars().take(40).collect());
        // The longest spelling has 17 characters. The limit keeps long nonsense cheap.
        if text.len() > 17 {
            return Err(wrong());
        }
        let mut octets = [0u8; 6];
        let mut digits = 0usize;
        for character in text.chars() {
            if matches!(character, ':' | '-' | '.') && (2..12).contains(&digits) && digits.is_multiple_of(2) {
                continue;
            }
            let value = character.to_digit(16).ok_or_else(wrong)?;
            let octet = octets.get_mut(digits / 2).ok_or_else(wrong)?;
            *octet = (*octet << 4) | u8::try_from(value).map_err(|_| wrong())?;
            digits += 1;
        }
        if digits == 12 { Ok(Self(octets)) } else { Err(wrong()) }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

crate::text_serde!(MacAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_spelling_is_the_same_address() {
        let spellings = ["0004f2aabbcc", "0004F2AABBCC", "00:04:f2:aa:bb:cc", "00-04-F2-AA-BB-CC", "0004.f2aa.bbcc"];
        for spelling in spellings {
            let mac: MacAddr = spelling.parse().expect(spelling);
            assert_eq!(mac.to_string(), "00:04:f2:aa:bb:cc");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "0004f2aabbc", "0004f2aabbccd", "0004f2aabbcg", ":0004f2aabbcc", "0:004f2aabbcc", "0004f2aabbcc:"]
        {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_vendors_octets_are_read_in_every_spelling_and_nothing_else_is() {
        for spelling in ["0004f2", "00:04:F2", "00-04-f2"] {
            let oui: Oui = spelling.parse().expect(spelling);
            assert_eq!(oui.to_string(), "00:04:f2");
            assert_eq!(oui, Oui::of(MacAddr::new([0, 4, 0xf2, 1, 2, 3])));
        }
        for wrong in ["", "0004f", "0004f2aa", "00:04:f2:", "000000", "01:00:5e", "00:04:fg", "0004f2aabbcc"] {
            assert!(wrong.parse::<Oui>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn multicast_and_zero_belong_to_nobody() {
        assert!(!MacAddr::new([0; 6]).is_unicast());
        assert!(!MacAddr::new([0xff; 6]).is_unicast());
        assert!(MacAddr::new([0, 4, 0xf2, 0, 0, 0]).is_unicast());
    }
}
