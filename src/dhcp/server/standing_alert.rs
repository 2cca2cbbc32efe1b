//! Alerts that stand for as long as their cause does. Pure but for what they report.

use std::collections::BTreeSet;

use api::AlertCode;
use status::Stats;

/// The most texts of one code at a time. Further ones are left out.
const MAX_TEXTS: usize = status::stats::MAX_TEXTS_PER_CODE;

/// The alerts of one code, as they were raised last.
#[derive(Debug)]
pub(super) struct StandingAlert {
    code: AlertCode,
    raised: BTreeSet<String>,
}

impl StandingAlert {
    /// No alert of this code, which others raise as well.
    pub(super) const fn shared(code: AlertCode) -> Self {
        Self { code, raised: BTreeSet::new() }
    }

    /// No alert of this code. One of an earlier server on this machine ends.
    pub(super) fn new(code: AlertCode, stats: &Stats) -> Self {
        stats.clear_alert(code);
        Self { code, raised: BTreeSet::new() }
    }

    /// Raises what is new, and ends what is over.
    pub(super) fn set(&mut self, texts: impl IntoIterator<Item = String>, stats: &Stats) {
        let texts: BTreeSet<String> = texts.into_iter().take(MAX_TEXTS).collect();
        for ended in self.raised.difference(&texts) {
            stats.end_alert(self.code, ended);
        }
        for text in &texts {
            // Others may have ended alerts of this code.
            if !(self.raised.contains(text) && stats.alert_stands(self.code, text)) {
                stats.alert(self.code, text.clone());
            }
        }
        self.raised = texts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_raised_once_stands_and_ends_with_its_cause() {
        let stats = Stats::new();
        let mut alert = StandingAlert::new(AlertCode::DhcpDeclining, &stats);
        let raised = || stats.counter("alert.dhcp-declining");
        for _ in 0..3 {
            alert.set(["a".to_owned()], &stats);
        }
        assert_eq!(raised(), 1);
        alert.set(["a".to_owned(), "b".to_owned()], &stats);
        assert_eq!(raised(), 2);
        alert.set(["b".to_owned()], &stats);
        let texts = |stats: &Stats| -> Vec<String> {
            status::StatusReport::of(stats).alerts.into_iter().map(|alert| alert.text).collect()
        };
        assert_eq!((texts(&stats), raised()), (vec!["b".to_owned()], 2));
        stats.clear_alert(AlertCode::DhcpDeclining);
        alert.set(["b".to_owned()], &stats);
        assert_eq!(texts(&stats), ["b"], "it is still so, whoever ended it");
        alert.set([], &stats);
        assert_eq!(texts(&stats), [""; 0]);
        alert.set((0..100).map(|number| number.to_string()), &stats);
        assert_eq!(texts(&stats).len(), MAX_TEXTS);
    }
}
