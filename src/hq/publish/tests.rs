#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod faults;
mod rotation;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::images;
use crate::plan::{self, ChangeKind};
use crate::progress::Silent;
use crate::testing::{NOW, Sample, sample};
use access::{MANIFEST_TARGET, Opened, OpenedManifest};
use bundle::{RecipientPublic, RecipientSecret, Scope};
use ids::{Digest, FileName, Generation};
use online::freshen;
use repository::keyring;
use tuf::{MetadataLimits, Refresh, RefreshStep, Search, SearchStep, Trusted};

const DAY: Duration = Duration::from_secs(86_400);

/// A sample fleet whose one site is enrolled.
struct Enrolled {
    sample: Sample,
    site: SiteId,
    fleet: ids::FleetId,
    key: RecipientSecret,
}

fn enrolled() -> Enrolled {
    let sample = sample();
    let (fleet, _) = lint::read(&sample.layout);
    let inventory = fleet.unwrap().inventory;
    Enrolled {
        site: inventory.sites["sample-office"].id.clone(),
        fleet: inventory.fleet.id,
        key: RecipientSecret::generate(),
        sample,
    }
}

impl Enrolled {
    fn recipients(&self) -> BTreeMap<SiteId, Vec<RecipientPublic>> {
        BTreeMap::from([(self.site.clone(), vec![self.key.public()])])
    }

    fn try_publish(&self, now: UnixTime) -> anyhow::Result<Summary> {
        publish_to(&self.sample.layout, &self.recipients(), &PublishOptions { sites: None, now }, &mut Silent)
    }

    /// With every site looked at, whatever the ledger says.
    fn try_publish_thoroughly(&self, now: UnixTime) -> anyhow::Result<Summary> {
        let options = PublishOptions { sites: Some(vec!["sample-office".to_owned()]), now };
        publish_to(&self.sample.layout, &self.recipients(), &options, &mut Silent)
    }

    fn publish(&self, now: UnixTime) -> Outcome {
        self.try_publish(now).unwrap().sites[0].outcome
    }

    fn plan(&self) -> plan::Plan {
        plan::plan_for(&self.sample.layout, &|_| true, None, &mut Silent).unwrap()
    }

    /// Goes the way of a site: pinned root, metadata, manifest, parts, each read from the published tree.
    fn fetch(&self, now: UnixTime) -> Opened {
        let layout = &self.sample.layout;
        let root = fs::read(layout.signed().join("1.root.json")).unwrap();
        let trusted = refresh_from(&layout.site_metadata(&self.site), &root, now).unwrap();
        let digest = trusted.target(MANIFEST_TARGET).unwrap().hashes.sha256.unwrap();
        let sealed = fs::read(layout.site_targets(&self.site).join(format!("{digest}.manifest"))).unwrap();
        OpenedManifest::open(&trusted, &sealed, &self.key, &self.fleet, &self.site)
            .unwrap()
            .complete(&trusted, &mut |part| fs::read(layout.object(&part.digest)).map_err(|error| error.to_string()))
            .unwrap()
    }
}

fn refresh_from(metadata: &Path, root: &[u8], now: UnixTime) -> Result<Trusted, tuf::TrustError> {
    let mut refresh = Refresh::start(Trusted::pin(root)?, MetadataLimits::default(), now);
    while let RefreshStep::Fetch(ask) = refresh.step() {
        match fs::read(metadata.join(&ask.path)) {
            Ok(bytes) => refresh.received(&bytes)?,
            Err(_) => refresh.missing()?,
        }
    }
    // Every image has a path like this, and none has this one: the firmware list is fetched.
    let mut search = Search::start(refresh.trusted().clone(), "firmware/", MetadataLimits::default(), now)?;
    while let SearchStep::Fetch(ask) = search.step() {
        match fs::read(metadata.join(&ask.path)) {
            Ok(bytes) => search.received(&bytes)?,
            Err(_) => search.missing()?,
        }
    }
    Ok(search.trusted().clone())
}

