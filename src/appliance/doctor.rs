//! `lineside doctor` looks at a LAN and says in plain words what is there and what to do. It needs no set-up.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;

use super::clock;
use super::interface::{self, LanInterface};
use dhcp::client::ClientSocket;
use dhcp::lan::{OtherServer, Points};
use dhcp::{LanView, service};
use telemetry::Hint as _;

/// How long servers have to answer: dnsmasq pings an address for 3 s before it offers it, and the first DISCOVER may be
/// lost.
const LISTEN: Duration = Duration::from_secs(9);
/// The time between two questions while it listens.
const ASK_EVERY: Duration = Duration::from_secs(4);

/// Asks for DHCP servers on the LAN, listens for 9 seconds, and returns what to tell the person who ran the command.
///
/// # Errors
/// If no LAN interface is found, or UDP port 68 cannot be opened there: that takes root or `CAP_NET_BIND_SERVICE`.
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub async fn examine(interface: Option<&str>) -> anyhow::Result<String> {
    let lan = interface::find(interface, false).hint("name the interface: lineside doctor --interface eth0")?;
    let mac = service::hardware_address(&lan.name)?;
    let listener = ClientSocket::bind(&lan.name, mac, (67, 68))
        .with_context(|| format!("cannot listen for DHCP on {}", lan.name))
        .hint("run as root; a DHCP client that holds port 68 exclusively has to be stopped for the moment")?;
    let mut seen = LanView::new();
    let end = tokio::time::Instant::now() + LISTEN;
    let mut ask = tokio::time::interval(ASK_EVERY);
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(end) => break,
            _ = ask.tick() => listener.ask(Some(lan.address())).await.context("cannot ask for DHCP servers")?,
            heard = listener.hear() => {
                let overheard = heard.context("cannot listen for DHCP servers")?.overheard();
                // A lineside that runs on this machine answers DHCPINFORM as well.
                if overheard.server != lan.address() {
                    seen.heard(&overheard, clock::now());
                }
            }
        }
    }
    let servers: Vec<OtherServer> = seen.known().cloned().collect();
    let beside = interface::beside(&lan).map(|beside| beside.text()).unwrap_or_default();
    Ok(beside + &advice(&lan, &servers))
}

/// The whole text: the servers that answered, the mode to take, what each mode does, and lines for the router.
fn advice(lan: &LanInterface, servers: &[OtherServer]) -> String {
    let own = lan.address();
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "LAN: {} with our address {}\n", lan.name, lan.lan);
    for server in servers {
        describe(&mut out, server, own);
    }
    let points: Vec<Points> = servers.iter().map(|server| server.points(&[own])).collect();
    let (verdict, why) = recommend(&points);
    if servers.is_empty() {
        out.push_str("No DHCP server answered within 9 seconds.\n");
    }
    let _ = writeln!(out, "\nTake mode `{verdict}`: {why}\n\nWhat each mode does for a phone here:");
    for (mode, text) in modes(&points) {
        let _ = writeln!(out, "  {mode:<12} {text}");
    }
    if points.iter().any(|points| *points != Points::Here) {
        let _ =
            writeln!(out, "\nBest of all, where you can change the router: let it point phones here itself. One of:");
        for (router, line) in router_lines(lan.lan) {
            let _ = writeln!(out, "  {router}\n{line}");
        }
        out.push_str("then run `lineside doctor` again: the router points here, and mode `inform` is enough.\n");
    }
    out
}

