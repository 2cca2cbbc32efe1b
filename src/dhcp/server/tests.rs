#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod chosen;
mod judged;
mod link;
mod names;
mod waiting;

use dhcproto::v4::{DhcpOption, Message};
use dhcproto::{Encodable as _, Encoder};

use super::conflicts::MAX_CONFLICTS;
use super::fetch_watch::FETCH_WITHIN;
use super::scope_choice::{ALONE_AFTER, ASK_WAIT};
use super::waiting_requests::MAX_WAITING;
use super::*;
use crate::arp::Claim;
use crate::arp_scan::{STEP, WAIT as CHECK_WAIT};
use crate::augment::{CompletedOffer, Event, Exchange};
use crate::heard::{Answers, Overheard, ServerMessage};
use crate::lan::ServerPath;
use crate::leases::QUARANTINE;
use crate::question::{self, Question};
use crate::scope::ActiveMode;
use access::Resolution;
use bundle::{DhcpMode, DhcpSettings};
use ids::{Lan, UnixTime};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const OWN: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 0xff]);
const PHONE: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);
const OTHER: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 2]);

#[test]
fn all_waits_for_other_servers_before_it_offers() {
    let mut site = Site::new();
    assert!(site.receive(discover(PHONE)).others.is_empty());
    assert_eq!(site.server.label(), "inform (looking for other servers)");
    site.pass(ASK_WAIT);
    assert_eq!(site.server.label(), "all");
    assert!(!site.offer(PHONE).is_unspecified());
}

#[test]
fn all_stays_away_while_another_server_is_there_and_begins_when_it_is_gone() {
    let mut site = Site::new();
    site.hear_router();
    site.pass(ASK_WAIT);
    assert_eq!(site.server.label(), "inform (all asked for)");
    assert!(site.receive(discover(PHONE)).others.is_empty());
    site.pass(crate::lan::SERVER_GONE);
    assert_eq!(site.server.label(), "all");
}

#[test]
fn a_server_that_appears_later_does_not_silence_us_for_those_who_hold_our_leases() {
    let mut site = Site::ready();
    let address = site.offer(PHONE);
    site.take(PHONE, address);
    site.hear_router();
    assert_eq!(site.server.label(), "all");
    assert_eq!(site.take(PHONE, address).others.len(), 1);
}

#[test]
fn auto_completes_the_leases_of_the_one_server_that_says_nothing_of_tftp() {
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Auto, ..DhcpSettings::default() });
    assert!(site.server.orders().servers.is_empty());
    site.hear_router();
    assert_eq!((site.server.label(), site.server.orders().scope.mode), ("augment (auto)", ActiveMode::Augment));
    assert_eq!(site.server.orders().servers, [ROUTER]);
    // The fast path answers; the server does not a second time.
    assert!(site.receive(discover(PHONE)).others.is_empty());
    site.server.overheard(&spoke(ROUTER, &["192.168.1.2"]), site.now);
    assert_eq!(site.server.label(), "inform (auto: the router points here)");
    site.server.overheard(&spoke(Ipv4Addr::new(192, 168, 1, 254), &[]), site.now);
    site.server.overheard(&spoke(ROUTER, &["10.0.0.1"]), site.now);
    assert_eq!(site.server.label(), "inform (auto)");
}

#[test]
fn auto_takes_a_lan_without_a_server_after_a_slow_router_had_its_time() {
    let range = Some((Ipv4Addr::new(192, 168, 1, 100), Ipv4Addr::new(192, 168, 1, 149)));
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Auto, range, ..DhcpSettings::default() });
    site.pass(ASK_WAIT);
    assert_eq!(site.server.label(), "inform (auto: looking for other servers)");
    site.pass(ALONE_AFTER);
    assert_eq!(site.server.label(), "all (auto)");
}

