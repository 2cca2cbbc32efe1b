//! The parts of the appliance before they run: made from the settings, with their sockets open.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{error, info, warn};

use super::activation::Sockets;
use super::clock;
use super::commands::{self, Commands};
use super::config::ApplianceSettings;
use super::health::Health;
use super::image::ImageService;
use super::interface::{self, LanInterface};
use super::lan::{LanServices, LanSockets};
use super::memory::StoredMemory;
use access::{Catalog, Files, Opened};
use api::{AlertCode, SiteState};
use status::service::{SocketCommand, StatusService};
use status::{HostState, PollState, Stats};
use store::Store;
use telemetry::Hint as _;
use update::{RollBackRequest, SiteIdentity, Updater};

/// All parts of the appliance, ready to run. [`super::run`] starts them.
pub(super) struct ApplianceParts {
    /// The `lan` task, which runs TFTP, DHCP and the neighbour table.
    pub(super) lan: LanServices,
    /// The sockets of the LAN. `None` if the LAN interface has no address yet; then `lan` waits for one.
    pub(super) bound: Option<LanSockets>,
    /// The `image` task, which hands a new image to the installer.
    pub(super) image: ImageService,
    /// The `memory` task, which keeps over restarts what `status` knows.
    pub(super) memory: StoredMemory,
    /// The `update` task; `None` on an appliance that is not enrolled, which has no HQ to poll.
    pub(super) update: Option<UpdaterParts>,
    /// The `status` task, which answers on the status socket.
    pub(super) status: StatusService,
    /// The way for commands from `status` to `commands`.
    pub(super) asks: mpsc::Sender<SocketCommand>,
    /// The `commands` task, which carries out what the status socket is asked for.
    pub(super) commands: Commands,
    /// The record of what happens at this site; all services write to it.
    pub(super) stats: Stats,
    /// Wakes the updater, which then polls HQ.
    pub(super) poll_now: Arc<Notify>,
}

/// The updater with its channels.
pub(super) struct UpdaterParts {
    /// Polls HQ, and fetches, verifies and activates releases.
    pub(super) updater: Updater,
    /// The updater sends each release that it activates; the services serve it from then on.
    pub(super) releases: watch::Sender<Arc<Catalog>>,
    /// Requests to go back by one release, from `commands`.
    pub(super) roll_backs: mpsc::Receiver<RollBackRequest>,
}

/// What is known of an appliance that has enrolled and so is a site.
struct EnrolledAppliance {
    identity: SiteIdentity,
    /// The stored release, verified again. `None` if there is none, or if the verification failed.
    active: Option<Opened>,
}

impl ApplianceParts {
    /// Makes everything that the settings ask for, and starts nothing. An error is a setting, a socket or a directory
    /// that cannot be used.
    pub(super) async fn open(settings: &ApplianceSettings, sockets: Sockets) -> anyhow::Result<Self> {
        let interface = lan_interface(settings)?;
        let store = open_store(settings)?;
        let stats = Stats::with_clock(Arc::new(clock::readings()));
        let poll_now = Arc::new(Notify::new());
        fetch_what_is_damaged(&store, &poll_now);
        let enrolled = enrolled(&store, &stats).await?;
        let initial = first_catalog(enrolled.as_ref())?;
        stats.host(HostState {
            generation: initial.generation(),
            clock_synchronised: clock::synchronised(),
            disk_free_bytes: store.free_bytes(),
        });
        let (name, address) =
            interface.as_ref().map_or((None, None), |lan| (Some(lan.name.as_str()), Some(lan.address())));
        info!(interface = name, address = ?address, generation = %initial.generation(), "starting");

        let (releases, catalog) = watch::channel(initial);
        let (asks, asked) = mpsc::channel(commands::QUEUE);
        let (go_back, roll_backs) = mpsc::channel(1);
        let lan = LanServices {
            settings: settings.clone(),
            sockets,
            store: store.clone(),
            catalog: catalog.clone(),
            stats: stats.clone(),
        };
        let bound = interface.map(|interface| lan.bind(interface)).transpose()?;
        let status = status_socket(settings)?;
        let health = health(settings, &store, &catalog, &stats);
        let commands = Commands { asked, poll_now: Arc::clone(&poll_now), roll_backs: go_back, health };
        Ok(Self {
            lan,
            bound,
            image: image(settings, &store, catalog, &stats),
            memory: StoredMemory::new(store.clone(), stats.clone()),
            update: enrolled.map(|site| UpdaterParts {
                updater: updater(settings, store, site, &stats),
                releases,
                roll_backs,
            }),
            status,
            asks,
            commands,
            stats,
            poll_now,
        })
    }
}