fn describe(out: &mut String, server: &OtherServer, own: Ipv4Addr) {
    let list = |addresses: &[Ipv4Addr]| addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ");
    let _ = writeln!(out, "DHCP server {}", server.server);
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(out, "  {name:<14} {value}");
        }
    };
    let terms = &server.terms;
    line("offers", server.offered.map(|address| address.to_string()).unwrap_or_default());
    line("for", terms.lease_seconds.map(|seconds| format!("{seconds} seconds")).unwrap_or_default());
    line("router", list(&terms.routers));
    line("DNS", list(&terms.dns));
    line("domain", terms.domain.clone());
    line("NTP", list(&terms.ntp));
    if let Some((shortest, longest)) = server.offer_after {
        let millis = |span: Duration| format!("{:.1}", span.as_secs_f64() * 1000.0);
        line("answers in", format!("{} to {} ms", millis(shortest), millis(longest)));
    }
    line("DHCPINFORM", if server.informs { "answered" } else { "not answered" }.to_owned());
    let tftp = match server.points(&[own]) {
        Points::Nowhere => "no TFTP server (66/150): phones do not find their files".to_owned(),
        Points::Here => format!("points phones here ({})", server.tftp.join(", ")),
        Points::Elsewhere => format!("points phones to {}, which is not this machine", server.tftp.join(", ")),
    };
    line("phones", tftp);
}

fn recommend(points: &[Points]) -> (&'static str, &'static str) {
    match points {
        [] => (
            "all",
            "nobody else leases addresses here, so this box may; give it a range. If there should be a DHCP server, \
             find out first why it is silent.",
        ),
        points if points.contains(&Points::Here) => {
            ("inform", "the router points phones here already; nothing is missing.")
        }
        [Points::Nowhere] => (
            "augment",
            "one server leases addresses and says nothing about TFTP; its leases to phones are completed. (`auto` does \
             the same.)",
        ),
        [Points::Elsewhere] => (
            "inform",
            "the server points phones elsewhere. Change that there; nothing that we send should argue with it.",
        ),
        _ => {
            ("inform", "several DHCP servers answer. Find out which one should not; until then nothing is predictable.")
        }
    }
}

fn modes(points: &[Points]) -> [(&'static str, &'static str); 5] {
    let alone = points.is_empty();
    let pointed = points.contains(&Points::Here);
    [
        ("shadow", if pointed { "finds its files by the router's options" } else { "gets no TFTP server from us" }),
        (
            "inform",
            if pointed {
                "finds its files by the router's options"
            } else {
                "finds its files if it asks with DHCPINFORM (Polycom); others do not"
            },
        ),
        (
            "augment",
            match points {
                [] => "gets nothing: there is no lease to complete",
                [Points::Nowhere] => "has the router's lease with our TFTP server added",
                _ if pointed => "is left alone: the router has told it",
                _ => "has the router's lease; completed where the router says nothing about TFTP",
            },
        ),
        (
            "phones-only",
            if alone {
                "gets an address of the range; PCs get none from anybody"
            } else {
                "gets an address of the range only if the router is proven silent then; most routers are not"
            },
        ),
        (
            "all",
            if alone {
                "gets an address of the range, as every device does"
            } else {
                "refused: another server leases here"
            },
        ),
    ]
}

