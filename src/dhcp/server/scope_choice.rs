//! What the settings want, what is in force, and how long we wait for other servers first. Pure but for what it reports.

use std::time::{Duration, Instant};

use tracing::info;

use crate::heard::LeaseTerms;
use crate::mode_choice::LanEvidence;
use crate::scope::{ActiveMode, DhcpScope};
use api::AlertCode;
use bundle::DhcpMode;
use status::Stats;

/// How long mode `all` waits for other servers at the start: dnsmasq pings for 3 s before it offers, and the first
/// question may be lost.
pub(super) const ASK_WAIT: Duration = Duration::from_secs(8);
/// How long `auto` waits for a router before it takes a LAN for its own. After a power cut a router boots with us.
pub(super) const ALONE_AFTER: Duration = Duration::from_secs(90);

/// What people read of a server that is there while we lease.
const SECOND_SERVER: &str = "another DHCP server has appeared beside ours";

/// The settings and what came of them.
#[derive(Debug)]
pub(super) struct ScopeChoice {
    wanted: DhcpScope,
    in_force: DhcpScope,
    wait: StartWait,
    /// Whether what is in force was reported at least once.
    told: bool,
    /// What stands as the alert of a second server.
    second: Option<String>,
}

/// How long other servers have to show after our start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StartWait {
    /// Other servers are asked. Nothing is leased before they had time to answer.
    Listening { until: Instant, alone_at: Instant },
    /// A router that boots with us may still come: `auto` does not take the LAN for its own yet.
    ExpectingRouter { alone_at: Instant },
    /// A server that comes now is new. On loopback, where no other server can be, this is the first state.
    Over,
}

impl ScopeChoice {
    /// For settings that have not been looked at yet. `has_link` says whether other servers can show at all.
    pub(super) fn new(wanted: DhcpScope, has_link: bool, now: Instant) -> Self {
        let wait = if has_link {
            StartWait::Listening { until: now + ASK_WAIT, alone_at: now + ALONE_AFTER }
        } else {
            StartWait::Over
        };
        Self { in_force: wanted.clone(), wanted, wait, told: false, second: None }
    }

    pub(super) const fn wanted(&self) -> &DhcpScope {
        &self.wanted
    }

    pub(super) const fn in_force(&self) -> &DhcpScope {
        &self.in_force
    }

    pub(super) fn set_wanted(&mut self, wanted: DhcpScope) {
        self.wanted = wanted;
    }

    /// Whether other servers still have their first chance to show.
    pub(super) const fn is_listening(&self) -> bool {
        matches!(self.wait, StartWait::Listening { .. })
    }

    /// Whether nobody else is expected any more.
    pub(super) const fn expects_nobody(&self) -> bool {
        matches!(self.wait, StartWait::Over)
    }

    /// Whether `auto` still waits for a router that boots with us.
    pub(super) fn awaits_router(&self) -> bool {
        self.wanted.configured == DhcpMode::Auto && !self.expects_nobody()
    }

    /// When a wait is over.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self.wait {
            StartWait::Listening { until, .. } => Some(until),
            StartWait::ExpectingRouter { alone_at } => Some(alone_at),
            StartWait::Over => None,
        }
    }

    /// Ends the waits whose time has come. Says whether one did.
    pub(super) fn end_waits(&mut self, now: Instant) -> bool {
        let before = self.wait;
        self.wait = match before {
            StartWait::Listening { until, .. } if now < until => before,
            StartWait::Listening { alone_at, .. } | StartWait::ExpectingRouter { alone_at } if now < alone_at => {
                StartWait::ExpectingRouter { alone_at }
            }
            _ => StartWait::Over,
        };
        self.wait != before
    }

    /// Chooses what is in force, and reports it. `terms` is what the first other server hands out.
    pub(super) fn settle(&mut self, evidence: &LanEvidence<'_>, terms: Option<&LeaseTerms>, stats: &Stats) {
        let mut scope = self.wanted.clone();
        scope.choose(evidence);
        if matches!(scope.mode, ActiveMode::Augment | ActiveMode::PhonesOnly)
            && let Some(terms) = terms
        {
            scope.learn(terms);
        }
        let second = match scope.mode {
            ActiveMode::All if !evidence.servers.is_empty() => {
                let who = evidence.answering.map(|who| format!(": {who}")).unwrap_or_default();
                Some(format!("{SECOND_SERVER}{who}"))
            }
            ActiveMode::All | ActiveMode::PhonesOnly => {
                evidence.unknown_server.map(|who| format!("{SECOND_SERVER}: {who}"))
            }
            ActiveMode::Shadow | ActiveMode::Inform | ActiveMode::Augment => None,
        };
        if second != self.second {
            stats.clear_alert(AlertCode::DhcpSecondServer);
            second.iter().for_each(|text| stats.alert(AlertCode::DhcpSecondServer, text.clone()));
        }
        self.second = second;
        match &scope.problem {
            Some(problem) if self.in_force.problem.as_ref() != Some(problem) || !self.told => {
                stats.clear_alert(AlertCode::DhcpMode);
                stats.alert(AlertCode::DhcpMode, problem.clone());
            }
            Some(_) => {}
            None => stats.clear_alert(AlertCode::DhcpMode),
        }
        if scope.label != self.in_force.label || scope.problem != self.in_force.problem || !self.told {
            info!(mode = scope.label, problem = scope.problem.as_deref().unwrap_or_default(), "DHCP mode");
        }
        self.told = true;
        stats.dhcp_mode(scope.label);
        self.in_force = scope;
    }
}
