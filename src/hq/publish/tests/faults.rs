//! What is wrong with one site, and what a site serves that HQ does not know of.

use super::*;
use crate::init;
use api::CheckIn;
use online::db::{CheckIns as _, Db};
use repository::ledger::Ledger;

/// A fleet with a second enrolled site, and what both are sealed to.
fn two() -> (Enrolled, SiteId, BTreeMap<SiteId, Vec<RecipientPublic>>) {
    let fleet = enrolled();
    let branch = init::add_site(&fleet.sample.layout, "branch").unwrap();
    let mut recipients = fleet.recipients();
    recipients.insert(branch.clone(), vec![fleet.key.public()]);
    (fleet, branch, recipients)
}

fn publish_both(fleet: &Enrolled, recipients: &BTreeMap<SiteId, Vec<RecipientPublic>>) -> Summary {
    publish_to(&fleet.sample.layout, recipients, &PublishOptions { sites: None, now: NOW }, &mut Silent).unwrap()
}

/// The site says that it serves this generation.
fn reports(fleet: &Enrolled, generation: u64) {
    let check_in = CheckIn { generation: Generation(generation), ..CheckIn::default() };
    Db::open(&fleet.sample.layout.database()).unwrap().note(&fleet.site, NOW, &check_in).unwrap();
}

fn generation(fleet: &Enrolled) -> Generation {
    fleet.publish(NOW).generation()
}

#[test]
fn damage_at_one_site_is_named_and_the_others_are_published() {
    let (fleet, branch, recipients) = two();
    publish_both(&fleet, &recipients);
    fs::write(fleet.sample.layout.site_metadata(&branch).join("timestamp.json"), "damaged").unwrap();
    fleet.sample.replace("phones.csv", "Reception", "Front desk");
    let summary = publish_both(&fleet, &recipients);
    assert_eq!(summary.sites.len(), 1);
    assert!(matches!(summary.sites[0].outcome, Outcome::Published { generation: Generation(2), .. }), "{summary:?}");
    let [fault] = summary.faults.as_slice() else { panic!("{summary:?}") };
    assert_eq!((&fault.site, fault.whose.as_str()), (&Some(branch), "branch"));
    assert!(summary.to_string().contains("branch         skipped     "), "{summary}");
    let error = summary.complete().unwrap_err().to_string();
    assert_eq!(error, "1 site skipped, and the others are published: branch");
    assert_eq!(fleet.fetch(NOW).generation(), Generation(2));
}

#[test]
fn a_fault_keeps_the_release_that_a_site_has_and_stops_no_other_one() {
    let (fleet, branch, recipients) = two();
    publish_both(&fleet, &recipients);
    let before = tree_of(&fleet.sample.layout.site_metadata(&branch));
    fleet.sample.replace("fleet.toml", "sip_port = 5060", "sip_port = 5070");
    let fault = crate::enrol::SiteFault::of(&branch, "it is wrong".to_owned(), "mend it");
    let options = PublishOptions { sites: None, now: NOW };
    let layout = &fleet.sample.layout;
    let summary = publish_around(layout, &recipients, vec![fault], (&options, false), &mut Silent).unwrap();
    assert_eq!(summary.faults[0].whose, "branch");
    assert_eq!(summary.sites.len(), 1, "{summary:?}");
    assert_eq!(tree_of(&layout.site_metadata(&branch)), before);
    assert_eq!(fleet.fetch(NOW).generation(), Generation(2));
}

#[test]
fn a_release_goes_past_what_the_site_reports() {
    let fleet = enrolled();
    assert_eq!(generation(&fleet), Generation(1));
    reports(&fleet, 7);
    assert_eq!(generation(&fleet), Generation(8), "a new release, although nothing changed");
    assert_eq!(generation(&fleet), Generation(8), "and no further one");
    reports(&fleet, 1008);
    assert_eq!(generation(&fleet), Generation(1009));
}

