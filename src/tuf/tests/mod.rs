//! The client against repositories in memory, honest and hostile.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::schema::{
    DelegatedRole, Delegations, FIRMWARE, MetaFile, RoleKeys, Root, Snapshot, Target, Targets, Timestamp,
};
use super::*;
use ids::{Digest, UnixTime};

mod delegations;
mod foreign;
mod formats;
mod garbage;
mod online;
mod refresh;
mod root;
mod signing;

const NOW: UnixTime = UnixTime(1_800_000_000);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn days(count: u32) -> UnixTime {
    NOW.plus(DAY * count)
}

/// The key of this name, the same each time.
fn key(name: &str) -> SigningKey {
    SigningKey::from_seed(Digest::of(name.as_bytes()).as_bytes())
}

fn role_keys(names: &[&str], threshold: u32) -> RoleKeys {
    let keyids = names.iter().map(|name| key(name).public().id()).collect();
    RoleKeys { keyids, threshold, extra: BTreeMap::new() }
}

fn delegation(role: &str, names: &[&str], threshold: u32, paths: &[&str]) -> DelegatedRole {
    DelegatedRole {
        name: role.into(),
        keyids: role_keys(names, threshold).keyids,
        threshold,
        terminating: false,
        paths: Some(paths.iter().map(|path| (*path).to_owned()).collect()),
        extra: BTreeMap::new(),
    }
}

fn empty_targets() -> Targets {
    sign::targets(1, days(90), BTreeMap::new(), None, None)
}

fn target(content: &str) -> Target {
    sign::target(content.len() as u64, Digest::of(content.as_bytes()))
}

/// A repository and its server. Tests change the documents, publish, and then change the files as an attacker would.
///
/// Root keys `r1 r2 r3`, 2 of them; firmware keys `f1 f2 f3`, 2 of them; `t`, `s` and `ts` for the others.
#[derive(Clone)]
struct Repo {
    root: Root,
    timestamp: Timestamp,
    snapshot: Snapshot,
    /// `targets` and delegated roles.
    targets: BTreeMap<String, Targets>,
    /// Who signs what at the next publication.
    signers: BTreeMap<String, Vec<&'static str>>,
    /// Whether snapshot and timestamp list lengths and hashes.
    hashes: bool,
    /// What the server has.
    files: BTreeMap<String, Vec<u8>>,
}

impl Repo {
    fn new() -> Self {
        let public = |names: &[&str]| -> Vec<PublicKey> { names.iter().map(|name| key(name).public()).collect() };
        let [root, targets, snapshot, timestamp] =
            [public(&["r1", "r2", "r3"]), public(&["t"]), public(&["s"]), public(&["ts"])];
        let top_level = sign::TopLevel {
            root: sign::Signers { keys: &root, threshold: 2 },
            targets: sign::Signers { keys: &targets, threshold: 1 },
            snapshot: sign::Signers { keys: &snapshot, threshold: 1 },
            timestamp: sign::Signers { keys: &timestamp, threshold: 1 },
        };
        let mut repo = Self {
            root: sign::root(1, days(365), top_level, Some(json!({"fleet": "acme"}))),
            timestamp: sign::timestamp(0, days(7), sign::meta_file(1, b""), None),
            snapshot: sign::snapshot(0, days(7), BTreeMap::new(), None),
            targets: BTreeMap::from([("targets".to_owned(), empty_targets()), (FIRMWARE.to_owned(), empty_targets())]),
            signers: BTreeMap::from([
                ("root".into(), vec!["r1", "r2"]),
                ("targets".into(), vec!["t"]),
                ("snapshot".into(), vec!["s"]),
                ("timestamp".into(), vec!["ts"]),
                (FIRMWARE.into(), vec!["f1", "f2"]),
            ]),
            hashes: true,
            files: BTreeMap::new(),
        };
        repo.delegate("targets", delegation(FIRMWARE, &["f1", "f2", "f3"], 2, &["firmware/*"]), &["f1", "f2", "f3"]);
        repo.of("targets").targets.insert("manifest".into(), target("manifest 1"));
        repo.of(FIRMWARE).targets.insert("firmware/a.bin".into(), target("a 1"));
        repo.write_root();
        repo.write_targets("targets");
        repo.write_targets(FIRMWARE);
        repo.publish(&[]);
        repo
    }

    fn of(&mut self, role: &str) -> &mut Targets {
        self.targets.get_mut(role).unwrap()
    }

