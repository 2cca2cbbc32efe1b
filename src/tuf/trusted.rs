//! What a client trusts: verified metadata, and what it says about targets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::TrustError;
use super::metadata::{Metadata, TOP_LEVEL};
use super::schema::{DelegatedRole, Delegations, MetaFile, Root, Snapshot, Target, Targets, Timestamp};
use super::verify::{Authority, VerifiedMetadata, malformed};
use ids::UnixTime;

/// How many roles one search visits, `targets` included (§5.6.7.1).
pub const MAX_ROLES: usize = 32;

/// Verified metadata, which a client keeps between refreshes: the bytes as they were signed, and their content.
///
/// The keys of the trusted root signed every top-level file, and the keys of each delegator every delegated role. A clone is
/// cheap.
#[derive(Debug, Clone)]
pub struct Trusted {
    pub(super) root: Arc<VerifiedMetadata<Root>>,
    pub(super) timestamp: Option<Arc<VerifiedMetadata<Timestamp>>>,
    pub(super) snapshot: Option<Arc<VerifiedMetadata<Snapshot>>>,
    pub(super) targets: Option<Arc<VerifiedMetadata<Targets>>>,
    pub(super) delegated: BTreeMap<String, Arc<VerifiedMetadata<Targets>>>,
}

impl Trusted {
    /// Trust begins with a root that was pinned (§5.2): its own signatures must hold; expiry is checked later.
    pub fn pin(root: &[u8]) -> Result<Self, TrustError> {
        let root = Arc::new(VerifiedMetadata::open_root(root, None)?);
        Ok(Self { root, timestamp: None, snapshot: None, targets: None, delegated: BTreeMap::new() })
    }

    /// What was trusted before, re-verified from its bytes by the same steps but without expiry. Files are named as
    /// in [`Trusted::files`]. A file that does not hold is an error: rollback floors must not be lost silently.
    ///
    /// `targets` and delegated roles may be older than the snapshot says, as after a refresh that failed half way.
    pub fn reopen(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, TrustError> {
        let root = files.get("root.json").ok_or_else(|| missing("root"))?;
        let mut trusted = Self::pin(root)?;
        trusted.timestamp = trusted.reopen_top_level("timestamp", files)?;
        trusted.snapshot = trusted.reopen_top_level("snapshot", files)?;
        trusted.targets = trusted.reopen_top_level("targets", files)?;
        trusted.check_order()?;

        // Down the delegations, each file verified by the keys of everybody who delegates to it.
        let mut pending: Vec<Arc<VerifiedMetadata<Targets>>> = trusted.targets.iter().cloned().collect();
        while let Some(delegator) = pending.pop() {
            let Some(delegations) = &delegator.doc.delegations else { continue };
            for role in &delegations.roles {
                let Some(bytes) = files.get(&file_name(&role.name)) else { continue };
                let authority = Authority::of_delegation(delegations, role);
                match trusted.delegated.get(&role.name) {
                    Some(held) => held.check_under(&role.name, &authority)?,
                    None => {
                        let held = Arc::new(VerifiedMetadata::open(&role.name, bytes, &authority)?);
                        trusted.delegated.insert(role.name.clone(), Arc::clone(&held));
                        pending.push(held);
                    }
                }
            }
        }
        let top_level = TOP_LEVEL.into_iter().map(file_name);
        let known: BTreeSet<String> = trusted.delegated.keys().map(|role| file_name(role)).chain(top_level).collect();
        match files.keys().find(|name| !known.contains(*name)) {
            Some(name) => {
                let role = name.strip_suffix(".json").unwrap_or(name);
                Err(malformed(role, "no trusted role delegates to it".into()))
            }
            None => Ok(trusted),
        }
    }

    fn reopen_top_level<T: Metadata>(
        &self,
        role: &str,
        files: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Option<Arc<VerifiedMetadata<T>>>, TrustError> {
        let Some(bytes) = files.get(&file_name(role)) else { return Ok(None) };
        Ok(Some(Arc::new(VerifiedMetadata::open(role, bytes, &self.authority(role))?)))
    }

    /// What a refresh cannot have left behind: a snapshot that no timestamp named.
    fn check_order(&self) -> Result<(), TrustError> {
        let Some(snapshot) = &self.snapshot else { return Ok(()) };
        let named = self.snapshot_meta().ok_or_else(|| missing("timestamp"))?;
        let offered = named.version;
        if offered < snapshot.version() {
            return Err(TrustError::Rollback { role: "snapshot".into(), offered, trusted: snapshot.version() });
        }
        Ok(())
    }

    /// What is trusted under a newer root that was pinned. Nothing is forgotten that its keys vouch for, so that pinning a
    /// root lowers no version (§5.3.11).
    #[must_use]
    pub fn under(&self, pinned: &Self) -> Self {
        let mut trusted = self.clone();
        trusted.set_root(Arc::clone(&pinned.root));
        trusted
    }

    /// The trusted bytes under unversioned names: `root.json`, `timestamp.json`, `snapshot.json`, `targets.json`,
    /// `firmware.json`, as far as they are there. What is no letter, digit, `-`, `.`, `_` or `~` in a role's name is
    /// percent-encoded, so that each name is a file name.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::from([(file_name("root"), self.root.bytes.clone())]);
        files.extend(self.timestamp.iter().map(|held| (file_name("timestamp"), held.bytes.clone())));
        files.extend(self.snapshot.iter().map(|held| (file_name("snapshot"), held.bytes.clone())));
        files.extend(self.targets.iter().map(|held| (file_name("targets"), held.bytes.clone())));
        files.extend(self.delegated.iter().map(|(role, held)| (file_name(role), held.bytes.clone())));
        files
    }

    /// The root of the last refresh, or the pinned one before the first.
    pub fn root(&self) -> &Root {
        &self.root.doc
    }

    /// The trusted timestamp; `None` before the first refresh, and when a new root has revoked it (§5.3.11).
    pub fn timestamp(&self) -> Option<&Timestamp> {
        self.timestamp.as_deref().map(|held| &held.doc)
    }

    /// The trusted snapshot; `None` where the timestamp is, and until the first refresh has come to it.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref().map(|held| &held.doc)
    }

