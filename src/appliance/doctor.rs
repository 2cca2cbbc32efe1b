//! `lineside doctor` looks at a LAN and says in plain words what is there and what to do. It needs no set-up.
//!
//! Read [`examine`] (what is asked and heard), `findings` (what came of it), `advice` (the text), and `router_lines`.

mod advice;
mod findings;
mod router_lines;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use self::advice::advice;
use self::findings::Findings;
use super::clock;
use super::interface::{self, LanEcho};
use dhcp::client::ClientSocket;
use dhcp::heard::{Answers, Heard, Overheard, ServerMessage};
use dhcp::lan::{RelayCheck, Relays, ServerPath};
use dhcp::service::{self, FrameHeard, RelayClient, TaggedRequests};
use ethernet::PacketSockets;
use ids::{Lan, MacAddr};
use telemetry::Hint as _;

/// How long servers have to answer: dnsmasq pings an address for 3 s before it offers it, and the first DISCOVER may be
/// lost.
const LISTEN: Duration = Duration::from_secs(9);
/// How much longer it listens while a server that offered late is asked as a relay agent.
const RELAY_LISTEN: Duration = Duration::from_secs(5);
/// The time between two questions while it listens.
const ASK_EVERY: Duration = Duration::from_secs(4);
/// The most machines of which it is remembered where their messages came from.
const MAX_SOURCES: usize = 64;

/// Asks for DHCP servers on the LAN, listens for 9 seconds, and returns what to tell the person who ran the command.
///
/// # Errors
/// If no LAN interface is found, or UDP port 68 cannot be opened there: that takes root or `CAP_NET_BIND_SERVICE`.
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub async fn examine(interface: Option<&str>) -> anyhow::Result<String> {
    let lan = interface::find(interface, false).hint("name the interface: lineside doctor --interface eth0")?;
    let mac = service::hardware_address(&lan.name)?;
    let listener = ClientSocket::bind(&lan.name, mac, (67, 68))
        .with_context(|| format!("cannot listen for DHCP on {}", lan.name))
        .hint("run as root; a DHCP client that holds port 68 exclusively has to be stopped for the moment")?;
    // Without packet sockets it cannot ask as a relay agent, and says so.
    let relay = RelayClient::open(&lan.name, lan.address()).ok();
    let mut tagged = TaggedRequests::on(&lan.name).ok();
    let mut examination =
        Examination { lan: lan.lan, findings: Findings::new(relay.is_some()), ..Examination::default() };
    let end = Instant::now() + LISTEN;
    let mut ask = tokio::time::interval(ASK_EVERY);
    loop {
        let now = Instant::now();
        let asks_on = examination.relay_check.deadline().is_some() && now < end + RELAY_LISTEN;
        if now >= end && !asks_on {
            break;
        }
        let due = examination.relay_check.deadline().map_or(end + RELAY_LISTEN, Instant::from_std);
        let wake = if now < end { due.min(end) } else { due };
        tokio::select! {
            () = tokio::time::sleep_until(wake) => {}
            _ = ask.tick(), if now < end => {
                listener.ask(Some(lan.address())).await.context("cannot ask for DHCP servers")?;
            }
            heard = listener.hear() => examination.hear(&heard.context("cannot listen for DHCP servers")?),
            heard = hear_tagged(tagged.as_mut()) => {
                let (vlan, message) = heard.context("cannot listen on the link")?;
                examination.findings.tagged(vlan, &message);
            }
            frame = hear_frame(relay.as_ref()) => examination.hear_frame(&frame.context("cannot listen on the link")?),
        }
        examination.ask_as_relay(relay.as_ref());
    }
    let mut findings = examination.findings;
    resolve_names(&mut findings).await;
    let mut echo = LanEcho::open(&mut PacketSockets::default(), &lan).ok();
    let beside = interface::beside(&lan, echo.as_mut()).await.map(|beside| beside.text()).unwrap_or_default();
    Ok(beside + &advice(&lan, &findings))
}

