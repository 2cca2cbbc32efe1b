//! The operators' port: what desks ask of this host, by API token. Sites' port has none of it.
//!
//! It listens on an address of its own, loopback unless `serve --operators` says otherwise, and shows the same server
//! certificate. Read `gate` (who may ask, how often), then `routes`.

mod gate;
mod routes;
mod uploads;

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, info, warn};

use self::gate::Gate;
use self::uploads::Uploads;
use super::stall::Stall;
use crate::push_incoming;
use repository::layout::Layout;

use super::{App, HANDSHAKE_TIMEOUT, HEADER_BYTES, HEADERS, STALL_TIMEOUT, STOP_TIMEOUT, tls};

/// Where operators are answered unless `serve --operators` says otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8444";
/// The most connections that are open at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;
/// How long a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The address of a connection's other end.
#[derive(Debug, Clone, Copy)]
struct Caller(SocketAddr);

/// What the requests of all operators share.
struct Shared {
    app: Arc<App>,
    gate: Gate,
    uploads: Uploads,
}

impl Shared {
    fn incoming(&self) -> push_incoming::Incoming {
        push_incoming::Incoming::new(&Layout::of_online(&self.app.dir))
    }
}

/// Begins to listen.
pub(super) fn bind(address: SocketAddr) -> anyhow::Result<StdListener> {
    let listener = StdListener::bind(address).with_context(|| format!("cannot listen on {address} for operators"))?;
    listener.set_nonblocking(true).context("cannot use the operators' socket")?;
    Ok(listener)
}

/// Answers operators until `stop` is cancelled.
pub(super) async fn run(listener: StdListener, app: Arc<App>, stop: CancellationToken) -> anyhow::Result<()> {
    app.db.prepare_api()?;
    let address = listener.local_addr().context("the operators' socket has no address")?;
    let listener = TcpListener::from_std(listener).context("cannot use the operators' socket")?;
    let router =
        routes::router(Arc::new(Shared { app: Arc::clone(&app), gate: Gate::default(), uploads: Uploads::default() }));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    info!(%address, "operators are answered");
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (place, accepted) = next => match (place, accepted) {
                (Ok(place), Ok((stream, address))) => {
                    let (app, router, stop) = (Arc::clone(&app), router.clone(), stop.clone());
                    connections.spawn(async move {
                        if let Err(error) = connection(app, router, stream, address, stop).await {
                            debug!(%address, error = format!("{error:#}"), "an operator's connection ended early");
                        }
                        drop(place);
                    });
                }
                (_, Err(error)) => {
                    warn!(%error, "cannot accept an operator's connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                (Err(_), _) => break,
            },
        }
    }
    let ended = timeout(STOP_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        connections.shutdown().await;
    }
    Ok(())
}

async fn connection(
    app: Arc<App>,
    router: axum::Router,
    stream: TcpStream,
    address: SocketAddr,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    // Read for each connection, so that a renewed certificate counts at once.
    let config = tokio::task::spawn_blocking(move || tls::operators(&app.ca)).await??;
    let handshake = TlsAcceptor::from(config).accept(Stall::new(stream, STALL_TIMEOUT));
    let stream = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        done = timeout(HANDSHAKE_TIMEOUT, handshake) => done.context("the handshake took too long")??,
    };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Caller(address));
        router.clone().oneshot(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        outcome = serving.as_mut() => outcome?,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await?;
        }
    }
    Ok(())
}
