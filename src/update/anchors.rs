//! What the trusted root says besides keys: the fleet, and which certificate authorities are HQ's.

use rustls::pki_types::CertificateDer;
use serde::Deserialize;

use super::tls;
use ids::{FleetId, SiteId};
use tuf::schema::{EXTRA_FIELD, Root, Timestamp};

/// A root names at most so many CAs. One is in use, and a second while the first is replaced.
const MAX_CAS: usize = 8;

/// [`EXTRA_FIELD`] in `root`.
#[derive(Debug, Clone, Deserialize)]
struct RootExtra {
    fleet: FleetId,
    #[serde(deserialize_with = "one_or_more")]
    ca: Vec<String>,
}

/// The CAs as a list, or one alone.
fn one_or_more<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Listed {
        One(String),
        All(Vec<String>),
    }
    Ok(match Listed::deserialize(value)? {
        Listed::One(one) => vec![one],
        Listed::All(all) => all,
    })
}

/// [`EXTRA_FIELD`] in `timestamp`.
#[derive(Debug, Clone, Deserialize)]
struct SiteExtra {
    fleet: FleetId,
    site: SiteId,
}

/// Why signed metadata is not for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// The field that says whose it is is absent or malformed.
    #[error("the signed {role} metadata does not say whose it is: {why}")]
    Malformed {
        /// The role of the metadata.
        role: &'static str,
        /// What is wrong with the field.
        why: String,
    },
    /// The metadata is another fleet's or site's.
    #[error("the signed {role} metadata is for {whose}")]
    Other {
        /// The role of the metadata.
        role: &'static str,
        /// The fleet or site that it names.
        whose: String,
    },
}

/// HQ's CA certificates (DER), if the root is this fleet's.
pub fn authorities(root: &Root, fleet: &FleetId) -> Result<Vec<CertificateDer<'static>>, AnchorError> {
    let malformed = |why: String| AnchorError::Malformed { role: "root", why };
    let value = root.extra.get(EXTRA_FIELD).ok_or_else(|| malformed(format!("no {EXTRA_FIELD}")))?;
    let extra = RootExtra::deserialize(value).map_err(|error| malformed(error.to_string()))?;
    if extra.fleet != *fleet {
        return Err(AnchorError::Other { role: "root", whose: format!("fleet {}", extra.fleet) });
    }
    if extra.ca.len() > MAX_CAS {
        return Err(malformed(format!("{} CAs, over the {MAX_CAS} allowed", extra.ca.len())));
    }
    let mut all = Vec::new();
    for pem in &extra.ca {
        let found = tls::certificates(pem).map_err(|error| malformed(error.to_string()))?;
        if found.is_empty() {
            return Err(malformed("a CA that is no certificate".to_owned()));
        }
        all.extend(found);
    }
    if all.is_empty() {
        return Err(malformed("no CA".to_owned()));
    }
    Ok(all)
}

/// Checks that a timestamp is this site's: all sites of a fleet share their keys, and trusting another site's
/// (higher) version would shut our own metadata out as a rollback.
pub fn check_site(timestamp: &Timestamp, fleet: &FleetId, site: &SiteId) -> Result<(), AnchorError> {
    let malformed = |why: String| AnchorError::Malformed { role: "timestamp", why };
    let value = timestamp.extra.get(EXTRA_FIELD).ok_or_else(|| malformed(format!("no {EXTRA_FIELD}")))?;
    let extra = SiteExtra::deserialize(value).map_err(|error| malformed(error.to_string()))?;
    if extra.fleet == *fleet && extra.site == *site {
        Ok(())
    } else {
        Err(AnchorError::Other { role: "timestamp", whose: format!("site {} of fleet {}", extra.site, extra.fleet) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use ids::UnixTime;

    fn root(extra: Option<Value>) -> Root {
        Root {
            kind: "root".to_owned(),
            spec_version: "1.0.33".to_owned(),
            version: 1,
            expires: UnixTime(0),
            consistent_snapshot: true,
            keys: BTreeMap::new(),
            roles: BTreeMap::new(),
            extra: extra.map(|extra| (EXTRA_FIELD.to_owned(), extra)).into_iter().collect(),
        }
    }

    fn timestamp(extra: Value) -> Timestamp {
        Timestamp {
            kind: "timestamp".to_owned(),
            spec_version: "1.0.33".to_owned(),
            version: 1,
            expires: UnixTime(0),
            meta: BTreeMap::new(),
            extra: BTreeMap::from([(EXTRA_FIELD.to_owned(), extra)]),
        }
    }

    fn ca() -> String {
        rcgen::generate_simple_self_signed(["hq".to_owned()]).unwrap().cert.pem()
    }

    fn fleet() -> FleetId {
        "f-1".parse().unwrap()
    }

    #[test]
    fn the_authorities_of_our_fleet_are_found() {
        let extra = json!({ "fleet": "f-1", "ca": [ca(), ca()], "later": true });
        assert_eq!(authorities(&root(Some(extra)), &fleet()).unwrap().len(), 2);
        let alone = json!({ "fleet": "f-1", "ca": ca() });
        assert_eq!(authorities(&root(Some(alone)), &fleet()).unwrap().len(), 1);
    }

    #[test]
    fn a_root_without_usable_authorities_is_refused() {
        let many: Vec<String> = (0..9).map(|_| ca()).collect();
        let bad = [
            None,
            Some(json!("f-1")),
            Some(json!({ "fleet": "f-1" })),
            Some(json!({ "fleet": "f-1", "ca": [] })),
            Some(json!({ "fleet": "f-1", "ca": ["-----BEGIN NOTHING-----"] })),
            Some(json!({ "fleet": "f-1", "ca": many })),
        ];
        for extra in bad {
            let refused = authorities(&root(extra.clone()), &fleet());
            assert!(matches!(refused, Err(AnchorError::Malformed { .. })), "{extra:?}");
        }
        let other = authorities(&root(Some(json!({ "fleet": "f-2", "ca": [ca()] }))), &fleet());
        assert!(matches!(other, Err(AnchorError::Other { .. })));
    }

    #[test]
    fn a_timestamp_must_name_fleet_and_site() {
        let site: SiteId = "s-1".parse().unwrap();
        let check = |extra| check_site(&timestamp(extra), &fleet(), &site);
        assert_eq!(check(json!({ "fleet": "f-1", "site": "s-1" })), Ok(()));
        for other in [json!({ "fleet": "f-1", "site": "s-2" }), json!({ "fleet": "f-2", "site": "s-1" })] {
            assert!(matches!(check(other), Err(AnchorError::Other { .. })));
        }
        for malformed in [json!({ "fleet": "f-1" }), json!({ "fleet": "f-1", "site": "../x" }), json!(7)] {
            assert!(matches!(check(malformed), Err(AnchorError::Malformed { .. })));
        }
    }
}
