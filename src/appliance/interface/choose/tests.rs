#![allow(clippy::unwrap_used)]

use super::*;

const UP: i32 = IFF_UP | IFF_LOWER_UP;

/// Hosts, and what is the LAN there without a name in the settings: `eth0 192.168.1.2/24`, or the error.
#[test]
fn many_hosts_have_the_lan_that_a_person_would_name() {
    let docker = || {
        [
            at("docker0", 8, "172.17.0.1/16").kind("bridge"),
            bare("veth1a2b3c", 9).kind("veth").port_of(8),
            bare("veth4d5e6f", 10).kind("veth").port_of(8),
        ]
    };
    let eth0 = || at("eth0", 2, "192.168.1.2/24");
    let wlan0 = |text| at("wlan0", 3, text).wireless();
    let [docker0, veth1, veth2] = docker();
    let none = "no network interface has an address of a private network; there are ";
    let several = "several network interfaces could be the LAN: ";
    let hosts: Vec<(&str, Vec<Link>, String)> = vec![
        ("one cable", vec![eth0(), bare("wlan0", 3)], "eth0 192.168.1.2/24".into()),
        ("cable and Wi-Fi on one LAN", vec![wlan0("192.168.1.3/24"), eth0()], "eth0 192.168.1.2/24".into()),
        (
            "cable and Wi-Fi on one LAN, Wi-Fi first, prefixes unlike",
            vec![wlan0("192.168.1.3/16").index(1), eth0()],
            "eth0 192.168.1.2/24".into(),
        ),
        ("Wi-Fi only", vec![bare("eth0", 2).without_carrier(), wlan0("10.0.0.7/24")], "wlan0 10.0.0.7/24".into()),
        (
            "a VPN as tun, with a point-to-point address",
            vec![eth0(), at("tailscale0", 4, "100.101.102.103/32").kind("tun").flags(IFF_POINTOPOINT).hardware(65_534)],
            "eth0 192.168.1.2/24".into(),
        ),
        (
            "WireGuard with a whole network",
            vec![eth0(), at("wg0", 4, "10.8.0.2/24").kind("wireguard").flags(IFF_NOARP).hardware(65_534)],
            "eth0 192.168.1.2/24".into(),
        ),
        ("an Ethernet VPN", vec![eth0(), at("tap0", 4, "10.9.0.2/24").kind("tun")], "eth0 192.168.1.2/24".into()),
        ("docker with containers", vec![eth0(), docker0, veth1, veth2], "eth0 192.168.1.2/24".into()),
        (
            "docker without containers",
            vec![eth0(), at("docker0", 8, "172.17.0.1/16").kind("bridge").without_carrier()],
            "eth0 192.168.1.2/24".into(),
        ),
        (
            "docker before the cable has an address",
            std::iter::once(bare("eth0", 2)).chain(docker()).collect(),
            format!(
                "{none}eth0 (no IPv4 address), docker0 (172.17.0.1/16, a bridge without a network card), \
                 veth1a2b3c (no IPv4 address, a port of another interface), \
                 veth4d5e6f (no IPv4 address, a port of another interface)"
            ),
        ),
        ("link-local only", vec![at("eth0", 2, "169.254.7.7/16")], "eth0 169.254.7.7/16".into()),
        (
            "link-local beside a real address",
            vec![at("eth0", 2, "169.254.7.7/16").and("192.168.1.2/24")],
            "eth0 192.168.1.2/24".into(),
        ),
        (
            "link-local on another interface",
            vec![at("eth0", 2, "169.254.7.7/16"), wlan0("192.168.1.3/24")],
            "wlan0 192.168.1.3/24".into(),
        ),
        (
            "a bond of two cards",
            vec![bare("eth0", 2).port_of(4), bare("eth1", 3).port_of(4), at("bond0", 4, "192.168.1.2/24").kind("bond")],
            "bond0 192.168.1.2/24".into(),
        ),
        (
            "a bridge with a card, which kept its address",
            vec![at("eth0", 2, "192.168.2.9/24").port_of(4), at("br0", 4, "192.168.1.2/24").kind("bridge")],
            "br0 192.168.1.2/24".into(),
        ),
        (
            "a VLAN alone",
            vec![bare("eth0", 2), at("eth0.20", 4, "10.20.0.2/24").kind("vlan")],
            "eth0.20 10.20.0.2/24".into(),
        ),
        (
            "a VLAN beside its card",
            vec![eth0(), at("eth0.20", 4, "10.20.0.2/24").kind("vlan")],
            format!("{several}eth0 (192.168.1.2/24), eth0.20 (10.20.0.2/24); name the one that phones are on"),
        ),
        (
            "two LANs",
            vec![eth0(), wlan0("10.0.0.2/8")],
            format!("{several}eth0 (192.168.1.2/24), wlan0 (10.0.0.2/8); name the one that phones are on"),
        ),
        (
            "two networks on one cable: the first",
            vec![at("eth0", 2, "192.168.1.2/24").and("10.20.0.2/24")],
            "eth0 192.168.1.2/24".into(),
        ),
        (
            "two addresses of one network: the one that the kernel sends from",
            vec![at("eth0", 2, "192.168.1.9/24").secondary().and("192.168.1.2/24")],
            "eth0 192.168.1.2/24".into(),
        ),
        (
            "a public address beside a private one",
            vec![at("ppp0", 5, "203.0.113.5/32").flags(IFF_POINTOPOINT).hardware(512), eth0()],
            "eth0 192.168.1.2/24".into(),
        ),
        (
            "a single address, as a container shim has it",
            vec![eth0(), at("shim0", 5, "192.168.1.223/32").kind("macvlan")],
            "eth0 192.168.1.2/24".into(),
        ),
        ("public only", vec![at("eth0", 2, "203.0.113.5/24")], format!("{none}eth0 (203.0.113.5/24)")),
        ("an interface that is down", vec![eth0().down()], format!("{none}eth0 (192.168.1.2/24, down)")),
        ("a container", vec![at("eth0", 2, "172.17.0.5/16").kind("veth")], "eth0 172.17.0.5/16".into()),
        (
            "a container on a card of its host",
            vec![Link { leads_elsewhere: true, ..at("eth0", 2, "192.168.1.7/24").kind("macvlan") }],
            "eth0 192.168.1.7/24".into(),
        ),
        (
            "docker with a cable both of whose ends are here",
            vec![
                eth0(),
                at("docker0", 8, "172.17.0.1/16").kind("bridge"),
                bare("dv0", 9).kind("veth").port_of(8).on(10),
                at("dv1", 10, "172.17.0.9/16").kind("veth").on(9),
            ],
            "eth0 192.168.1.2/24".into(),
        ),
        (
            "the same before the cable has an address",
            vec![
                bare("eth0", 2),
                at("br-phones", 8, "172.17.0.1/16").kind("bridge"),
                bare("dv0", 9).kind("veth").port_of(8),
            ],
            format!(
                "{none}eth0 (no IPv4 address), br-phones (172.17.0.1/16, on no network card), dv0 (no IPv4 address, a port of another interface)"
            ),
        ),
        (
            "in a namespace, a bridge of containers beside the cable",
            vec![
                eth0().kind("veth"),
                at("services", 8, "172.20.0.1/16").kind("bridge"),
                bare("web", 9).kind("veth").port_of(8),
            ],
            "eth0 192.168.1.2/24".into(),
        ),
        (
            "in a namespace, docker's bridges beside a bridge with the cable",
            vec![
                bare("eth0", 2).kind("veth").port_of(4),
                at("br0", 4, "192.168.1.2/24").kind("bridge"),
                at("docker0", 8, "172.17.0.1/16").kind("bridge"),
                bare("dv0", 9).kind("veth").port_of(8),
                at("br-0123456789ab", 10, "172.18.0.1/16").kind("bridge"),
                bare("dv2", 11).kind("veth").port_of(10),
            ],
            "br0 192.168.1.2/24".into(),
        ),
        (
            "a container's end with an address on the host, as systemd-nspawn makes it",
            vec![eth0(), at("ve-web", 9, "10.0.0.1/28").kind("veth")],
            "eth0 192.168.1.2/24".into(),
        ),
        (
            "a bridge of virtual machines with a card",
            vec![
                bare("enp3s0", 2).port_of(4),
                at("vmbr0", 4, "192.168.1.2/24").kind("bridge"),
                bare("tap100i0", 5).kind("tun").port_of(4),
                bare("veth101i0", 6).kind("veth").port_of(4),
            ],
            "vmbr0 192.168.1.2/24".into(),
        ),
        (
            "a bridge with the VLAN of a bond",
            vec![
                bare("eth0", 2).port_of(4),
                bare("eth1", 3).port_of(4),
                bare("bond0", 4).kind("bond"),
                bare("bond0.20", 5).kind("vlan").on(4).port_of(6),
                at("br20", 6, "10.20.0.2/24").kind("bridge"),
                at("docker0", 8, "172.17.0.1/16").kind("bridge"),
                bare("dv0", 9).kind("veth").port_of(8),
            ],
            "br20 10.20.0.2/24".into(),
        ),
        (
            "a bridge that a cable on this host joins to one with a card",
            vec![
                bare("eth0", 2).port_of(4),
                bare("br0", 4).kind("bridge"),
                bare("a0", 5).kind("veth").port_of(4).on(6),
                bare("a1", 6).kind("veth").port_of(7).on(5),
                at("br1", 7, "192.168.1.2/24").kind("bridge"),
            ],
            "br1 192.168.1.2/24".into(),
        ),
        (
            "bridges that are joined in a ring, and lead nowhere",
            vec![
                at("br0", 4, "192.168.7.2/24").kind("bridge"),
                bare("a0", 5).kind("veth").port_of(4).on(6),
                bare("a1", 6).kind("veth").port_of(7).on(5),
                at("br1", 7, "192.168.8.2/24").kind("bridge"),
                bare("b0", 8).kind("veth").port_of(4).on(9),
                bare("b1", 9).kind("veth").port_of(7).on(8),
                eth0(),
            ],
            "eth0 192.168.1.2/24".into(),
        ),
        (
            "a switch chip's port, and Open vSwitch",
            vec![
                bare("lan1", 2).kind("dsa").port_of(3),
                bare("ovs-system", 3).kind("openvswitch").down(),
                at("ovsbr0", 4, "192.168.1.2/24").kind("openvswitch"),
                at("services", 8, "172.20.0.1/16").kind("bridge"),
                bare("web", 9).kind("veth").port_of(8),
            ],
            "ovsbr0 192.168.1.2/24".into(),
        ),
        (
            "a second Wi-Fi interface of a card",
            vec![at("wlan0-1", 3, "192.168.1.3/24").kind("wlan").wireless()],
            "wlan0-1 192.168.1.3/24".into(),
        ),
        ("nothing at all", vec![], format!("{none}none")),
    ];
    for (host, links, expected) in hosts {
        // Whatever order the kernel lists them in.
        for links in [links.clone(), links.into_iter().rev().collect()] {
            assert_eq!(chosen(&links, None), expected, "{host}");
        }
    }
}

