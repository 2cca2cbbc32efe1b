//! An endpoint in simulated time, without sockets: what it sends is caught, and its disk is a map.

#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use super::shelf::Shelf;
use crate::endpoint::*;
use crate::packet::{Packet, RequestOption, TransferMode, TransferRequest, data_header};
use crate::service::epoch;
use access::content::CHUNK_BYTES;
use access::{DeviceTable, Files as _};

pub(crate) const LAN: Lan = Lan::new(Ipv4Addr::new(10, 0, 0, 1), 24);

/// A packet as it left: by which way, to whom, and from which transfer's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) way: Way,
    pub(crate) to: SocketAddrV4,
    pub(crate) from: Option<Ticket>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Bench {
    pub(crate) endpoint: Endpoint,
    pub(crate) devices: SharedDevices,
    pub(crate) shelf: Shelf,
    pub(crate) now: Instant,
    /// The open ports, and what their transfers wait for.
    pub(crate) ports: BTreeMap<Ticket, Waits>,
    pub(crate) left: VecDeque<Left>,
    pub(crate) work: VecDeque<(Ticket, Work)>,
    /// Whether work waits for [`Bench::finish_work`].
    pub(crate) slow_disk: bool,
    /// How many ports there are.
    pub(crate) free_ports: usize,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) records: Vec<TransferRecord>,
    pub(crate) resolve: Vec<Ipv4Addr>,
    /// What was asked by ARP: for which address, and whom; `None` is everyone.
    pub(crate) asked: Vec<(Ipv4Addr, Option<MacAddr>)>,
    /// Whether devices answer by ARP at once.
    pub(crate) answers: bool,
    pub(crate) outside: Vec<Ipv4Addr>,
    pub(crate) alerts: Vec<(AlertCode, String)>,
}

pub(crate) fn config() -> EndpointConfig {
    EndpointConfig {
        lan: LAN,
        max_transfers: 600,
        max_transfers_per_address: 8,
        max_uploads: 0,
        rates: RequestRates::default(),
        mtu: 1500,
        frames: true,
    }
}

impl Bench {
    pub(crate) fn new(config: EndpointConfig, catalog: Catalog, shelf: Shelf) -> Self {
        let devices = Arc::new(RwLock::new(DeviceTable::default()));
        let endpoint = Endpoint::new(config, Arc::new(catalog), Arc::clone(&devices));
        Self {
            endpoint,
            devices,
            shelf,
            now: epoch(),
            ports: BTreeMap::new(),
            left: VecDeque::new(),
            work: VecDeque::new(),
            slow_disk: false,
            free_ports: usize::MAX,
            counts: BTreeMap::new(),
            records: Vec::new(),
            resolve: Vec::new(),
            asked: Vec::new(),
            answers: true,
            outside: Vec::new(),
            alerts: Vec::new(),
        }
    }

    pub(crate) fn knows(&self, address: Ipv4Addr, mac: MacAddr) {
        self.devices.write().unwrap().neighbour(address, mac);
    }

    /// A datagram comes to port 69.
    pub(crate) fn request(&mut self, peer: SocketAddrV4, datagram: &[u8]) {
        self.endpoint.handle_request(datagram, peer, self.now);
        self.drain();
    }

    /// A phone asks for a file in octet mode.
    pub(crate) fn ask(&mut self, peer: SocketAddrV4, name: &str, options: &[(&str, &str)]) {
        self.request(peer, &rrq(name, TransferMode::Octet, options));
    }

    /// A datagram comes to a transfer's port.
    pub(crate) fn datagram(&mut self, ticket: Ticket, from: SocketAddrV4, datagram: &[u8]) {
        self.endpoint.handle_datagram(ticket, datagram, from, self.now);
        self.drain();
    }

    /// A device answers by ARP.
    pub(crate) fn answer(&mut self, address: Ipv4Addr, mac: MacAddr) {
        self.endpoint.handle_answer(address, mac, self.now);
        self.drain();
    }

    pub(crate) fn ack(&mut self, to: &Left, block: u16) {
        let [high, low] = block.to_be_bytes();
        self.datagram(to.from.unwrap(), to.to, &[0, 4, high, low]);
    }

