//! The messages of a site and HQ besides files: enrolment, renewal and check-in.
//!
//! All bodies are JSON over mutual TLS. Only enrolment has no client certificate yet. HQ takes the site from the
//! certificate, never from a URL or a body (I4).
//!
//! States, refusals and alerts are values of the enums in [`codes`]. On the wire they are text, so that each side can
//! show what a newer version of the other one says.

pub mod check_in;
pub mod codes;
mod sealing_key;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

pub use codes::{
    AlertCode, AlertEnd, DiskFailure, DiskRepair, EnrolFailure, FileOutcome, FileRefusal, HqRefusal, ReleaseRefusal,
    SiteState, TransferEnd,
};

pub use sealing_key::{SEALING_KEY_PATH, SealingKeyStatement};

use bundle::RecipientPublic;
use ids::{Digest, FleetId, Generation, MacAddr, SiteId, UnixTime};

/// `GET`: the newest signed root. It needs no client certificate.
pub const ROOT_PATH: &str = "/v1/root";
/// `POST` an [`EnrolRequest`], without a client certificate.
pub const ENROL_PATH: &str = "/v1/enrol";
/// `POST` a [`RenewRequest`]. The client certificate may have expired up to [`RENEWABLE_DAYS`] ago.
pub const RENEW_PATH: &str = "/v1/renew";
/// `POST` a [`CheckIn`], with a valid client certificate. The answer is a [`CheckInAnswer`].
pub const CHECK_IN_PATH: &str = "/v1/check-in";

/// The largest body of any request or answer here, in bytes.
pub const MAX_BODY_BYTES: usize = 16 * 1024;
/// The days for which a client certificate is valid.
pub const CERTIFICATE_DAYS: u32 = 90;
/// The age in days at which an appliance renews its certificate.
pub const RENEW_AFTER_DAYS: u32 = 60;
/// The days after its expiry within which a certificate can still be renewed, so that a branch that was closed for
/// months needs no visit.
pub const RENEWABLE_DAYS: u32 = 400;
/// The hours for which an enrolment token is valid.
pub const TOKEN_HOURS: u32 = 72;

/// The URI in a client certificate's subject alternative name that names the site.
pub fn site_uri(fleet: &FleetId, site: &SiteId) -> String {
    format!("lineside://{fleet}/{site}")
}

/// The fleet and site that a [`site_uri`] names.
pub fn parse_site_uri(uri: &str) -> Option<(FleetId, SiteId)> {
    let (fleet, site) = uri.strip_prefix("lineside://")?.split_once('/')?;
    Some((fleet.parse().ok()?, site.parse().ok()?))
}

/// The token file that goes on the card, in TOML. It lets one appliance become one site, once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EnrolmentToken {
    /// The URL of HQ's service: `https://host[:port]`.
    pub hq: String,
    /// The URL of the published tree; `None` if HQ's service serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The fleet that the site belongs to; its HQ made the token.
    pub fleet: FleetId,
    /// The site that this appliance becomes.
    pub site: SiteId,
    /// SHA-256 of the signed root's bytes as HQ serves them.
    pub root_sha256: Digest,
    /// SHA-256 of HQ's CA certificate in DER. With it the appliance can verify its first connection (F6).
    pub ca_sha256: Digest,
    /// The id by which HQ knows the token. It is not secret.
    pub token: String,
    /// 128 bits in hex. It never travels; see [`TokenKeys`].
    pub secret: String,
    /// From this time on HQ refuses the token; [`TOKEN_HOURS`] after it was made.
    pub expires: UnixTime,
}

impl std::fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolmentToken").field("site", &self.site).field("token", &self.token).finish_non_exhaustive()
    }
}

/// The two keys that are derived from a token's secret, so that neither side has to keep the secret.
///
/// The online service knows only `service`, and the publisher only `publisher`. So an attacker who has broken into the
/// service cannot make the publisher seal a site's files to the attacker's key.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKeys {
    /// Checked by `lineside-hq serve`.
    pub service: [u8; 32],
    /// Checked by `lineside-hq publish` before a site's key is used for the first time.
    pub publisher: [u8; 32],
}

