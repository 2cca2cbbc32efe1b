//! A site that enrols a second time: on the same card with a new token, because its certificate was revoked or lapsed.

use lineside::store::Store;
use lineside::update::client::ClientLimits;
use lineside::update::clock::Timekeeper;
use lineside::update::enrol::enrol_with;
use lineside::update::{SiteIdentity, load_active, roll_back};

use crate::hq::Hq;
use crate::pki::{SetClock, days, right_time};
use crate::site::Site;

impl Site {
    /// Enrols again with a new token, by a clock that shows this without being synchronised; then starts anew.
    pub async fn enrol_again(&mut self, years: i64) {
        self.hq.world().used_by = None;
        let time = Timekeeper::new(SetClock::new(days(365 * years), false), None);
        enrol_with(&self.hq.token(), &self.store, time, ClientLimits::default()).await.unwrap();
        self.boot();
    }

    /// The process starts anew with what is on the card.
    pub fn boot(&mut self) {
        self.identity = SiteIdentity::load(&self.store).unwrap().unwrap();
        self.restart();
    }

    pub fn older_keys(&self) -> usize {
        let text = std::fs::read_to_string(self.store.identity_dir().join("recipient-older.key"));
        text.unwrap_or_default().lines().filter(|line| line.starts_with("lineside-x25519 ")).count()
    }
}

#[tokio::test]
async fn a_box_that_enrols_again_serves_its_old_release_until_one_opens_under_the_new_key() {
    for years in [-3, 0, 3] {
        let mut site = Site::serving().await;
        let before = site.identity.recipient().clone();
        {
            let mut reading = site.clock.0.lock().unwrap();
            (reading.system, reading.synchronised) = (days(365 * years), false);
        }
        site.enrol_again(years).await;
        assert_ne!(*site.identity.recipient(), before);
        assert_eq!((site.generation(), site.content("a.cfg")), (1, b"one".to_vec()), "{years} years off");
        // HQ has nothing for the new key yet: polls change nothing, and nothing is wrong.
        assert_eq!(site.poll().await.state.code(), "ok");
        site.boot();
        assert_eq!((site.generation(), site.content("a.cfg")), (1, b"one".to_vec()));

        site.hq.world().publish(&[("a.cfg", b"two")]);
        let outcome = site.poll().await;
        assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
        site.boot();
        assert_eq!((site.generation(), site.content("a.cfg")), (2, b"two".to_vec()));
        // The release before is still there for a roll-back, and so is its key; then nothing needs it.
        assert_eq!(site.older_keys(), 1);
        site.hq.world().publish(&[("a.cfg", b"three")]);
        assert_eq!(site.poll().await.state.code(), "ok");
        assert_eq!(site.older_keys(), 0);
        site.boot();
        assert_eq!((site.generation(), site.content("a.cfg")), (3, b"three".to_vec()));
    }
}

#[tokio::test]
async fn a_box_that_enrolled_again_can_go_back_to_the_release_before() {
    let mut site = Site::serving().await;
    site.enrol_again(0).await;
    site.hq.world().publish(&[("a.cfg", b"two")]);
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(roll_back(&site.store).unwrap().to.0, 1);
    site.boot();
    assert_eq!((site.generation(), site.content("a.cfg")), (1, b"one".to_vec()));
}

#[tokio::test]
async fn what_hq_published_for_the_old_key_before_it_heard_of_the_new_one_is_taken() {
    let mut site = Site::serving().await;
    let before = site.hq.world().recipient;
    site.enrol_again(0).await;
    let new = std::mem::replace(&mut site.hq.world().recipient, before);
    site.hq.world().publish(&[("a.cfg", b"two")]);
    let outcome = site.poll().await;
    assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
    site.hq.world().recipient = new;
    // Twice more, and no release in between for the key of the second time.
    site.enrol_again(0).await;
    site.enrol_again(0).await;
    assert_eq!((site.generation(), site.content("a.cfg")), (2, b"two".to_vec()));
    assert_eq!(site.older_keys(), 1);
}

#[tokio::test]
async fn a_power_cut_while_it_enrols_again_costs_no_release() {
    let mut site = Site::serving().await;
    let dir = site.store.identity_dir();
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap_or_default();
    let before = ["recipient.key", "tls.key", "tls.crt", "site.toml"].map(|name| (name, read(name)));
    site.enrol_again(0).await;
    let after = before.each_ref().map(|(name, _)| (*name, read(name)));
    // The journal as it was when HQ's answer had come.
    let text = |files: &[(&str, Vec<u8>); 4], n: usize| String::from_utf8(files[n].1.clone()).unwrap();
    let mut journal = toml::Table::new();
    journal.insert("site".into(), text(&after, 3).parse::<toml::Table>().unwrap().into());
    journal.insert("token".into(), "t-1".into());
    journal.insert("tls-key".into(), text(&after, 1).into());
    journal.insert("csr".into(), "-".into());
    journal.insert("recipient".into(), text(&after, 0).split_whitespace().last().unwrap().into());
    journal.insert("certificate".into(), text(&after, 2).into());
    let root = site.hq.world().tree[lineside::api::ROOT_PATH].clone();
    journal.insert("root".into(), String::from_utf8(root).unwrap().into());
    // Cut before each of the files was replaced, in the order in which they are: the older keys first, `site.toml` last.
    let order = ["tls.key", "tls.crt", "recipient.key", "site.toml"];
    for done in 0..=order.len() + 1 {
        for ((name, old), (_, new)) in before.iter().zip(&after) {
            let replaced = order.iter().position(|one| one == name).unwrap() + 1 < done;
            std::fs::write(dir.join(name), if replaced { new } else { old }).unwrap();
        }
        if done == 0 {
            std::fs::write(dir.join("recipient-older.key"), b"").unwrap();
        }
        std::fs::write(dir.join("enrolling.toml"), journal.to_string()).unwrap();
        site.boot();
        assert_eq!((site.generation(), site.older_keys()), (1, 1), "after {done} files");
    }
}

