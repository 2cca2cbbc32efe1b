//! DHCP on one interface: sockets, clocks, and the order in which a change becomes durable, is told, and is answered.
//!
//! Read [`Service::run`] (the loop), `server_port` and `blocking_log` (what it works with), then `fast_path` (threads that
//! answer before a router does), and the sockets: `link`, `arp_socket`, [`PacketSockets`]. [`RelayClient`] is for who only
//! wants to know what is there.

mod arp_socket;
mod blocking_log;
mod config;
mod cpu_share;
mod fast_path;
mod link;
mod name_lookup;
mod relay_client;
mod server_port;
mod tagged_requests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::arp_socket::ArpSocket;
use self::blocking_log::BlockingLog;
pub use self::config::{BindError, Config};
use self::fast_path::FastPath;
pub use self::link::hardware_address;
use self::name_lookup::NameLookup;
pub use self::name_lookup::addresses_of;
pub use self::relay_client::{FrameHeard, RelayClient};
use self::server_port::ServerPort;
pub use self::tagged_requests::TaggedRequests;
use super::arp::Claim;
use super::augment::{Event, completed_offer};
use super::client::ClientSocket;
use super::heard::Heard;
use super::lan::ServerPath;
use super::leases::LeaseLog;
use super::message::MAX_REQUEST_BYTES;
use super::question::{self, Question};
use super::scope::DhcpScope;
use super::server::{DhcpServer, LinkAccess, Now, Outbox};
use access::{Catalog, DeviceTable};
use api::AlertCode;
use bundle::DhcpSettings;
use ethernet::PacketSockets;
use ids::{Generation, MacAddr, UnixTime};
use status::Stats;

/// How often other servers are asked for.
const ASK_EVERY: Duration = Duration::from_secs(600);
/// How often they are asked for at the start: a link that has just come up loses packets.
const ASK_AT_START: Duration = Duration::from_secs(2);
/// How long after the last question they are asked when it is unsure who serves here.
const ASK_SOON: Duration = Duration::from_secs(10);
/// How long after the last question they are asked while people are told of something that may be corrected in a router.
const ASK_WHILE_WRONG: Duration = Duration::from_secs(60);
/// How often the log is asked whether it can tell by now how old completed leases are.
const RECALL_AGAIN: Duration = Duration::from_secs(20);
/// The most requests that are answered together, with one sync of the lease log.
const MAX_BATCH: usize = 64;

/// What the service works from, and whom it tells.
pub struct Feeds {
    /// The release that is served.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// The settings while there is no release.
    pub local: DhcpSettings,
    /// The devices by address. The service adds leases; `appliance::neighbours` adds what the link shows.
    pub devices: Arc<RwLock<DeviceTable>>,
    /// The log that brings leases over a restart.
    pub leases: Box<dyn LeaseLog + Send>,
    /// Counters and alerts.
    pub stats: Stats,
}

impl std::fmt::Debug for Feeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feeds").field("local", &self.local).finish_non_exhaustive()
    }
}

/// DHCP on one interface, with its sockets open.
#[derive(Debug)]
pub struct Service {
    port: ServerPort,
    /// The client port, where other servers are heard.
    others: Option<ClientSocket>,
    arp: Option<ArpSockets>,
    /// Hears which VLANs come to this port with their tag.
    tagged: Option<TaggedRequests>,
    packets: PacketSockets,
}

/// The two sockets for ARP. They are two so that a storm of claims takes no answer's place.
#[derive(Debug)]
struct ArpSockets {
    /// Hears what every device claims.
    claims: ArpSocket,
    /// Asks, and hears what is answered to us.
    answers: ArpSocket,
}

/// Sockets that somebody else opened. Those that are missing are opened here.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// The server port, bound to the interface, not blocking.
    pub server: Option<std::net::UdpSocket>,
    /// The client port, bound to the interface, not blocking.
    pub client: Option<std::net::UdpSocket>,
    /// The sockets for frames.
    pub packets: PacketSockets,
}

impl Service {
    /// Opens the server port. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// No private address, no such interface, port in use, or no permission (`CAP_NET_BIND_SERVICE`). Without
    /// `CAP_NET_RAW` it serves all the same, and sends broadcasts where a frame to one client would do.
    pub fn bind(config: Config) -> Result<Self, BindError> {
        Self::with_sockets(config, InheritedSockets::default())
    }

