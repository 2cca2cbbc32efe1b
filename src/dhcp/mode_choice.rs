//! Which mode is in force, by the settings and by what the LAN shows. Pure.

use super::lan::{Points, SERVER_GONE, SILENT_FOR};
use super::scope::{ActiveMode, DhcpScope};
use bundle::DhcpMode;

/// What the LAN shows, as far as it decides on the mode.
#[derive(Debug, Clone, Copy)]
pub struct LanEvidence<'a> {
    /// Whether there is a link on which others can show. There is none on loopback.
    pub link: bool,
    /// Whether other servers still have time to show after our start.
    pub listening: bool,
    /// Whether no router is expected any more. A router that boots with us takes a minute.
    pub alone: bool,
    /// Where each other server points phones.
    pub servers: &'a [Points],
    /// Which of them answers, where, and since when.
    pub answering: Option<&'a str>,
    /// In what these servers disagree. A pair that agrees in all but the identifier (failover) is like one server.
    pub disagreement: Option<&'a str>,
    /// Who answers DHCP here without being known as a server: that nobody is known is no proof that nobody is there.
    pub unknown_server: Option<&'a str>,
    /// Where the first server that does not point here points phones, in words that follow "points phones".
    pub pointed: Option<&'a str>,
    /// Whether each of the servers has been found not to answer relay agents, which `augment` needs.
    pub refuses_relays: bool,
    /// Whether devices hold leases of ours.
    pub leasing: bool,
    /// Whether this process can see and send frames, which `augment` needs.
    pub raw: bool,
    /// Whether `phones-only` is safe here; `None` until that is proven or refuted.
    pub proof: Option<&'a Result<(), String>>,
}

/// The problem of a process that may not open packet sockets.
const RAW: &str = "`augment` needs to see and send raw frames (CAP_NET_RAW); this process may not";

impl DhcpScope {
    /// Chooses the mode in force. `all` and `phones-only` begin only where they harm nobody. Once devices hold our leases we
    /// go on, even if another server appears: if we fell silent, phones would lose their addresses.
    pub fn choose(&mut self, seen: &LanEvidence<'_>) {
        if !seen.link {
            return;
        }
        match self.configured {
            DhcpMode::Shadow | DhcpMode::Inform => {}
            DhcpMode::Augment if !seen.raw => self.fall_back("inform (augment asked for)", RAW.to_owned()),
            DhcpMode::Augment => self.problem = augment_problem(seen),
            // If the settings do not allow the mode that they name, the scope has said so already.
            DhcpMode::PhonesOnly if self.mode == ActiveMode::PhonesOnly => self.choose_phones_only(seen),
            DhcpMode::All if self.mode == ActiveMode::All => {
                if seen.has_other_server() && !seen.leasing {
                    self.fall_back("inform (all asked for)", who_leases(seen));
                } else if seen.listening && !seen.leasing {
                    self.wait("inform (looking for other servers)");
                }
            }
            DhcpMode::PhonesOnly | DhcpMode::All => {}
            DhcpMode::Auto => self.choose_auto(seen),
        }
    }

    fn choose_phones_only(&mut self, seen: &LanEvidence<'_>) {
        if seen.leasing {
            return;
        }
        // What cannot be asked cannot be proven.
        if let Some(who) = seen.unknown_server {
            let text = format!("`phones-only` is refused: {who}, so that it cannot be asked whether it objects");
            return self.fall_back("inform (phones-only refused)", text);
        }
        match seen.proof {
            None => self.wait("inform (phones-only: finding out whether it is safe)"),
            Some(Ok(())) => {}
            Some(Err(reason)) => {
                let text = format!("`phones-only` is refused: {reason}. `augment` works beside any router");
                self.fall_back("inform (phones-only refused)", text);
            }
        }
    }

