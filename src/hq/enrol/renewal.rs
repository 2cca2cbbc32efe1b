//! New sealing keys of appliances, as the publisher sees them.
//!
//! HQ's host keeps what sites state ([`SealingKeyStatement`]) and can make none of it. Here each statement is checked against
//! what is pinned in `enrolled/`. One that holds changes the pinned keys as if a token had proven it. One that does not is
//! named, and neither it nor its site holds up another site.

use std::fmt;

use anyhow::{Context as _, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{Appliance, Pinned};
use crate::host::Host;
use crate::{publish, recipients};
use api::SealingKeyStatement;
use bundle::{RecipientPublic, RecipientSecret};
use ids::{FleetId, Generation, SiteId, UnixTime};
use online::db::sealing_keys::StoredStatement;
use repository::layout::Layout;

/// How many keys of an appliance are remembered after they were replaced.
const REMEMBERED: usize = 8;

/// The table `[appliance.sealing-key]` of `enrolled/SITE.toml`: how the appliance's key came to be the one that it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct SealingKeyHistory {
    /// The key that follows. Releases are sealed to both until a release has opened under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<ProvenKey>,
    /// The keys that count no more, the newest first. No statement brings one back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    replaced: Vec<ProvenKey>,
}

/// A key, and the statement that named it or took its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ProvenKey {
    recipient: RecipientPublic,
    /// [`SealingKeyStatement::generation`].
    generation: Generation,
    /// When the publisher took the statement over.
    at: UnixTime,
}

impl SealingKeyHistory {
    pub(super) fn is_empty(&self) -> bool {
        self.next.is_none() && self.replaced.is_empty()
    }

    /// The release of the newest statement that was taken.
    fn newest(&self) -> Option<Generation> {
        self.next.iter().chain(&self.replaced).map(|key| key.generation).max()
    }

    fn replace(&mut self, key: ProvenKey) {
        self.replaced.insert(0, key);
        self.replaced.truncate(REMEMBERED);
    }
}

impl Appliance {
    /// The keys that releases are sealed to for this appliance.
    pub(super) fn keys(&self) -> impl Iterator<Item = RecipientPublic> + '_ {
        std::iter::once(self.recipient).chain(self.sealing_key.next.as_ref().map(|next| next.recipient))
    }

    fn had(&self, key: &RecipientPublic) -> bool {
        self.keys().any(|one| one == *key) || self.sealing_key.replaced.iter().any(|one| one.recipient == *key)
    }

    /// Does what a statement that holds says.
    fn take(&mut self, change: Change, statement: &SealingKeyStatement, at: UnixTime) {
        let generation = statement.generation;
        if let Change::Finish | Change::FinishAndBegin = change
            && let Some(next) = self.sealing_key.next.take()
        {
            let before = std::mem::replace(&mut self.recipient, next.recipient);
            let generation = generation.max(next.generation);
            self.sealing_key.replace(ProvenKey { recipient: before, generation, at });
        }
        if let Change::Begin | Change::FinishAndBegin = change {
            // The appliance has lost the key that it named before.
            if let Some(lost) = self.sealing_key.next.take() {
                self.sealing_key.replace(lost);
            }
            self.sealing_key.next = Some(ProvenKey { recipient: statement.to, generation, at });
        }
    }
}

/// What a statement that holds changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// A new key follows.
    Begin,
    /// The key that followed counts alone.
    Finish,
    /// The key that followed counts, and a new one follows it.
    FinishAndBegin,
}

