//! `keys`: the commands of key ceremonies, which work on files.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Subcommand;

use super::authority::CaCommand;
use crate::keys::{self, FleetKeys, Role, RoleChange};
use crate::{ask, clock, keys_move};
use ids::UnixTime;
use repository::keyring::{self, Passphrase};
use repository::layout::Layout;
use telemetry::Hint as _;
use tuf::PublicKey;

/// What can be done with keys.
///
/// To change who is trusted: prepare a new root (`rotate`, `revoke`, `root new-version`), have enough holders `sign`
/// it, `finish` it, and publish.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Show who is trusted, and what a prepared root would change
    Show,
    /// Make a key file for a holder, and FILE.pub with its public half
    Create {
        /// The key file, on the holder's own medium
        file: PathBuf,
        /// Encrypt it with a passphrase: typed, or in LINESIDE_PASSPHRASE
        #[arg(long)]
        passphrase: bool,
    },
    /// Move a key out of keys/ to its holder's medium
    HandOver {
        /// The key file's name without .key: root-2
        name: String,
        /// The directory that it goes to
        to: PathBuf,
        /// Encrypt it with a passphrase of the holder's own
        #[arg(long)]
        passphrase: bool,
    },
    /// Move keys/ to a directory that `serve` cannot read; a link stays
    Move {
        /// The directory that it becomes; it must not exist or be empty
        dir: PathBuf,
    },
    /// Prepare a root in which a new key stands for an old one
    Rotate {
        /// Whose
        role: Role,
        /// The old key, by the beginning of its id; needed if there are several
        #[arg(long, value_name = "ID")]
        old: Option<String>,
        /// The public half of a key that a holder made; else one is made in keys/
        #[arg(long, value_name = "FILE.pub")]
        key: Option<PathBuf>,
        /// How it is prepared
        #[command(flatten)]
        how: How,
    },
    /// Prepare a root that no longer trusts a key
    Revoke {
        /// Whose
        role: Role,
        /// The key, by the beginning of its id
        id: String,
        /// How it is prepared
        #[command(flatten)]
        how: How,
    },
    /// Make, use or retire the certificate authority that stands by for HQ's
    #[command(subcommand)]
    Ca(CaCommand),
    /// Prepare a root in full detail
    #[command(subcommand)]
    Root(RootCommand),
    /// Show what a prepared root or firmware catalogue changes, and sign it after a yes
    Sign {
        /// The file
        file: PathBuf,
        /// The holder's key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Sign without being asked
        #[arg(long)]
        yes: bool,
    },
    /// Check the signatures of the prepared root and put it in place
    Finish {
        /// Only check
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget the prepared root
    Discard,
}

/// How a root is prepared.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Only print what would be trusted
    #[arg(long)]
    dry_run: bool,
    /// Encrypt a key that is made with a passphrase: typed, or in LINESIDE_PASSPHRASE
    #[arg(long)]
    passphrase: bool,
}

