//! The command line of `lineside`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::{Parser, Subcommand};

use super::config::{ApplianceSettings, DEFAULT_PATH};
use super::{clock, doctor, opener, run};
use access::{LogKind, OwnLog};
use api::EnrolmentToken;
use ids::{MacAddr, UnixTime};
use status::{StatusReport, service};
use store::{Store, StoreError, logs};
use telemetry::Hint as _;

/// The largest token file, in bytes; a real one has under 700.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;

/// Lineside, the appliance: points this site's phones here and serves each its own files.
#[derive(Debug, Parser)]
#[command(name = "lineside", version, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Become the site that a token file names. Needs HQ; works once per token.
    Enroll {
        /// The file that `lineside-hq site enroll` wrote. It is wiped afterwards: the token is used up.
        token: PathBuf,
        /// Leave the token file where it is.
        #[arg(long)]
        keep: bool,
    },
    /// Serve this site until SIGTERM. SIGHUP polls HQ now.
    Run,
    /// Show how the running appliance is.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Poll HQ now, then show nothing else.
        #[arg(long)]
        poll: bool,
    },
    /// Tell whether the running appliance does what it is for; exit status 0 if so.
    Health,
    /// Look at this LAN's DHCP and say what to do. Needs no set-up, changes nothing, takes 9 seconds.
    Doctor {
        /// The LAN's interface; needed only if there are several.
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
    },
    /// Show what phones wrote into their logs here, if HQ lets this site take logs (`accept-logs`).
    Logs {
        /// The phone's MAC address: its logs in full. Without it, the list of all.
        device: Option<MacAddr>,
    },
    /// Check a configuration file; reports every problem at once.
    CheckConfig {
        /// The file, instead of `--config`.
        file: Option<PathBuf>,
    },
    /// Open the sockets that need a capability and leave them with systemd. Started by lineside.service.
    #[command(hide = true)]
    OpenPacketSockets,
    /// Go back to the release before this one, until HQ publishes a newer one.
    RollBack,
}

/// Runs the command line and prints errors with a hint. Exit status: 0 done, 1 failed, 2 wrong usage.
pub async fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", telemetry::explain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn execute(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::CheckConfig { file } => check_config(file.as_deref().unwrap_or(&cli.config)),
        Command::Enroll { token, keep } => enroll(&ApplianceSettings::load(&cli.config)?, &token, keep).await,
        Command::Run => {
            let settings = ApplianceSettings::load(&cli.config)?;
            telemetry::start(&settings.log);
            run::until_stopped(&settings).await
        }
        Command::Status { json, poll } => status(&ApplianceSettings::load(&cli.config)?, json, poll).await,
        Command::Health => health(&ApplianceSettings::load(&cli.config)?).await,
        Command::Doctor { interface } => print(&doctor::examine(interface.as_deref()).await?),
        Command::Logs { device } => show_logs(&ApplianceSettings::load(&cli.config)?, device),
        Command::OpenPacketSockets => opener::hand_over(),
        Command::RollBack => roll_back(&ApplianceSettings::load(&cli.config)?).await,
    }
}

fn check_config(path: &Path) -> anyhow::Result<()> {
    let settings = ApplianceSettings::load(path)?;
    print(&format!("{}: no problems; state is kept in {}\n", path.display(), settings.state.display()))
}

async fn enroll(settings: &ApplianceSettings, path: &Path, keep: bool) -> anyhow::Result<()> {
    telemetry::start("warn");
    let token = read_token(path)?;
    let store = Store::open(&settings.state).map_err(explain_store)?;
    let identity = update::enrol::enrol(&token, &store, clock::synchronised())
        .await
        .with_context(|| format!("this appliance is not enrolled at {}", token.hq))?;
    if !keep {
        // On flash memory the old bytes may still be there. So a token works only once, and for three days.
        durable::wipe(path)
            .with_context(|| format!("enrolled, but {} could not be wiped: delete it by hand", path.display()))?;
    }
    print(&format!(
        "enrolled as site {} of fleet {}\nnow publish at HQ (`lineside-hq publish`), then start the service: lineside run\n",
        identity.site(),
        identity.fleet()
    ))
}

