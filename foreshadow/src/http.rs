//! The web page and the control API, for people and scripts; who may use them is the matter of the
//! [`crate::door`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::api::forecasting::{self as api_contract, ForecastingServer};
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use domain::forecast::InstanceForecast;
use domain::{HostId, InstanceId, MigrationId};
use forecaster::Insight;
use migrator::events;
use migrator::gc::Mode;
use migrator::pool::isolation::{self, ChangeError, Claim, ClaimError, Claims};
use migrator::saga::ramp::{self, SteerError, Word};
use migrator::world::World;
use migrator::{Answer, Migrator, OrderError, Settings};
use serde::{Deserialize, Serialize};
use store::{Clock, Key, Kind, SharedStore};
use tokio_util::sync::CancellationToken;

use crate::announce;
use crate::door::{self, Guard, PageFiles};
use crate::error::Failure;
use crate::grpc::Forecasts;
use crate::health::Vitals;
use crate::ingest::{self, Ingest};
use crate::status;

/// Largest request body.
const MAX_BODY: usize = 64 * 1024;

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    /// The store.
    pub store: SharedStore,
    /// The settings the system runs with.
    pub settings: Arc<Settings>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The migrator, for aborts.
    pub migrator: Arc<Migrator>,
    /// How the parts of this process are.
    pub vitals: Vitals,
    /// What takes samples in.
    pub ingest: Ingest,
    /// What the forecaster knows of its own forecasts.
    pub insight: Insight,
}

impl Api {
    /// Everything that is wrong at present, by name.
    async fn troubles(&self) -> BTreeMap<String, String> {
        let mut troubles = self.migrator.troubles();
        let now = self.clock.now();
        self.vitals.look(&self.store, now, &mut troubles).await;
        troubles
    }
}

/// Serves the page and the API until cancelled. Gives the address it listens on.
///
/// # Errors
/// As [`door::open`].
pub async fn serve(
    api: Api,
    listen: SocketAddr,
    guard: Guard,
    files: Option<PageFiles>,
    cancel: CancellationToken,
) -> Result<SocketAddr, Failure> {
    let refused = Arc::clone(&guard.refused);
    let scraped = api.clone();
    let scrape = move || async move { metrics(&scraped, refused.load(Ordering::Relaxed)).await };
    let intake = api.ingest.intake.clone();
    let forecasts = Forecasts::new(Arc::clone(&api.store), intake, cancel.clone());
    let grpc = format!("/{}/{{method}}", api_contract::NAME);
    let app = Router::new()
        .route_service(&grpc, ForecastingServer::new(forecasts))
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .route("/metrics/forecasts", get(forecast_metrics))
        .route("/api/gc", post(collect))
        .route("/api/status", get(get_status))
        .route("/api/moves", post(order))
        .route("/api/plan", get(dry_run))
        .route("/api/signals", get(signals))
        .route("/api/evidence/{id}", get(evidence))
        .route("/api/hosts/{id}/isolate", post(isolate))
        .route("/api/hosts/{id}/release", post(release))
        .route("/api/migrations/{id}/log", get(get_log))
        .route("/api/migrations/{id}/abort", post(abort))
        .route("/api/migrations/{id}/retry", post(retry))
        .route("/api/migrations/{id}/rollback", post(roll_back))
        .merge(announce::routes())
        .merge(ingest::routes())
        .route("/api/migrations/{id}/steer", post(steer))
        .route("/api/migrations/{id}/ramp", get(get_ramp))
        .route("/api/migrations/{id}/ramp/record", get(get_record))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api);
    door::open(app, listen, guard, files, cancel).await
}

fn unavailable(error: &dyn std::fmt::Display) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response()
}

/// Whether this process can do its work: what is wrong, by name, if anything is.
async fn ready(State(api): State<Api>) -> Response {
    let troubles = api.troubles().await;
    let code = if troubles.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(Readiness { troubles })).into_response()
}

async fn metrics(api: &Api, refused: u64) -> Response {
    let troubles = api.troubles().await;
    let status = status::read(&*api.store, &api.settings, api.clock.now()).await;
    // Without a store there is little to tell, and that is told.
    let text = crate::metrics::text(status.ok().as_ref(), &troubles, refused, Some(&api.ingest));
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, text).into_response()
}

/// Whose forecasts are wanted.
#[derive(Debug, Deserialize)]
struct Whose {
    /// Names with commas between them; everybody's if left out.
    #[serde(default)]
    instances: String,
}

async fn forecast_metrics(State(api): State<Api>, Query(whose): Query<Whose>) -> Response {
    let records = match api.store.list(Kind::Forecast).await {
        Ok(records) => records,
        Err(error) => return unavailable(&error),
    };
    let sound = records.iter().filter_map(|record| record.parse().ok());
    let known: Vec<InstanceForecast> = sound.map(|record| record.value).collect();
    let names = whose.instances.split(',').map(str::trim);
    let wanted = names.filter(|name| !name.is_empty()).collect();
    let text = crate::metrics::forecasts::text(&known, &wanted, &api.insight);
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, text).into_response()
}

