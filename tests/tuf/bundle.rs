//! A second reader, in Python and from FORMAT.md alone, opens what HQ published, with a site's key.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use lineside::access::OpenedManifest;
use lineside::ids::Digest;
use lineside::repository::published;

use crate::fleet::{Fleet, Site};
use crate::python::{has, python, run, script};

/// What the second reader says of a site's release with the key of another (or the same) site, and the files it wrote.
fn open(python: &std::path::Path, fleet: &Fleet, site: &Site, key_of: &Site) -> (bool, String, tempfile::TempDir) {
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(python);
    command.arg(script("open_release.py")).arg(fleet.layout.public()).args([site.id.as_str(), fleet.id.as_str()]);
    let (done, said) = run(command.arg(key_of.store.identity_dir().join("recipient.key")).arg(out.path()));
    (done, said, out)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_made_from_the_format_alone_opens_a_release_and_finds_the_files_that_phones_get() {
    let test = "a_second_reader";
    let Some(python) = python(test).filter(|_| has(test, &["zstd"])) else { return };
    let mut fleet = Fleet::new().await;
    let mut site = fleet.site("sample-office").await;
    fs::write(fleet.layout.files().join("tone.wav"), [7; 150_000]).unwrap();
    fleet.publish();
    site.takes(1).await;
    let (done, said, out) = open(&python, &fleet, &site, &site);
    assert!(done, "{said}");
    let listing: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(listing["phones"].as_array().unwrap().len(), 3);
    let theirs: BTreeMap<String, Vec<u8>> = listing["files"]
        .as_object()
        .unwrap()
        .keys()
        .map(|name| (name.clone(), fs::read(out.path().join(Digest::of(name.as_bytes()).to_string())).unwrap()))
        .collect();
    let ours: BTreeMap<String, Vec<u8>> =
        site.content().into_iter().map(|(name, bytes)| (name.as_str().to_owned(), bytes)).collect();
    assert_eq!(theirs.len(), 7);
    assert!(theirs == ours, "{:?} {:?}", theirs.keys(), ours.keys());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_frozen_vectors_open_by_the_format_alone() {
    let test = "the_frozen_vectors";
    let Some(python) = python(test).filter(|_| has(test, &["zstd"])) else { return };
    let (done, said) = run(Command::new(python).arg(script("../vectors/bundle/open.py")));
    assert!(done && said.contains("manifest's keys are those that the format says"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_one_site_opens_nothing_of_another() {
    let mut fleet = Fleet::new().await;
    let mut a = fleet.site("sample-office").await;
    let mut b = fleet.site("branch").await;
    fleet.publish();
    a.takes(1).await;
    b.takes(1).await;
    for (site, other) in [(&a, &b), (&b, &a)] {
        let published = published::read(&fleet.layout, &site.id).unwrap().unwrap();
        let digest = published.trusted.target("manifest").unwrap().hashes.sha256.unwrap();
        let path = fleet.layout.site_targets(&site.id).join(format!("{digest}.manifest"));
        let sealed = fs::read(path).unwrap();
        let open = |key| OpenedManifest::open(&published.trusted, &sealed, key, &fleet.id, &site.id);
        let opened = open(site.identity.recipient()).unwrap();
        assert_eq!(open(other.identity.recipient()).unwrap_err().refusal().code(), "not-sealed-to-us");
        // Everything else is encrypted with keys that only the manifest has; no key in B's hands opens any of it.
        let shared: Vec<_> = {
            let theirs = published::read(&fleet.layout, &other.id).unwrap().unwrap();
            let digest = theirs.trusted.target("manifest").unwrap().hashes.sha256.unwrap();
            let sealed = fs::read(fleet.layout.site_targets(&other.id).join(format!("{digest}.manifest"))).unwrap();
            let theirs =
                OpenedManifest::open(&theirs.trusted, &sealed, other.identity.recipient(), &fleet.id, &other.id);
            let theirs = theirs.unwrap();
            let keys: Vec<_> = theirs.parts().map(|part| part.digest).collect();
            opened.parts().filter(|part| keys.contains(&part.digest)).map(|part| part.digest).collect()
        };
        assert_eq!(shared, [], "sites have parts in common");
    }
    // The second reader says the same.
    if let Some(python) = python("the_key_of_one_site").filter(|_| has("the_key_of_one_site", &["zstd"])) {
        let (done, said, _) = open(&python, &fleet, &a, &b);
        assert!(!done && said.contains("not for this key"), "{said}");
    }
    fleet.stop().await;
}