fn router_lines(lan: ids::Lan) -> Vec<(&'static str, String)> {
    let (own, network, mask) = (lan.address(), lan.network(), lan.netmask());
    let hex: String = own.octets().iter().map(|octet| format!("{octet:02x}")).collect();
    vec![
        (
            "OpenWrt",
            format!(
                "    uci add_list dhcp.lan.dhcp_option='66,{own}'; uci add_list dhcp.lan.dhcp_option='150,{own}'; \
                 uci commit dhcp; service dnsmasq restart"
            ),
        ),
        ("dnsmasq", format!("    dhcp-option-force=66,{own}\n    dhcp-option-force=150,{own}")),
        (
            "pfSense, OPNsense (Services, DHCP Server, additional options)",
            format!("    66 String \"{own}\"    and    150 \"IP address or host\" {own}"),
        ),
        (
            "MikroTik RouterOS",
            format!(
                "    /ip dhcp-server option add name=tftp66 code=66 value=\"s'{own}'\"\n    \
                 /ip dhcp-server option add name=tftp150 code=150 value=0x{hex}\n    \
                 /ip dhcp-server option sets add name=phones options=tftp66,tftp150\n    \
                 /ip dhcp-server network set [find] dhcp-option-set=phones"
            ),
        ),
        (
            "Windows Server (PowerShell)",
            format!(
                "    Add-DhcpServerv4OptionDefinition -Name TFTP150 -OptionId 150 -Type IPv4Address -MultiValued\n    \
                 Set-DhcpServerv4OptionValue -ScopeId {network} -OptionId 66 -Value {own}\n    \
                 Set-DhcpServerv4OptionValue -ScopeId {network} -OptionId 150 -Value {own}"
            ),
        ),
        (
            "Cisco IOS",
            format!(
                "    ip dhcp pool LAN\n     network {network} {mask}\n     option 66 ascii {own}\n     option 150 ip {own}"
            ),
        ),
        (
            "ISC dhcpd",
            format!(
                "    option tftp150 code 150 = array of ip-address;\n    option tftp-server-name \"{own}\";\n    \
                 option tftp150 {own};"
            ),
        ),
        (
            "Kea (option-def and option-data)",
            format!(
                "    \"option-def\": [{{\"name\": \"tftp150\", \"code\": 150, \"type\": \"ipv4-address\", \"array\": true}}],\n    \
                 \"option-data\": [{{\"name\": \"tftp-server-name\", \"data\": \"{own}\", \"always-send\": true}},\n     \
                 {{\"name\": \"tftp150\", \"data\": \"{own}\", \"always-send\": true}}]"
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use dhcp::heard::{LeaseTerms, Overheard};
    use ids::{MacAddr, UnixTime};

    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    #[test]
    fn beside_a_home_router_it_says_augment_and_the_line_to_enter() {
        let text = told(&[(ROUTER, &[])]);
        for part in [
            "DHCP server 192.168.1.1",
            "for            3600 seconds",
            "answers in     2.0 to 2.0 ms",
            "no TFTP server (66/150)",
            "Take mode `augment`",
            "dhcp-option-force=66,192.168.1.5",
            "code=150 value=0xc0a80105",
            "-ScopeId 192.168.1.0",
            "network 192.168.1.0 255.255.255.0",
        ] {
            assert!(text.contains(part), "no `{part}` in:\n{text}");
        }
    }

    #[test]
    fn where_the_router_points_here_there_is_nothing_to_enter() {
        let text = told(&[(ROUTER, &["192.168.1.5"])]);
        assert!(text.contains("points phones here") && text.contains("Take mode `inform`"), "{text}");
        assert!(!text.contains("MikroTik"), "{text}");
    }

    #[test]
    fn silence_other_pointers_and_second_servers_are_told_apart() {
        assert!(told(&[]).contains("No DHCP server answered"));
        assert!(told(&[]).contains("Take mode `all`"));
        assert!(told(&[(ROUTER, &["10.0.0.9"])]).contains("points phones to 10.0.0.9"));
        let two = told(&[(ROUTER, &[]), (Ipv4Addr::new(192, 168, 1, 254), &[])]);
        assert!(two.contains("several DHCP servers answer"), "{two}");
    }

    fn told(servers: &[(Ipv4Addr, &[&str])]) -> String {
        let mut seen = LanView::new();
        for (server, tftp) in servers {
            let overheard = Overheard {
                server: *server,
                chaddr: MacAddr::new([2, 0, 0, 0, 0, 1]),
                nak: false,
                readable: true,
                pointers: tftp.iter().flat_map(|name| dhcp::heard::TftpPointer::of_text(66, name)).collect(),
                tftp: tftp.iter().map(|&name| name.to_owned()).collect(),
                address: Some(Ipv4Addr::new(192, 168, 1, 77)),
                terms: Some(LeaseTerms { lease_seconds: Some(3600), ..LeaseTerms::default() }),
                asked: true,
                after: Some(Duration::from_millis(2)),
                informed: false,
                relayed: false,
            };
            seen.heard(&overheard, UnixTime(0));
        }
        let lan = LanInterface {
            name: "eth0".to_owned(),
            index: 2,
            lan: ids::Lan::new(Ipv4Addr::new(192, 168, 1, 5), 24),
            mtu: 1500,
        };
        advice(&lan, &seen.known().cloned().collect::<Vec<_>>())
    }
}