impl TokenKeys {
    /// Derives both keys from a token's secret by HKDF-SHA256 (RFC 5869). They are bound to fleet, site and token.
    pub fn derive(secret: &str, fleet: &FleetId, site: &SiteId, token: &str) -> Self {
        let source = Hkdf::<Sha256>::new(None, secret.as_bytes());
        let expand = |role: &str| {
            let mut key = [0; 32];
            let info = format!("lineside enrolment {role} {fleet} {site} {token}");
            source.expand(info.as_bytes(), &mut key).expect("32 bytes are within what HKDF-SHA256 gives");
            key
        };
        Self { service: expand("service"), publisher: expand("publisher") }
    }
}

/// What both HMACs of an enrolment cover: fleet, site, token, the CSR and the sealing key.
fn enrolment_message(fleet: &FleetId, site: &SiteId, token: &str, csr: &str, recipient: &RecipientPublic) -> Vec<u8> {
    format!("lineside enrolment\n{fleet}\n{site}\n{token}\n{recipient:?}\n{csr}").into_bytes()
}

/// HMAC-SHA256 (RFC 2104) in hex over an enrolment.
pub fn enrolment_proof(
    key: &[u8; 32],
    (fleet, site, token): (&FleetId, &SiteId, &str),
    csr: &str,
    recipient: &RecipientPublic,
) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(&enrolment_message(fleet, site, token, csr, recipient));
    data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
}

/// Whether `proof` is the [`enrolment_proof`] of the other arguments. The comparison takes constant time.
pub fn enrolment_proven(
    key: &[u8; 32],
    (fleet, site, token): (&FleetId, &SiteId, &str),
    csr: &str,
    recipient: &RecipientPublic,
    proof: &str,
) -> bool {
    let Ok(proof) = data_encoding::HEXLOWER.decode(proof.as_bytes()) else {
        return false;
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(&enrolment_message(fleet, site, token, csr, recipient));
    mac.verify_slice(&proof).is_ok()
}

/// The request of an appliance to become a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EnrolRequest {
    /// The id of the token, [`EnrolmentToken::token`].
    pub token: String,
    /// Certificate signing request (PKCS#10, PEM) for the appliance's P-256 key.
    pub csr: String,
    /// The public key that HQ shall seal the site's manifests to.
    pub recipient: RecipientPublic,
    /// [`enrolment_proof`] under [`TokenKeys::service`].
    pub service_proof: String,
    /// [`enrolment_proof`] under [`TokenKeys::publisher`].
    pub publisher_proof: String,
    /// The appliance's version.
    pub version: String,
}

/// The request of a site for a new certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RenewRequest {
    /// Certificate signing request (PKCS#10, PEM), for the old key or a new one.
    pub csr: String,
}

/// HQ's answer to an [`EnrolRequest`] or a [`RenewRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Certificate {
    /// The client certificate and its chain, PEM.
    pub certificate: String,
    /// The end of its validity, [`CERTIFICATE_DAYS`] after it was issued.
    pub expires: UnixTime,
}

/// HQ's answer when it refuses, with status 4xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Refusal {
    /// For programs: the code of an [`HqRefusal`], or one of a newer HQ.
    pub code: String,
    /// What was wrong, in a sentence for people. Programs read `code`.
    pub reason: String,
}

/// What a site tells HQ after a poll. On the wire this is a check-in of format 1, which HQs before [`check_in`] took and
/// appliances before it send; what is skipped there goes into the pages of format 2 alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CheckIn {
    /// The appliance's version.
    pub version: String,
    /// The generation that it serves; 0 for none.
    pub generation: Generation,
    /// The code of a [`SiteState`], or one of a newer appliance.
    pub state: String,
    /// Why the site is in that state, in a sentence for people; empty if there is nothing to explain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whether the kernel says that the clock is synchronised.
    pub clock_synchronised: bool,
    /// What the system's clock says, while it is synchronised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<UnixTime>,
    /// Seconds since the process started.
    pub uptime_seconds: u64,
    /// Bytes free on the file system of the store.
    pub disk_free_bytes: u64,
    /// The DHCP mode that is in force at the site, for example `inform`.
    pub dhcp_mode: String,
    /// The other DHCP servers that the site has seen on its LAN.
    pub dhcp_servers: Vec<DhcpServerSeen>,
    /// The phones that asked for files, the most recent first, as many as the sender puts in.
    pub phones: Vec<PhoneSeen>,
    /// The system that the appliance runs; `None` if it is no image of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSeen>,
    /// Bytes written to the card since the process started, if the kernel tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card_written_bytes: Option<u64>,
    /// Whether the site's keys are encrypted on its card, for its board alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keys_encrypted: bool,
    /// What people should look at, one entry for each code and text.
    pub alerts: Vec<Alert>,
    /// Counters since the start: `tftp.delivered`, `tftp.refused.other-device`, `dhcp.ack`, …
    pub counters: BTreeMap<String, u64>,
    /// 16 random bytes in hex. HQ signs them in its answer, so that the answer cannot be an old one.
    pub nonce: String,
    /// The files that phones asked for.
    #[serde(skip)]
    pub files: Vec<(MacAddr, check_in::report::FileReport)>,
    /// Since when `grown` counts.
    #[serde(skip)]
    pub grown_since: Option<UnixTime>,
    /// The counters that grew since then, and by how much.
    #[serde(skip)]
    pub grown: BTreeMap<String, u64>,
}

