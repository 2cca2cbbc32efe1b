//! The text of `lineside doctor`: the servers that answered, the mode to take, what each mode does, and lines for the router.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::findings::Findings;
use super::router_lines::router_lines;
use crate::interface::LanInterface;
use dhcp::lan::{OtherServer, Points, Relays, seconds_in_words};

/// What decides on the mode.
struct Situation {
    servers: Vec<OtherServer>,
    own: Ipv4Addr,
    /// Where the servers point phones, if they agree.
    points: Option<Points>,
    /// In what they disagree.
    disagreement: Option<String>,
    /// Who serves here without having answered us in a way that can be read.
    unknown: Option<String>,
    /// A server that does not answer relay agents, if none does.
    refuses_relays: Option<Ipv4Addr>,
    /// A server that offers addresses for no time at all.
    leases_for_nothing: Option<Ipv4Addr>,
}

impl Situation {
    fn of(findings: &Findings, own: Ipv4Addr) -> Self {
        let servers = findings.servers(own);
        let disagreement = findings.lan.disagreement();
        let points = servers.first().map(|server| server.points(&[own])).filter(|_| disagreement.is_none());
        let refuses = servers.iter().all(|server| server.relays == Relays::Refused);
        let refuses_relays = servers.first().filter(|_| refuses).map(|server| server.server);
        let for_nothing = servers.iter().find(|server| server.terms.lease_seconds == Some(0));
        let leases_for_nothing = for_nothing.map(|server| server.server);
        let unknown = findings.unknown_server();
        Self { servers, own, points, disagreement, unknown, refuses_relays, leases_for_nothing }
    }

    fn is_alone(&self) -> bool {
        self.servers.is_empty() && self.unknown.is_none()
    }

    /// Where the first server points phones, in words that follow "points phones".
    fn pointed(&self) -> String {
        self.servers.iter().find_map(|server| server.points_in_words(&[self.own])).unwrap_or_default()
    }
}

/// The whole text.
pub(super) fn advice(lan: &LanInterface, findings: &Findings) -> String {
    let own = lan.address();
    let situation = Situation::of(findings, own);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "LAN: {} with our address {}\n", lan.name, lan.lan);
    for (vlan, first) in &findings.vlans {
        let _ = writeln!(
            out,
            "NOTE: devices of VLAN {vlan}, such as {first}, ask for addresses here in tagged frames, and this box serves only \
             what comes without a tag.\n      If phones are in VLAN {vlan}, set the switch's port of this box to VLAN {vlan} \
             untagged (access), or put a box into that VLAN.\n"
        );
    }
    for server in &situation.servers {
        describe(&mut out, server, findings, own);
    }
    if situation.servers.is_empty() {
        out.push_str("No DHCP server answered within 9 seconds.\n");
    }
    if let Some(unknown) = &situation.unknown {
        let _ = writeln!(out, "But {unknown}.");
    }
    if situation.servers.len() > 1 && situation.disagreement.is_none() {
        out.push_str(
            "These servers agree in all but their address: a pair that people set up on purpose (failover).\n",
        );
    }
    let (verdict, why) = recommend(&situation);
    let _ = writeln!(out, "\nTake mode `{verdict}`: {why}\n\nWhat each mode does for a phone here:");
    for (mode, text) in modes(&situation) {
        let _ = writeln!(out, "  {mode:<12} {text}");
    }
    if let Some(router) = situation.refuses_relays {
        let _ = writeln!(
            out,
            "\n{router} does not answer relay agents. RouterOS is set so by default: `relay=0.0.0.0` in /ip dhcp-server \
             means direct requests only.\nDo not change that for the server of this LAN, or PCs and phones may get no \
             lease from it any more: enter 66/150 there."
        );
    }
    if situation.points != Some(Points::Here) {
        let _ =
            writeln!(out, "\nBest of all, where you can change the router: let it point phones here itself. One of:");
        for (router, line) in router_lines(lan.lan) {
            let _ = writeln!(out, "  {router}\n{line}");
        }
        out.push_str("then run `lineside doctor` again: the router points here, and mode `inform` is enough.\n");
    }
    out
}

