//! How enrolments fail, and why HQ refuses.

use super::codes;

codes! {
    /// How `lineside enroll` ends when it fails.
    EnrolFailure {
        /// Another appliance has used the token.
        TokenUsed = "token-used",
        /// The token is older than [`TOKEN_HOURS`](crate::TOKEN_HOURS).
        TokenExpired = "token-expired",
        /// HQ has not issued the token.
        TokenUnknown = "token-unknown",
        /// The proof does not fit the token, so the token's secret was changed.
        ProofWrong = "proof-wrong",
        /// HQ refuses for another reason, which the text names.
        Refused = "refused",
        /// The server is not the HQ that the token names.
        WrongCa = "wrong-ca",
        /// HQ's root is not the one that the token pins.
        OtherRoot = "other-root",
        /// HQ's root belongs to another fleet than the token names.
        OtherFleet = "other-fleet",
        /// HQ cannot be reached.
        Unreachable = "unreachable",
        /// HQ's answer cannot be used.
        Answer = "answer",
        /// The certificate that HQ issued is not for this appliance, or the identity cannot be stored.
        Identity = "identity",
        /// The store failed: see [`DiskFailure`](super::DiskFailure).
        Disk = "disk",
        /// No key can be made, because the system has no randomness.
        Key = "key",
    }
}

codes! {
    /// Why HQ's service refuses a request or a connection.
    HqRefusal {
        /// Another appliance has used the token.
        TokenUsed = "token-used",
        /// The token is older than [`TOKEN_HOURS`](crate::TOKEN_HOURS).
        TokenExpired = "token-expired",
        /// HQ has not issued the token.
        TokenUnknown = "token-unknown",
        /// The proof does not fit the token.
        ProofWrong = "proof-wrong",
        /// The site was revoked.
        Revoked = "revoked",
        /// HQ has issued too many certificates for this site today.
        TooMany = "too-many",
        /// The client showed no certificate.
        NoCertificate = "no-certificate",
        /// The certificate is not in HQ's records.
        CertificateUnknown = "certificate-unknown",
        /// The client certificate has expired.
        CertificateExpired = "certificate-expired",
        /// Nothing has this name, or it belongs to another site.
        NotFound = "not-found",
        /// The path does not take this HTTP method.
        Method = "method",
        /// The request does not have the form that the path takes.
        Malformed = "malformed",
        /// The body is over [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES).
        TooLarge = "too-large",
        /// The body took too long to arrive.
        Slow = "slow",
        /// The site checks in too often.
        TooOften = "too-often",
        /// An operator's request shows no good API token.
        ApiToken = "api-token",
        /// What a desk pushes is not signed by the release key, or cannot be released.
        PushRefused = "push-refused",
        /// HQ cannot answer because of a problem of its own, which its log names.
        Unavailable = "unavailable",
        /// The TLS handshake failed. This code and the next three are only logged and counted: the connection ends
        /// before a request, so no client is told.
        Handshake = "handshake",
        /// The TLS handshake took too long.
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
