//! A sequence of datagrams, deadlines and results of the disk through the whole TFTP server: to port 69 and to the ports of
//! its transfers, from phones, from a device outside the LAN, and from addresses that nobody has resolved.
#![no_main]

#[allow(dead_code, unreachable_pub)]
#[path = "../../src/tftp/endpoint/tests/shelf.rs"]
mod shelf;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, LazyLock, RwLock};
use std::time::{Duration, Instant};

use access::{Catalog, Content, ContentError, DeviceTable, RequestRates};
use bundle::{Class, Scope, SiteSettings};
use ids::{Lan, MacAddr};
use libfuzzer_sys::fuzz_target;
use shelf::{OTHER_MAC, PHONE_MAC};
use tftp::endpoint::{
    Endpoint, EndpointConfig, Event, Loaded, MAX_HELD, NetasciiText, Payload, Ticket, Transmit, Way, Work,
};

const MACS: [MacAddr; 2] = [PHONE_MAC, OTHER_MAC];
const MAX_TRANSFERS: usize = 6;

struct Page(u64);

impl Content for Page {
    fn len(&self) -> u64 {
        self.0
    }

    fn chunk(&self, index: u64) -> Result<Arc<[u8]>, ContentError> {
        let left = self.0.saturating_sub(index * 65_536).min(65_536);
        Ok(vec![b'\n'; usize::try_from(left).unwrap()].into())
    }
}

/// The release of the room's own tests, with other files. It is made once.
static CATALOG: LazyLock<Arc<Catalog>> = LazyLock::new(|| {
    let page = |name: &str, scope, class, bytes| (name.to_owned(), scope, class, vec![b'\n'; bytes]);
    let pages = vec![
        page("a", Scope::Everyone, Class::Firmware, 150_000),
        page("b", Scope::Everyone, Class::Locale, 700),
        page("SEP0004F2000002.cnf.xml", Scope::Device(PHONE_MAC), Class::Config, 1500),
        page("m", Scope::Model("cisco-7942".to_owned()), Class::Config, 0),
    ];
    let mut settings = SiteSettings::default();
    settings.tftp.accept_logs = true;
    Arc::new(shelf::catalog_of(1, settings, pages, &MACS))
});

struct World {
    endpoint: Endpoint,
    now: Instant,
    ports: BTreeMap<Ticket, SocketAddrV4>,
    work: VecDeque<(Ticket, Work)>,
}

impl World {
    fn act(&mut self, event: Event) {
        match event {
            Event::Opened { ticket, peer, .. } => assert!(self.ports.insert(ticket, peer).is_none()),
            Event::Closed(ticket) => assert!(self.ports.remove(&ticket).is_some()),
            // The endpoint outlives a transfer that panics; here it must not happen.
            Event::Count(name) => assert_ne!(name, "tftp.broken"),
            _ => {}
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            self.act(event);
        }
        loop {
            while let Some(Transmit { way, payload, .. }) = self.endpoint.poll_transmit(self.now) {
                match way {
                    Way::Refusal => {}
                    Way::Socket(ticket) => assert!(self.ports.contains_key(&ticket)),
                    Way::Frame(ticket, mac) => assert!(self.ports.contains_key(&ticket) && mac == MACS[0]),
                }
                match payload {
                    Payload::Packet(packet) => assert!(packet.len() >= 4 && packet.len() < 600),
                    Payload::Blocks(run, chunks) => {
                        for (_, range) in run.iter() {
                            let (bytes, more) = chunks.slices(&range);
                            assert_eq!((bytes.len() + more.len()) as u64, range.end - range.start);
                        }
                    }
                }
            }
            while let Some(work) = self.endpoint.poll_work() {
                self.work.push_back(work);
            }
            let Some(event) = self.endpoint.poll_event() else { break };
            self.act(event);
        }
        assert!(self.endpoint.transfers() <= MAX_TRANSFERS && self.endpoint.held() <= MAX_HELD);
        assert_eq!(self.endpoint.transfers(), self.ports.len());
    }

    fn work(&mut self, breaks: bool) {
        let Some((ticket, work)) = self.work.pop_front() else { return };
        let loaded = match work {
            _ if breaks => Err(ContentError::Damaged("a bit".to_owned())),
            Work::Open(entry) => {
                let content = Arc::new(Page(entry.blob.clear_bytes));
                content.chunk(0).map(|first| Loaded::Opened(content, first))
            }
            Work::Translate(_) => Ok(Loaded::Translated(Some(NetasciiText(b"a\r\n".to_vec())))),
            Work::Chunk { content, index } => content.chunk(index).map(Loaded::Chunk),
            Work::Keep { .. } => Ok(Loaded::Kept(Ok(()))),
        };
        self.endpoint.handle_loaded(ticket, loaded, self.now);
    }
}

fuzz_target!(|input: &[u8]| {
    let lan = Lan::new(Ipv4Addr::new(10, 0, 0, 1), 24);
    let config = EndpointConfig {
        lan,
        max_transfers: MAX_TRANSFERS,
        max_transfers_per_address: 3,
        max_uploads: 2,
        rates: RequestRates::default(),
        mtu: 1500,
        frames: true,
    };
    let devices = Arc::new(RwLock::new(DeviceTable::default()));
    for (host, mac) in (2..).zip(MACS) {
        devices.write().unwrap().neighbour(Ipv4Addr::new(10, 0, 0, host), mac);
    }
    let endpoint = Endpoint::new(config, Arc::clone(&CATALOG), Arc::clone(&devices));
    let mut world = World { endpoint, now: Instant::now(), ports: BTreeMap::new(), work: VecDeque::new() };
    let hosts = [2, 3, 9, 255].map(|host| Ipv4Addr::new(10, 0, 0, host));
    let mut rest = input;
    // One event: what it is, who, how much time passes, and how many octets of a datagram follow.
    while let Some(([kind, who, wait, length], more)) = rest.split_first_chunk::<4>() {
        let (datagram, after) = more.split_at(usize::from(*length).min(more.len()));
        rest = after;
        world.now += Duration::from_millis(u64::from(*wait) * 5);
        let host = if who & 0x80 == 0 { hosts[usize::from(who & 3)] } else { Ipv4Addr::new(10, 9, 9, 9) };
        let peer = SocketAddrV4::new(host, 2000 + u16::from(who >> 2 & 7));
        match kind % 8 {
            0 | 1 => world.endpoint.handle_request(datagram, peer, world.now),
            2 | 3 => {
                let port = world.ports.iter().nth(usize::from(*who) % MAX_TRANSFERS).map(|(ticket, to)| (*ticket, *to));
                if let Some((ticket, to)) = port {
                    let from = if kind & 8 == 0 { to } else { peer };
                    world.endpoint.handle_datagram(ticket, datagram, from, world.now);
                }
            }
            4 => world.work(kind & 8 != 0),
            5 => {
                let mac = MACS[usize::from(who >> 2 & 1)];
                match kind & 8 {
                    0 => drop(devices.write().unwrap().neighbour(host, mac)),
                    _ => devices.write().unwrap().neighbour_gone(host),
                }
            }
            _ => world.endpoint.handle_timeout(world.now),
        }
        world.drain();
    }
    // Then nobody says anything more, and nothing may be left over.
    for _ in 0..2000 {
        if !world.work.is_empty() {
            world.work(false);
        } else if let Some(due) = world.endpoint.poll_timeout() {
            world.now = world.now.max(due);
            world.endpoint.handle_timeout(world.now);
        } else {
            break;
        }
        world.drain();
    }
    assert!(world.ports.is_empty() && world.endpoint.transfers() == 0 && world.endpoint.held() == 0);
});
