//! The renewal of the key that releases are sealed to, step by step:
//!
//! 1. A new key is made beside the one that counts, and is on the card before anybody hears of it.
//! 2. The key that counts proves to the desk that the new one follows it ([`SealingKeyStatement`]). HQ then seals to both.
//! 3. A release opens under the new key. That one counts from now on; the one before stays among the older keys until no
//!    release on the card needs it.
//! 4. The new key proves that it opened a release. HQ then seals to it alone.
//!
//! Each step follows from what is on the card, so a power cut repeats it. HQ can hold up steps 3 and 4 and do no more: it has
//! no key to make a statement with, and both keys are here until the new one has opened what was sealed to it.
//!
//! What a step said is kept and said again each hour, word for word, until a release shows that the desk heard it. If HQ
//! later seals to the key before alone, because the desk's files came back from a backup, the old proof is shown again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::identity::{self, IdentityError, SiteIdentity, damaged};
use super::release::active_names;
use access::Opened;
use api::SealingKeyStatement;
use bundle::limits::SEALING_KEY_DAYS;
use bundle::{RecipientPublic, RecipientSecret};
use ids::{Generation, UnixTime};
use store::Store;

/// What was said of the sealing keys. It holds nothing secret, and nothing is lost with it but time.
const FILE: &str = "sealing-key.toml";
/// The keys are looked at after each new release, and as often as this.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a release says about sealing keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SealingKeyTerms {
    /// The release that is served.
    pub(super) generation: Generation,
    /// To whom a new key is proven.
    desk: RecipientPublic,
    /// At which age a key is renewed.
    every: Duration,
}

impl SealingKeyTerms {
    /// The terms of this release; `None` if it wants no new keys.
    pub(super) fn of(release: &Opened) -> Option<Self> {
        let settings = &release.manifest().settings;
        let days = settings.sealing_key_days.unwrap_or(SEALING_KEY_DAYS);
        Some(Self { generation: release.generation(), desk: settings.desk_key?, every: DAY * u32::from(days) })
    }
}

/// When the keys were looked at last, and whether the newest release could be opened.
#[derive(Debug, Default)]
pub(super) struct SealingKeyWatch {
    unopened: bool,
    looked: Option<(Duration, Generation, bool)>,
}

impl SealingKeyWatch {
    /// The newest sealed manifest was opened, or not.
    pub(super) const fn opened(&mut self, opened: bool) {
        self.unopened = !opened;
    }

    /// Whether the newest sealed manifest did not open.
    pub(super) const fn unopened(&self) -> bool {
        self.unopened
    }

    /// Whether to look at the keys at this monotonic time, while this release is served.
    pub(super) fn look(&mut self, generation: Generation, now: Duration) -> bool {
        let due = self.looked.is_none_or(|(at, of, unopened)| {
            (of, unopened) != (generation, self.unopened) || now.saturating_sub(at) >= LOOK_EVERY
        });
        if due {
            self.looked = Some((now, generation, self.unopened));
        }
        due
    }
}

/// The content of [`FILE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct KeyRecord {
    /// The key that counted.
    key: RecipientPublic,
    /// Since when it counts.
    since: UnixTime,
    /// To whom it was proven last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    desk: Option<RecipientPublic>,
    /// The newest statement that one key follows another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    follows: Option<SealingKeyStatement>,
    /// The statement that a release opened under the key that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    opens: Option<SealingKeyStatement>,
}

/// What is known when it is decided what to do.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// Whether a new key waits for a release under it.
    waits: bool,
    /// Whether the key that counts followed another one, and the proof is at hand.
    followed: bool,
    /// Whether HQ seals to that other one, too.
    both: bool,
    /// Whether the newest release did not open.
    unopened: bool,
    /// How old the key that counts is.
    age: Duration,
    every: Duration,
}

/// What to do about the sealing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Make a new key, and say that it follows.
    Make,
    /// Say that the key that waits follows the one that counts.
    Announce,
    /// Say that a release opened under the key that counts.
    Confirm,
    /// Show once more how the key that counts came to follow the one before.
    Remind,
}

impl Facts {
    fn step(self) -> Step {
        match self {
            Self { waits: true, .. } => Step::Announce,
            Self { unopened: true, followed: true, .. } => Step::Remind,
            Self { both: true, .. } => Step::Confirm,
            Self { age, every, .. } if age >= every => Step::Make,
            _ => Step::Nothing,
        }
    }
}

