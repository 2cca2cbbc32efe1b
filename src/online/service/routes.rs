//! The service's routes: what it answers to which caller.
//!
//! The caller's site is taken from the client certificate and from nowhere else (I4). Every refusal is sent as a
//! [`Refusal`] in JSON with a stable code, logged with its reason, and counted.

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
use super::files::{self, TreeFile};
use crate::admit::Refused;
use crate::ca::{Ca, Csr, Identity};
use crate::clock::SigningClock;
use crate::db::{CertificateStanding, CheckIns, Db};
use api::check_in::{PageError, SIGNED_CHECK_IN_PATH};
use api::{
    self, Certificate, CheckIn, CheckInAnswer, EnrolRequest, HqRefusal, MAX_BODY_BYTES, Refusal, RenewRequest,
    SealingKeyStatement, SignedTime,
};
use ids::UnixTime;
use repository::published::newest_root_path;
use repository::witness::{ClockDoubt, HINT};
use tuf::SigningKey;

/// A request is refused if its body has not arrived within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest signed root that is served (the client's own limit).
const MAX_ROOT_BYTES: u64 = 64 * 1024;

/// What the handlers of all requests share.
pub(super) struct App {
    pub(super) dir: PathBuf,
    pub(super) public: PathBuf,
    pub(super) db: Arc<Db>,
    pub(super) check_ins: Arc<dyn CheckIns>,
    pub(super) ca: Ca,
    pub(super) clock: SigningClock,
    pub(super) key: SigningKey,
    pub(super) refused: Mutex<BTreeMap<HqRefusal, u64>>,
    pub(super) check_in_rate: Mutex<CheckInRate>,
}

impl App {
    /// The time under which something may be signed now, and the time since the start. A doubt is logged now and then.
    pub(super) fn may_sign(&self) -> Result<(UnixTime, Duration), ClockDoubt> {
        let (now, at) = (now(), super::since_start());
        self.clock.may_sign(now, at).inspect_err(|doubt| {
            if self.clock.must_tell(at) {
                error!("{doubt}\n  hint: {HINT}");
            }
        })?;
        Ok((now, at))
    }

    /// An answer to a check-in, signed by the online key.
    pub(super) fn answer<T: Serialize>(&self, said: &T) -> anyhow::Result<CheckInAnswer> {
        let signed = serde_json::to_string(said)?;
        let signature = data_encoding::HEXLOWER.encode(&self.key.sign(signed.as_bytes()));
        Ok(CheckInAnswer { signed, signature })
    }
}

/// The caller at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// The site, from the verified client certificate; `None` without one.
    pub(super) identity: Option<Identity>,
}

/// A refusal before it becomes an HTTP answer and a log line.
#[derive(Debug, Clone)]
pub(super) struct HttpRefusal {
    status: StatusCode,
    refusal: HqRefusal,
    /// The reason that the client is told.
    reason: String,
    /// The reason for the log, if the client must not be told; `None` logs `reason`.
    why: Option<&'static str>,
    /// The `Retry-After` of the answer, in seconds; `None` if it does not help to try again.
    retry_after: Option<u64>,
}

impl HttpRefusal {
    fn new(status: StatusCode, refusal: HqRefusal, reason: impl Into<String>) -> Self {
        Self { status, refusal, reason: reason.into(), why: None, retry_after: None }
    }

    fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, HqRefusal::NotFound, "there is nothing under this name")
    }

    pub(super) fn malformed(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, HqRefusal::Malformed, reason)
    }

    /// HQ itself failed. The error goes to the log; the client is told to try again in a minute.
    fn unavailable(error: &anyhow::Error) -> Self {
        error!(error = format!("{error:#}"), "a request failed");
        let refused =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, HqRefusal::Unavailable, "HQ has a problem; try again later");
        Self { retry_after: Some(60), ..refused }
    }
}

impl From<ClockDoubt> for HttpRefusal {
    fn from(_: ClockDoubt) -> Self {
        let reason = "HQ does not know what time it is, so it signs nothing; its log says more";
        let refused = Self::new(StatusCode::SERVICE_UNAVAILABLE, HqRefusal::Unavailable, reason);
        Self { retry_after: Some(60), ..refused }
    }
}

impl From<PageError> for HttpRefusal {
    fn from(error: PageError) -> Self {
        match error {
            PageError::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, HqRefusal::TooLarge, error.to_string()),
            PageError::Malformed | PageError::Signature => Self::malformed(error.to_string()),
        }
    }
}