#[test]
fn a_server_that_appears_later_and_a_phone_that_never_comes_are_reported() {
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
    site.hear_router();
    site.pass(ASK_WAIT);
    assert_eq!(site.server.stats.counter("alert.dhcp-new-server"), 0);
    site.server.overheard(&spoke(Ipv4Addr::new(192, 168, 1, 254), &[]), site.now);
    assert_eq!(site.server.stats.counter("alert.dhcp-new-server"), 1);
    site.event(Event::Completed { phone: PHONE, address: Ipv4Addr::new(192, 168, 1, 77), exchange: None });
    site.pass(FETCH_WITHIN - Duration::from_secs(1));
    assert_eq!(site.server.stats.counter("alert.dhcp-never-came"), 0);
    site.pass(SWEEP_EVERY);
    assert_eq!(site.server.stats.counter("alert.dhcp-never-came"), 1);
    assert_eq!(site.server.stats.counter("dhcp.augment.ack"), 1);
}

#[test]
fn a_refusal_and_a_router_that_points_elsewhere_are_reported() {
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
    site.event(Event::Refused { phone: PHONE, server: ROUTER });
    assert_eq!(site.server.stats.counter("alert.dhcp-augment-nak"), 1);
    site.event(points("192.168.1.2"));
    assert_eq!(site.server.stats.counter("alert.dhcp-points-elsewhere"), 0);
    site.event(points("10.0.0.9"));
    assert_eq!(site.server.stats.counter("alert.dhcp-points-elsewhere"), 1);
}

// RFC 5227 §2.4.
#[test]
fn who_claims_a_leased_address_or_ours_is_reported_once() {
    let mut site = Site::ready();
    let address = site.offer(PHONE);
    site.take(PHONE, address);
    let conflicts = |site: &Site| site.server.stats.counter("alert.dhcp-address-conflict");
    let free = Ipv4Addr::new(192, 168, 1, 20);
    for (mac, address) in [(PHONE, address), (OTHER, free), (OWN, SERVER)] {
        site.server.claimed(Claim { mac, address }, site.now);
    }
    assert_eq!(conflicts(&site), 0);
    for _ in 0..3 {
        site.server.claimed(Claim { mac: OTHER, address }, site.now);
        site.server.claimed(Claim { mac: OTHER, address: SERVER }, site.now);
    }
    assert_eq!(conflicts(&site), 2);
    // A storm of them costs no memory.
    for number in 0..1000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        site.server.claimed(Claim { mac: MacAddr::new([2, 0, 0, 0, high, low]), address: SERVER }, site.now);
    }
    assert!(site.server.conflicts.len() <= MAX_CONFLICTS);
    site.pass(Duration::from_secs(86_400));
    site.server.claimed(Claim { mac: MacAddr::new([2, 7, 7, 7, 7, 7]), address }, site.now);
    assert_eq!(conflicts(&site), 1001, "one of them is our own address, and the lease is over");
}

fn phones_only() -> DhcpSettings {
    let range = Some((Ipv4Addr::new(192, 168, 1, 200), Ipv4Addr::new(192, 168, 1, 219)));
    DhcpSettings { mode: DhcpMode::PhonesOnly, range, ..DhcpSettings::default() }
}

#[test]
fn phones_only_is_refused_where_an_address_of_the_range_is_in_use() {
    let mut site = Site::wanting(phones_only());
    let asked = site.pass(ASK_WAIT);
    assert_eq!((asked.checks.len(), asked.questions.len()), (20, 0), "the whole range, before anybody is bothered");
    site.claim(OTHER, Ipv4Addr::new(192, 168, 1, 219));
    site.pass(CHECK_WAIT);
    assert_eq!(site.server.label(), "inform (phones-only refused)");
    let problem = site.server.choice.in_force().problem.clone().unwrap_or_default();
    assert!(problem.contains("192.168.1.219 of the range is in use") && problem.contains("augment"), "{problem}");
}

