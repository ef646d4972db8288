//! What the workload answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};

use super::burner::{Burner, Overloaded};
use super::fault::{Faults, Meets};
use super::follower::Follower;
use super::journal::{Change, MAX_KEY, MAX_VALUE, Record, Writer, is_key};
use super::single::{NotTaken, Single, Standing};

/// Longest wait for an own record to be applied.
const APPLY_LIMIT: Duration = Duration::from_secs(5);

/// Longest time that a caller may ask for, at rest or waiting.
const LONGEST_MS: u64 = 60_000;

/// Highest cost of one request, in multiples of the usual.
const HIGHEST_COST: u32 = 1_000;

/// Identity and random state; a copy is given its own.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) random: StdRng,
}

/// What all requests share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) instance: String,
    pub(super) role: String,
    pub(super) work: Duration,
    pub(super) identity: Mutex<Identity>,
    pub(super) follower: Arc<Follower>,
    pub(super) journal: Writer,
    /// Set when the journal is the instance's own.
    pub(super) single: Option<Arc<Single>>,
    pub(super) burner: Burner,
    pub(super) faults: Faults,
    pub(super) served: AtomicU64,
}

type App = State<Arc<Shared>>;

/// The service: what clients call meets faults; health and hooks do not.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let clients = Router::new()
        .route("/items/{key}", get(read_item).post(write_item))
        .route("/counters/{key}", get(read_item).post(count))
        .route("/work", get(work))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            meet_faults,
        ));
    Router::new()
        .merge(clients)
        .route("/healthz", get(health))
        .route("/foreshadow/state", get(state))
        .route("/foreshadow/quiesce", post(quiesce))
        .route("/foreshadow/resume", post(resume))
        .route("/foreshadow/reidentify", post(reidentify))
        .route("/foreshadow/journal", get(read_journal))
        .route("/foreshadow/writer/standing", post(standing))
        .route("/foreshadow/writer/freeze", post(freeze))
        .route("/foreshadow/writer/open", post(open_writer))
        .route("/foreshadow/writer/follow", post(follow))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), say_who))
        .layer(DefaultBodyLimit::max(4 * 1024))
        .with_state(shared)
}

fn error(status: StatusCode, reason: impl std::fmt::Display) -> Response {
    (status, Json(json!({ "error": reason.to_string() }))).into_response()
}

impl IntoResponse for Overloaded {
    fn into_response(self) -> Response {
        error(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded: too many requests wait",
        )
    }
}

async fn say_who(State(shared): App, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let identity = shared
        .identity
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .name
        .clone();
    let replica = format!("{}/{identity}", shared.role);
    for (name, value) in [("x-instance", &shared.instance), ("x-replica", &replica)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

async fn meet_faults(State(shared): App, request: Request, next: Next) -> Response {
    shared.served.fetch_add(1, Ordering::Relaxed);
    match shared.faults.meet().await {
        Meets::Error => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "a fault that was asked for",
        ),
        Meets::Nothing => next.run(request).await,
    }
}

impl Shared {
    fn resume(&self) {
        self.follower.resume();
        if let Some(single) = &self.single {
            single.resume();
        }
    }

    fn random(&self) -> u64 {
        self.identity
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random
            .next_u64()
    }

    async fn burn(&self, cost: u32) -> Result<String, Overloaded> {
        if cost == 0 {
            return Ok(String::new());
        }
        self.burner
            .burn(self.work.saturating_mul(cost), self.random())
            .await
    }
}

#[derive(Debug, Deserialize)]
struct Cost {
    cost: Option<u32>,
}

impl Cost {
    fn get(&self) -> u32 {
        self.cost.unwrap_or(1).min(HIGHEST_COST)
    }
}

async fn work(State(shared): App, Query(cost): Query<Cost>) -> Response {
    match shared.burn(cost.get()).await {
        Ok(result) => {
            let request = format!("{:016x}", shared.random());
            Json(json!({ "result": result, "cost": cost.get(), "request": request }))
                .into_response()
        }
        Err(overloaded) => overloaded.into_response(),
    }
}

fn bad_key() -> Response {
    let reason = format!("a key is 1 to {MAX_KEY} letters, digits, '-', '_' and '.'");
    error(StatusCode::BAD_REQUEST, reason)
}

async fn read_item(
    State(shared): App,
    Path(key): Path<String>,
    Query(cost): Query<Cost>,
) -> Response {
    if !is_key(&key) {
        return bad_key();
    }
    if let Err(overloaded) = shared.burn(cost.get()).await {
        return overloaded.into_response();
    }
    let found = shared
        .follower
        .index
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key);
    match found {
        Some((value, set_at)) => {
            let value = String::from_utf8_lossy(&value);
            Json(json!({ "key": key, "value": value, "set_at": set_at })).into_response()
        }
        None => error(StatusCode::NOT_FOUND, format!("there is no item {key:?}")),
    }
}