#[test]
fn a_named_interface_is_taken_for_what_it_is() {
    let hosts = [
        (vec![at("wg0", 4, "10.8.0.2/24").kind("wireguard")], "wg0", "wg0 10.8.0.2/24"),
        (vec![at("eth0", 2, "192.168.1.2/24").without_carrier()], "eth0", "eth0 192.168.1.2/24"),
        (vec![at("docker0", 8, "172.17.0.1/16").kind("bridge")], "docker0", "docker0 172.17.0.1/16"),
        // A label means its interface, whatever address it was given to.
        (vec![at("srv0", 2, "192.168.1.2/24").and("169.254.3.3/16")], "srv0:avahi", "srv0 192.168.1.2/24"),
        (vec![at("srv0", 2, "192.168.1.2/24").and("192.168.9.2/24")], "srv0:1", "srv0 192.168.1.2/24"),
        (vec![at("eth0.20", 2, "10.20.0.2/24")], "eth0.20:7", "eth0.20 10.20.0.2/24"),
        // An address chooses among several.
        (vec![at("srv0", 2, "192.168.1.2/24").and("10.20.0.2/24")], "10.20.0.2", "srv0 10.20.0.2/24"),
        (vec![at("eth0", 2, "203.0.113.5/24").and("100.64.3.4/10")], "eth0", "eth0 100.64.3.4/10"),
        (vec![at("eth0", 2, "192.168.1.223/32").and("192.168.1.2/24")], "eth0", "eth0 192.168.1.2/24"),
        (
            vec![at("eth0", 2, "203.0.113.5/24")],
            "eth0",
            "eth0 has 203.0.113.5, which is no address of a private network; phones are served on LANs only",
        ),
        (
            vec![at("eth0", 2, "192.168.1.2/24"), bare("wlan0", 3)],
            "eht0",
            "there is no network interface eht0; there are eth0 (192.168.1.2/24), wlan0 (no IPv4 address)",
        ),
        (
            vec![at("eth0", 2, "192.168.1.2/24"), bare("wlan0", 3)],
            "wlan0:1",
            "wlan0 has no IPv4 address; there are eth0 (192.168.1.2/24), wlan0 (no IPv4 address)",
        ),
        (
            vec![at("eth0", 2, "192.168.1.2/24")],
            "192.168.1.5",
            "no network interface has the address 192.168.1.5; there are eth0 (192.168.1.2/24)",
        ),
    ];
    for (links, name, expected) in hosts {
        assert_eq!(chosen(&links, Some(name)), expected, "{name}");
    }
}

