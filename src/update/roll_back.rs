//! Going back to the release before, because somebody at the site says so.
//!
//! The generation that is left is rejected first and durably, so that no poll brings it back; HQ ends this by
//! publishing a newer one.

use super::client::{blocking, crashed};
use super::identity::{Identity, IdentityError};
use super::plan;
use super::poll::PollError;
use super::release::load_previous;
use super::service::Updater;
use access::Opened;
use ids::Generation;
use store::{Store, StoreError};

/// Why the site stays on its release.
#[derive(Debug, thiserror::Error)]
pub enum RollBackError {
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This appliance's keys cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Not enrolled, so nothing was ever served.
    #[error("this appliance is not enrolled")]
    NotEnrolled,
    /// Nothing is served yet.
    #[error("no release is active")]
    NoActive,
    /// There is none before, or it is damaged.
    #[error("there is no release before generation {0} that could be served")]
    NoPrevious(Generation),
    /// The updater's own state could not be read.
    #[error(transparent)]
    Poll(#[from] PollError),
}

/// Goes back while no appliance runs on this store. Returns what was done, for people.
pub fn roll_back(store: &Store) -> Result<String, RollBackError> {
    let identity = Identity::load(store)?.ok_or(RollBackError::NotEnrolled)?;
    let (left, previous) = candidates(store, &identity)?;
    let mut state = store.trust()?.unwrap_or_default();
    plan::reject(&mut state.rejected, left);
    store.save_trust(&state)?;
    store.roll_back()?;
    Ok(done(left, previous.generation()))
}

/// The generation to leave, and the verified release to go to.
fn candidates(store: &Store, identity: &Identity) -> Result<(Generation, Opened), RollBackError> {
    let left = store.active_generation().ok_or(RollBackError::NoActive)?;
    let previous = load_previous(store, identity).ok_or(RollBackError::NoPrevious(left))?;
    Ok((left, previous))
}

fn done(left: Generation, to: Generation) -> String {
    format!("back from generation {left} to {to}; generation {left} will not be tried again, a newer one will")
}

impl Updater {
    /// Goes back while this updater runs. Returns what was done, for people.
    pub(super) async fn roll_back(&mut self) -> Result<String, RollBackError> {
        self.load().await?;
        let (store, identity) = (self.store.clone(), self.identity.clone());
        let (left, previous) = blocking(move || candidates(&store, &identity)).await.ok_or_else(crashed)??;
        plan::reject(&mut self.state.rejected, left);
        self.save_state().await?;
        let store = self.store.clone();
        blocking(move || store.roll_back()).await.ok_or_else(crashed)??;
        let said = done(left, previous.generation());
        tracing::warn!(from = %left, to = %previous.generation(), "rolled back by hand");
        self.stats.count("update.rolled-back");
        self.active = Some(previous);
        // The next poll must look at everything again: a 304 would say no more than that nothing is newer.
        self.etag = None;
        Ok(said)
    }
}