/// Which of a site's appliances a statement is about, and what it would change; `None` if that is so already.
fn judge(pinned: &Pinned, statement: &SealingKeyStatement) -> anyhow::Result<Option<(usize, Change)>> {
    let SealingKeyStatement { from, to, generation, .. } = statement;
    ensure!(i64::try_from(generation.0).is_ok(), "it names no release");
    let (index, appliance) = pinned
        .appliance
        .iter()
        .enumerate()
        .find(|(_, one)| one.had(from))
        .ok_or_else(|| anyhow!("it comes from a key that no appliance of this site has"))?;
    let next = appliance.sealing_key.next.as_ref().map(|next| next.recipient);
    let change = match (from == to, *from == appliance.recipient, next == Some(*from)) {
        (true, true, _) => return Ok(None),
        (true, _, true) => return Ok(Some((index, Change::Finish))),
        (false, true, _) if next == Some(*to) => return Ok(None),
        (false, true, _) => Change::Begin,
        (false, _, true) => Change::FinishAndBegin,
        _ => bail!("it comes from a key that was replaced; somebody plays an old statement again"),
    };
    ensure!(!pinned.appliance.iter().any(|one| one.had(to)), "it would bring back a key that this site had before");
    let newer = appliance.sealing_key.newest().is_none_or(|newest| *generation > newest);
    ensure!(newer, "it is not newer than what was taken before; somebody plays an old statement again");
    Ok(Some((index, change)))
}

/// A statement about a sealing key that the publisher does not believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedStatement {
    /// The site that it is said to be of.
    pub(crate) site: SiteId,
    why: String,
}

impl fmt::Display for RefusedStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a new sealing key is not believed, and its releases stay sealed to the keys before: {}", self.why)
    }
}

/// Takes over what appliances stated about their sealing keys. Returns what is not believed.
pub(crate) fn take_over_sealing_keys(
    layout: &Layout,
    fleet: &FleetId,
    now: UnixTime,
) -> anyhow::Result<Vec<RefusedStatement>> {
    if !layout.key("publisher").exists() {
        return Ok(Vec::new());
    }
    let host = Host::of(layout)?;
    let stated = host.sealing_keys()?;
    if stated.is_empty() {
        return Ok(Vec::new());
    }
    let desk = publish::publisher_secret(layout)?.desk_key();
    let mut refused = Vec::new();
    for (site, statements) in stated {
        for stored in statements {
            match take_over(layout, (fleet, &site), &desk, &stored, now) {
                Ok(()) => host.sealing_key_handled(&site, &stored)?,
                Err(error) => refused.push(RefusedStatement { site: site.clone(), why: format!("{error:#}") }),
            }
        }
    }
    Ok(refused)
}

fn take_over(
    layout: &Layout,
    (fleet, site): (&FleetId, &SiteId),
    desk: &RecipientSecret,
    stored: &StoredStatement,
    now: UnixTime,
) -> anyhow::Result<()> {
    let statement: SealingKeyStatement = serde_json::from_str(&stored.statement).context("it is malformed")?;
    let path = Pinned::path(layout, site);
    ensure!(path.exists(), "no appliance of this site is enrolled");
    let mut pinned = Pinned::load(&path)?;
    let Some((index, change)) = judge(&pinned, &statement)? else { return Ok(()) };
    let proven = statement.is_proven((fleet, site), desk);
    ensure!(proven, "it is not proven by the key that it comes from; HQ's host, or somebody else, made it");
    let before = pinned.keys();
    if let Some(appliance) = pinned.appliance.get_mut(index) {
        appliance.take(change, &statement, now);
    }
    recipients::agree(layout, site, &before, &pinned.keys())?;
    pinned.save(&path)
}

/// Says for people how a key of a site came or went, if the site's own statements say so.
pub(crate) fn why(layout: &Layout, site: &SiteId, key: &RecipientPublic) -> Option<&'static str> {
    let pinned = Pinned::load(&Pinned::path(layout, site)).ok()?;
    let renewed = |one: &Appliance| {
        let replaced = one.sealing_key.replaced.iter().any(|key_before| key_before.recipient == *key);
        let follows = one.keys().any(|current| current == *key) && !one.sealing_key.is_empty();
        match (replaced, follows) {
            (true, _) => Some("replaced by its new sealing key"),
            (_, true) => Some("its new sealing key, proven by the one before"),
            _ => None,
        }
    };
    pinned.appliance.iter().find_map(renewed)
}

#[cfg(test)]
mod tests;
