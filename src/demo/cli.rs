//! The command line of the demo.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use super::{files, scenario};
use ids::MacAddr;

/// Shows Lineside in one process: HQ, two sites and their phones, on loopback. Then stays up for you to try.
#[derive(Debug, Parser)]
#[command(name = "demo", version, max_term_width = 100)]
pub struct Cli {
    /// End after the scenes: exit status 0 if all held, 1 if not
    #[arg(long, conflicts_with_all = ["files", "stay"])]
    once: bool,
    /// Instead of the scenes: publish this directory's files through the whole path and serve them by TFTP.
    /// Files whose name carries a MAC address are that device's, others everyone's
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// Where to serve them; a loopback address
    #[arg(long, value_name = "ADDR:PORT", requires = "files", default_value = "127.0.0.1:6969")]
    tftp: SocketAddrV4,
    /// The device behind a loopback address; may be repeated
    #[arg(long, value_name = "IP=MAC", requires = "files", value_parser = neighbour)]
    neighbour: Vec<(Ipv4Addr, MacAddr)>,
    /// Leave the appliance's state and configuration in this directory, for `lineside --config DIR/lineside.toml run`
    /// to serve them; only HQ stays here
    #[arg(long, value_name = "DIR", requires = "files")]
    keep: Option<PathBuf>,
    /// Stay up until Ctrl-C or SIGTERM; without it `--files` ends once everything is served
    #[arg(long)]
    stay: bool,
}

fn neighbour(text: &str) -> Result<(Ipv4Addr, MacAddr), String> {
    let (address, mac) = text.split_once('=').ok_or("write IP=MAC, for example 127.0.0.20=00:04:f2:aa:bb:cc")?;
    Ok((
        address.parse().map_err(|_| format!("`{address}` is no IPv4 address"))?,
        mac.parse().map_err(|error: ids::MacAddrError| error.to_string())?,
    ))
}

/// Runs the demo. The exit status is 0 if every claim held and 1 if not.
pub async fn main() -> ExitCode {
    let cli = Cli::parse();
    // The log of the services would hide the scenes between its lines. LINESIDE_LOG=info shows it.
    telemetry::start("error");
    let outcome = match &cli.files {
        Some(dir) => serve_files(&cli, dir.clone()).await,
        None => story(cli.once).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", telemetry::explain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn story(once: bool) -> anyhow::Result<()> {
    let finished = scenario::play().await?;
    if !once {
        finished.tell_what_to_try();
        until_told().await?;
    }
    finished.stop().await;
    Ok(())
}

async fn serve_files(cli: &Cli, dir: PathBuf) -> anyhow::Result<()> {
    let served = files::serve(&dir, cli.tftp, &cli.neighbour, cli.keep.as_deref()).await?;
    println!("{served}");
    if cli.stay {
        until_told().await?;
    }
    served.stop().await;
    Ok(())
}

async fn until_told() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
