//! HQ and sites of the demo. They are real, in a temporary directory and on free ports of loopback.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio_util::sync::CancellationToken;

use api::{EnrolmentToken, SiteState};
use appliance::clock;
use appliance::config::{ApplianceSettings, DhcpPart};
use appliance::run::{self, RunningAppliance};
use hq::enrol;
use hq::init::{self, InitOptions};
use hq::inventory::FleetInventory;
use hq::progress::Silent;
use hq::publish::{self, PublishOptions, Summary};
use ids::{Generation, MacAddr};
use online::service;
use repository::layout::Layout;
use status::StatusReport;
use store::Store;

/// How long one step may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A new HQ: its fleet directory, and its service while that runs.
#[derive(Debug)]
pub struct DemoHq {
    /// The paths within its fleet directory.
    pub layout: Layout,
    /// The address and port of its service. They stay the same when it stops and serves again.
    pub address: SocketAddr,
    serving: Option<(CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>)>,
}

impl DemoHq {
    /// Does what `lineside-hq init` does, then what `lineside-hq serve` does.
    pub async fn start(dir: &Path, name: &str) -> anyhow::Result<Self> {
        // `init` signs and certifies the URL, so the port must be known before.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr())?;
        let layout = Layout::new(dir.join("hq"));
        let options = InitOptions { name: name.to_owned(), url: format!("https://{address}"), now: clock::now() };
        let made = layout.clone();
        tokio::task::spawn_blocking(move || init::init(made.dir(), &options)).await??;
        let mut hq = Self { layout, address, serving: None };
        tracing::warn!("KEYS HERE: this HQ serves beside the fleet's keys, as `serve --keys-here` does; a demo may");
        hq.serve()?;
        Ok(hq)
    }

    /// Starts serving, again after [`DemoHq::go_away`].
    pub fn serve(&mut self) -> anyhow::Result<()> {
        let server = service::Server::bind(service::ServeOptions { dir: self.layout.online(), listen: self.address })?;
        let stop = CancellationToken::new();
        self.serving = Some((stop.clone(), tokio::spawn(server.run(stop))));
        Ok(())
    }

    /// Stops serving, as if HQ's machine were off: connections are refused.
    pub async fn go_away(&mut self) -> anyhow::Result<()> {
        if let Some((stop, task)) = self.serving.take() {
            stop.cancel();
            task.await??;
        }
        Ok(())
    }

    /// Does what `lineside-hq publish` does, for all sites.
    pub async fn publish(&self) -> anyhow::Result<Summary> {
        let layout = self.layout.clone();
        let options = PublishOptions { sites: None, now: clock::now() };
        tokio::task::spawn_blocking(move || publish::publish(&layout, &options, &mut Silent)).await?
    }

    /// Makes a token for this site, as `lineside-hq site enroll` does.
    pub fn token(&self, site: &str) -> anyhow::Result<EnrolmentToken> {
        let mut problems = Vec::new();
        let Some(inventory) = FleetInventory::read(&self.layout, &mut problems) else {
            bail!("the demo's fleet directory does not read: {problems:?}")
        };
        let fleet = &inventory.fleet;
        let site = inventory.sites.get(site).with_context(|| format!("the demo has no site {site}"))?;
        enrol::issue(&self.layout, &site.id, &site.name, &fleet.id, &fleet.url, fleet.repository.as_deref())
    }

    /// Writes a file of the fleet directory.
    pub fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.layout.dir().join(file);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Replaces the first `from` in a file of the fleet directory by `to`, as a person would with an editor.
    pub fn edit(&self, file: &str, from: &str, to: &str) -> anyhow::Result<()> {
        let path = self.layout.dir().join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(text.contains(from), "{file} has no `{from}` to change");
        self.write(file, &text.replacen(from, to, 1))
    }
}

/// One appliance that has enrolled as a site and runs.
#[derive(Debug)]
pub struct DemoSite {
    /// The name of the site at HQ.
    pub name: String,
    /// The tasks of the appliance.
    pub running: RunningAppliance,
    settings: ApplianceSettings,
}

