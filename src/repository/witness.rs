//! Which clock to believe before anything is signed.
//!
//! What is signed under a wrong clock outlives the mistake: sites remember the time of a release, and certificates begin
//! when they say. So `publish` and `serve` ask other clocks first. [`judge`] decides, and [`ClockRecord`] is what one run
//! leaves for the next, of both. That time has passed since a signature is known from the same clock alone, so it says
//! nothing.

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::published::numbered;
use crate::{roles, tree};
use ids::UnixTime;
use tuf::schema::{Envelope, Root, Timestamp};

/// How far a clock may be past every witness: commits and check-ins are hours old, never a day in a fleet that is at work.
pub const AHEAD: Duration = Duration::from_secs(86_400);
/// How far a clock may be behind what was signed: the clocks of two machines differ by seconds.
pub const BEHIND: Duration = Duration::from_secs(300);

/// Whose clock a witness is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WitnessKind {
    /// The desk's, when it last published.
    Desk,
    /// HQ's host's, when `serve` last agreed with a witness.
    Host,
    /// A site's that follows a time server, in a check-in.
    CheckIn,
    /// That of whoever made the newest commit of the fleet directory.
    Commit,
    /// A person's, who made the fleet or said `--clock-is-right`.
    Person,
}

/// A clock that is not the one to be judged, and what it showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness {
    /// Whose it is.
    pub kind: WitnessKind,
    /// The time that it showed.
    pub time: UnixTime,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.kind {
            WitnessKind::Desk => "the desk, when it last published",
            WitnessKind::Host => "HQ's host, when `serve` last knew the time",
            WitnessKind::CheckIn => "a site's check-in, whose clock follows a time server",
            WitnessKind::Commit => "the newest commit of the fleet directory",
            WitnessKind::Person => "a person, who made the fleet or said --clock-is-right",
        };
        write!(f, "{} ({whose})", self.time)
    }
}

/// Why nothing is signed under a clock. `Display` says which clock is believed and what would happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockDoubt {
    /// The clock is earlier than something that was signed.
    #[error(
        "this machine's clock says {now}, earlier than {signed}, when this fleet last signed something; the signature is \
         believed, and nothing is signed now. What is signed under a clock that is behind expires early at sites, and their \
         certificates end early. If the signature was made under a clock that was ahead, sites that took it refuse later \
         releases as expired, until `keys root new-version --set-time` sets them right"
    )]
    Behind {
        /// What the clock says.
        now: UnixTime,
        /// When the newest thing was signed.
        signed: UnixTime,
    },
    /// The clock is over a day past every witness.
    #[error(
        "this machine's clock says {now}, over a day past every other clock; the newest is {witness}, it is believed, and \
         nothing is signed now. A release signed under a clock that is ahead sets the time that sites remember: they would \
         refuse every later release as expired, until a new root sets them back; certificates would not be valid yet"
    )]
    Ahead {
        /// What the clock says.
        now: UnixTime,
        /// The newest of the other clocks.
        witness: Witness,
    },
    /// Nothing else says what time it is.
    #[error(
        "this machine's clock says {now}, and no other clock is known to compare it with; nothing is signed unless a person \
         says that it is right. A release signed under a clock that is ahead would make sites refuse every later one as \
         expired, until a new root sets them back"
    )]
    Alone {
        /// What the clock says.
        now: UnixTime,
    },
}

/// What to do about a doubt.
pub const HINT: &str =
    "set this machine's clock (`timedatectl`), or say --clock-is-right if it is right and the others are not";

/// Decides whether a clock that says `now` may sign, and returns the newest witness. `signed` is the time of the newest
/// signature.
///
/// # Errors
///
/// Why it may not.
pub fn judge(now: UnixTime, signed: Option<UnixTime>, witnesses: &[Witness]) -> Result<Witness, ClockDoubt> {
    if let Some(signed) = signed.filter(|signed| now.plus(BEHIND) < *signed) {
        return Err(ClockDoubt::Behind { now, signed });
    }
    let newest = witnesses.iter().max_by_key(|witness| witness.time).copied();
    match newest {
        None => Err(ClockDoubt::Alone { now }),
        Some(witness) if now > witness.time.plus(AHEAD) => Err(ClockDoubt::Ahead { now, witness }),
        Some(witness) => Ok(witness),
    }
}

/// `online/clock.toml`: the times that each signer left for the other. Each was judged when it was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ClockRecord {
    /// When the newest thing was signed that sites keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<UnixTime>,
    /// When the desk last published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desk: Option<UnixTime>,
    /// When `serve` last knew the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<UnixTime>,
    /// When a person last said that the clock is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub person: Option<UnixTime>,
}

impl ClockRecord {
    /// The record in `online/`. Without one, or with one that cannot be read, the published tree and the roots say when
    /// something was signed, and there is no witness.
    pub fn read(layout: &Layout) -> Self {
        let text = std::fs::read_to_string(layout.clock_record()).unwrap_or_default();
        match toml::from_str::<Self>(&text) {
            Ok(record) if record != Self::default() => record,
            _ => Self { signed: newest_signature(layout), ..Self::default() },
        }
    }

    /// Reads the record, changes it and writes it.
    pub fn change(layout: &Layout, change: impl FnOnce(&mut Self)) -> anyhow::Result<()> {
        let mut record = Self::read(layout);
        change(&mut record);
        let body = toml::to_string(&record).context("cannot write times")?;
        let text = format!("# When the clocks of this fleet's signers last agreed with another clock.\n\n{body}");
        tree::write_file(&layout.clock_record(), text.as_bytes())
    }

