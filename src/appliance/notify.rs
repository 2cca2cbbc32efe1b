//! Tells systemd how the appliance is (`sd_notify(3)`). Without systemd it does nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use api::{Alert, AlertCode, SiteState};
use status::{Stats, StatusReport};

/// How often the state of the appliance is compared with what systemd was told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Says that everything is up; a unit of `Type=notify` becomes active.
pub fn ready(text: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(text)]);
}

/// Sets the line that `systemctl status` shows.
pub fn status(text: &str) {
    say(&[NotifyState::Status(text)]);
}

/// Says that the process drains its transfers and will end.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Tells the watchdog of systemd that we are alive, at a third of its interval (`WatchdogSec`), until `stop`. Without a
/// watchdog it only waits for `stop`.
///
/// The task runs on the same runtime as the services. If the runtime hangs, the watchdog hears nothing and systemd
/// restarts the appliance.
pub async fn watchdog(stop: CancellationToken) {
    let Some(interval) = sd_notify::watchdog_enabled() else {
        stop.cancelled().await;
        return;
    };
    let mut ticks = tokio::time::interval((interval / 3).max(Duration::from_millis(100)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => say(&[NotifyState::Watchdog]),
        }
    }
}

/// Tells systemd how the appliance is whenever that changes, until `stop`. It sets the line of `systemctl status`. If
/// the unit has a runtime directory, it also writes one word for the board's LED into the file `led` there.
pub async fn follow(stats: Stats, stop: CancellationToken) {
    let led_file = std::env::var_os("RUNTIME_DIRECTORY").map(|dir| PathBuf::from(dir).join("led"));
    let mut told = None;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let report = StatusReport::of(&stats);
        let now = (led(&report), format!("serving generation {}; HQ: {}", report.generation, report.state));
        if told.as_ref() == Some(&now) {
            continue;
        }
        status(&now.1);
        if let Some(Err(error)) = led_file.as_deref().map(|file| write_word(file, now.0)) {
            tracing::debug!(%error, "the LED's word cannot be written");
        }
        told = Some(now);
    }
}

/// The word for the LED: `serving`, `stale` (phones are served, but HQ has not confirmed the release) or `fault`. The
/// script `systemd/led` shows it.
fn led(report: &StatusReport) -> &'static str {
    let broken = |alert: &Alert| {
        matches!(AlertCode::from_code(&alert.code), Some(AlertCode::ReleaseDamaged | AlertCode::DhcpLeaseLog))
    };
    match SiteState::from_code(&report.state) {
        Some(SiteState::NotEnrolled) => "fault",
        _ if report.alerts.iter().any(broken) => "fault",
        Some(SiteState::Ok | SiteState::Starting) => "serving",
        _ => "stale",
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "below /run, which no power cut survives; systemd waits for this very write"
)]
fn write_word(file: &Path, word: &str) -> std::io::Result<()> {
    // One write, because `lineside-led.path` starts when the file is closed. The unit of the LED runs as another user,
    // so everybody may read the file.
    std::fs::write(file, format!("{word}\n"))?;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644))
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd does not listen");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ids::Generation;
    use status::PollState;

    fn after_poll(state: SiteState) -> Stats {
        let stats = Stats::new();
        stats.poll(PollState {
            state,
            reason: String::new(),
            generation: Generation(1),
            clock_synchronised: true,
            disk_free_bytes: 1,
        });
        stats
    }

    #[test]
    fn the_led_tells_service_from_silence_and_fault() {
        let shown = |stats: &Stats| led(&StatusReport::of(stats));
        assert_eq!(shown(&Stats::new()), "serving");
        assert_eq!(shown(&after_poll(SiteState::Ok)), "serving");
        assert_eq!(shown(&after_poll(SiteState::Unreachable)), "stale");
        assert_eq!(shown(&after_poll(SiteState::Stale)), "stale");
        assert_eq!(shown(&after_poll(SiteState::NotEnrolled)), "fault");
        let damaged = after_poll(SiteState::Ok);
        damaged.alert(AlertCode::ReleaseDamaged, "the stored release does not hold".to_owned());
        assert_eq!(shown(&damaged), "fault");
    }
}
