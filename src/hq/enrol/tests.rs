#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[path = "../../online/testing/appliance.rs"]
mod appliance;
use api::EnrolRequest;
pub(super) use appliance::Appliance;
use appliance::csr;
use online::admit::Refused;
use online::ca::Ca;
use repository::keyring;

/// A fleet directory with all that enrolment and `serve` need.
pub(super) fn fleet() -> (tempfile::TempDir, Layout) {
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

pub(super) fn token_for(layout: &Layout, site: &str) -> EnrolmentToken {
    let (site, fleet) = (site.parse().unwrap(), "f-1".parse().unwrap());
    issue(layout, &site, "Zürich HB", &fleet, "https://hq.example/", None).unwrap()
}

pub(super) fn now() -> UnixTime {
    UnixTime::of(SystemTime::now())
}

/// What the service does with a request.
pub(super) fn enrol(layout: &Layout, request: &EnrolRequest, now: UnixTime) -> Result<(SiteId, ca::Issued), Refused> {
    let ca = Ca::load(&layout.online()).unwrap();
    let db = Db::open(&layout.database()).unwrap();
    db.enrol(request, now, |csr, fleet, site| ca.issue_client(csr, fleet, site, now)).unwrap()
}

#[test]
fn the_secret_is_in_the_token_and_nowhere_else() {
    let (_dir, layout) = fleet();
    let token = token_for(&layout, "s-1");
    assert_eq!(token.root_sha256, Digest::of(b"signed root"), "10 is newer than 9");
    assert_eq!(token.hq, "https://hq.example");
    assert_eq!(token.secret.len(), 32);
    let keys = TokenKeys::derive(&token.secret, &token.fleet, &token.site, &token.token);
    let path = layout.keys().join("tokens").join(format!("{}.toml", token.token));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = fs::read_to_string(path).unwrap();
    assert!(kept.contains(&HEXLOWER.encode(&keys.publisher)));
    assert!(!kept.contains(&token.secret) && !kept.contains(&HEXLOWER.encode(&keys.service)));
    let mut stored = Vec::new();
    for entry in fs::read_dir(layout.online()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("hq.sqlite") {
            stored.extend(fs::read(path).unwrap());
        }
    }
    let holds = |needle: &[u8]| stored.windows(needle.len()).any(|window| window == needle);
    assert!(holds(&keys.service), "the service must know its own key");
    assert!(!holds(&keys.publisher) && !holds(token.secret.as_bytes()));
}

#[test]
fn what_nobody_used_is_forgotten_a_month_later() {
    let (_dir, layout) = fleet();
    let token = token_for(&layout, "s-1");
    let path = layout.keys().join("tokens").join(format!("{}.toml", token.token));
    let text = fs::read_to_string(&path).unwrap();
    let long_ago = UnixTime(now().0 - 31 * 86_400).to_string();
    fs::write(&path, text.replace(&token.expires.to_string(), &long_ago)).unwrap();
    let newer = token_for(&layout, "s-2");
    assert!(!path.exists());
    assert!(layout.keys().join("tokens").join(format!("{}.toml", newer.token)).exists());
}

#[test]
fn a_plain_http_url_makes_no_token() {
    let (_dir, layout) = fleet();
    let (site, fleet) = ("s-1".parse().unwrap(), "f-1".parse().unwrap());
    assert!(issue(&layout, &site, "x", &fleet, "http://hq.example", None).is_err());
}

#[test]
fn an_enrolled_appliance_becomes_a_recipient_once_its_proof_holds() {
    let (_dir, layout) = fleet();
    assert_eq!(recipients(&layout).unwrap(), BTreeMap::new());
    let token = token_for(&layout, "s-1");
    let appliance = Appliance::new(1);
    let (site, issued) = enrol(&layout, &appliance.request(&token), now()).unwrap();
    assert_eq!(site.as_str(), "s-1");
    assert!(issued.expires > now());
    let pinned = recipients(&layout).unwrap();
    assert_eq!(pinned, BTreeMap::from([("s-1".parse().unwrap(), vec![appliance.recipient])]));
    // The token's key is gone, the pin stays, and asking again changes nothing.
    assert!(fs::read_dir(layout.keys().join("tokens")).unwrap().next().is_none());
    let text = fs::read_to_string(layout.enrolled().join("s-1.toml")).unwrap();
    assert!(text.starts_with("# The public keys"), "{text}");
    assert_eq!(recipients(&layout).unwrap(), pinned);
    assert_eq!(fs::read_to_string(layout.enrolled().join("s-1.toml")).unwrap(), text);
}

#[test]
fn a_recipient_is_pinned_for_everybody_to_read_and_not_through_a_link_that_somebody_planted() {
    let (_dir, layout) = fleet();
    enrol(&layout, &Appliance::new(1).request(&token_for(&layout, "s-1")), now()).unwrap();
    let victim = layout.dir().join("victim");
    fs::write(&victim, "precious").unwrap();
    fs::create_dir_all(layout.enrolled()).unwrap();
    std::os::unix::fs::symlink(&victim, layout.enrolled().join(".s-1.toml.new")).unwrap();
    recipients(&layout).unwrap();
    let pinned = fs::symlink_metadata(layout.enrolled().join("s-1.toml")).unwrap();
    assert!(pinned.is_file());
    assert_eq!(pinned.permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(fs::read_dir(layout.enrolled()).unwrap().count(), 1);
}

#[test]
fn a_service_that_was_broken_into_cannot_add_a_recipient() {
    let (_dir, layout) = fleet();
    let token = token_for(&layout, "s-1");
    let good = token_for(&layout, "s-2");
    // It knows the service's key of the token, so it can make everything but the publisher's proof.
    let mut forged = Appliance::new(66).request(&token);
    forged.publisher_proof = forged.service_proof.clone();
    enrol(&layout, &forged, now()).unwrap();
    let honest = Appliance::new(2);
    enrol(&layout, &honest.request(&good), now()).unwrap();
    let error = format!("{:#}", recipients(&layout).unwrap_err());
    assert!(error.contains("site s-1: its proof does not fit"), "{error}");
    assert!(!layout.enrolled().join("s-1.toml").exists());
    assert!(layout.enrolled().join("s-2.toml").exists(), "the good one is pinned all the same");
    // The way out for the operator.
    revoke(&layout, &"s-1".parse().unwrap()).unwrap();
    assert_eq!(recipients(&layout).unwrap().len(), 1);
}

#[test]
fn an_old_enrolment_cannot_be_played_again() {
    let (_dir, layout) = fleet();
    let token = token_for(&layout, "s-1");
    enrol(&layout, &Appliance::new(1).request(&token), now()).unwrap();
    recipients(&layout).unwrap();
    revoke(&layout, &token.site).unwrap();
    assert_eq!(recipients(&layout).unwrap().len(), 0);
    let db = rusqlite::Connection::open(layout.database()).unwrap();
    db.execute("UPDATE enrolments SET accepted = 0", []).unwrap();
    let error = format!("{:#}", recipients(&layout).unwrap_err());
    assert!(error.contains("was taken over before"), "{error}");
}

#[test]
fn a_token_id_from_the_database_is_no_path() {
    let (_dir, layout) = fleet();
    let token = token_for(&layout, "s-1");
    enrol(&layout, &Appliance::new(1).request(&token), now()).unwrap();
    let db = rusqlite::Connection::open(layout.database()).unwrap();
    db.execute_batch("PRAGMA foreign_keys = OFF; UPDATE enrolments SET token = '../../online/x'").unwrap();
    let error = format!("{:#}", recipients(&layout).unwrap_err());
    assert!(error.contains("token id is malformed"), "{error}");
}

#[test]
fn of_many_appliances_the_newest_two_are_sealed_to() {
    let (_dir, layout) = fleet();
    for seed in 1..=3 {
        let token = token_for(&layout, "s-1");
        enrol(&layout, &Appliance::new(seed).request(&token), UnixTime(now().0 + i64::from(seed))).unwrap();
    }
    let keys = |seed| RecipientPublic::from_bytes([seed; 32]);
    assert_eq!(recipients(&layout).unwrap().into_values().collect::<Vec<_>>(), [vec![keys(3), keys(2)]]);
}

#[test]
fn unknown_wrong_used_and_expired_tokens_are_refused_with_their_codes() {
    let (_dir, layout) = fleet();
    let token = token_for(&layout, "s-1");
    let code = |request: &EnrolRequest, at| enrol(&layout, request, at).unwrap_err().refusal().code();
    let appliance = Appliance::new(1);

    let unknown = EnrolRequest { token: "0123456789abcdef".to_owned(), ..appliance.request(&token) };
    assert_eq!(code(&unknown, now()), "token-unknown");
    let guess = EnrolmentToken { secret: "00".repeat(16), ..token.clone() };
    assert_eq!(code(&appliance.request(&guess), now()), "proof-wrong");
    let swapped = EnrolRequest { recipient: RecipientPublic::from_bytes([9; 32]), ..appliance.request(&token) };
    assert_eq!(code(&swapped, now()), "proof-wrong", "the key is covered by the proof");
    assert_eq!(code(&appliance.request_with(&token, "no csr"), now()), "malformed");
    assert_eq!(code(&appliance.request(&token), token.expires), "token-expired");

    // None of this used it up.
    enrol(&layout, &appliance.request(&token), now()).unwrap();
    assert_eq!(code(&Appliance::new(2).request(&token), now()), "token-used");
    let other_key = Appliance { recipient: RecipientPublic::from_bytes([3; 32]), ..appliance };
    assert_eq!(code(&other_key.request(&token), now()), "token-used", "the sealing key is part of who asks");
}

#[test]
fn who_lost_the_answer_asks_again_within_the_tokens_life() {
    let (_dir, layout) = fleet();
    let token = token_for(&layout, "s-1");
    let appliance = Appliance::new(1);
    let (_, first) = enrol(&layout, &appliance.request(&token), now()).unwrap();
    let (_, again) = enrol(&layout, &appliance.request(&token), now()).unwrap();
    assert_ne!(first.serial, again.serial);
    // A request made anew for the same key is the same appliance.
    let anew = csr(&appliance.key);
    enrol(&layout, &appliance.request_with(&token, &anew), now()).unwrap();
    assert_eq!(enrol(&layout, &appliance.request(&token), token.expires).unwrap_err(), Refused::TokenExpired);
    assert_eq!(recipients(&layout).unwrap().len(), 1);
}

#[test]
fn retries_without_end_are_refused() {
    let (_dir, layout) = fleet();
    let token = token_for(&layout, "s-1");
    let appliance = Appliance::new(1);
    let outcomes: Vec<_> = (0..25).map(|_| enrol(&layout, &appliance.request(&token), now()).err()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_none()).count(), 20);
    assert_eq!(outcomes[24], Some(Refused::TooMany));
}

#[test]
fn of_two_racing_appliances_one_wins() {
    let (_dir, layout) = fleet();
    for round in 0..8 {
        let token = token_for(&layout, &format!("s-{round}"));
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            // Connections of their own, as from two processes.
            let racers: Vec<_> = (1..=2)
                .map(|seed| {
                    let request = Appliance::new(seed).request(&token);
                    let layout = &layout;
                    scope.spawn(move || enrol(layout, &request, now()).err())
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_none()).count(), 1, "{outcomes:?}");
        assert!(outcomes.contains(&Some(Refused::TokenUsed)), "{outcomes:?}");
    }
}

#[test]
fn a_failing_ca_leaves_the_token_unused() {
    let (_dir, layout) = fleet();
    let token = token_for(&layout, "s-1");
    let db = Db::open(&layout.database()).unwrap();
    let request = Appliance::new(1).request(&token);
    assert!(db.enrol(&request, now(), |_, _, _| Err(anyhow!("no entropy"))).is_err());
    enrol(&layout, &Appliance::new(2).request(&token), now()).unwrap();
}

#[test]
fn revoking_ends_certificates_tokens_and_keys_until_a_new_token() {
    let (_dir, layout) = fleet();
    let used = token_for(&layout, "s-1");
    let appliance = Appliance::new(1);
    let (site, issued) = enrol(&layout, &appliance.request(&used), now()).unwrap();
    recipients(&layout).unwrap();
    let unused = token_for(&layout, "s-1");
    assert_eq!(revoke(&layout, &site).unwrap(), Revoked { certificates: 1, recipients: 1 });

    let db = Db::open(&layout.database()).unwrap();
    assert_eq!(db.standing(&site, &issued.fingerprint).unwrap(), online::db::CertificateStanding::Revoked);
    assert_eq!(enrol(&layout, &appliance.request(&used), now()).unwrap_err(), Refused::Revoked);
    assert_eq!(enrol(&layout, &Appliance::new(2).request(&unused), now()).unwrap_err(), Refused::Revoked);
    assert_eq!(recipients(&layout).unwrap().len(), 0);

    let fresh = token_for(&layout, "s-1");
    enrol(&layout, &Appliance::new(3).request(&fresh), now()).unwrap();
    assert_eq!(db.standing(&site, &issued.fingerprint).unwrap(), online::db::CertificateStanding::Revoked);
    assert_eq!(recipients(&layout).unwrap().len(), 1);
    assert!(revoke(&layout, &"s-none".parse().unwrap()).is_err());
}