    /// Adds a delegation and the keys it names.
    fn delegate(&mut self, delegator: &str, role: DelegatedRole, keys: &[&str]) {
        let empty = Delegations { keys: BTreeMap::new(), roles: vec![], extra: BTreeMap::new() };
        let delegations = self.of(delegator).delegations.get_or_insert(empty);
        delegations.keys.extend(keys.iter().map(|name| (key(name).public().id(), key(name).public().to_json())));
        delegations.roles.push(role);
    }

    /// A new delegated role with one key, named as the role.
    fn add_role(&mut self, delegator: &str, role: &'static str, paths: &[&str]) -> &mut Targets {
        self.delegate(delegator, delegation(role, &[role], 1, paths), &[role]);
        self.signers.insert(role.into(), vec![role]);
        self.targets.entry(role.into()).or_insert_with(empty_targets)
    }

    fn set_root_role(&mut self, role: &str, names: &[&str], threshold: u32) {
        self.root.roles.insert(role.into(), role_keys(names, threshold));
        for name in names {
            self.root.keys.insert(key(name).public().id(), key(name).public().to_json());
        }
    }

    fn signed<T: serde::Serialize>(&self, role: &str, doc: &T) -> Vec<u8> {
        let keys: Vec<SigningKey> = self.signers[role].iter().map(|name| key(name)).collect();
        sign::sign(doc, &keys.iter().collect::<Vec<_>>())
    }

    fn path(&self, version: u64, role: &str) -> String {
        if self.root.consistent_snapshot { format!("{version}.{role}.json") } else { format!("{role}.json") }
    }

    fn meta(&self, version: u64, bytes: &[u8]) -> MetaFile {
        let full = sign::meta_file(version, bytes);
        if self.hashes { full } else { MetaFile { length: None, hashes: None, ..full } }
    }

    /// Signs the root as it stands.
    fn write_root(&mut self) {
        let bytes = self.signed("root", &self.root);
        self.files.insert(format!("{}.root.json", self.root.version), bytes);
    }

    /// The next version of the root.
    fn publish_root(&mut self) {
        self.root.version += 1;
        self.write_root();
    }

    /// Signs a targets role as it stands and lists it in the snapshot to come.
    fn write_targets(&mut self, role: &str) {
        let doc = &self.targets[role];
        let (version, bytes) = (doc.version, self.signed(role, doc));
        self.snapshot.meta.insert(format!("{role}.json"), self.meta(version, &bytes));
        self.files.insert(self.path(version, role), bytes);
    }

    /// Signs the snapshot as it stands and names it in the timestamp to come.
    fn write_snapshot(&mut self) {
        let (version, bytes) = (self.snapshot.version, self.signed("snapshot", &self.snapshot));
        let meta = self.meta(version, &bytes);
        self.timestamp.meta = BTreeMap::from([("snapshot.json".to_owned(), meta)]);
        self.files.insert(self.path(version, "snapshot"), bytes);
    }

    /// Signs the timestamp as it stands.
    fn write_timestamp(&mut self) {
        let bytes = self.signed("timestamp", &self.timestamp);
        self.files.insert("timestamp.json".into(), bytes);
    }

    /// The next version of these targets roles, of the snapshot and of the timestamp.
    fn publish(&mut self, roles: &[&str]) {
        for role in roles {
            self.of(role).version += 1;
            self.write_targets(role);
        }
        self.snapshot.version += 1;
        self.write_snapshot();
        self.publish_timestamp();
    }

    /// The next version of the timestamp.
    fn publish_timestamp(&mut self) {
        self.timestamp.version += 1;
        self.write_timestamp();
    }

    /// A client that has the first root and nothing else.
    fn client(&self) -> Client {
        let trusted = Trusted::pin(&self.files["1.root.json"]).unwrap();
        Client { trusted, now: NOW, limits: MetadataLimits::default(), asked: vec![], conditional: false }
    }

    /// A client that is up to date.
    fn current_client(&self) -> Client {
        let mut client = self.client();
        assert_eq!(client.refresh(self), Ok(()));
        client
    }

    /// Changes a file on the server without signing it anew.
    fn tamper(&mut self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut file: Value = serde_json::from_slice(&self.files[path]).unwrap();
        change(&mut file);
        self.files.insert(path.into(), serde_json::to_vec(&file).unwrap());
    }
}

/// What a site does at a poll.
struct Client {
    trusted: Trusted,
    now: UnixTime,
    limits: MetadataLimits,
    /// What the last refresh asked for.
    asked: Vec<String>,
    /// Whether the server is asked for the timestamp conditionally.
    conditional: bool,
}

