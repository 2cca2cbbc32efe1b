#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::testing::{Sample, sample};
use online::db::Db;
use repository::keyring;

/// A fleet with two enrolled sites, and what its host was told.
struct Fleet {
    sample: Sample,
    fleet: FleetId,
    desk: RecipientPublic,
    sites: [SiteId; 2],
    db: Db,
}

fn key(seed: u8) -> RecipientSecret {
    RecipientSecret::from_bytes([seed; 32])
}

fn fleet() -> Fleet {
    let sample = sample();
    let inventory = crate::lint::read(&sample.layout).0.unwrap().inventory;
    let first = inventory.sites["sample-office"].id.clone();
    let second = crate::init::add_site(&sample.layout, "second").unwrap();
    let db = Db::open(&sample.layout.database()).unwrap();
    let mut rows = Vec::new();
    for (site, seed) in [(&first, 1), (&second, 101)] {
        sample.write(
            &format!("enrolled/{site}.toml"),
            format!(
                "site = \"{site}\"\n[[appliance]]\nrecipient = \"{:?}\"\nenrolled = \"2026-11-20T00:00:00Z\"\ntoken = \"00\"\n",
                key(seed).public()
            ),
        );
        rows.push((site.clone(), site.to_string(), Generation(1)));
    }
    db.published_now(&rows).unwrap();
    let desk = publish::publisher_secret(&sample.layout).unwrap().desk_key().public();
    let fleet = inventory.fleet.id;
    // What is pinned is signed, so that only what comes now is a change.
    let release = keyring::load_signing(&sample.layout.key("release")).unwrap();
    recipients::sign_statement(&sample.layout, &fleet, super::super::recipients(&sample.layout).unwrap(), &release)
        .unwrap();
    Fleet { sample, fleet, desk, sites: [first, second], db }
}

impl Fleet {
    fn prove(&self, site: usize, from: u8, to: u8, generation: u64) -> SealingKeyStatement {
        let whose = (&self.fleet, &self.sites[site]);
        SealingKeyStatement::prove(&key(from), &key(to).public(), Generation(generation), whose, &self.desk).unwrap()
    }

    /// The host has this of the site, whoever made it.
    fn host_has(&self, site: usize, statement: &SealingKeyStatement) {
        let host = rusqlite::Connection::open(self.sample.layout.database()).unwrap();
        host.execute(
            "INSERT OR REPLACE INTO sealing_keys (site, sender, statement, at) VALUES (?1, ?2, ?3, 1795132800)",
            [self.sites[site].to_string(), format!("{:?}", statement.from), serde_json::to_string(statement).unwrap()],
        )
        .unwrap();
    }

    fn take_over(&self) -> Vec<String> {
        let refused = take_over_sealing_keys(&self.sample.layout, &self.fleet, crate::testing::NOW).unwrap();
        refused.iter().map(|one| format!("{}: {one}", one.site)).collect()
    }

    /// Which keys the next release of a site is sealed to.
    fn sealed_to(&self, site: usize) -> Vec<RecipientPublic> {
        super::super::recipients(&self.sample.layout).unwrap()[&self.sites[site]].clone()
    }

    fn takes(&self, statement: &SealingKeyStatement) {
        self.host_has(0, statement);
        assert_eq!(self.take_over(), <[String; 0]>::default());
        assert!(self.db.sealing_keys().unwrap().is_empty(), "the host forgets what was taken");
    }

    fn refuses(&self, statement: &SealingKeyStatement, why: &str) {
        let before = self.sample.read(&format!("enrolled/{}.toml", self.sites[0]));
        self.host_has(0, statement);
        // The other site's goes through at the same time.
        let refused = self.take_over();
        assert!(refused.len() == 1 && refused[0].contains(why), "{why}: {refused:?}");
        assert!(refused[0].starts_with(self.sites[0].as_str()));
        assert_eq!(self.sample.read(&format!("enrolled/{}.toml", self.sites[0])), before);
        rusqlite::Connection::open(self.sample.layout.database())
            .unwrap()
            .execute("DELETE FROM sealing_keys", [])
            .unwrap();
    }

    fn lines(&self) -> Vec<String> {
        let enrolled = super::super::recipients(&self.sample.layout).unwrap();
        let changes = recipients::changes(&self.sample.layout, &enrolled, &|_| Some("Bern".to_owned())).unwrap();
        changes.iter().map(ToString::to_string).collect()
    }
}