impl From<Refused> for HttpRefusal {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Malformed(_) => StatusCode::BAD_REQUEST,
            Refused::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Refused::Restoring => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::FORBIDDEN,
        };
        let retry_after = (refused == Refused::TooMany).then_some(6 * 3600);
        Self { retry_after, ..Self::new(status, refused.refusal(), refused.to_string()) }
    }
}

impl IntoResponse for HttpRefusal {
    fn into_response(self) -> Response<Body> {
        let refusal = Refusal { code: self.refusal.code().to_owned(), reason: self.reason.clone() };
        // Each poll asks for a next root, which is usually missing. The status alone says so.
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

pub(super) type Answer = Result<Response<Body>, HttpRefusal>;

/// The router of the service: the API's paths, and the published tree for every other path.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(api::ROOT_PATH, get(root))
        .route(api::ENROL_PATH, post(enrol))
        .route(api::RENEW_PATH, post(renew))
        .route(api::CHECK_IN_PATH, post(check_in))
        .route(api::SEALING_KEY_PATH, post(sealing_key))
        .route(SIGNED_CHECK_IN_PATH, post(super::signed_check_in::signed_check_in))
        .fallback(tree)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// Logs and counts what was refused.
pub(super) fn note(app: &App, peer: &Peer, method: &Method, path: &str, response: &Response<Body>) {
    let Some(refused) = response.extensions().get::<HttpRefusal>() else { return };
    *app.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(refused.refusal).or_default() += 1;
    let path: String = path.chars().take(200).collect();
    let (code, reason, address) = (refused.refusal.code(), refused.why.unwrap_or(&refused.reason), peer.address);
    match &peer.identity {
        // A missing file is usual: each poll asks for the next root until there is none.
        Some(identity) if refused.why.is_none() && refused.status == StatusCode::NOT_FOUND => {
            debug!(site = %identity.site, %address, %method, path, code, reason, "refused");
        }
        Some(identity) => warn!(site = %identity.site, %address, %method, path, code, reason, "refused"),
        // Only a caller who proved a token's secret gets this far.
        None if matches!(refused.refusal, HqRefusal::TokenUsed | HqRefusal::TokenExpired | HqRefusal::Revoked) => {
            warn!(%address, %method, path, code, reason, "enrolment refused");
        }
        None => debug!(%address, %method, path, code, reason, "refused"),
    }
}

/// Answers with the newest signed root. It is the only file that needs no certificate.
async fn root(State(app): State<Arc<App>>) -> Answer {
    let bytes = blocking(move || newest_root(&app.public)).await?.ok_or_else(HttpRefusal::not_found)?;
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Reads `root.json`, which the publisher writes. Before the first publish there may be only numbered roots.
fn newest_root(public: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let fixed = public.join("root.json");
    let path = if fixed.is_file() { Some(fixed) } else { newest_root_path(&public.join("root"))? };
    let Some(path) = path else { return Ok(None) };
    let len = std::fs::metadata(&path)?.len();
    anyhow::ensure!(len <= MAX_ROOT_BYTES, "{} has {len} bytes, over the {MAX_ROOT_BYTES} allowed", path.display());
    Ok(Some(std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?))
}

/// Enrols an appliance that has a token.
async fn enrol(State(app): State<Arc<App>>, request: Request<Body>) -> Answer {
    let peer = peer(&request)?;
    let wanted: EnrolRequest = read_json(request).await?;
    let (site, issued) = blocking(move || {
        let (now, _) = match app.may_sign() {
            Ok(time) => time,
            Err(doubt) => return Ok(Err(HttpRefusal::from(doubt))),
        };
        let issued = app.db.enrol(&wanted, now, |csr, fleet, site| app.ca.issue_client(csr, fleet, site, now))?;
        Ok(issued.map_err(HttpRefusal::from))
    })
    .await??;
    info!(%site, address = %peer.address, serial = issued.serial, "appliance enrolled");
    ok(&Certificate { certificate: issued.chain, expires: issued.expires })
}

/// Renews a site's certificate. The TLS handshake has proven that the caller has the old key.
async fn renew(State(app): State<Arc<App>>, request: Request<Body>) -> Answer {
    let identity = site(&app, peer(&request)?, Expired::MayRenew).await?;
    let wanted: RenewRequest = read_json(request).await?;
    let (fleet, site, old) = (identity.fleet, identity.site.clone(), identity.fingerprint);
    let issued = blocking(move || {
        let csr = match Csr::parse(&wanted.csr) {
            Ok(csr) => csr,
            Err(error) => return Ok(Err(Refused::Malformed(error).into())),
        };
        let (now, _) = match app.may_sign() {
            Ok(time) => time,
            Err(doubt) => return Ok(Err(HttpRefusal::from(doubt))),
        };
        let issued = app.db.renew(&site, &old, now, || app.ca.issue_client(&csr, &fleet, &site, now))?;
        Ok(issued.map_err(HttpRefusal::from))
    })
    .await??;
    info!(site = %identity.site, serial = issued.serial, "certificate renewed");
    ok(&Certificate { certificate: issued.chain, expires: issued.expires })
}

/// Refuses a site that checks in without end.
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub(super) fn not_too_often(app: &App, identity: &Identity) -> Result<(), HttpRefusal> {
    let paced = app.check_in_rate.lock().unwrap_or_else(PoisonError::into_inner).take(&identity.site, Instant::now());
    paced.map_err(|wait| {
        let refused =
            HttpRefusal::new(StatusCode::TOO_MANY_REQUESTS, HqRefusal::TooOften, "this site checks in too often");
        HttpRefusal { retry_after: Some(wait.as_secs() + 1), ..refused }
    })
}

/// Takes a site's check-in. Answers with HQ's time and the site's newest generation, signed by the online key.
async fn check_in(State(app): State<Arc<App>>, request: Request<Body>) -> Answer {
    let identity = site(&app, peer(&request)?, Expired::Refused).await?;
    not_too_often(&app, &identity)?;
    let told: CheckIn = read_json(request).await?;
    if data_encoding::HEXLOWER.decode(told.nonce.as_bytes()).ok().is_none_or(|nonce| nonce.len() != 16) {
        return Err(HttpRefusal::malformed("the nonce is not 16 bytes in lower-case hex"));
    }
    let answer = blocking(move || {
        let time = now();
        app.check_ins.note(&identity.site, time, &told)?;
        if let Some(site) = told.time.filter(|_| told.clock_synchronised) {
            app.clock.heard(site, time, super::since_start());
        }
        let (time, _) = match app.may_sign() {
            Ok(time) => time,
            Err(doubt) => return Ok(Err(HttpRefusal::from(doubt))),
        };
        let newest = app.db.published(&identity.site)?;
        let purpose = "check-in".to_owned();
        app.answer(&SignedTime { purpose, site: identity.site, nonce: told.nonce, time, newest }).map(Ok)
    })
    .await??;
    ok(&answer)
}

/// Keeps what a site states about its sealing key until the publisher asks. Whether it is proven only the publisher can say.
async fn sealing_key(State(app): State<Arc<App>>, request: Request<Body>) -> Answer {
    let identity = site(&app, peer(&request)?, Expired::Refused).await?;
    let stated: SealingKeyStatement = read_json(request).await?;
    let kept = blocking(move || app.db.keep_sealing_key(&identity.site, &stated, now())).await?;
    if !kept {
        let reason = "this site states new sealing keys too often";
        let refused = HttpRefusal::new(StatusCode::TOO_MANY_REQUESTS, HqRefusal::TooOften, reason);
        return Err(HttpRefusal { retry_after: Some(3600), ..refused });
    }
    ok(&serde_json::json!({}))
}

/// Serves the published tree: a site's own folder, and every sealed object. Objects need no further check, because only
/// their recipients can open them.
async fn tree(State(app): State<Arc<App>>, request: Request<Body>) -> Answer {
    let identity = site(&app, peer(&request)?, Expired::Refused).await?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = wrong_method().await.into_response();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let named = TreeFile::parse(request.uri().path()).ok_or_else(HttpRefusal::not_found)?;
    if let TreeFile::OfSite(owner, ..) = &named
        && *owner != identity.site
    {
        // The answer is the same as for a file that does not exist. Only the log says more.
        return Err(HttpRefusal { why: Some("files of another site"), ..HttpRefusal::not_found() });
    }
    files::answer(&app.public, &named, request.method(), request.headers())
        .await
        .map_err(|error| HttpRefusal::unavailable(&anyhow::Error::new(error).context("cannot read a published file")))?
        .ok_or_else(HttpRefusal::not_found)
}

async fn wrong_method() -> HttpRefusal {
    HttpRefusal::new(StatusCode::METHOD_NOT_ALLOWED, HqRefusal::Method, "this method does not go here")
}

/// Whether this request may be made with an expired certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// It may not.
    Refused,
    /// It may, up to [`api::RENEWABLE_DAYS`] after the expiry.
    MayRenew,
}

/// The site that asks, if its certificate is valid and not revoked. This is checked for every request, because a
/// connection can live longer than its certificate.
pub(super) async fn site(app: &Arc<App>, peer: Peer, expired: Expired) -> Result<Identity, HttpRefusal> {
    let forbidden = |refusal, reason: &str| HttpRefusal::new(StatusCode::FORBIDDEN, refusal, reason);
    let identity = peer
        .identity
        .ok_or_else(|| forbidden(HqRefusal::NoCertificate, "this needs a site's client certificate; enrol first"))?;
    let late = now().since(identity.not_after);
    let grace = match expired {
        Expired::Refused => Duration::ZERO,
        Expired::MayRenew => Duration::from_secs(u64::from(api::RENEWABLE_DAYS) * 86_400),
    };
    let (standing, readmits) = {
        let (app, identity) = (Arc::clone(app), identity.clone());
        blocking(move || match expired {
            Expired::Refused => app.db.standing_after_restore(&identity, now()),
            Expired::MayRenew => Ok((app.db.standing_to_renew(&identity, now())?, false)),
        })
        .await?
    };
    match standing {
        CertificateStanding::Revoked => Err(Refused::Revoked.into()),
        // Sites of every version renew when they hear this.
        CertificateStanding::Unknown if readmits => Err(forbidden(
            HqRefusal::CertificateExpired,
            "HQ was put back from a backup that does not know this certificate; renew it",
        )),
        CertificateStanding::Unknown => {
            Err(forbidden(HqRefusal::CertificateUnknown, "this certificate is not in HQ's records"))
        }
        CertificateStanding::Good if late > grace && expired == Expired::Refused => {
            Err(forbidden(HqRefusal::CertificateExpired, "the client certificate has expired; renew it"))
        }
        CertificateStanding::Good if late > grace => Err(forbidden(
            HqRefusal::CertificateExpired,
            "the client certificate expired too long ago; enrol with a new token",
        )),
        CertificateStanding::Good => Ok(identity),
    }
}

pub(super) fn peer(request: &Request<Body>) -> Result<Peer, HttpRefusal> {
    let missing = || HttpRefusal::unavailable(&anyhow::anyhow!("a request came without its connection"));
    request.extensions().get::<Peer>().cloned().ok_or_else(missing)
}

#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub(super) fn now() -> UnixTime {
    UnixTime::of(SystemTime::now())
}

/// Runs `act`, which waits for the disk or computes for long, on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, HttpRefusal> {
    match tokio::task::spawn_blocking(act).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(HttpRefusal::unavailable(&error)),
        Err(error) => Err(HttpRefusal::unavailable(&anyhow::Error::new(error))),
    }
}

