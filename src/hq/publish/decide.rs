//! The second stage of `publish` decides what each site needs, and why. Nothing here reads a file or a clock.
//!
//! There are two decisions. The first comes before a site's files are made: must they be made at all ([`need`])? The
//! second comes when they are made and sealed: does the site get a new release, or does the present one stay
//! ([`new_release`])?

use std::collections::BTreeMap;

use ids::{Digest, Generation, SiteId, UnixTime};
use repository::roles;

use super::read::{Facts, SiteFound};

/// How far the number of a release may go past what the ledger and the tree have. A site that says that it serves more was
/// broken into, or is another fleet's.
pub(super) const MOST_AHEAD: u64 = 1000;
/// How far it goes past a backup: sites may serve releases that were made after it.
const AFTER_RESTORE: u64 = 100;

/// What is known about the numbers of a site's releases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// The highest that the ledger or the published tree has.
    pub(super) own: Generation,
    /// The highest that HQ's database has, or that the site says it serves.
    pub(super) told: Generation,
    /// Whether the ledger's entry is from a backup.
    pub(super) restored: bool,
}

impl Numbers {
    /// Whether the site may serve, or may have been told of, a newer release than what is published.
    pub(super) fn ahead(&self) -> bool {
        self.restored || self.told > self.own
    }

    /// The number of the next release; `None` if what was told is beyond belief.
    pub(super) fn next(&self) -> Option<Generation> {
        let believed = self.told.0.saturating_sub(self.own.0) <= MOST_AHEAD;
        let step = if self.restored { AFTER_RESTORE } else { 1 };
        believed.then(|| Generation(self.own.max(self.told).0.saturating_add(step)))
    }
}

/// What must be done for a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing. The release with this number stays.
    Nothing(Generation),
    /// An appliance must enrol first. Without one nobody could open a release.
    Appliance,
    /// Its files must be made and compared with what is published.
    Comparison(Doubt),
}

/// Why a site's files must be made and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The publisher named this site on the command line.
    Named,
    /// The ledger has no release of it.
    New,
    /// A secret or a file that it is made of cannot be read.
    Unreadable,
    /// HQ or the site knows of a newer release than the ledger and the tree do.
    Ahead,
    /// What it is made of changed, somebody else wrote its metadata, or the metadata must be signed anew.
    Changed,
}

impl Doubt {
    /// The reason in words, for the log.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Named => "it was asked for by name",
            Self::New => "no earlier run noted a release",
            Self::Unreadable => "what it is made of cannot all be read",
            Self::Ahead => "a newer release is known than what is published",
            Self::Changed => "what it is made of or what is published changed, or signatures are due",
        }
    }
}

/// Decides what must be done for a site before its files are made.
pub(super) const fn need(facts: Facts) -> Need {
    let doubt = match facts {
        Facts { named: true, .. } => Doubt::Named,
        Facts { noted: false, .. } => Doubt::New,
        Facts { fingerprinted: false, .. } => Doubt::Unreadable,
        Facts { ahead: true, .. } => Doubt::Ahead,
        Facts { as_left: Some(generation), .. } => return Need::Nothing(generation),
        Facts { as_left: None, .. } => Doubt::Changed,
    };
    if facts.enrolled { Need::Comparison(doubt) } else { Need::Appliance }
}

/// What each site needs, and the fingerprint that the ledger keeps of it.
pub(super) struct Needs(BTreeMap<SiteId, (Need, Option<Digest>)>);

impl Needs {
    /// Applies [`need`] to each of these sites.
    pub(super) fn of(sites: Vec<SiteFound>) -> Self {
        Self(sites.into_iter().map(|found| (found.site, (need(found.facts), found.fingerprint))).collect())
    }

    /// What this site needs; `None` if nobody asked for it.
    pub(super) fn site(&self, site: &SiteId) -> Option<(Need, Option<Digest>)> {
        self.0.get(site).copied()
    }