/// Brings the keys on the card in order. Returns the identity, and what HQ should hear. Blocks on the disk.
pub(super) fn prepare(
    store: &Store,
    identity: SiteIdentity,
    terms: &SealingKeyTerms,
    now: UnixTime,
    unopened: bool,
) -> Result<(SiteIdentity, Option<SealingKeyStatement>), IdentityError> {
    let mut identity = identity.promoted(store)?.without_unneeded(store)?;
    let kept = KeyRecord::read(store);
    let mut record = KeyRecord::of(&identity, kept.as_ref(), now);
    if record.desk != Some(terms.desk) {
        (record.desk, record.opens) = (Some(terms.desk), None);
    }
    let before = record.follows.as_ref().filter(|follows| follows.to == record.key).map(|follows| follows.from);
    let step = Facts {
        waits: identity.next_recipient().is_some(),
        followed: before.is_some(),
        both: before.is_some_and(|before| active_names(store, &before)),
        unopened,
        age: now.since(record.since),
        every: terms.every,
    }
    .step();
    if step == Step::Make {
        tracing::info!("a new sealing key was made");
        identity = identity.with_next_recipient(store)?;
    }
    let whose = (identity.fleet(), identity.site());
    let same_desk = kept.as_ref().is_some_and(|kept| kept.desk == record.desk);
    // The same words again cost HQ no write, so a statement is made anew only where it would say something else.
    let prove = |said: Option<SealingKeyStatement>, to: &RecipientSecret| {
        let (from, to, generation) = (identity.recipient(), to.public(), terms.generation);
        let same = |said: &SealingKeyStatement| {
            same_desk && said.from == record.key && said.to == to && said.generation == generation
        };
        said.filter(same)
            .or_else(|| SealingKeyStatement::prove(from, &to, generation, whose, &terms.desk))
            .ok_or_else(|| damaged(FILE, "nothing can be proven to the desk's key"))
    };
    let statement = match (step, identity.next_recipient()) {
        (Step::Make | Step::Announce, Some(next)) => {
            record.follows = Some(prove(record.follows.clone(), next)?);
            record.follows.clone()
        }
        (Step::Confirm, _) => {
            record.opens = Some(prove(record.opens.clone(), identity.recipient())?);
            record.opens.clone()
        }
        (Step::Remind, _) => record.follows.clone(),
        _ => None,
    };
    if kept.as_ref() != Some(&record) {
        record.save(store)?;
    }
    Ok((identity, statement))
}

impl KeyRecord {
    /// What is on the card; `None` if there is nothing that can be read.
    fn read(store: &Store) -> Option<Self> {
        let text = identity::read(&store.identity_dir(), FILE).ok()??;
        toml::from_str(&text).ok()
    }

    /// What holds of the key that counts, by what is on the card. The age of a key of which nothing is known counts from its
    /// certificate; nothing is since a time to come.
    fn of(identity: &SiteIdentity, kept: Option<&Self>, now: UnixTime) -> Self {
        let key = identity.recipient().public();
        let follows = kept.and_then(|kept| kept.follows.clone());
        let follows = follows.filter(|follows| follows.from == key || follows.to == key);
        let since = match kept {
            Some(kept) if kept.key == key => kept.since,
            Some(_) if follows.is_some() => now,
            _ => identity.valid().0,
        };
        let opens = kept.and_then(|kept| kept.opens.clone()).filter(|opens| opens.from == key);
        Self { key, since: since.min(now), desk: kept.and_then(|kept| kept.desk), follows, opens }
    }

    fn save(&self, store: &Store) -> Result<(), IdentityError> {
        let text = toml::to_string(self).map_err(|error| damaged(FILE, error))?;
        identity::write(store, FILE, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Facts =
        Facts { waits: false, followed: false, both: false, unopened: false, age: Duration::ZERO, every: DAY };

    #[test]
    fn one_thing_is_done_at_a_time() {
        let cases = [
            (QUIET, Step::Nothing),
            (Facts { age: DAY, ..QUIET }, Step::Make),
            // No second key before the first one opened a release.
            (Facts { waits: true, age: DAY * 9, ..QUIET }, Step::Announce),
            (Facts { waits: true, unopened: true, ..QUIET }, Step::Announce),
            (Facts { followed: true, both: true, age: DAY * 9, ..QUIET }, Step::Confirm),
            (Facts { followed: true, both: true, unopened: true, ..QUIET }, Step::Remind),
            (Facts { followed: true, age: DAY, ..QUIET }, Step::Make),
            // A release for somebody else says nothing about a key that never followed another.
            (Facts { unopened: true, ..QUIET }, Step::Nothing),
        ];
        for (facts, step) in cases {
            assert_eq!(facts.step(), step, "{facts:?}");
        }
    }

    #[test]
    fn keys_are_looked_at_hourly_and_at_once_after_what_may_change_something() {
        let mut watch = SealingKeyWatch::default();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert!(watch.look(Generation(1), minutes(0)));
        assert!(!watch.look(Generation(1), minutes(59)));
        assert!(watch.look(Generation(1), minutes(60)));
        assert!(watch.look(Generation(2), minutes(61)));
        watch.opened(false);
        assert!(watch.look(Generation(2), minutes(62)));
        assert!(!watch.look(Generation(2), minutes(63)));
    }
}
