//! What operators may ask, and the answers. Every request is judged by its API token before its body is read.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use serde::{Deserialize, Serialize};
use tracing::{debug, error, info, warn};

use super::super::files::{self, TreeFile};
use super::super::now;
use super::{Caller, Shared};
use crate::db::sealing_keys::StoredStatement;
use crate::desk::{
    self, API, HostEnrolment, HostRevoked, HostSite, HostState, NewToken, PieceAnswer, PushAnswer, PushedBy,
};
use crate::fleet;
use crate::push::{MAX_LIST_BYTES, PIECE_BYTES, PushRequest, SignedPush};
use crate::push_incoming::{Incoming, Piece};
use crate::push_release::{self, SitePushed};
use api::{HqRefusal, MAX_BODY_BYTES, Refusal};
use ids::{Digest, SiteId};
use repository::layout::Layout;
use tuf::Trusted;
use tuf::schema::EXTRA_FIELD;

/// The largest body of a list with its roots: quotes in it are escaped.
const MAX_PUSH_BYTES: usize = 2 * MAX_LIST_BYTES;
/// The most bytes of a statement of recipients: as much as is read of it.
const MAX_STATEMENT_BYTES: usize = 1024 * 1024;
/// The time in which a body must arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// How many enrolments are told at once; the next call has the next ones, when these were taken over.
const MAX_ENROLMENTS: usize = 1_000;

/// The operator who asks: the name of the API token.
#[derive(Debug, Clone)]
struct Operator(String);

/// A refusal: status, code, reason, and when it helps to ask again.
struct Refused(StatusCode, HqRefusal, String, Option<u64>);

impl Refused {
    fn new(status: StatusCode, code: HqRefusal, why: impl Into<String>) -> Self {
        Self(status, code, why.into(), None)
    }

    fn malformed(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, HqRefusal::Malformed, why)
    }

    fn push(why: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, HqRefusal::PushRefused, why)
    }

    fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, HqRefusal::NotFound, "there is nothing under this name")
    }
}