async fn write_item(State(shared): App, Path(key): Path<String>, value: Bytes) -> Response {
    if !is_key(&key) {
        return bad_key();
    }
    if value.len() > MAX_VALUE {
        let reason = format!("the value has {} bytes: at most {MAX_VALUE}", value.len());
        return error(StatusCode::PAYLOAD_TOO_LARGE, reason);
    }
    let change = Change::Set(value.to_vec());
    write(&shared, Record { key, change }).await
}

/// Adds the number in the body, or 1.
async fn count(State(shared): App, Path(key): Path<String>, more: Bytes) -> Response {
    if !is_key(&key) {
        return bad_key();
    }
    let text = String::from_utf8_lossy(&more);
    let more = match text.trim() {
        "" => Ok(1),
        number => number.parse(),
    };
    let Ok(more) = more else {
        let reason = format!("what is added is {:?}: a whole number from 0", text.trim());
        return error(StatusCode::BAD_REQUEST, reason);
    };
    let change = Change::Add(more);
    write(&shared, Record { key, change }).await
}

/// Appends a record, and waits until it is in the own index.
async fn write(shared: &Shared, record: Record) -> Response {
    // One short write into the page cache, as cheap as a memory copy.
    let appended = match &shared.single {
        Some(single) => single.append(&record).await,
        None => shared.journal.append(&record).map_err(NotTaken::Io),
    };
    let end = match appended {
        Ok(end) => end,
        Err(NotTaken::NotTheWriter) => {
            let reason = "this replica is not the writer; nothing was done";
            return error(StatusCode::SERVICE_UNAVAILABLE, reason);
        }
        Err(NotTaken::Io(reason)) => return error(StatusCode::SERVICE_UNAVAILABLE, reason),
    };
    shared.follower.look_now();
    match wait_for(shared, end, APPLY_LIMIT).await {
        Ok(()) => Json(json!({ "key": record.key, "set_at": end })).into_response(),
        Err(response) => response,
    }
}

/// Waits until the index has reached a position.
async fn wait_for(shared: &Shared, position: u64, limit: Duration) -> Result<(), Response> {
    let mut progress = shared.follower.progress();
    let reached = progress.wait_for(|now| now.position >= position || now.is_dead);
    let reason = match tokio::time::timeout(limit, reached).await {
        Ok(Ok(now)) if now.position >= position => return Ok(()),
        Ok(_) => "the journal cannot be followed any more".to_owned(),
        Err(_) => format!(
            "position {position} was not reached within {} ms",
            limit.as_millis()
        ),
    };
    Err(error(StatusCode::SERVICE_UNAVAILABLE, reason))
}

async fn health(State(shared): App) -> Response {
    let now = *shared.follower.progress().borrow();
    if now.is_dead {
        error(
            StatusCode::SERVICE_UNAVAILABLE,
            "the journal cannot be followed any more",
        )
    } else if now.has_caught_up {
        let served = shared.served.load(Ordering::Relaxed);
        Json(json!({ "position": now.position, "served": served })).into_response()
    } else {
        error(
            StatusCode::SERVICE_UNAVAILABLE,
            "catching up with the journal",
        )
    }
}

#[derive(Debug, Deserialize)]
struct AtPosition {
    position: Option<u64>,
    timeout_ms: Option<u64>,
}

fn hex(digest: [u8; 32]) -> String {
    blake3::Hash::from_bytes(digest).to_hex().to_string()
}

