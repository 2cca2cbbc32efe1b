//! The HTTPS service of `serve`: downloads from the published tree by client certificate, enrolment, renewal, check-in.
//!
//! It runs from `online/` alone, so it can run on a machine that has never seen an offline key. It can neither read nor
//! forge what it serves. Read `routes` (requests and answers), `files` (the tree), `tls` (client certificates).

mod check_in_rate;
mod files;
pub mod operators;
mod routes;
mod signed_check_in;
mod stall;
mod strangers;
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, error, info, warn};

use self::routes::{App, Peer};
use self::stall::Stall;
use self::strangers::{StrangerSlot, Strangers};
use crate::ca::{self, Ca};
use crate::clock::SigningClock;
use crate::db::{CheckIns, Db};
use crate::freshen;
use api::HqRefusal;
use ids::{SiteId, UnixTime};
use repository::layout::Layout;
use repository::lock::TreeLock;
use repository::witness::HINT;
use repository::{expiry, keyring, ownership};

/// The most connections that are open at once.
pub const MAX_CONNECTIONS: usize = 1024;
/// The most of these that may be without a client certificate: in their handshake, or enrolling.
pub const MAX_STRANGERS: usize = 256;
/// The most of these from one address. A handshake takes milliseconds, so sites behind one NAT stay below this limit.
pub const MAX_STRANGERS_OF_ADDRESS: usize = 64;
/// The most open connections of one site. An appliance fetches 8 objects at a time.
pub const MAX_SITE_CONNECTIONS: usize = 32;
/// If more connections than this are open, each answer closes its connection, so that other sites find room.
pub const CROWDED: usize = 768;
/// The time from a connection's acceptance to the end of its TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a site's connection may be idle, the arrival of request headers included. Two polls fit in.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// The same for a connection without a client certificate.
pub const STRANGER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is closed when its peer takes no byte for this long.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long answers under way may take after the service was told to stop.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often published metadata is looked through for what must be signed anew. It is valid for weeks, so many tries
/// may fail.
const UPKEEP: Duration = Duration::from_secs(6 * 3600);
/// How often, and after what pause each, upkeep asks for the lock of a tree that somebody holds: 5 s in all.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// The most bytes of a request's header that are read.
const HEADER_BYTES: usize = 16 * 1024;
/// The most header fields of a request.
const HEADERS: usize = 64;

/// The options of [`serve`].
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The `online/` directory.
    pub dir: PathBuf,
    /// The address and port to listen on; port 0 lets the system choose.
    pub listen: SocketAddr,
}

/// A service that listens but does not answer yet; [`Server::run`] answers.
pub struct Server {
    listener: StdListener,
    operators: Option<StdListener>,
    app: Arc<App>,
    tls: Arc<ServerConfig>,
}

/// Listens and answers until `stop` is cancelled.
pub async fn serve(options: ServeOptions, stop: CancellationToken) -> anyhow::Result<()> {
    Server::bind(options)?.run(stop).await
}

impl Server {
    /// Reads `dir` and begins to listen, so that connections are accepted when this returns.
    pub fn bind(options: ServeOptions) -> anyhow::Result<Self> {
        let ServeOptions { dir, listen } = options;
        let ca = Ca::load(&dir)?;
        let key = keyring::load_signing(&dir.join("online.key"))?;
        let db = Arc::new(Db::open(&dir.join("hq.sqlite"))?);
        let clock = SigningClock::new(Layout::of_online(&dir));
        let (now, at) = (now(), since_start());
        if let Some(time) = db.newest_site_time()? {
            clock.heard(time, now, at);
        }
        let may_sign = clock.may_sign(now, at);
        if let Err(doubt) = &may_sign {
            error!("{doubt}\n  hint: {HINT}");
        }
        let (tls, renewed) = tls::config(&ca, now, may_sign.is_ok())?;
        if renewed {
            info!("the service's certificate was renewed");
        }
        let check_ins: Arc<dyn CheckIns> = Arc::<Db>::clone(&db);
        let app = App {
            public: dir.join("public"),
            dir,
            db,
            check_ins,
            ca,
            clock,
            key,
            refused: Mutex::default(),
            check_in_rate: Mutex::default(),
        };
        let listener = StdListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
        listener.set_nonblocking(true).context("cannot use the listening socket")?;
        Ok(Self { listener, operators: None, app: Arc::new(app), tls })
    }

    /// A person says that this host's clock is right, whatever others say.
    pub fn clock_is_right(self) -> anyhow::Result<Self> {
        self.app.clock.confirm(now(), since_start())?;
        Ok(self)
    }