fn public(seeds: &[u8]) -> Vec<RecipientPublic> {
    seeds.iter().map(|seed| key(*seed).public()).collect()
}

#[test]
fn releases_are_sealed_to_both_keys_until_one_opened_under_the_new_one() {
    let fleet = fleet();
    assert_eq!(fleet.sealed_to(0), public(&[1]));
    fleet.takes(&fleet.prove(0, 1, 2, 5));
    assert_eq!(fleet.sealed_to(0), public(&[1, 2]));
    assert_eq!(fleet.sealed_to(1), public(&[101]));
    // The same once more, and made anew, changes nothing.
    fleet.takes(&fleet.prove(0, 1, 2, 6));
    assert_eq!(fleet.sealed_to(0), public(&[1, 2]));
    fleet.takes(&fleet.prove(0, 2, 2, 7));
    assert_eq!(fleet.sealed_to(0), public(&[2]));
    fleet.takes(&fleet.prove(0, 2, 2, 8));
    // A year later.
    fleet.takes(&fleet.prove(0, 2, 3, 20));
    assert_eq!(fleet.sealed_to(0), public(&[2, 3]));
    let text = fleet.sample.read(&format!("enrolled/{}.toml", fleet.sites[0]));
    assert!(
        text.contains("[appliance.sealing-key.next]") && text.contains("[[appliance.sealing-key.replaced]]"),
        "{text}"
    );
}

#[test]
fn plan_shows_a_proven_key_and_publish_does_not_ask_about_it() {
    let fleet = fleet();
    fleet.takes(&fleet.prove(0, 1, 2, 5));
    let start = |mark: char, seed: u8| {
        format!("{mark} recipient {:.16}  an appliance of Bern: ", format!("{:?}", key(seed).public()))
    };
    assert_eq!(fleet.lines(), [start('+', 2) + "its new sealing key, proven by the one before"]);
    recipients::ask_about(&fleet.sample.layout, false, &|_| None).unwrap();
    recipients::keep(&fleet.sample.layout, &fleet.fleet).unwrap();
    fleet.takes(&fleet.prove(0, 2, 2, 6));
    assert_eq!(fleet.lines(), [start('-', 1) + "replaced by its new sealing key"]);
    recipients::ask_about(&fleet.sample.layout, false, &|_| None).unwrap();
}

#[test]
fn who_writes_a_new_key_into_the_file_is_asked_about() {
    let fleet = fleet();
    let path = format!("enrolled/{}.toml", fleet.sites[0]);
    let planted = format!(
        "[appliance.sealing-key.next]\nrecipient = \"{:?}\"\ngeneration = 5\nat = \"2026-11-20T00:00:00Z\"\n",
        key(66).public()
    );
    fleet.sample.append(&path, &planted);
    assert!(fleet.lines().len() == 1 && fleet.lines()[0].ends_with("nobody proved this"), "{:?}", fleet.lines());
}

#[test]
fn a_host_that_invents_swaps_or_changes_a_statement_is_named_and_other_sites_go_on() {
    let fleet = fleet();
    let good = fleet.prove(0, 1, 2, 5);
    let outsider = key(66).public();
    // By a key of its own; in the appliance's name; with its own key in a proven one; for another release.
    fleet.refuses(&fleet.prove(0, 66, 67, 5), "no appliance of this site");
    let own = SealingKeyStatement { from: key(1).public(), ..fleet.prove(0, 66, 67, 5) };
    fleet.refuses(&own, "not proven");
    fleet.refuses(&SealingKeyStatement { to: outsider, ..good.clone() }, "not proven");
    fleet.refuses(&SealingKeyStatement { generation: Generation(9), ..good.clone() }, "not proven");
    fleet.refuses(&SealingKeyStatement { generation: Generation(u64::MAX), ..good.clone() }, "no release");
    fleet.refuses(&SealingKeyStatement { proof: "00".repeat(48), ..good.clone() }, "not proven");
    // Another site's.
    fleet.refuses(&fleet.prove(1, 101, 102, 5), "no appliance of this site");
    // Of the same key at another site: an appliance that moved.
    fleet.refuses(&fleet.prove(1, 1, 2, 5), "not proven");
    // To another desk.
    let whose = (&fleet.fleet, &fleet.sites[0]);
    let elsewhere =
        SealingKeyStatement::prove(&key(1), &key(2).public(), Generation(5), whose, &key(9).public()).unwrap();
    fleet.refuses(&elsewhere, "not proven");
    assert_eq!(fleet.sealed_to(0), public(&[1]));

    fleet.host_has(0, &fleet.prove(0, 66, 67, 5));
    fleet.host_has(1, &fleet.prove(1, 101, 102, 5));
    assert_eq!(fleet.take_over().len(), 1);
    assert_eq!((fleet.sealed_to(0), fleet.sealed_to(1)), (public(&[1]), public(&[101, 102])));
}