fn read_token(path: &Path) -> anyhow::Result<EnrolmentToken> {
    let meta = std::fs::metadata(path).with_context(|| format!("cannot read the token file {}", path.display()))?;
    if meta.len() > MAX_TOKEN_BYTES {
        bail!("{} is no token file: it is over {MAX_TOKEN_BYTES} bytes", path.display());
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the token file {}", path.display()))?;
    toml::from_str(&text)
        .map_err(|error| anyhow!("{} is no token file: {}", path.display(), error.message()))
        .hint("use the file that `lineside-hq site enroll SITE --output FILE` wrote, unchanged")
}

async fn status(settings: &ApplianceSettings, json: bool, poll: bool) -> anyhow::Result<()> {
    let answer = ask(settings, if poll { "poll" } else { "status" }).await?;
    if poll {
        let said: String = serde_json::from_str(&answer).context("the appliance's answer is not understood")?;
        return print(&format!("{said}\n"));
    }
    let report: StatusReport = serde_json::from_str(&answer)
        .context("the appliance's answer is not understood; is it another version? Restart it")?;
    if json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&report)?));
    }
    print(&report.text())
}

/// Reads the log files directly. That is safe beside a running appliance, which replaces only whole files.
fn show_logs(settings: &ApplianceSettings, device: Option<MacAddr>) -> anyhow::Result<()> {
    let state = &settings.state;
    let unreadable = || format!("cannot read the logs under {}; run as the user that owns it", state.display());
    let Some(device) = device else {
        let kept = logs::kept(state).with_context(unreadable)?;
        if kept.is_empty() {
            return print("no logs are kept here; sites take them where HQ sets [tftp] accept-logs = true\n");
        }
        let mut out = format!("{:<24} {:>8}  last written\n", "log", "bytes");
        for one in kept {
            let written = one.written.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
            let written = UnixTime(i64::try_from(written).unwrap_or(i64::MAX));
            let _ = writeln!(out, "{:<24} {:>8}  {written}", one.log.to_string(), one.bytes);
        }
        return print(&out);
    };
    let mut out = String::new();
    for kind in LogKind::ALL {
        let log = OwnLog { device, kind };
        if let Some(text) = logs::read(state, log).with_context(unreadable)? {
            let _ = writeln!(out, "#### {log}");
            out.push_str(&printable(&text));
        }
    }
    if out.is_empty() {
        bail!("no log of {device} is kept here");
    }
    print(&out)
}

/// A device wrote the text, so control characters are replaced: a terminal must not obey them.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars()
        .filter(|c| *c != '\r')
        .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '?' } else { c })
        .collect()
}

async fn ask(settings: &ApplianceSettings, request: &str) -> anyhow::Result<String> {
    let path = &settings.status_socket;
    service::ask(path, request).await.with_context(|| {
        format!("no appliance answers on {}; is `lineside run` running, and may you read its socket?", path.display())
    })
}

async fn health(settings: &ApplianceSettings) -> anyhow::Result<()> {
    let answer = ask(settings, "health").await?;
    let outcome: Result<String, String> =
        serde_json::from_str(&answer).context("the appliance's answer is not understood")?;
    let said = outcome.map_err(|why| anyhow!("not healthy: {why}"))?;
    print(&format!("healthy: {said}\n"))
}

async fn roll_back(settings: &ApplianceSettings) -> anyhow::Result<()> {
    if let Ok(answer) = service::ask(&settings.status_socket, "roll-back").await {
        let outcome: Result<String, String> =
            serde_json::from_str(&answer).context("the appliance's answer is not understood")?;
        let said = outcome.map_err(|reason| anyhow!("{reason}"))?;
        return print(&format!("{said}\n"));
    }
    let store = Store::open(&settings.state).map_err(explain_store)?;
    let done = update::roll_back(&store)?;
    print(&format!("{done}\n"))
}

fn explain_store(error: StoreError) -> anyhow::Error {
    let hint = match &error {
        StoreError::Locked => "stop the running appliance first (systemctl stop lineside)",
        StoreError::Io { .. } => "run as the user that owns the state directory, or set storage.state",
        _ => "what to do for each code of the disk is in CODES.md",
    };
    anyhow::Error::new(error).context("cannot open the state directory").hint(hint)
}

fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // `lineside status | head -1` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