    /// A person says that it is `now`: everything that is later was written under a wrong clock.
    pub fn confirm(&mut self, now: UnixTime) {
        let earlier = |time: Option<UnixTime>| time.map(|time| time.min(now));
        *self = Self {
            signed: earlier(self.signed),
            desk: earlier(self.desk),
            host: earlier(self.host),
            person: Some(now),
        };
    }

    /// No signer's clock may be earlier than this.
    pub fn newest(&self) -> Option<UnixTime> {
        [self.signed, self.desk, self.host].into_iter().flatten().max()
    }

    /// The witnesses for the desk.
    pub fn for_desk(&self) -> Vec<Witness> {
        self.witnesses(WitnessKind::Host, self.host)
    }

    /// The witnesses for HQ's host.
    pub fn for_host(&self) -> Vec<Witness> {
        self.witnesses(WitnessKind::Desk, self.desk)
    }

    fn witnesses(&self, other: WitnessKind, time: Option<UnixTime>) -> Vec<Witness> {
        let of = |kind, time: Option<UnixTime>| time.map(|time| Witness { kind, time });
        of(other, time).into_iter().chain(of(WitnessKind::Person, self.person)).collect()
    }
}

/// When the newest root or published timestamp was signed, from when it expires. It looks at every site, so it is for a
/// fleet that has no [`ClockRecord`] yet.
fn newest_signature(layout: &Layout) -> Option<UnixTime> {
    let before = |time: UnixTime, life: Duration| UnixTime(time.0.saturating_sub(life.as_secs().cast_signed()));
    let roots = numbered(&layout.signed(), "root").unwrap_or_default();
    let root = roots.last_key_value().and_then(|(_, bytes)| serde_json::from_slice::<Envelope<Root>>(bytes).ok());
    let root = root.map(|root| before(root.signed.expires, roles::ROOT_LIFE));
    let sites = std::fs::read_dir(layout.public_sites()).ok().into_iter().flatten().flatten();
    let timestamps = sites.filter_map(|site| {
        let bytes = std::fs::read(site.path().join("metadata/timestamp.json")).ok()?;
        let timestamp = serde_json::from_slice::<Envelope<Timestamp>>(&bytes).ok()?;
        Some(before(timestamp.signed.expires, roles::TIMESTAMP_LIFE))
    });
    timestamps.chain(root).max()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const DAY: i64 = 86_400;
    const YEARS: i64 = 3 * 365;

    fn days(days: i64) -> UnixTime {
        UnixTime(NOW.0 + days * DAY)
    }

    fn at(kind: WitnessKind, time: UnixTime) -> Witness {
        Witness { kind, time }
    }

    #[test]
    fn a_clock_that_is_three_years_off_signs_nothing_either_way() {
        let witness = at(WitnessKind::CheckIn, NOW);
        let (behind, ahead) = (days(-YEARS), days(YEARS));
        assert_eq!(judge(behind, Some(NOW), &[witness]), Err(ClockDoubt::Behind { now: behind, signed: NOW }));
        assert_eq!(judge(ahead, Some(NOW), &[witness]), Err(ClockDoubt::Ahead { now: ahead, witness }));
        assert_eq!(judge(NOW, Some(NOW), &[witness]), Ok(witness));
    }

    #[test]
    fn a_day_past_the_newest_witness_is_the_limit_and_old_ones_do_not_count() {
        let old = at(WitnessKind::Commit, days(-400));
        let newest = at(WitnessKind::Host, NOW);
        let limit = NOW.plus(AHEAD);
        assert_eq!(judge(limit, None, &[old, newest]), Ok(newest));
        let late = UnixTime(limit.0 + 1);
        assert_eq!(judge(late, None, &[newest, old]), Err(ClockDoubt::Ahead { now: late, witness: newest }));
    }

    #[test]
    fn time_that_passed_since_the_last_signature_is_no_witness() {
        assert_eq!(judge(days(1), Some(NOW), &[]), Err(ClockDoubt::Alone { now: days(1) }));
        let record = ClockRecord { signed: Some(NOW), desk: Some(NOW), ..ClockRecord::default() };
        assert_eq!(record.for_desk(), [], "the desk is no witness for itself");
        assert_eq!(record.for_host(), [at(WitnessKind::Desk, NOW)]);
    }

    #[test]
    fn seconds_between_two_machines_are_no_doubt() {
        let witness = at(WitnessKind::Desk, NOW);
        assert_eq!(judge(UnixTime(NOW.0 - 200), Some(NOW), &[witness]), Ok(witness));
        assert!(judge(UnixTime(NOW.0 - 301), Some(NOW), &[witness]).is_err());
    }

    #[test]
    fn what_a_person_says_goes_before_what_was_signed_under_a_clock_that_was_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir(layout.online()).unwrap();
        ClockRecord::change(&layout, |record| record.signed = Some(days(YEARS))).unwrap();
        let record = ClockRecord::read(&layout);
        assert!(judge(NOW, record.newest(), &[at(WitnessKind::CheckIn, NOW)]).is_err());
        ClockRecord::change(&layout, |record| record.confirm(NOW)).unwrap();
        let record = ClockRecord::read(&layout);
        assert_eq!(judge(NOW, record.newest(), &record.for_desk()), Ok(at(WitnessKind::Person, NOW)));
    }

    #[test]
    fn a_doubt_says_which_clock_is_believed_and_what_would_happen() {
        let witness = at(WitnessKind::Commit, NOW);
        let text = ClockDoubt::Ahead { now: days(YEARS), witness }.to_string();
        for part in [&days(YEARS).to_string(), &NOW.to_string(), "it is believed", "refuse every later release"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