impl DemoSite {
    /// Does what `lineside enroll` does with a token, then what `lineside run` does, as an ordinary user on loopback.
    pub async fn start(
        dir: &Path,
        name: &str,
        token: &EnrolmentToken,
        tftp: SocketAddrV4,
        neighbours: BTreeMap<Ipv4Addr, MacAddr>,
        dhcp: DhcpPart,
    ) -> anyhow::Result<Self> {
        let state = dir.join(name);
        let settings = ApplianceSettings {
            interface: Some("lo".to_owned()),
            allow_loopback: true,
            neighbours,
            state: state.clone(),
            tftp: appliance::config::TftpPart {
                enabled: true,
                port: tftp.port(),
                max_transfers: 2_000,
                max_transfers_per_device: 64,
            },
            dhcp,
            image_state: state.join("image.toml"),
            poll: Duration::from_secs(300),
            status_socket: dir.join(format!("{name}.sock")),
            log: "error".to_owned(),
        };
        {
            let store = Store::open(&state)?;
            update::enrol::enrol(token, &store, clock::synchronised()).await.context("enrolment")?;
        }
        let running = run::start(&settings).await?;
        Ok(Self { name: name.to_owned(), running, settings })
    }

    /// The address and port of its TFTP.
    pub fn tftp(&self) -> anyhow::Result<SocketAddrV4> {
        self.running.tftp.context("the demo's site serves no TFTP")
    }

    /// The address and port of its DHCP.
    pub fn dhcp(&self) -> anyhow::Result<SocketAddrV4> {
        self.running.dhcp.context("the demo's site answers no DHCP")
    }

    /// Its state directory, which on a box is on the card.
    pub fn state(&self) -> &Path {
        &self.settings.state
    }

    /// A configuration file with which `lineside run` becomes this appliance.
    pub fn config(&self) -> String {
        let ApplianceSettings { neighbours, state, tftp, dhcp, poll, status_socket, log, .. } = &self.settings;
        let fixed: Vec<String> = neighbours.iter().map(|(address, mac)| format!("\"{address}\" = \"{mac}\"")).collect();
        format!(
            "[lan]\ninterface = \"lo\"\nallow-loopback = true\nneighbours = {{ {} }}\n\n[storage]\nstate = {state:?}\n\n\
             [tftp]\nport = {}\nmax-transfers = {}\nmax-transfers-per-device = {}\n\n\
             [dhcp]\nserver-port = {}\nclient-port = {}\nrelay-port = {}\n\n\
             [update]\npoll-seconds = {}\n\n[status]\nsocket = {status_socket:?}\n\n[log]\nfilter = {log:?}\n",
            fixed.join(", "),
            tftp.port,
            tftp.max_transfers,
            tftp.max_transfers_per_device,
            dhcp.server_port,
            dhcp.client_port,
            dhcp.relay_port,
            poll.as_secs(),
        )
    }

    /// What `lineside status` shows.
    pub fn report(&self) -> StatusReport {
        StatusReport::of(&self.running.stats)
    }

    /// Polls HQ again and again until the report after a poll satisfies `holds`. `what` names that in the error.
    pub async fn poll_until(&self, what: &str, holds: impl Fn(&StatusReport) -> bool) -> anyhow::Result<StatusReport> {
        let polls = |report: &StatusReport| -> u64 {
            report.counters.iter().filter(|(name, _)| name.starts_with("poll.")).map(|(_, count)| count).sum()
        };
        let end = Instant::now() + PATIENCE;
        loop {
            let before = polls(&self.report());
            self.running.poll_now.notify_one();
            while polls(&self.report()) == before {
                if Instant::now() > end {
                    let report = self.report();
                    bail!("{}: {what} did not come; state {} {}", self.name, report.state, report.reason);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let report = self.report();
            if holds(&report) {
                return Ok(report);
            }
            if Instant::now() > end {
                bail!("{}: {what} did not come; state {} {}", self.name, report.state, report.reason);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Polls until the site serves this generation and its state is `ok`.
    pub async fn serves(&self, generation: Generation) -> anyhow::Result<StatusReport> {
        self.poll_until("the release", |report| report.generation == generation && report.state == SiteState::Ok.code())
            .await
    }
}

/// Settings for DHCP on free ports. The simulated phones are behind relay agents at `relay_port`.
pub fn unprivileged_dhcp(relay_port: u16, client_port: u16) -> DhcpPart {
    DhcpPart { enabled: true, server_port: 0, client_port, relay_port, local: bundle::DhcpSettings::default() }
}

/// A UDP port of loopback that is free at the moment; nothing reserves it.
pub fn free_udp_port() -> anyhow::Result<u16> {
    Ok(std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A temporary directory that several sites share; the last one to drop it removes it.
pub type SharedDir = Arc<tempfile::TempDir>;
