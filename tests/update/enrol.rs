//! From a token to a site, and what happens when that goes wrong half-way.

use lineside::ids::Digest;
use lineside::store::Store;
use lineside::update::client::ClientLimits;
use lineside::update::enrol::enrol_with;
use lineside::update::{EnrolError, SiteIdentity};
use tempfile::TempDir;

use crate::hq::{Hq, fleet, site};
use crate::pki::{Ca, days, right_time};

async fn enrol(hq: &Hq, store: &Store) -> Result<SiteIdentity, EnrolError> {
    enrol_with(&hq.token(), store, right_time(), ClientLimits::default()).await
}

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state")).unwrap();
    (dir, store)
}

#[tokio::test]
async fn a_token_makes_an_appliance_a_site() {
    let (hq, (_dir, store)) = (Hq::start().await, store());
    assert!(SiteIdentity::load(&store).unwrap().is_none());
    let identity = enrol(&hq, &store).await.unwrap();
    assert_eq!((identity.fleet(), identity.site()), (&fleet(), &site()));
    assert_eq!(identity.valid(), (days(-1), days(89)));
    assert_eq!(hq.world().recipient, Some(identity.recipient().public()));

    let loaded = SiteIdentity::load(&store).unwrap().unwrap();
    assert_eq!(loaded.settled(), identity.settled());
    assert_eq!(loaded.recipient(), identity.recipient());
    assert_eq!(loaded.settled().hq, hq.server.url);
    let trust = store.trust().unwrap().unwrap();
    assert_eq!(Digest::of(&trust.metadata["root.json"]), hq.token().root_sha256);
}

