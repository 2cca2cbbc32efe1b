//! Follows the kernel's neighbour table: which device answers for which address on the LAN.
//!
//! It feeds the [`DeviceTable`], which decides whose files an address may have. The kernel keeps the neighbour table
//! for its own needs, so the table is never complete. [`NeighbourService`] therefore also makes the kernel ask by ARP
//! for addresses that `tftp` wants to know.

mod doubts;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace, warn};

use self::doubts::{ASK_AGAIN, Doubts};
use super::interface::{self, LanInterface};
use super::wanted::WantedAddresses;
use access::devices::AddressChange;
use access::{Catalog, DeviceTable};
use api::AlertCode;
use ids::MacAddr;
use status::Stats;

/// How often the whole table is read again, in case changes were lost on the way.
const READ_EVERY: Duration = Duration::from_secs(60);
/// How long after a netlink connection ended a new one is tried.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// The UDP port of the datagrams that make the kernel ask by ARP: discard (RFC 863). The datagrams are empty.
const DISCARD_PORT: u16 = 9;

/// Why the neighbour table cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum NeighbourError {
    /// A netlink socket or a datagram socket cannot be opened.
    #[error("cannot open a socket for the neighbour table")]
    Socket(#[source] io::Error),
    /// The kernel did not answer the request for the whole table.
    #[error("cannot read the neighbour table")]
    Read(#[source] rtnetlink::Error),
    /// The netlink connection has ended.
    #[error("the kernel's reports of neighbours have ended")]
    Ended,
}

/// The task that follows the neighbour table of one interface.
#[derive(Debug)]
pub struct NeighbourService {
    lan: LanInterface,
    devices: Arc<RwLock<DeviceTable>>,
    stats: Stats,
    /// The entries as the kernel last gave them. When the whole table is read again, they show which addresses have
    /// gone without a report.
    held: HashMap<Ipv4Addr, MacAddr>,
    catalog: Option<watch::Receiver<Arc<Catalog>>>,
    wanted: WantedAddresses,
    /// Addresses that are to be asked for, because the kernel has just given them up or forgotten them.
    lost: Vec<Ipv4Addr>,
    /// Addresses of phones that the kernel has just given up or forgotten.
    doubts: Doubts,
}

impl NeighbourService {
    /// A service for the neighbours on `lan`. It has not begun to follow them.
    pub fn new(lan: LanInterface, devices: Arc<RwLock<DeviceTable>>, stats: Stats) -> Self {
        let (held, wanted, lost) = (HashMap::new(), WantedAddresses::default(), Vec::new());
        Self { lan, devices, stats, held, catalog: None, wanted, lost, doubts: Doubts::default() }
    }

    /// Reports only changes that concern a phone of this inventory.
    #[must_use]
    pub fn with_inventory(self, catalog: watch::Receiver<Arc<Catalog>>) -> Self {
        Self { catalog: Some(catalog), ..self }
    }

    /// Reads the table, then follows its changes until `stop`. It asks for each address that arrives in `resolve`.
    ///
    /// # Errors
    ///
    /// If a socket cannot be opened at the start. Later failures are no errors: the kernel is then asked again every
    /// second.
    pub async fn run(
        mut self,
        mut resolve: mpsc::Receiver<Ipv4Addr>,
        stop: CancellationToken,
    ) -> Result<(), NeighbourError> {
        let probe = probe_socket(&self.lan).map_err(NeighbourError::Socket)?;
        let mut netlink = connect()?;
        loop {
            let end = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                end = self.follow(netlink, &probe, &mut resolve) => end,
            };
            warn!(error = %end, "the neighbour table is read anew");
            self.stats.count("neighbours.restarted");
            netlink = loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(RESTART_AFTER) => {}
                }
                match connect() {
                    Ok(netlink) => break netlink,
                    Err(error) => warn!(%error, "the neighbour table stays as it was"),
                }
            };
        }
    }

    /// Follows the table over one netlink connection, and returns why that ended.
    async fn follow(
        &mut self,
        (connection, handle, mut reports): (
            impl Future<Output = ()>,
            Handle,
            impl Stream<Item = NeighbourReport> + Unpin,
        ),
        probe: &UdpSocket,
        resolve: &mut mpsc::Receiver<Ipv4Addr>,
    ) -> NeighbourError {
        let mut connection = std::pin::pin!(connection);
        let mut reread = tokio::time::interval(READ_EVERY);
        reread.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut connection => return NeighbourError::Ended,
                report = reports.next() => match report {
                    Some((message, _)) => self.report(message),
                    None => return NeighbourError::Ended,
                },
                Some(address) = resolve.recv() => self.want(probe, address).await,
                () = tokio::time::sleep(ASK_AGAIN), if !self.doubts.is_empty() => {}
                _ = reread.tick() => {
                    // Reports that are older than the table must be applied before it. Reports that arrive while the
                    // table is read are applied after it, in order, so that the last one of an address counts.
                    while let Some(Some((message, _))) = reports.next().now_or_never() {
                        self.report(message);
                    }
                    // The answer arrives only while the connection is polled.
                    let table = tokio::select! {
                        table = read(&handle) => table,
                        () = &mut connection => return NeighbourError::Ended,
                    };
                    match table {
                        Ok(table) => self.replace(&table),
                        Err(error) => return NeighbourError::Read(error),
                    }
                }
            }
            self.ask_for_doubts(probe).await;
            // A request or a transfer waits for each of these: whoever emptied the table took the answer away, or the question.
            for address in std::mem::take(&mut self.lost) {
                self.ask(probe, address).await;
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    async fn want(&mut self, probe: &UdpSocket, address: Ipv4Addr) {
        if self.is_neighbour(address) && self.wanted.want(address, Instant::now()) {
            self.ask(probe, address).await;
        } else {
            self.stats.count("neighbours.not-asked");
        }
    }

    /// Makes the kernel ask by ARP. If it cannot, the next request asks again.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    async fn ask(&mut self, probe: &UdpSocket, address: Ipv4Addr) {
        if !self.wanted.may_ask(address, Instant::now()) {
            return self.stats.count("neighbours.not-asked");
        }
        if !self.put(probe, address).await {
            self.wanted.answered(address);
        }
    }

    /// Puts the question. False if that cannot be done, as while the link is down.
    async fn put(&self, probe: &UdpSocket, address: Ipv4Addr) -> bool {
        // `try_send_to` would fail until the runtime has seen the socket ready for the first time.
        match probe.send_to(&[], SocketAddrV4::new(address, DISCARD_PORT)).await {
            Ok(_) => self.stats.count("neighbours.asked"),
            Err(error) => {
                debug!(%address, %error, "cannot ask for an address");
                return false;
            }
        }
        true
    }

    /// Asks for the addresses in doubt, and gives up those for which nobody has answered in time.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    async fn ask_for_doubts(&mut self, probe: &UdpSocket) {
        if self.doubts.is_empty() {
            return;
        }
        let now = Instant::now();
        if self.doubts.should_look(now) && !interface::carries(&self.lan) {
            self.doubts.link_down(now);
        }
        for address in self.doubts.take_due(now) {
            if !self.put(probe, address).await {
                self.doubts.not_asked(address, now);
            }
        }
        for address in self.doubts.ended(now) {
            self.gone(address);
        }
    }

    /// Whether a device on this link can have the address: a host's address of the LAN, and not ours.
    fn is_neighbour(&self, address: Ipv4Addr) -> bool {
        self.lan.lan.is_host(address) && address != self.lan.address()
    }

    fn report(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        let mut reachable = false;
        let seen = match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                reachable = is_reachable(&message);
                self.read_entry(&message)
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
                self.read_entry(&message).map(|(address, _)| (address, None))
            }
            _ => None,
        };
        if let Some((address, mac)) = seen {
            self.apply(address, mac);
            self.set_reachable(address, reachable);
        }
    }

    /// Applies the whole table, and removes the addresses that have gone without a report.
    fn replace(&mut self, table: &[NeighbourMessage]) {
        let now: HashMap<Ipv4Addr, Option<MacAddr>> =
            table.iter().filter_map(|message| self.read_entry(message)).collect();
        let gone: Vec<Ipv4Addr> = self.held.keys().copied().filter(|address| !now.contains_key(address)).collect();
        for address in gone {
            self.apply(address, None);
        }
        for (address, mac) in now {
            self.apply(address, mac);
        }
        for message in table {
            if let Some((address, _)) = self.read_entry(message) {
                self.set_reachable(address, is_reachable(message));
            }
        }
    }

    fn set_reachable(&self, address: Ipv4Addr, reachable: bool) {
        self.devices.write().unwrap_or_else(PoisonError::into_inner).set_reachable(address, reachable);
    }

    /// The address of an entry, and the device that answers for it if there is one. `None` for an entry of another
    /// interface or address family.
    fn read_entry(&self, message: &NeighbourMessage) -> Option<(Ipv4Addr, Option<MacAddr>)> {
        if message.header.family != AddressFamily::Inet || message.header.ifindex != self.lan.index {
            return None;
        }
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(*v4),
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr::new).filter(|mac| mac.is_unicast());
                }
                _ => {}
            }
        }
        // A stale entry was not confirmed lately. It still names the last device that answered. Delay and probe are the
        // states between stale and either reachable or failed.
        let counts = matches!(
            message.header.state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
        );
        Some((address?, mac.filter(|_| counts)))
    }

    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn apply(&mut self, address: Ipv4Addr, mac: Option<MacAddr>) {
        let is_phone = |mac| self.catalog.as_ref().is_none_or(|catalog| catalog.borrow().phone(mac).is_some());
        let Some(mac) = mac else {
            let now = Instant::now();
            match self.held.remove(&address) {
                Some(mac) if is_phone(mac) && self.doubts.open(address, now) => trace!(%address, "neighbour in doubt"),
                Some(_) => self.gone(address),
                None if self.doubts.lost_again(address, now) => {}
                None if self.wanted.is_lost(address, now) => self.lost.push(address),
                None => {}
            }
            return;
        };
        self.doubts.close(address);
        self.wanted.answered(address);
        // An entry that has not changed is passed on as well, because the bounded device table may have dropped it.
        if self.held.insert(address, mac) != Some(mac) {
            trace!(%address, %mac, "neighbour");
        }
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        let change = devices.neighbour(address, mac);
        // A phone that moved behind a repeater, or away from it, is told as that.
        let is_moved = |change: &AddressChange| [change.from, change.to].iter().any(|mac| devices.is_repeater(*mac));
        if let Some(change) = change.filter(|change| concerns(change, is_phone) && !is_moved(change)) {
            devices.suspect(change.to);
            self.stats.end_alerts(AlertCode::BehindOneDevice, &change.to.to_string());
            let text = describe(&change, is_phone);
            debug!("{text}");
            self.stats.alert(AlertCode::AddressConflict, text);
        }
    }

    fn gone(&self, address: Ipv4Addr) {
        trace!(%address, "neighbour gone");
        self.devices.write().unwrap_or_else(PoisonError::into_inner).neighbour_gone(address);
    }
}

