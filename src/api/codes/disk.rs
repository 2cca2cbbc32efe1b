//! How the store of a site fails, and what it repairs.

use super::codes;

codes! {
    /// Why an operation of the store failed.
    DiskFailure {
        /// The operating system returned an error.
        Io = "io",
        /// The file system has too little room for the operation.
        DiskFull = "disk-full",
        /// The bytes do not have the digest that the object is named by.
        CorruptObject = "corrupt-object",
        /// The store does not have the object.
        MissingObject = "missing-object",
        /// A download has more bytes than the object.
        TooLong = "too-long",
        /// The download has not arrived in full.
        Incomplete = "incomplete",
        /// Another download of the same object is running.
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
        /// Another process has the state directory open.
        Locked = "locked",
    }
}

codes! {
    /// What was damaged, and how the store repaired it by itself.
    DiskRepair {
        /// One copy of the trust state was damaged, and the other one is used.
        TrustCopyDamaged = "trust-copy-damaged",
        /// Both copies of the trust state were damaged, and were rebuilt from the verified release.
        TrustRebuilt = "trust-rebuilt",
        /// The pointer to the active release was damaged, and the newest complete release was chosen.
        PointerRebuilt = "pointer-rebuilt",
        /// The pointer to the active release was damaged, and no release is complete.
        PointerLost = "pointer-lost",
        /// The active release was damaged, and the one before it was taken.
        ReleaseReplaced = "release-replaced",
        /// The active release is damaged and there is no other.
        ReleaseLost = "release-lost",
        /// The disk cannot be written to.
        NotWritable = "not-writable",
        /// A journal ended in bytes that are no record, and these were cut off.
        JournalCut = "journal-cut",
    }
}