    /// The same on sockets that systemd opened, where it did.
    ///
    /// # Errors
    ///
    /// As [`Service::bind`].
    pub fn with_sockets(config: Config, inherited: InheritedSockets) -> Result<Self, BindError> {
        let InheritedSockets { server, client, mut packets } = inherited;
        let port = ServerPort::open(config, server, &mut packets)?;
        let config = port.config();
        let others = match (&config.interface, port.link()) {
            (Some(interface), Some(link)) => {
                let server_port = port.port();
                let socket = match client {
                    Some(socket) => ClientSocket::from_socket(socket, link.mac, server_port),
                    None => ClientSocket::bind(interface, link.mac, (server_port, config.client_port)),
                };
                socket.inspect_err(|error| warn!(%error, "other DHCP servers cannot be looked for")).ok()
            }
            _ => None,
        };
        let arp = port.link().and_then(|link| {
            let mut open = |own| ArpSocket::open(&mut packets, &link.address, own);
            let sockets =
                open(None).and_then(|claims| Ok(ArpSockets { claims, answers: open(Some(config.lan.address()))? }));
            sockets.inspect_err(|error| warn!(%error, "conflicts of addresses cannot be seen")).ok()
        });
        let tagged = port.link().and_then(|link| {
            let socket = TaggedRequests::open(&mut packets, &link.address, port.port());
            socket.inspect_err(|error| debug!(%error, "requests of other VLANs cannot be seen")).ok()
        });
        Ok(Self { port, others, arp, tagged, packets })
    }

    /// The port that is served.
    pub const fn port(&self) -> u16 {
        self.port.port()
    }

