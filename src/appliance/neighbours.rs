//! Follows the kernel's neighbour table: which device answers for which address on the LAN.
//!
//! It feeds the [`DeviceTable`], which decides whose files an address may have. The kernel keeps the neighbour table
//! for its own needs, so the table is never complete. [`NeighbourService`] therefore also makes the kernel ask by ARP
//! for addresses that `tftp` wants to know.

use std::collections::{HashMap, VecDeque};
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
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace, warn};

use super::interface::LanInterface;
use access::DeviceTable;
use access::devices::AddressChange;
use api::AlertCode;
use ids::MacAddr;
use status::Stats;

/// How often the whole table is read again, in case changes were lost on the way.
const READ_EVERY: Duration = Duration::from_secs(60);
/// How long after a netlink connection ended a new one is tried.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// The shortest time between two ARP questions for one address.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The most addresses that are asked for within [`ASK_AGAIN`]; further questions are dropped. So a flood of requests
/// from invented addresses causes at most 256 ARP questions a second.
const MAX_ASKED: usize = 256;
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
}

impl NeighbourService {
    /// A service for the neighbours on `lan`. It has not begun to follow them.
    pub fn new(lan: LanInterface, devices: Arc<RwLock<DeviceTable>>, stats: Stats) -> Self {
        Self { lan, devices, stats, held: HashMap::new() }
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
        let mut asked = Asked::default();
        loop {
            let end = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                end = self.follow(netlink, &probe, &mut asked, &mut resolve) => end,
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
        asked: &mut Asked,
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
                Some(address) = resolve.recv() => self.ask(probe, asked, address).await,
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
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    async fn ask(&self, probe: &UdpSocket, asked: &mut Asked, address: Ipv4Addr) {
        if !self.is_neighbour(address) || !asked.allow(address, Instant::now()) {
            self.stats.count("neighbours.not-asked");
            return;
        }
        // `try_send_to` would fail until the runtime has seen the socket ready for the first time.
        match probe.send_to(&[], SocketAddrV4::new(address, DISCARD_PORT)).await {
            Ok(_) => self.stats.count("neighbours.asked"),
            Err(error) => debug!(%address, %error, "cannot ask for an address"),
        }
    }

    /// Whether a device on this link can have the address: a host's address of the LAN, and not ours.
    fn is_neighbour(&self, address: Ipv4Addr) -> bool {
        self.lan.lan.is_host(address) && address != self.lan.address()
    }

    fn report(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        let seen = match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => self.read_entry(&message),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
                self.read_entry(&message).map(|(address, _)| (address, None))
            }
            _ => None,
        };
        if let Some((address, mac)) = seen {
            self.apply(address, mac);
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

    fn apply(&mut self, address: Ipv4Addr, mac: Option<MacAddr>) {
        let Some(mac) = mac else {
            if self.held.remove(&address).is_some() {
                trace!(%address, "neighbour gone");
                self.devices.write().unwrap_or_else(PoisonError::into_inner).neighbour_gone(address);
            }
            return;
        };
        // An entry that has not changed is passed on as well, because the bounded device table may have dropped it.
        if self.held.insert(address, mac) != Some(mac) {
            trace!(%address, %mac, "neighbour");
        }
        let change = self.devices.write().unwrap_or_else(PoisonError::into_inner).neighbour(address, mac);
        if let Some(change) = change {
            let text = describe(&change);
            debug!("{text}");
            self.stats.alert(AlertCode::AddressConflict, text);
        }
    }
}

fn describe(change: &AddressChange) -> String {
    match change {
        AddressChange::TwoAddresses(mac, one, other) => format!("{mac} is on two addresses, {one} and {other}"),
        AddressChange::Moved(address, from, to) => format!("{address} went from {from} to {to}"),
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

/// The addresses that were asked for within [`ASK_AGAIN`], oldest first. It limits ARP questions for each address and
/// in all.
#[derive(Debug, Default)]
struct Asked {
    order: VecDeque<(Ipv4Addr, Instant)>,
}

impl Asked {
    fn allow(&mut self, address: Ipv4Addr, now: Instant) -> bool {
        while self.order.front().is_some_and(|(_, at)| now.saturating_duration_since(*at) >= ASK_AGAIN) {
            self.order.pop_front();
        }
        if self.order.len() >= MAX_ASKED || self.order.iter().any(|(asked, _)| *asked == address) {
            return false;
        }
        self.order.push_back((address, now));
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rtnetlink::packet_route::neighbour::NeighbourHeader;

    use super::*;
    use ids::Lan;

    const PHONE: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);

    #[test]
    fn only_entries_that_a_device_answered_for_count() {
        let service = service();
        for state in [
            NeighbourState::Reachable,
            NeighbourState::Stale,
            NeighbourState::Delay,
            NeighbourState::Probe,
            NeighbourState::Permanent,
        ] {
            assert_eq!(service.read_entry(&entry(state)), Some((ADDRESS, Some(PHONE))), "{state:?}");
        }
        for state in [NeighbourState::Failed, NeighbourState::Incomplete, NeighbourState::Noarp, NeighbourState::None] {
            assert_eq!(service.read_entry(&entry(state)), Some((ADDRESS, None)), "{state:?}");
        }
    }

    #[test]
    fn other_interfaces_and_families_do_not_count() {
        let service = service();
        let mut other = entry(NeighbourState::Reachable);
        other.header.ifindex = 8;
        assert_eq!(service.read_entry(&other), None);
        let mut other = entry(NeighbourState::Reachable);
        other.header.family = AddressFamily::Inet6;
        assert_eq!(service.read_entry(&other), None);
    }

    #[test]
    fn nobody_is_asked_twice_in_a_second_nor_too_many_at_once() {
        let mut asked = Asked::default();
        let start = Instant::now();
        assert!(asked.allow(ADDRESS, start));
        assert!(!asked.allow(ADDRESS, start + ASK_AGAIN / 2));
        assert!(asked.allow(ADDRESS, start + ASK_AGAIN));
        let later = start + ASK_AGAIN * 3;
        let allowed = (0..10_000).filter(|&number| asked.allow(Ipv4Addr::from(number), later)).count();
        assert_eq!(allowed, MAX_ASKED);
    }

    #[test]
    fn only_addresses_of_the_link_are_asked_for() {
        let service = service();
        assert!(service.is_neighbour(ADDRESS));
        for outside in ["192.168.1.2", "192.168.1.0", "192.168.1.255", "192.168.2.20", "8.8.8.8", "255.255.255.255"] {
            assert!(!service.is_neighbour(outside.parse().unwrap()), "{outside}");
        }
    }

    fn service() -> NeighbourService {
        let lan = Lan::new(Ipv4Addr::new(192, 168, 1, 2), 24);
        let lan = LanInterface { name: "eth0".to_owned(), index: 7, lan, mtu: 1500 };
        NeighbourService::new(lan, Arc::default(), Stats::new())
    }

    fn entry(state: NeighbourState) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header =
            NeighbourHeader { family: AddressFamily::Inet, ifindex: 7, state, ..NeighbourHeader::default() };
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ADDRESS)),
            NeighbourAttribute::LinkLayerAddress(PHONE.octets().to_vec()),
        ];
        message
    }
}
