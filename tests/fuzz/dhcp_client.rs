//! One message of a client, through everything that reads those before anybody is known: frames, ARP, the parser, the
//! decision in every mode, and `augment` before and after a router's offer.
#![no_main]

use std::net::Ipv4Addr;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use bundle::{DhcpMode, DhcpSettings};
use dhcp::augment::{Action, Augment};
use dhcp::heard::ServerMessage;
use dhcp::options::{self, OptionCode};
use dhcp::{
    ActiveMode, Destination, DhcpScope, LanView, Leases, Request, Verdict, View, arp, respond,
};
use ethernet::frame;
use ids::{Lan, MacAddr, UnixTime};

const BOX: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const PHONE: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);

fuzz_target!(|bytes: &[u8]| {
    let _ = arp::parse(bytes);
    if let Some(datagram) = frame::parse(bytes) {
        assert!(datagram.payload.len() <= bytes.len());
    }
    let Ok(request) = Request::parse(bytes) else { return };
    for mode in [DhcpMode::Shadow, DhcpMode::Inform, DhcpMode::PhonesOnly, DhcpMode::All] {
        answer(&scope(mode), &request);
    }
    complete(&request, bytes);
});

fn scope(mode: DhcpMode) -> DhcpScope {
    let settings = DhcpSettings {
        mode,
        range: Some((Ipv4Addr::new(192, 168, 1, 100), Ipv4Addr::new(192, 168, 1, 110))),
        phone_classes: vec!["Polycom-".to_owned()],
        ..DhcpSettings::default()
    };
    let mut scope = DhcpScope::new(Lan::new(BOX, 24), &settings, [PHONE]);
    scope.check_addresses = false;
    scope
}

fn answer(scope: &DhcpScope, request: &Request) {
    let (lan, mut leases, now) = (LanView::new(), Leases::new(), UnixTime(1_700_000_000));
    leases.set_range(scope.range.clone());
    // What it says twice is answered as if it had been heard once.
    for _ in 0..2 {
        let view = View { lan: &lan, leases: &leases, source: ROUTER };
        match respond(scope, &view, request, now) {
            Verdict::Reply(reply, to, change) => {
                let sent = reply.emit();
                let [op, _, _, _, xid @ ..] = sent.as_slice() else { panic!("no header") };
                assert_eq!((*op, xid.get(..4)), (2, Some(&request.xid.to_be_bytes()[..])));
                // Identifier and relay information are echoed whole, whatever the client's limit is.
                let limit = request.max_reply_bytes().max(268 + request.echo().emitted_len());
                assert!((300..=limit).contains(&sent.len()));
                let heard = ServerMessage::parse(&sent).expect("a server's message");
                assert_eq!((heard.server, heard.chaddr), (BOX, request.chaddr));
                let nak = sent.get(242) == Some(&6);
                assert!(!nak || scope.mode == ActiveMode::All, "a NAK outside `all`");
                assert!(scope.mode == ActiveMode::All || scope.is_phone(request), "an answer to no phone");
                if let Destination::Address(address) | Destination::Relay(address) | Destination::Client(address, _) = to {
                    assert!(scope.lan.contains(address));
                }
                change.into_iter().for_each(|lease| leases.put(lease));
            }
            Verdict::Silence(_, change) => change.into_iter().for_each(|lease| leases.put(lease)),
            Verdict::Check(_) => panic!("the link is not asked here"),
        }
    }
}

fn complete(request: &Request, bytes: &[u8]) {
    let (scope, now) = (scope(DhcpMode::Augment), Instant::now());
    let mut augment = Augment::new(1);
    augment.set_servers(&[ROUTER]);
    let mut acts = Vec::new();
    augment.hear_client((&scope, request, bytes), true, &|_| false, now, &mut acts);
    let relayed: Vec<Vec<u8>> =
        acts.drain(..).filter_map(|act| if let Action::Relay(_, message) = act { Some(message) } else { None }).collect();
    assert!(relayed.len() <= 1, "multiplied");
    let Some(relayed) = relayed.first() else { return };
    assert!(scope.is_phone(request), "asked for no phone");
    let asked = Request::parse(relayed).expect("a request");
    assert_eq!(asked.options.get(OptionCode::from(80)), None, "the router would lease in our transaction");
    for (code, value) in request.options.iter().filter(|(code, _)| *code != OptionCode::from(80)) {
        assert_eq!(asked.options.get(code), Some(value));
    }
    // The router answers it, and the same client goes on.
    let mut offer = relayed.get(..236).expect("a header").to_vec();
    offer[0] = 2;
    offer[16..20].copy_from_slice(&[192, 168, 1, 77]);
    offer.extend([99, 130, 83, 99, 53, 1, 2, 54, 4, 192, 168, 1, 1, 51, 4, 0, 0, 14, 16, 255]);
    let offer = ServerMessage::parse(&offer).expect("an offer");
    augment.hear_server(Some(&scope), &offer, &|_, _| false, now, &mut acts);
    let mut selecting = bytes.get(..240).expect("a header").to_vec();
    selecting[12..16].fill(0);
    selecting.extend([53, 1, 3, 50, 4, 192, 168, 1, 77, 54, 4, 192, 168, 1, 1, 60, 8]);
    selecting.extend(b"Polycom-");
    for code in [OptionCode::ClientIdentifier, OptionCode::RelayAgentInformation] {
        if let Some(value) = request.options.get(code) {
            options::emit(code, value, &mut selecting);
        }
    }
    selecting.push(255);
    let request = Request::parse(&selecting).expect("a request");
    augment.hear_client((&scope, &request, &selecting), true, &|_| false, now, &mut acts);
    for act in acts {
        if let Action::Reply { mac, address, message, .. } = act {
            assert_eq!((mac, address), (request.chaddr, Ipv4Addr::new(192, 168, 1, 77)));
            let heard = ServerMessage::parse(&message).expect("a server's message");
            assert!(message.len() >= 300 && heard.server == ROUTER && heard.giaddr.is_unspecified());
            if message[242] == 5 {
                for code in [OptionCode::ClientIdentifier, OptionCode::RelayAgentInformation] {
                    assert_eq!(heard.options.get(code), request.options.get(code), "not echoed");
                }
            }
        }
    }
}
