//! What the service answers, and to whom.
//!
//! The site comes from the client certificate and from nowhere else (I4). Every refusal is a [`Refusal`] in JSON with a
//! stable code, leaves a log line with its reason, and is counted.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::State;
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{debug, error, info, warn};

use super::check_in_rate::CheckInRate;
use super::files::{self, Named};
use crate::admit::Refused;
use crate::ca::{Ca, Csr, Identity};
use crate::db::{CheckIns, Db, Standing};
use api::{
    self, Certificate, CheckIn, CheckInAnswer, EnrolRequest, HqRefusal, MAX_BODY_BYTES, Refusal, RenewRequest,
    SignedTime,
};
use ids::UnixTime;
use repository::published::newest_root_path;
use tuf::SigningKey;

/// A body arrives within this time or not at all.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest signed root that is served (the client's own limit).
const MAX_ROOT_BYTES: u64 = 64 * 1024;

/// What all requests share.
pub(super) struct App {
    pub(super) dir: PathBuf,
    pub(super) public: PathBuf,
    pub(super) db: Arc<Db>,
    pub(super) check_ins: Arc<dyn CheckIns>,
    pub(super) ca: Ca,
    pub(super) key: SigningKey,
    pub(super) refused: Mutex<BTreeMap<HqRefusal, u64>>,
    pub(super) check_in_rate: Mutex<CheckInRate>,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// From the verified client certificate, if there is one.
    pub(super) identity: Option<Identity>,
}

/// A refusal on its way out.
#[derive(Debug, Clone)]
pub(super) struct No {
    status: StatusCode,
    refusal: HqRefusal,
    /// For the client.
    reason: String,
    /// For the log, where that may say more.
    why: Option<&'static str>,
    /// In seconds, where trying again helps.
    retry_after: Option<u64>,
}

impl No {
    fn new(status: StatusCode, refusal: HqRefusal, reason: impl Into<String>) -> Self {
        Self { status, refusal, reason: reason.into(), why: None, retry_after: None }
    }

    fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, HqRefusal::NotFound, "there is nothing under this name")
    }

    fn malformed(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, HqRefusal::Malformed, reason)
    }

    /// Our own fault: the log knows more.
    fn unavailable(error: &anyhow::Error) -> Self {
        error!(error = format!("{error:#}"), "a request failed");
        let no =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, HqRefusal::Unavailable, "HQ has a problem; try again later");
        Self { retry_after: Some(60), ..no }
    }
}