    /// The trusted top-level targets. After a refresh that failed half way they may be older than the snapshot says.
    pub fn targets(&self) -> Option<&Targets> {
        self.targets.as_deref().map(|held| &held.doc)
    }

    /// A trusted delegated role. After a refresh that failed half way it may be older than the snapshot says.
    pub fn delegated(&self, role: &str) -> Option<&Targets> {
        self.delegated.get(role).map(|held| &held.doc)
    }

    /// The target of this path, among the files that are held: top level first, then delegations in order, preorder depth
    /// first (§5.6.7). [`Search`](super::Search) fetches what is not held.
    ///
    /// Only files that the trusted snapshot names count. The search ends at a role whose file is not the one that the snapshot
    /// names: a role of lower priority must not answer in its place.
    pub fn target(&self, path: &str) -> Option<&Target> {
        let mut visited = BTreeSet::new();
        let mut pending = vec!["targets"];
        while let Some(role) = pending.pop() {
            // §5.6.7.1: each role once, and not more than so many.
            if visited.len() >= MAX_ROLES {
                return None;
            }
            if !visited.insert(role) {
                continue;
            }
            let doc = &self.current(role)?.doc;
            if let Some(target) = doc.targets.get(path) {
                return Some(target);
            }
            let mut children = Vec::new();
            for delegation in doc.delegations.iter().flat_map(|delegations| &delegations.roles) {
                if !delegation.covers(path) {
                    continue;
                }
                children.push(delegation.name.as_str());
                // §5.6.7.2.1: after it and its descendants, nobody else is asked.
                if delegation.terminating {
                    pending.clear();
                    break;
                }
            }
            pending.extend(children.into_iter().rev());
        }
        None
    }

    /// The earliest expiry among the trusted timestamp, snapshot, targets and root. A delegated role that lapses concerns
    /// only what it signs.
    pub fn expires(&self) -> UnixTime {
        let below = [
            self.timestamp.as_ref().map(|held| held.expires()),
            self.snapshot.as_ref().map(|held| held.expires()),
            self.targets.as_ref().map(|held| held.expires()),
        ];
        below.into_iter().flatten().fold(self.root.expires(), UnixTime::min)
    }

    /// The role's file, if it is the one that the snapshot names.
    pub(super) fn current(&self, role: &str) -> Option<&Arc<VerifiedMetadata<Targets>>> {
        let held = if role == "targets" { self.targets.as_ref() } else { self.delegated.get(role) }?;
        let named = self.snapshot()?.meta.get(&format!("{role}.json"))?;
        held.is(named).then_some(held)
    }