    fn choose_auto(&mut self, seen: &LanEvidence<'_>) {
        let range = self.range.take();
        let inform = |problem| (ActiveMode::Inform, "inform (auto)", Some(problem));
        let looking = (ActiveMode::Inform, "inform (auto: looking for other servers)", None);
        let (mode, label, problem) = match (seen.servers, seen.disagreement) {
            _ if seen.leasing && range.is_some() => (ActiveMode::All, "all (auto)", None),
            ([], _) if seen.listening => looking,
            // Where somebody answers who cannot be read, his leases cannot be completed, and beside him none may be given.
            ([], _) if seen.unknown_server.is_some() => inform(format!(
                "{}, so that nothing is leased or completed here",
                seen.unknown_server.unwrap_or_default()
            )),
            ([], _) if range.is_some() && seen.alone => (ActiveMode::All, "all (auto)", None),
            ([], _) if range.is_some() => looking,
            ([], _) => {
                let text = "no DHCP server answers on this LAN, and this site has no `range`: phones get no address";
                inform(text.to_owned())
            }
            (_, Some(disagreement)) => inform(two_servers(disagreement)),
            ([Points::Here, ..], None) => (ActiveMode::Inform, "inform (auto: the router points here)", None),
            ([Points::Unsure, ..], None) => {
                (ActiveMode::Inform, "inform (auto: the router points phones to a name)", None)
            }
            ([Points::Nowhere, ..], None) if !seen.raw => inform(RAW.to_owned()),
            ([Points::Nowhere, ..], None) if seen.refuses_relays => {
                (ActiveMode::Augment, "augment (auto: the router does not answer relay agents)", None)
            }
            ([Points::Nowhere, ..], None) => (ActiveMode::Augment, "augment (auto)", None),
            ([Points::Partly | Points::Elsewhere, ..], None) => inform(elsewhere(seen)),
        };
        (self.mode, self.label, self.problem) = (mode, label, problem);
        self.range = range.filter(|_| mode == ActiveMode::All);
    }

    /// Takes `inform` for now. That is no problem to report.
    fn wait(&mut self, label: &'static str) {
        self.fall_back(label, String::new());
        self.problem = None;
    }
}

impl LanEvidence<'_> {
    /// Whether anybody else leases here, or may do so.
    pub const fn has_other_server(&self) -> bool {
        !self.servers.is_empty() || self.unknown_server.is_some()
    }
}

/// The problem of a LAN on which somebody else leases: who, and how it ends.
fn who_leases(seen: &LanEvidence<'_>) -> String {
    let (who, silence) = match seen.unknown_server.filter(|_| seen.servers.is_empty()) {
        Some(who) => (who, SERVER_GONE),
        None => (seen.answering.unwrap_or("another DHCP server answers on this LAN"), SILENT_FOR),
    };
    let minutes = silence.as_secs() / 60;
    format!(
        "{who}; leasing beside it would take addresses twice. Switch its DHCP off: {minutes} minutes after its last answer \
         leasing begins here"
    )
}

fn augment_problem(seen: &LanEvidence<'_>) -> Option<String> {
    match (seen.servers, seen.disagreement, seen.unknown_server) {
        ([], _, _) if seen.listening => None,
        ([], _, Some(who)) => Some(format!("{who}, so that its leases cannot be completed")),
        ([], _, None) => Some("no DHCP server answers on this LAN, so there is no lease to complete".to_owned()),
        (_, Some(disagreement), _) => Some(two_servers(disagreement)),
        ([Points::Partly | Points::Elsewhere, ..], None, _) => {
            Some(format!("{}, which is left as it is", elsewhere(seen)))
        }
        ([Points::Nowhere | Points::Here | Points::Unsure, ..], None, _) => None,
    }
}

/// The problem of a LAN with two servers that disagree.
fn two_servers(disagreement: &str) -> String {
    format!("more than one other DHCP server answers on this LAN: {disagreement}")
}

