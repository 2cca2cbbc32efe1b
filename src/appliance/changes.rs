//! Waits until the kernel reports that interfaces or their addresses have changed.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use rtnetlink::MulticastGroup;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

/// The pause between two reports. However many reports arrive, the caller looks at most 20 times a second.
const PAUSE: Duration = Duration::from_millis(50);
/// How long after a netlink connection ended a new one is tried.
const RESTART_AFTER: Duration = Duration::from_secs(10);

/// Follows the kernel's reports of links and IPv4 addresses. Where the kernel does not report (a sandbox without
/// netlink), it lets the caller look at regular intervals.
pub(super) struct InterfaceChanges {
    kernel: Option<KernelReports>,
    /// The earliest time at which the next report is taken, or a new connection tried.
    next: Instant,
}

struct KernelReports {
    /// The netlink connection. Reports arrive only while this future is polled.
    connection: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The reports without their content: the caller looks at the interface itself.
    reports: Pin<Box<dyn Stream<Item = ()> + Send>>,
}

/// Begins to listen for reports. Must be called in a tokio runtime.
impl InterfaceChanges {
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub(super) fn new() -> Self {
        let kernel = KernelReports::connect();
        Self { kernel, next: Instant::now() }
    }

    /// Waits until something may have changed. While the kernel reports, it waits for a report, but no longer than
    /// `seldom`; while the kernel does not report, it waits for `often`. A change between two calls is not lost. Cancel
    /// safe.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub(super) async fn wait(&mut self, often: Duration, seldom: Duration) {
        if self.kernel.is_none() && self.next <= Instant::now() {
            self.kernel = KernelReports::connect();
            self.next = Instant::now() + RESTART_AFTER;
        }
        let Some(kernel) = &mut self.kernel else { return sleep(often).await };
        let ended = tokio::select! {
            ended = kernel.report(self.next) => ended,
            () = sleep(seldom) => return,
        };
        if ended {
            warn!("the kernel's reports of interfaces have ended; the LAN interface is looked at every few seconds");
            self.kernel = None;
            self.next = Instant::now() + RESTART_AFTER;
        } else {
            self.next = Instant::now() + PAUSE;
        }
    }
}

impl KernelReports {
    fn connect() -> Option<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
        match rtnetlink::new_multicast_connection(&groups) {
            Ok((connection, _, reports)) => {
                Some(Self { connection: Box::pin(connection), reports: Box::pin(reports.map(drop)) })
            }
            Err(error) => {
                debug!(%error, "the kernel does not report changes of interfaces");
                None
            }
        }
    }

    /// Waits until `earliest` and then for a report, and takes all reports that are there. Returns true if the
    /// connection has ended and no more reports will come.
    async fn report(&mut self, earliest: Instant) -> bool {
        tokio::select! {
            () = &mut self.connection => return true,
            () = sleep_until(earliest) => {}
        }
        tokio::select! {
            () = &mut self.connection => return true,
            report = self.reports.next() => if report.is_none() { return true },
        }
        while self.reports.next().now_or_never().flatten().is_some() {}
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn without_reports_it_is_a_clock_and_tries_again_later() {
        let mut changes = InterfaceChanges { kernel: None, next: Instant::now() + NEVER };
        let begin = Instant::now();
        changes.wait(Duration::from_millis(30), NEVER).await;
        assert!(begin.elapsed() >= Duration::from_millis(30) && changes.kernel.is_none());
    }

    #[tokio::test]
    async fn a_report_ends_the_wait_and_a_storm_of_them_is_one_change() {
        let reports = Box::pin(futures_util::stream::iter([(); 1000]).chain(futures_util::stream::pending()));
        let kernel = KernelReports { connection: Box::pin(std::future::pending()), reports };
        let mut changes = InterfaceChanges { kernel: Some(kernel), next: Instant::now() };
        changes.wait(NEVER, NEVER).await;
        let begin = Instant::now();
        changes.wait(NEVER, Duration::from_millis(200)).await;
        assert!(begin.elapsed() >= Duration::from_millis(200), "nothing has changed since");
    }

    #[tokio::test]
    async fn when_reports_end_whoever_waits_looks_at_once_and_then_often() {
        let kernel = KernelReports {
            connection: Box::pin(std::future::ready(())),
            reports: Box::pin(futures_util::stream::pending()),
        };
        let mut changes = InterfaceChanges { kernel: Some(kernel), next: Instant::now() };
        changes.wait(NEVER, NEVER).await;
        assert!(changes.kernel.is_none());
        changes.wait(Duration::from_millis(5), NEVER).await;
    }
}
