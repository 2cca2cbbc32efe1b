use super::*;
use crate::heard::LeaseTerms;

const NOW: UnixTime = UnixTime(1_700_000_000);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

#[test]
fn a_server_is_news_once_and_again_when_it_names_other_tftp_servers() {
    let mut lan = LanView::new();
    assert!(lan.heard(&spoke(&[]), NOW));
    assert!(!lan.heard(&spoke(&[]), NOW));
    assert!(lan.heard(&spoke(&["192.168.1.9"]), NOW));
    assert!(!lan.heard(&Overheard { nak: true, ..spoke(&[]) }, NOW), "a NAK says nothing of it");
    let servers = lan.servers();
    let first = servers.first().expect("one was heard");
    assert_eq!((servers.len(), first.server, first.tftp.as_slice()), (1, ROUTER, &["192.168.1.9".to_owned()][..]));
}

#[test]
fn what_a_server_hands_out_is_what_it_said_last_and_how_fast_it_answers_is_learnt_bit_by_bit() {
    let mut lan = LanView::new();
    let millis = Duration::from_millis;
    let terms = LeaseTerms { lease_seconds: Some(3600), routers: vec![ROUTER], ..LeaseTerms::default() };
    let before = LeaseTerms { dns: vec![ROUTER], domain: "old.lan".to_owned(), ..terms.clone() };
    lan.heard(&Overheard { terms: Some(before), after: Some(millis(3000)), ..spoke(&[]) }, NOW);
    lan.heard(&Overheard { terms: Some(terms.clone()), after: Some(millis(2)), ..spoke(&[]) }, NOW);
    let informed = LeaseTerms { ntp: vec![ROUTER], lease_seconds: Some(9), ..LeaseTerms::default() };
    lan.heard(&Overheard { terms: Some(informed), informed: true, ..spoke(&[]) }, NOW);
    lan.heard(&Overheard { terms: Some(terms), relayed: true, ..spoke(&[]) }, NOW);
    let server = lan.known().next().expect("one was heard");
    assert_eq!((server.terms.lease_seconds, server.terms.routers.as_slice()), (Some(3600), &[ROUTER][..]));
    assert_eq!(
        (server.terms.dns.len(), server.terms.domain.as_str(), server.terms.ntp.as_slice()),
        (0, "", &[ROUTER][..])
    );
    assert_eq!(server.offer_after, Some((millis(2), millis(3000))));
    assert!(server.informs && server.relays == Relays::Answered);
    assert_eq!(lan.servers().first().and_then(|seen| seen.offer_millis), Some(2));
}

#[test]
fn a_server_points_here_elsewhere_or_nowhere() {
    for (tftp, points) in
        [(&[][..], Points::Nowhere), (&["192.168.1.2"], Points::Here), (&["192.168.1.9"], Points::Elsewhere)]
    {
        let mut lan = LanView::new();
        lan.heard(&spoke(tftp), NOW);
        let server = lan.known().next().expect("one was heard");
        assert_eq!(server.points(&[Ipv4Addr::new(192, 168, 1, 2)]), points, "{tftp:?}");
    }
}

#[test]
fn a_server_that_fell_silent_is_forgotten() {
    let mut lan = LanView::new();
    lan.heard(&spoke(&[]), NOW);
    assert!(!lan.forget(NOW.plus(SERVER_GONE - Duration::from_secs(1))));
    assert!(lan.forget(NOW.plus(SERVER_GONE)));
    assert!(!lan.has_other_server());
}

#[test]
fn invented_servers_fill_no_memory() {
    let mut lan = LanView::new();
    for number in 0..1000 {
        lan.heard(&Overheard { server: Ipv4Addr::from(number), ..spoke(&[]) }, NOW);
    }
    assert_eq!(lan.servers().len(), MAX_SERVERS);
}

#[test]
fn who_speaks_to_others_only_is_no_server_but_reason_to_ask_and_in_the_end_to_tell() {
    let mut lan = LanView::new();
    lan.asked(NOW);
    let said = Overheard { asked: false, ..spoke(&["10.0.0.9"]) };
    let later = |seconds| NOW.plus(Duration::from_secs(seconds));
    assert!(!lan.is_unsure());
    assert!(!lan.heard(&said, later(1)));
    assert!(lan.is_unsure() && !lan.has_other_server());
    lan.asked(later(10));
    assert!(!lan.is_unsure() && lan.strangers(later(20)).is_empty(), "once may be an accident");
    lan.heard(&said, later(30));
    lan.asked(later(31));
    assert_eq!((lan.strangers(later(40)), lan.strangers(later(55))), (vec![ROUTER], vec![]));
    // It answers after all: a server, and what it told others is not what it told us.
    assert!(lan.heard(&spoke(&[]), later(60)));
    assert!(!lan.heard(&said, later(61)));
    assert_eq!(lan.known().next().map(|server| server.tftp.len()), Some(0));
    for number in 0..1000 {
        lan.heard(&Overheard { server: Ipv4Addr::from(number), ..said.clone() }, later(62));
    }
    assert!(lan.servers().len() == 1 && lan.strangers.len() <= MAX_SERVERS);
}

