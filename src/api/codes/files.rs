//! How requests for files end.

use super::codes;

codes! {
    /// How a transfer ended that had begun.
    TransferEnd {
        /// The client acknowledged the last block.
        Delivered = "delivered",
        /// Everything was sent, the last acknowledgement never came.
        Unconfirmed = "unconfirmed",
        /// The client sent ERROR. Normal for probes (`tsize`, Polycom's header check).
        Aborted = "aborted",
        /// The client fell silent.
        TimedOut = "timed-out",
        /// The client's own log was taken and kept.
        Received = "received",
        /// The file could not be read, or the transfer was ended from our side.
        Failed = "failed",
    }
}

codes! {
    /// Why a request was not served. It is counted and kept; from `NotFound` to `LockedOut` the client hears one and the
    /// same answer.
    FileRefusal {
        /// No such file in the release.
        NotFound = "not-found",
        /// No file can have such a name.
        BadName = "bad-name",
        /// It is another device's.
        OtherDevice = "other-device",
        /// It is for another model.
        OtherModel = "other-model",
        /// The requester's device is not known or disputed.
        UnknownDevice = "unknown-device",
        /// The requester guessed names and is locked out.
        LockedOut = "locked-out",
        /// Too many requests.
        RateLimited = "rate-limited",
        /// Not from the site's LAN.
        OutsideLan = "outside-lan",
        /// An image or a signed file was asked for as text.
        OctetOnly = "octet-only",
        /// A request to write what is not the device's own log, or where no logs are taken.
        WriteRefused = "write-refused",
        /// The mode is neither octet nor netascii.
        UnsupportedMode = "unsupported-mode",
        /// As many transfers run as may.
        Busy = "busy",
    }
}

/// How one request for a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileOutcome {
    /// A transfer had begun, and this is how it ended.
    Ended(TransferEnd),
    /// It was not served, for this reason.
    Refused(FileRefusal),
}

impl FileOutcome {
    /// The code of the end, or of the reason of the refusal.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Ended(end) => end.code(),
            Self::Refused(reason) => reason.code(),
        }
    }
}

impl From<TransferEnd> for FileOutcome {
    fn from(end: TransferEnd) -> Self {
        Self::Ended(end)
    }
}

impl From<FileRefusal> for FileOutcome {
    fn from(reason: FileRefusal) -> Self {
        Self::Refused(reason)
    }
}
