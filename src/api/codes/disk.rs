//! What the store of a site says about its disk.

use super::codes;

codes! {
    /// Why the store refused.
    DiskFailure {
        /// The operating system refused.
        Io = "io",
        /// There is not enough room.
        DiskFull = "disk-full",
        /// Bytes are not the object.
        CorruptObject = "corrupt-object",
        /// The object is not here.
        MissingObject = "missing-object",
        /// There are more bytes than there may be.
        TooLong = "too-long",
        /// The download has not arrived in full.
        Incomplete = "incomplete",
        /// The object is being downloaded already.
        Busy = "busy",
        /// There is no release to go back to.
        NoPrevious = "no-previous",
        /// The release was not staged, or is damaged.
        NotStaged = "not-staged",
        /// Another release of this generation is in use.
        Conflict = "conflict",
        /// A part of the release is over its limit.
        TooLarge = "too-large",
        /// Both copies of the trust state are gone.
        TrustLost = "trust-lost",
        /// No file of the store can have this name.
        BadName = "bad-name",
        /// Another process has the state directory.
        Locked = "locked",
    }
}

codes! {
    /// What was damaged, and what the store did about it by itself.
    DiskRepair {
        /// One copy of the trust state was damaged, the other one was used.
        TrustCopyDamaged = "trust-copy-damaged",
        /// Both copies were damaged, and rebuilt from the verified release.
        TrustRebuilt = "trust-rebuilt",
        /// The pointer was damaged, and the newest whole release was chosen.
        PointerRebuilt = "pointer-rebuilt",
        /// The pointer was damaged and no release is whole.
        PointerLost = "pointer-lost",
        /// The active release was damaged, and the one before it was taken.
        ReleaseReplaced = "release-replaced",
        /// The active release is damaged and there is no other.
        ReleaseLost = "release-lost",
        /// The disk takes no writes.
        NotWritable = "not-writable",
        /// A journal ended in bytes that are no record.
        JournalCut = "journal-cut",
    }
}
