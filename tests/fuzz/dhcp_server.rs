//! One message of another server, through everything that believes something of it: what is learnt of a LAN, the proof
//! for `phones-only`, and `augment`, which speaks in a router's name.
#![no_main]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use bundle::{DhcpMode, DhcpSettings, VendorOption};
use dhcp::augment::{Action, Augment};
use dhcp::completed_lease::CompletedLease;
use dhcp::heard::{Answers, ServerMessage};
use dhcp::options::OptionCode;
use dhcp::question::{self, Question};
use dhcp::proof::Proof;
use dhcp::{DhcpScope, LanView, Request};
use ids::{Lan, MacAddr, UnixTime};

const BOX: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const PHONE: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);

fuzz_target!(|bytes: &[u8]| {
    recall(bytes);
    let Some(message) = ServerMessage::parse(bytes) else { return };
    // What is emitted is what was parsed, but for overload.
    if let Some(again) = ServerMessage::parse(&message.emit()) {
        assert_eq!((again.kind, again.server, again.yiaddr), (message.kind, message.server, message.yiaddr));
    }
    let now = Instant::now();
    let mut lan = LanView::new();
    lan.heard(&message.overheard(Answers::Us(Some(Duration::from_millis(2)))), UnixTime(0));
    assert!(lan.servers().iter().all(|server| server.tftp.len() <= 4));
    let mut proof = Proof::new(BOX, PHONE, (Ipv4Addr::new(192, 168, 1, 200), BOX), BOX);
    for _ in 0..8 {
        proof.poll(now);
        proof.heard(&message, now);
    }
    complete(bytes, &message, now);
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
    augment.hear_client((&scope, &request, &discover), true, &|_| false, now, &mut acts);
    let Some(Action::Relay(_, relayed)) = acts.first() else { panic!("not relayed: {acts:?}") };
    let mut answer = bytes.to_vec();
    answer[4..8].copy_from_slice(&relayed[4..8]);
    answer[24..28].copy_from_slice(&BOX.octets());
    answer[28..34].copy_from_slice(&PHONE.octets());
    let Some(answer) = ServerMessage::parse(&answer) else { return };
    acts.clear();
    augment.hear_server(Some(&scope), &answer, &|_, _| false, now, &mut acts);
    let select = question::emit(Question::Select(answer.yiaddr, answer.server), PHONE, 6);
    let request = Request::parse(&select).expect("our own");
    augment.hear_client((&scope, &request, &select), true, &|_| false, now, &mut acts);
    let reboot = question::emit(Question::Reboot(answer.yiaddr), PHONE, 7);
    let request = Request::parse(&reboot).expect("our own");
    let later = now + Duration::from_secs(600);
    augment.hear_client((&scope, &request, &reboot), true, &|_| false, later, &mut acts);
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

/// What may lie in the cache, as if it had been kept.
fn recall(bytes: &[u8]) {
    let Some((kept, since)) = CompletedLease::parse(bytes) else { return };
    assert_eq!(CompletedLease::parse(&kept.emit(since)), Some((kept.clone(), since)));
    let now = Instant::now();
    let mut augment = Augment::new(1);
    augment.set_servers(&[Ipv4Addr::new(192, 168, 1, 1)]);
    augment.recall(&scope(), &[(kept, Duration::from_secs(7))], now);
}