/// Every file below a directory with its content.
fn tree_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().display().to_string(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn an_enrolled_site_opens_what_was_published() {
    let fleet = enrolled();
    assert_eq!(fleet.publish(NOW), Outcome::Published { generation: Generation(1), files: 6 });
    let release = fleet.fetch(NOW);
    let catalog = release.catalog();
    let name: FileName = "sep001b54000001.CNF.xml".parse().unwrap();
    let entry = catalog.file(&name).unwrap();
    assert_eq!(entry.scope, Scope::Device("001b54000001".parse().unwrap()));
    let sealed = fs::read(fleet.sample.layout.object(&entry.blob.digest)).unwrap();
    let clear = bundle::object::open(&entry.blob, &sealed, 1 << 20).unwrap();
    assert_eq!(Digest::of(&clear), entry.sha256);
    assert!(String::from_utf8(clear).unwrap().contains("<authName>101</authName>"));
    assert_eq!(catalog.phones().count(), 3);
    assert_eq!(catalog.phones().next().unwrap().label, "Workshop");
    assert_eq!(release.manifest().settings.poll_seconds, Some(300));
    for object in release.objects() {
        assert!(fleet.sample.layout.object(&object.digest).is_file());
    }
}

#[test]
fn an_image_reaches_a_site_that_asks_for_it_in_the_firmware_catalogue() {
    let fleet = enrolled();
    let bytes = images::tests::bundle("lineside-arm64", "2.0");
    let file = fleet.sample.layout.dir().join("build.raucb");
    fs::write(&file, &bytes).unwrap();
    assert_eq!(images::add(&fleet.sample.layout, &file).unwrap(), "lineside-arm64_2.0");
    fleet.publish(NOW);
    assert!(fleet.fetch(NOW).catalog().image().is_none());

    let files = fleet.fetch(NOW).catalog().files().count();
    fleet.sample.append("sites/sample-office.toml", "\n[update]\nimage = \"lineside-arm64_2.0\"\n");
    assert!(fleet.plan().to_string().contains("+ image lineside-arm64 2.0  the appliance"), "{}", fleet.plan());
    assert!(matches!(fleet.publish(NOW), Outcome::Published { generation: Generation(2), .. }));
    let release = fleet.fetch(NOW);
    let image = release.catalog().image().unwrap();
    assert_eq!((image.compatible.as_str(), image.version.as_str()), ("lineside-arm64", "2.0"));
    let approval = image.approval.clone().unwrap();
    assert_eq!((approval.compatible.as_str(), approval.version.as_str()), ("lineside-arm64", "2.0"));
    assert!(!approval.may_go_back);
    let blob = &image.bundle.blob;
    assert!(release.objects().contains(blob));
    let sealed = fs::read(fleet.sample.layout.object(&blob.digest)).unwrap();
    assert_eq!(bundle::object::open(blob, &sealed, 1 << 20).unwrap(), bytes);
    // Nothing that a phone could ask for.
    assert_eq!(release.catalog().files().count(), files);
    assert_eq!(fleet.publish(NOW), Outcome::Unchanged(Generation(2)));

    // A file beside it has the firmware keys allow that it follows a higher version.
    let allowed = fleet.sample.layout.images().join("lineside-arm64_2.0.may-go-back");
    fs::write(&allowed, "2.1 does not find the printers' switch\n").unwrap();
    fleet.publish(NOW);
    assert!(fleet.fetch(NOW).catalog().image().unwrap().approval.as_ref().unwrap().may_go_back);
    fs::rename(&allowed, allowed.with_file_name("lineside-arm64_3.0.may-go-back")).unwrap();
    let problems = fleet.sample.problems();
    assert!(problems.len() == 1 && problems[0].ends_with("there is no image lineside-arm64_3.0"), "{problems:?}");
    fs::remove_file(allowed.with_file_name("lineside-arm64_3.0.may-go-back")).unwrap();

    fleet.sample.replace("sites/sample-office.toml", "arm64_2.0", "arm64_2.1");
    assert!(fleet.try_publish(NOW).is_err());
    let problems = fleet.sample.problems();
    assert!(problems.len() == 1 && problems[0].ends_with("there is no image `lineside-arm64_2.1`"), "{problems:?}");
}

#[test]
fn publishing_again_changes_no_byte_and_no_generation() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let before = tree_of(&fleet.sample.layout.public());
    assert_eq!(fleet.publish(NOW.plus(DAY)), Outcome::Unchanged(Generation(1)));
    assert_eq!(tree_of(&fleet.sample.layout.public()), before);
}

#[test]
fn the_same_directory_and_time_give_the_same_bytes() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let first = tree_of(&fleet.sample.layout.public());
    fs::remove_dir_all(fleet.sample.layout.public()).unwrap();
    for numbers in [fleet.sample.layout.database(), fleet.sample.layout.ledger()] {
        fs::remove_file(numbers).unwrap();
    }
    fleet.publish(NOW);
    assert_eq!(tree_of(&fleet.sample.layout.public()), first);
}

