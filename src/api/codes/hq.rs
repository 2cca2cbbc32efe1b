//! How enrolments fail, and why HQ refuses.

use super::codes;

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
    /// Why HQ's service refuses a request or a connection.
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
        /// The site has had too many certificates today.
        TooMany = "too-many",
        /// No client certificate was shown.
        NoCertificate = "no-certificate",
        /// The certificate is not in HQ's records.
        CertificateUnknown = "certificate-unknown",
        /// The certificate has expired.
        CertificateExpired = "certificate-expired",
        /// There is nothing of this name, or it is another site's.
        NotFound = "not-found",
        /// The method has no meaning here.
        Method = "method",
        /// The request is not what belongs here.
        Malformed = "malformed",
        /// The body is over [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES).
        TooLarge = "too-large",
        /// The body took too long.
        Slow = "slow",
        /// The site checks in too often.
        TooOften = "too-often",
        /// HQ has a problem of its own.
        Unavailable = "unavailable",
        /// TLS did not come about. Nobody is told this, nor the next three: they end a connection before a request.
        Handshake = "handshake",
        /// TLS took too long.
        HandshakeSlow = "handshake-slow",
        /// An address without a certificate has too many connections open.
        Strangers = "strangers",
        /// A site has too many connections open.
        SiteConnections = "site-connections",
    }
}

impl HqRefusal {
    /// Whether HQ refuses the client certificate rather than an enrolment.
    pub const fn is_about_certificate(self) -> bool {
        matches!(self, Self::Revoked | Self::NoCertificate | Self::CertificateUnknown | Self::CertificateExpired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_of_the_certificate_are_about_it() {
        let about: Vec<&str> =
            HqRefusal::ALL.iter().filter(|code| code.is_about_certificate()).map(|code| code.code()).collect();
        assert_eq!(about, ["revoked", "no-certificate", "certificate-unknown", "certificate-expired"]);
    }
}