impl From<Refused> for No {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Malformed(_) => StatusCode::BAD_REQUEST,
            Refused::TooMany => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::FORBIDDEN,
        };
        let retry_after = (refused == Refused::TooMany).then_some(6 * 3600);
        Self { retry_after, ..Self::new(status, refused.refusal(), refused.to_string()) }
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response<Body> {
        let refusal = Refusal { code: self.refusal.code().to_owned(), reason: self.reason.clone() };
        // Each update looks for a next root that is not there: the status says it all.
        let told = if self.status == StatusCode::NOT_FOUND { None } else { json(self.status, &refusal).ok() };
        let mut response = told.unwrap_or_else(|| Response::new(Body::empty()));
        *response.status_mut() = self.status;
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

type Answer = Result<Response<Body>, No>;

/// The routes.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(api::ROOT_PATH, get(root))
        .route(api::ENROL_PATH, post(enrol))
        .route(api::RENEW_PATH, post(renew))
        .route(api::CHECK_IN_PATH, post(check_in))
        .fallback(tree)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// Logs and counts what was refused.
pub(super) fn note(app: &App, peer: &Peer, method: &Method, path: &str, response: &Response<Body>) {
    let Some(no) = response.extensions().get::<No>() else { return };
    *app.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(no.refusal).or_default() += 1;
    let path: String = path.chars().take(200).collect();
    let (code, reason, address) = (no.refusal.code(), no.why.unwrap_or(&no.reason), peer.address);
    match &peer.identity {
        // A name that is not there is an everyday thing: roots are looked for until there is none.
        Some(identity) if no.why.is_none() && no.status == StatusCode::NOT_FOUND => {
            debug!(site = %identity.site, %address, %method, path, code, reason, "refused");
        }
        Some(identity) => warn!(site = %identity.site, %address, %method, path, code, reason, "refused"),
        // Only who holds a token's secret gets this far.
        None if matches!(no.refusal, HqRefusal::TokenUsed | HqRefusal::TokenExpired | HqRefusal::Revoked) => {
            warn!(%address, %method, path, code, reason, "enrolment refused");
        }
        None => debug!(%address, %method, path, code, reason, "refused"),
    }
}

/// The newest signed root: the one thing that anybody may have.
async fn root(State(app): State<Arc<App>>) -> Answer {
    let bytes = blocking(move || newest_root(&app.public)).await?.ok_or_else(No::not_found)?;
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The publisher writes `root.json`; before its first publish there may be numbered ones only.
fn newest_root(public: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let fixed = public.join("root.json");
    let path = if fixed.is_file() { Some(fixed) } else { newest_root_path(&public.join("root"))? };
    let Some(path) = path else { return Ok(None) };
    let len = std::fs::metadata(&path)?.len();
    anyhow::ensure!(len <= MAX_ROOT_BYTES, "{} has {len} bytes, over the {MAX_ROOT_BYTES} allowed", path.display());
    Ok(Some(std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?))
}

/// An appliance with a token becomes a site.
async fn enrol(State(app): State<Arc<App>>, request: Request<Body>) -> Answer {
    let peer = peer(&request)?;
    let wanted: EnrolRequest = read_json(request).await?;
    let (site, issued) = blocking(move || {
        let now = now();
        app.db.enrol(&wanted, now, |csr, fleet, site| app.ca.issue_client(csr, fleet, site, now))
    })
    .await??;
    info!(%site, address = %peer.address, serial = issued.serial, "appliance enrolled");
    ok(&Certificate { certificate: issued.chain, expires: issued.expires })
}

/// A site gets a fresh certificate. The TLS handshake has proven the old key.
async fn renew(State(app): State<Arc<App>>, request: Request<Body>) -> Answer {
    let identity = site(&app, peer(&request)?, Expired::MayRenew).await?;
    let wanted: RenewRequest = read_json(request).await?;
    let (fleet, site, old) = (identity.fleet, identity.site.clone(), identity.fingerprint);
    let issued = blocking(move || {
        let csr = match Csr::parse(&wanted.csr) {
            Ok(csr) => csr,
            Err(error) => return Ok(Err(Refused::Malformed(error))),
        };
        let now = now();
        app.db.renew(&site, &old, now, || app.ca.issue_client(&csr, &fleet, &site, now))
    })
    .await??;
    info!(site = %identity.site, serial = issued.serial, "certificate renewed");
    ok(&Certificate { certificate: issued.chain, expires: issued.expires })
}

/// A site says how it is, and learns HQ's time and its newest generation, signed.
async fn check_in(State(app): State<Arc<App>>, request: Request<Body>) -> Answer {
    let identity = site(&app, peer(&request)?, Expired::Refused).await?;
    let paced = app.check_in_rate.lock().unwrap_or_else(PoisonError::into_inner).take(&identity.site, Instant::now());
    if let Err(wait) = paced {
        let no = No::new(StatusCode::TOO_MANY_REQUESTS, HqRefusal::TooOften, "this site checks in too often");
        return Err(No { retry_after: Some(wait.as_secs() + 1), ..no });
    }
    let told: CheckIn = read_json(request).await?;
    if data_encoding::HEXLOWER.decode(told.nonce.as_bytes()).ok().is_none_or(|nonce| nonce.len() != 16) {
        return Err(No::malformed("the nonce is not 16 bytes in lower-case hex"));
    }
    let answer = blocking(move || {
        let time = now();
        app.check_ins.note(&identity.site, time, &told)?;
        let newest = app.db.published(&identity.site)?;
        let purpose = "check-in".to_owned();
        let signed = SignedTime { purpose, site: identity.site, nonce: told.nonce, time, newest };
        let signed = serde_json::to_string(&signed)?;
        let signature = data_encoding::HEXLOWER.encode(&app.key.sign(signed.as_bytes()));
        Ok(CheckInAnswer { signed, signature })
    })
    .await?;
    ok(&answer)
}

/// The published tree: a site's own part of it, and objects, whose names are secrets of nobody.
async fn tree(State(app): State<Arc<App>>, request: Request<Body>) -> Answer {
    let identity = site(&app, peer(&request)?, Expired::Refused).await?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = wrong_method().await.into_response();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let named = Named::parse(request.uri().path()).ok_or_else(No::not_found)?;
    if let Named::OfSite(owner, ..) = &named
        && *owner != identity.site
    {
        // The same answer as for what does not exist; only the log knows.
        return Err(No { why: Some("files of another site"), ..No::not_found() });
    }
    files::answer(&app.public, &named, request.method(), request.headers())
        .await
        .map_err(|error| No::unavailable(&anyhow::Error::new(error).context("cannot read a published file")))?
        .ok_or_else(No::not_found)
}

async fn wrong_method() -> No {
    No::new(StatusCode::METHOD_NOT_ALLOWED, HqRefusal::Method, "this method does not go here")
}

/// Whether an expired certificate is good for this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expired {
    Refused,
    MayRenew,
}

/// Who asks, if it may ask at all. Looked up at every request: a connection can outlive certificate and standing.
async fn site(app: &Arc<App>, peer: Peer, expired: Expired) -> Result<Identity, No> {
    let no = |refusal, reason: &str| No::new(StatusCode::FORBIDDEN, refusal, reason);
    let identity = peer
        .identity
        .ok_or_else(|| no(HqRefusal::NoCertificate, "this needs a site's client certificate; enrol first"))?;
    let late = now().since(identity.not_after);
    let grace = match expired {
        Expired::Refused => Duration::ZERO,
        Expired::MayRenew => Duration::from_secs(u64::from(api::RENEWABLE_DAYS) * 86_400),
    };
    let standing = {
        let (app, identity) = (Arc::clone(app), identity.clone());
        blocking(move || app.db.standing(&identity.site, &identity.fingerprint)).await?
    };
    match standing {
        Standing::Revoked => Err(Refused::Revoked.into()),
        Standing::Unknown => Err(no(HqRefusal::CertificateUnknown, "this certificate is not in HQ's records")),
        Standing::Good if late > grace && expired == Expired::Refused => {
            Err(no(HqRefusal::CertificateExpired, "the client certificate has expired; renew it"))
        }
        Standing::Good if late > grace => Err(no(
            HqRefusal::CertificateExpired,
            "the client certificate expired too long ago; enrol with a new token",
        )),
        Standing::Good => Ok(identity),
    }
}

fn peer(request: &Request<Body>) -> Result<Peer, No> {
    let missing = || No::unavailable(&anyhow::anyhow!("a request came without its connection"));
    request.extensions().get::<Peer>().cloned().ok_or_else(missing)
}

fn now() -> UnixTime {
    UnixTime::of(SystemTime::now())
}

/// Runs what waits for the disk or computes long off the async threads.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Result<T, No> {
    match tokio::task::spawn_blocking(act).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(No::unavailable(&error)),
        Err(error) => Err(No::unavailable(&anyhow::Error::new(error))),
    }
}

