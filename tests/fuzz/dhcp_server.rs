//! One message of another server, through everything that believes something of it: what is learnt of a LAN, the proof
//! for `phones-only`, and `augment`, which speaks in a router's name.
#![no_main]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use bundle::{DhcpMode, DhcpSettings, VendorOption};
use dhcp::augment::{Action, Augment, Occupant};
use dhcp::completed_lease::CompletedLease;
use dhcp::heard::{Answers, Overheard, ServerMessage};
use dhcp::options::OptionCode;
use dhcp::question::{self, Question};
use dhcp::proof::Proof;
use dhcp::{DhcpScope, LanView, Request};
use ids::{Lan, MacAddr, UnixTime};

const BOX: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const OWN: MacAddr = MacAddr::new([2, 0, 0, 0, 2, 2]);
const PHONE: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);

fuzz_target!(|bytes: &[u8]| {
    recall(bytes);
    let Some(message) = ServerMessage::parse(bytes) else {
        // Whatever it is, a reply says that somebody is there.
        let there = Overheard::unreadable(bytes, BOX, |_| true).is_some();
        return assert_eq!(there, bytes.len() >= 8 && bytes.first() == Some(&2));
    };
    assert!(message.pointers().len() <= 8 && message.tftp().len() <= 4);
    // What is emitted is what was parsed, but for overload.
    if let Some(again) = ServerMessage::parse(&message.emit()) {
        assert_eq!((again.kind, again.server, again.yiaddr), (message.kind, message.server, message.yiaddr));
    }
    let now = Instant::now();
    let mut lan = LanView::new();
    lan.heard(&message.overheard(Answers::Us(Some(Duration::from_millis(2)))), UnixTime(0));
    assert!(lan.servers().iter().all(|server| server.tftp.len() <= 4));
    let mut proof = Proof::new(BOX, PHONE, (Ipv4Addr::new(192, 168, 1, 200), BOX), BOX, Some(BOX));
    for _ in 0..8 {
        proof.poll(now);
        proof.heard(&message, now);
    }
    complete(bytes, &message, now);
    first_boot(bytes, &message, now);
});

fn scope() -> DhcpScope {
    let option = VendorOption { vendor_class: "Polycom-".to_owned(), code: 43, value: vec![1; 40] };
    let settings = DhcpSettings {
        mode: DhcpMode::Augment,
        phone_classes: vec!["Polycom-".to_owned()],
        vendor_options: vec![option],
        offer_classes: Some(vec!["Polycom-".to_owned()]),
        ..DhcpSettings::default()
    };
    DhcpScope::new(Lan::new(BOX, 24), &settings, [PHONE])
}

/// The message as if it answered what was relayed for a phone; then the phone takes what it offers.
fn complete(bytes: &[u8], message: &ServerMessage, now: Instant) {
    let scope = scope();
    let mut augment = Augment::new(1);
    augment.set_servers(&[message.server]);
    let mut acts = Vec::new();
    let discover = question::emit(Question::Discover(None), PHONE, 5);
    let request = Request::parse(&discover).expect("our own");
    augment.hear_client((&scope, &request, &discover), true, &|_| Occupant::Nobody, now, &mut acts);
    let Some(Action::Relay(_, relayed)) = acts.first() else { panic!("not relayed: {acts:?}") };
    let mut answer = bytes.to_vec();
    answer[4..8].copy_from_slice(&relayed[4..8]);
    answer[24..28].copy_from_slice(&BOX.octets());
    answer[28..34].copy_from_slice(&PHONE.octets());
    let Some(answer) = ServerMessage::parse(&answer) else { return };
    acts.clear();
    augment.hear_server(Some(&scope), &answer, &|_, _| Occupant::Nobody, now, &mut acts);
    let select = question::emit(Question::Select(answer.yiaddr, answer.server), PHONE, 6);
    let request = Request::parse(&select).expect("our own");
    augment.hear_client((&scope, &request, &select), true, &|_| Occupant::Nobody, now, &mut acts);
    let reboot = question::emit(Question::Reboot(answer.yiaddr), PHONE, 7);
    let request = Request::parse(&reboot).expect("our own");
    let later = now + Duration::from_secs(600);
    augment.hear_client((&scope, &request, &reboot), true, &|_| Occupant::Nobody, later, &mut acts);
    let theirs = answer.options.seconds(OptionCode::AddressLeaseTime);
    for act in acts {
        let Action::Reply { mac, address, message, .. } = act else { continue };
        assert_eq!((mac, address), (PHONE, answer.yiaddr));
        assert!(scope.lan.contains(address) && address != BOX && message.len() >= 300 && message.len() <= 548);
        let said = ServerMessage::parse(&message).expect("a server's message");
        assert_eq!((said.server, said.giaddr, message[242] == 6), (answer.server, Ipv4Addr::UNSPECIFIED, false));
        let ours = said.options.seconds(OptionCode::AddressLeaseTime);
        assert!(ours.is_some() && ours <= theirs, "a longer lease");
        for code in [OptionCode::SubnetMask, OptionCode::Router, OptionCode::DomainNameServer] {
            assert_eq!(said.options.get(code), answer.options.get(code));
        }
    }
}