/// Whether the kernel has heard of the device lately (RFC 4861 §7.3.2 has the states, which Linux uses for ARP, too).
const fn is_reachable(message: &NeighbourMessage) -> bool {
    matches!(message.header.state, NeighbourState::Reachable | NeighbourState::Permanent)
}

/// Whether a phone of the inventory lost or took the address. Among other devices addresses change hands all the time:
/// routers lease an address to the next one soon after its device has left.
fn concerns(change: &AddressChange, is_phone: impl Fn(MacAddr) -> bool) -> bool {
    [change.from, change.to].into_iter().any(is_phone)
}

/// What people are told: which side is in the inventory, and so whom to look for.
fn describe(AddressChange { address, from, to }: &AddressChange, is_phone: impl Fn(MacAddr) -> bool) -> String {
    match (is_phone(*from), is_phone(*to)) {
        (false, true) => format!(
            "{address} is phone {to}'s again, or for the first time; {from}, which had it before, is not in the inventory: if \
             it took the phone's address, find {from}"
        ),
        (true, true) => format!(
            "{address} went from phone {from} to phone {to}, both in the inventory: the router leased it again, or both \
             have the same address set"
        ),
        _ => format!(
            "{address} went from phone {from} to {to}, which is not in the inventory: the phone was replaced, moved, or sits \
             behind that device now (a repeater, a Wi-Fi bridge); if none of it, find {to}, which has taken it"
        ),
    }
}

/// A report of the kernel, with the netlink address that it came from.
type NeighbourReport = (NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr);

/// Opens a netlink connection. Returns the future that must be polled, the handle for requests, and the reports.
fn connect() -> Result<(impl Future<Output = ()>, Handle, impl Stream<Item = NeighbourReport> + Unpin), NeighbourError>
{
    rtnetlink::new_multicast_connection(&[MulticastGroup::Neigh]).map_err(NeighbourError::Socket)
}

async fn read(handle: &Handle) -> Result<Vec<NeighbourMessage>, rtnetlink::Error> {
    handle.neighbours().get().set_address_family(AddressFamily::Inet).execute().try_collect().await
}

fn probe_socket(lan: &LanInterface) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(lan.name.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(lan.address(), 0).into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests;