    /// Who may sign a top-level role now.
    pub(super) fn authority(&self, role: &str) -> Authority {
        Authority::of_root(&self.root.doc, role)
    }

    /// What the trusted timestamp says about the snapshot.
    pub(super) fn snapshot_meta(&self) -> Option<&MetaFile> {
        self.timestamp()?.meta.get("snapshot.json")
    }

    /// §5.3.7 and §5.3.11: trusts a new root, and drops what its keys did not sign.
    ///
    /// §5.3.11 is applied with each root, not after the last: a refresh that ends in between must not leave files
    /// that the new root does not vouch for.
    pub(super) fn set_root(&mut self, root: Arc<VerifiedMetadata<Root>>) {
        let older = std::mem::replace(&mut self.root, root);
        let rotated = ["timestamp", "snapshot"]
            .into_iter()
            .any(|role| Authority::of_root(&older.doc, role).loses_a_key_in(&self.authority(role)));
        let holds = self.still_holds("timestamp", self.timestamp.as_deref())
            && self.still_holds("snapshot", self.snapshot.as_deref());
        if rotated || !holds {
            self.timestamp = None;
            self.snapshot = None;
        }
        if !self.still_holds("targets", self.targets.as_deref()) {
            self.targets = None;
        }
        self.prune();
    }

    fn still_holds<T: Metadata>(&self, role: &str, held: Option<&VerifiedMetadata<T>>) -> bool {
        held.is_none_or(|held| held.check_under(role, &self.authority(role)).is_ok())
    }

    /// New top-level targets or a new delegated role.
    pub(super) fn set_targets(&mut self, role: &str, held: Arc<VerifiedMetadata<Targets>>) {
        if role == "targets" {
            self.targets = Some(held);
        } else {
            self.delegated.insert(role.into(), held);
        }
        self.prune();
    }

    /// Forgets the roles that delegate to `role` in a file that the snapshot no longer names: it answers nothing, and must
    /// not say who signs what is new.
    pub(super) fn drop_outdated_delegators(&mut self, role: &str) {
        let snapshot = self.snapshot.clone();
        let named = |role: &str| snapshot.as_ref()?.doc.meta.get(&format!("{role}.json"));
        self.delegated.retain(|delegator, held| {
            let mut below = held.doc.delegations.iter().flat_map(|all| &all.roles);
            !below.any(|below| below.name == role) || named(delegator).is_some_and(|meta| held.is(meta))
        });
    }

    /// Forgets delegated roles that nobody delegates to any more, or that do not hold by the keys of each delegator.
    pub(super) fn prune(&mut self) {
        loop {
            match self.reachable() {
                Ok(reachable) => return self.delegated.retain(|role, _| reachable.contains(role)),
                Err(role) => self.delegated.remove(&role),
            };
        }
    }

    /// The delegated roles that are held and reached from `targets`, or the name of one that does not hold.
    fn reachable(&self) -> Result<BTreeSet<String>, String> {
        let mut reachable = BTreeSet::new();
        let mut pending: Vec<&VerifiedMetadata<Targets>> = self.targets.as_deref().into_iter().collect();
        while let Some(delegator) = pending.pop() {
            let Some(delegations) = &delegator.doc.delegations else { continue };
            for (role, held) in self.held_below(delegations) {
                let authority = Authority::of_delegation(delegations, role);
                held.check_under(&role.name, &authority).map_err(|_| role.name.clone())?;
                if reachable.insert(role.name.clone()) {
                    pending.push(held);
                }
            }
        }
        Ok(reachable)
    }

    fn held_below<'a>(
        &'a self,
        delegations: &'a Delegations,
    ) -> impl Iterator<Item = (&'a DelegatedRole, &'a VerifiedMetadata<Targets>)> {
        delegations.roles.iter().filter_map(|role| Some((role, self.delegated.get(&role.name)?.as_ref())))
    }
}

/// The name of a role's file without a version (§3.1.2), safe in a URL and as a file name.
pub(super) fn file_name(role: &str) -> String {
    let mut name = String::with_capacity(role.len() + 5);
    for byte in role.bytes() {
        // RFC 3986 §2.3.
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name + ".json"
}

pub(super) fn missing(role: &str) -> TrustError {
    TrustError::Missing { role: role.into() }
}
