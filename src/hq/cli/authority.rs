//! `keys ca`: HQ's certificate authority, and the standby for it.

use std::io::Write;

use clap::Subcommand;

use super::keys::prepare;
use super::run::inventory;
use crate::keys::{self, FleetKeys};
use ids::UnixTime;
use repository::keyring::Passphrase;
use repository::layout::Layout;

/// What can be done with HQ's certificate authority.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make a second CA whose key stays offline, and prepare a root that lists it
    Standby {
        /// Encrypt its key with a passphrase: typed, or in LINESIDE_PASSPHRASE
        #[arg(long)]
        passphrase: bool,
    },
    /// Put the standby in the place of the CA whose key was lost or stolen
    Use,
    /// Prepare a root that lists no CA but the one in use and the standby
    Retire {
        /// Only print what would be trusted
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs the command.
pub(super) fn run(layout: &Layout, command: &CaCommand, now: UnixTime, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        CaCommand::Standby { passphrase } => {
            let passphrase = passphrase.then(Passphrase::for_new_keys).transpose()?;
            let change = keys::standby(layout, &inventory(layout)?.fleet.name, passphrase.as_ref(), now)?;
            writeln!(out, "made keys/standby-ca.key; keep it offline, away from HQ's host")?;
            prepare(FleetKeys::read(layout)?, &[change], false, now, out)
        }
        CaCommand::Use => {
            let url = inventory(layout)?.fleet.url;
            let host =
                crate::init::host_of(&url).ok_or_else(|| anyhow::anyhow!("`url` of fleet.toml names no host"))?;
            for line in keys::use_standby(layout, &host)? {
                writeln!(out, "{line}")?;
            }
            Ok(())
        }
        CaCommand::Retire { dry_run } => {
            prepare(FleetKeys::read(layout)?, &[keys::retire(layout)?], *dry_run, now, out)
        }
    }
}