    /// Whether this site is checked for problems. A site that waits for its appliance is checked, too, because people
    /// will enrol one next.
    pub(super) fn check(&self, site: &SiteId) -> bool {
        self.site(site).is_some_and(|(need, _)| !matches!(need, Need::Nothing(_)))
    }
}

/// How the published release of a site compares with the files that were just made for it.
pub(super) struct Compared<'a> {
    /// Whether the publisher asked for a new release of it, whatever it is made of.
    pub(super) again: bool,
    /// Whether a newer release of it is known ([`Numbers::ahead`]).
    pub(super) ahead: bool,
    /// Whether files, settings and recipients are the same.
    pub(super) same_content: bool,
    /// Answers whether all of its metadata is signed by the keys of the newest root. It is called only if the content
    /// is the same, because it verifies every signature.
    pub(super) holds_under_newest_root: &'a dyn Fn() -> bool,
    /// Whether it delegates firmware to the same keys as the newest root.
    pub(super) same_firmware_keys: bool,
    /// When its `targets` metadata expires.
    pub(super) targets_expire: UnixTime,
    /// When its firmware catalogue expires.
    pub(super) firmware_expires: UnixTime,
    /// Whether its firmware catalogue lists every file that must be in one.
    pub(super) lists_firmware: bool,
}

/// Why a site gets a new release instead of keeping the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It has no release yet.
    First,
    /// Its files, settings or recipients changed.
    Content,
    /// The root names other keys now, so everything is signed anew.
    Root,
    /// The root names other keys for firmware now.
    FirmwareKeys,
    /// A quarter or less is left of the life of its `targets` metadata or of its firmware catalogue.
    Expiry,
    /// Its firmware catalogue lacks a file, or says something else of an image of the appliance.
    Firmware,
    /// A newer release is known than the published one, which sites would take for a step back.
    Ahead,
    /// The publisher asked for it with `--again`.
    Again,
}

impl Cause {
    /// The reason in words, for the log.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::First => "it is the first one",
            Self::Content => "its content changed",
            Self::Root => "keys changed",
            Self::FirmwareKeys => "the keys for firmware changed",
            Self::Expiry => "signatures by offline keys are nearly over",
            Self::Ahead => "a newer release is known than the published one",
            Self::Again => "it was asked for again",
            Self::Firmware => "the firmware catalogue lacks a file or says something else of one",
        }
    }
}

