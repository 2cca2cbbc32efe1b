//! The search for a target (specification §5.6.7), as a machine without I/O.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::client::{Ask, MetadataLimits, cap, check_cap, open_targets, versioned};
use super::error::TrustError;
use super::schema::{MetaFile, Target, Targets};
use super::trusted::{MAX_ROLES, Trusted};
use super::verify::{Authority, VerifiedMetadata};
use ids::UnixTime;

/// What the caller of a search does next.
#[derive(Debug, Clone, PartialEq)]
pub enum SearchStep {
    /// Fetch this and say [`Search::received`], or [`Search::missing`].
    Fetch(Ask),
    /// The target, as the first role in order says that is trusted for its path.
    Found(Target),
    /// No role that is trusted for the path lists it.
    NotFound,
}

/// One search, after a refresh: `targets` first, then delegations in order, preorder depth first, each role once and at
/// most [`MAX_ROLES`].
///
/// A delegated role's file is fetched if it is not the trusted one already, and only if a delegation covers the path. Its
/// expiry is checked either way.
#[derive(Debug)]
pub struct Search {
    trusted: Trusted,
    limits: MetadataLimits,
    now: UnixTime,
    path: String,
    visited: BTreeSet<String>,
    /// Roles still to be visited, the next one last.
    pending: Vec<Delegate>,
    stage: SearchStage,
    failed: Option<TrustError>,
}

#[derive(Debug)]
enum SearchStage {
    Waiting(Delegate, MetaFile),
    Over(Option<Target>),
}

/// A role to visit: the one of this place in its delegator's list.
#[derive(Debug, Clone)]
struct Delegate {
    role: String,
    delegator: Arc<VerifiedMetadata<Targets>>,
    place: usize,
}

impl Search {
    /// Looks for the target of `path` in what a refresh found current at `now`.
    ///
    /// # Errors
    ///
    /// A held role has expired, or the signed length of one is over the limit.
    pub fn start(trusted: Trusted, path: &str, limits: MetadataLimits, now: UnixTime) -> Result<Self, TrustError> {
        let top = trusted.current("targets").cloned();
        let mut search = Self {
            trusted,
            limits,
            now,
            path: path.to_owned(),
            visited: BTreeSet::from(["targets".to_owned()]),
            pending: Vec::new(),
            stage: SearchStage::Over(None),
            failed: None,
        };
        if let Some(top) = top {
            search.look(top)?;
        }
        Ok(search)
    }

    /// What the caller does next. After an error it stays the step that failed.
    pub fn step(&self) -> SearchStep {
        match &self.stage {
            SearchStage::Waiting(next, meta) => SearchStep::Fetch(Ask {
                role: next.role.clone(),
                path: versioned(&self.trusted, &next.role, meta),
                max_bytes: cap(meta, self.limits.targets_bytes),
                may_be_missing: false,
            }),
            SearchStage::Over(Some(target)) => SearchStep::Found(target.clone()),
            SearchStage::Over(None) => SearchStep::NotFound,
        }
    }

    /// Takes the bytes that were asked for.
    ///
    /// # Errors
    ///
    /// The file does not hold. The error ends the search; [`Search::trusted`] has what was verified before.
    pub fn received(&mut self, bytes: &[u8]) -> Result<(), TrustError> {
        let SearchStage::Waiting(next, meta) = &self.stage else { return Ok(()) };
        let (next, meta) = (next.clone(), meta.clone());
        self.settle(|search| {
            let max_bytes = cap(&meta, search.limits.targets_bytes);
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max_bytes {
                return Err(TrustError::TooLarge { role: next.role.clone(), limit: max_bytes });
            }
            let held = Arc::new(open_targets(&next.role, bytes, &meta, &next.authority(), search.now)?);
            search.trusted.drop_outdated_delegators(&next.role);
            search.trusted.set_targets(&next.role, Arc::clone(&held));
            search.look(held)
        })
    }

    /// The repository does not have the file that was asked for (HTTP 404 or 403).
    ///
    /// # Errors
    ///
    /// Always, while a file is asked for: the snapshot lists it.
    pub fn missing(&mut self) -> Result<(), TrustError> {
        let SearchStage::Waiting(next, _) = &self.stage else { return Ok(()) };
        let error = super::trusted::missing(&next.role);
        self.settle(|_| Err(error))
    }

    /// What is trusted now, with the delegated roles that this search fetched.
    pub const fn trusted(&self) -> &Trusted {
        &self.trusted
    }

    fn settle(&mut self, step: impl FnOnce(&mut Self) -> Result<(), TrustError>) -> Result<(), TrustError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        step(self).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Looks into one role, and goes on to the next whose file has to be fetched.
    fn look(&mut self, mut held: Arc<VerifiedMetadata<Targets>>) -> Result<(), TrustError> {
        loop {
            if let Some(target) = held.doc.targets.get(&self.path) {
                self.stage = SearchStage::Over(Some(target.clone()));
                return Ok(());
            }
            self.push_delegates(&held);
            match self.next()? {
                Some(next) => held = next,
                None => return Ok(()),
            }
        }
    }

    /// §5.6.7.2: those whom the role trusts for the path, the first one to be visited first.
    fn push_delegates(&mut self, held: &Arc<VerifiedMetadata<Targets>>) {
        let mut below = Vec::new();
        for (place, role) in held.doc.delegations.iter().flat_map(|all| &all.roles).enumerate() {
            if !role.covers(&self.path) {
                continue;
            }
            below.push(Delegate { role: role.name.clone(), delegator: Arc::clone(held), place });
            // §5.6.7.2.1: after it and its descendants, nobody else is asked.
            if role.terminating {
                self.pending.clear();
                break;
            }
        }
        self.pending.extend(below.into_iter().rev());
    }

    /// The next role that is held. `None` if the search waits for a file, or is over.
    fn next(&mut self) -> Result<Option<Arc<VerifiedMetadata<Targets>>>, TrustError> {
        self.stage = SearchStage::Over(None);
        while let Some(next) = self.pending.pop() {
            // §5.6.7.1: each role once, and not more than so many.
            if self.visited.len() >= MAX_ROLES {
                return Ok(None);
            }
            if !self.visited.insert(next.role.clone()) {
                continue;
            }
            // A role that the snapshot does not list is not trusted; one of lower priority must not answer in its place.
            let named = self.trusted.snapshot().and_then(|snapshot| snapshot.meta.get(&format!("{}.json", next.role)));
            let Some(meta) = named.cloned() else { return Ok(None) };
            let held = self.trusted.delegated.get(&next.role).filter(|held| held.is(&meta));
            if let Some(held) = held.filter(|held| held.check_under(&next.role, &next.authority()).is_ok()) {
                held.check_expiry(&next.role, self.now)?;
                return Ok(Some(Arc::clone(held)));
            }
            check_cap(&next.role, &meta, self.limits.targets_bytes)?;
            self.stage = SearchStage::Waiting(next, meta);
            return Ok(None);
        }
        Ok(None)
    }
}

impl Delegate {
    /// Who may sign the role, as its delegator says.
    fn authority(&self) -> Authority {
        let found = self.delegator.doc.delegations.as_ref().and_then(|all| Some((all, all.roles.get(self.place)?)));
        found.map_or_else(Authority::nobody, |(all, role)| Authority::of_delegation(all, role))
    }
}
