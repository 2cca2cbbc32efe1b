#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::lint;
use crate::testing::{Sample, sample};

fn inventory(sample: &Sample) -> FleetInventory {
    lint::read(&sample.layout).0.unwrap().inventory
}

#[test]
fn a_renamed_site_keeps_its_id_and_its_phones() {
    let sample = sample();
    let before = inventory(&sample);
    let id = before.sites["sample-office"].id.clone();
    let csv = sample.read("phones.csv");
    assert_eq!(rename(&sample.layout, &before, "sample-office", "bern").unwrap(), 3);
    assert!(sample.problems().is_empty(), "{:?}", sample.problems());
    let after = inventory(&sample);
    assert_eq!((&after.sites["bern"].id, after.phones_of("bern").len()), (&id, 3));
    assert_eq!(sample.read("phones.csv"), csv.replace("sample-office", "bern"), "nothing else changes");
    assert!(rename(&sample.layout, &after, "bern", "../x").is_err());
    assert!(rename(&sample.layout, &after, "nowhere", "x").unwrap_err().to_string().contains("no site `nowhere`"));
}

#[test]
fn a_site_is_removed_with_its_phones_only_if_somebody_says_so() {
    let sample = sample();
    let before = inventory(&sample);
    let error = remove(&sample.layout, &before, "sample-office", false).unwrap_err();
    assert_eq!(error.to_string(), "site sample-office has 3 phones in phones.csv");
    assert_eq!(remove(&sample.layout, &before, "sample-office", true).unwrap(), 3);
    assert!(sample.problems().is_empty(), "{:?}", sample.problems());
    let after = inventory(&sample);
    assert!(after.sites.is_empty() && after.phones.is_empty());
}

#[test]
fn only_the_sites_field_of_a_line_changes() {
    let text = "# mine\n\nmac;label;site;model\n1;\"a;b \"\"c\"\"\";old;x\r\n2;old;other;x\n";
    let renamed = rewritten(text, &BTreeSet::from([4]), Some("new")).unwrap();
    assert_eq!(renamed, text.replace("\";old;x", "\";new;x"));
    assert_eq!(rewritten(text, &BTreeSet::from([4]), None).unwrap(), "# mine\n\nmac;label;site;model\n2;old;other;x\n");
    assert!(rewritten("site,label\nold,\"a\nb\"\n", &BTreeSet::from([2]), None).is_err());
}