#[test]
fn a_public_address_is_refused() {
    let all = [at("eth0", 2, "203.0.113.5/24")];
    for name in ["eth0", "eth0:1", "203.0.113.5"] {
        assert!(matches!(choose(&all, Some(name), false, None), Err(InterfaceError::Public { .. })), "{name}");
    }
    assert!(matches!(choose(&all, None, false, None), Err(InterfaceError::None(_))));
}

#[test]
fn what_is_served_stays_until_it_goes_but_a_link_local_address_gives_way() {
    let serving = |before: &str, link: Link| {
        let links = [link];
        choose(&links, Some("eth0"), false, Some(before.parse().unwrap())).unwrap().1.to_string()
    };
    let two = || at("eth0", 2, "192.168.1.2/24").and("10.20.0.2/24");
    assert_eq!(serving("10.20.0.2/24", two()), "10.20.0.2/24");
    assert_eq!(serving("192.168.1.2/24", two()), "192.168.1.2/24");
    assert_eq!(serving("192.168.3.3/24", two()), "192.168.1.2/24");
    assert_eq!(serving("169.254.7.7/16", at("eth0", 2, "169.254.7.7/16").and("10.20.0.2/24")), "10.20.0.2/24");
    assert_eq!(serving("10.20.0.2/24", at("eth0", 2, "10.20.0.2/16")), "10.20.0.2/16", "the prefix counts, too");
}