#[test]
fn an_old_statement_brings_no_key_back() {
    let fleet = fleet();
    let (first, second) = (fleet.prove(0, 1, 2, 5), fleet.prove(0, 2, 3, 10));
    fleet.takes(&first);
    fleet.takes(&fleet.prove(0, 2, 2, 6));
    fleet.refuses(&first, "was replaced");
    fleet.takes(&second);
    fleet.takes(&fleet.prove(0, 3, 3, 11));
    for old in [&first, &second, &fleet.prove(0, 2, 2, 6)] {
        fleet.refuses(old, "was replaced");
    }
    // Whoever has the key that counts cannot go back to one of before, nor say something older.
    fleet.refuses(&fleet.prove(0, 3, 2, 12), "bring back");
    fleet.refuses(&fleet.prove(0, 3, 4, 11), "not newer");
    assert_eq!(fleet.sealed_to(0), public(&[3]));
}

#[test]
fn an_appliance_that_lost_its_new_key_names_another_one() {
    let fleet = fleet();
    let first = fleet.prove(0, 1, 2, 5);
    fleet.takes(&first);
    fleet.refuses(&fleet.prove(0, 1, 3, 5), "not newer");
    fleet.takes(&fleet.prove(0, 1, 3, 6));
    assert_eq!(fleet.sealed_to(0), public(&[1, 3]));
    // The host cannot undo that.
    fleet.refuses(&first, "bring back");
    // Nor is a confirmation by the lost key one.
    fleet.refuses(&fleet.prove(0, 2, 2, 7), "was replaced");
}

#[test]
fn a_withheld_confirmation_is_made_up_for_by_the_next_renewal() {
    let fleet = fleet();
    fleet.takes(&fleet.prove(0, 1, 2, 5));
    fleet.takes(&fleet.prove(0, 2, 3, 9));
    assert_eq!(fleet.sealed_to(0), public(&[2, 3]));
    fleet.refuses(&fleet.prove(0, 1, 4, 12), "was replaced");
}

#[test]
fn a_desk_that_crashed_between_its_two_files_takes_the_statement_again_without_a_question() {
    let fleet = fleet();
    let path = format!("enrolled/{}.toml", fleet.sites[0]);
    let before = fleet.sample.read(&path);
    fleet.takes(&fleet.prove(0, 1, 2, 5));
    fleet.sample.write(&path, before);
    fleet.takes(&fleet.prove(0, 1, 2, 5));
    assert!(fleet.lines().iter().all(|line| !line.contains("nobody proved")), "{:?}", fleet.lines());
}

#[test]
fn a_desk_whose_files_are_a_backups_takes_the_appliances_old_proof() {
    let fleet = fleet();
    let path = format!("enrolled/{}.toml", fleet.sites[0]);
    let backup = fleet.sample.read(&path);
    let shown_again = fleet.prove(0, 1, 2, 5);
    fleet.takes(&shown_again);
    fleet.takes(&fleet.prove(0, 2, 2, 6));
    fleet.sample.write(&path, backup);
    assert_eq!(fleet.sealed_to(0), public(&[1]));
    fleet.takes(&shown_again);
    assert_eq!(fleet.sealed_to(0), public(&[1, 2]));
}

#[test]
fn what_is_no_statement_is_named_and_a_site_that_nobody_knows_too() {
    let fleet = fleet();
    let host = rusqlite::Connection::open(fleet.sample.layout.database()).unwrap();
    let insert = "INSERT INTO sealing_keys (site, sender, statement, at) VALUES (?1, ?2, ?3, ?4)";
    host.execute(insert, rusqlite::params![fleet.sites[0].as_str(), "a", "{", 0]).unwrap();
    host.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    host.execute(
        insert,
        rusqlite::params!["s-nobody", "a", serde_json::to_string(&fleet.prove(0, 1, 2, 5)).unwrap(), 0],
    )
    .unwrap();
    host.execute(insert, rusqlite::params!["../x", "a", "{}", i64::MAX]).unwrap();
    let refused = fleet.take_over();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused.iter().any(|one| one.contains("malformed")) && refused.iter().any(|one| one.contains("enrolled")));
}