    /// Answers operators as well, on an address of their own.
    pub fn operators(self, address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { operators: Some(operators::bind(address)?), ..self })
    }

    /// The address at which operators are answered, if they are.
    pub fn operators_addr(&self) -> Option<SocketAddr> {
        self.operators.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// The address that it listens on, with the port that the system chose.
    pub fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        self.listener.local_addr().context("the listening socket has no address")
    }

    /// Answers until `stop` is cancelled, then waits for answers under way ([`STOP_TIMEOUT`]). No failed request or
    /// connection ends it.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let address = self.local_addr()?;
        let Self { listener, operators, app, mut tls } = self;
        let listener = TcpListener::from_std(listener).context("cannot use the listening socket")?;
        let shared = Arc::new(OpenConnections {
            router: routes::router(Arc::clone(&app)),
            app: Arc::clone(&app),
            open: AtomicUsize::new(0),
            sites: Mutex::default(),
            stop: stop.clone(),
        });
        let strangers = Strangers::new();
        let mut connections = JoinSet::new();
        let mut hourly = interval(Duration::from_secs(3600));
        hourly.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let upkeep = tokio::spawn(upkeep(Arc::clone(&app), stop.clone()));
        let operators =
            operators.map(|listener| tokio::spawn(operators::run(listener, Arc::clone(&app), stop.clone())));
        info!(%address, "HQ is listening");
        loop {
            // Every connection needs a stranger's slot first. While none is free, connections wait in the kernel's
            // queue.
            let next = async {
                let slot = strangers.free().await;
                (slot, listener.accept().await)
            };
            tokio::select! {
                () = stop.cancelled() => break,
                _ = hourly.tick() => tls = each_hour(&app, tls).await,
                Some(ended) = connections.join_next() => if let Err(error) = ended {
                    error!(%error, "a connection's task failed");
                },
                (slot, accepted) = next, if connections.len() < MAX_CONNECTIONS => match (slot, accepted) {
                    (Some(slot), Ok((stream, address))) => {
                        let Some(slot) = strangers.take(slot, address.ip()) else {
                            count_refused(&shared, address, HqRefusal::Strangers, "this address has too many connections open");
                            continue;
                        };
                        let acceptor = TlsAcceptor::from(Arc::clone(&tls));
                        connections.spawn(connection(Arc::clone(&shared), acceptor, stream, address, slot));
                    }
                    (_, Err(error)) => {
                        // The process is out of descriptors, or the peer has gone. Wait, so that the loop does not
                        // spin.
                        warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    (None, _) => break,
                },
            }
        }
        drop(listener);
        let ended = timeout(STOP_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            warn!(open = connections.len(), "connections were cut off at the end");
            connections.shutdown().await;
        }
        upkeep.await.context("the upkeep of the published tree failed")?;
        if let Some(operators) = operators {
            operators.await.context("answering operators failed")??;
        }
        info!("HQ has stopped");
        Ok(())
    }
}

/// Renews the service's certificate if it is due, and logs how many requests were refused for which reason.
async fn each_hour(app: &Arc<App>, tls: Arc<ServerConfig>) -> Arc<ServerConfig> {
    let refused = std::mem::take(&mut *app.refused.lock().unwrap_or_else(PoisonError::into_inner));
    if !refused.is_empty() {
        let refused: BTreeMap<&str, u64> = refused.iter().map(|(refusal, times)| (refusal.code(), *times)).collect();
        info!(?refused, "requests refused since the last such line");
    }
    let app = Arc::clone(app);
    let configured = tokio::task::spawn_blocking(move || {
        if let Some(path) = ownership::foreign(&app.dir) {
            error!(path = %path.display(), "this tree cannot be renewed here: another user wrote it (chown -R)");
        }
        let may_sign = app.may_sign();
        if let Ok((now, at)) = may_sign {
            app.clock.note(now, at, false)?;
        }
        tls::config(&app.ca, now(), may_sign.is_ok())
    });
    match configured.await {
        Ok(Ok((fresh, true))) => {
            info!("the service's certificate was renewed");
            fresh
        }
        // The configuration stays the same one, so that TLS sessions go on.
        Ok(Ok((_, false))) => tls,
        Ok(Err(error)) => {
            error!(error = format!("{error:#}"), "cannot renew the service's certificate");
            tls
        }
        Err(error) => {
            error!(%error, "cannot renew the service's certificate");
            tls
        }
    }
}