#[test]
fn phones_only_ends_when_another_server_leases_from_the_range() {
    let mut site = Site::wanting(phones_only());
    site.pass(ASK_WAIT);
    for _ in 0..30 {
        site.pass(CHECK_WAIT);
    }
    assert_eq!(site.server.label(), "phones-only");
    let offered = |last| Overheard { address: Some(Ipv4Addr::new(192, 168, 1, last)), ..spoke(ROUTER, &[]) };
    site.server.overheard(&offered(50), site.now);
    site.prove(|question| match question {
        Question::Discover(_) => Some((MessageType::Offer, Ipv4Addr::new(192, 168, 1, 50))),
        Question::Select(_, ROUTER) => Some((MessageType::Ack, Ipv4Addr::new(192, 168, 1, 50))),
        _ => None,
    });
    assert_eq!(site.server.label(), "phones-only", "proven anew beside the new server");
    site.server.overheard(&offered(205), site.now);
    assert_eq!(site.server.label(), "inform (phones-only refused)");
    assert_eq!(site.server.stats.counter("alert.dhcp-range-shared"), 1);
}

#[test]
fn a_check_of_phones_only_that_nobody_wants_any_more_keeps_nobody_awake() {
    let mut site = Site::wanting(phones_only());
    assert_eq!(site.pass(ASK_WAIT).checks.len(), 20);
    let inform = DhcpSettings { mode: DhcpMode::Inform, ..DhcpSettings::default() };
    site.server.set_scope(DhcpScope::new(Lan::new(SERVER, 24), &inform, [PHONE]), site.now);
    site.pass(CHECK_WAIT);
    assert!(site.server.deadline() > site.now.tick);
}

#[test]
fn a_phone_that_rebinds_is_not_expected_to_fetch() {
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
    site.event(Event::Rebound { phone: PHONE, address: Ipv4Addr::new(192, 168, 1, 77) });
    site.pass(FETCH_WITHIN);
    site.pass(SWEEP_EVERY);
    assert_eq!(site.server.stats.counter("alert.dhcp-never-came"), 0);
}

#[test]
fn completed_leases_are_to_be_remembered_until_the_clock_proves_wrong() {
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
    let exchange = exchange();
    let address = Ipv4Addr::new(192, 168, 1, 77);
    let kept = exchange.to_keep(address);
    let completed = Event::Completed { phone: PHONE, address, exchange: Some(exchange) };
    assert_eq!(site.event(completed).remember, [(kept.clone(), site.now.wall)]);
    site.server.recalled(vec![(kept.clone(), Duration::from_secs(9))]);
    assert_eq!(*site.server.orders().recalled, [(kept, Duration::from_secs(9))]);
    site.now.wall = site.now.wall.plus(Duration::from_secs(3600));
    assert!(site.pass(Duration::ZERO).forget);
}

#[test]
fn the_device_table_hears_of_a_lease_when_it_is_durable_and_of_its_end() {
    let mut site = Site::ready();
    let address = site.offer(PHONE);
    let out = site.take(PHONE, address);
    assert_eq!((out.acks.len(), out.others.len(), out.keep.len()), (1, 0, 1));
    assert!(!site.server.leases.is_announced(address));
    site.server.kept(&out.keep);
    // A lease disputes what the link says, so that it shows there.
    site.devices.write().unwrap().neighbour(address, OTHER);
    let conflict = Resolution::Conflict { leased: PHONE, seen: OTHER };
    assert_eq!(site.devices.read().unwrap().resolve(address), conflict);
    site.pass(Duration::from_secs(86_400));
    assert_eq!(site.devices.read().unwrap().resolve(address), Resolution::Device(OTHER));
}

#[test]
fn leases_of_before_a_restart_are_known_at_once_and_need_no_waiting() {
    let mut site = Site::ready();
    let address = site.offer(PHONE);
    let kept = site.take(PHONE, address).keep;
    let mut again = Site::with(kept);
    assert_eq!(again.server.label(), "all");
    assert_eq!(again.take(PHONE, address).others.len(), 1);
}