impl From<anyhow::Error> for Refused {
    fn from(failed: anyhow::Error) -> Self {
        error!(error = format!("{failed:#}"), "an operator's request failed");
        Self(StatusCode::SERVICE_UNAVAILABLE, HqRefusal::Unavailable, format!("HQ has a problem: {failed:#}"), Some(10))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response<Body> {
        let Self(status, code, reason, again) = self;
        debug!(code = code.code(), reason, "an operator's request was refused");
        let body = serde_json::to_vec(&Refusal { code: code.code().to_owned(), reason }).unwrap_or_default();
        let mut response = json(body);
        *response.status_mut() = status;
        if let Some(seconds) = again {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

type Answer = Result<Response<Body>, Refused>;

/// The routes, all behind [`authenticated`].
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let api = Router::new()
        .route("/state", get(state))
        .route("/fleet", get(fleet_rows))
        .route("/fleet/{site}", get(site_told))
        .route("/sealing-keys", get(sealing_keys))
        .route("/sites/{site}/sealing-key/handled", post(sealing_key_handled))
        .route("/enrolments", get(enrolments))
        .route("/enrolments/taken-over", get(taken_over))
        .route("/enrolments/{token}/accepted", post(accepted))
        .route("/enrolments/{token}/discard", post(discard))
        .route("/tokens", post(add_token))
        .route("/sites/{site}/revoke", post(revoke))
        .route("/tree/{*path}", get(tree))
        .route("/recipients", put(recipients))
        .route("/push", post(push))
        .route("/push/{list}/release", post(release))
        .route("/push/{list}/{file}", put(piece));
    Router::new()
        .nest(API, api)
        .fallback(async || Refused::not_found())
        .method_not_allowed_fallback(async || {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, HqRefusal::Method, "this method does not go here")
        })
        .layer(from_fn_with_state(Arc::clone(&shared), authenticated))
        .with_state(shared)
}

/// Lets a request through if it shows a good API token, and says whose it is.
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
async fn authenticated(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Answer {
    let at = Instant::now();
    let peer = request.extensions().get::<Caller>().copied().context("a request came without its connection")?;
    let address = peer.0.ip().to_canonical();
    let wait = |wait: Duration| {
        let refused = (StatusCode::TOO_MANY_REQUESTS, HqRefusal::TooOften, "this is asked too often".to_owned());
        Refused(refused.0, refused.1, refused.2, Some(wait.as_secs() + 1))
    };
    shared.gate.may_try(address, at).map_err(wait)?;
    let shown = bearer(request.headers());
    let name = match shown {
        Some(shown) => {
            let shared = Arc::clone(&shared);
            blocking(move || shared.app.db.api_token(&shown, now())).await?
        }
        None => None,
    };
    let Some(name) = name else {
        shared.gate.was_wrong(address, at);
        let why = "this needs a good API token; `lineside-hq api-token add` on HQ's host makes one";
        return Err(Refused::new(StatusCode::UNAUTHORIZED, HqRefusal::ApiToken, why));
    };
    shared.gate.used(&name, at).map_err(wait)?;
    request.extensions_mut().insert(Operator(name));
    Ok(next.run(request).await)
}

/// SHA-256 of the token that a request shows.
fn bearer(headers: &HeaderMap) -> Option<Digest> {
    let token = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    token.starts_with(desk::TOKEN_PREFIX).then(|| Digest::of(token.as_bytes()))
}

#[derive(Debug, Deserialize)]
struct After {
    after: Option<SiteId>,
}

async fn state(State(shared): State<Arc<Shared>>, Query(page): Query<After>) -> Answer {
    let told = blocking(move || {
        let app = &shared.app;
        let layout = Layout::of_online(&app.dir);
        let root = Incoming::new(&layout).known_root()?.context("this host has no root of a fleet")?;
        let trusted = Trusted::pin(&root).context("root.json does not hold")?;
        let extra = trusted.root().extra.get(EXTRA_FIELD);
        let fleet =
            extra.and_then(|extra| extra.get("fleet")?.as_str()?.parse().ok()).context("the root names no fleet")?;
        let mut pushed: BTreeMap<SiteId, PushedBy> = (app.db.pushed()?.into_iter())
            .map(|one| (one.site, PushedBy { commit: one.commit, operator: one.operator, at: one.at }))
            .collect();
        let mut rows = app.db.sites()?;
        rows.retain(|row| page.after.as_ref().is_none_or(|after| row.id > *after));
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        let more = rows.len() > desk::PAGE;
        rows.truncate(desk::PAGE);
        let sites = rows.into_iter().map(|row| HostSite {
            timestamp: timestamp(&layout, &row.id),
            pushed: pushed.remove(&row.id),
            id: row.id,
            name: row.name,
            published: row.published,
            revoked_at: row.revoked_at,
            enrolled: row.enrolled,
            certificate_until: row.certificate_until,
        });
        Ok(HostState {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fleet,
            root: Digest::of(&root),
            time: app.may_sign().ok().map(|(time, _)| time),
            sites_time: app.db.newest_site_time()?,
            sites: sites.collect(),
            more,
        })
    });
    ok(&told.await?)
}

fn timestamp(layout: &Layout, site: &SiteId) -> Option<Digest> {
    let path = layout.site_metadata(site).join("timestamp.json");
    durable::read_regular(&path, 64 * 1024).ok().map(|bytes| Digest::of(&bytes))
}

async fn fleet_rows(State(shared): State<Arc<Shared>>) -> Answer {
    let database = shared.app.dir.join("hq.sqlite");
    ok(&blocking(move || fleet::rows(&database, now())).await?)
}

async fn site_told(State(shared): State<Arc<Shared>>, Path(site): Path<SiteId>) -> Answer {
    let database = shared.app.dir.join("hq.sqlite");
    ok(&blocking(move || fleet::SiteTold::read(&database, &site)).await?)
}

async fn sealing_keys(State(shared): State<Arc<Shared>>) -> Answer {
    ok(&blocking(move || shared.app.db.sealing_keys()).await?)
}

async fn sealing_key_handled(State(shared): State<Arc<Shared>>, Path(site): Path<SiteId>, request: Request) -> Answer {
    let stored = read_json::<StoredStatement>(request, MAX_BODY_BYTES).await?;
    blocking(move || shared.app.db.drop_sealing_key(&site, &stored)).await?;
    ok(&())
}

async fn enrolments(State(shared): State<Arc<Shared>>) -> Answer {
    let new = blocking(move || shared.app.db.new_enrolments()).await?;
    ok(&new.into_iter().take(MAX_ENROLMENTS).map(HostEnrolment::from).collect::<Vec<_>>())
}

async fn taken_over(State(shared): State<Arc<Shared>>) -> Answer {
    ok(&blocking(move || shared.app.db.taken_over()).await?)
}

async fn discard(
    State(shared): State<Arc<Shared>>,
    Extension(Operator(operator)): Extension<Operator>,
    Path(token): Path<String>,
) -> Answer {
    warn!(operator, token = token.chars().take(16).collect::<String>(), "an enrolment is put aside");
    let certificates = blocking(move || {
        let new = shared.app.db.new_enrolments()?;
        let one = new.into_iter().find(|one| one.token == token);
        one.map(|one| shared.app.db.discard_enrolment(&one, &shared.app.dir)).transpose()
    });
    let certificates = certificates.await?.ok_or_else(Refused::not_found)?;
    ok(&HostRevoked { certificates })
}

/// Who can open releases, and backups of this host, as the release key signed it.
async fn recipients(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    let bytes = read_body(request, MAX_STATEMENT_BYTES).await?;
    let signed = blocking(move || {
        let root = Incoming::new(&Layout::of_online(&shared.app.dir))
            .known_root()?
            .context("this host has no root of a fleet")?;
        let root = Trusted::pin(&root).context("root.json does not hold")?;
        let Some(role) = root.root().roles.get("targets") else { return Ok(false) };
        let have = tuf::sign::signed_by(&bytes, &root.root().public_keys(role)).map_or(0, |keys| keys.len());
        let kind = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let kind =
            kind.as_ref().and_then(|value| value.get("signed")?.get("_type")?.as_str()) == Some("lineside-recipients");
        if !kind || have == 0 || u32::try_from(have).unwrap_or(u32::MAX) < role.threshold {
            return Ok(false);
        }
        repository::tree::write_file(&shared.app.public.join("recipients.json"), &bytes)?;
        Ok(true)
    });
    if signed.await? { ok(&()) } else { Err(Refused::push("the release key has not signed who can open releases")) }
}

async fn accepted(
    State(shared): State<Arc<Shared>>,
    Extension(Operator(operator)): Extension<Operator>,
    Path(token): Path<String>,
) -> Answer {
    info!(operator, token = token.chars().take(16).collect::<String>(), "an enrolment was taken over");
    blocking(move || shared.app.db.accepted(&token)).await?;
    ok(&())
}

async fn add_token(
    State(shared): State<Arc<Shared>>,
    Extension(Operator(operator)): Extension<Operator>,
    request: Request,
) -> Answer {
    let (row, name) = read_json::<NewToken>(request, MAX_BODY_BYTES)
        .await?
        .checked()
        .ok_or_else(|| Refused::malformed("this is no token"))?;
    info!(operator, site = %row.site, token = row.id, "a token was issued");
    blocking(move || shared.app.db.add_token(&row, &name)).await?;
    ok(&())
}

async fn revoke(
    State(shared): State<Arc<Shared>>,
    Extension(Operator(operator)): Extension<Operator>,
    Path(site): Path<SiteId>,
) -> Answer {
    warn!(operator, %site, "a site is revoked");
    let certificates = blocking(move || {
        let known = shared.app.db.sites()?.iter().any(|row| row.id == site);
        if known { shared.app.db.revoke(&site, now()).map(Some) } else { Ok(None) }
    });
    let unknown = || Refused::new(StatusCode::NOT_FOUND, HqRefusal::NotFound, "HQ knows no such site");
    ok(&HostRevoked { certificates: certificates.await?.ok_or_else(unknown)? })
}

/// The published tree, for a desk that has not all of it.
async fn tree(State(shared): State<Arc<Shared>>, Path(path): Path<String>, request: Request) -> Answer {
    let named = TreeFile::parse(&format!("/{path}")).ok_or_else(Refused::not_found)?;
    files::answer(&shared.app.public, &named, &Method::GET, request.headers())
        .await
        .map_err(|error| Refused::from(anyhow::Error::new(error).context("cannot read a published file")))?
        .ok_or_else(Refused::not_found)
}

async fn push(
    State(shared): State<Arc<Shared>>,
    Extension(Operator(operator)): Extension<Operator>,
    request: Request,
) -> Answer {
    let wanted: PushRequest = read_json(request, MAX_PUSH_BYTES).await?;
    let answer = blocking(move || {
        let layout = Layout::of_online(&shared.app.dir);
        let incoming = Incoming::new(&layout);
        let push = match SignedPush::verify(&wanted, incoming.known_root()?.as_deref()) {
            Ok(push) => push,
            Err(refused) => return Ok(Err(Refused::push(refused.to_string()))),
        };
        let refused = push_release::refused_at_once(&layout, &shared.app.db, &push);
        if !push.list.sites.is_empty() && refused.len() == push.list.sites.len() {
            // Nothing to upload for, so that an old list opens no way to.
            return Ok(Ok(PushAnswer { id: push.id, lacks: Vec::new(), refused }));
        }
        incoming.keep(&push, &wanted)?;
        info!(operator, list = %push.id, sites = push.list.sites.len(), "a push begins");
        Ok(Ok(PushAnswer { id: push.id, lacks: incoming.lacks(&push), refused }))
    });
    ok(&answer.await??)
}

#[derive(Debug, Deserialize)]
struct At {
    from: u64,
}

async fn piece(
    State(shared): State<Arc<Shared>>,
    Path((list, file)): Path<(Digest, Digest)>,
    Query(at): Query<At>,
    request: Request,
) -> Answer {
    // The list is asked first: what it does not name is not even read.
    let known = {
        let shared = Arc::clone(&shared);
        blocking(move || shared.uploads.named(&shared.incoming(), &list, &file)).await?
    };
    let file = known.ok_or_else(|| Refused::push("no list that the release key signed names this file"))?;
    let bytes = read_body(request, PIECE_BYTES).await?;
    let kept = blocking(move || shared.uploads.append(&shared.incoming(), &file, at.from, &bytes));
    match kept.await? {
        Piece::Kept(have) => ok(&PieceAnswer { have }),
        Piece::NotThere(have) => {
            let mut response = ok(&PieceAnswer { have })?;
            *response.status_mut() = StatusCode::CONFLICT;
            Ok(response)
        }
        Piece::Wrong => Err(Refused::push(format!("the bytes are not those of {}", file.sha256))),
    }
}

async fn release(
    State(shared): State<Arc<Shared>>,
    Extension(Operator(operator)): Extension<Operator>,
    Path(list): Path<Digest>,
) -> Answer {
    let outcomes = blocking(move || {
        let app = &shared.app;
        let layout = Layout::of_online(&app.dir);
        let Some(push) = Incoming::new(&layout).list(&list)? else { return Ok(Err(Refused::not_found())) };
        let now = match app.may_sign() {
            Ok((now, _)) => now,
            Err(doubt) => return Ok(Err(Refused::push(format!("this host signs nothing now: {doubt}")))),
        };
        let lacking = Incoming::new(&layout).lacks(&push).len();
        if lacking > 0 {
            return Ok(Err(Refused::push(format!("{lacking} files have not arrived yet"))));
        }
        let outcomes = push_release::release(&layout, &app.db, &app.key, &push, &operator, now)?;
        let refused = outcomes.values().filter(|outcome| **outcome != SitePushed::Released).count();
        let commit = push.list.commit.as_deref().unwrap_or_default();
        info!(operator, list = %push.id, commit, sites = outcomes.len() - refused, refused, "a push was released");
        app.clock.note(now, super::super::since_start(), true)?;
        Ok(Ok(outcomes))
    });
    ok(&outcomes.await??)
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(act).await.map_err(anyhow::Error::new).flatten().map_err(Refused::from)
}

async fn read_json<T: serde::de::DeserializeOwned>(request: Request, limit: usize) -> Result<T, Refused> {
    let bytes = read_body(request, limit).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refused::malformed(format!("the body is not what belongs here: {error}")))
}

async fn read_body(request: Request, limit: usize) -> Result<Vec<u8>, Refused> {
    let too_large = || {
        let why = format!("the body has more than the {limit} bytes allowed");
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, HqRefusal::TooLarge, why)
    };
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|len| usize::try_from(len).map_or(true, |len| len > limit)) {
        return Err(too_large());
    }
    let mut body = request.into_body();
    let all = async {
        let mut bytes = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let frame = frame.map_err(|_| Refused::malformed("the body broke off"))?;
            let data: Bytes = frame.into_data().unwrap_or_default();
            if bytes.len().saturating_add(data.len()) > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    };
    let slow = |_| Refused::new(StatusCode::REQUEST_TIMEOUT, HqRefusal::Slow, "the body took too long");
    tokio::time::timeout(BODY_TIMEOUT, all).await.map_err(slow)?
}

fn ok<T: Serialize>(value: &T) -> Answer {
    Ok(json(serde_json::to_vec(value).context("cannot write an answer")?))
}

fn json(body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