    /// Time passes, deadline by deadline.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.endpoint.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.endpoint.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    pub(crate) fn wait_millis(&mut self, millis: u64) {
        self.wait(Duration::from_millis(millis));
    }

    /// The next packet that left; there must be one.
    pub(crate) fn hear(&mut self) -> Left {
        self.left.pop_front().expect("an answer")
    }

    pub(crate) fn hears_nothing(&self) -> bool {
        self.left.is_empty()
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn finish_work(&mut self) {
        while let Some((ticket, work)) = self.work.pop_front() {
            let loaded = perform(&self.shelf, work);
            self.endpoint.handle_loaded(ticket, loaded, self.now);
            self.drain();
        }
    }

    /// Whether nothing is left: no transfer, no port, no deadline, no waiting request.
    pub(crate) fn is_idle(&self) -> bool {
        let quiet = self.ports.is_empty() && self.work.is_empty() && self.endpoint.held() == 0;
        quiet && self.endpoint.flows.is_empty() && self.endpoint.poll_timeout().is_none()
    }

    pub(crate) fn drain(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            self.act(event);
        }
        loop {
            while let Some(Transmit { way, to, payload }) = self.endpoint.poll_transmit(self.now) {
                let from = match way {
                    Way::Refusal => None,
                    Way::Socket(ticket) | Way::Frame(ticket, _) => Some(ticket),
                };
                assert!(from.is_none_or(|ticket| self.ports.contains_key(&ticket)), "it has a port");
                let left = |bytes| Left { way, to, from, bytes };
                match payload {
                    Payload::Packet(packet) => self.left.push_back(left(packet.to_vec())),
                    Payload::Blocks(run, chunks) => self.left.extend(run.iter().map(|(number, range)| {
                        let (bytes, more) = chunks.slices(&range);
                        left([&data_header(number)[..], bytes, more].concat())
                    })),
                }
            }
            while let Some((ticket, work)) = self.endpoint.poll_work() {
                self.work.push_back((ticket, work));
            }
            match self.endpoint.poll_event() {
                Some(event) => self.act(event),
                None if self.slow_disk || self.work.is_empty() => return,
                None => return self.finish_work(),
            }
        }
    }

    fn act(&mut self, event: Event) {
        match event {
            Event::Opened { ticket, .. } if self.ports.len() >= self.free_ports => {
                self.endpoint.handle_no_port(ticket, self.now);
            }
            Event::Opened { ticket, waits, .. } | Event::Waits(ticket, waits) => {
                self.ports.insert(ticket, waits);
            }
            Event::Closed(ticket) => {
                self.ports.remove(&ticket);
            }
            Event::Resolve(address) => self.resolve.push(address),
            Event::Ask { address, mac } => {
                self.asked.push((address, mac));
                let device = self.devices.read().unwrap().resolve(address);
                if let (true, access::Resolution::Device(mac)) = (self.answers, device) {
                    self.endpoint.handle_answer(address, mac, self.now);
                }
            }
            Event::OutsideLan(address) => self.outside.push(address),
            Event::Count(name) => *self.counts.entry(name).or_default() += 1,
            Event::Alert(code, text) => self.alerts.push((code, text)),
            Event::ClearAlert(code) => self.alerts.retain(|(known, _)| *known != code),
            Event::EndAlerts(code, device) => {
                self.alerts.retain(|(known, text)| *known != code || !text.contains(&device.to_string()));
            }
            Event::Transfer(record) => self.records.push(record),
        }
    }
}

pub(crate) fn rrq(name: &str, mode: TransferMode, options: &[(&str, &str)]) -> Vec<u8> {
    let options =
        options.iter().map(|(name, value)| RequestOption { name: name.as_bytes(), value: value.as_bytes() }).collect();
    let mut datagram = Vec::new();
    Packet::Read(TransferRequest { name: name.as_bytes(), mode, options }).emit(&mut datagram);
    datagram
}

/// What the threads of the service do.
pub(crate) fn perform(shelf: &Shelf, work: Work) -> Result<Loaded, ContentError> {
    match work {
        Work::Open(entry) => {
            let content = shelf.open(&entry)?;
            let first = content.chunk(0)?;
            Ok(Loaded::Opened(content, first))
        }
        Work::Translate(entry) => {
            let content = shelf.open(&entry)?;
            assert!(content.len() <= CHUNK_BYTES as u64);
            Ok(Loaded::Translated(crate::netascii::translate(&content.chunk(0)?).map(NetasciiText)))
        }
        Work::Chunk { content, index } => Ok(Loaded::Chunk(content.chunk(index)?)),
        Work::Keep { .. } => Ok(Loaded::Kept(Ok(()))),
    }
}
