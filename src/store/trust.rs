//! Trust state: what must survive any power cut, twice on disk.
//!
//! Every save writes both copies, one after the other, each of them whole or not at all. So a power cut leaves the old
//! or the new state, and a medium that damages one copy costs nothing.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::error::{Recovery, StoreError};
use super::{OpenStore, Store, checked, lock};
use durable::read_limited;
use ids::{Generation, UnixTime};

const TRUST: &checked::FileMagic = b"LSTRUST\x01";

/// The largest copy: five metadata files at their limits with room to spare.
const MAX_TRUST_BYTES: u64 = 16 * 1024 * 1024;

/// Trust state: what must survive any power cut. Two checksummed copies, written in turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustState {
    /// The trusted metadata, as `tuf::Trusted::files` names it.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// The time floor: the latest time that a signed source has shown. `None` if none has been saved.
    pub time_floor: Option<UnixTime>,
    /// Generations whose self-check failed and that are not tried again.
    pub rejected: Vec<Generation>,
    /// Those of the rejected ones whose check was good: a person went back from them.
    pub left_by_hand: Vec<Generation>,
}

/// What the store knows of the two copies of the trust state.
#[derive(Debug, Default)]
pub(super) struct Copies {
    sequence: u64,
    state: Option<TrustState>,
    whole: [bool; 2],
    /// Whether there was a state and both copies of it are damaged.
    lost: bool,
}

impl Copies {
    pub(super) fn rejected(&self) -> &[Generation] {
        self.state.as_ref().map_or(&[], |state| &state.rejected)
    }
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    metadata: BTreeMap<String, String>,
    time_floor: Option<i64>,
    rejected: Vec<Generation>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left_by_hand: Vec<Generation>,
}

impl TrustState {
    fn emit(&self, sequence: u64) -> Option<Vec<u8>> {
        let on_disk = OnDisk {
            metadata: self.metadata.iter().map(|(name, bytes)| (name.clone(), BASE64.encode(bytes))).collect(),
            time_floor: self.time_floor.map(|floor| floor.0),
            rejected: self.rejected.clone(),
            left_by_hand: self.left_by_hand.clone(),
        };
        Some(checked::emit(TRUST, sequence, &serde_json::to_vec(&on_disk).ok()?))
    }

    fn parse(bytes: &[u8]) -> Option<(u64, Self)> {
        let (sequence, body) = checked::parse(TRUST, bytes)?;
        let mut on_disk: OnDisk = serde_json::from_slice(body).ok()?;
        let decode = |(name, text): (String, String)| Some((name, BASE64.decode(text.as_bytes()).ok()?));
        let metadata = std::mem::take(&mut on_disk.metadata).into_iter().map(decode).collect::<Option<_>>()?;
        let time_floor = on_disk.time_floor.map(UnixTime);
        let OnDisk { rejected, left_by_hand, .. } = on_disk;
        Some((sequence, Self { metadata, time_floor, rejected, left_by_hand }))
    }
}

impl Store {
    /// The trust state; `None` only if there never was one. If both copies are damaged, it is rebuilt from the metadata of the
    /// active release, without a time floor, and [`Store::recoveries`] says so. If there is no release either, the error is
    /// [`StoreError::TrustLost`].
    pub fn trust(&self) -> Result<Option<TrustState>, StoreError> {
        let (state, lost) = {
            let copies = lock(&self.inner.trust);
            (copies.state.clone(), copies.lost)
        };
        if state.is_some() {
            return Ok(state);
        }
        // There is a release and no trust state, so somebody deleted it. That must not lower the rollback floor.
        let Some(active) = self.inner.active()? else {
            return if lost { Err(StoreError::TrustLost) } else { Ok(None) };
        };
        let rebuilt = TrustState { metadata: active.metadata, ..TrustState::default() };
        self.save_trust(&rebuilt)?;
        self.inner.recovered(Recovery::TrustRebuilt(active.generation));
        Ok(Some(rebuilt))
    }

    /// Replaces the trust state durably. Saving what is saved already writes nothing.
    pub fn save_trust(&self, state: &TrustState) -> Result<(), StoreError> {
        let inner = &self.inner;
        let mut copies = lock(&inner.trust);
        if copies.whole == [true, true] && copies.state.as_ref() == Some(state) {
            return Ok(());
        }
        let sequence = copies.sequence.saturating_add(1);
        let too_large = || StoreError::TooLarge { what: "trust state", limit: MAX_TRUST_BYTES };
        let bytes = state.emit(sequence).ok_or_else(too_large)?;
        if bytes.len() as u64 > MAX_TRUST_BYTES {
            return Err(too_large());
        }
        // The damaged copy first: then there is always one that is whole.
        let order = if copies.whole == [true, false] { [1, 0] } else { [0, 1] };
        inner.replace(&inner.trust_path(order[0]), &bytes)?;
        *copies = Copies { sequence, state: Some(state.clone()), whole: [false, false], lost: false };
        copies.whole = [order[0] == 0, order[0] == 1];
        match inner.replace(&inner.trust_path(order[1]), &bytes) {
            Ok(()) => copies.whole = [true, true],
            // The new state is durable in one copy; the next save writes the other one first.
            Err(error) => tracing::warn!(%error, "the second copy of the trust state cannot be written"),
        }
        Ok(())
    }
}

impl OpenStore {
    fn trust_path(&self, copy: u8) -> std::path::PathBuf {
        self.dir.join(format!("trust.{copy}"))
    }

    /// Reads both copies at opening.
    pub(super) fn load_trust(&self) {
        let mut loaded = Copies::default();
        let mut damaged = Vec::new();
        for copy in 0..2u8 {
            let path = self.trust_path(copy);
            // A sector that cannot be read is damage like any other: the second copy is there for that.
            let Ok(Some(bytes)) = read_limited(&path, MAX_TRUST_BYTES).or_else(|error| {
                tracing::warn!(%error, copy, "a copy of the trust state cannot be read");
                Ok::<_, std::io::Error>(Some(Vec::new()))
            }) else {
                continue;
            };
            match TrustState::parse(&bytes) {
                Some((sequence, state)) => {
                    if let Some(whole) = loaded.whole.get_mut(usize::from(copy)) {
                        *whole = true;
                    }
                    if loaded.state.is_none() || sequence > loaded.sequence {
                        loaded.sequence = sequence;
                        loaded.state = Some(state);
                    }
                }
                None => damaged.push(copy),
            }
        }
        if loaded.state.is_some() {
            damaged.iter().for_each(|copy| self.recovered(Recovery::TrustCopyDamaged(*copy)));
        } else {
            loaded.lost = !damaged.is_empty();
        }
        *lock(&self.trust) = loaded;
    }
}