/// What can be done with the root.
#[derive(Debug, Subcommand)]
pub enum RootCommand {
    /// Prepare the next version: with these changes, or only with a new expiry
    NewVersion {
        /// Trust a further key
        #[arg(long, value_name = "ROLE=FILE.pub")]
        add: Vec<String>,
        /// Trust a key no longer
        #[arg(long, value_name = "ROLE=ID")]
        remove: Vec<String>,
        /// How many must sign
        #[arg(long, value_name = "ROLE=N")]
        threshold: Vec<String>,
        /// Sites set the time that they remember to this machine's, also backwards: after a release was made under a clock
        /// that was ahead
        #[arg(long)]
        set_time: bool,
        /// This machine's clock is right, whatever others show
        #[arg(long, requires = "set_time")]
        clock_is_right: bool,
        /// Only print what would be trusted
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs the command. The expiry of a prepared root counts from `now`.
pub(super) fn run(layout: &Layout, command: &KeysCommand, now: UnixTime, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        KeysCommand::Show => write!(out, "{}", FleetKeys::read(layout)?.describe()?)?,
        KeysCommand::Create { file, passphrase } => {
            let passphrase = passphrase.then(Passphrase::for_new_keys).transpose()?;
            let key = keyring::create(file, "A key of one holder. Keep it offline.", passphrase.as_ref())?;
            let public = file.with_extension("pub");
            let comment = format!("The public half of a key.\npublic id: {}", key.public().id().0);
            keyring::save_public(&public, &[key.public().to_bytes()], &comment)?;
            writeln!(out, "made {}; hand {} to whoever prepares the root", file.display(), public.display())?;
        }
        KeysCommand::HandOver { name, to, passphrase } => {
            let passphrase = passphrase.then(Passphrase::for_new_keys).transpose()?;
            let copy = keys::hand_over(layout, name, to, passphrase.as_ref())?;
            writeln!(out, "moved to {}; it is no longer in {}", copy.display(), layout.keys().display())?;
        }
        KeysCommand::Move { dir } => {
            let to = keys_move::move_keys(layout, dir)?;
            writeln!(out, "the keys are in {}; {} leads there", to.display(), layout.keys().display())?;
            writeln!(out, "run `serve` as a user who may not enter that directory")?;
        }
        KeysCommand::Rotate { role, old, key, how } => {
            rotate(layout, *role, old.as_deref(), key.as_ref(), how, now, out)?
        }
        KeysCommand::Revoke { role, id, how } => {
            let keys = FleetKeys::read(layout)?;
            let change = RoleChange::Remove(*role, keys.find(*role, Some(id))?);
            prepare(keys, &[change], how.dry_run, now, out)?;
        }
        KeysCommand::Ca(command) => super::authority::run(layout, command, now, out)?,
        KeysCommand::Root(RootCommand::NewVersion { add, remove, threshold, set_time, clock_is_right, dry_run }) => {
            let keys = FleetKeys::read(layout)?;
            let mut changes = Vec::new();
            for text in add {
                let (role, file) = split(text)?;
                changes.push(RoleChange::Add(role, public(&PathBuf::from(file))?));
            }
            for text in remove {
                let (role, id) = split(text)?;
                changes.push(RoleChange::Remove(role, keys.find(role, Some(id))?));
            }
            for text in threshold {
                let (role, number) = split(text)?;
                changes.push(RoleChange::Threshold(role, number.parse().context("a threshold is a number")?));
            }
            if *set_time {
                // All sites would believe it, so nothing less is asked of this clock than of one that signs.
                if !dry_run {
                    clock::may_state(layout, now, *clock_is_right)?;
                }
                changes.push(RoleChange::Time(now));
            }
            prepare(keys, &changes, *dry_run, now, out)?;
        }
        KeysCommand::Sign { file, key, yes } => {
            let review = keys::Review::read(file, &layout.signed())?;
            let names = keys::names(layout)?;
            write!(out, "{}", review.text(&names)?)?;
            out.flush()?;
            if !yes && !ask::is_yes(&format!("Sign {}?", file.display()))? {
                return Err(anyhow!("{} was not signed", file.display())).hint("answer y, or say --yes");
            }
            let key = keyring::load_signing(key)?;
            // A holder's machine may have only the file and the key, and no fleet directory.
            let keys = if layout.signed().is_dir() { Some(FleetKeys::read(layout)?) } else { None };
            review.sign(file, &key, keys.as_ref())?;
            writeln!(out, "signed {} with the key {}", file.display(), key.public().id().0)?;
            if layout.signed().is_dir() {
                write!(out, "{}", FleetKeys::read(layout)?.describe()?)?;
            }
        }
        KeysCommand::Finish { dry_run } => {
            let mut keys = FleetKeys::read(layout)?;
            write!(out, "{}", keys.describe()?)?;
            if *dry_run {
                keys.check()?;
                writeln!(out, "it can be put in place; nothing was changed")?;
            } else {
                let next = keys.finish()?;
                writeln!(out, "root version {} is in place\n\nnext:", FleetKeys::read(layout)?.trusted().version)?;
                for line in next {
                    writeln!(out, "  {line}")?;
                }
            }
        }
        KeysCommand::Discard => {
            let gone = FleetKeys::read(layout)?.discard()?;
            writeln!(out, "{}", if gone { "forgot the prepared root" } else { "no root was prepared" })?;
        }
    }
    Ok(())
}

fn rotate(
    layout: &Layout,
    role: Role,
    old: Option<&str>,
    key: Option<&PathBuf>,
    how: &How,
    now: UnixTime,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let keys = FleetKeys::read(layout)?;
    let old = RoleChange::Remove(role, keys.find(role, old)?);
    let new = match key {
        Some(file) => public(file)?,
        // A dry run prepares the root with a key that is not kept.
        None if how.dry_run => tuf::SigningKey::generate().public(),
        None => {
            let passphrase = how.passphrase.then(Passphrase::for_new_keys).transpose()?;
            // Try the change before a key file is made, so that an impossible one leaves no file behind.
            FleetKeys::read(layout)?
                .prepare(&[old.clone(), RoleChange::Add(role, tuf::SigningKey::generate().public())], now)?;
            let (path, key) = keys.create_for(role, passphrase.as_ref())?;
            writeln!(out, "made {}", path.display())?;
            key.public()
        }
    };
    prepare(keys, &[old, RoleChange::Add(role, new)], how.dry_run, now, out)
}

pub(super) fn prepare(
    mut keys: FleetKeys,
    changes: &[RoleChange],
    dry_run: bool,
    now: UnixTime,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    keys.prepare(changes, now)?;
    write!(out, "{}", keys.describe()?)?;
    if dry_run {
        writeln!(out, "nothing was changed")?;
        return Ok(());
    }
    let path = keys.save()?.display();
    writeln!(out, "\nnext:")?;
    writeln!(out, "  lineside-hq keys sign {path} --key FILE    by each holder")?;
    writeln!(out, "  lineside-hq keys finish")?;
    Ok(())
}

/// Splits `ROLE=REST` into the role and the rest.
fn split(text: &str) -> anyhow::Result<(Role, &str)> {
    let (role, rest) = text.split_once('=').ok_or_else(|| anyhow!("`{text}` is not ROLE=…"))?;
    let role = <Role as clap::ValueEnum>::from_str(role, false)
        .map_err(|_| anyhow!("`{role}` is no role"))
        .hint("root, release, online, firmware")?;
    Ok((role, rest))
}

/// Reads the public key of a `.pub` file, which must hold exactly one.
fn public(file: &std::path::Path) -> anyhow::Result<PublicKey> {
    match keyring::load_public_signing(file)?.as_slice() {
        [key] => Ok(key.clone()),
        _ => Err(anyhow!("{} must hold one public key", file.display())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;
    use crate::testing::{Sample, sample};
    use repository::witness::ClockRecord;

    const YEARS: i64 = 3 * 365 * 86_400;

    /// `keys root new-version` with these options, by a clock that says `now`.
    fn new_version(sample: &Sample, now: UnixTime, options: &[&str]) -> Result<(), String> {
        let cli = Cli::parse_from(["lineside-hq", "keys", "root", "new-version"].iter().chain(options));
        let Command::Keys(command) = cli.command else { unreachable!("it was asked for") };
        let result = run(&sample.layout, &command, now, &mut Vec::new());
        result.map_err(|error| telemetry::explain(&error))
    }

    fn said(sample: &Sample) -> Option<UnixTime> {
        FleetKeys::read(&sample.layout).unwrap().pending().and_then(tuf::schema::Root::time)
    }

    #[test]
    fn a_root_says_no_time_by_a_clock_that_nothing_bears_out() {
        let sample = sample();
        let made = ClockRecord::read(&sample.layout).person.unwrap();
        for years in [-YEARS, YEARS] {
            let wrong = UnixTime(made.0 + years);
            let text = new_version(&sample, wrong, &["--set-time"]).unwrap_err();
            assert!(text.contains(&wrong.to_string()) && text.contains("--clock-is-right"), "{text}");
            assert!(FleetKeys::read(&sample.layout).unwrap().pending().is_none(), "nothing was prepared");
            // What sets no time is no matter of the clock, and looking changes nothing.
            new_version(&sample, wrong, &["--dry-run", "--set-time"]).unwrap();
            new_version(&sample, wrong, &[]).unwrap();
            assert_eq!(said(&sample), None);
            FleetKeys::read(&sample.layout).unwrap().discard().unwrap();
        }
        new_version(&sample, made, &["--set-time"]).unwrap();
        assert_eq!(said(&sample), Some(made));
    }

    #[test]
    fn after_a_release_under_a_clock_that_was_ahead_a_person_says_that_this_one_is_right() {
        let sample = sample();
        let made = ClockRecord::read(&sample.layout).person.unwrap();
        crate::clock::signed(&sample.layout, UnixTime(made.0 + YEARS)).unwrap();
        assert!(new_version(&sample, made, &["--set-time"]).unwrap_err().contains("earlier than"));
        new_version(&sample, made, &["--set-time", "--clock-is-right"]).unwrap();
        assert_eq!(said(&sample), Some(made));
    }

    #[test]
    fn a_machine_that_has_no_part_of_hqs_host_is_asked_no_less() {
        let sample = sample();
        let made = ClockRecord::read(&sample.layout).person.unwrap();
        std::fs::remove_dir_all(sample.layout.online()).unwrap();
        assert!(new_version(&sample, made, &["--set-time"]).unwrap_err().contains("no other clock is known"));
        new_version(&sample, made, &["--set-time", "--clock-is-right"]).unwrap();
        assert_eq!(said(&sample), Some(made));
        assert!(!sample.layout.online().exists());
    }
}
