//! HQ and sites of a demo: real ones, in a temporary directory, on free ports of loopback.

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
use hq::inventory::Inventory;
use hq::progress::Silent;
use hq::publish::{self, PublishOptions, Summary};
use ids::{Generation, MacAddr};
use online::service;
use repository::layout::Layout;
use status::StatusReport;
use store::Store;

/// How long anything may take before the demo gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A fresh HQ.
#[derive(Debug)]
pub struct DemoHq {
    /// Its fleet directory.
    pub layout: Layout,
    /// Where it serves.
    pub address: SocketAddr,
    serving: Option<(CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>)>,
}

impl DemoHq {
    /// `lineside-hq init`, then what `lineside-hq serve` does.
    pub async fn start(dir: &Path, name: &str) -> anyhow::Result<Self> {
        // The URL is part of what init signs and certifies, so the port has to be known before.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr())?;
        let layout = Layout::new(dir.join("hq"));
        let options = InitOptions { name: name.to_owned(), url: format!("https://{address}"), now: clock::now() };
        let made = layout.clone();
        tokio::task::spawn_blocking(move || init::init(made.dir(), &options)).await??;
        let mut hq = Self { layout, address, serving: None };
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

    /// HQ's machine is off: connections are refused.
    pub async fn go_away(&mut self) -> anyhow::Result<()> {
        if let Some((stop, task)) = self.serving.take() {
            stop.cancel();
            task.await??;
        }
        Ok(())
    }

    /// `lineside-hq publish`.
    pub async fn publish(&self) -> anyhow::Result<Summary> {
        let layout = self.layout.clone();
        let options = PublishOptions { sites: None, now: clock::now() };
        tokio::task::spawn_blocking(move || publish::publish(&layout, &options, &mut Silent)).await?
    }

    /// `lineside-hq site enroll`.
    pub fn token(&self, site: &str) -> anyhow::Result<EnrolmentToken> {
        let mut problems = Vec::new();
        let Some(inventory) = Inventory::read(&self.layout, &mut problems) else {
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

    /// Changes a file of the fleet directory, like a person with an editor.
    pub fn edit(&self, file: &str, from: &str, to: &str) -> anyhow::Result<()> {
        let path = self.layout.dir().join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(text.contains(from), "{file} has no `{from}` to change");
        self.write(file, &text.replacen(from, to, 1))
    }
}

/// One appliance.
#[derive(Debug)]
pub struct DemoSite {
    /// Its name at HQ.
    pub name: String,
    /// Its services.
    pub running: RunningAppliance,
    settings: ApplianceSettings,
}

impl DemoSite {
    /// `lineside enroll` with a token, then what `lineside run` does, as an ordinary user on loopback.
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

    /// Where it serves TFTP.
    pub fn tftp(&self) -> anyhow::Result<SocketAddrV4> {
        self.running.tftp.context("the demo's site serves no TFTP")
    }

    /// Where it answers DHCP.
    pub fn dhcp(&self) -> anyhow::Result<SocketAddrV4> {
        self.running.dhcp.context("the demo's site answers no DHCP")
    }

    /// The directory that would be on the card.
    pub fn state(&self) -> &Path {
        &self.settings.state
    }

    /// The file that makes `lineside run` this appliance.
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

    /// Polls now and waits until that poll's outcome satisfies.
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

    /// Polls until it serves this generation and all is well.
    pub async fn serves(&self, generation: Generation) -> anyhow::Result<StatusReport> {
        self.poll_until("the release", |report| report.generation == generation && report.state == SiteState::Ok.code())
            .await
    }
}

/// DHCP on free ports, for phones that are simulated as behind relay agents at `relay_port`.
pub fn unprivileged_dhcp(relay_port: u16, client_port: u16) -> DhcpPart {
    DhcpPart { enabled: true, server_port: 0, client_port, relay_port, local: bundle::DhcpSettings::default() }
}

/// A UDP port of loopback that is free now.
pub fn free_udp_port() -> anyhow::Result<u16> {
    Ok(std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Where the services of all sites live.
pub type SharedDir = Arc<tempfile::TempDir>;
