//! The renewal of a site's sealing key: at every step, at every power cut, and with a host that lies or says nothing.

use std::time::Duration;

use lineside::api::SealingKeyStatement;
use lineside::bundle::{RecipientPublic, RecipientSecret};
use lineside::seal::PublisherSecret;
use lineside::update::roll_back;

use crate::hq::{fleet, site as id};
use crate::pki::days;
use crate::site::Site;

const FILES: [&str; 4] = ["recipient.key", "recipient-older.key", "recipient-next.key", "sealing-key.toml"];

fn desk() -> RecipientSecret {
    PublisherSecret::from_bytes([9; 32]).desk_key()
}

impl Site {
    /// Serves a release that says to whom new keys are proven, and when a key is renewed.
    async fn with_terms() -> Self {
        let mut site = Self::serving().await;
        {
            let mut world = site.hq.world();
            world.settings.desk_key = Some(desk().public());
            world.settings.sealing_key_days = Some(30);
        }
        site.next_release(b"two").await;
        assert!(site.stated().is_empty(), "the key is not that old");
        site
    }

    /// A month and a half later. HQ went on signing.
    fn later(&mut self) {
        self.clock.advance(Duration::from_secs(45 * 86_400));
        let mut world = self.hq.world();
        (world.now, world.expires) = (days(45), days(75));
        world.sign_online();
    }

    async fn next_release(&mut self, content: &[u8]) {
        self.hq.world().publish(&[("a.cfg", content)]);
        let outcome = self.poll().await;
        assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
        assert_eq!(self.content_now("a.cfg"), content);
    }

    /// What the card serves, by the keys that are on the card.
    fn content_now(&mut self, name: &str) -> Vec<u8> {
        self.identity = lineside::update::SiteIdentity::load(&self.store).unwrap().unwrap();
        self.content(name)
    }

    fn stated(&self) -> Vec<SealingKeyStatement> {
        std::mem::take(self.hq.world().stated.as_mut().unwrap())
    }

    /// The desk believes the newest statement, and the next release is sealed as that says.
    fn desk_takes(&self) -> SealingKeyStatement {
        let stated = self.stated().pop().unwrap();
        assert!(stated.is_proven((&fleet(), &id()), &desk()));
        let mut world = self.hq.world();
        (world.recipient, world.also) = (Some(stated.from), (stated.from != stated.to).then_some(stated.to));
        stated
    }

    fn card(&self) -> Vec<Option<Vec<u8>>> {
        FILES.iter().map(|name| std::fs::read(self.store.identity_dir().join(name)).ok()).collect()
    }

    fn put_back(&self, files: &[Option<Vec<u8>>]) {
        for (name, content) in FILES.iter().zip(files) {
            let path = self.store.identity_dir().join(name);
            match content {
                Some(content) => std::fs::write(path, content).unwrap(),
                None => drop(std::fs::remove_file(path)),
            }
        }
    }

    fn key(&self) -> RecipientPublic {
        self.identity.recipient().public()
    }
}

#[tokio::test]
async fn a_sealing_key_is_renewed_with_overlap_and_no_release_is_lost() {
    let mut site = Site::with_terms().await;
    let old = site.key();
    site.later();
    assert_eq!(site.poll().await.state.code(), "ok");
    let follows = site.desk_takes();
    assert_eq!((follows.from, follows.generation.0), (old, 2));
    site.boot();
    assert_eq!(site.key(), old, "nothing has opened under the new key");

    site.next_release(b"three").await;
    assert_eq!(site.key(), follows.to);
    // The release before is still here, and so is its key.
    assert_eq!(site.older_keys(), 1);
    let opens = site.desk_takes();
    assert_eq!((opens.from, opens.to, opens.generation.0), (follows.to, follows.to, 3));
    site.next_release(b"four").await;
    assert_eq!(site.older_keys(), 0);
    assert!(site.stated().is_empty());
    site.boot();
    assert_eq!((site.generation(), site.content("a.cfg")), (4, b"four".to_vec()));
    // And so on, when the new key is as old.
    site.clock.advance(Duration::from_secs(29 * 86_400));
    site.poll().await;
    assert!(site.stated().is_empty());
    site.clock.advance(Duration::from_secs(2 * 86_400));
    site.poll().await;
    assert_eq!(site.desk_takes().from, follows.to);
}

#[tokio::test]
async fn the_release_of_before_the_renewal_can_be_gone_back_to() {
    let mut site = Site::with_terms().await;
    site.later();
    site.poll().await;
    site.desk_takes();
    site.next_release(b"three").await;
    assert_eq!(roll_back(&site.store).unwrap().to.0, 2);
    site.boot();
    assert_eq!((site.generation(), site.content("a.cfg")), (2, b"two".to_vec()));
    site.poll().await;
    site.boot();
    assert_eq!((site.generation(), site.older_keys()), (2, 1));
    site.desk_takes();
    site.next_release(b"four").await;
}

#[tokio::test]
async fn what_is_said_is_said_again_each_hour_word_for_word_until_a_release_shows_that_it_was_heard() {
    let mut site = Site::with_terms().await;
    site.later();
    site.poll().await;
    site.poll().await;
    let first = site.stated();
    assert_eq!(first.len(), 1);
    site.clock.advance(Duration::from_secs(3600));
    site.poll().await;
    assert_eq!(site.stated(), first);
    site.boot();
    site.poll().await;
    assert_eq!(site.stated(), first);
    // Another release, which the desk made before it heard: the statement says so.
    site.next_release(b"three").await;
    let again = site.stated();
    assert_eq!((again[0].from, again[0].to, again[0].generation.0), (first[0].from, first[0].to, 3));
}

