//! The states of a site, and why releases are refused.

use super::codes;

codes! {
    /// The state in which the last poll left a site. In every state the site serves the release that it has.
    SiteState {
        /// Signed metadata is current and the site serves the release that it names.
        Ok = "ok",
        /// No poll has ended yet.
        Starting = "starting",
        /// The appliance has no identity, so it does not poll.
        NotEnrolled = "not-enrolled",
        /// HQ has published nothing for this site.
        NoRelease = "no-release",
        /// A release is here and waits for its activation window.
        Waiting = "waiting",
        /// The signed metadata has expired, and HQ shows no newer one.
        Stale = "stale",
        /// Metadata or a release was turned away. The reason begins with a [`ReleaseRefusal`].
        Refused = "refused",
        /// The release failed its check here, or somebody went back by hand. It is not tried again.
        RolledBack = "rolled-back",
        /// An object was damaged on the way or on the card.
        Corrupt = "corrupt",
        /// The release names an object that the server does not have.
        MissingObject = "missing-object",
        /// An answer is over its limit.
        TooLarge = "too-large",
        /// There was no connection, or it broke, stalled or took too long.
        Unreachable = "unreachable",
        /// We do not accept HQ's certificate, or HQ does not accept ours.
        Certificate = "certificate",
        /// HQ answered with an HTTP status that is not expected there, for example a redirect or 5xx.
        Http = "http",
        /// HQ's answer to a renewal or a check-in cannot be used.
        Answer = "answer",
        /// The identity on the card cannot be used.
        Identity = "identity",
        /// Both copies of the trust state are lost and cannot be rebuilt.
        TrustLost = "trust-lost",
        /// The release does not fit on the card.
        DiskFull = "disk-full",
        /// The store failed: see [`DiskFailure`](super::DiskFailure).
        Disk = "disk",
        /// HQ cannot read the site's last check-in. No site says this; HQ shows it in place of a state.
        Unreadable = "unreadable",
    }
}

codes! {
    /// Why metadata or a release was turned away.
    ReleaseRefusal {
        /// It does not follow the format.
        Malformed = "malformed",
        /// Fewer trusted keys have signed it than its role requires.
        Untrusted = "untrusted",
        /// It is older than what was trusted before.
        Rollback = "rollback",
        /// It has another version than the one that was asked for.
        WrongVersion = "wrong-version",
        /// It is not the file that was signed for.
        Mismatch = "mismatch",
        /// It has expired.
        Expired = "expired",
        /// A file of the metadata is missing on the server.
        Missing = "missing",
        /// It exceeds a limit, which the text names.
        TooLarge = "too-large",
        /// The signed targets name no manifest.
        NoManifest = "no-manifest",
        /// It was made for another site or fleet.
        OtherSite = "other-site",
        /// It is sealed to other keys than this appliance's.
        NotSealedToUs = "not-sealed-to-us",
        /// It was made for a newer version of Lineside.
        TooNew = "too-new",
        /// A part of it cannot be decrypted or decoded.
        Corrupt = "corrupt",
        /// A part of it cannot be read from the card.
        Unreadable = "unreadable",
        /// It has two files or two phones of the same name.
        Duplicate = "duplicate",
        /// It has a firmware image that the firmware keys have not signed.
        UnlistedFirmware = "unlisted-firmware",
    }
}