#[test]
fn setting_the_clock_from_1970_ends_no_lease() {
    let mut site = Site::ready();
    let address = site.offer(PHONE);
    site.take(PHONE, address);
    site.now.wall = site.now.wall.plus(Duration::from_secs(56 * 365 * 86_400));
    let mut out = Outbox::default();
    site.server.follow_clock(site.now, &mut out);
    assert_eq!(out.keep.len(), 1, "and it is kept under the new time");
    assert_eq!(site.server.leases.table().live(site.now.wall).count(), 1);
    site.pass(Duration::from_secs(86_400));
    assert_eq!(site.server.leases.table().live(site.now.wall).count(), 0);
}

#[test]
fn a_client_that_repeats_itself_costs_one_write() {
    let mut site = Site::ready();
    let address = site.offer(PHONE);
    assert_eq!(site.take(PHONE, address).keep.len(), 1);
    let again = site.take(PHONE, address);
    assert_eq!((again.keep.len(), again.acks.len() + again.others.len()), (0, 1));
    site.pass(Duration::from_secs(21_600));
    assert_eq!(site.take(PHONE, address).keep.len(), 1, "a renewal is written");
}

#[test]
fn what_was_not_kept_is_not_taken_for_kept() {
    let mut site = Site::ready();
    let address = site.offer(PHONE);
    let lost = site.take(PHONE, address).keep;
    site.server.not_kept(&lost, site.now);
    let again = site.take(PHONE, address);
    assert_eq!((again.keep.len(), again.acks.len(), again.others.len()), (1, 1, 0));
}

#[test]
fn a_phone_goes_before_a_flood() {
    let mut site = Site::ready();
    flood(&mut site);
    site.receive(discover(PHONE));
    let offers = loop {
        let out = site.pass(CHECK_WAIT);
        if out.others.is_empty() {
            panic!("no offer for the phone");
        }
        if let Some(offer) = out.others.into_iter().find(|offer| is_for(&offer.bytes, PHONE)) {
            break offer;
        }
    };
    let address = address_in(&offers.bytes);
    flood(&mut site);
    site.pass(CHECK_WAIT);
    assert_eq!(site.take(PHONE, address).acks.len(), 1);
}

#[test]
fn our_own_question_and_a_flood_are_borne() {
    let mut site = Site::ready();
    assert!(site.receive(discover(OWN)).checks.is_empty());
    flood(&mut site);
    let waiting: usize = site.server.waiting.count();
    assert!(waiting <= MAX_WAITING);
}

fn exchange() -> Arc<Exchange> {
    let discover = bytes(&discover(PHONE));
    let request = Request::parse(&discover).unwrap();
    let mut offer = discover.clone();
    (offer[0], offer[242]) = (2, 2);
    offer.truncate(243);
    offer.extend([54, 4, 192, 168, 1, 1, 51, 4, 0, 0, 14, 16, 255]);
    let offer = ServerMessage::parse(&offer).unwrap();
    let scope = DhcpScope::new(Lan::new(SERVER, 24), &DhcpSettings::default(), [PHONE]);
    CompletedOffer::new(&scope, (&request, &discover), &offer, Instant::now()).unwrap().exchange()
}

fn flood(site: &mut Site) {
    for number in 0..5000_u16 {
        let [high, low] = number.to_be_bytes();
        site.receive(discover(MacAddr::new([2, 0, 0, 1, high, low])));
    }
}

struct Site {
    server: DhcpServer,
    devices: Arc<RwLock<DeviceTable>>,
    now: Now,
}

impl Site {
    fn new() -> Self {
        Self::with(Vec::new())
    }

    fn ready() -> Self {
        let mut site = Self::new();
        site.pass(ASK_WAIT);
        site
    }

    fn with(kept: Vec<Lease>) -> Self {
        let settings = DhcpSettings {
            mode: DhcpMode::All,
            range: Some((Ipv4Addr::new(192, 168, 1, 100), Ipv4Addr::new(192, 168, 1, 149))),
            ..DhcpSettings::default()
        };
        Self::keeping(settings, kept)
    }

    fn wanting(settings: DhcpSettings) -> Self {
        Self::keeping(settings, Vec::new())
    }

    fn keeping(settings: DhcpSettings, kept: Vec<Lease>) -> Self {
        Self::in_prefix(24, settings, kept)
    }