/// Reads a JSON body of at most [`MAX_BODY_BYTES`].
async fn read_json<T: DeserializeOwned>(request: Request<Body>) -> Result<T, HttpRefusal> {
    serde_json::from_slice(&read_whole(request).await?)
        .map_err(|error| HttpRefusal::malformed(format!("the body is not what belongs here: {error}")))
}

/// Reads a body of at most [`MAX_BODY_BYTES`].
pub(super) async fn read_whole(request: Request<Body>) -> Result<Vec<u8>, HttpRefusal> {
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|len| usize::try_from(len).map_or(true, |len| len > MAX_BODY_BYTES)) {
        return Err(too_large());
    }
    tokio::time::timeout(BODY_TIMEOUT, read_body(request.into_body()))
        .await
        .map_err(|_| HttpRefusal::new(StatusCode::REQUEST_TIMEOUT, HqRefusal::Slow, "the body took too long"))?
}

async fn read_body(mut body: Body) -> Result<Vec<u8>, HttpRefusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| HttpRefusal::malformed("the body broke off"))?;
        let data: Bytes = frame.into_data().unwrap_or_default();
        if bytes.len().saturating_add(data.len()) > MAX_BODY_BYTES {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn too_large() -> HttpRefusal {
    let reason = format!("the body has more than the {MAX_BODY_BYTES} bytes allowed");
    HttpRefusal::new(StatusCode::PAYLOAD_TOO_LARGE, HqRefusal::TooLarge, reason)
}

pub(super) fn ok<T: Serialize>(value: &T) -> Answer {
    json(StatusCode::OK, value).map_err(|error| HttpRefusal::unavailable(&error))
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> anyhow::Result<Response<Body>> {
    let mut response = Response::new(Body::from(serde_json::to_vec(value)?));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