    /// Serves until `stop`: one task, which waits for
    ///
    /// - `stop`, which ends the service;
    /// - a new release, which brings new settings;
    /// - datagrams on the server port: up to `MAX_BATCH` are answered together, with one sync of the lease log;
    /// - what the fast path tells;
    /// - messages of other servers on the client port;
    /// - the time to ask other servers;
    /// - ARP: what devices claim, and what they answer to us;
    /// - requests of other VLANs, which are counted;
    /// - the time to recall completed leases, until the log knows how old they are;
    /// - the resolver, where a server points phones to a name;
    /// - the server's own deadline.
    ///
    /// Whatever came, the fast path then gets its orders, addresses are asked for by ARP, and the [`Outbox`] is worked off.
    ///
    /// No error reopens a socket here. An error on one packet is counted and concerns that packet alone. While the interface
    /// is down, `ArpSocket` rests for a second and what ARP said before is forgotten; the sockets stay bound, and work
    /// again when it is up. When the interface gets another address, the appliance starts a new service.
    ///
    /// # Errors
    ///
    /// If the server port is lost for good, the fast path has ended, or the lease log panicked: without it nothing may be
    /// leased. The process then ends, and systemd starts it with new sockets.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub async fn run(mut self, feeds: Feeds, stop: CancellationToken) -> io::Result<()> {
        let Feeds { mut catalog, local, devices, leases: mut log, stats } = feeds;
        let kept = log.load();
        let mut log = BlockingLog::new(log);
        let scope = self.scope(&catalog.borrow_and_update(), &local);
        let fast_path = self.port.for_fast_path().filter(|_| self.others.is_some());
        let own = self.others.as_ref().map(ClientSocket::mac);
        let link_access = LinkAccess { own, raw: fast_path.is_some(), arp: self.arp.is_some() };
        let mut server = DhcpServer::new(scope, kept, link_access, Arc::clone(&devices), stats.clone(), now());
        let mut fast_path = match fast_path {
            Some((identity, relay)) => {
                Some(FastPath::open(identity, (&mut self.packets, relay), Arc::clone(server.orders()), devices)?)
            }
            None => None,
        };
        let (mut claims, mut answers) = self.arp.take().map(|arp| (arp.claims, arp.answers)).unzip();
        let mut tagged = self.tagged.take();
        let mut ask = AskTimer::new(Instant::now());
        let mut recall_at = Some(Instant::now());
        let mut releases = true;
        let mut names = NameLookup::default();
        info!(address = %self.port.config().lan.address(), port = self.port(), mode = server.label(), "DHCP is up");
        loop {
            let mut out = Outbox::default();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = catalog.changed(), if releases => match changed {
                    Ok(()) => {
                        let scope = self.scope(&catalog.borrow_and_update(), &local);
                        server.set_scope(scope, now());
                    }
                    // Whoever publishes releases is gone: the last one stays.
                    Err(_) => releases = false,
                },
                ready = self.port.readable() => {
                    ready?;
                    self.receive(&mut server, &mut out, &stats);
                }
                event = next_event(fast_path.as_mut()) => match event {
                    Some(Event::AnsweredFrom { server: other, xid, source }) => {
                        // Anybody can send anything; only who hears our question knows its transaction.
                        if self.others.as_ref().is_some_and(|others| others.is_ours(xid)) {
                            server.answered_from(other, source, now());
                        }
                    }
                    Some(event) => server.fast_path_event(event, now(), &mut out),
                    None => return Err(io::Error::other("the thread that watches the link has ended")),
                },
                heard = hear(self.others.as_ref()) => match heard {
                    Ok(Heard::Message(message, answers)) => server.heard(&message, answers, now()),
                    Ok(Heard::Unreadable(overheard)) => server.overheard(&overheard, now()),
                    Err(error) => self.port.failed(&stats, "listen", &error),
                },
                () = tokio::time::sleep_until(ask.next.into()), if self.others.is_some() => {
                    self.ask_others(&stats).await;
                    ask.asked(Instant::now(), server.is_listening());
                    server.asked(self.port.carries(), now());
                }
                heard = hear_claims(claims.as_mut()) => match heard {
                    Ok(claims) => claims.into_iter().for_each(|(claim, sender)| {
                        server.sent_by(claim.mac, sender, now());
                        server.claimed(claim, now());
                    }),
                    Err(error) => {
                        self.port.failed(&stats, "watch for conflicts", &error);
                        server.link_was_down(now());
                    }
                },
                heard = hear_claims(answers.as_mut()) => match heard {
                    Ok(claims) => {
                        let claims: Vec<Claim> = claims.into_iter().map(|(claim, _)| claim).collect();
                        if let Some(fast_path) = &fast_path {
                            fast_path.answered(&claims);
                        }
                        claims.into_iter().for_each(|claim| server.claimed(claim, now()));
                    }
                    Err(error) => self.port.failed(&stats, "hear answers", &error),
                },
                heard = hear_tagged(tagged.as_mut()) => match heard {
                    Ok((vlan, message)) => server.tagged(vlan, &message),
                    Err(error) => self.port.failed(&stats, "hear other VLANs", &error),
                },
                () = sleep_until(recall_at) => {
                    let recalled = log.with(|log| log.recall()).await?;
                    recall_at = recalled.is_none().then(|| Instant::now() + RECALL_AGAIN);
                    server.recalled(recalled.unwrap_or_default());
                }
                (name, addresses) = names.found() => server.resolved(&name, addresses, now()),
                () = tokio::time::sleep_until(server.deadline().into()) => {
                    server.follow_clock(now(), &mut out);
                    server.tick(now(), &mut out);
                }
            }
            if let Some(fast_path) = &fast_path {
                fast_path.order(server.orders());
            }
            names.begin(|| server.name_to_resolve(now()));
            if server.is_unsure() {
                ask.within(ASK_SOON);
            } else if server.awaits_correction() {
                ask.within(ASK_WHILE_WRONG);
            }
            self.ask_for_addresses(&std::mem::take(&mut out.checks), answers.as_ref(), &stats).await;
            self.ask_as_relay(&std::mem::take(&mut out.relay_questions), &mut server, &stats).await;
            self.work_off(out, &mut server, &mut log, &stats).await?;
        }
    }

    fn scope(&self, catalog: &Catalog, local: &DhcpSettings) -> DhcpScope {
        let config = self.port.config();
        let settings = if catalog.generation() == Generation(0) { local } else { &catalog.settings().dhcp };
        let phones = catalog.phones().map(|phone| phone.mac);
        let mut scope = DhcpScope::new(config.lan, settings, phones);
        scope.check_addresses = config.has_link();
        scope
    }

    /// Takes the datagrams that have come, up to a batch.
    fn receive(&self, server: &mut DhcpServer, out: &mut Outbox, stats: &Stats) {
        server.follow_clock(now(), out);
        let mut bytes = [0; MAX_REQUEST_BYTES + 1];
        for _ in 0..MAX_BATCH {
            match self.port.try_receive(&mut bytes) {
                Ok((length, SocketAddr::V4(source))) => {
                    server.receive(bytes.get(..length).unwrap_or_default(), *source.ip(), now(), out);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An error that an earlier datagram met on its way (ICMP); the socket is none the worse.
                Err(error) => return self.port.failed(stats, "receive", &error),
            }
        }
    }

    async fn ask_others(&self, stats: &Stats) {
        if let Some(others) = &self.others
            && let Err(error) = others.ask(Some(self.port.config().lan.address())).await
        {
            self.port.failed(stats, "ask for other servers", &error);
        }
    }

    /// Asks servers as a relay agent which address they would offer to this machine. Nobody takes the offer.
    async fn ask_as_relay(&self, servers: &[Ipv4Addr], server: &mut DhcpServer, stats: &Stats) {
        for &other in servers {
            let Some(mac) = self.others.as_ref().map(ClientSocket::mac) else { return };
            // Nobody can guess it, so that only who hears the question can answer it.
            let Ok(xid) = getrandom::u32() else { return };
            server.asked_as_relay(other, xid);
            let question = question::emit(Question::Discover(None), mac, 0);
            let question = completed_offer::relayed(&question, self.port.config().lan.address(), xid);
            if let Err(error) = self.port.send_to_server(&question, server.path_to(other)).await {
                self.port.failed(stats, "ask as a relay agent", &error);
            }
        }
    }

    /// Asks everyone who has these addresses.
    async fn ask_for_addresses(&self, addresses: &[Ipv4Addr], arp: Option<&ArpSocket>, stats: &Stats) {
        for &address in addresses {
            let asked = match (arp, self.port.link()) {
                (Some(arp), Some(link)) => arp.ask((link.mac, self.port.config().lan.address()), address),
                _ => self.port.make_kernel_ask(address).await,
            };
            if let Err(error) = asked {
                self.port.failed(stats, "ask for an address", &error);
            }
        }
    }

    /// Sends what may be sent at once, makes leases durable, tells the server of it, and sends what waited for that. A lease
    /// that cannot be kept is not acknowledged.
    async fn work_off(
        &self,
        out: Outbox,
        server: &mut DhcpServer,
        log: &mut BlockingLog,
        stats: &Stats,
    ) -> io::Result<()> {
        let Outbox { keep, acks, others, checks: _, questions, relay_questions: _, forget, remember } = out;
        for (question, mac, xid) in questions {
            let to = match question {
                Question::Release(_, other) => match server.path_to(other) {
                    ServerPath::Address(address) | ServerPath::Frame(_, address) => address,
                },
                _ => Ipv4Addr::BROADCAST,
            };
            if let Some(others) = &self.others
                && let Err(error) = others.send(question, mac, xid, to).await
            {
                self.port.failed(stats, "ask", &error);
            }
        }
        for outgoing in others {
            self.port.send(&outgoing, stats).await;
        }
        if keep.is_empty() && remember.is_empty() && !forget {
            return Ok(());
        }
        let work = move |log: &mut dyn LeaseLog| {
            if forget {
                log.forget();
            }
            if !remember.is_empty() {
                log.remember(&remember);
            }
            let result = if keep.is_empty() { Ok(()) } else { log.commit_all(&keep) };
            (keep, result)
        };
        let (keep, result) = log.with(work).await?;
        if keep.is_empty() {
            return Ok(());
        }
        match result {
            Ok(()) => {
                stats.clear_alert(AlertCode::DhcpLeaseLog);
                server.kept(&keep);
                for outgoing in acks {
                    self.port.send(&outgoing, stats).await;
                }
            }
            Err(error) => {
                if server.not_kept(&keep, now()) {
                    error!(%error, "leases cannot be kept, so none is acknowledged");
                }
                stats.alert(AlertCode::DhcpLeaseLog, format!("leases cannot be kept: {error}"));
            }
        }
        Ok(())
    }
}

