//! Who can open releases: the recovery key and each site's appliances, under the release key's signature.
//!
//! `root/recovery.pub` and `enrolled/*.toml` are text in git, so one changed line would seal the next release to an outsider.
//! `root/recipients.json` says, signed, whom releases were sealed to last. Against it `plan` shows each change, and `publish`
//! asks about each that the desk did not make itself: an enrolment that a token proved, or `site revoke`. Those are in
//! `keys/agreed.toml`, which never leaves the desk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::host::{Host, client};
use crate::{ask, enrol, publish};
use bundle::RecipientPublic;
use durable::PRIVATE;
use ids::{FleetId, SiteId};
use repository::keyring;
use repository::layout::Layout;
use repository::tree;
use settings::MAX_TEXT_BYTES;
use telemetry::Hint as _;
use tuf::schema::Envelope;
use tuf::{SigningKey, sign};

/// The `_type` of the statement, so that it never passes as TUF metadata.
const KIND: &str = "lineside-recipients";
/// How many digits of a key are shown.
const DIGITS: usize = 16;

/// The signed part of `root/recipients.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    fleet: FleetId,
    recovery: RecipientPublic,
    sites: BTreeMap<SiteId, Vec<RecipientPublic>>,
}

/// The recipients of sites as the desk itself changed them.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Agreed {
    #[serde(default)]
    sites: BTreeMap<SiteId, Vec<RecipientPublic>>,
}

/// One recipient who comes or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecipientChange {
    /// The site, by name or id; `None` for the recovery key.
    whose: Option<String>,
    recipient: RecipientPublic,
    comes: bool,
    /// Whether the desk made the change itself.
    agreed: bool,
    /// How it came to be, if the appliance renewed its key.
    why: Option<&'static str>,
}

impl fmt::Display for RecipientChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = format!("{:?}", self.recipient);
        let key = key.get(..DIGITS).unwrap_or_default();
        let mark = if self.comes { '+' } else { '-' };
        match &self.whose {
            Some(site) => write!(f, "{mark} recipient {key}  an appliance of {site}")?,
            None => write!(f, "{mark} recipient {key}  the recovery key, which opens every release of the fleet")?,
        }
        match (self.agreed, self.why) {
            (true, Some(why)) => write!(f, ": {why}"),
            (true, None) => Ok(()),
            (false, _) => f.write_str(": nobody proved this"),
        }
    }
}

fn statement_path(layout: &Layout) -> PathBuf {
    layout.signed().join("recipients.json")
}

fn agreed_path(layout: &Layout) -> PathBuf {
    layout.key("agreed").with_extension("toml")
}

/// The signed statement; `None` if there is none that a release key of this fleet's roots has signed.
fn signed(layout: &Layout) -> anyhow::Result<Option<Statement>> {
    let bytes = match std::fs::read(statement_path(layout)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("cannot read root/recipients.json"),
    };
    let Ok(statement) = serde_json::from_slice::<Envelope<Statement>>(&bytes) else { return Ok(None) };
    // The release key may have been replaced since. The next statement is signed by the new one.
    for root in publish::roots(layout)?.into_values() {
        let root = tuf::Trusted::pin(&root).context("a root in root/ does not hold")?;
        let role = crate::keys::Role::Release.keys(root.root());
        let have = sign::signed_by(&bytes, &root.root().public_keys(&role)).map_or(0, |keys| keys.len());
        if have > 0 && u32::try_from(have).unwrap_or(u32::MAX) >= role.threshold {
            return Ok(Some(statement.signed).filter(|statement| statement.kind == KIND));
        }
    }
    Ok(None)
}