    fn in_prefix(prefix: u8, settings: DhcpSettings, kept: Vec<Lease>) -> Self {
        let devices: Arc<RwLock<DeviceTable>> = Arc::default();
        let now = Now { wall: UnixTime(86_400), tick: Instant::now() };
        let scope = DhcpScope::new(Lan::new(SERVER, prefix), &settings, [PHONE]);
        let link_access = LinkAccess { own: Some(OWN), raw: true, arp: true };
        let server = DhcpServer::new(scope, kept, link_access, devices.clone(), Stats::new(), now);
        Self { server, devices, now }
    }

    fn pass(&mut self, span: Duration) -> Outbox {
        self.now = Now { wall: self.now.wall.plus(span), tick: self.now.tick + span };
        let mut out = Outbox::default();
        self.server.follow_clock(self.now, &mut out);
        self.server.tick(self.now, &mut out);
        out
    }

    /// As far as the next deadline.
    fn step(&mut self) -> Outbox {
        self.pass(self.server.deadline().saturating_duration_since(self.now.tick))
    }

    /// Some seconds in which nobody asks for anything; says how many addresses were asked for.
    fn look_ahead(&mut self) -> usize {
        (0..200).map(|_| self.pass(STEP * 2).checks.len()).sum()
    }

    fn claim(&mut self, mac: MacAddr, address: Ipv4Addr) {
        self.server.claimed(Claim { mac, address }, self.now);
    }

    fn event(&mut self, event: Event) -> Outbox {
        let mut out = Outbox::default();
        self.server.fast_path_event(event, self.now, &mut out);
        out
    }

    fn receive(&mut self, message: Message) -> Outbox {
        let mut out = Outbox::default();
        self.server.receive(&bytes(&message), Ipv4Addr::UNSPECIFIED, self.now, &mut out);
        out
    }

    /// The address that a device is offered once the link was asked.
    fn offer(&mut self, mac: MacAddr) -> Ipv4Addr {
        self.receive(discover(mac));
        address_in(&self.pass(CHECK_WAIT).others.first().unwrap().bytes)
    }

    fn take(&mut self, mac: MacAddr, address: Ipv4Addr) -> Outbox {
        let mut message = discover(mac);
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::Request));
        message.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER));
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
        self.receive(message)
    }

    /// Lets the check of `phones-only` come to its end. The router answers its questions so.
    fn prove(&mut self, router: impl Fn(Question) -> Option<(MessageType, Ipv4Addr)>) {
        for _ in 0..80 {
            for (question, mac, xid) in self.pass(CHECK_WAIT).questions {
                if let Some((kind, yiaddr)) = router(question) {
                    let mut bytes = question::emit(Question::Release(yiaddr, ROUTER), mac, xid);
                    (bytes[0], bytes[242]) = (2, kind.into());
                    bytes.copy_within(12..16, 16);
                    self.server.heard(&ServerMessage::parse(&bytes).unwrap(), Answers::Others, self.now);
                }
            }
        }
    }

    fn hear_router(&mut self) {
        self.server.overheard(&spoke(ROUTER, &[]), self.now);
    }
}

fn discover(mac: MacAddr) -> Message {
    let mut message = Message::default();
    message.set_chaddr(&mac.octets()).opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    message
}

fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).unwrap();
    bytes
}

fn is_for(reply: &[u8], mac: MacAddr) -> bool {
    dhcproto::v4::borrowed::Message::new(reply).unwrap().chaddr() == mac.octets()
}

fn address_in(reply: &[u8]) -> Ipv4Addr {
    dhcproto::v4::borrowed::Message::new(reply).unwrap().yiaddr()
}

fn spoke(server: Ipv4Addr, tftp: &[&str]) -> Overheard {
    Overheard::answer(server, OWN, tftp)
}

fn points(tftp: &str) -> Event {
    let pointers = crate::heard::TftpPointer::of_text(66, tftp);
    Event::Points { phone: PHONE, server: ROUTER, tftp: vec![tftp.to_owned()], pointers }
}