#[test]
fn loopback_is_for_those_who_ask_for_it() {
    let all = [at("lo", 1, "127.0.0.1/8").flags(IFF_LOOPBACK).hardware(772)];
    assert!(choose(&all, Some("lo"), false, None).is_err());
    assert!(choose(&all, Some("lo"), true, None).is_ok());
    assert!(choose(&all, Some("127.0.0.1"), true, None).is_ok());
    assert!(choose(&all, None, true, None).is_err());
}

#[test]
fn a_second_interface_on_the_lan_is_told_unless_the_kernel_keeps_them_apart() {
    let doubled = |links: &[Link], arp_ignore: u32, rp_filter: u32| {
        let lan = LanInterface {
            name: "eth0".into(),
            index: 2,
            lan: "192.168.1.2/24".parse().unwrap(),
            mtu: 1500,
            mac: None,
        };
        beside(links, &lan, &BTreeSet::new(), |setting| if setting == "arp_ignore" { arp_ignore } else { rp_filter })
            .doubled
    };
    let eth0 = || at("eth0", 2, "192.168.1.2/24");
    let wlan0 = || at("wlan0", 3, "192.168.1.3/24").wireless();
    let both = [eth0(), wlan0()];
    let said = doubled(&both, 0, 0);
    assert!(
        matches!(&said[..], [one] if one.contains("wlan0 (192.168.1.3)") && one.contains("arp_ignore=1")),
        "{said:?}"
    );
    for kept_apart in [1, 2, 8] {
        assert_eq!(doubled(&both, kept_apart, 0), Vec::<String>::new());
    }
    // The setting of the interface alone will do; what it answers by scope will not.
    assert_eq!(doubled(&[eth0(), Link { arp_ignore: 1, ..wlan0() }], 0, 2), Vec::<String>::new());
    assert_eq!(doubled(&both, 3, 0).len(), 1);
    let strict = doubled(&both, 1, 1);
    assert!(matches!(&strict[..], [one] if one.contains("rp_filter=2")), "{strict:?}");
    let longest = "a-name-of-15-ch";
    let long = [Link { name: longest.into(), ..eth0() }, Link { name: longest.into(), ..wlan0() }];
    assert!(doubled(&long, 0, 0).iter().all(|text| text.len() <= 255), "an alert has 255 bytes");
    for other in [
        at("wlan0", 3, "192.168.2.3/24"),
        at("wlan0", 3, "192.168.1.3/24").down(),
        at("wlan0", 3, "192.168.1.3/24").without_carrier(),
        at("wg0", 3, "192.168.1.3/24").kind("wireguard"),
        at("shim0", 3, "192.168.1.223/32").kind("macvlan"),
        bare("wlan0", 3),
    ] {
        assert_eq!(doubled(&[eth0(), other.clone()], 0, 0), Vec::<String>::new(), "{other:?}");
    }
    let bridged = [eth0().port_of(3), at("br0", 3, "192.168.1.3/24").kind("bridge")];
    for arp_ignore in [0, 1] {
        let said = doubled(&bridged, arp_ignore, 0);
        // Nobody is told to unplug the bridge that phones are on.
        assert!(
            matches!(&said[..], [one] if one.starts_with("eth0 is a port of br0 ") && !one.contains("unplug")),
            "{said:?}"
        );
    }
}