#[test]
fn a_router_that_another_has_replaced_is_gone_within_half_a_minute() {
    let mut lan = LanView::new();
    let later = |seconds| NOW.plus(Duration::from_secs(seconds));
    let new = Overheard { server: Ipv4Addr::new(192, 168, 1, 254), ..spoke(&[]) };
    lan.heard(&spoke(&[]), NOW);
    // Alone, it may be away for a while.
    for seconds in [10, 20, 30, 40, 50] {
        assert!(!lan.asked(later(seconds)));
    }
    lan.heard(&spoke(&[]), later(51));
    assert!(!lan.asked(later(60)));
    let gone: Vec<bool> = (7..12)
        .map(|round| {
            lan.heard(&new, later(round * 10 - 5));
            lan.asked(later(round * 10))
        })
        .collect();
    assert_eq!(gone.iter().filter(|gone| **gone).count(), 1, "{gone:?}");
    assert_eq!(lan.servers().len(), 1);
    assert!(!lan.is_unsure());
}

#[test]
fn what_the_link_said_is_good_for_a_while_and_asked_for_again_before_that_is_over() {
    let mut lan = LanView::new();
    assert_eq!(lan.usage(ROUTER, NOW), AddressUse::Unknown);
    assert!(lan.is_due(ROUTER, NOW));
    lan.checked(ROUTER, None, NOW);
    assert_eq!(lan.usage(ROUTER, NOW), AddressUse::Silent);
    assert!(!lan.is_due(ROUTER, NOW) && lan.is_due(ROUTER, NOW.plus(CHECK_AGAIN)));
    assert_eq!(lan.usage(ROUTER, NOW.plus(CHECK_AGAIN)), AddressUse::Silent);
    assert_eq!(lan.usage(ROUTER, NOW.plus(CHECK_VALID)), AddressUse::Unknown);
}

#[test]
fn what_a_server_no_longer_says_is_gone_with_its_next_answer_of_the_kind() {
    let mut lan = LanView::new();
    let named = |lan: &LanView| lan.known().map(|server| server.pointers.len()).sum::<usize>();
    let vendor = Overheard {
        pointers: crate::heard::TftpPointer::of_text(43, "http://10.0.0.9/"),
        tftp: vec!["10.0.0.9".to_owned()],
        ..spoke(&[])
    };
    for before in [spoke(&["10.0.0.9"]), vendor] {
        lan.heard(&before, NOW);
        assert!(named(&lan) == 1 && lan.heard(&spoke(&[]), NOW) && named(&lan) == 0, "{before:?}");
    }
    // Told to who has an address alone, it stands beside OFFERs without it, until that is asked in vain.
    let informed = |tftp: &[&str]| Overheard { informed: true, ..spoke(tftp) };
    for _ in 0..5 {
        lan.heard(&informed(&["10.0.0.9"]), NOW);
        lan.heard(&spoke(&[]), NOW);
        assert_eq!(named(&lan), 1);
    }
    assert!(lan.heard(&informed(&[]), NOW) && named(&lan) == 0);
    lan.heard(&informed(&["10.0.0.9"]), NOW);
    let gone = (0..4).filter(|_| lan.heard(&spoke(&[]), NOW)).count();
    assert_eq!((gone, named(&lan)), (1, 0));
}

// RFC 2131 §4.3.5: the answer to a DHCPINFORM has no lease time. With `split 128` (ISC dhcpd) one server of a pair offers
// us addresses, and the other answers our DHCPINFORM alone.
#[test]
fn a_pair_of_which_one_server_offers_us_nothing_is_a_pair() {
    let second = Ipv4Addr::new(192, 168, 1, 254);
    let terms = |lease_seconds, dns| LeaseTerms { lease_seconds, routers: vec![ROUTER], dns, ..LeaseTerms::default() };
    let offer = Overheard { terms: Some(terms(Some(3600), vec![ROUTER])), ..spoke(&[]) };
    let first_informed = Overheard { terms: Some(terms(None, vec![])), informed: true, ..spoke(&[]) };
    let informed = |dns| Overheard {
        server: second,
        terms: Some(terms(None, dns)),
        informed: true,
        ..Overheard::answer(second, MacAddr::new([2, 0, 0, 0, 0, 1]), &[])
    };
    let mut lan = LanView::new();
    lan.heard(&offer, NOW);
    lan.heard(&Overheard { server: second, terms: Some(terms(None, vec![ROUTER])), ..spoke(&[]) }, NOW);
    assert_eq!(lan.disagreement(), None, "who names no lease time contradicts nobody");
    // Only one of the answers is of the kind that both gave; else what both hold counts.
    for (first_is_informed, dns, differs) in [
        (true, vec![], false),
        (true, vec![second], true),
        (false, vec![], false),
        (false, vec![ROUTER], false),
        (false, vec![second], true),
    ] {
        let mut lan = LanView::new();
        lan.heard(&offer, NOW);
        if first_is_informed {
            lan.heard(&first_informed, NOW);
        }
        lan.heard(&informed(dns.clone()), NOW);
        assert_eq!(lan.disagreement().is_some(), differs, "{first_is_informed} {dns:?}: {:?}", lan.disagreement());
        assert_eq!(lan.has_partner(second), first_is_informed && !differs, "{first_is_informed} {dns:?}");
    }
}

fn spoke(tftp: &[&str]) -> Overheard {
    Overheard::answer(ROUTER, MacAddr::new([2, 0, 0, 0, 0, 1]), tftp)
}
