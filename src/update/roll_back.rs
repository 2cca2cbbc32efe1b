//! Going back to the release before, because somebody at the site says so.
//!
//! The generation that is left is rejected first and durably, so that no poll brings it back. The site stays on the
//! older release until HQ publishes a newer one.

use super::client::{blocking, crashed};
use super::identity::{IdentityError, SiteIdentity};
use super::plan;
use super::poll_error::PollError;
use super::release::load_previous;
use super::updater::Updater;
use access::Opened;
use ids::Generation;
use store::{Store, StoreError};

/// A roll-back that was done. `Display` is the text for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolledBack {
    /// The generation that was left and is rejected.
    pub left: Generation,
    /// The generation that is served instead.
    pub to: Generation,
}

impl std::fmt::Display for RolledBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { left, to } = self;
        write!(f, "back from generation {left} to {to}; generation {left} will not be tried again, a newer one will")
    }
}

/// Why the site stays on its release.
#[derive(Debug, thiserror::Error)]
pub enum RollBackError {
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This appliance's keys cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The appliance is not enrolled, so nothing was ever served.
    #[error("this appliance is not enrolled")]
    NotEnrolled,
    /// Nothing is served yet.
    #[error("no release is active")]
    NoActive,
    /// There is no release before the active one, or it is damaged.
    #[error("there is no release before generation {0} that could be served")]
    NoPrevious(Generation),
    /// The updater could not read or write its trust state.
    #[error(transparent)]
    Poll(#[from] PollError),
}

/// Goes back while no appliance runs on this store.
pub fn roll_back(store: &Store) -> Result<RolledBack, RollBackError> {
    let identity = SiteIdentity::load(store)?.ok_or(RollBackError::NotEnrolled)?;
    let (left, previous) = candidates(store, &identity)?;
    let mut state = store.trust()?.unwrap_or_default();
    plan::reject(&mut state.rejected, left);
    plan::reject(&mut state.left_by_hand, left);
    store.save_trust(&state)?;
    store.roll_back()?;
    Ok(RolledBack { left, to: previous.generation() })
}

/// The generation to leave, and the verified release to go to.
fn candidates(store: &Store, identity: &SiteIdentity) -> Result<(Generation, Opened), RollBackError> {
    let left = store.active_generation().ok_or(RollBackError::NoActive)?;
    let previous = load_previous(store, identity).ok_or(RollBackError::NoPrevious(left))?;
    Ok((left, previous))
}

impl Updater {
    /// Goes back while this updater runs.
    pub(super) async fn roll_back(&mut self) -> Result<RolledBack, RollBackError> {
        self.trust.load(self.line.identity()).await?;
        let (store, identity) = (self.store.clone(), self.line.identity().clone());
        let (left, previous) = blocking(move || candidates(&store, &identity)).await.ok_or_else(crashed)??;
        self.trust.leave(left).await?;
        let store = self.store.clone();
        blocking(move || store.roll_back()).await.ok_or_else(crashed)??;
        let done = RolledBack { left, to: previous.generation() };
        tracing::warn!(from = %done.left, to = %done.to, "rolled back by hand");
        self.stats.count("update.rolled-back");
        self.trust.serve(Some(previous));
        // The next poll must look at everything again: a 304 would say no more than that nothing is newer.
        self.line.forget_etag();
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_which_generation_was_left_and_which_is_served() {
        let done = RolledBack { left: Generation(7), to: Generation(5) };
        let text = "back from generation 7 to 5; generation 7 will not be tried again, a newer one will";
        assert_eq!(done.to_string(), text);
    }
}
