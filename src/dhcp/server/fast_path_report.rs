//! What people hear of the fast path: counters, alerts and log lines. Pure but for these.

use std::net::Ipv4Addr;

use tracing::{debug, warn};

use crate::augment::Event;
use crate::heard::TftpPointer;
use crate::lan::points::{self, Points};
use api::AlertCode;
use status::Stats;

/// Counts an event and reports it. `ours` are the site's TFTP servers, and `meaning` says what names are by now known to mean.
pub(super) fn report(
    event: &Event,
    ours: &[Ipv4Addr],
    meaning: impl Fn(&[TftpPointer]) -> Vec<TftpPointer>,
    stats: &Stats,
) {
    match event {
        Event::AnsweredFrom { .. } | Event::Heard(_) | Event::LearntLate { .. } => {}
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
        Event::Points { phone, server, tftp, pointers } => {
            stats.count("dhcp.augment.pointed");
            debug!(device = %phone, %server, ?tftp, "the router points this phone itself");
            let pointers = meaning(pointers);
            let general = match Points::of(&pointers, ours) {
                Points::Partly | Points::Elsewhere => points::words(&pointers, ours),
                // A name may be ours: that is not to be held against the router.
                Points::Nowhere | Points::Here | Points::Unsure => None,
            };
            let general = general.map(|words| format!("{server} points {phone} {words}"));
            let vendor = points::vendors_elsewhere(&pointers, ours).into_iter().next();
            let text = general.or_else(|| vendor.map(|words| format!("{server}: {words}, so also {phone}")));
            if let Some(text) = text {
                stats.alert(AlertCode::DhcpPointsElsewhere, format!("{text}; it is left as it is"));
            }
        }
        Event::NotCompleted(reason) => stats.count(reason.counter()),
        Event::Informed => stats.count("dhcp.ack"),
    }
}