#[tokio::test]
async fn secrets_stay_here_and_files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let (hq, (_dir, store)) = (Hq::start().await, store());
    let identity = enrol(&hq, &store).await.unwrap();
    for request in hq.server.requests.lock().unwrap().iter() {
        let body = String::from_utf8_lossy(&request.body);
        assert!(!body.contains(crate::hq::SECRET) && !body.contains("PRIVATE"), "{body}");
    }
    assert!(!format!("{identity:?}").contains("PRIVATE"));
    for file in ["tls.key", "tls.crt", "recipient.key", "site.toml", "enrolling.toml"] {
        let mode = std::fs::metadata(store.identity_dir().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // The journal held keys; they are in their own files now.
    assert_eq!(std::fs::read(store.identity_dir().join("enrolling.toml")).unwrap(), b"");
}

#[tokio::test]
async fn an_answer_that_was_lost_can_be_asked_for_again_with_the_same_keys() {
    let (hq, (_dir, store)) = (Hq::start().await, store());
    hq.world().lose_answers = true;
    let error = enrol(&hq, &store).await.unwrap_err();
    assert!(error.failure().code() == "unreachable" && error.may_pass(), "{error}");
    assert!(hq.world().used_by.is_some());
    assert!(SiteIdentity::load(&store).unwrap().is_none());
    hq.world().lose_answers = false;
    let identity = enrol(&hq, &store).await.unwrap();
    assert_eq!(hq.world().recipient, Some(identity.recipient().public()));
}

#[tokio::test]
async fn another_token_gets_other_keys() {
    let (hq, (_dir, store)) = (Hq::start().await, store());
    let first = enrol(&hq, &store).await.unwrap();
    hq.world().used_by = None;
    let second = enrol(&hq, &store).await.unwrap();
    assert_ne!(first.recipient(), second.recipient());
}

#[tokio::test]
async fn a_certificate_for_another_site_or_key_is_not_taken() {
    let (hq, (_dir, store)) = (Hq::start().await, store());
    hq.world().issue_for = Some(rcgen::KeyPair::generate().unwrap());
    let error = enrol(&hq, &store).await.unwrap_err();
    assert!(error.to_string().contains("another key"), "{error}");
    assert!(SiteIdentity::load(&store).unwrap().is_none() && store.trust().unwrap().is_none());
}

#[tokio::test]
async fn a_second_appliance_cannot_use_the_token() {
    let (hq, (_one, first), (_two, second)) = (Hq::start().await, store(), store());
    enrol(&hq, &first).await.unwrap();
    let error = enrol(&hq, &second).await.unwrap_err();
    assert!(matches!(error, EnrolError::TokenUsed), "{error}");
    assert!(!error.may_pass() && SiteIdentity::load(&second).unwrap().is_none());
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let (hq, (_dir, store)) = (Hq::start().await, store());
    for code in ["token-used", "token-expired", "token-unknown", "proof-wrong"] {
        hq.world().refuse = Some(code);
        assert_eq!(enrol(&hq, &store).await.unwrap_err().failure().code(), code);
    }
}

#[tokio::test]
async fn an_altered_secret_is_refused_by_hq() {
    let (hq, (_dir, store)) = (Hq::start().await, store());
    let token = lineside::api::EnrolmentToken { secret: "0".repeat(32), ..hq.token() };
    let error = enrol_with(&token, &store, right_time(), ClientLimits::default()).await.unwrap_err();
    assert!(matches!(error, EnrolError::ProofWrong), "{error}");
}

#[tokio::test]
async fn another_ca_another_root_and_another_fleet_are_refused_before_anything_is_posted() {
    let (hq, (_dir, store)) = (Hq::start().await, store());
    let good = hq.token();
    let tokens = [
        (lineside::api::EnrolmentToken { ca_sha256: Ca::new().digest(), ..good.clone() }, "wrong-ca"),
        (lineside::api::EnrolmentToken { root_sha256: Digest::of(b"x"), ..good.clone() }, "other-root"),
        (lineside::api::EnrolmentToken { fleet: "f-2".parse().unwrap(), ..good.clone() }, "other-fleet"),
    ];
    for (token, code) in tokens {
        let error = enrol_with(&token, &store, right_time(), ClientLimits::default()).await.unwrap_err();
        assert_eq!(error.failure().code(), code, "{error}");
    }
    assert!(hq.server.requests.lock().unwrap().iter().all(|request| request.method == "GET"));
    assert!(store.trust().unwrap().is_none());
}

#[tokio::test]
async fn hq_away_is_unreachable_and_the_token_is_kept() {
    let (_dir, store) = store();
    let token = {
        let hq = Hq::start().await;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        lineside::api::EnrolmentToken { hq: format!("https://127.0.0.1:{port}"), ..hq.token() }
    };
    let error = enrol_with(&token, &store, right_time(), ClientLimits::default()).await.unwrap_err();
    assert!(error.failure().code() == "unreachable" && error.may_pass(), "{error}");
}

#[tokio::test]
async fn a_power_cut_after_the_answer_is_made_good_at_the_next_start() {
    let (hq, (_dir, store)) = (Hq::start().await, store());
    enrol(&hq, &store).await.unwrap();
    let dir = store.identity_dir();
    // The disk as it was when HQ's answer was in the journal and nothing else was done.
    let key = std::fs::read_to_string(dir.join("tls.key")).unwrap();
    let recipient = std::fs::read_to_string(dir.join("recipient.key")).unwrap();
    let settled: toml::Table = std::fs::read_to_string(dir.join("site.toml")).unwrap().parse().unwrap();
    let mut journal = toml::Table::new();
    journal.insert("site".into(), settled.into());
    journal.insert("token".into(), "t-1".into());
    journal.insert("tls-key".into(), key.into());
    journal.insert("csr".into(), "-".into());
    journal.insert("recipient".into(), recipient.split_whitespace().last().unwrap().into());
    journal.insert("certificate".into(), std::fs::read_to_string(dir.join("tls.crt")).unwrap().into());
    let root = String::from_utf8(hq.world().tree[lineside::api::ROOT_PATH].clone()).unwrap();
    journal.insert("root".into(), root.into());
    for file in ["tls.key", "tls.crt", "recipient.key", "site.toml"] {
        std::fs::remove_file(dir.join(file)).unwrap();
    }
    std::fs::write(dir.join("enrolling.toml"), journal.to_string()).unwrap();

    let identity = SiteIdentity::load(&store).unwrap().unwrap();
    assert_eq!(identity.site(), &site());
    assert!(dir.join("site.toml").exists());
}

#[tokio::test]
async fn enrolling_the_same_site_again_keeps_its_trust() {
    let (hq, (_dir, store)) = (Hq::start().await, store());
    enrol(&hq, &store).await.unwrap();
    let mut trust = store.trust().unwrap().unwrap();
    trust.rejected = vec![lineside::ids::Generation(7)];
    store.save_trust(&trust).unwrap();
    hq.world().used_by = None;
    let token = hq.token();
    enrol_with(&token, &store, right_time(), ClientLimits::default()).await.unwrap();
    assert_eq!(store.trust().unwrap().unwrap(), trust);
}
