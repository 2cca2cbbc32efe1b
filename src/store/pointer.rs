//! Which release is active: one small file, replaced whole.
//!
//! If the medium damages that file, the newest whole release that has been active is served. A release that was only staged
//! waits for its activation, and a rejected one is never chosen.

use serde::{Deserialize, Serialize};

use super::error::{Recovery, StoreError};
use super::releases::StoredRelease;
use super::{OpenStore, Store, checked, lock};
use durable::read_limited;
use ids::Generation;

const POINTER: &checked::FileMagic = b"LSACTIV\x01";
const MAX_POINTER_BYTES: u64 = 1024;

/// The content of the file `active`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pointer {
    pub(super) active: Option<Generation>,
    pub(super) previous: Option<Generation>,
}

impl Pointer {
    pub(super) fn names(self, generation: Generation) -> bool {
        self.active == Some(generation) || self.previous == Some(generation)
    }
}

impl Store {
    /// The generation that the pointer names, without reading the release.
    pub fn active_generation(&self) -> Option<Generation> {
        lock(&self.inner.pointer).active
    }

    /// Switches the pointer to a staged generation; the active one becomes the previous. Durable when it returns.
    pub fn activate(&self, generation: Generation) -> Result<(), StoreError> {
        let mut pointer = lock(&self.inner.pointer);
        if pointer.active == Some(generation) {
            return Ok(());
        }
        if self.inner.load_release(generation).is_none() {
            return Err(StoreError::NotStaged(generation));
        }
        self.inner.mark_activated(generation)?;
        let to = Pointer { active: Some(generation), previous: pointer.active };
        self.inner.switch(&mut pointer, to)
    }

    /// Switches back to the previous release and returns its generation. There is no previous one afterwards.
    pub fn roll_back(&self) -> Result<Generation, StoreError> {
        let mut pointer = lock(&self.inner.pointer);
        let previous = pointer.previous.ok_or(StoreError::NoPrevious)?;
        if self.inner.load_release(previous).is_none() {
            return Err(StoreError::NoPrevious);
        }
        if let Some(active) = pointer.active {
            self.inner.unmark_activated(active)?;
        }
        self.inner.switch(&mut pointer, Pointer { active: Some(previous), previous: None })?;
        Ok(previous)
    }
}

impl OpenStore {
    fn switch(&self, pointer: &mut Pointer, to: Pointer) -> Result<(), StoreError> {
        let path = self.dir.join("active");
        // Two numbers: they always become JSON.
        let body = serde_json::to_vec(&to).map_err(std::io::Error::from).map_err(StoreError::io("write", &path))?;
        self.replace(&path, &checked::emit(POINTER, 0, &body))?;
        *pointer = to;
        Ok(())
    }

    /// Switches the pointer in memory even if the disk takes no writes: otherwise nothing would be served.
    fn switch_anyway(&self, pointer: &mut Pointer, to: Pointer) {
        if let Err(error) = self.switch(pointer, to) {
            tracing::warn!(%error, "the pointer to the active release cannot be mended");
            *pointer = to;
        }
    }

    /// Reads the pointer at opening, and puts another release in the active one's place if need be.
    pub(super) fn load_pointer(&self) {
        let path = self.dir.join("active");
        // A sector that cannot be read is damage like any other.
        let bytes = read_limited(&path, MAX_POINTER_BYTES).unwrap_or_else(|error| {
            tracing::warn!(%error, "the pointer to the active release cannot be read");
            Some(Vec::new())
        });
        let parsed = bytes.as_deref().map(|bytes| {
            let (_, body) = checked::parse(POINTER, bytes)?;
            serde_json::from_slice::<Pointer>(body).ok()
        });
        let mut pointer = lock(&self.pointer);
        match parsed {
            Some(Some(there)) => {
                *pointer = there;
                if let Some(active) = there.active
                    && self.load_release(active).is_none()
                {
                    self.replace_active(&mut pointer, active);
                }
            }
            // No pointer: there was no release yet, unless one says that it was active.
            None if !self.release_numbers().into_iter().any(|number| self.was_activated(number)) => {}
            None | Some(None) => {
                let chosen = self.best_release(None);
                let recovery = chosen.map_or(Recovery::PointerLost, Recovery::PointerRebuilt);
                if chosen.is_some() {
                    self.switch_anyway(&mut pointer, Pointer { active: chosen, previous: None });
                }
                self.recovered(recovery);
            }
        }
    }

    pub(super) fn active(&self) -> Result<Option<StoredRelease>, StoreError> {
        let mut pointer = lock(&self.pointer);
        let Some(active) = pointer.active else { return Ok(None) };
        if let Some(release) = self.load_release(active) {
            return Ok(Some(release));
        }
        self.replace_active(&mut pointer, active);
        Ok(pointer.active.and_then(|instead| self.load_release(instead)))
    }

    fn replace_active(&self, pointer: &mut Pointer, damaged: Generation) {
        let previous = pointer.previous.filter(|previous| self.load_release(*previous).is_some());
        match previous.or_else(|| self.best_release(Some(damaged))) {
            Some(instead) => {
                self.switch_anyway(pointer, Pointer { active: Some(instead), previous: None });
                self.recovered(Recovery::ReleaseReplaced { damaged, instead });
            }
            // The pointer stays: the release may be readable at the next attempt.
            None => self.recovered(Recovery::ReleaseLost(damaged)),
        }
    }

    /// The newest whole release that has been active and was not rejected.
    fn best_release(&self, except: Option<Generation>) -> Option<Generation> {
        let rejected = lock(&self.trust).rejected().to_vec();
        self.release_numbers().into_iter().find(|number| {
            Some(*number) != except
                && !rejected.contains(number)
                && self.was_activated(*number)
                && self.load_release(*number).is_some()
        })
    }
}