#[test]
fn a_lost_tree_is_rebuilt_with_versions_that_sites_accept() {
    let fleet = enrolled();
    fleet.publish(NOW);
    fleet.sample.replace("phones.csv", "Reception", "Front desk");
    fleet.publish(NOW);
    let layout = &fleet.sample.layout;
    let root = fs::read(layout.signed().join("1.root.json")).unwrap();
    let trusted = refresh_from(&layout.site_metadata(&fleet.site), &root, NOW).unwrap();
    fs::remove_dir_all(layout.public()).unwrap();
    assert!(matches!(fleet.publish(NOW), Outcome::Published { generation: Generation(3), .. }));
    let mut refresh = Refresh::start(trusted, MetadataLimits::default(), NOW);
    while let RefreshStep::Fetch(ask) = refresh.step() {
        match fs::read(layout.site_metadata(&fleet.site).join(&ask.path)) {
            Ok(bytes) => refresh.received(&bytes).unwrap(),
            Err(_) => refresh.missing().unwrap(),
        }
    }
    assert_eq!(refresh.trusted().targets().unwrap().version, 3);
}

#[test]
fn one_changed_phone_changes_its_file_and_one_shard() {
    let fleet = enrolled();
    let more: String = (0x10..0xf0)
        .map(|n| format!("00:04:f2:00:01:{n:02x},sample-office,polycom,Desk {n},{n},Desk {n},{n},secret:sip-103\n"))
        .collect();
    fleet.sample.append("phones.csv", &more);
    fleet.publish(NOW);
    let before = fleet.fetch(NOW);
    fleet.sample.replace("phones.csv", "Desk 20,20,Desk 20,", "Desk 20,20,Joan,");
    let summary = fleet.try_publish(NOW.plus(DAY)).unwrap();
    assert!(matches!(summary.sites[0].outcome, Outcome::Published { generation: Generation(2), .. }));
    // The file and its shard.
    assert_eq!(summary.new_objects, 2);
    let after = fleet.fetch(NOW.plus(DAY));
    let digests =
        |release: &Opened| -> BTreeSet<Digest> { release.manifest().shards.iter().map(|s| s.digest).collect() };
    assert_eq!(digests(&after).difference(&digests(&before)).count(), 1);
    assert_eq!(after.manifest().shards.len(), 32);
    assert_eq!(after.manifest().inventory, before.manifest().inventory);
}

#[test]
fn a_plan_names_the_phones_by_their_labels() {
    let fleet = enrolled();
    assert!(fleet.plan().to_string().starts_with("sample-office: 9 changes, generation 1\n"));
    fleet.publish(NOW);
    assert_eq!(fleet.plan().to_string(), "nothing to publish");
    fleet
        .sample
        .replace("phones.csv", "Meeting room,102,Meeting room,102", "Meeting room,112,Meeting room,102")
        .replace("phones.csv", "00:04:f2:00:00:03,", "# 00:04:f2:00:00:03,")
        .replace("sites/sample-office.toml", "[dhcp]", "[dhcp]\nmode = \"shadow\"")
        .write("files/tone.wav", "beep");
    assert_eq!(
        fleet.plan().to_string(),
        "sample-office: 8 changes, generation 2
  ~ [dhcp]                   the appliance
  - phone 00:04:f2:00:00:03  Workshop, polycom
  ~ SEP001B54000002.cnf.xml  Meeting room
  + tone.wav                 all phones
  - 000000000000.cfg         all phones
  - 0004f2000003-line.cfg    Workshop
  - 0004f2000003.cfg         Workshop
  - polycom-common.cfg       all phones
1 site to change"
    );
    assert!(fleet.plan().sites[0].changes.iter().any(|change| change.kind == ChangeKind::Removed));
}

#[test]
fn a_changed_recipient_makes_a_new_generation() {
    let mut fleet = enrolled();
    fleet.publish(NOW);
    fleet.key = RecipientSecret::generate();
    assert!(matches!(fleet.publish(NOW), Outcome::Published { generation: Generation(2), .. }));
    assert_eq!(fleet.fetch(NOW).generation(), Generation(2));
}

