//! An appliance that enrols. The tests of both halves of HQ include this file.

use api::{EnrolRequest, EnrolmentToken, TokenKeys};
use bundle::RecipientPublic;

/// The two keys of an appliance, and its request as it keeps it for retries.
pub(crate) struct Appliance {
    pub key: rcgen::KeyPair,
    pub recipient: RecipientPublic,
    pub csr: String,
}

impl Appliance {
    pub(crate) fn new(seed: u8) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = csr(&key);
        Self { key, recipient: RecipientPublic::from_bytes([seed; 32]), csr }
    }

    pub(crate) fn request(&self, token: &EnrolmentToken) -> EnrolRequest {
        self.request_with(token, &self.csr)
    }

    pub(crate) fn request_with(&self, token: &EnrolmentToken, csr: &str) -> EnrolRequest {
        let keys = TokenKeys::derive(&token.secret, &token.fleet, &token.site, &token.token);
        let names = (&token.fleet, &token.site, token.token.as_str());
        EnrolRequest {
            token: token.token.clone(),
            csr: csr.to_owned(),
            recipient: self.recipient,
            service_proof: api::enrolment_proof(&keys.service, names, csr, &self.recipient),
            publisher_proof: api::enrolment_proof(&keys.publisher, names, csr, &self.recipient),
            version: "0.1.0".to_owned(),
        }
    }
}

pub(crate) fn csr(key: &rcgen::KeyPair) -> String {
    rcgen::CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}
