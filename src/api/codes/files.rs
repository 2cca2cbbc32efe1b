//! How requests for files end.

use super::codes;

codes! {
    /// How a transfer ended, once it had begun.
    TransferEnd {
        /// The client acknowledged the last block.
        Delivered = "delivered",
        /// Everything was sent, but the last acknowledgement never came.
        Unconfirmed = "unconfirmed",
        /// The client sent ERROR. Normal for probes (`tsize`, Polycom's header check).
        Aborted = "aborted",
        /// The client did not answer any more, and the retransmissions ran out.
        TimedOut = "timed-out",
        /// The client's own log was taken and kept.
        Received = "received",
        /// The file could not be read, or the transfer was ended from our side.
        Failed = "failed",
    }
}

codes! {
    /// Why a request was not served. The reason is counted and recorded. For the reasons from `NotFound` to `LockedOut`
    /// the client hears the same ERROR, so that it learns nothing about files of others.
    FileRefusal {
        /// The release has no file of this name.
        NotFound = "not-found",
        /// The name cannot be a file's: see [`ids::FileNameError`].
        BadName = "bad-name",
        /// The file belongs to another device.
        OtherDevice = "other-device",
        /// The file is for another model of phone.
        OtherModel = "other-model",
        /// It is not known which device the address belongs to, or two devices claim it.
        UnknownDevice = "unknown-device",
        /// A device outside the inventory has guessed file names and is locked out for a time.
        LockedOut = "locked-out",
        /// The requests exceed the rate limit. The client gets no answer.
        RateLimited = "rate-limited",
        /// The address is not of the site's LAN. The client gets no answer.
        OutsideLan = "outside-lan",
        /// The client asked in netascii mode for an image or a signed file, which that mode would change.
        OctetOnly = "octet-only",
        /// The client asked to write something other than its own log, or the site takes no logs.
        WriteRefused = "write-refused",
        /// The transfer mode is neither octet nor netascii (RFC 1350 §1).
        UnsupportedMode = "unsupported-mode",
        /// The limit of transfers at a time is reached. Phones try again.
        Busy = "busy",
    }
}

/// How one request for a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileOutcome {
    /// A transfer had begun, and ended like this.
    Ended(TransferEnd),
    /// The request was not served, for this reason.
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