#[test]
fn a_site_without_an_appliance_waits() {
    let fleet = enrolled();
    let options = PublishOptions { sites: None, now: NOW };
    let summary = publish_to(&fleet.sample.layout, &BTreeMap::new(), &options, &mut Silent).unwrap();
    assert_eq!(summary.sites[0].outcome, Outcome::WaitingForEnrolment);
    assert_eq!(
        summary.to_string(),
        "sample-office  waiting     for enrolment; lineside-hq site enroll sample-office\n0 new objects, 0 bytes"
    );
    assert!(!fleet.sample.layout.site_metadata(&fleet.site).exists());
}

#[test]
fn problems_stop_a_publish_before_it_begins() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let before = tree_of(&fleet.sample.layout.public());
    fleet.sample.replace("phones.csv", "cisco-9971", "cisco-9999");
    let error = fleet.try_publish(NOW).unwrap_err();
    assert_eq!(error.downcast_ref::<NotClean>().unwrap().0.problems.len(), 1);
    assert_eq!(tree_of(&fleet.sample.layout.public()), before);
}

#[test]
fn metadata_is_freshened_before_it_expires_and_keeps_the_generation() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let mut now = NOW;
    // Every ten days for eight months: no moment at which a site would find expired metadata.
    for _ in 0..24 {
        now = now.plus(10 * DAY);
        assert_eq!(fleet.fetch(now.plus(4 * DAY)).generation(), Generation(1));
        let outcome = fleet.publish(now);
        assert!(
            matches!(outcome, Outcome::Refreshed(Generation(1)) | Outcome::Unchanged(Generation(1))),
            "{outcome:?}"
        );
    }
    // Within the last quarter of their year the targets are signed again, as a new release.
    assert!(matches!(fleet.publish(NOW.plus(300 * DAY)), Outcome::Published { generation: Generation(2), .. }));
    fleet.fetch(NOW.plus(329 * DAY));
}

#[test]
fn the_online_key_alone_keeps_sites_from_expiry() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let online = fleet.sample.layout.online();
    assert_eq!(freshen::refresh(&online, NOW.plus(DAY)).unwrap(), 0);
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(&online, elsewhere.path().join("online")).unwrap();
    assert_eq!(freshen::refresh(&elsewhere.path().join("online"), NOW.plus(80 * DAY)).unwrap(), 1);
    fs::rename(elsewhere.path().join("online"), &online).unwrap();
    assert_eq!(fleet.fetch(NOW.plus(100 * DAY)).generation(), Generation(1));
}

#[test]
fn firmware_is_signed_when_it_changes_and_served_to_its_model() {
    let fleet = enrolled();
    fleet
        .sample
        .write("firmware/cisco-9971/sip9971.loads", "kern.sebn\n")
        .write("firmware/cisco-9971/kern.sebn", vec![7; 3 << 20]);
    fleet.sample.replace("templates/cisco-9971/model.toml", "firmware = []", "firmware = [\"sip9971.loads\"]");
    fleet.publish(NOW);
    let release = fleet.fetch(NOW);
    let kernel = release.catalog().file(&"kern.sebn".parse().unwrap()).unwrap().clone();
    assert_eq!(kernel.scope, Scope::Model("cisco-9971".to_owned()));
    assert_eq!(kernel.blob.clear_bytes, 3 << 20);

    // Without the firmware keys other things can be published, but no other firmware.
    for number in 1..=2 {
        fs::remove_file(fleet.sample.layout.key(&format!("firmware-{number}"))).unwrap();
    }
    fleet.sample.replace("phones.csv", "Reception", "Front desk");
    assert!(matches!(fleet.publish(NOW), Outcome::Published { generation: Generation(2), .. }));
    fleet.sample.write("firmware/cisco-9971/kern.sebn", "new");
    let error = format!("{:#}", fleet.try_publish(NOW).unwrap_err());
    assert!(error.contains("needs 2 signatures and has 1"), "{error}");
}

#[test]
fn a_large_file_for_everyone_is_signed_for_like_firmware() {
    let fleet = enrolled();
    let bytes = usize::try_from(bundle::limits::MAX_UNLISTED_FILE_BYTES).unwrap() + 1;
    fleet.sample.write("files/big.tar", vec![1; bytes]);
    fleet.publish(NOW);
    assert!(fleet.fetch(NOW).catalog().file(&"big.tar".parse().unwrap()).is_some());
}

#[test]
fn nothing_published_tells_phones_models_or_names() {
    let fleet = enrolled();
    fleet.publish(NOW);
    for (name, bytes) in tree_of(&fleet.sample.layout.public()) {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        for word in ["001b54", "1b:54", "cisco", "polycom", "sample-office", "reception", "sip.example.net"] {
            assert!(!text.contains(word) && !name.to_lowercase().contains(word), "{name} holds {word}");
        }
    }
}

