//! Starts all tasks of the process, and ends them.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::activation::Sockets;
use super::config::ApplianceSettings;
use super::lan::LanSockets;
use super::memory::StoredMemory;
use super::notify;
use super::parts::{ApplianceParts, UpdaterParts};
use status::Stats;

/// The most time from SIGTERM to the end of all tasks. TFTP drains its transfers for 8 s; the rest takes less.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// The most time that the last write of [`StoredMemory`] may take.
const KEEP_WITHIN: Duration = Duration::from_secs(2);

/// An appliance that runs. To drop it without [`RunningAppliance::stop`] aborts all of its tasks.
#[derive(Debug)]
pub struct RunningAppliance {
    /// The address and port of TFTP at the start. `None` if TFTP is off or there was no LAN yet. The LAN may have
    /// another address by now.
    pub tftp: Option<SocketAddrV4>,
    /// The address and port of DHCP at the start; `None` as for `tftp`.
    pub dhcp: Option<SocketAddrV4>,
    /// The record of what happens at this site.
    pub stats: Stats,
    /// Wakes the updater, which then polls HQ.
    pub poll_now: Arc<Notify>,
    memory: StoredMemory,
    stop: CancellationToken,
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
}

/// Runs the appliance until SIGTERM or SIGINT. SIGHUP makes it poll HQ at once.
///
/// # Errors
/// If it cannot start, or a service cannot go on. systemd then starts the process again.
pub async fn until_stopped(settings: &ApplianceSettings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let sockets = Sockets::of_process().context("cannot take the sockets that systemd opened")?;
    let mut running = start_on(settings, sockets).await?;
    notify::ready("serving");
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hang_up.recv() => running.poll_now.notify_one(),
            ended = running.ended() => break ended,
        }
    };
    notify::stopping();
    info!("stopping");
    running.stop().await;
    outcome
}

/// Starts everything that the settings ask for. Must be called in a tokio runtime.
///
/// # Errors
/// If the state directory, the LAN interface or a socket cannot be used. Then nothing has started.
pub async fn start(settings: &ApplianceSettings) -> anyhow::Result<RunningAppliance> {
    start_on(settings, Sockets::default()).await
}

async fn start_on(settings: &ApplianceSettings, sockets: Sockets) -> anyhow::Result<RunningAppliance> {
    Ok(RunningAppliance::start(ApplianceParts::open(settings, sockets).await?))
}

impl RunningAppliance {
    /// Starts every task of the process. `lan` starts three more itself, again on each new address.
    fn start(parts: ApplianceParts) -> Self {
        let ApplianceParts { lan, bound, image, memory, update, status, asks, commands, stats, poll_now } = parts;
        let mut running = Self {
            tftp: bound.as_ref().and_then(LanSockets::tftp),
            dhcp: bound.as_ref().and_then(LanSockets::dhcp),
            stats: stats.clone(),
            poll_now: Arc::clone(&poll_now),
            memory: memory.clone(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        running.spawn("lan", |stop| lan.run(bound, stop));
        running.spawn("image", |stop| image.run(stop));
        running.spawn("memory", |stop| memory.run(stop));
        if let Some(UpdaterParts { updater, releases, roll_backs }) = update {
            running.spawn("update", |stop| updater.run(releases, poll_now, roll_backs, stop));
        }
        running.spawn("notify", |stop| notify::follow(stats.clone(), stop));
        running.spawn("status", |stop| status.run(stats, asks, stop));
        running.spawn("commands", |stop| commands.run(stop));
        running.spawn("watchdog", notify::watchdog);
        running
    }

    /// Starts a task under this name. It must run until its token is cancelled: a task that returns earlier ends the
    /// process.
    fn spawn<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output: TaskEnding> + Send + 'static,
    {
        let task = task(self.stop.clone());
        self.tasks.spawn(async move { (name, task.await.ending()) });
    }

    /// Waits until a task ends by itself, which none should, and returns that as an error.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        match self.tasks.join_next().await {
            Some(Ok((name, Ok(())))) => bail!("{name} has ended by itself"),
            Some(Ok((name, Err(error)))) => Err(error.context(format!("{name} cannot go on"))),
            Some(Err(error)) => Err(anyhow::Error::new(error).context("a service failed")),
            None => bail!("nothing runs"),
        }
    }

    /// Drains transfers and ends all tasks, within 10 seconds; then writes what `status` knows to the disk.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let drained = tokio::time::timeout(STOP_WITHIN, async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok((name, Err(error))) = ended {
                    error!(name, error = format!("{error:#}"), "ended badly");
                }
            }
        });
        if drained.await.is_err() {
            warn!("not everything ended in time");
            self.tasks.shutdown().await;
        }
        // Nothing changes the record any more. The write has a limit, so that a slow disk does not hold up the end.
        let memory = self.memory.clone();
        let kept = tokio::task::spawn_blocking(move || memory.keep());
        if tokio::time::timeout(KEEP_WITHIN, kept).await.is_err() {
            warn!("what was seen is not kept: the disk is too slow");
        }
    }
}

/// How a task ended, in one type: some tasks return an error, and some cannot fail.
trait TaskEnding {
    fn ending(self) -> anyhow::Result<()>;
}

impl TaskEnding for () {
    fn ending(self) -> anyhow::Result<()> {
        Ok(())
    }
}

impl<E: Into<anyhow::Error>> TaskEnding for Result<(), E> {
    fn ending(self) -> anyhow::Result<()> {
        self.map_err(Into::into)
    }
}