async fn state(State(shared): App, Query(asked): Query<AtPosition>) -> Response {
    let history = || {
        shared
            .follower
            .history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    };
    let Some(position) = asked.position else {
        let last = history().last();
        return match last {
            Some((position, digest)) => {
                Json(json!({ "position": position, "digest": hex(digest) })).into_response()
            }
            None => error(
                StatusCode::SERVICE_UNAVAILABLE,
                "catching up with the journal",
            ),
        };
    };
    let limit = Duration::from_millis(asked.timeout_ms.unwrap_or(1_000).min(LONGEST_MS));
    if let Err(response) = wait_for(&shared, position, limit).await {
        return response;
    }
    let found = history().at(position);
    match found {
        Some(digest) => {
            Json(json!({ "position": position, "digest": hex(digest) })).into_response()
        }
        None => error(
            StatusCode::CONFLICT,
            format!("the digest at {position} is not known here"),
        ),
    }
}

#[derive(Debug, Deserialize)]
struct Deadline {
    deadline_ms: Option<u64>,
}

async fn quiesce(State(shared): App, Query(deadline): Query<Deadline>) -> Response {
    let limit = Duration::from_millis(deadline.deadline_ms.unwrap_or(1_000).min(LONGEST_MS));
    let mut progress = shared.follower.progress();
    if let Some(single) = &shared.single {
        single.rest(limit);
    }
    shared.follower.rest(limit);
    let rests = progress.wait_for(|now| now.is_at_rest || now.is_dead);
    match tokio::time::timeout(limit, rests).await {
        Ok(Ok(now)) if now.is_at_rest => Json(json!({ "position": now.position })).into_response(),
        Ok(_) | Err(_) => {
            shared.resume();
            error(
                StatusCode::SERVICE_UNAVAILABLE,
                "it did not come to rest in time",
            )
        }
    }
}

async fn resume(State(shared): App) -> Json<Value> {
    shared.resume();
    Json(json!({}))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewIdentity {
    identity: String,
    seed: String,
}

async fn reidentify(State(shared): App, Json(given): Json<NewIdentity>) -> Response {
    if given.identity.is_empty() || HeaderValue::from_str(&given.identity).is_err() {
        return error(StatusCode::BAD_REQUEST, "identity must be printable text");
    }
    // Whatever the seed's form, all of it counts.
    let seed = *blake3::hash(given.seed.as_bytes()).as_bytes();
    let mut identity = shared
        .identity
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    *identity = Identity {
        name: given.identity,
        random: StdRng::from_seed(seed),
    };
    Json(json!({ "identity": identity.name })).into_response()
}

fn not_single() -> Response {
    error(
        StatusCode::CONFLICT,
        "the journal is shared: this is not a single writer",
    )
}

/// What a change of standing came to: refused with 409, or failed.
fn stands(changed: Result<std::io::Result<Standing>, String>) -> Response {
    match changed {
        Ok(Ok(standing)) => Json(standing).into_response(),
        Ok(Err(reason)) => error(StatusCode::SERVICE_UNAVAILABLE, reason),
        Err(refused) => error(StatusCode::CONFLICT, refused),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Freeze {
    of: Option<u64>,
    at_least: Option<u64>,
}

async fn standing(State(shared): App) -> Response {
    match &shared.single {
        Some(single) => stands(Ok(single.stands())),
        None => not_single(),
    }
}

async fn freeze(State(shared): App, Json(asked): Json<Freeze>) -> Response {
    match &shared.single {
        Some(single) => stands(single.freeze(asked.of, asked.at_least.unwrap_or(0))),
        None => not_single(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Epoch {
    writer: u64,
}

async fn open_writer(State(shared): App, Json(asked): Json<Epoch>) -> Response {
    match &shared.single {
        Some(single) => stands(single.open(asked.writer)),
        None => not_single(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Followed {
    from: std::net::SocketAddr,
}

async fn follow(State(shared): App, Json(asked): Json<Followed>) -> Response {
    match &shared.single {
        Some(single) => stands(single.follow(asked.from.to_string())),
        None => not_single(),
    }
}

#[derive(Debug, Deserialize)]
struct FromPosition {
    position: u64,
    wait_ms: Option<u64>,
}

async fn read_journal(State(shared): App, Query(asked): Query<FromPosition>) -> Response {
    let Some(single) = &shared.single else {
        return not_single();
    };
    let wait = Duration::from_millis(asked.wait_ms.unwrap_or(0).min(LONGEST_MS));
    match single.read(asked.position, wait).await {
        Ok(Some(bytes)) => bytes.into_response(),
        Ok(None) => error(StatusCode::CONFLICT, "the journal ends before that"),
        Err(reason) => error(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}
