//! Runs what serves the LAN: TFTP, DHCP and the neighbour table, on the address that the LAN interface has now.
//!
//! Interfaces come and go under a running appliance. A cable is pulled and a network daemon takes the address back. A
//! router is replaced and the network has another number. A USB adapter is plugged in again and has another index. So
//! the `lan` task looks at the address whenever the kernel reports a change, and now and then in any case. When the
//! address has changed, the services of the LAN start again on the new one. The release, the store and the polls go on.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::activation::{self, Sockets};
use super::changes::InterfaceChanges;
use super::config::ApplianceSettings;
use super::interface::{self, BesideLan, LanEcho, LanInterface};
use super::leases::StoredLeases;
use super::neighbours::NeighbourService;
use access::{Catalog, DeviceTable, Files};
use api::AlertCode;
use status::Stats;
use store::Store;

/// How often the interface is looked at while the kernel does not report changes.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often the interface is looked at while the kernel reports changes, in case a report was lost.
const LOOK_SELDOM: Duration = Duration::from_secs(20);
/// How often the services try to start again after the address went, besides at each report of the kernel.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// For how long the address may be missing before the services end. A network daemon that starts again takes the
/// address away and puts it back; transfers survive that.
const FLAP: Duration = Duration::from_millis(200);
/// How long services may take to end once their address is gone. Their transfers are lost in any case.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// How many addresses may wait until the neighbour table asks for them by ARP.
const RESOLVE_QUEUE: usize = 256;
/// For how long a second interface must be on the LAN before people hear of it. An address that moves from one interface to
/// another is on both for a moment.
const STANDS_FOR: Duration = Duration::from_secs(5);
/// The most alerts about further interfaces on the LAN.
const MAX_DOUBLED: usize = 4;
/// The alert as long as there is no LAN to serve.
const NO_LAN: AlertCode = AlertCode::NoLan;

/// The `lan` task, and what it makes the services of the LAN from whenever the address changes.
pub(super) struct LanServices {
    pub(super) settings: ApplianceSettings,
    /// The sockets that systemd opened. They outlive an address, because services get copies of them.
    pub(super) sockets: Sockets,
    pub(super) store: Store,
    pub(super) catalog: watch::Receiver<Arc<Catalog>>,
    pub(super) stats: Stats,
}

/// The services of the LAN with their sockets open on one address of the LAN interface, but not running yet.
pub(super) struct LanSockets {
    interface: LanInterface,
    tftp: Option<tftp::Service>,
    dhcp: Option<dhcp::Service>,
}

impl LanSockets {
    /// The address and port that TFTP is served on; `None` if the settings disable TFTP.
    pub(super) fn tftp(&self) -> Option<SocketAddrV4> {
        self.tftp.as_ref().map(tftp::Service::local_addr)
    }

    /// The address and port that DHCP is answered on; `None` if the settings disable DHCP.
    pub(super) fn dhcp(&self) -> Option<SocketAddrV4> {
        self.dhcp.as_ref().map(|service| SocketAddrV4::new(self.interface.address(), service.port()))
    }
}

impl LanServices {
    /// Opens the sockets that the settings ask for on the address of this interface.
    pub(super) fn bind(&self, interface: LanInterface) -> anyhow::Result<LanSockets> {
        let settings = &self.settings;
        let tftp = settings.tftp.enabled.then(|| self.tftp_service(&interface)).transpose()?;
        let dhcp = settings.dhcp.enabled.then(|| self.dhcp_service(&interface)).transpose()?;
        Ok(LanSockets { interface, tftp, dhcp })
    }