#[test]
fn a_tampered_tree_is_not_built_upon() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let path = fleet.sample.layout.site_metadata(&fleet.site).join("1.targets.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"version\":1", "\"version\":2");
    fs::write(&path, text).unwrap();
    let error = format!("{:#}", fleet.try_publish_thoroughly(NOW).unwrap_err());
    assert!(error.contains("does not verify"), "{error}");
    // Nor when something changed, or the tree is not as it was left.
    fleet.sample.replace("phones.csv", "Reception", "Front desk");
    let error = format!("{:#}", fleet.try_publish(NOW).unwrap_err());
    assert!(error.contains("does not verify"), "{error}");
}

#[test]
fn two_who_publish_at_once_make_one_release_after_the_other() {
    let fleet = enrolled();
    let (recipients, layout) = (fleet.recipients(), &fleet.sample.layout);
    let go = || publish_to(layout, &recipients, &PublishOptions { sites: None, now: NOW }, &mut Silent).unwrap();
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(go)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().sites[0].outcome).collect()
    });
    assert!(outcomes.contains(&Outcome::Unchanged(Generation(1))), "{outcomes:?}");
    assert_eq!(fleet.fetch(NOW).generation(), Generation(1));
}

#[test]
fn a_torn_object_is_written_again() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let object = fleet.fetch(NOW).objects()[0].clone();
    let path = fleet.sample.layout.object(&object.digest);
    fs::write(&path, "").unwrap();
    fleet.try_publish_thoroughly(NOW).unwrap();
    assert_eq!(Digest::of(&fs::read(&path).unwrap()), object.digest);
}

#[test]
fn what_did_not_change_is_not_looked_at_and_what_did_is() {
    let fleet = enrolled();
    let sample = &fleet.sample;
    assert!(matches!(fleet.publish(NOW), Outcome::Published { generation: Generation(1), .. }));
    // Nobody can look at a site whose objects' folder cannot be read; nobody has to.
    let metadata = sample.layout.site_metadata(&fleet.site).join("1.targets.json");
    let sound = fs::read(&metadata).unwrap();
    fs::write(&metadata, "damaged").unwrap();
    assert_eq!(fleet.publish(NOW), Outcome::Unchanged(Generation(1)));
    fs::write(&metadata, sound).unwrap();

    type Act<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let acts: [Act<'_>; 6] = [
        (
            "a phone",
            Box::new(|| {
                sample.replace("phones.csv", "Reception", "Front desk");
            }),
        ),
        (
            "the site",
            Box::new(|| {
                sample.append("sites/sample-office.toml", "proxy = \"a.example.net\"\n");
            }),
        ),
        (
            "the fleet",
            Box::new(|| {
                sample.replace("fleet.toml", "sip_port = 5060", "sip_port = 5070");
            }),
        ),
        (
            "a template",
            Box::new(|| {
                sample.replace("templates/polycom/mac.cfg.j2", "<?xml", "<?xml ");
            }),
        ),
        (
            "a file",
            Box::new(|| {
                sample.write("files/ring.raw", "ring");
            }),
        ),
        (
            "a secret",
            Box::new(|| {
                let mut values = crate::secrets::read(&sample.layout).unwrap();
                values.insert("sip-101".to_owned(), zeroize::Zeroizing::new("another".to_owned()));
                crate::secrets::write(&sample.layout, &values).unwrap();
            }),
        ),
    ];
    for (number, (what, act)) in (2..).zip(acts) {
        act();
        let outcome = fleet.publish(NOW);
        let published = matches!(outcome, Outcome::Published { generation: Generation(n), .. } if n == number);
        assert!(published, "{what} changed: {outcome:?}");
        assert_eq!(fleet.publish(NOW), Outcome::Unchanged(Generation(number)), "after {what}");
    }
}

#[test]
fn a_lost_ledger_costs_work_and_nothing_else() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let tree = tree_of(&fleet.sample.layout.public());
    fs::remove_file(fleet.sample.layout.ledger()).unwrap();
    assert_eq!(fleet.publish(NOW), Outcome::Unchanged(Generation(1)));
    assert_eq!(tree_of(&fleet.sample.layout.public()), tree);
    fs::write(fleet.sample.layout.ledger(), "nonsense").unwrap();
    assert_eq!(fleet.publish(NOW), Outcome::Unchanged(Generation(1)));
}