/// The problem of a LAN whose server leads phones elsewhere.
fn elsewhere(seen: &LanEvidence<'_>) -> String {
    let pointed = seen.pointed.unwrap_or("to another TFTP server");
    format!("this LAN's DHCP server points phones {pointed}; change that there, or remove it")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use bundle::DhcpSettings;
    use ids::Lan;

    const PLAIN: LanEvidence<'_> = LanEvidence {
        link: true,
        listening: false,
        alone: true,
        servers: &[],
        answering: None,
        disagreement: None,
        unknown_server: None,
        pointed: None,
        refuses_relays: false,
        leasing: false,
        raw: true,
        proof: None,
    };

    #[test]
    fn auto_does_what_the_lan_allows() {
        for (servers, mode) in [
            (&[Points::Nowhere][..], ActiveMode::Augment),
            (&[Points::Here], ActiveMode::Inform),
            (&[Points::Elsewhere], ActiveMode::Inform),
            (&[Points::Nowhere, Points::Nowhere], ActiveMode::Inform),
            (&[Points::Nowhere, Points::Here], ActiveMode::Inform),
            (&[], ActiveMode::All),
        ] {
            let disagreement = (servers.len() > 1).then_some("192.168.1.1 and 192.168.1.254 differ: router");
            let scope = chosen(DhcpMode::Auto, &LanEvidence { servers, disagreement, ..PLAIN });
            assert_eq!(scope.mode, mode, "{servers:?}");
            assert!(scope.label.contains("auto"), "{}", scope.label);
            let needs_report = mode == ActiveMode::Inform && servers != [Points::Here];
            assert_eq!(scope.problem.is_some(), needs_report, "{servers:?}");
            assert_eq!(scope.range.is_some(), mode == ActiveMode::All);
        }
    }

    #[test]
    fn auto_takes_no_lan_before_a_slow_router_had_its_minute() {
        assert_eq!(chosen(DhcpMode::Auto, &LanEvidence { alone: false, ..PLAIN }).mode, ActiveMode::Inform);
        assert_eq!(chosen(DhcpMode::Auto, &LanEvidence { listening: true, ..PLAIN }).mode, ActiveMode::Inform);
        let without_range = LanEvidence { servers: &[], ..PLAIN };
        let mut scope = DhcpScope::new(Lan::new(Ipv4Addr::new(192, 168, 1, 2), 24), &DhcpSettings::default(), []);
        scope.choose(&without_range);
        assert_eq!(scope.mode, ActiveMode::Inform);
        assert!(scope.problem.is_some_and(|problem| problem.contains("no `range`")));
    }

    #[test]
    fn augment_needs_raw_frames_and_says_so() {
        let scope = chosen(DhcpMode::Augment, &LanEvidence { raw: false, ..PLAIN });
        assert_eq!((scope.mode, scope.label), (ActiveMode::Inform, "inform (augment asked for)"));
        let scope = chosen(DhcpMode::Augment, &LanEvidence { servers: &[Points::Nowhere], ..PLAIN });
        assert_eq!((scope.mode, scope.label, scope.problem), (ActiveMode::Augment, "augment", None));
    }

    #[test]
    fn two_servers_that_disagree_are_reported_in_augment_with_what_differs() {
        let servers = &[Points::Nowhere, Points::Nowhere];
        let disagreement = Some("192.168.1.1 and 192.168.1.254 differ: DNS 9.9.9.9 or 8.8.8.8");
        let scope = chosen(DhcpMode::Augment, &LanEvidence { servers, disagreement, ..PLAIN });
        assert_eq!(scope.mode, ActiveMode::Augment);
        let problem = scope.problem.unwrap_or_default();
        assert!(problem.contains("more than one") && problem.contains("DNS 9.9.9.9 or 8.8.8.8"), "{problem}");
    }

    #[test]
    fn a_pair_that_agrees_is_like_one_server() {
        for (points, mode) in [(Points::Nowhere, ActiveMode::Augment), (Points::Here, ActiveMode::Inform)] {
            let servers = &[points, points];
            for wanted in [DhcpMode::Auto, DhcpMode::Augment] {
                let scope = chosen(wanted, &LanEvidence { servers, ..PLAIN });
                assert_eq!(scope.problem, None, "{wanted:?} {points:?}");
            }
            assert_eq!(chosen(DhcpMode::Auto, &LanEvidence { servers, ..PLAIN }).mode, mode);
        }
    }

    #[test]
    fn beside_somebody_who_cannot_be_read_nothing_is_leased() {
        let unknown_server = Some("a DHCP server at 192.168.1.9 answers in a way that cannot be read");
        let seen = LanEvidence { unknown_server, proof: Some(&Ok(())), ..PLAIN };
        for wanted in [DhcpMode::Auto, DhcpMode::All, DhcpMode::PhonesOnly] {
            let scope = chosen(wanted, &seen);
            assert_eq!((scope.mode, scope.range.is_some()), (ActiveMode::Inform, false), "{wanted:?}");
            assert!(scope.problem.is_some_and(|problem| problem.contains("192.168.1.9")), "{wanted:?}");
            assert_ne!(chosen(wanted, &LanEvidence { unknown_server: None, ..seen }).mode, ActiveMode::Inform);
            // Who has leases of ours keeps them.
            assert_ne!(chosen(wanted, &LanEvidence { leasing: true, ..seen }).mode, ActiveMode::Inform);
        }
        let problem = chosen(DhcpMode::Augment, &seen).problem.unwrap_or_default();
        assert!(problem.contains("cannot be completed"), "{problem}");
    }

    #[test]
    fn all_says_whom_it_waits_for_and_what_ends_that() {
        let answering =
            "192.168.100.254 (3c:97:0e:00:00:01) answers DHCP on this LAN since 2026-11-29 00:44 UTC, and 15 more";
        let problem = |seen: &LanEvidence<'_>| chosen(DhcpMode::All, seen).problem.unwrap_or_default();
        let known = problem(&LanEvidence { servers: &[Points::Nowhere], answering: Some(answering), ..PLAIN });
        let who = "192.168.100.254 speaks as a DHCP server to devices of this LAN, and does not answer us";
        let unknown = problem(&LanEvidence { unknown_server: Some(who), ..PLAIN });
        for (said, who, ends) in [(known, answering, "10 minutes after"), (unknown, who, "35 minutes after")] {
            assert!(said.starts_with(who) && said.contains(ends), "{said}");
            assert!(said.len() <= 255, "an alert has 255 bytes, not {}", said.len());
        }
    }

    #[test]
    fn what_a_router_says_of_tftp_is_reported_as_far_as_it_is_wrong() {
        let pointed = Some("to 10.0.0.9, which is not this machine first, then here (192.168.1.2)");
        for (points, reported) in
            [(Points::Partly, true), (Points::Elsewhere, true), (Points::Unsure, false), (Points::Here, false)]
        {
            for wanted in [DhcpMode::Auto, DhcpMode::Augment] {
                let scope = chosen(wanted, &LanEvidence { servers: &[points], pointed, ..PLAIN });
                let problem = scope.problem.unwrap_or_default();
                assert_eq!(problem.contains("10.0.0.9"), reported, "{wanted:?} {points:?}: {problem}");
            }
        }
    }

    #[test]
    fn beside_a_router_that_refuses_relay_agents_auto_says_so_in_its_name() {
        let seen = LanEvidence { servers: &[Points::Nowhere], refuses_relays: true, ..PLAIN };
        let scope = chosen(DhcpMode::Auto, &seen);
        assert_eq!(scope.label, "augment (auto: the router does not answer relay agents)");
    }

    #[test]
    fn phones_only_waits_for_its_proof_and_is_refused_without_it() {
        assert_eq!(chosen(DhcpMode::PhonesOnly, &PLAIN).mode, ActiveMode::Inform);
        assert_eq!(
            chosen(DhcpMode::PhonesOnly, &LanEvidence { proof: Some(&Ok(())), ..PLAIN }).mode,
            ActiveMode::PhonesOnly
        );
        let refused = Err("the router sends NAKs".to_owned());
        let scope = chosen(DhcpMode::PhonesOnly, &LanEvidence { proof: Some(&refused), ..PLAIN });
        assert_eq!((scope.mode, scope.label), (ActiveMode::Inform, "inform (phones-only refused)"));
        assert!(scope.problem.is_some_and(|problem| problem.contains("NAKs") && problem.contains("augment")));
    }

    #[test]
    fn who_leases_already_is_not_silenced_by_a_server_that_comes_later() {
        for wanted in [DhcpMode::All, DhcpMode::Auto] {
            let seen = LanEvidence { servers: &[Points::Nowhere], leasing: true, ..PLAIN };
            assert_eq!(chosen(wanted, &seen).mode, ActiveMode::All);
            assert_ne!(chosen(wanted, &LanEvidence { leasing: false, ..seen }).mode, ActiveMode::All);
        }
    }

    fn chosen(mode: DhcpMode, seen: &LanEvidence<'_>) -> DhcpScope {
        let range = Some((Ipv4Addr::new(192, 168, 1, 100), Ipv4Addr::new(192, 168, 1, 110)));
        let settings = DhcpSettings { mode, range, ..DhcpSettings::default() };
        let mut scope = DhcpScope::new(Lan::new(Ipv4Addr::new(192, 168, 1, 2), 24), &settings, []);
        scope.choose(seen);
        scope
    }
}