    /// Serves until `stop`, on one address after the other. If `bound` is `None`, it first waits for the interface.
    ///
    /// An error means that a service failed. A missing interface is no error.
    pub(super) async fn run(self, mut bound: Option<LanSockets>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut name = self.settings.interface.clone();
        let mut changes = InterfaceChanges::new();
        loop {
            if let Some(bound) = bound {
                // From now on only the interface of this name counts, whatever else looks like a LAN. Settings that name
                // one of its addresses go on to count.
                name = name.or_else(|| Some(bound.interface.name.clone()));
                if !self.serve(bound, &mut changes, &stop).await? {
                    return Ok(());
                }
                self.stats.count("lan.changed");
            }
            let again = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                again = self.bind_again(name.as_deref(), &mut changes) => again,
            };
            info!(interface = again.interface.name, address = %again.interface.address(), "serving the LAN again");
            bound = Some(again);
        }
    }

    /// Serves on one address. Returns true once the address has changed, and false after a stop.
    async fn serve(
        &self,
        bound: LanSockets,
        changes: &mut InterfaceChanges,
        stop: &CancellationToken,
    ) -> anyhow::Result<bool> {
        let LanSockets { interface, tftp, dhcp } = bound;
        // A new table for each address: on another network an IP address belongs to another device.
        let devices = Arc::new(RwLock::new(known_devices(&self.settings, &interface)));
        let (resolve, to_resolve) = mpsc::channel(RESOLVE_QUEUE);
        let leave = stop.child_token();
        let mut tasks: JoinSet<(&'static str, anyhow::Result<()>)> = JoinSet::new();

        let neighbours = NeighbourService::new(interface.clone(), Arc::clone(&devices), self.stats.clone())
            .with_inventory(self.catalog.clone());
        let left = leave.clone();
        tasks.spawn(async move { ("neighbours", neighbours.run(to_resolve, left).await.map_err(Into::into)) });
        if let Some(service) = tftp {
            let feeds = tftp::Feeds {
                catalog: self.catalog.clone(),
                files: Arc::new(self.store.clone()) as Arc<dyn Files>,
                devices: Arc::clone(&devices),
                resolve,
                stats: self.stats.clone(),
            };
            let left = leave.clone();
            tasks.spawn(async move { ("tftp", service.run(feeds, left).await.map_err(Into::into)) });
        }
        if let Some(service) = dhcp {
            let feeds = dhcp::Feeds {
                catalog: self.catalog.clone(),
                local: self.settings.dhcp.local.clone(),
                devices,
                leases: Box::new(StoredLeases::open(&self.store).context("cannot open the leases")?),
                stats: self.stats.clone(),
            };
            let left = leave.clone();
            tasks.spawn(async move { ("dhcp", service.run(feeds, left).await.map_err(Into::into)) });
        }

        let lost = self.watch(&interface, &mut tasks, changes, stop).await?;
        leave.cancel();
        if lost {
            self.stats.no_lan();
            self.stats.clear_alert(AlertCode::TwoInterfaces);
        }
        // After a stop transfers are drained, and the caller sets the limit. On an address that is gone they cannot go
        // on.
        let all = async { while tasks.join_next().await.is_some() {} };
        if !lost {
            all.await;
        } else if timeout(LEAVE_WITHIN, all).await.is_err() {
            tasks.shutdown().await;
        }
        Ok(lost)
    }

    /// Waits until the address is lost (true) or a stop comes (false). An error is a service that ended while the
    /// address was still there.
    async fn watch(
        &self,
        interface: &LanInterface,
        tasks: &mut JoinSet<(&'static str, anyhow::Result<()>)>,
        changes: &mut InterfaceChanges,
        stop: &CancellationToken,
    ) -> anyhow::Result<bool> {
        // Look first: the address may have gone before the kernel's first report.
        let (mut ended, mut told, mut echo) = (None, None, self.echo(interface));
        let mut doubled = DoubledLan::default();
        loop {
            if self.has_changed(interface, changes).await && !stop.is_cancelled() {
                return Ok(true);
            }
            self.look_beside(interface, echo.as_mut(), &mut doubled, &mut told).await;
            self.stats.forget_quiet_networks();
            // A service that ended because its address went has not failed. Here the address is still there.
            if ended.is_some() && !stop.is_cancelled() {
                return why(ended.flatten());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = changes.wait(LOOK_EVERY, if doubled.is_settled() { LOOK_SELDOM } else { LOOK_EVERY }) => {}
                one = tasks.join_next() => ended = Some(one),
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    async fn has_changed(&self, before: &LanInterface, changes: &mut InterfaceChanges) -> bool {
        let name = self.settings.interface.as_deref().unwrap_or(&before.name);
        let look = || interface::find_again(Some(name), self.settings.allow_loopback, Some(before.lan));
        let mut found = look();
        let until = Instant::now() + FLAP;
        while found.is_err() && Instant::now() < until {
            changes.wait(FLAP, FLAP).await;
            found = look();
        }
        match found {
            Ok(now) if now == *before => false,
            Ok(now) => {
                warn!(interface = now.name, from = %before.address(), to = %now.address(), "the LAN interface has changed");
                true
            }
            Err(error) => {
                warn!(%error, "the LAN interface is gone");
                true
            }
        }
    }

    /// What finds further interfaces on the LAN that have no address of it.
    fn echo(&self, lan: &LanInterface) -> Option<LanEcho> {
        let packets = self.sockets.packets.try_clone().map(|mut packets| LanEcho::open(&mut packets, lan));
        let echo = packets.and_then(|opened| opened);
        echo.inspect_err(|error| debug!(%error, "further interfaces on the LAN show by their addresses only")).ok()
    }

    fn find(&self, name: Option<&str>) -> Result<LanInterface, interface::InterfaceError> {
        interface::find(name, self.settings.allow_loopback)
    }

    /// Tells people which address is the LAN, and what else of this host is in the way: each thing once, until it is
    /// over. `told` is what they were told last.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    async fn look_beside(
        &self,
        lan: &LanInterface,
        echo: Option<&mut LanEcho>,
        doubled: &mut DoubledLan,
        told: &mut Option<BesideLan>,
    ) {
        // What echoes takes a while, and the LAN shows at once.
        if told.is_none()
            && let Ok(beside) = interface::beside(lan, None).await
        {
            self.tell(lan, BesideLan { doubled: Vec::new(), ..beside }, told);
        }
        match interface::beside(lan, echo).await {
            Ok(beside) => {
                let standing = doubled.standing(&beside.doubled, Instant::now());
                self.tell(lan, BesideLan { doubled: standing, ..beside }, told);
            }
            Err(error) => debug!(%error, "cannot look at the other interfaces"),
        }
    }

    fn tell(&self, lan: &LanInterface, beside: BesideLan, told: &mut Option<BesideLan>) {
        if told.as_ref() == Some(&beside) {
            return;
        }
        self.stats.lan(&lan.name, lan.lan, &beside.addresses);
        if told.as_ref().is_none_or(|told| told.doubled != beside.doubled) {
            self.stats.clear_alert(AlertCode::TwoInterfaces);
            for text in beside.doubled.iter().take(MAX_DOUBLED) {
                warn!("{text}");
                self.stats.alert(AlertCode::TwoInterfaces, text.clone());
            }
        }
        *told = Some(beside);
    }

    /// Waits until the interface has an address and the sockets open on it.
    async fn bind_again(&self, name: Option<&str>, changes: &mut InterfaceChanges) -> LanSockets {
        let mut said = None;
        loop {
            let bound = self.find(name).map_err(anyhow::Error::from).and_then(|interface| self.bind(interface));
            match bound {
                Ok(bound) => {
                    self.stats.clear_alert(NO_LAN);
                    return bound;
                }
                Err(error) => {
                    let why = format!("phones are not served: {error:#}");
                    if said.as_ref() != Some(&why) {
                        debug!("{why}");
                        self.stats.clear_alert(NO_LAN);
                        self.stats.alert(NO_LAN, why.clone());
                        said = Some(why);
                    }
                }
            }
            changes.wait(TRY_EVERY, TRY_EVERY).await;
        }
    }

    fn tftp_service(&self, lan: &LanInterface) -> anyhow::Result<tftp::Service> {
        let settings = &self.settings.tftp;
        let bind = SocketAddrV4::new(lan.address(), settings.port);
        let config = tftp::Config {
            interface: Some(lan.name.clone()),
            max_transfers: settings.max_transfers,
            max_transfers_per_address: settings.max_transfers_per_device,
            ..tftp::Config::new(bind, lan.lan)
        };
        let service = match &self.sockets.tftp {
            Some(socket) => {
                let socket = activation::adopt(socket, Some(&lan.name))
                    .and_then(|socket| Ok(activation::ignore_broadcasts(&socket).map(|()| socket)?))
                    .context("systemd's socket for TFTP is of no use")?;
                tftp::Service::from_socket(config, socket)?
            }
            None => tftp::Service::bind(config)?,
        };
        let packets = self.sockets.packets.try_clone().context("cannot copy the packet sockets")?;
        Ok(service.with_frames(packets)?.with_logs(Arc::new(self.store.clone())))
    }

    fn dhcp_service(&self, lan: &LanInterface) -> anyhow::Result<dhcp::Service> {
        let settings = &self.settings.dhcp;
        let config = dhcp::Config {
            // Loopback has no hardware addresses and no other DHCP server, so there are only relayed and unicast
            // requests.
            interface: (!lan.address().is_loopback()).then(|| lan.name.clone()),
            lan: lan.lan,
            server_port: settings.server_port,
            client_port: settings.client_port,
            relay_port: settings.relay_port,
        };
        let adopt = |socket: &Option<OwnedFd>| {
            let adopted = socket.as_ref().map(|socket| activation::adopt(socket, config.interface.as_deref()));
            adopted.transpose().context("systemd's socket for DHCP is of no use")
        };
        let packets = self.sockets.packets.try_clone().context("cannot copy the packet sockets")?;
        let given = dhcp::InheritedSockets {
            server: adopt(&self.sockets.dhcp)?,
            client: adopt(&self.sockets.dhcp_client)?,
            packets,
        };
        Ok(dhcp::Service::with_sockets(config, given)?)
    }
}

/// What is wrong with further interfaces on the LAN, and since when. Pure.
#[derive(Debug, Default)]
struct DoubledLan {
    since: BTreeMap<String, Instant>,
    settled: bool,
}

impl DoubledLan {
    /// Of what is seen now, what has stood for long enough to be told.
    fn standing(&mut self, seen: &[String], now: Instant) -> Vec<String> {
        self.since.retain(|text, _| seen.contains(text));
        let mut stands = |text: &&String| {
            let since = *self.since.entry((*text).clone()).or_insert(now);
            now.saturating_duration_since(since) >= STANDS_FOR
        };
        let standing: Vec<String> = seen.iter().filter(|text| stands(text)).cloned().collect();
        self.settled = standing.len() == seen.len();
        standing
    }

    /// Whether all that was seen is told.
    const fn is_settled(&self) -> bool {
        self.settled
    }
}

/// The error for a service that has ended, which none should do by itself.
fn why(ended: Option<Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>>) -> anyhow::Result<bool> {
    match ended {
        Some(Ok((name, Ok(())))) => bail!("{name} has ended by itself"),
        Some(Ok((name, Err(error)))) => Err(error.context(format!("{name} cannot go on"))),
        Some(Err(error)) => Err(anyhow::Error::new(error).context("a service failed")),
        None => bail!("nothing serves the LAN"),
    }
}

fn known_devices(settings: &ApplianceSettings, lan: &LanInterface) -> DeviceTable {
    let mut devices = if lan.address().is_loopback() { DeviceTable::without_link() } else { DeviceTable::default() };
    for (address, mac) in &settings.neighbours {
        if !devices.fixed(*address, *mac) {
            warn!(%address, "too many fixed addresses; this one is left out");
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_moves_from_one_interface_to_another_is_no_second_interface() {
        let (mut doubled, start) = (DoubledLan::default(), Instant::now());
        let [both, other] = ["eth0 and br0 are on one LAN", "eth0 and eth1 are on one LAN"].map(str::to_owned);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(doubled.standing(std::slice::from_ref(&both), at(0)), Vec::<String>::new());
        assert!(!doubled.is_settled(), "it is looked at again soon");
        assert_eq!(doubled.standing(&[], at(1)), Vec::<String>::new());
        assert!(doubled.is_settled());
        // It stands, whatever else comes and goes meanwhile.
        for (second, seen) in [(2, vec![both.clone()]), (4, vec![other.clone(), both.clone()]), (6, vec![both.clone()])]
        {
            assert_eq!(doubled.standing(&seen, at(second)), Vec::<String>::new(), "{second}");
        }
        assert_eq!(doubled.standing(&[both.clone(), other], at(7)), [both]);
        assert_eq!(doubled.standing(&[], at(8)), Vec::<String>::new(), "it ends at once");
        assert!(doubled.since.is_empty());
    }
}
