//! Who has the address that a phone is about to get.

use super::*;

// A2.
#[test]
fn an_address_that_another_device_holds_is_not_confirmed() {
    // The link has it there now.
    let mut lan = TestLan::new();
    lan.learn();
    lan.seen = Some((ADDRESS, Occupant::Reachable));
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
    // It was there longer ago, is asked when the router offers the address, and answers.
    let mut lan = TestLan::new();
    lan.seen = Some((ADDRESS, Occupant::Stale));
    lan.relays(&discover("Polycom-SPIP670"));
    let actions = lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]));
    assert!(actions.contains(&Action::Ask(ADDRESS)), "{actions:?}");
    lan.augment.hear_holder(ADDRESS, PC);
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
    // A lease of before is no proof that nobody else has the address now.
    let mut lan = TestLan::new();
    lan.learn();
    assert!(lan.select(ROUTER, ADDRESS).is_some());
    lan.seen = Some((ADDRESS, Occupant::Stale));
    let actions = lan.request(&reboot(ADDRESS), true);
    assert_eq!((answer(&actions), actions.contains(&Action::Ask(ADDRESS))), (None, true));
    lan.pass(Duration::from_millis(500));
    assert!(answer(&lan.request(&reboot(ADDRESS), true)).is_some(), "it was asked for, and nobody answered");
}

// A2.
#[test]
fn a_phone_that_gets_its_predecessors_address_is_answered_at_once() {
    for (occupant, later) in [(Occupant::Stale, 0), (Occupant::Reachable, 25)] {
        let mut lan = TestLan::new();
        lan.seen = Some((ADDRESS, occupant));
        lan.relays(&discover("Polycom-SPIP670"));
        let actions = lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]));
        assert!(actions.contains(&Action::Ask(ADDRESS)), "{actions:?}");
        lan.pass(Duration::from_millis(later));
        assert!(lan.select(ROUTER, ADDRESS).is_some(), "{occupant:?}");
        // An answer of its own is none of another device.
        lan.augment.hear_holder(ADDRESS, PHONE);
        assert!(lan.select(ROUTER, ADDRESS).is_some());
    }
    // Nobody is asked for an address at which the link has seen nobody.
    let mut lan = TestLan::new();
    lan.relays(&discover("Polycom-SPIP670"));
    let actions = lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]));
    assert!(!actions.iter().any(|action| matches!(action, Action::Ask(_))), "{actions:?}");
}
