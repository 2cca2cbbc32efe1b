//! What a desk asks of HQ's host, and what the host answers, in JSON below [`API`]. The files of a push are in
//! [`crate::push`].
//!
//! Each request carries `Authorization: Bearer TOKEN`. Paths end with a slash where something follows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::admit::TokenRow;
use crate::db::{Enrolment, SiteRow};
use crate::push_incoming::Lacking;
use ids::{Digest, FleetId, Generation, SiteId, UnixTime};

/// Where the operators' paths begin.
pub const API: &str = "/api/v1";
/// What an API token begins with.
pub const TOKEN_PREFIX: &str = "lsh_";
/// How many sites are in one page of [`HostState`].
pub const PAGE: usize = 2_000;

/// `GET /state?after=SITE`: what the host knows, a page of sites at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostState {
    /// The version of the host's program.
    pub version: String,
    /// The fleet that its root names.
    pub fleet: FleetId,
    /// SHA-256 of the newest root that it has.
    pub root: Digest,
    /// What time it is there; `None` if the host does not know.
    pub time: Option<UnixTime>,
    /// The newest time that a site gave whose clock follows a time server.
    pub sites_time: Option<UnixTime>,
    /// The sites after the one that was named, by id.
    pub sites: Vec<HostSite>,
    /// Whether there are more behind these.
    pub more: bool,
}

/// What the host knows of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostSite {
    /// Its id.
    pub id: SiteId,
    /// Its name, as it was published last.
    pub name: String,
    /// The newest generation that was published for it.
    pub published: Generation,
    /// When it was revoked.
    pub revoked_at: Option<UnixTime>,
    /// Whether an appliance has enrolled.
    pub enrolled: bool,
    /// The end of its newest certificate.
    pub certificate_until: Option<UnixTime>,
    /// SHA-256 of its `timestamp.json`; `None` if there is none.
    pub timestamp: Option<Digest>,
    /// The commit that its newest release was made from, by whom, and when.
    pub pushed: Option<PushedBy>,
}

/// What a release was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedBy {
    /// The commit; empty without git.
    pub commit: String,
    /// The name of the API token; empty on the host itself.
    pub operator: String,
    /// When it was released.
    pub at: UnixTime,
}

impl From<HostSite> for SiteRow {
    fn from(site: HostSite) -> Self {
        Self {
            id: site.id,
            name: site.name,
            published: site.published,
            revoked_at: site.revoked_at,
            enrolled: site.enrolled,
            certificate_until: site.certificate_until,
        }
    }
}

/// `GET /enrolments`: one that the publisher has not taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostEnrolment {
    token: String,
    site: SiteId,
    csr: String,
    recipient: String,
    publisher_proof: String,
    at: UnixTime,
}

impl From<Enrolment> for HostEnrolment {
    fn from(one: Enrolment) -> Self {
        let Enrolment { token, site, csr, recipient, publisher_proof, at } = one;
        Self { token, site, csr, recipient, publisher_proof, at }
    }
}

impl From<HostEnrolment> for Enrolment {
    fn from(one: HostEnrolment) -> Self {
        let HostEnrolment { token, site, csr, recipient, publisher_proof, at } = one;
        Self { token, site, csr, recipient, publisher_proof, at }
    }
}

/// `POST /tokens`: the service's half of a new enrolment token.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NewToken {
    id: String,
    site: SiteId,
    site_name: String,
    fleet: FleetId,
    service_key: [u8; 32],
    expires: UnixTime,
}

impl NewToken {
    /// What the host must know of a token.
    pub fn of(row: &TokenRow, site_name: &str) -> Self {
        Self {
            id: row.id.clone(),
            site: row.site.clone(),
            site_name: site_name.to_owned(),
            fleet: row.fleet.clone(),
            service_key: row.service_key,
            expires: row.expires,
        }
    }

    /// The token and its site's name; `None` if it is not what a desk makes.
    pub fn checked(self) -> Option<(TokenRow, String)> {
        let id = self.id.len() == 16 && self.id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let name = (1..=200).contains(&self.site_name.len()) && !self.site_name.chars().any(char::is_control);
        let Self { id: token, site, site_name, fleet, service_key, expires } = self;
        let row = TokenRow { id: token, site, fleet, service_key, expires, revoked: false, used_by: None };
        (id && name).then_some((row, site_name))
    }
}

/// The answer to `POST /sites/SITE/revoke`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRevoked {
    /// How many certificates are refused from now on.
    pub certificates: usize,
}

/// The answer to `POST /push`: what the host takes, and what it lacks of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushAnswer {
    /// The list's name in the next requests.
    pub id: Digest,
    /// The files to send.
    pub lacks: Vec<Lacking>,
    /// Sites that will not get their release, and why.
    pub refused: BTreeMap<SiteId, String>,
}

/// The answer to `PUT /push/LIST/FILE?from=N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceAnswer {
    /// So many bytes of the file are there.
    pub have: u64,
}
