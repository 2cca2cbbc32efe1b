//! A LAN with a router and a phone, message by message.

use super::*;

pub(super) struct TestLan {
    pub augment: Augment,
    pub scope: DhcpScope,
    /// An address at which the link has another device, and how surely.
    pub seen: Option<(Ipv4Addr, Occupant)>,
    pub now: Instant,
}

impl TestLan {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let mut augment = Augment::new(1);
        augment.set_servers(&[ROUTER]);
        Self { augment, scope: scope(&[]), seen: None, now }
    }

    pub(super) fn pass(&mut self, span: Duration) {
        self.now += span;
    }

    pub(super) fn request(&mut self, bytes: &[u8], broadcast: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        let request = Request::parse(bytes).unwrap();
        let seen = self.seen;
        let what = (&self.scope, &request, bytes);
        self.augment.hear_client(what, broadcast, &|address| occupant(seen, address), self.now, &mut actions);
        actions
    }

    pub(super) fn relays(&mut self, discover: &[u8]) -> Vec<(Ipv4Addr, Vec<u8>)> {
        let actions = self.request(discover, true);
        actions
            .into_iter()
            .filter_map(|act| if let Action::Relay(to, message) = act { Some((to, message)) } else { None })
            .collect()
    }

    /// The transaction of what was last relayed to the router.
    pub(super) fn xid(&self) -> u32 {
        self.xid_of(ROUTER)
    }

    /// The same to another router.
    pub(super) fn xid_of(&self, server: Ipv4Addr) -> u32 {
        self.augment.phones.get(PHONE).unwrap().discovery.as_ref().unwrap().asked.xid_of(server).unwrap()
    }

    pub(super) fn router(&mut self, message: &ServerMessage) -> Vec<Action> {
        let mut actions = Vec::new();
        let seen = self.seen;
        self.augment.hear_server(
            Some(&self.scope),
            message,
            &|address, _| occupant(seen, address),
            self.now,
            &mut actions,
        );
        actions
    }

    /// A phone's DISCOVER and what the router says to it.
    pub(super) fn learn(&mut self) {
        self.relays(&discover("Polycom-SPIP670"));
        self.router(&offer(self.xid(), ROUTER, ADDRESS, &[]));
    }

    pub(super) fn select(&mut self, server: Ipv4Addr, address: Ipv4Addr) -> Option<ServerMessage> {
        answer(&self.request(&select(server, address), true))
    }
}

fn occupant(seen: Option<(Ipv4Addr, Occupant)>, address: Ipv4Addr) -> Occupant {
    seen.filter(|(at, _)| *at == address).map_or(Occupant::Nobody, |(_, occupant)| occupant)
}

pub(super) fn scope(vendor_options: &[VendorOption]) -> DhcpScope {
    let settings = DhcpSettings {
        mode: DhcpMode::Augment,
        vendor_options: vendor_options.to_vec(),
        phone_classes: vec!["AastraIPPhone".to_owned()],
        ..DhcpSettings::default()
    };
    DhcpScope::new(Lan::new(BOX, 24), &settings, [PHONE])
}

pub(super) fn said_by(mac: MacAddr, class: &str) -> Vec<u8> {
    let mut bytes = question::emit(Question::Discover(None), mac, 5);
    let end = bytes.iter().rposition(|byte| *byte == 255).unwrap();
    bytes.truncate(end);
    options::emit(OptionCode::ClassIdentifier, class.as_bytes(), &mut bytes);
    bytes.push(255);
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

pub(super) fn discover(class: &str) -> Vec<u8> {
    said_by(PHONE, class)
}

pub(super) fn select(server: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    question::emit(Question::Select(address, server), PHONE, 5)
}

pub(super) fn reboot(address: Ipv4Addr) -> Vec<u8> {
    question::emit(Question::Reboot(address), PHONE, 6)
}

pub(super) fn rebind(address: Ipv4Addr) -> Vec<u8> {
    let mut bytes = question::emit(Question::Inform(address), PHONE, 7);
    bytes[242] = 3;
    bytes
}

pub(super) fn emit_offer(xid: u32, server: Ipv4Addr, address: Ipv4Addr, more: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![2, 1, 6, 1];
    bytes.extend(xid.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(address.octets());
    bytes.extend(server.octets());
    bytes.extend(BOX.octets());
    bytes.extend(PHONE.octets());
    bytes.resize(236, 0);
    bytes.extend(dhcproto::v4::MAGIC);
    let times = [(51, HOUR), (58, HOUR / 2), (59, HOUR / 8 * 7)].map(|(code, seconds)| (code, seconds.to_be_bytes()));
    let mut tell = |code: u8, value: &[u8]| options::emit(OptionCode::from(code), value, &mut bytes);
    tell(53, &[2]);
    tell(54, &server.octets());
    times.iter().for_each(|(code, value)| tell(*code, value));
    tell(1, &[255, 255, 255, 0]);
    more.iter().for_each(|(code, value)| tell(*code, value));
    bytes.push(255);
    bytes
}

pub(super) fn offer(xid: u32, server: Ipv4Addr, address: Ipv4Addr, more: &[(u8, &[u8])]) -> ServerMessage {
    ServerMessage::parse(&emit_offer(xid, server, address, more)).unwrap()
}

pub(super) fn kept(actions: &[Action]) -> CompletedLease {
    let kept = actions.iter().find_map(|act| match act {
        Action::Tell(Event::Completed { address, exchange, .. }) => Some(exchange.as_ref()?.to_keep(*address)),
        _ => None,
    });
    kept.unwrap()
}

pub(super) fn replies(actions: &[Action]) -> Vec<&Vec<u8>> {
    actions
        .iter()
        .filter_map(|act| if let Action::Reply { message, .. } = act { Some(message) } else { None })
        .collect()
}

pub(super) fn answer(actions: &[Action]) -> Option<ServerMessage> {
    let all = replies(actions);
    assert!(all.len() <= 1, "{actions:?}");
    all.first().map(|bytes| ServerMessage::parse(bytes).unwrap())
}