#[tokio::test]
async fn a_power_cut_at_any_step_of_a_renewal_strands_nothing() {
    let mut site = Site::with_terms().await;
    let old = site.key();
    let before = site.card();
    site.later();
    site.hq.world().lose_answers = true;
    site.poll().await;
    let made = site.card();
    // The key is on the card, and nothing else; then HQ heard it, and the answer was lost.
    for cut in [[&made[0], &made[1], &made[2], &before[3]], [&made[0], &made[1], &made[2], &made[3]]] {
        site.stated();
        site.put_back(&cut.map(Clone::clone));
        site.boot();
        site.poll().await;
        let stated = site.stated();
        let kept = String::from_utf8(made[3].clone().unwrap()).unwrap();
        assert!(!stated.is_empty() && stated.iter().all(|one| kept.contains(&format!("{:?}", one.to))), "{stated:?}");
        assert_eq!((site.key(), site.generation()), (old, 2));
    }
    site.hq.world().lose_answers = false;
    site.boot();
    site.poll().await;
    let follows = site.desk_takes();
    let said = site.card();
    site.next_release(b"three").await;
    let done = site.card();
    assert_eq!(site.key(), follows.to);
    // A release opened under the new key: its files in the order in which they are written.
    for cut in [
        [&said[0], &said[1], &said[2], &said[3]],
        [&said[0], &done[1], &said[2], &said[3]],
        [&done[0], &done[1], &said[2], &said[3]],
        [&done[0], &done[1], &done[2], &said[3]],
        [&done[0], &done[1], &done[2], &done[3]],
    ] {
        site.put_back(&cut.map(Clone::clone));
        site.stated();
        site.boot();
        assert_eq!((site.generation(), site.content("a.cfg")), (3, b"three".to_vec()));
        assert_eq!(site.poll().await.state.code(), "ok");
        site.boot();
        assert_eq!((site.key(), site.older_keys()), (follows.to, 1));
        let opens = site.stated().pop().unwrap();
        assert_eq!((opens.from, opens.to), (follows.to, follows.to));
        site.hq.world().stated.as_mut().unwrap().push(opens);
    }
    site.desk_takes();
    let sealed_to_both = site.card();
    site.next_release(b"four").await;
    // The key before is deleted last of all.
    site.put_back(&sealed_to_both);
    site.boot();
    assert_eq!((site.generation(), site.content("a.cfg")), (4, b"four".to_vec()));
    site.poll().await;
    assert_eq!(site.older_keys(), 0);
}

#[tokio::test]
async fn a_new_key_that_is_lost_before_a_release_costs_nothing_but_another_one() {
    let mut site = Site::with_terms().await;
    let old = site.key();
    site.later();
    site.poll().await;
    let lost = site.desk_takes().to;
    std::fs::write(site.store.identity_dir().join("recipient-next.key"), b"rotten").unwrap();
    site.boot();
    site.next_release(b"three").await;
    let follows = site.desk_takes();
    assert!(follows.from == old && follows.to != lost && follows.generation.0 == 3, "{follows:?}");
    site.next_release(b"four").await;
    assert_eq!(site.key(), follows.to);
}

#[tokio::test]
async fn a_host_that_withholds_a_statement_gains_nothing_but_delay() {
    let mut site = Site::with_terms().await;
    let old = site.key();
    site.later();
    for content in [b"three".as_slice(), b"four", b"five"] {
        site.next_release(content).await;
    }
    let all = site.stated();
    assert!(all.iter().all(|one| one.from == old && one.to == all[0].to), "one new key, not one for each try");
    site.boot();
    assert_eq!(site.key(), old);
}

#[tokio::test]
async fn an_hq_that_knows_nothing_of_such_statements_is_polled_on() {
    let mut site = Site::with_terms().await;
    site.later();
    site.hq.world().stated = None;
    assert_eq!(site.poll().await.state.code(), "ok");
    site.next_release(b"three").await;
    assert!(site.stats.counter("update.sealing-key-failed") >= 1);
}

#[tokio::test]
async fn a_release_that_says_no_desk_leaves_the_key_as_it_is() {
    let mut site = Site::with_terms().await;
    site.hq.world().settings.desk_key = None;
    site.next_release(b"three").await;
    site.later();
    site.poll().await;
    assert!(site.stated().is_empty());
    assert!(!site.store.identity_dir().join("recipient-next.key").exists());
}

#[tokio::test]
async fn a_desk_that_came_back_from_a_backup_is_shown_the_proof_again() {
    let mut site = Site::with_terms().await;
    let old = site.key();
    site.later();
    site.poll().await;
    let follows = site.desk_takes();
    site.next_release(b"three").await;
    site.desk_takes();
    site.next_release(b"four").await;
    assert_eq!(site.older_keys(), 0);
    // The desk knows nothing of all that any more.
    site.hq.world().recipient = Some(old);
    site.hq.world().publish(&[("a.cfg", b"five")]);
    site.poll_in_vain("refused").await;
    assert_eq!(site.desk_takes(), follows);
    site.next_release(b"six").await;
    assert_eq!(site.desk_takes().to, follows.to);
}

#[tokio::test]
async fn a_site_that_enrols_again_while_its_key_is_renewed_keeps_its_release() {
    let mut site = Site::with_terms().await;
    site.later();
    site.poll().await;
    site.desk_takes();
    site.next_release(b"three").await;
    site.hq.world().also = None;
    site.stated();
    site.enrol_again(0).await;
    assert_eq!(site.content("a.cfg"), b"three");
    assert_eq!(std::fs::read(site.store.identity_dir().join("recipient-next.key")).unwrap(), b"");
    site.next_release(b"four").await;
    assert!(site.stated().iter().all(|one| one.from == site.key()));
}