#[test]
fn an_interface_that_hears_the_lan_is_on_it_whatever_its_addresses_are() {
    let lan =
        LanInterface { name: "eth0".into(), index: 2, lan: "192.168.1.2/24".parse().unwrap(), mtu: 1500, mac: None };
    let told = |other: Link, arp_ignore: u32, rp_filter: u32| {
        let links = [at("eth0", 2, "192.168.1.2/24"), other];
        let settings = |setting: &str| if setting == "arp_ignore" { arp_ignore } else { rp_filter };
        let beside = beside(&links, &lan, &BTreeSet::from([3]), settings);
        (beside.doubled.join("\n"), beside.kept_apart)
    };
    for other in [bare("eth1", 3), at("eth1", 3, "10.20.0.2/24"), at("eth1", 3, "169.254.3.3/16")] {
        let (said, _) = told(other.clone(), 0, 0);
        assert!(said.starts_with("eth1 has no address of the LAN and hears what eth0 sends"), "{said}");
        assert!(said.contains("unplug eth1") && said.contains("arp_ignore=1"), "{said}");
        // Told once, in the words for two addresses, where it has one of the LAN.
        assert!(told(other.clone().and("192.168.1.3/24"), 0, 0).0.starts_with("eth0 (192.168.1.2) and eth1"));
        for (arp_ignore, rp_filter) in [(1, 0), (2, 0), (0, 1)] {
            let apart = told(other.clone(), arp_ignore, rp_filter);
            assert_eq!(apart, (String::new(), vec!["eth1".to_owned()]), "{other:?}");
        }
        assert_ne!(told(other, 0, 2).0, "", "a loose filter drops nothing");
    }
    // Who is no network of its own is none here either.
    for other in [bare("eth1", 3).down(), bare("eth1", 3).port_of(2).kind("veth"), bare("tun0", 3).kind("tun")] {
        let links = [at("eth0", 2, "192.168.1.2/24").kind("bridge"), other];
        assert_eq!(others(&links, &lan), BTreeSet::new(), "{links:?}");
    }
    let longest = "a-name-of-15-ch";
    let (said, _) = told(Link { name: longest.into(), ..bare(longest, 3) }, 0, 0);
    let others = longest.len() - "eth0".len() + "192.168.100.200".len() - "192.168.1.2".len();
    assert!(said.len() + others <= 255, "an alert has 255 bytes");
}

