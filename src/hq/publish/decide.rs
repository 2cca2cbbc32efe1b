//! The second stage of `publish`: which sites need what, and why. Nothing here reads a file or a clock.
//!
//! There are two questions. Before a site's files are made: does anybody have to make them ([`need`])? And once they
//! are made and sealed: do they become a new release, or does the present one stay ([`new_release`])?

use std::collections::BTreeMap;

use ids::{Digest, Generation, SiteId, UnixTime};
use repository::roles;

use super::read::{Facts, SiteFound};

/// What a site needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: this release stays.
    Nothing(Generation),
    /// An appliance. Without one nobody could open a release.
    Appliance,
    /// Its files are made and compared with what is published.
    Comparison(Doubt),
}

/// Why a site's files are made and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The publisher wants this site looked at.
    Named,
    /// No earlier run noted a release.
    New,
    /// A secret or a file that it is made of cannot be read.
    Unreadable,
    /// It is made of something else now, somebody else wrote its metadata, or that must be signed anew.
    Changed,
}

impl Doubt {
    /// For the log.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Named => "it was asked for by name",
            Self::New => "no earlier run noted a release",
            Self::Unreadable => "what it is made of cannot all be read",
            Self::Changed => "what it is made of or what is published changed, or signatures are due",
        }
    }
}

/// Whether a site's files must be made.
pub(super) const fn need(facts: Facts) -> Need {
    let doubt = match facts {
        Facts { named: true, .. } => Doubt::Named,
        Facts { noted: false, .. } => Doubt::New,
        Facts { fingerprinted: false, .. } => Doubt::Unreadable,
        Facts { as_left: Some(generation), .. } => return Need::Nothing(generation),
        Facts { as_left: None, .. } => Doubt::Changed,
    };
    if facts.enrolled { Need::Comparison(doubt) } else { Need::Appliance }
}

/// What each site needs, and the fingerprint that the ledger keeps of it.
pub(super) struct Needs(BTreeMap<SiteId, (Need, Option<Digest>)>);

impl Needs {
    /// Decides for each of these sites.
    pub(super) fn of(sites: Vec<SiteFound>) -> Self {
        Self(sites.into_iter().map(|found| (found.site, (need(found.facts), found.fingerprint))).collect())
    }

    /// What this site needs; `None` if nobody asked for it.
    pub(super) fn site(&self, site: &SiteId) -> Option<(Need, Option<Digest>)> {
        self.0.get(site).copied()
    }

    /// Whether this site is checked for problems. One that waits for its appliance is: people enrol it next.
    pub(super) fn check(&self, site: &SiteId) -> bool {
        self.site(site).is_some_and(|(need, _)| !matches!(need, Need::Nothing(_)))
    }
}

/// The published release of a site beside the files that were just made for it.
pub(super) struct Compared<'a> {
    /// Files, settings and recipients are the same.
    pub(super) same_content: bool,
    /// Whether all of it is signed by the keys of the newest root. Asked only if the content is the same, because
    /// the answer costs the check of every signature.
    pub(super) holds_under_newest_root: &'a dyn Fn() -> bool,
    /// It leaves firmware to the same keys as the newest root.
    pub(super) same_firmware_keys: bool,
    /// When its `targets` metadata expires.
    pub(super) targets_expire: UnixTime,
    /// When its firmware catalogue expires.
    pub(super) firmware_expires: UnixTime,
    /// Its firmware catalogue lists every file that must be in one.
    pub(super) lists_firmware: bool,
}

/// Why a site gets a new release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It has none.
    First,
    /// Its files, settings or recipients changed.
    Content,
    /// Keys changed, so everything is signed anew.
    Root,
    /// Other keys sign firmware now.
    FirmwareKeys,
    /// A quarter or less is left of the life of its `targets` metadata or of its firmware catalogue.
    Expiry,
    /// Its firmware catalogue lacks a file.
    Firmware,
}

impl Cause {
    /// For the log.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::First => "it is the first one",
            Self::Content => "its content changed",
            Self::Root => "keys changed",
            Self::FirmwareKeys => "the keys for firmware changed",
            Self::Expiry => "signatures by offline keys are nearly over",
            Self::Firmware => "the firmware catalogue lacks a file",
        }
    }
}

/// Whether a site gets a new release; `None` if the present one stays, with fresh metadata at the most.
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
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_000_000_000);
    const SETTLED: Facts =
        Facts { named: false, noted: true, fingerprinted: true, as_left: Some(Generation(7)), enrolled: true };

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
        ];
        for (compared, cause) in cases {
            assert_eq!(new_release(Some(&compared), NOW), Some(cause));
        }
        assert_eq!(new_release(None, NOW), Some(Cause::First));
    }

    #[test]
    fn signatures_of_other_content_are_not_checked() {
        let never = || unreachable!("the content differs");
        let compared = Compared { same_content: false, ..published(&never) };
        assert_eq!(new_release(Some(&compared), NOW), Some(Cause::Content));
    }
}
