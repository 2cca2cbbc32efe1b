//! HQ's host and the appliances that enrol there, for tests.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::SystemTime;

use api::{EnrolmentToken, TokenKeys};
use ids::{Digest, UnixTime};
use repository::keyring;
use repository::layout::Layout;

use crate::admit::TokenRow;
use crate::ca;
use crate::db::Db;

#[path = "testing/appliance.rs"]
mod appliance;
pub(crate) use appliance::{Appliance, csr};

/// A fleet directory with all that enrolment and `serve` need.
pub(crate) fn fleet() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    ca::init(&layout, "Example", &["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    keyring::save(&layout.online_key(), keyring::KeyKind::Ed25519, &[7; 32], "test", None).unwrap();
    for dir in [layout.dir().join("root"), layout.public().join("root")] {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("9.root.json"), b"old root").unwrap();
        fs::write(dir.join("10.root.json"), b"signed root").unwrap();
    }
    (dir, layout)
}

/// A token as the publisher issues one; the database has its service's half.
pub(crate) fn token_for(layout: &Layout, site: &str) -> EnrolmentToken {
    let mut random = [0; 24];
    getrandom::fill(&mut random).unwrap();
    let (id, secret) = random.split_at(8);
    let token = EnrolmentToken {
        hq: "https://hq.example".to_owned(),
        repository: None,
        fleet: "f-1".parse().unwrap(),
        site: site.parse().unwrap(),
        root_sha256: Digest::of(b"signed root"),
        ca_sha256: ca::digest(&layout.online()).unwrap(),
        token: data_encoding::HEXLOWER.encode(id),
        secret: data_encoding::HEXLOWER.encode(secret),
        expires: UnixTime(UnixTime::of(SystemTime::now()).0 + 3600),
    };
    let row = TokenRow {
        id: token.token.clone(),
        site: token.site.clone(),
        fleet: token.fleet.clone(),
        service_key: TokenKeys::derive(&token.secret, &token.fleet, &token.site, &token.token).service,
        expires: token.expires,
        revoked: false,
        used_by: None,
    };
    Db::open(&layout.database()).unwrap().add_token(&row, "Zürich HB").unwrap();
    token
}