#[tokio::test]
async fn another_site_starts_with_nothing_of_the_one_before() {
    let mut site = Site::serving().await;
    // Of this HQ, the card belonged to another site before.
    let dir = site.store.identity_dir();
    let text = std::fs::read_to_string(dir.join("site.toml")).unwrap();
    std::fs::write(dir.join("site.toml"), text.replace("\"s-1\"", "\"s-2\"")).unwrap();
    site.enrol_again(0).await;
    assert_eq!(site.older_keys(), 0);
    assert!(load_active(&site.store, &site.identity).is_err());
}

#[tokio::test]
async fn a_token_made_under_a_newer_root_lowers_no_version() {
    let mut site = Site::serving().await;
    site.hq.world().publish(&[("a.cfg", b"two")]);
    assert_eq!(site.poll().await.state.code(), "ok");
    site.hq.world().publish_root(2, days(500));
    site.enrol_again(0).await;
    assert_eq!(site.generation(), 2);
    // A timestamp that is older than the one that was trusted under the root before.
    {
        let mut world = site.hq.world();
        (world.version, world.newest) = (0, 1);
        world.sign_online();
    }
    let outcome = site.poll_in_vain("refused").await;
    assert!(outcome.reason.starts_with("rollback"), "{}", outcome.reason);
}

#[tokio::test]
async fn a_new_card_has_no_older_key() {
    let hq = Hq::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state")).unwrap();
    enrol_with(&hq.token(), &store, right_time(), ClientLimits::default()).await.unwrap();
    assert!(!store.identity_dir().join("recipient-older.key").exists());
}

// Renewal

async fn renew(site: &mut Site) {
    site.clock.advance(std::time::Duration::from_secs(59 * 86_400));
    {
        let mut world = site.hq.world();
        (world.now, world.expires, world.certificate) = (days(59), days(89), (days(59), days(149)));
        world.sign_online();
    }
    assert_eq!(site.poll().await.state.code(), "ok");
}

#[tokio::test]
async fn a_renewed_certificate_has_a_key_of_its_own() {
    let mut site = Site::serving().await;
    let file = |site: &Site, name: &str| std::fs::read(site.store.identity_dir().join(name)).unwrap();
    let before = (file(&site, "tls.key"), file(&site, "tls.crt"));
    renew(&mut site).await;
    let after = (file(&site, "tls.key"), file(&site, "tls.crt"));
    assert!(before.0 != after.0 && before.1 != after.1);
    assert_eq!(file(&site, "tls-next.key"), b"");
    site.boot();
    assert_eq!(site.identity.valid(), (days(59), days(149)));
    assert_eq!(site.poll().await.state.code(), "ok");
}

#[tokio::test]
async fn a_power_cut_at_any_step_of_a_renewal_leaves_a_key_that_fits_its_certificate() {
    let mut site = Site::serving().await;
    let dir = site.store.identity_dir();
    let pair = || (std::fs::read(dir.join("tls.key")).unwrap(), std::fs::read(dir.join("tls.crt")).unwrap());
    let (old_key, old) = pair();
    renew(&mut site).await;
    let (new_key, new) = pair();
    for (step, (key, certificate, next)) in
        [(&old_key, &old, &new_key), (&old_key, &new, &new_key), (&new_key, &new, &new_key)].into_iter().enumerate()
    {
        std::fs::write(dir.join("tls.key"), key).unwrap();
        std::fs::write(dir.join("tls.crt"), certificate).unwrap();
        std::fs::write(dir.join("tls-next.key"), next).unwrap();
        site.boot();
        assert_eq!(site.identity.valid().1, if step == 0 { days(89) } else { days(149) }, "{step}");
        assert_eq!(site.poll().await.state.code(), "ok", "{step}");
    }
}

#[tokio::test]
async fn a_renewal_whose_answer_is_lost_leaves_the_old_pair_and_comes_again() {
    let mut site = Site::serving().await;
    let path = site.store.identity_dir().join("tls.key");
    let before = std::fs::read(&path).unwrap();
    site.hq.world().lose_answers = true;
    renew(&mut site).await;
    assert_eq!(std::fs::read(&path).unwrap(), before);
    site.boot();
    site.hq.world().lose_answers = false;
    site.clock.advance(std::time::Duration::from_secs(86_400));
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_ne!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_certificate_for_a_key_that_was_not_asked_for_is_not_taken() {
    let mut site = Site::serving().await;
    let path = site.store.identity_dir().join("tls.crt");
    let before = std::fs::read(&path).unwrap();
    site.hq.world().issue_for = Some(rcgen::KeyPair::generate().unwrap());
    renew(&mut site).await;
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