/// A JSON body of at most [`MAX_BODY_BYTES`].
async fn read_json<T: DeserializeOwned>(request: Request<Body>) -> Result<T, No> {
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|len| usize::try_from(len).map_or(true, |len| len > MAX_BODY_BYTES)) {
        return Err(too_large());
    }
    let bytes = tokio::time::timeout(BODY_TIMEOUT, read_body(request.into_body()))
        .await
        .map_err(|_| No::new(StatusCode::REQUEST_TIMEOUT, HqRefusal::Slow, "the body took too long"))??;
    serde_json::from_slice(&bytes).map_err(|error| No::malformed(format!("the body is not what belongs here: {error}")))
}

async fn read_body(mut body: Body) -> Result<Vec<u8>, No> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| No::malformed("the body broke off"))?;
        let data: Bytes = frame.into_data().unwrap_or_default();
        if bytes.len().saturating_add(data.len()) > MAX_BODY_BYTES {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn too_large() -> No {
    let reason = format!("the body has more than the {MAX_BODY_BYTES} bytes allowed");
    No::new(StatusCode::PAYLOAD_TOO_LARGE, HqRefusal::TooLarge, reason)
}

fn ok<T: Serialize>(value: &T) -> Answer {
    json(StatusCode::OK, value).map_err(|error| No::unavailable(&error))
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> anyhow::Result<Response<Body>> {
    let mut response = Response::new(Body::from(serde_json::to_vec(value)?));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