/// Signs `timestamp` and `snapshot` anew long before they expire, so that sites stay fresh when nobody publishes.
async fn upkeep(app: Arc<App>, stop: CancellationToken) {
    let mut often = interval(UPKEEP);
    often.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = often.tick() => {}
        }
        let app = Arc::clone(&app);
        let refreshed = tokio::task::spawn_blocking(move || {
            let dir = &app.dir;
            for warning in expiry::of_published(&Layout::of_online(dir), now()) {
                warn!("{warning}");
            }
            let Ok((now, at)) = app.may_sign() else { return Ok(0) };
            // A `publish` that runs now signs fresh metadata itself. Whoever notes the time holds the lock for moments.
            let mut held = TreeLock::try_now(dir)?;
            for _ in 0..LOCK_TRIES {
                if held.is_none() {
                    std::thread::sleep(LOCK_PAUSE);
                    held = TreeLock::try_now(dir)?;
                }
            }
            let Some(held) = held else { return Ok(0) };
            let freshened = freshen::refresh(dir, now)?;
            drop(held);
            app.clock.note(now, at, freshened > 0)?;
            Ok(freshened)
        });
        match refreshed.await.map_err(anyhow::Error::new).flatten() {
            Ok(0) => debug!("all published metadata is fresh"),
            Ok(sites) => info!(sites, "metadata signed anew"),
            Err(error) => error!(error = format!("{error:#}"), "cannot keep published metadata fresh"),
        }
    }
}

/// What the tasks of all connections share, and the count of open connections: in all, and by site.
struct OpenConnections {
    router: Router,
    app: Arc<App>,
    open: AtomicUsize,
    sites: Mutex<HashMap<SiteId, usize>>,
    stop: CancellationToken,
}

/// Counts a connection as open until it is dropped.
struct Counted<'a> {
    shared: &'a OpenConnections,
    site: Option<SiteId>,
}

impl<'a> Counted<'a> {
    /// Counts a connection; `None` if the site has [`MAX_SITE_CONNECTIONS`] open already.
    fn new(shared: &'a OpenConnections, site: Option<SiteId>) -> Option<Self> {
        if let Some(site) = &site {
            let mut sites = shared.sites.lock().unwrap_or_else(PoisonError::into_inner);
            let open = sites.entry(site.clone()).or_default();
            if *open >= MAX_SITE_CONNECTIONS {
                return None;
            }
            *open += 1;
        }
        shared.open.fetch_add(1, Ordering::Relaxed);
        Some(Self { shared, site })
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(site) = &self.site {
            let mut sites = self.shared.sites.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(open) = sites.get_mut(site) {
                *open -= 1;
                if *open == 0 {
                    sites.remove(site);
                }
            }
        }
    }
}

/// Serves one connection from its handshake to its end.
async fn connection(
    shared: Arc<OpenConnections>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    slot: StrangerSlot,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%address, %error, "cannot set TCP_NODELAY");
    }
    let stream = Stall::new(stream, STALL_TIMEOUT);
    let stream = tokio::select! {
        () = shared.stop.cancelled() => return,
        done = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => match done {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return count_refused(&shared, address, HqRefusal::Handshake, &error.to_string()),
            Err(_) => return count_refused(&shared, address, HqRefusal::HandshakeSlow, "the handshake took too long"),
        },
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let identity = certificate.and_then(ca::identity);
    let site = identity.as_ref().map(|identity| identity.site.clone());
    // A site has shown its certificate, so it gives its stranger's slot back.
    let slot = site.is_none().then_some(slot);
    let idle = if site.is_some() { IDLE_TIMEOUT } else { STRANGER_TIMEOUT };
    let Some(_counted) = Counted::new(&shared, site) else {
        return count_refused(&shared, address, HqRefusal::SiteConnections, "this site has too many connections open");
    };
    let peer = Peer { address, identity };
    let service = hyper::service::service_fn(|request| answer(Arc::clone(&shared), peer.clone(), request));
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // This timer runs from the end of one answer to the end of the next request's header.
            .header_read_timeout(idle)
            .max_buf_size(HEADER_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service)
    );
    let outcome = tokio::select! {
        outcome = served.as_mut() => outcome,
        () = shared.stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    drop(slot);
    if let Err(error) = outcome {
        debug!(%address, %error, "connection ended early");
    }
}

fn count_refused(shared: &OpenConnections, address: SocketAddr, refusal: HqRefusal, reason: &str) {
    *shared.app.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(refusal).or_default() += 1;
    debug!(%address, code = refusal.code(), reason, "connection refused");
}

async fn answer(
    shared: Arc<OpenConnections>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<axum::http::Response<Body>, std::convert::Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer.clone());
    let mut response = shared.router.clone().oneshot(request).await?;
    routes::note(&shared.app, &peer, &method, &path, &response);
    if shared.open.load(Ordering::Relaxed) > CROWDED {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
fn now() -> UnixTime {
    UnixTime::of(SystemTime::now())
}

/// The time since the first call in this process; it never steps.
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
fn since_start() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests;
