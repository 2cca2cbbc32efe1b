//! What the appliance consists of: made, with its sockets open, but not running yet.

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
use status::{PollState, Stats};
use store::Store;
use telemetry::Hint as _;
use update::{RollBackRequest, SiteIdentity, Updater};

/// Everything that runs, before it does.
pub(super) struct ApplianceParts {
    /// TFTP, DHCP and the neighbour table.
    pub(super) lan: LanServices,
    /// The sockets of the LAN; `None` until there is an address.
    pub(super) bound: Option<LanSockets>,
    /// Follows the image that the release wants.
    pub(super) image: ImageService,
    /// Keeps over restarts what `status` knows.
    pub(super) memory: StoredMemory,
    /// `None` on an appliance that is not enrolled.
    pub(super) update: Option<UpdaterParts>,
    /// The status socket.
    pub(super) status: StatusService,
    /// From the status socket to `commands`.
    pub(super) asks: mpsc::Sender<SocketCommand>,
    /// Does what the status socket is asked for.
    pub(super) commands: Commands,
    /// The record of what happens here.
    pub(super) stats: Stats,
    /// Makes the updater poll.
    pub(super) poll_now: Arc<Notify>,
}

/// The updater, and whom it hears and tells.
pub(super) struct UpdaterParts {
    /// It polls.
    pub(super) updater: Updater,
    /// New releases go here.
    pub(super) releases: watch::Sender<Arc<Catalog>>,
    /// Roll-backs come from here.
    pub(super) roll_backs: mpsc::Receiver<RollBackRequest>,
}

/// An appliance that is a site.
struct EnrolledAppliance {
    identity: SiteIdentity,
    /// The release that was served before, verified again; `None` if there is none or it does not hold.
    active: Option<Opened>,
}

impl ApplianceParts {
    /// Makes everything that the settings ask for. If a socket is not to be had, nothing has begun.
    pub(super) async fn open(settings: &ApplianceSettings, sockets: Sockets) -> anyhow::Result<Self> {
        let interface = lan_interface(settings)?;
        let store = open_store(settings)?;
        let stats = Stats::with_clock(Arc::new(clock::now));
        let poll_now = Arc::new(Notify::new());
        fetch_what_is_damaged(&store, &poll_now);
        let enrolled = enrolled(&store, &stats).await?;
        let initial = first_catalog(enrolled.as_ref())?;
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

/// The LAN interface; `None` if it may still come.
fn lan_interface(settings: &ApplianceSettings) -> anyhow::Result<Option<LanInterface>> {
    match interface::find(settings.interface.as_deref(), settings.allow_loopback) {
        Ok(interface) => Ok(Some(interface)),
        // A VLAN is made, or an address comes by DHCP, when this runs already.
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

/// What turns out to be damaged on the card is fetched again at once.
fn fetch_what_is_damaged(store: &Store, poll_now: &Arc<Notify>) {
    let poll_now = Arc::clone(poll_now);
    store.on_damage(Box::new(move |_| poll_now.notify_one()));
}

/// The identity, and the release that was served before; re-verified before it is served again.
async fn enrolled(store: &Store, stats: &Stats) -> anyhow::Result<Option<EnrolledAppliance>> {
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

/// What is served until the first poll.
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
