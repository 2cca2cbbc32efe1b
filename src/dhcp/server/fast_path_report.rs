//! What people hear of the fast path: counters, alerts and log lines. Pure but for these.

use tracing::{debug, warn};

use crate::augment::Event;
use api::AlertCode;
use status::Stats;

/// Counts an event and reports it.
pub(super) fn report(event: &Event, stats: &Stats) {
    match event {
        Event::AnsweredFrom { .. } | Event::SentBy { .. } | Event::Heard(_) | Event::LearntLate { .. } => {}
        Event::Completed { phone, address, .. } => {
            stats.count("dhcp.augment.ack");
            debug!(device = %phone, %address, "the router's lease was completed");
        }
        Event::Short { phone, address } => {
            stats.count("dhcp.augment.ack");
            stats.count("dhcp.augment.short");
            debug!(device = %phone, %address, "a lease of some minutes on the terms of the router's pool");
        }
        Event::Rebound { phone, address } => {
            stats.count("dhcp.augment.ack");
            debug!(device = %phone, %address, "the router's lease was completed at a rebind");
        }
        Event::Offered(phone) => {
            stats.count("dhcp.augment.offer");
            debug!(device = %phone, "the router's offer was completed");
        }
        Event::Refused { phone, server } => {
            warn!(device = %phone, %server, "the router refused a lease that was completed; left alone for a day");
            let text = format!("{server} refused {phone} after its lease was completed; it is left alone for a day");
            stats.alert(AlertCode::DhcpAugmentNak, text);
        }
        Event::Points { phone, server, tftp, .. } => {
            stats.count("dhcp.augment.pointed");
            debug!(device = %phone, %server, ?tftp, "the router points this phone itself");
        }
        Event::NotCompleted(reason) => stats.count(reason.counter()),
        Event::Informed => stats.count("dhcp.ack"),
    }
}
