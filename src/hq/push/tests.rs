//! Two machines in one process: a desk without the online key, and HQ's host without any other.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::*;
use crate::host::Host;
use crate::host::client::Client;
use crate::login;
use crate::progress::{Progress, Silent};
use crate::publish::{self, Outcome, PublishOptions, Summary};
use crate::testing::{Sample, sample};
use bundle::{RecipientPublic, RecipientSecret};
use online::db::Db;
use online::service::{ServeOptions, Server};
use repository::{keyring, published};

/// HQ's host: `online/` and nothing else.
struct HostMachine {
    layout: Layout,
    url: String,
    token: Zeroizing<String>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Drop for HostMachine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A desk that is logged in.
struct Desk {
    sample: Sample,
    enrolled: BTreeMap<SiteId, Vec<RecipientPublic>>,
    site: SiteId,
    key: RecipientSecret,
}

fn now() -> UnixTime {
    UnixTime::of(SystemTime::now())
}

/// What `init` made, on two machines.
fn two_machines() -> (HostMachine, Desk) {
    let sample = sample();
    let dir = tempfile::tempdir().unwrap();
    fs::rename(sample.layout.online(), dir.path().join("online")).unwrap();
    let layout = Layout::new(dir.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let local = "127.0.0.1:0".parse().unwrap();
    let server = {
        let _inside = runtime.enter();
        Server::bind(ServeOptions { dir: layout.online(), listen: local }).unwrap().operators(local).unwrap()
    };
    let url = format!("https://{}", server.operators_addr().unwrap());
    runtime.spawn(server.run(stop.clone()));
    let (token, _) = login::add_token(&layout.online(), "anna", 1, now()).unwrap();
    let host = HostMachine { layout, url, token, stop, _dir: dir, _runtime: runtime };
    let inventory = crate::lint::read(&sample.layout).0.unwrap().inventory;
    let site = inventory.sites["sample-office"].id.clone();
    let key = RecipientSecret::generate();
    let desk = Desk { enrolled: BTreeMap::from([(site.clone(), vec![key.public()])]), site, key, sample };
    desk.log_in(&host);
    (host, desk)
}

impl Desk {
    fn log_in(&self, host: &HostMachine) {
        let inventory = crate::lint::read(&self.sample.layout).0.unwrap().inventory;
        login::login(&self.sample.layout, &inventory, &host.url, &host.token).unwrap();
    }

    /// A colleague's desk: the same checkout and keys, logged in.
    fn colleague(&self, host: &HostMachine) -> Self {
        let other = sample();
        fs::remove_dir_all(other.layout.dir()).unwrap();
        copy(self.sample.layout.dir(), other.layout.dir());
        let desk = Self {
            sample: other,
            enrolled: self.enrolled.clone(),
            site: self.site.clone(),
            key: RecipientSecret::from_bytes(*self.key.as_bytes()),
        };
        desk.log_in(host);
        desk
    }

    fn pull(&self) {
        Host::of(&self.sample.layout).unwrap().pull(&self.sample.layout).unwrap();
    }

    fn publish(&self) -> Summary {
        let options = PublishOptions { sites: None, now: now() };
        publish::publish_to(&self.sample.layout, &self.enrolled, &options, &mut Silent).unwrap()
    }

    fn change(&self, text: &str) {
        self.sample.replace("templates/cisco-8941/SEP.cnf.xml.j2", "</device>", &format!("<!-- {text} --></device>"));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

fn generation(layout: &Layout, site: &SiteId) -> Option<u64> {
    published::read(layout, site).unwrap().map(|release| release.generation().0)
}

#[test]
fn a_desk_without_the_online_key_publishes_and_the_host_signs() {
    let (host, desk) = two_machines();
    assert!(!desk.sample.layout.online_key().exists() && !host.layout.keys().exists());
    let summary = desk.publish();
    assert!(matches!(summary.sites[0].outcome, Outcome::Published { generation: Generation(1), .. }), "{summary}");
    let release = published::read(&host.layout, &desk.site).unwrap().unwrap();
    let opened =
        release.open(&host.layout, &crate::lint::read(&desk.sample.layout).0.unwrap().inventory.fleet.id, &desk.key);
    assert_eq!(opened.unwrap().catalog().phones().count(), 3);
    // Both have the same tree, so that the next run compares with what sites have.
    let names = |layout: &Layout| -> BTreeSet<PathBuf> {
        files(&layout.public_sites())
            .iter()
            .map(|path| path.strip_prefix(layout.public()).unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&host.layout), names(&desk.sample.layout));
    assert_eq!(files(&host.layout.online().join("incoming")), <[PathBuf; 0]>::default());
    assert!(matches!(desk.publish().sites[0].outcome, Outcome::Unchanged(Generation(1))));

    desk.change("second");
    desk.pull();
    assert!(matches!(desk.publish().sites[0].outcome, Outcome::Published { generation: Generation(2), .. }));
    assert_eq!(generation(&host.layout, &desk.site), Some(2));
    let rows = Host::of(&desk.sample.layout).unwrap().rows(&[], now()).unwrap();
    assert_eq!((rows[0].name.as_str(), rows[0].published), ("sample-office", Generation(2)));
    let note = &Db::open_existing(&host.layout.database()).unwrap().pushed().unwrap()[0];
    assert_eq!((note.operator.as_str(), note.generation), ("anna", Generation(2)));
}

#[test]
fn another_desk_plans_and_publishes_from_what_the_host_has() {
    let (host, desk) = two_machines();
    desk.publish();
    let other = desk.colleague(&host);
    fs::remove_dir_all(other.sample.layout.public()).unwrap();
    other.pull();
    let plan = crate::plan::plan_for(&other.sample.layout, &|_| true, None, &mut Silent).unwrap();
    assert!(plan.is_empty(), "{plan}");
    other.change("theirs");
    assert!(matches!(other.publish().sites[0].outcome, Outcome::Published { generation: Generation(2), .. }));
    assert_eq!(generation(&host.layout, &desk.site), Some(2));
}

#[test]
fn who_publishes_after_somebody_else_is_refused_until_he_has_pulled() {
    let (host, desk) = two_machines();
    desk.publish();
    let other = desk.colleague(&host);
    other.pull();
    desk.change("first");
    desk.publish();
    other.change("second");
    let summary = other.publish();
    assert!(summary.to_string().contains("somebody published meanwhile"), "{summary}");
    assert_eq!(generation(&host.layout, &desk.site), Some(2));
    other.pull();
    assert!(matches!(other.publish().sites[0].outcome, Outcome::Published { generation: Generation(3), .. }));
}

/// A list for this site as a desk would send it, signed by any key.
fn request(desk: &Desk, key: &SigningKey, generation: u64, object: &[u8]) -> PushRequest {
    let root = fs::read_to_string(desk.sample.layout.signed().join("1.root.json")).unwrap();
    let file = FileRef::of(object);
    let release = PushedRelease {
        generation: Generation(generation),
        replaces: None,
        targets: file,
        manifest: file,
        objects: vec![0],
    };
    let list = PushList {
        kind: KIND.to_owned(),
        fleet: crate::lint::read(&desk.sample.layout).0.unwrap().inventory.fleet.id,
        created: now(),
        commit: None,
        roots: vec![Digest::of(root.as_bytes())],
        firmware: (1, file),
        objects: vec![file],
        sites: BTreeMap::from([(desk.site.clone(), PushedSite { name: "x".to_owned(), release: Some(release) })]),
    };
    PushRequest { roots: vec![root], list: String::from_utf8(sign::sign(&list, &[key])).unwrap() }
}

fn client(host: &HostMachine) -> Client {
    let (token, ca) = host.token.split_once('.').unwrap();
    let token = Zeroizing::new(token.to_owned());
    Client::new(&host.url, "hq.example.net", ca.parse().unwrap(), token).unwrap()
}

#[test]
fn a_stolen_api_token_uploads_no_byte() {
    let (host, desk) = two_machines();
    desk.publish();
    let (thief, bytes) = (client(&host), b"anything".as_slice());
    let online = keyring::load_signing(&host.layout.online_key()).unwrap();
    for key in [&online, &SigningKey::generate()] {
        let error = thief.post::<PushAnswer>("/push", &request(&desk, key, 9, bytes)).unwrap_err();
        assert!(error.to_string().contains("not signed by the release key"), "{error}");
    }
    // Without a list that names it, no file is taken, under no name.
    let put = |list: &Digest| thief.put(&format!("/push/{list}/{}?from=0", Digest::of(bytes)), bytes.into()).unwrap();
    assert_eq!(put(&Digest::of(b"no list")).status, StatusCode::UNPROCESSABLE_ENTITY);
    // An old list is signed, and opens nothing.
    let release = keyring::load_signing(&desk.sample.layout.key("release")).unwrap();
    for generation in [1, 9] {
        // Neither an old number, nor a release that was made beside the one that is published.
        let answer: PushAnswer = thief.post("/push", &request(&desk, &release, generation, bytes)).unwrap();
        assert!(answer.lacks.is_empty() && answer.refused.len() == 1, "{answer:?}");
        assert_eq!(put(&answer.id).status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    assert_eq!(files(&host.layout.online().join("incoming")), <[PathBuf; 0]>::default());
}

#[test]
fn what_the_list_does_not_name_and_what_is_not_its_digest_is_thrown_away() {
    let (host, desk) = two_machines();
    let release = keyring::load_signing(&desk.sample.layout.key("release")).unwrap();
    let (client, bytes) = (client(&host), b"sealed object".as_slice());
    let answer: PushAnswer = client.post("/push", &request(&desk, &release, 1, bytes)).unwrap();
    let put = |file: &Digest, from: u64, bytes: &'static [u8]| {
        client.put(&format!("/push/{}/{file}?from={from}", answer.id), Bytes::from_static(bytes)).unwrap().status
    };
    let named = Digest::of(bytes);
    assert_eq!(put(&Digest::of(b"other"), 0, b"other"), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(put(&named, 0, b"SEALED OBJECT"), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(put(&named, 0, b"sealed object and more than was signed"), StatusCode::CONFLICT);
    assert_eq!(put(&named, 0, b"sealed"), StatusCode::OK);
    // What broke off goes on behind what is there, and nowhere else.
    assert_eq!(put(&named, 0, b"sealed"), StatusCode::CONFLICT);
    let again: PushAnswer = client.post("/push", &request(&desk, &release, 1, bytes)).unwrap();
    assert_eq!(again.lacks.iter().map(|file| file.have).collect::<Vec<_>>(), [6]);
    let early = client.post::<BTreeMap<SiteId, SitePushed>>(&format!("/push/{}/release", answer.id), &());
    assert!(early.unwrap_err().to_string().contains("have not arrived"));
    assert_eq!(put(&named, 6, b" object"), StatusCode::OK);
    // All has arrived, and it is no release: the site's client says so, and nothing is visible.
    let outcomes: BTreeMap<SiteId, SitePushed> = client.post(&format!("/push/{}/release", answer.id), &()).unwrap();
    assert!(matches!(&outcomes[&desk.site], SitePushed::Refused(_)), "{outcomes:?}");
    assert_eq!(generation(&host.layout, &desk.site), None);
}

/// The host goes as soon as the desk begins to make releases.
struct Breaks<'a>(&'a CancellationToken);

impl Progress for Breaks<'_> {
    fn stage(&mut self, _what: &str, _steps: u64) {
        self.0.cancel();
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    fn step(&mut self, _what: &str) {}
    fn done(&mut self) {}
}

#[test]
fn a_push_that_broke_off_shows_nothing_and_the_next_run_goes_on() {
    let (host, desk) = two_machines();
    // The desk has made and sealed it, and the connection breaks after a part of one object.
    let layout = &desk.sample.layout;
    let options = PublishOptions { sites: None, now: now() };
    let mut breaks = Breaks(&host.stop);
    assert!(publish::publish_to(layout, &desk.enrolled, &options, &mut breaks).is_err());
    assert_eq!(generation(layout, &desk.site), None);
    let objects = files(&layout.public_objects());
    assert!(objects.len() > 3);
    let dir = host.layout.online().join("incoming");
    fs::create_dir_all(&dir).unwrap();
    let bytes = fs::read(&objects[0]).unwrap();
    let name = objects[0].file_name().unwrap().to_str().unwrap();
    fs::write(dir.join(format!("{name}.part")), &bytes[..bytes.len() / 2]).unwrap();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let address = host.url.strip_prefix("https://").unwrap().parse().unwrap();
    let stop = CancellationToken::new();
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = {
        let _inside = runtime.enter();
        let bind = || Server::bind(ServeOptions { dir: host.layout.online(), listen }).unwrap().operators(address);
        (0..200).find_map(|_| bind().inspect_err(|_| std::thread::sleep(std::time::Duration::from_millis(50))).ok())
    };
    runtime.spawn(server.unwrap().run(stop.clone()));
    assert!(matches!(desk.publish().sites[0].outcome, Outcome::Published { generation: Generation(1), .. }));
    assert_eq!(fs::read(host.layout.object(&name.parse().unwrap())).unwrap(), bytes);
    assert_eq!(generation(&host.layout, &desk.site), Some(1));
    stop.cancel();
}

#[test]
fn a_token_that_was_revoked_is_no_token() {
    let (host, desk) = two_machines();
    Db::open_existing(&host.layout.database()).unwrap().revoke_api_token("anna", now()).unwrap();
    let error = Host::of(&desk.sample.layout).unwrap().sites().unwrap_err();
    assert!(telemetry::explain(&error).contains("does not accept the API token"), "{error:#}");
}

#[test]
fn a_host_under_another_ca_is_not_asked() {
    let (host, _desk) = two_machines();
    let token = Zeroizing::new(host.token.split_once('.').unwrap().0.to_owned());
    let wrong = Client::new(&host.url, "hq.example.net", Digest::of(b"another CA"), token.clone()).unwrap();
    let error = wrong.get::<serde_json::Value>("/state").unwrap_err();
    assert!(telemetry::explain(&error).contains("the CA that was pinned"), "{error:#}");
    let ca = host.token.split_once('.').unwrap().1.parse().unwrap();
    let other_name = Client::new(&host.url, "evil.example.net", ca, token).unwrap();
    assert!(other_name.get::<serde_json::Value>("/state").is_err());
}