/// Whether a process can do its work.
#[derive(Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// What is wrong, by name; nothing when it is ready.
    pub troubles: BTreeMap<String, String>,
}

/// A wish to collect what belongs to nothing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// What is done with what is found.
    pub mode: Mode,
}

async fn collect(State(api): State<Api>, wish: Result<Json<Collect>, JsonRejection>) -> Response {
    let Json(wish) = match wish {
        Ok(wish) => wish,
        Err(error) => return (StatusCode::BAD_REQUEST, error.body_text()).into_response(),
    };
    match api.migrator.collect(wish.mode).await {
        Ok(report) => Json(report).into_response(),
        Err(error @ OrderError::Refused(_)) => {
            (StatusCode::CONFLICT, error.to_string()).into_response()
        }
        Err(error @ OrderError::Unavailable(_)) => unavailable(&error),
    }
}

async fn get_status(State(api): State<Api>) -> Response {
    match status::read(&*api.store, &api.settings, api.clock.now()).await {
        Ok(mut status) => {
            status.troubles = api.troubles().await;
            Json(status).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

async fn get_log(State(api): State<Api>, Path(id): Path<String>) -> Response {
    let id = match MigrationId::new(id) {
        Ok(id) => id,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    match api
        .store
        .read_log(&migrator::saga::log_name(&id), 0, 10_000)
        .await
    {
        Ok(entries) if entries.is_empty() => {
            (StatusCode::NOT_FOUND, format!("migration {id} is unknown")).into_response()
        }
        Ok(entries) => {
            let lines: Vec<serde_json::Value> = entries
                .iter()
                .filter_map(|entry| serde_json::from_slice(&entry.value).ok())
                .collect();
            Json(lines).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

/// What would be decided now; nothing of it is done.
async fn dry_run(State(api): State<Api>) -> Response {
    match World::read(&*api.store, api.clock.now()).await {
        Ok(world) => Json(api.migrator.dry_run(&world, &api.settings)).into_response(),
        Err(error) => unavailable(&error),
    }
}

/// Which signals are asked for.
#[derive(Debug, Deserialize)]
struct From {
    /// Number of the first.
    #[serde(default)]
    from: u64,
}

/// Plans, assignments and isolation as they were signalled, with their numbers.
async fn signals(State(api): State<Api>, Query(asked): Query<From>) -> Response {
    match api
        .store
        .read_log(&events::log_name(), asked.from, 1_000)
        .await
    {
        Ok(entries) => {
            let lines: Vec<serde_json::Value> = entries
                .iter()
                .filter_map(|entry| {
                    let signal: serde_json::Value = serde_json::from_slice(&entry.value).ok()?;
                    Some(serde_json::json!({"number": entry.sequence, "signal": signal}))
                })
                .collect();
            Json(lines).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

/// What a decision was made from: of a plan, or the latest.
async fn evidence(State(api): State<Api>, Path(id): Path<String>) -> Response {
    match api.store.get(&Key::new(Kind::Evidence, id.as_str())).await {
        // As it is stored: read and written again, a number could lose its last digit.
        Ok(Some(record)) => {
            let json = [(CONTENT_TYPE, "application/json")];
            (json, record.value).into_response()
        }
        Ok(None) => (
            StatusCode::NOT_FOUND,
            format!("no evidence of {id} is kept"),
        )
            .into_response(),
        Err(error) => unavailable(&error),
    }
}

/// Who isolates a host, and why.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isolate {
    /// Who.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// After how many seconds an alarm is due; never if left out.
    #[serde(default)]
    pub lease_s: Option<u64>,
    /// Whether the host is to be emptied.
    #[serde(default)]
    pub drain: bool,
}

/// Who gives a host back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Who.
    pub owner: String,
}

/// The host after a change of its isolation.
#[derive(Debug, Serialize, Deserialize)]
pub struct Isolated {
    /// The host.
    pub host: HostId,
    /// Whether it takes no new instances.
    pub isolated: bool,
}

async fn isolate(
    State(api): State<Api>,
    Path(id): Path<String>,
    asked: Result<Json<Isolate>, JsonRejection>,
) -> Response {
    let Json(asked) = match asked {
        Ok(asked) => asked,
        Err(error) => return (StatusCode::BAD_REQUEST, error.body_text()).into_response(),
    };
    let since = api.clock.now();
    let claim = Claim {
        reason: asked.reason,
        since,
        until: asked.lease_s.map(|s| since.plus(s.saturating_mul(1_000))),
        drain: asked.drain,
    };
    changed(&api, id, &asked.owner, |claims| {
        claims.claim(&asked.owner, claim.clone())?;
        Ok(true)
    })
    .await
}

async fn release(
    State(api): State<Api>,
    Path(id): Path<String>,
    asked: Result<Json<Release>, JsonRejection>,
) -> Response {
    let Json(asked) = match asked {
        Ok(asked) => asked,
        Err(error) => return (StatusCode::BAD_REQUEST, error.body_text()).into_response(),
    };
    let owner = asked.owner.as_str();
    changed(&api, id, owner, |claims| {
        claims.release(owner).map(|free| !free)
    })
    .await
}

async fn changed(
    api: &Api,
    id: String,
    owner: &str,
    deed: impl Fn(&mut Claims) -> Result<bool, ClaimError>,
) -> Response {
    let host = match HostId::new(id) {
        Ok(host) => host,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    match isolation::change(&*api.store, &host, owner, deed).await {
        Ok(isolated) => Json(Isolated { host, isolated }).into_response(),
        Err(error @ ChangeError::Unknown(_)) => {
            (StatusCode::NOT_FOUND, error.to_string()).into_response()
        }
        Err(error @ ChangeError::Claim(_)) => {
            (StatusCode::CONFLICT, error.to_string()).into_response()
        }
        Err(error @ ChangeError::Store(_)) => unavailable(&error),
    }
}

/// A move that somebody orders.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What shall move.
    pub instance: InstanceId,
    /// To where.
    pub target: HostId,
}

/// A move that has begun.
#[derive(Debug, Serialize, Deserialize)]
pub struct Begun {
    /// Its migration.
    pub migration: MigrationId,
}

async fn order(State(api): State<Api>, order: Result<Json<Order>, JsonRejection>) -> Response {
    let Json(order) = match order {
        Ok(order) => order,
        Err(error) => return (StatusCode::BAD_REQUEST, error.body_text()).into_response(),
    };
    begun(api.migrator.order(order.instance, order.target).await)
}

async fn retry(state: State<Api>, id: Path<String>) -> Response {
    answer(state, id, Answer::Retry).await
}

async fn roll_back(state: State<Api>, id: Path<String>) -> Response {
    answer(state, id, Answer::RollBack).await
}

async fn answer(State(api): State<Api>, Path(id): Path<String>, answer: Answer) -> Response {
    match MigrationId::new(id) {
        Ok(id) => begun(api.migrator.answer(id, answer).await),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

/// A word to a ramp.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steer {
    /// What is asked.
    pub word: Word,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

async fn steer(
    State(api): State<Api>,
    Path(id): Path<String>,
    told: Result<Json<Steer>, JsonRejection>,
) -> Response {
    let bad = |words: String| (StatusCode::BAD_REQUEST, words).into_response();
    let told = match told {
        Ok(Json(told)) => told,
        Err(error) => return bad(error.body_text()),
    };
    let id = match MigrationId::new(id) {
        Ok(id) => id,
        Err(error) => return bad(error.to_string()),
    };
    let now = api.clock.now();
    match ramp::steer(&*api.store, now, &id, told.word, &told.reason).await {
        Ok(steering) => (StatusCode::ACCEPTED, Json(steering)).into_response(),
        Err(error @ SteerError::Refused(_)) => {
            (StatusCode::CONFLICT, error.to_string()).into_response()
        }
        Err(error @ SteerError::Store(_)) => unavailable(&error),
    }
}

/// The state of a ramp: judge, weight, and what it rests on.
async fn get_ramp(State(api): State<Api>, Path(id): Path<String>) -> Response {
    match api.store.get(&Key::new(Kind::Ramp, id.as_str())).await {
        Ok(Some(record)) => match serde_json::from_slice::<serde_json::Value>(&record.value) {
            Ok(value) => Json(value).into_response(),
            Err(error) => unavailable(&error),
        },
        Ok(None) => (StatusCode::NOT_FOUND, format!("migration {id} has no ramp")).into_response(),
        Err(error) => unavailable(&error),
    }
}

/// The record of a ramp, a line of JSON per entry.
async fn get_record(State(api): State<Api>, Path(id): Path<String>) -> Response {
    let id = match MigrationId::new(id) {
        Ok(id) => id,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    match api.store.read_log(&ramp::log_name(&id), 0, 1_000_000).await {
        Ok(entries) if entries.is_empty() => (
            StatusCode::NOT_FOUND,
            format!("migration {id} has no record of a ramp"),
        )
            .into_response(),
        Ok(entries) => {
            let mut lines = Vec::new();
            for entry in entries {
                lines.extend_from_slice(&entry.value);
                lines.push(b'\n');
            }
            lines.into_response()
        }
        Err(error) => unavailable(&error),
    }
}

fn begun(result: Result<MigrationId, OrderError>) -> Response {
    match result {
        Ok(migration) => (StatusCode::ACCEPTED, Json(Begun { migration })).into_response(),
        Err(error @ OrderError::Refused(_)) => {
            (StatusCode::CONFLICT, error.to_string()).into_response()
        }
        Err(error @ OrderError::Unavailable(_)) => unavailable(&error),
    }
}

async fn abort(State(api): State<Api>, Path(id): Path<String>) -> Response {
    match MigrationId::new(id) {
        Ok(id) if api.migrator.abort(&id, "an operator asked for it") => (
            StatusCode::ACCEPTED,
            format!("migration {id} is asked to roll back"),
        )
            .into_response(),
        Ok(id) => (
            StatusCode::NOT_FOUND,
            format!("migration {id} is not running here"),
        )
            .into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
