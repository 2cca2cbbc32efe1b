//! Every code that this room says or acts on; `src/CODES.md` explains each.
//!
//! A code travels in check-ins, in HQ's answers and in `lineside status`, so its spelling never changes. This file
//! depends on nothing else of the room.

/// Defines an enum, all its values and the code of each in one list, so that none can be forgotten.
macro_rules! codes {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $code:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of the table in `src/CODES.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The code that stands for it in writing.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)+
                }
            }

            /// The value that a code stands for. A newer HQ may say codes that this version does not know.
            pub fn from_code(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.code() == code)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.code())
            }
        }
    };
}

codes! {
    /// What a site's last poll came to. In every state the site serves the release that it has.
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
        /// Signed metadata is past its expiry.
        Stale = "stale",
        /// Metadata or a release was turned away. The reason begins with a code of "Refused releases".
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
        /// HQ answered with a status that has no meaning here.
        Http = "http",
        /// HQ's answer to a renewal or a check-in cannot be used.
        Answer = "answer",
        /// The identity on the card cannot be used.
        Identity = "identity",
        /// Both copies of the trust state are gone.
        TrustLost = "trust-lost",
        /// The release does not fit on the card.
        DiskFull = "disk-full",
        /// The disk refused.
        Disk = "disk",
    }
}

codes! {
    /// Why this room turns signed metadata away. `tuf` and `access` have the other codes of "Refused releases".
    MetadataRefusal {
        /// The metadata is another site's or fleet's, or it does not say whose it is.
        OtherSite = "other-site",
    }
}

codes! {
    /// How `lineside enroll` ends when it fails.
    EnrolFailure {
        /// Another appliance has used the token.
        TokenUsed = "token-used",
        /// The token is too old.
        TokenExpired = "token-expired",
        /// HQ has not issued the token.
        TokenUnknown = "token-unknown",
        /// The proof does not fit the token.
        ProofWrong = "proof-wrong",
        /// HQ refuses for another reason.
        Refused = "refused",
        /// The server is not the HQ that the token names.
        WrongCa = "wrong-ca",
        /// HQ's root is not the one that the token pins.
        OtherRoot = "other-root",
        /// The root is another fleet's.
        OtherFleet = "other-fleet",
        /// HQ cannot be reached.
        Unreachable = "unreachable",
        /// HQ's answer cannot be used.
        Answer = "answer",
        /// What HQ issued is not for us, or the identity cannot be kept.
        Identity = "identity",
        /// The disk refused.
        Disk = "disk",
        /// No key can be made.
        Key = "key",
    }
}

codes! {
    /// HQ's codes of refusal that an appliance acts on. To every other code it shows the reason and no more.
    HqRefusal {
        /// Another appliance has used the token.
        TokenUsed = "token-used",
        /// The token is too old.
        TokenExpired = "token-expired",
        /// HQ has not issued the token.
        TokenUnknown = "token-unknown",
        /// The proof does not fit the token.
        ProofWrong = "proof-wrong",
        /// The site was revoked.
        Revoked = "revoked",
        /// We showed no client certificate.
        NoCertificate = "no-certificate",
        /// Our certificate is not in HQ's records.
        CertificateUnknown = "certificate-unknown",
        /// Our certificate has expired.
        CertificateExpired = "certificate-expired",
    }
}

impl HqRefusal {
    /// Whether HQ refuses the client certificate rather than an enrolment.
    pub const fn is_about_certificate(self) -> bool {
        matches!(self, Self::Revoked | Self::NoCertificate | Self::CertificateUnknown | Self::CertificateExpired)
    }
}

codes! {
    /// The alerts that the updater raises, until they are over.
    UpdateAlert {
        /// The state is [`SiteState::Refused`].
        ReleaseRefused = "release-refused",
        /// The stored release does not hold.
        ReleaseDamaged = "release-damaged",
        /// A release failed its check and is not activated.
        SelfCheck = "self-check",
        /// The client certificate was not renewed.
        Certificate = "certificate",
        /// HQ has published what the published tree does not show.
        Withheld = "withheld",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_code_that_was_written_is_read_again_and_others_are_not() {
        for state in SiteState::ALL {
            assert_eq!(SiteState::from_code(state.code()), Some(*state));
        }
        for refusal in HqRefusal::ALL {
            assert_eq!(HqRefusal::from_code(&refusal.to_string()), Some(*refusal));
        }
        assert_eq!(HqRefusal::from_code("a-code-of-a-newer-hq"), None);
    }

    #[test]
    fn only_refusals_of_the_certificate_are_about_it() {
        let about: Vec<&str> =
            HqRefusal::ALL.iter().filter(|code| code.is_about_certificate()).map(|code| code.code()).collect();
        assert_eq!(about, ["revoked", "no-certificate", "certificate-unknown", "certificate-expired"]);
    }
}