#[test]
fn a_site_that_reports_a_number_beyond_belief_is_named_and_skipped() {
    let (fleet, _, recipients) = two();
    publish_both(&fleet, &recipients);
    for told in [1002, u64::MAX, 1 << 62] {
        reports(&fleet, told);
        if told > i64::MAX as u64 {
            continue;
        }
        let summary = publish_both(&fleet, &recipients);
        let [fault] = summary.faults.as_slice() else { panic!("{told}: {summary:?}") };
        assert!(fault.what.contains(&format!("generation {told} is reported")), "{fault}");
        assert_eq!((fault.whose.as_str(), summary.sites.len()), ("sample-office", 1));
    }
}

#[test]
fn a_release_after_a_restore_goes_past_what_may_have_been_made_since() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let layout = &fleet.sample.layout;
    let mut ledger = Ledger::read(layout);
    ledger.was_restored(NOW);
    ledger.write(layout).unwrap();
    assert_eq!(fleet.fetch(NOW).generation(), Generation(1));
    assert_eq!(generation(&fleet), Generation(101));
    let metadata = layout.site_metadata(&fleet.site);
    let root = fs::read(layout.signed().join("1.root.json")).unwrap();
    let trusted = refresh_from(&metadata, &root, NOW).unwrap();
    assert_eq!(trusted.timestamp().unwrap().version, NOW.0 as u64, "past any timestamp that a site may have");
    assert_eq!(generation(&fleet), Generation(101), "once");
}

#[test]
fn what_is_asked_for_again_gets_a_new_number() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let layout = &fleet.sample.layout;
    let options = PublishOptions { sites: Some(vec!["sample-office".to_owned()]), now: NOW };
    let again = publish_around(layout, &fleet.recipients(), Vec::new(), (&options, true), &mut Silent).unwrap();
    assert!(matches!(again.sites[0].outcome, Outcome::Published { generation: Generation(2), .. }), "{again:?}");
    assert_eq!(generation(&fleet), Generation(2));
}

#[test]
fn a_ledger_counts_phones_and_mass_removal_is_asked_about() {
    let (fleet, branch, recipients) = two();
    publish_both(&fleet, &recipients);
    let layout = &fleet.sample.layout;
    let losses = || {
        let inventory = lint::read(layout).0.unwrap().inventory;
        crate::removal::losses(layout, &inventory).unwrap()
    };
    assert_eq!(losses(), <[String; 0]>::default());
    let csv = fleet.sample.read("phones.csv");
    let header: String =
        csv.lines().filter(|line| !line.contains("sample-office")).map(|line| format!("{line}\n")).collect();
    fleet.sample.write("phones.csv", &header);
    assert_eq!(losses(), ["- sample-office: 3 of its 3 phones"]);
    fleet.sample.write("phones.csv", &csv);
    let file = fleet.sample.read("sites/branch.toml");
    fs::remove_file(layout.sites().join("branch.toml")).unwrap();
    assert_eq!(losses(), [format!("- site branch ({branch}): sites/branch.toml is gone")]);
    let inventory = lint::read(layout).0.unwrap().inventory;
    let orphans = crate::orphans::of(layout, &inventory).unwrap();
    assert_eq!(orphans.iter().map(|orphan| &orphan.name).collect::<Vec<_>>(), ["branch"]);
    assert_eq!(crate::site::find(layout, &inventory, "branch").unwrap().id, branch);
    // Somebody agreed, so nobody is asked twice; the orphan is shown until it is revoked.
    publish_both(&fleet, &recipients);
    assert_eq!(losses(), <[String; 0]>::default());
    assert_eq!(crate::orphans::of(layout, &inventory).unwrap().len(), 1);
    crate::enrol::revoke(layout, &branch).unwrap();
    assert_eq!(crate::orphans::of(layout, &inventory).unwrap(), []);
    fleet.sample.write("sites/branch.toml", file);
}
