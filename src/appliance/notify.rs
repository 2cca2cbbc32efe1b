//! Tells systemd how it goes, and does nothing where there is no systemd.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// Everything is up: `Type=notify` units become active now.
pub fn ready(text: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(text)]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    say(&[NotifyState::Status(text)]);
}

/// The process is draining transfers and will end.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Pets the watchdog at a third of its interval until `stop`, if the unit asks for one (`WatchdogSec`).
///
/// It runs on the same runtime as the services: if that hangs, systemd restarts us.
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

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