#[test]
fn further_addresses_of_the_lan_interface_are_told_but_not_makeshift_ones() {
    let links = [at("eth0", 2, "192.168.1.2/24").and("169.254.3.3/16").and("10.20.0.2/24")];
    let lan =
        LanInterface { name: "eth0".into(), index: 2, lan: "192.168.1.2/24".parse().unwrap(), mtu: 1500, mac: None };
    assert_eq!(beside(&links, &lan, &BTreeSet::new(), |_| 0).addresses, ["10.20.0.2/24".parse().unwrap()]);
}

/// What is chosen, or why nothing is.
fn chosen(links: &[Link], name: Option<&str>) -> String {
    match choose(links, name, false, None) {
        Ok((link, lan)) => format!("{} {lan}", link.name),
        Err(error) => error.to_string(),
    }
}

fn at(name: &str, index: u32, text: &str) -> Link {
    bare(name, index).and(text)
}

fn bare(name: &str, index: u32) -> Link {
    Link {
        index,
        name: name.to_owned(),
        flags: UP.cast_unsigned(),
        hardware: ARPHRD_ETHER,
        mac: vec![2, 0, 0, 0, 0, 1],
        mtu: 1500,
        ..Link::default()
    }
}

impl Link {
    fn and(mut self, text: &str) -> Self {
        self.addresses.push(LinkAddress { lan: text.parse().unwrap(), secondary: false });
        self
    }

    /// Its last address is not the first of its network.
    fn secondary(mut self) -> Self {
        self.addresses.last_mut().unwrap().secondary = true;
        self
    }

    fn index(self, index: u32) -> Self {
        Self { index, ..self }
    }

    fn kind(self, kind: &str) -> Self {
        Self { kind: kind.to_owned(), ..self }
    }

    fn hardware(self, hardware: u16) -> Self {
        Self { hardware, ..self }
    }

    fn flags(self, flags: i32) -> Self {
        Self { flags: self.flags | flags.cast_unsigned(), ..self }
    }

    fn port_of(self, master: u32) -> Self {
        Self { master: Some(master), ..self }
    }

    /// Made on this interface, or the other end of it.
    fn on(self, below: u32) -> Self {
        Self { below: Some(below), ..self }
    }

    fn wireless(self) -> Self {
        Self { wireless: true, ..self }
    }

    fn without_carrier(self) -> Self {
        Self { flags: IFF_UP.cast_unsigned(), ..self }
    }

    fn down(self) -> Self {
        Self { flags: 0, ..self }
    }
}