/// Decides whether a site gets a new release; `published` is `None` if it has none. The answer is `None` if the present
/// release stays; only its `timestamp` and `snapshot` may be signed anew then.
pub(super) fn new_release(published: Option<&Compared<'_>>, now: UnixTime) -> Option<Cause> {
    let Some(published) = published else { return Some(Cause::First) };
    let near = |expires| roles::is_near(expires, roles::TARGETS_LIFE, 4, now);
    if !published.same_content {
        Some(Cause::Content)
    } else if !(published.holds_under_newest_root)() {
        Some(Cause::Root)
    } else if !published.same_firmware_keys {
        Some(Cause::FirmwareKeys)
    } else if near(published.targets_expire) || near(published.firmware_expires) {
        Some(Cause::Expiry)
    } else if !published.lists_firmware {
        Some(Cause::Firmware)
    } else if published.ahead {
        Some(Cause::Ahead)
    } else if published.again {
        Some(Cause::Again)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_000_000_000);
    const SETTLED: Facts = Facts {
        named: false,
        noted: true,
        fingerprinted: true,
        ahead: false,
        as_left: Some(Generation(7)),
        enrolled: true,
    };

    #[test]
    fn a_site_that_is_as_it_was_left_needs_nothing() {
        assert_eq!(need(SETTLED), Need::Nothing(Generation(7)));
    }

    #[test]
    fn each_doubt_has_the_files_made_and_compared() {
        let cases = [
            (Facts { named: true, ..SETTLED }, Doubt::Named),
            (Facts { noted: false, as_left: None, ..SETTLED }, Doubt::New),
            (Facts { fingerprinted: false, as_left: None, ..SETTLED }, Doubt::Unreadable),
            (Facts { ahead: true, ..SETTLED }, Doubt::Ahead),
            (Facts { as_left: None, ..SETTLED }, Doubt::Changed),
        ];
        for (facts, doubt) in cases {
            assert_eq!(need(facts), Need::Comparison(doubt), "{facts:?}");
            assert_eq!(need(Facts { enrolled: false, ..facts }), Need::Appliance, "{facts:?}");
        }
    }

    #[test]
    fn a_site_that_waits_for_its_appliance_is_checked_and_one_that_nobody_asked_for_is_not() {
        let site = |name: &str, facts| {
            let site = name.parse().expect("a short name is an id");
            SiteFound { site, facts, fingerprint: None }
        };
        let waiting = Facts { noted: false, as_left: None, enrolled: false, ..SETTLED };
        let needs = Needs::of(vec![site("s-settled", SETTLED), site("s-waiting", waiting)]);
        let checked = |name: &str| needs.check(&name.parse().expect("a short name is an id"));
        assert_eq!((checked("s-settled"), checked("s-waiting"), checked("s-other")), (false, true, false));
    }

    fn published(holds: &dyn Fn() -> bool) -> Compared<'_> {
        let life = roles::TARGETS_LIFE;
        Compared {
            again: false,
            ahead: false,
            same_content: true,
            holds_under_newest_root: holds,
            same_firmware_keys: true,
            targets_expire: NOW.plus(life),
            firmware_expires: NOW.plus(life),
            lists_firmware: true,
        }
    }

    #[test]
    fn a_release_stays_while_nothing_speaks_against_it() {
        assert_eq!(new_release(Some(&published(&|| true)), NOW), None);
    }

    #[test]
    fn each_cause_makes_a_new_release() {
        let soon = NOW.plus(roles::TARGETS_LIFE / 5);
        let cases = [
            (Compared { same_content: false, ..published(&|| true) }, Cause::Content),
            (published(&|| false), Cause::Root),
            (Compared { same_firmware_keys: false, ..published(&|| true) }, Cause::FirmwareKeys),
            (Compared { targets_expire: soon, ..published(&|| true) }, Cause::Expiry),
            (Compared { firmware_expires: soon, ..published(&|| true) }, Cause::Expiry),
            (Compared { lists_firmware: false, ..published(&|| true) }, Cause::Firmware),
            (Compared { ahead: true, ..published(&|| true) }, Cause::Ahead),
            (Compared { again: true, ..published(&|| true) }, Cause::Again),
        ];
        for (compared, cause) in cases {
            assert_eq!(new_release(Some(&compared), NOW), Some(cause));
        }
        assert_eq!(new_release(None, NOW), Some(Cause::First));
    }

    #[test]
    fn a_release_goes_past_what_a_site_serves_but_not_past_belief() {
        let numbers = |own, told| Numbers { own: Generation(own), told: Generation(told), restored: false };
        assert_eq!((numbers(7, 7).ahead(), numbers(7, 7).next()), (false, Some(Generation(8))));
        assert_eq!((numbers(7, 6).ahead(), numbers(7, 6).next()), (false, Some(Generation(8))));
        assert_eq!((numbers(7, 9).ahead(), numbers(7, 9).next()), (true, Some(Generation(10))));
        assert_eq!(numbers(7, 1007).next(), Some(Generation(1008)));
        assert_eq!(numbers(7, 1008).next(), None);
        assert_eq!(numbers(7, u64::MAX).next(), None);
        let restored = Numbers { restored: true, ..numbers(7, 9) };
        assert_eq!((restored.ahead(), restored.next()), (true, Some(Generation(109))));
    }

    #[test]
    fn signatures_of_other_content_are_not_checked() {
        let never = || unreachable!("the content differs");
        let compared = Compared { same_content: false, ..published(&never) };
        assert_eq!(new_release(Some(&compared), NOW), Some(Cause::Content));
    }
}
