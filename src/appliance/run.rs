//! Everything that runs in the process, and its beginning and end.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::activation::Sockets;
use super::config::Settings;
use super::health::Health;
use super::image::ImageService;
use super::interface;
use super::lan::{Bound, Lan};
use super::memory::StoredMemory;
use super::{clock, notify};
use access::{Catalog, Files};
use api::{AlertCode, SiteState};
use status::service::{Command, Service as StatusService};
use status::{PollState, Stats};
use store::Store;
use telemetry::Hint as _;
use update::Updater;
use update::identity::SiteIdentity;

/// From SIGTERM to the end: transfers are drained for 8 s, the rest takes less.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// What writing down what was seen may take at the end.
const KEEP_WITHIN: Duration = Duration::from_secs(2);

/// An appliance that runs. Dropping it without [`Running::stop`] aborts everything.
#[derive(Debug)]
pub struct Running {
    /// Where TFTP was served first, if it is; the LAN's address may have changed since.
    pub tftp: Option<SocketAddrV4>,
    /// Where DHCP was answered first, if it is.
    pub dhcp: Option<SocketAddrV4>,
    /// The record.
    pub stats: Stats,
    /// Ask for a poll.
    pub poll_now: Arc<Notify>,
    memory: StoredMemory,
    stop: CancellationToken,
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
}

/// Runs the appliance until SIGTERM or SIGINT; SIGHUP polls now.
///
/// # Errors
/// If it cannot start, or a service lost its socket for good: then systemd starts us again.
pub async fn until_stopped(settings: &Settings) -> anyhow::Result<()> {
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
/// If the state directory, the LAN interface or a socket is not to be had. What was started is stopped again.
pub async fn start(settings: &Settings) -> anyhow::Result<Running> {
    start_on(settings, Sockets::default()).await
}

async fn start_on(settings: &Settings, sockets: Sockets) -> anyhow::Result<Running> {
    let interface = match interface::find(settings.interface.as_deref(), settings.allow_loopback) {
        Ok(interface) => Some(interface),
        // A VLAN is made, or an address comes by DHCP, when this runs already.
        Err(error) if error.may_pass() => {
            warn!(%error, "there is no LAN to serve yet; it is waited for");
            None
        }
        Err(error) => {
            return Err(error).hint("name the LAN interface in the configuration: [lan] interface = \"eth0\"");
        }
    };
    let store = Store::open(&settings.state)
        .context("cannot open the state directory")
        .hint("run as the user that owns it, stop another lineside, or set storage.state")?;
    for recovery in store.recoveries() {
        warn!(%recovery, "the store was put in order");
    }
    let stats = Stats::with_clock(Arc::new(clock::now));
    let poll_now = Arc::new(Notify::new());
    // What turns out to be damaged on the card is fetched again at once.
    let fetch_again = Arc::clone(&poll_now);
    store.on_damage(Box::new(move |_| fetch_again.notify_one()));
    let (identity, active) = enrolled(&store, &stats).await?;
    let initial = match (&active, &identity) {
        (Some(active), _) => Arc::clone(active.catalog()),
        (None, Some(identity)) => Arc::new(Catalog::empty(identity.site().clone())),
        (None, None) => Arc::new(Catalog::empty("not-enrolled".parse().context("a constant id")?)),
    };
    let (name, address) = interface.as_ref().map_or((None, None), |lan| (Some(lan.name.as_str()), Some(lan.address())));
    info!(interface = name, address = ?address, generation = %initial.generation(), "starting");

    let (releases, catalog) = watch::channel(initial);
    let (commands, mut asked) = mpsc::channel(8);
    let (roll_backs, to_roll_back) = mpsc::channel(1);
    let mut running = Running {
        tftp: None,
        dhcp: None,
        stats: stats.clone(),
        poll_now: Arc::clone(&poll_now),
        memory: StoredMemory::new(store.clone(), stats.clone()),
        stop: CancellationToken::new(),
        tasks: JoinSet::new(),
    };

    // Sockets first: if one is not to be had, nothing has begun.
    let files = Arc::new(store.clone()) as Arc<dyn Files>;
    let (health, images) = (
        Health {
            catalog: catalog.clone(),
            files: Arc::clone(&files),
            stats: stats.clone(),
            tftp: settings.tftp.enabled,
        },
        ImageService {
            state_file: settings.image_state.clone(),
            state: settings.state.clone(),
            catalog: catalog.clone(),
            files,
            stats: stats.clone(),
        },
    );
    let lan = Lan { settings: settings.clone(), sockets, store: store.clone(), catalog, stats: stats.clone() };
    let bound = interface.map(|interface| lan.bind(interface)).transpose()?;
    let status = StatusService::bind(&settings.status_socket)
        .with_context(|| format!("cannot listen on {}", settings.status_socket.display()))
        .hint("set status.socket to a path in a directory that you may write")?;

    running.tftp = bound.as_ref().and_then(Bound::tftp);
    running.dhcp = bound.as_ref().and_then(Bound::dhcp);
    running.spawn("lan", |stop| lan.run(bound, stop));
    let memory = running.memory.clone();
    running.spawn("image", |stop| async move {
        images.run(stop).await;
        Ok(())
    });
    running.spawn("memory", |stop| async move { Ok(memory.run(stop).await?) });
    if let Some(identity) = identity {
        let updater = updater(settings, store, identity, &stats).with_active(active);
        let poll_now = Arc::clone(&poll_now);
        running.spawn("update", |stop| async move {
            updater.run(releases, poll_now, to_roll_back, stop).await;
            Ok(())
        });
    }
    let told = stats.clone();
    running.spawn("notify", |stop| async move {
        notify::follow(told, stop).await;
        Ok(())
    });
    running.spawn("status", |stop| async move {
        status.run(stats, commands, stop).await;
        Ok(())
    });
    running.spawn("commands", |stop| async move {
        loop {
            let command = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                command = asked.recv() => command,
            };
            match command {
                Some(Command::Poll) => poll_now.notify_one(),
                Some(Command::RollBack(tell)) => {
                    let (done, outcome) = oneshot::channel();
                    if roll_backs.try_send(done).is_err() {
                        // Whoever asked may have gone.
                        let _ =
                            tell.send(Err("this appliance is not enrolled, or is busy with a roll-back".to_owned()));
                        continue;
                    }
                    // It takes a moment, and whoever asked may have gone.
                    tokio::spawn(async move {
                        if let Ok(outcome) = outcome.await {
                            let text = outcome.map(|done| done.to_string()).map_err(|error| error.to_string());
                            let _ = tell.send(text);
                        }
                    });
                }
                Some(Command::Health(tell)) => {
                    let health = health.clone();
                    // It takes a moment, and whoever asked may have gone.
                    tokio::spawn(async move {
                        let _ = tell.send(health.check().await.map_err(|error| format!("{error:#}")));
                    });
                }
                None => return Ok(()),
            }
        }
    });
    running.spawn("watchdog", |stop| async move {
        notify::watchdog(stop).await;
        Ok(())
    });
    Ok(running)
}

