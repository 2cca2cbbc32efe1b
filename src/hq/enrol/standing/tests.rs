#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use super::*;
use crate::enrol::tests::{Appliance, enrol, fleet, now, token_for};
use crate::enrol::{discard, recipients, revoke, take_over_new};
use ids::UnixTime;
use online::db::CertificateStanding;
use online::db::Db;

fn id(text: &str) -> SiteId {
    text.parse().unwrap()
}

#[test]
fn a_token_of_another_machine_stops_its_site_alone_and_the_text_says_so_first() {
    let (_dir, layout) = fleet();
    let (theirs, ours) = (token_for(&layout, "s-1"), token_for(&layout, "s-2"));
    enrol(&layout, &Appliance::new(1).request(&theirs), now()).unwrap();
    enrol(&layout, &Appliance::new(2).request(&ours), now()).unwrap();
    fs::remove_file(layout.keys().join("tokens").join(format!("{}.toml", theirs.token))).unwrap();
    take_over_new(&layout).unwrap();
    let standing = standing(&layout).unwrap();
    assert_eq!(standing.recipients.keys().collect::<Vec<_>>(), [&id("s-2")]);
    let [fault] = standing.faults.as_slice() else { panic!("{standing:?}") };
    assert_eq!(fault.site, Some(id("s-1")));
    let first = format!("token {} may have been issued on another machine", theirs.token);
    assert!(fault.what.starts_with(&first), "{fault}");
    assert!(fault.hint.contains("enrolment discard"), "{fault}");
}

#[test]
fn an_enrolment_that_was_not_committed_is_missing_here_until_it_is_revoked() {
    let (_dir, layout) = fleet();
    enrol(&layout, &Appliance::new(1).request(&token_for(&layout, "s-1")), now()).unwrap();
    recipients(&layout).unwrap();
    let path = layout.enrolled().join("s-1.toml");
    let older = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let what = |standing: &Standing| standing.faults.iter().map(|fault| fault.what.clone()).collect::<Vec<_>>();
    let missing = standing(&layout).unwrap();
    assert!(what(&missing)[0].starts_with("enrolled/s-1.toml is missing here (git pull)"), "{missing:?}");
    assert!(missing.of(&id("s-1")).contains("git pull"));

    // A second appliance, and the checkout of before it.
    fs::write(&path, &older).unwrap();
    enrol(&layout, &Appliance::new(2).request(&token_for(&layout, "s-1")), UnixTime(now().0 + 1)).unwrap();
    recipients(&layout).unwrap();
    fs::write(&path, &older).unwrap();
    let outdated = standing(&layout).unwrap();
    assert!(what(&outdated)[0].contains("is outdated here (git pull)"), "{outdated:?}");
    assert!(outdated.recipients.is_empty(), "nothing is sealed to what is outdated");

    revoke(&layout, &id("s-1")).unwrap();
    assert_eq!(standing(&layout).unwrap(), Standing::default());
    let _ = token_for(&layout, "s-1");
    assert_eq!(standing(&layout).unwrap(), Standing::default(), "a new token waits for its appliance");
}

#[test]
fn a_file_of_enrolled_that_cannot_be_used_is_that_sites_fault() {
    let (_dir, layout) = fleet();
    enrol(&layout, &Appliance::new(1).request(&token_for(&layout, "s-1")), now()).unwrap();
    recipients(&layout).unwrap();
    let low = "00".repeat(32);
    let appliance =
        format!("[[appliance]]\nrecipient = \"{low}\"\nenrolled = \"2026-11-20T00:00:00Z\"\ntoken = \"00\"\n");
    for (name, text, site) in [
        ("s-2.toml", format!("site = \"s-2\"\n{appliance}"), Some(id("s-2"))),
        ("s-3.toml", "nonsense".to_owned(), Some(id("s-3"))),
        ("s-4.toml", "site = \"s-5\"\n".to_owned(), Some(id("s-4"))),
        ("what is this.toml", String::new(), None),
    ] {
        let path = layout.enrolled().join(name);
        fs::write(&path, text).unwrap();
        let standing = standing(&layout).unwrap();
        let [fault] = standing.faults.as_slice() else { panic!("{name}: {standing:?}") };
        assert_eq!(fault.site, site, "{name}");
        assert!(fault.what.contains(&format!("enrolled/{name} cannot be used")), "{fault}");
        assert_eq!(standing.recipients.keys().collect::<Vec<_>>(), [&id("s-1")], "{name}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_discarded_enrolment_evicts_its_appliance_and_not_the_honest_one() {
    let (_dir, layout) = fleet();
    let (_, honest) = enrol(&layout, &Appliance::new(1).request(&token_for(&layout, "s-1")), now()).unwrap();
    recipients(&layout).unwrap();
    let token = token_for(&layout, "s-1");
    let mut forged = Appliance::new(66).request(&token);
    forged.publisher_proof = forged.service_proof.clone();
    let (_, strange) = enrol(&layout, &forged, UnixTime(now().0 + 1)).unwrap();
    assert_eq!(standing(&layout).unwrap().faults.len(), 1);
    let discarded = discard(&layout, "s-1", None).unwrap();
    assert_eq!((discarded.len(), discarded[0].certificates), (1, 1));
    assert_eq!(standing(&layout).unwrap().faults, []);
    let db = Db::open(&layout.database()).unwrap();
    let of = |issued: &online::ca::Issued| db.standing(&id("s-1"), &issued.fingerprint).unwrap();
    assert_eq!((of(&honest), of(&strange)), (CertificateStanding::Good, CertificateStanding::Revoked));
    assert!(enrol(&layout, &forged, now()).is_err(), "its token is of no use any more");
    assert_eq!(discard(&layout, "s-1", None).unwrap(), []);
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn to_see_how_sites_stand_writes_nothing() {
    let (_dir, layout) = fleet();
    enrol(&layout, &Appliance::new(1).request(&token_for(&layout, "s-1")), now()).unwrap();
    let before = files(layout.dir());
    let seen = standing(&layout).unwrap();
    assert_eq!(seen.of(&id("s-1")), "enrolled", "the next publish takes it over");
    assert_eq!(files(layout.dir()), before);
}
