//! A site, the packets that phones send to it, and its replies as another implementation reads them.

use dhcproto::v4::{DhcpOption, Message};
use dhcproto::{Decodable as _, Decoder, Encodable as _};

use super::*;
use ids::Lan;

pub const NOW: UnixTime = UnixTime(1_700_000_000);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
pub const SECOND_TFTP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 3);
pub const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
pub const CISCO: MacAddr = MacAddr::new([0x00, 0x1b, 0x54, 0x12, 0x34, 0x56]);
pub const POLYCOM: MacAddr = MacAddr::new([0x00, 0x04, 0xf2, 0xaa, 0xbb, 0xcc]);
pub const SPA: MacAddr = MacAddr::new([0x00, 0x0e, 0x08, 0x01, 0x02, 0x03]);
pub const PC: MacAddr = MacAddr::new([0x3c, 0x97, 0x0e, 0x00, 0x00, 0x01]);

// What phones send: vendor class and parameter request list as the vendors document them.

pub fn cisco(kind: MessageKind) -> Packet {
    let packet = Packet::new(CISCO, kind).option(60, b"Cisco Systems, Inc. IP Phone CP-7941G\0");
    packet.option(12, b"SEP001B54123456").option(55, &[1, 66, 6, 3, 15, 150, 35])
}

pub fn polycom(kind: MessageKind) -> Packet {
    let packet = Packet::new(POLYCOM, kind).option(60, b"Polycom-SPIP670").option(57, &1456_u16.to_be_bytes());
    packet.option(55, &[1, 28, 66, 160, 3, 15, 6, 42, 2])
}

pub fn spa(kind: MessageKind) -> Packet {
    Packet::new(SPA, kind).option(60, b"LINKSYS SPA-942").option(55, &[1, 3, 6, 15, 42, 66, 159, 160, 150])
}

pub struct Site {
    pub scope: DhcpScope,
    pub lan: LanView,
    pub leases: Leases,
    pub source: Ipv4Addr,
}

impl Site {
    pub fn new(settings: DhcpSettings) -> Self {
        let mut scope = DhcpScope::new(Lan::new(SERVER, 24), &settings, [POLYCOM, CISCO, SPA]);
        scope.check_addresses = false;
        let mut leases = Leases::new();
        leases.set_range(scope.range.clone());
        Self { scope, lan: LanView::new(), leases, source: NONE }
    }

    pub fn inform() -> Self {
        Self::new(settings())
    }

    pub fn all() -> Self {
        let site = Self::new(all_settings());
        assert_eq!(site.scope.mode, ActiveMode::All);
        site
    }

    pub fn decide(&self, packet: &Packet) -> Verdict {
        let request = Request::parse(&packet.bytes()).unwrap();
        respond(&self.scope, &View { lan: &self.lan, leases: &self.leases, source: self.source }, &request, NOW)
    }

    /// The reply as another implementation reads it.
    pub fn replied(&self, packet: &Packet) -> (Read, Destination) {
        let Verdict::Reply(reply, to, None) = self.decide(packet) else { panic!("{:?}", self.decide(packet)) };
        (Read::new(&reply.emit()), to)
    }

    /// The same, with what it changes done.
    pub fn answer(&mut self, packet: &Packet) -> (Read, Destination) {
        let verdict = self.decide(packet);
        let Verdict::Reply(reply, to, change) = verdict else { panic!("{verdict:?}") };
        change.into_iter().for_each(|lease| self.leases.put(lease));
        (Read::new(&reply.emit()), to)
    }

    pub fn lease(&mut self, mac: MacAddr, address: Ipv4Addr) {
        let until = NOW.plus(Duration::from_secs(3600));
        self.leases.put(Lease { address, mac, client: ClientId::hardware(1, mac), state: LeaseState::Bound, until });
    }
}

pub fn settings() -> DhcpSettings {
    DhcpSettings {
        tftp_servers: vec![SERVER, SECOND_TFTP],
        phone_classes: vec!["Cisco Systems, Inc. IP Phone".to_owned()],
        ..DhcpSettings::default()
    }
}

pub fn all_settings() -> DhcpSettings {
    DhcpSettings {
        mode: DhcpMode::All,
        range: Some((Ipv4Addr::new(192, 168, 1, 100), Ipv4Addr::new(192, 168, 1, 149))),
        routers: vec![ROUTER],
        dns: vec![ROUTER],
        ..settings()
    }
}

/// The value of an option as dhcproto reads and writes it, but for 150, which it takes for one address.
pub fn raw(message: &Read, code: u8) -> Vec<u8> {
    if code == 150 {
        return message.list.clone();
    }
    let option: &DhcpOption = message.opts().get(OptionCode::from(code)).unwrap_or_else(|| panic!("no option {code}"));
    option.to_vec().unwrap().split_off(2)
}

/// A reply as another implementation reads it, and its option 150.
pub struct Read {
    pub message: Message,
    pub list: Vec<u8>,
}

impl Read {
    pub fn new(bytes: &[u8]) -> Self {
        let mut bytes = bytes.to_vec();
        let mut list = Vec::new();
        let mut at = 240;
        // dhcproto stops reading at a list in option 150, so that the list becomes padding for it.
        while bytes[at] != 255 {
            let end = at + 2 + usize::from(bytes[at + 1]);
            if bytes[at] == 150 {
                list.extend_from_slice(&bytes[at + 2..end]);
                bytes[at..end].fill(0);
            }
            at = end;
        }
        Self { message: Message::decode(&mut Decoder::new(&bytes)).unwrap(), list }
    }
}

impl std::ops::Deref for Read {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

/// A packet as a phone makes it.
#[derive(Clone)]
pub struct Packet {
    pub mac: MacAddr,
    pub xid: u32,
    pub flags: u16,
    pub ciaddr: Ipv4Addr,
    pub giaddr: Ipv4Addr,
    pub options: Vec<(u8, Vec<u8>)>,
    pub padded: bool,
}

impl Packet {
    pub fn new(mac: MacAddr, kind: MessageKind) -> Self {
        let kind = match kind {
            MessageKind::Discover => 1,
            MessageKind::Request => 3,
            MessageKind::Decline => 4,
            MessageKind::Release => 7,
            MessageKind::Inform => 8,
        };
        let options = vec![(53, vec![kind])];
        Self { mac, xid: 0x1234_5678, flags: 0, ciaddr: NONE, giaddr: NONE, options, padded: true }
    }

    /// Adds an option, or replaces the one of this code.
    pub fn option(mut self, code: u8, value: &[u8]) -> Self {
        self.options.retain(|(other, _)| *other != code);
        self.options.push((code, value.to_vec()));
        self
    }

    pub fn ciaddr(self, address: [u8; 4]) -> Self {
        Self { ciaddr: address.into(), ..self }
    }

    pub fn giaddr(self, address: [u8; 4]) -> Self {
        Self { giaddr: address.into(), ..self }
    }

    pub fn broadcast(self) -> Self {
        Self { flags: BROADCAST, ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0];
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend([0, 3]);
        bytes.extend(self.flags.to_be_bytes());
        for address in [self.ciaddr, NONE, NONE, self.giaddr] {
            bytes.extend(address.octets());
        }
        bytes.extend(self.mac.octets());
        bytes.resize(236, 0);
        bytes.extend(dhcproto::v4::MAGIC);
        for (code, value) in &self.options {
            options::emit(OptionCode::from(*code), value, &mut bytes);
        }
        bytes.push(255);
        if self.padded {
            bytes.resize(bytes.len().max(300), 0);
        }
        bytes
    }
}