impl Running {
    /// Starts one named task, which ends when `stop` says so. Returning earlier ends the process.
    fn spawn<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let task = task(self.stop.clone());
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// Waits until a task ends by itself, which none should.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        match self.tasks.join_next().await {
            Some(Ok((name, Ok(())))) => bail!("{name} has ended by itself"),
            Some(Ok((name, Err(error)))) => Err(error.context(format!("{name} cannot go on"))),
            Some(Err(error)) => Err(anyhow::Error::new(error).context("a service failed")),
            None => bail!("nothing runs"),
        }
    }

    /// Drains and stops everything, within 10 seconds.
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
        // Now that nothing happens any more. Whatever the disk does, the end does not wait for it.
        let memory = self.memory.clone();
        let kept = tokio::task::spawn_blocking(move || memory.keep());
        if tokio::time::timeout(KEEP_WITHIN, kept).await.is_err() {
            warn!("what was seen is not kept: the disk is too slow");
        }
    }
}

/// The identity, and the release that was served before; re-verified before it is served again.
async fn enrolled(store: &Store, stats: &Stats) -> anyhow::Result<(Option<SiteIdentity>, Option<access::Opened>)> {
    let Some(identity) = SiteIdentity::load(store).context("cannot read this appliance's identity")? else {
        warn!("not enrolled: there is nothing to serve; run `lineside enroll TOKEN`");
        stats.poll(PollState {
            at: clock::now(),
            state: SiteState::NotEnrolled,
            reason: "run `lineside enroll TOKEN`, then restart the service".to_owned(),
            generation: ids::Generation(0),
            fresh_at: None,
            clock_synchronised: clock::synchronised(),
            disk_free_bytes: store.free_bytes(),
        });
        return Ok((None, None));
    };
    stats.keys_encrypted(identity.encrypted_at_rest());
    let (store, identity_here) = (store.clone(), identity.clone());
    let active = tokio::task::spawn_blocking(move || update::load_active(&store, &identity_here)).await?;
    match active {
        Ok(active) => Ok((Some(identity), active)),
        Err(error) => {
            // The next poll fetches what is damaged. Until then there is nothing that may be served.
            error!(%error, "the stored release does not hold");
            stats.alert(AlertCode::ReleaseDamaged, format!("the stored release does not hold: {error}"));
            Ok((Some(identity), None))
        }
    }
}

fn updater(settings: &Settings, store: Store, identity: SiteIdentity, stats: &Stats) -> Updater {
    let polling = update::UpdaterSettings { poll: settings.poll, ..update::UpdaterSettings::default() };
    let told = stats.clone();
    let report: update::CheckInSource = Arc::new(move || status::Report::of(&told).check_in());
    Updater::new(store, identity, polling, stats.clone(), Box::new(update::HostClock::new(clock::synchronised)), report)
}