/// Finds the LAN interface. `None` if it, or its address, may still come.
fn lan_interface(settings: &ApplianceSettings) -> anyhow::Result<Option<LanInterface>> {
    match interface::find(settings.interface.as_deref(), settings.allow_loopback) {
        Ok(interface) => Ok(Some(interface)),
        // Another service may make a VLAN, or get the address by DHCP, after the appliance has started.
        Err(error) if error.may_pass() => {
            warn!(%error, "there is no LAN to serve yet; it is waited for");
            Ok(None)
        }
        Err(error) => Err(error).hint("name the LAN interface in the configuration: [lan] interface = \"eth0\""),
    }
}

fn open_store(settings: &ApplianceSettings) -> anyhow::Result<Store> {
    let store = Store::open(&settings.state)
        .context("cannot open the state directory")
        .hint("run as the user that owns it, stop another lineside, or set storage.state")?;
    for recovery in store.recoveries() {
        warn!(%recovery, "the store was put in order");
    }
    Ok(store)
}

/// Makes the updater poll at once when an object on the card turns out to be damaged, so that it is fetched again.
fn fetch_what_is_damaged(store: &Store, poll_now: &Arc<Notify>) {
    let poll_now = Arc::clone(poll_now);
    store.on_damage(Box::new(move |_| poll_now.notify_one()));
}

/// Loads the identity and the stored release, which is verified again before it is served. `None` if the appliance has
/// not enrolled.
async fn enrolled(store: &Store, stats: &Stats) -> anyhow::Result<Option<EnrolledAppliance>> {
    let Some(identity) = SiteIdentity::load(store).context("cannot read this appliance's identity")? else {
        warn!("not enrolled: there is nothing to serve; run `lineside enroll TOKEN`");
        stats.poll(PollState {
            state: SiteState::NotEnrolled,
            reason: "run `lineside enroll TOKEN`, then restart the service".to_owned(),
            generation: ids::Generation(0),
            clock_synchronised: clock::synchronised(),
            disk_free_bytes: store.free_bytes(),
        });
        return Ok(None);
    };
    stats.keys_encrypted(identity.encrypted_at_rest());
    let (store, identity_here) = (store.clone(), identity.clone());
    let active = tokio::task::spawn_blocking(move || update::load_active(&store, &identity_here)).await?;
    match active {
        Ok(active) => Ok(Some(EnrolledAppliance { identity, active })),
        Err(error) => {
            // The next poll fetches what is damaged. Until then there is nothing that may be served.
            error!(%error, "the stored release does not hold");
            stats.alert(AlertCode::ReleaseDamaged, format!("the stored release does not hold: {error}"));
            Ok(Some(EnrolledAppliance { identity, active: None }))
        }
    }
}

/// The catalog until the first poll: the stored release, or an empty one.
fn first_catalog(enrolled: Option<&EnrolledAppliance>) -> anyhow::Result<Arc<Catalog>> {
    Ok(match enrolled {
        Some(EnrolledAppliance { active: Some(active), .. }) => Arc::clone(active.catalog()),
        Some(EnrolledAppliance { identity, active: None }) => Arc::new(Catalog::empty(identity.site().clone())),
        None => Arc::new(Catalog::empty("not-enrolled".parse().context("a constant id")?)),
    })
}

fn status_socket(settings: &ApplianceSettings) -> anyhow::Result<StatusService> {
    StatusService::bind(&settings.status_socket)
        .with_context(|| format!("cannot listen on {}", settings.status_socket.display()))
        .hint("set status.socket to a path in a directory that you may write")
}

fn health(
    settings: &ApplianceSettings,
    store: &Store,
    catalog: &watch::Receiver<Arc<Catalog>>,
    stats: &Stats,
) -> Health {
    Health {
        catalog: catalog.clone(),
        files: Arc::new(store.clone()) as Arc<dyn Files>,
        stats: stats.clone(),
        tftp: settings.tftp.enabled,
    }
}

fn image(
    settings: &ApplianceSettings,
    store: &Store,
    catalog: watch::Receiver<Arc<Catalog>>,
    stats: &Stats,
) -> ImageService {
    ImageService {
        state_file: settings.image_state.clone(),
        state: settings.state.clone(),
        catalog,
        files: Arc::new(store.clone()) as Arc<dyn Files>,
        stats: stats.clone(),
    }
}

fn updater(settings: &ApplianceSettings, store: Store, site: EnrolledAppliance, stats: &Stats) -> Updater {
    let EnrolledAppliance { identity, active } = site;
    let polling = update::UpdaterSettings { poll: settings.poll, ..update::UpdaterSettings::default() };
    let told = stats.clone();
    let report: update::CheckInSource = Arc::new(move || status::StatusReport::of(&told).check_in());
    let clock = Box::new(update::HostClock::new(clock::synchronised));
    Updater::new(store, identity, polling, stats.clone(), clock, report).with_active(active)
}