/// When other servers are asked.
#[derive(Debug)]
struct AskTimer {
    last: Instant,
    next: Instant,
}

impl AskTimer {
    const fn new(now: Instant) -> Self {
        Self { last: now, next: now }
    }

    /// They have been asked. While we still listen for them at the start, they are asked often.
    fn asked(&mut self, now: Instant, listening: bool) {
        self.last = now;
        self.next = now + if listening { ASK_AT_START } else { ASK_EVERY };
    }

    /// They are asked at the latest so long after the last question.
    fn within(&mut self, span: Duration) {
        self.next = self.next.min(self.last + span);
    }
}

#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
fn now() -> Now {
    Now { wall: UnixTime::of(SystemTime::now()), tick: Instant::now() }
}

// What is not there never has anything to say.

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn next_event(fast_path: Option<&mut FastPath>) -> Option<Event> {
    match fast_path {
        Some(fast_path) => fast_path.event().await,
        None => std::future::pending().await,
    }
}

async fn hear(others: Option<&ClientSocket>) -> io::Result<Heard> {
    match others {
        Some(others) => others.hear().await,
        None => std::future::pending().await,
    }
}

async fn hear_tagged(tagged: Option<&mut TaggedRequests>) -> io::Result<(u16, Vec<u8>)> {
    match tagged {
        Some(tagged) => tagged.hear().await,
        None => std::future::pending().await,
    }
}

async fn hear_claims(arp: Option<&mut ArpSocket>) -> io::Result<Vec<(Claim, MacAddr)>> {
    match arp {
        Some(arp) => arp.claims().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
