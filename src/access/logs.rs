//! Which log a device may write, if the site takes logs at all.
//!
//! Polycom phones write `<mac>-app.log` and `<mac>-boot.log`, the former before anything else when they start. No other
//! name can be written, and nothing that is written can be read again by TFTP.

use std::fmt;
use std::time::Instant;

use super::catalog::Catalog;
use super::devices::Resolution;
use ids::{FileName, MacAddr, UnixTime};

/// The most bytes of one upload, and the most that are kept of one log: Polycom's own files have at most 180 KB.
pub const MAX_LOG_BYTES: u64 = 256 * 1024;

/// A log of a device of the inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnLog {
    /// The MAC address of the device that writes the log.
    pub device: MacAddr,
    /// Which of the device's two logs it is.
    pub kind: LogKind,
}

/// The two logs of a Polycom phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogKind {
    /// What the phone's application says: `<mac>-app.log`.
    App,
    /// What its boot loader says: `<mac>-boot.log`.
    Boot,
}

impl LogKind {
    /// Both kinds, in the order of [`LogKind`].
    pub const ALL: [Self; 2] = [Self::App, Self::Boot];

    /// The word in the log's file name: `app` or `boot`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Boot => "boot",
        }
    }
}

impl OwnLog {
    /// The log of this name, whoever asks.
    pub fn named(name: &str) -> Option<Self> {
        let (mac, rest) = name.split_at_checked(12)?;
        let kind = LogKind::ALL.into_iter().find(|kind| rest.eq_ignore_ascii_case(&format!("-{}.log", kind.word())))?;
        Some(Self { device: mac.parse().ok()?, kind })
    }

    /// The log that `requester` may write under this name: its own, if it is a device of the inventory and the signed
    /// settings of the site say that logs are taken.
    pub fn writable(catalog: &Catalog, requester: Resolution, name: &FileName) -> Option<Self> {
        let Resolution::Device(mac) = requester else { return None };
        let wanted = catalog.settings().tftp.accept_logs && catalog.phone(mac).is_some();
        Self::named(name.as_str()).filter(|log| wanted && log.device == mac)
    }
}

impl fmt::Display for OwnLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.log", self.device.lower(), self.kind.word())
    }
}

/// A place that logs go to. The store implements it.
pub trait Logs: Send + Sync + 'static {
    /// Keeps what a device wrote, outside of everything that is served, and makes room by forgetting the oldest. May
    /// block on the disk. `at` is told to people, `now` paces the disk.
    ///
    /// # Errors
    ///
    /// See [`LogError`]; nothing is kept then.
    fn keep(&self, log: OwnLog, text: &[u8], at: UnixTime, now: Instant) -> Result<(), LogError>;
}

/// Why a log was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The upload has more than [`MAX_LOG_BYTES`].
    #[error("the log is over {MAX_LOG_BYTES} bytes")]
    TooLong,
    /// The device, or all of them together, write more than the card should take.
    #[error("logs are written too often")]
    TooOften,
    /// The system could not write the log.
    #[error("the log cannot be written: {0}")]
    Io(String),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_the_two_logs_of_a_polycom_are_logs() {
        // A Polycom phone writes its app.log before it asks for anything, and names come in either case of letters.
        let device = "0004f2000002".parse().unwrap();
        for (name, kind) in [
            ("0004f2000002-app.log", LogKind::App),
            ("0004F2000002-APP.LOG", LogKind::App),
            ("0004f2000002-boot.log", LogKind::Boot),
        ] {
            assert_eq!(OwnLog::named(name), Some(OwnLog { device, kind }), "{name}");
        }
        for name in [
            "0004f2000002.cfg",
            "0004f2000002-phone.cfg",
            "0004f2000002-directory.xml",
            "0004f2000002-app.log.cfg",
            "logs/0004f2000002-app.log",
            "0004f200000-app.log",
            "00:04:f2:00:00:02-app.log",
            "-app.log",
            "äöüäöü-app.log",
            "000000000000-app.log.",
        ] {
            assert_eq!(OwnLog::named(name), None, "{name}");
        }
        let log = OwnLog { device, kind: LogKind::Boot };
        assert_eq!(OwnLog::named(&log.to_string()), Some(log));
    }
}