/// The message as if it answered our own question; then a phone boots for the first time beside this router, which pings.
fn first_boot(bytes: &[u8], message: &ServerMessage, now: Instant) {
    let scope = scope();
    let mut augment = Augment::new(1);
    augment.set_servers(&[message.server]);
    augment.set_slow(&[(message.server, Duration::from_secs(1))]);
    let discover = question::emit(Question::Discover(None), OWN, 5);
    let Action::Relay(_, relayed) = augment.relay_own(message.server, &discover, BOX) else { panic!("not relayed") };
    let mut answer = bytes.to_vec();
    answer[4..8].copy_from_slice(&relayed[4..8]);
    answer[24..28].copy_from_slice(&BOX.octets());
    let Some(answer) = ServerMessage::parse(&answer) else { return };
    let mut acts = Vec::new();
    augment.hear_server(Some(&scope), &answer, &|_, _| Occupant::Nobody, now, &mut acts);
    let discover = question::emit(Question::Discover(None), PHONE, 6);
    let request = Request::parse(&discover).expect("our own");
    augment.hear_client((&scope, &request, &discover), true, &|_| Occupant::Nobody, now, &mut acts);
    let address = Ipv4Addr::new(192, 168, 1, 77);
    let select = question::emit(Question::Select(address, answer.server), PHONE, 6);
    let request = Request::parse(&select).expect("our own");
    augment.hear_client((&scope, &request, &select), true, &|_| Occupant::Nobody, now + Duration::from_secs(1), &mut acts);
    for act in acts {
        let Action::Reply { mac, address: to, message, .. } = act else { continue };
        assert_eq!((mac, to), (PHONE, address));
        assert!(answer.pointers().is_empty() && message.len() >= 300 && message.len() <= 548);
        let said = ServerMessage::parse(&message).expect("a server's message");
        assert_eq!((said.server, said.yiaddr, message[242]), (answer.server, address, 5));
        let [ours, theirs] = [&said, &answer].map(|it| it.options.seconds(OptionCode::AddressLeaseTime));
        assert!(ours.is_some_and(|ours| ours <= 300) && ours <= theirs, "a longer lease");
        assert_eq!((said.options.get(OptionCode::Renewal), said.options.get(OptionCode::Rebinding)), (None, None));
    }
}

/// What may lie in the cache, as if it had been kept.
fn recall(bytes: &[u8]) {
    let Some((kept, since)) = CompletedLease::parse(bytes) else { return };
    assert_eq!(CompletedLease::parse(&kept.emit(since)), Some((kept.clone(), since)));
    let now = Instant::now();
    let mut augment = Augment::new(1);
    augment.set_servers(&[Ipv4Addr::new(192, 168, 1, 1)]);
    augment.recall(&scope(), &[(kept, Duration::from_secs(7))], now);
}