fn describe(out: &mut String, server: &OtherServer, findings: &Findings, own: Ipv4Addr) {
    let list = |addresses: &[Ipv4Addr]| addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ");
    let _ = writeln!(out, "DHCP server {}", server.server);
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(out, "  {name:<14} {value}");
        }
    };
    let terms = &server.terms;
    line("offers", server.offered.map(|address| address.to_string()).unwrap_or_default());
    match terms.lease_seconds {
        None => {}
        Some(0) => line("for", "0 seconds: a lease that is over at once".to_owned()),
        Some(u32::MAX) => line("lease", seconds_in_words(Some(u32::MAX))),
        seconds => line("for", seconds_in_words(seconds)),
    }
    line("router", list(&terms.routers));
    line("DNS", list(&terms.dns));
    line("domain", terms.domain.clone());
    line("NTP", list(&terms.ntp));
    line("options", findings.options_of(server.server));
    if let Some((shortest, longest)) = server.offer_after {
        let millis = |span: Duration| format!("{:.1}", span.as_secs_f64() * 1000.0);
        line("answers in", format!("{} to {} ms", millis(shortest), millis(longest)));
    }
    if server.takes().is_some() {
        line("pings", "it seems to ask for an address before it offers it: a new phone waits so long".to_owned());
    }
    line("DHCPINFORM", if server.informs { "answered" } else { "not answered" }.to_owned());
    let relays = match server.relays {
        Relays::Answered => "answered, so `augment` learns what a phone is about to get",
        Relays::Refused => "not answered, so `augment` cannot learn what a phone is about to get",
        Relays::Unknown if findings.asks_as_relay => "not found out",
        Relays::Unknown => "not asked: that takes root or CAP_NET_RAW",
    };
    line("relay agents", relays.to_owned());
    let tftp = server.points_in_words(&[own]).map_or_else(
        || "no TFTP server (66/150): phones do not find their files".to_owned(),
        |words| format!("points phones {words}"),
    );
    line("phones", tftp);
    line("", server.misread().unwrap_or_default());
    for elsewhere in server.vendors_elsewhere(&[own]) {
        line("", format!("{elsewhere}, before they ask 66 or 150"));
    }
    for (name, addresses) in &findings.resolved {
        let means =
            if addresses.is_empty() { "no address that this machine can find".to_owned() } else { list(addresses) };
        line("", format!("{name} is {means}"));
    }
}

fn recommend(seen: &Situation) -> (&'static str, String) {
    let say = |mode, text: &str| (mode, text.to_owned());
    match (&seen.disagreement, seen.points) {
        (None, None) => match &seen.unknown {
            Some(unknown) => (
                "inform",
                format!(
                    "somebody serves here: {unknown}. So nothing may be leased beside it, and nothing of it can be \
                     completed. Enter 66/150 there, or find out what it is (tcpdump -vei eth0 port 67)."
                ),
            ),
            None => say(
                "all",
                "nobody else leases addresses here, so this box may; give it a range. If there should be a DHCP server, \
                 find out first why it is silent.",
            ),
        },
        (Some(disagreement), _) => (
            "inform",
            format!(
                "several DHCP servers answer. {disagreement}. Find out which one should not; until then nothing is \
                 predictable."
            ),
        ),
        (None, Some(Points::Here)) => say("inform", "the router points phones here already; nothing is missing."),
        (None, Some(Points::Nowhere)) => match (seen.leases_for_nothing, seen.refuses_relays) {
            (Some(router), _) => (
                "inform",
                format!(
                    "{router} offers addresses for a lease time of 0 seconds (option 51), so there is no lease to complete, \
                     and phones may keep no address. Correct the lease time there, then run `lineside doctor` again."
                ),
            ),
            (None, Some(router)) => (
                "inform",
                format!(
                    "{router} does not answer relay agents, so `augment` completes nothing beside it. Enter 66/150 there \
                     (below); until then only phones that ask with DHCPINFORM find their files."
                ),
            ),
            (None, None) => say(
                "augment",
                "one server leases addresses and says nothing about TFTP; its leases to phones are completed. (`auto` \
                 does the same.)",
            ),
        },
        (None, Some(Points::Unsure)) => (
            "inform",
            format!(
                "the server points phones {}. See which machine that name is for the phones; if it is this one, nothing is \
                 missing.",
                seen.pointed()
            ),
        ),
        (None, Some(Points::Partly)) => (
            "inform",
            format!(
                "the server points phones {}. Most phones take the first and no other: put this machine first, in 66 and \
                 in 150.",
                seen.pointed()
            ),
        ),
        (None, Some(Points::Elsewhere)) => say(
            "inform",
            "the server points phones elsewhere. Change that there; nothing that we send should argue with it.",
        ),
    }
}

fn modes(seen: &Situation) -> [(&'static str, &'static str); 5] {
    let alone = seen.is_alone();
    let pointed = seen.points == Some(Points::Here);
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
            match seen.points {
                _ if seen.servers.is_empty() => "gets nothing: there is no lease to complete",
                Some(Points::Nowhere) if seen.leases_for_nothing.is_some() => {
                    "gets nothing: the router's lease is over at once (lease time 0)"
                }
                Some(Points::Nowhere) if seen.refuses_relays.is_some() => {
                    "gets nothing: the router does not answer relay agents, so its lease is not known in time"
                }
                Some(Points::Nowhere) => "has the router's lease with our TFTP server added",
                Some(_) => "is left alone: the router has told it",
                None => "has the router's lease; completed where the router says nothing about TFTP",
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