impl Client {
    /// A refresh, and the search for a firmware image, which fetches the role `firmware`.
    fn refresh(&mut self, repo: &Repo) -> Result<(), TrustError> {
        self.refresh_top_level(repo)?;
        self.search(repo, "firmware/a.bin").map(drop)
    }

    fn search(&mut self, repo: &Repo, path: &str) -> Result<Option<Target>, TrustError> {
        let mut search = Search::start(self.trusted.clone(), path, self.limits, self.now)?;
        let mut fetched = 0;
        let result = loop {
            let ask = match search.step() {
                SearchStep::Fetch(ask) => ask,
                SearchStep::Found(target) => break Ok(Some(target)),
                SearchStep::NotFound => break Ok(None),
            };
            self.asked.push(ask.path.clone());
            fetched += 1;
            assert!(fetched < MAX_ROLES, "a search comes to an end");
            let told = match repo.files.get(&ask.path) {
                None => search.missing(),
                Some(bytes) => search.received(bytes),
            };
            if let Err(error) = told {
                assert!(matches!(search.step(), SearchStep::Fetch(_)), "after an error it has found nothing");
                assert_eq!(search.received(b""), Err(error.clone()), "an error ends the search");
                break Err(error);
            }
        };
        self.keep(search.trusted().clone());
        result
    }

    fn refresh_top_level(&mut self, repo: &Repo) -> Result<(), TrustError> {
        let mut refresh = Refresh::start(self.trusted.clone(), self.limits, self.now);
        self.asked.clear();
        let result = loop {
            let RefreshStep::Fetch(ask) = refresh.step() else { break Ok(()) };
            self.asked.push(ask.path.clone());
            assert!(self.asked.len() < 1_000, "a refresh comes to an end");
            let have = self.trusted.files().remove("timestamp.json");
            let result = match repo.files.get(&ask.path) {
                None => refresh.missing(),
                Some(bytes) if self.conditional && ask.role == "timestamp" && have.as_ref() == Some(bytes) => {
                    refresh.unchanged()
                }
                Some(bytes) => refresh.received(bytes),
            };
            if let Err(error) = result {
                assert!(matches!(refresh.step(), RefreshStep::Fetch(_)), "after an error it is not done");
                assert_eq!(refresh.received(b""), Err(error.clone()), "an error ends the refresh");
                break Err(error);
            }
        };
        self.keep(refresh.trusted().clone());
        result
    }

    /// However a refresh or a search ended, what it left can be saved and opened again.
    fn keep(&mut self, trusted: Trusted) {
        self.trusted = Trusted::reopen(&trusted.files()).unwrap();
        assert_eq!(self.trusted.files(), trusted.files());
    }

    /// Versions of root, timestamp, snapshot, targets and firmware; 0 for what is not there.
    fn versions(&self) -> [u64; 5] {
        let trusted = &self.trusted;
        [
            trusted.root().version,
            trusted.timestamp().map_or(0, |doc| doc.version),
            trusted.snapshot().map_or(0, |doc| doc.version),
            trusted.targets().map_or(0, |doc| doc.version),
            trusted.delegated(FIRMWARE).map_or(0, |doc| doc.version),
        ]
    }

    /// Whether the target of this path is this, among the files that are held.
    fn finds(&self, path: &str, content: &str) -> bool {
        self.trusted.target(path) == Some(&target(content))
    }

    /// Whether a search finds this target, and the same among the files that are held then.
    fn fetches(&mut self, repo: &Repo, path: &str, content: &str) -> bool {
        let found = self.search(repo, path) == Ok(Some(target(content)));
        assert_eq!(found, self.finds(path, content));
        found
    }
}

fn untrusted(role: &str, valid: u32, threshold: u32) -> Result<(), TrustError> {
    Err(TrustError::Untrusted { role: role.into(), valid, threshold })
}

fn rollback(role: &str, offered: u64, trusted: u64) -> Result<(), TrustError> {
    Err(TrustError::Rollback { role: role.into(), offered, trusted })
}

fn expired(role: &str, expires: UnixTime) -> Result<(), TrustError> {
    Err(TrustError::Expired { role: role.into(), expires })
}

fn missing(role: &str) -> Result<(), TrustError> {
    Err(TrustError::Missing { role: role.into() })
}

fn mismatch(role: &str) -> Result<(), TrustError> {
    Err(TrustError::Mismatch { role: role.into() })
}

#[track_caller]
fn malformed(result: Result<(), TrustError>, wanted_role: &str, part: &str) {
    let Err(TrustError::Malformed { role, what }) = result else { panic!("{result:?}") };
    assert_eq!(role, wanted_role);
    assert!(what.contains(part), "{what}");
}
