//! What is remembered of a completed lease over a restart. Pure.
//!
//! A phone that starts with the address it remembers is then told its TFTP server at once. If the memory is lost, the phone
//! hears the router alone until its next DISCOVER.

use ids::{MacAddr, UnixTime};

/// The largest record, in octets: a time, a length and two messages.
const MAX_BYTES: usize = 8 + 2 + 2 * 1500;

/// The two messages that a completed lease is made from. After a restart both are parsed and checked as if they had just
/// come, under the settings of that time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedLease {
    /// The phone's DISCOVER.
    pub discover: Vec<u8>,
    /// The router's OFFER.
    pub offer: Vec<u8>,
}

impl CompletedLease {
    /// The hardware address in the DISCOVER; zeros if the DISCOVER is too short.
    pub fn mac(&self) -> MacAddr {
        let chaddr = self.discover.get(28..34).and_then(|octets| <[u8; 6]>::try_from(octets).ok());
        MacAddr::new(chaddr.unwrap_or_default())
    }

    /// The octets that are kept: the time at which the phone took the lease (seconds since 1970, little-endian), the length
    /// of the DISCOVER, and both messages.
    pub fn emit(&self, since: UnixTime) -> Vec<u8> {
        let length = u16::try_from(self.discover.len()).unwrap_or(u16::MAX);
        [&since.0.to_le_bytes()[..], &length.to_le_bytes(), &self.discover, &self.offer].concat()
    }

    /// Reads what [`Self::emit`] wrote; `None` for everything else.
    pub fn parse(bytes: &[u8]) -> Option<(Self, UnixTime)> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        let (since, rest) = bytes.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (discover, offer) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let kept = Self { discover: discover.to_vec(), offer: offer.to_vec() };
        Some((kept, UnixTime(i64::from_le_bytes(*since))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back_and_nothing_else_is() {
        let kept = CompletedLease { discover: vec![1; 300], offer: vec![2; 310] };
        let bytes = kept.emit(UnixTime(1_700_000_000));
        assert_eq!(CompletedLease::parse(&bytes), Some((kept, UnixTime(1_700_000_000))));
        for length in 0..310 {
            assert_eq!(bytes.get(..length).and_then(CompletedLease::parse), None, "{length}");
        }
        assert_eq!(CompletedLease::parse(&vec![0; MAX_BYTES + 1]), None);
    }
}