/// The recovery key of a statement that the release key of this root has signed.
pub(crate) fn recovery_of(root: &[u8], statement: &[u8]) -> anyhow::Result<RecipientPublic> {
    let root = tuf::Trusted::pin(root).context("the root does not hold")?;
    let role = crate::keys::Role::Release.keys(root.root());
    let have = sign::signed_by(statement, &root.root().public_keys(&role))?.len();
    let enough = have > 0 && u32::try_from(have).unwrap_or(u32::MAX) >= role.threshold;
    ensure!(enough, "the release key has not signed it");
    let statement = serde_json::from_slice::<Envelope<Statement>>(statement).context("it is malformed")?.signed;
    ensure!(statement.kind == KIND, "it is something else");
    Ok(statement.recovery)
}

/// Signs who can open releases from now on.
pub(crate) fn sign_statement(
    layout: &Layout,
    fleet: &FleetId,
    sites: BTreeMap<SiteId, Vec<RecipientPublic>>,
    key: &SigningKey,
) -> anyhow::Result<()> {
    let sites = sites.into_iter().filter(|(_, keys)| !keys.is_empty()).collect();
    let recovery = publish::recovery_public(layout)?;
    let statement = Statement { kind: KIND.to_owned(), fleet: fleet.clone(), recovery, sites };
    if signed(layout)?.as_ref() != Some(&statement) {
        tree::write_file(&statement_path(layout), &sign::sign(&statement, &[key]))?;
    }
    // HQ's host encrypts its backups to whom it says.
    let (signed, brought) = (durable::read_regular(&statement_path(layout), MAX_TEXT_BYTES)?, layout.public());
    if !durable::holds(&brought.join("recipients.json"), &signed) {
        tree::write_file(&brought.join("recipients.json"), &signed)?;
    }
    let agreed = agreed_path(layout);
    if agreed.exists() {
        durable::remove(&agreed).with_context(|| format!("cannot remove {}", agreed.display()))?;
    }
    Ok(())
}

fn agreed(layout: &Layout) -> anyhow::Result<Agreed> {
    let path = agreed_path(layout);
    if !path.exists() {
        return Ok(Agreed::default());
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
}

/// Notes that the desk itself changes a site's recipients from `before` to `after`. What was there before must have been
/// agreed to as well; else the question stays.
pub(crate) fn agree(
    layout: &Layout,
    site: &SiteId,
    before: &[RecipientPublic],
    after: &[RecipientPublic],
) -> anyhow::Result<()> {
    // A host without offline keys may revoke; the desk is asked then.
    if !layout.keys().is_dir() {
        return Ok(());
    }
    let mut agreed = agreed(layout)?;
    let stated = signed(layout)?.and_then(|statement| statement.sites.get(site).cloned());
    let known = agreed.sites.get(site).cloned().or(stated).unwrap_or_default();
    // A crash can come between this note and the file that it is about; then it is made once more.
    if !after.is_empty() && known != before && known != after {
        return Ok(());
    }
    agreed.sites.insert(site.clone(), after.to_vec());
    let text = format!(
        "# Recipients that enrolments, renewals and `site revoke` changed here; `publish` signs them without a question.\n\n{}",
        toml::to_string(&agreed).context("cannot write recipients")?
    );
    let path = agreed_path(layout);
    durable::replace(&path, text.as_bytes(), PRIVATE).with_context(|| format!("cannot write {}", path.display()))
}

/// Whom each site's releases are sealed to. Nothing is sealed to a site that has a fault, so what was signed of it holds.
pub(crate) fn of_sites(layout: &Layout) -> anyhow::Result<BTreeMap<SiteId, Vec<RecipientPublic>>> {
    let enrol::Standing { mut recipients, faults } = enrol::standing(layout)?;
    if faults.is_empty() {
        return Ok(recipients);
    }
    let stated = signed(layout)?.map(|statement| statement.sites).unwrap_or_default();
    for site in faults.into_iter().filter_map(|fault| fault.site) {
        let keys = stated.get(&site).cloned().unwrap_or_default();
        recipients.insert(site, keys);
    }
    Ok(recipients)
}

/// Every recipient who comes or goes against what was signed. `name` gives a site's name.
pub(crate) fn changes(
    layout: &Layout,
    sites: &BTreeMap<SiteId, Vec<RecipientPublic>>,
    name: &dyn Fn(&SiteId) -> Option<String>,
) -> anyhow::Result<Vec<RecipientChange>> {
    let (statement, agreed) = (signed(layout)?, agreed(layout)?);
    let mut changes = Vec::new();
    let mut compare = |whose: Option<(&SiteId, String)>, before: &[_], after: &[_], agreed: bool| {
        let (before, after): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), after.iter().collect());
        for recipient in before.symmetric_difference(&after).copied() {
            let comes = after.contains(recipient);
            let why = whose.as_ref().and_then(|(site, _)| enrol::why(layout, site, recipient));
            let whose = whose.as_ref().map(|(_, name)| name.clone());
            changes.push(RecipientChange { whose, recipient: *recipient, comes, agreed, why });
        }
    };
    let recovery = publish::recovery_public(layout)?;
    let stated = statement.as_ref().map(|statement| statement.recovery);
    compare(None, stated.as_slice(), &[recovery], false);
    let stated = statement.map(|statement| statement.sites).unwrap_or_default();
    for site in stated.keys().chain(sites.keys()).collect::<BTreeSet<_>>() {
        let of = |map: &BTreeMap<SiteId, Vec<RecipientPublic>>| map.get(site).cloned().unwrap_or_default();
        let (before, after) = (of(&stated), of(sites));
        let whose = name(site).unwrap_or_else(|| site.to_string());
        compare(Some((site, whose)), &before, &after, agreed.sites.get(site) == Some(&after));
    }
    Ok(changes)
}