async fn hear_tagged(tagged: Option<&mut TaggedRequests>) -> std::io::Result<(u16, Vec<u8>)> {
    match tagged {
        Some(tagged) => tagged.hear().await,
        None => std::future::pending().await,
    }
}

async fn hear_frame(relay: Option<&RelayClient>) -> std::io::Result<FrameHeard> {
    match relay {
        Some(relay) => relay.hear().await,
        None => std::future::pending().await,
    }
}

/// What goes on while it listens.
#[derive(Debug)]
struct Examination {
    lan: Lan,
    findings: Findings,
    relay_check: RelayCheck,
    /// Where the messages of each server came from: the hardware address, and the address to ask it at.
    sources: BTreeMap<Ipv4Addr, (MacAddr, Ipv4Addr)>,
}

impl Default for Examination {
    fn default() -> Self {
        let (findings, sources) = (Findings::new(false), BTreeMap::new());
        Self { lan: Lan::new(Ipv4Addr::UNSPECIFIED, 0), findings, relay_check: RelayCheck::default(), sources }
    }
}

impl Examination {
    /// A server has said something at the client port.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn hear(&mut self, heard: &Heard) {
        let overheard = heard.overheard();
        // A lineside that runs on this machine answers DHCPINFORM as well.
        if overheard.server == self.lan.address() {
            return;
        }
        if let Heard::Message(message, Answers::Us(_)) = heard {
            self.findings.options(message);
        }
        if overheard.asked && overheard.address.is_some() {
            self.relay_check.offered(overheard.server, Instant::now().into_std());
        }
        self.findings.lan.heard(&overheard, clock::now());
    }

    /// A server has said something to anybody.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn hear_frame(&mut self, frame: &FrameHeard) {
        if frame.source == self.lan.address() {
            return;
        }
        let message = ServerMessage::parse(&frame.message);
        let server = message.as_ref().map_or(frame.source, |message| message.server);
        if self.sources.len() < MAX_SOURCES && (message.is_some() || frame.message.first() == Some(&2)) {
            // What a relay agent passes on comes from elsewhere; the relay agent is on the way there.
            let direct = message.as_ref().is_some_and(|message| message.giaddr.is_unspecified());
            let path = ServerPath::of(server, (frame.source, frame.mac), self.lan).filter(|_| direct);
            let (ServerPath::Address(address) | ServerPath::Frame(_, address)) =
                path.unwrap_or(ServerPath::Address(server));
            self.sources.insert(server, (frame.mac, address));
        }
        match message {
            Some(message) if message.giaddr == self.lan.address() && self.relay_check.is_ours(message.xid) => {
                self.relay_check.answered(message.server, Instant::now().into_std());
                self.findings.lan.heard(&message.overheard(Answers::Us(None)), clock::now());
            }
            // What a server tells others shows that it is there, even if it does not answer us.
            Some(message) => {
                self.findings.lan.heard(&message.overheard(Answers::Others), clock::now());
            }
            None => {
                if let Some(overheard) = Overheard::unreadable(&frame.message, frame.source, |_| false) {
                    self.findings.unreadable_at(frame.source, frame.mac);
                    self.findings.lan.heard(&overheard, clock::now());
                }
            }
        }
    }

    /// Asks servers as a relay agent, when that is due.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn ask_as_relay(&mut self, relay: Option<&RelayClient>) {
        let Some(relay) = relay else { return };
        let mut refused = Vec::new();
        for server in self.relay_check.step(Instant::now().into_std(), &mut refused) {
            let Some(source) = self.sources.get(&server) else { continue };
            match relay.ask(*source) {
                Ok(xid) => self.relay_check.sent(server, xid),
                Err(error) => tracing::debug!(%error, %server, "cannot ask as a relay agent"),
            }
        }
        for server in refused {
            self.findings.lan.relays(server, Relays::Refused);
        }
    }
}

/// Looks up the names that servers hand out, so that they can be told from this machine's addresses.
async fn resolve_names(findings: &mut Findings) {
    for name in findings.names() {
        let addresses = service::addresses_of(&name).await;
        findings.resolved(name, addresses);
    }
}

#[cfg(test)]
mod tests;