/// Says for people how the keys of a site are kept on its card.
pub fn keys_text(encrypted: bool) -> &'static str {
    if encrypted { "on the card encrypted, for this board's TPM alone" } else { "on the card as files of mode 0600" }
}

/// The image that an appliance runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ImageSeen {
    /// The version of the image, as its manifest gives it.
    pub version: String,
    /// The slot that it booted from: `A` or `B`.
    pub slot: String,
    /// Whether this boot has passed its health check.
    pub good: bool,
    /// What became of the last image that was tried: empty, `installed`, `refused: …`, `fell back: …`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub outcome: String,
}

impl std::fmt::Display for ImageSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in slot {}", self.version, self.slot)?;
        if !self.good {
            write!(f, ", not yet found good")?;
        }
        if !self.outcome.is_empty() {
            write!(f, "; last: {}", self.outcome)?;
        }
        Ok(())
    }
}

/// Another DHCP server on the LAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DhcpServerSeen {
    /// The server identifier in its answers (option 54).
    pub server: Ipv4Addr,
    /// The TFTP servers that it hands out in option 66 or 150; empty if it hands out none.
    #[serde(default)]
    pub tftp: Vec<String>,
    /// The default router that it hands out; `None` if it was not heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<Ipv4Addr>,
    /// The length of its leases in seconds; `None` if it was not heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u32>,
    /// The shortest time in which it answered a DHCPDISCOVER of ours, in milliseconds; `None` if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer_millis: Option<u32>,
}

/// A device that asked for a file, and its last request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PhoneSeen {
    /// The MAC address of the device.
    pub mac: MacAddr,
    /// Whether it is a phone of the inventory.
    pub known: bool,
    /// The time at which its last request ended.
    pub last_seen: UnixTime,
    /// The last file that it asked for.
    pub file: String,
    /// How that request ended: the code of a [`FileOutcome`], or one of a newer appliance.
    pub outcome: String,
    /// The bytes that it acknowledged, or that we took of its log.
    #[serde(default)]
    pub bytes: u64,
    /// The number of packets that were sent more than once.
    #[serde(default)]
    pub retransmissions: u32,
    /// The time from the request to the end of the transfer, in milliseconds.
    #[serde(default)]
    pub milliseconds: u64,
    /// The release that the file was served from; 0 if there was none.
    #[serde(default)]
    pub generation: Generation,
}

/// An alert: something that people should look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Alert {
    /// For programs: an [`AlertCode`], or one of a newer appliance.
    pub code: String,
    /// What happened, in a sentence for people. Programs read `code`.
    pub text: String,
    /// The time at which it was first raised.
    pub since: UnixTime,
    /// The number of times that it was raised, the first included.
    pub count: u64,
}

/// HQ's answer to a check-in. Nothing in it can change what is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckInAnswer {
    /// The JSON text of a [`SignedTime`].
    pub signed: String,
    /// The Ed25519 signature of that text by the `timestamp` key, in hex.
    pub signature: String,
}

/// What HQ signs at a check-in. It proves to a site whose clock may be wrong that its release is the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SignedTime {
    /// Always `check-in`, so that the signature can be mistaken for nothing else.
    pub purpose: String,
    /// The site that HQ answers.
    pub site: SiteId,
    /// The [`CheckIn::nonce`] of the site, unchanged.
    pub nonce: String,
    /// The time of HQ's clock.
    pub time: UnixTime,
    /// The newest generation published for the site.
    pub newest: Generation,
}