/// Before a publish: takes over proven enrolments, and asks about every other change, unless `yes`.
pub(crate) fn ask_about(layout: &Layout, yes: bool, name: &dyn Fn(&SiteId) -> Option<String>) -> anyhow::Result<()> {
    enrol::take_over_new(layout)?;
    let sites = of_sites(layout)?;
    let doubtful: Vec<String> = changes(layout, &sites, name)?
        .into_iter()
        .filter(|change| !change.agreed)
        .map(|change| format!("  {change}"))
        .collect();
    if doubtful.is_empty() || yes {
        return Ok(());
    }
    let list = doubtful.join("\n");
    let question = format!("who can open releases would change:\n{list}\nSeal to these from now on?");
    ensure_yes(&question)
        .hint("see who changed root/recovery.pub and enrolled/; if that is right, answer y or say --yes")
}

fn ensure_yes(question: &str) -> anyhow::Result<()> {
    ensure!(ask::is_yes(question)?, "nothing was published, because nobody agreed to the new recipients");
    Ok(())
}

/// After a publish: signs the recipients that it used.
pub(crate) fn keep(layout: &Layout, fleet: &FleetId) -> anyhow::Result<()> {
    let key = keyring::load_signing(&layout.key("release"))?;
    sign_statement(layout, fleet, of_sites(layout)?, &key)?;
    if let Host::Remote(remote) = Host::of(layout)? {
        // HQ's host encrypts its backups to whom it says.
        let bytes = durable::read_regular(&statement_path(layout), MAX_TEXT_BYTES)?;
        client::check(&remote.client.put("/recipients", bytes.into())?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::testing::{Sample, sample};

    fn key(seed: u8) -> RecipientPublic {
        RecipientPublic::from_bytes([seed; 32])
    }

    fn fleet(sample: &Sample) -> (FleetId, SiteId) {
        let inventory = crate::lint::read(&sample.layout).0.unwrap().inventory;
        (inventory.fleet.id, inventory.sites["sample-office"].id.clone())
    }

    /// As an editor of git could write it.
    fn pin(sample: &Sample, site: &SiteId, keys: &[RecipientPublic]) {
        let mut text = format!("site = \"{site}\"\n");
        for key in keys {
            text += &format!(
                "[[appliance]]\nrecipient = \"{key:?}\"\nenrolled = \"2026-11-20T00:00:00Z\"\ntoken = \"00\"\n"
            );
        }
        sample.write(&format!("enrolled/{site}.toml"), text);
    }

    fn lines(sample: &Sample) -> Vec<String> {
        let sites = enrol::recipients(&sample.layout).unwrap();
        changes(&sample.layout, &sites, &|_| Some("Bern".to_owned())).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_new_fleet_has_nothing_to_ask_about() {
        let sample = sample();
        assert_eq!(lines(&sample), <[String; 0]>::default());
        ask_about(&sample.layout, false, &|_| None).unwrap();
    }

    #[test]
    fn a_changed_recovery_key_is_two_lines_and_a_question() {
        let sample = sample();
        sample.write("root/recovery.pub", format!("{:?}\n", key(7)));
        let lines = lines(&sample);
        assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("the recovery key")), "{lines:?}");
        assert!(lines.contains(&format!(
            "+ recipient {}  the recovery key, which opens every release of the fleet: nobody proved this",
            "07".repeat(8)
        )));
        ask_about(&sample.layout, true, &|_| None).unwrap();
    }

    #[test]
    fn an_edited_enrolment_is_a_question_until_it_is_signed_and_a_proven_one_is_none() {
        let sample = sample();
        let (fleet, site) = fleet(&sample);
        pin(&sample, &site, &[key(1)]);
        assert_eq!(
            lines(&sample),
            [format!("+ recipient {}  an appliance of Bern: nobody proved this", "01".repeat(8))]
        );
        std::fs::remove_file(sample.layout.enrolled().join(format!("{site}.toml"))).unwrap();
        // The desk has checked a token's proof.
        agree(&sample.layout, &site, &[], &[key(1)]).unwrap();
        pin(&sample, &site, &[key(1)]);
        assert_eq!(lines(&sample), [format!("+ recipient {}  an appliance of Bern", "01".repeat(8))]);
        keep(&sample.layout, &fleet).unwrap();
        assert_eq!(lines(&sample), <[String; 0]>::default());
        assert!(!agreed_path(&sample.layout).exists());
        // Somebody else's key in its place.
        pin(&sample, &site, &[key(2)]);
        assert_eq!(lines(&sample).iter().filter(|line| line.ends_with("nobody proved this")).count(), 2);
    }

    #[test]
    fn a_proven_enrolment_does_not_carry_an_edited_one_along() {
        let sample = sample();
        let (_, site) = fleet(&sample);
        agree(&sample.layout, &site, &[key(2)], &[key(1), key(2)]).unwrap();
        pin(&sample, &site, &[key(1), key(2)]);
        assert_eq!(lines(&sample).iter().filter(|line| line.ends_with("nobody proved this")).count(), 2);
    }

    #[test]
    fn a_revoked_site_is_no_question() {
        let sample = sample();
        let (fleet, site) = fleet(&sample);
        pin(&sample, &site, &[key(1)]);
        keep(&sample.layout, &fleet).unwrap();
        agree(&sample.layout, &site, &[key(1)], &[]).unwrap();
        std::fs::remove_file(sample.layout.enrolled().join(format!("{site}.toml"))).unwrap();
        assert_eq!(lines(&sample), [format!("- recipient {}  an appliance of Bern", "01".repeat(8))]);
    }

    #[test]
    fn a_statement_that_the_release_key_did_not_sign_is_none() {
        let sample = sample();
        let (fleet, site) = fleet(&sample);
        pin(&sample, &site, &[key(1)]);
        let stranger = SigningKey::from_seed(&[66; 32]);
        sign_statement(&sample.layout, &fleet, enrol::recipients(&sample.layout).unwrap(), &stranger).unwrap();
        assert_eq!(lines(&sample).len(), 2, "the recovery key and the appliance");
        // Nor is a changed one.
        keep(&sample.layout, &fleet).unwrap();
        sample.replace("root/recipients.json", &"01".repeat(32), &"02".repeat(32));
        assert_eq!(lines(&sample).len(), 2);
    }
}
