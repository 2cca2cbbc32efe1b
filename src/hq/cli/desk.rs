//! `api-token`, `login`, `logout`, and what `serve` says about keys: the commands of two machines.

use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use clap::Subcommand;

use crate::host::Host;
use crate::inventory::FleetInventory;
use crate::{commit, login};
use ids::UnixTime;
use online::db::Db;
use online::foreign_keys::{self, ForeignKeys};
use online::service::{self, operators};
use repository::layout::Layout;
use settings::count;
use telemetry::Hint as _;

/// How many keys are named.
const NAMED: usize = 6;

/// What can be done with API tokens, on HQ's host.
#[derive(Debug, Subcommand)]
pub enum ApiTokenCommand {
    /// Make a token by which a desk logs in; it is printed once
    Add {
        /// Whose it is
        name: String,
        /// For how many days it is good
        #[arg(long, default_value_t = login::DAYS)]
        days: u32,
        /// The online directory [default: online in the fleet directory]
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// List the tokens
    List {
        /// The online directory [default: online in the fleet directory]
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Refuse a token from now on
    Revoke {
        /// Whose it is
        name: String,
        /// The online directory [default: online in the fleet directory]
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

pub(super) fn api_token(
    layout: &Layout,
    command: &ApiTokenCommand,
    now: UnixTime,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    match command {
        ApiTokenCommand::Add { name, days, dir } => {
            let (text, until) = login::add_token(&of_host(layout, dir)?, name, *days, now)?;
            writeln!(out, "{}", *text)?;
            eprintln!(
                "good until {until}, and shown only now. At the desk, in the fleet directory:\n  \
                 lineside-hq login https://HOST:8444      asks for the line above"
            );
        }
        ApiTokenCommand::List { dir } => {
            let tokens = Db::open_existing(&of_host(layout, dir)?.join("hq.sqlite"))?.api_tokens()?;
            let width = tokens.iter().map(|token| token.name.len()).max().unwrap_or(0).max(4);
            writeln!(out, "{:width$}  {:20}  {:20}  STATE", "NAME", "UNTIL", "USED")?;
            for token in tokens {
                let used = token.used_at.map_or_else(|| "never".to_owned(), |time| time.to_string());
                let state = match token.revoked_at {
                    Some(at) => format!("revoked at {at}"),
                    None if token.until <= now => "ended".to_owned(),
                    None => "good".to_owned(),
                };
                writeln!(out, "{:width$}  {:20}  {used:20}  {state}", token.name, token.until.to_string())?;
            }
        }
        ApiTokenCommand::Revoke { name, dir } => {
            let db = Db::open_existing(&of_host(layout, dir)?.join("hq.sqlite"))?;
            ensure!(db.revoke_api_token(name, now)?, "there is no API token `{name}` that works");
            writeln!(out, "revoked {name}: it is refused from now on")?;
        }
    }
    Ok(())
}

/// The `online/` directory of HQ's host.
fn of_host(layout: &Layout, dir: &Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let online = dir.clone().unwrap_or_else(|| layout.online());
    if !online.join("ca.key").exists() {
        return Err(anyhow!("{} is not that of HQ's host: it has no ca.key", online.display())
            .hint("run it on the host, with --dir and the directory that `serve` has"));
    }
    Ok(online)
}

pub(super) fn log_in(
    layout: &Layout,
    inventory: &FleetInventory,
    url: &str,
    file: Option<&Path>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let text = login::token_text(file)?;
    let session = login::login(layout, inventory, url, &text)?;
    let host = Host::of(layout)?;
    host.pull(layout)?;
    writeln!(out, "logged in to {}: it serves {}", session.url, count(host.sites()?.len(), "site"))?;
    writeln!(
        out,
        "site enroll, publish, fleet and site revoke go there from now on; online/ here is a copy of its tree"
    )?;
    Ok(())
}

pub(super) fn log_out(layout: &Layout, out: &mut dyn Write) -> anyhow::Result<()> {
    match login::logout(layout)? {
        Some(url) => writeln!(
            out,
            "logged out of {url}; the token is good there until `lineside-hq api-token revoke` on the host"
        )?,
        None => writeln!(out, "nobody was logged in")?,
    }
    Ok(())
}

/// Brings this directory's copy up to date, and says whether the checkout lacks what was published.
pub(super) fn pull(layout: &Layout, fleet: &FleetInventory) -> anyhow::Result<Option<commit::Outdated>> {
    let host = Host::of(layout)?;
    host.pull(layout)?;
    Ok(commit::outdated(layout.dir(), &host.pushed()?, &|site| fleet.name_of(site)))
}

/// Fails if publishing would take back what was published from commits that are not here.
pub(super) fn refuse_outdated(outdated: Option<commit::Outdated>, said: bool) -> anyhow::Result<()> {
    match outdated {
        Some(outdated) if !said => Err(anyhow!("{outdated}; publishing would take that back")
            .hint("`git pull` first; if that commit shall not come back, say --outdated")),
        _ => Ok(()),
    }
}

/// Refuses to serve where the fleet's own keys can be read, or warns.
pub(super) fn mind_keys(online: &Path, keys_here: bool) -> anyhow::Result<()> {
    let ForeignKeys { beside, moved } = foreign_keys::readable(online);
    if !moved.is_empty() {
        tracing::warn!(
            keys = list(&moved),
            "this user can read the fleet's keys where `keys move` put them; run `serve` as a user who cannot"
        );
    }
    if beside.is_empty() {
        return Ok(());
    }
    let found = list(&beside);
    let danger = "who breaks into this process can forge releases and read passwords";
    if keys_here {
        tracing::warn!(
            keys = found,
            "KEYS HERE: {danger}. This is for trying it out; move the keys before sites depend on it"
        );
        return Ok(());
    }
    let hint = "keep them on another machine (src/hq/README.md, Two machines), or take them away with \
                `lineside-hq keys move DIR`; --keys-here serves all the same, to try it out";
    if foreign_keys::is_kept_apart(online) {
        return Err(anyhow!("`serve` can read keys that are not its own, and {danger}:\n{found}").hint(hint));
    }
    tracing::error!(keys = found, "KEYS HERE: {danger}. The next version will not start so\n  hint: {hint}");
    Ok(())
}

fn list(paths: &[PathBuf]) -> String {
    let mut text = String::new();
    for path in paths.iter().take(NAMED) {
        let _ = writeln!(text, "  {}", path.display());
    }
    if let Some(more) = paths.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let _ = writeln!(text, "  and {more} more");
    }
    text.truncate(text.trim_end().len());
    text
}

/// Answers operators, too. Without an address that somebody named, a port that is taken is no failure.
pub(super) fn with_operators(server: service::Server, address: Option<SocketAddr>) -> anyhow::Result<service::Server> {
    if let Some(address) = address {
        return server.operators(address);
    }
    let address: SocketAddr = operators::DEFAULT_ADDRESS.parse().context("the default address")?;
    if let Err(error) = std::net::TcpListener::bind(address) {
        tracing::warn!(%address, %error, "operators are not answered; name another address with --operators");
        return Ok(server);
    }
    server.operators(address)
}
