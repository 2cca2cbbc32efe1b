//! Which mode is in force, by the settings and by what the LAN shows. Pure.

use super::lan::Points;
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
    /// Whether devices hold leases of ours.
    pub leasing: bool,
    /// Whether this process can see and send frames, which `augment` needs.
    pub raw: bool,
    /// Whether `phones-only` is safe here; `None` until that is proven or refuted.
    pub proof: Option<&'a Result<(), String>>,
}

/// The problem of a LAN with two servers.
const SECOND: &str = "more than one other DHCP server answers on this LAN; find out which one should not be there";
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
                if !seen.servers.is_empty() && !seen.leasing {
                    self.fall_back(
                        "inform (all asked for)",
                        "another DHCP server answers on this LAN, so that leasing here would take addresses twice"
                            .to_owned(),
                    );
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
        let (mode, label, problem) = match seen.servers {
            _ if seen.leasing && range.is_some() => (ActiveMode::All, "all (auto)", None),
            [] if seen.listening => (ActiveMode::Inform, "inform (auto: looking for other servers)", None),
            [] if range.is_some() && seen.alone => (ActiveMode::All, "all (auto)", None),
            [] if range.is_some() => (ActiveMode::Inform, "inform (auto: looking for other servers)", None),
            [] => {
                let text = "no DHCP server answers on this LAN, and this site has no `range`: phones get no address";
                (ActiveMode::Inform, "inform (auto)", Some(text.to_owned()))
            }
            servers if servers.contains(&Points::Here) => {
                (ActiveMode::Inform, "inform (auto: the router points here)", None)
            }
            [Points::Nowhere] if seen.raw => (ActiveMode::Augment, "augment (auto)", None),
            [Points::Nowhere] => (ActiveMode::Inform, "inform (auto)", Some(RAW.to_owned())),
            [_] => {
                let text = "this LAN's DHCP server points phones to another TFTP server; change it there, or remove it";
                (ActiveMode::Inform, "inform (auto)", Some(text.to_owned()))
            }
            _ => (ActiveMode::Inform, "inform (auto)", Some(SECOND.to_owned())),
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

fn augment_problem(seen: &LanEvidence<'_>) -> Option<String> {
    match seen.servers {
        [] if seen.listening => None,
        [] => Some("no DHCP server answers on this LAN, so there is no lease to complete".to_owned()),
        [Points::Elsewhere] => {
            Some("this LAN's DHCP server points phones to another TFTP server, which is left as it is".to_owned())
        }
        [_] => None,
        _ => Some(SECOND.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use bundle::DhcpSettings;
    use ids::Lan;

    const PLAIN: LanEvidence<'_> =
        LanEvidence { link: true, listening: false, alone: true, servers: &[], leasing: false, raw: true, proof: None };

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
            let scope = chosen(DhcpMode::Auto, &LanEvidence { servers, ..PLAIN });
            assert_eq!(scope.mode, mode, "{servers:?}");
            assert!(scope.label.contains("auto"), "{}", scope.label);
            let needs_report = mode == ActiveMode::Inform && !servers.contains(&Points::Here);
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
    fn two_servers_are_reported_in_augment() {
        let servers = &[Points::Nowhere, Points::Nowhere];
        let scope = chosen(DhcpMode::Augment, &LanEvidence { servers, ..PLAIN });
        assert_eq!(scope.mode, ActiveMode::Augment);
        assert!(scope.problem.is_some_and(|problem| problem.contains("more than one")));
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
