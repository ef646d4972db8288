//! Demand that others measure: `POST /api/samples` (JSON; `GET` gives it back), `POST /api/v1/write` (Prometheus remote
//! write) and `POST /v1/metrics` (OpenTelemetry over HTTP), all behind the [`crate::door`]. gRPC is
//! in [`crate::grpc`].
//!
//! What cannot be meant refuses its request as a whole, by the field. What is odd about samples that
//! could be meant (late, repeated, a counter that began anew) is counted and shown in the answer and
//! in the metrics. Prometheus and OpenTelemetry are taken in by rules (`ingest.series`) only:
//! without one these two answer 404.

pub mod samples;
pub mod settings;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use forecaster::intake::{Intake, Sample, Sieve, Sieved, Source, Taken};
use tokio::sync::Semaphore;

use crate::http::Api;

/// Largest request of samples as JSON: ten thousand of them.
const MAX_JSON: usize = 2 * 1024 * 1024;
/// Largest request of metrics, compressed.
const MAX_METRICS: usize = 4 * 1024 * 1024;
/// Requests of metrics that are unpacked at once.
const AT_ONCE: usize = 4;

/// What takes samples in.
#[derive(Clone)]
pub struct Ingest {
    /// The way into the forecaster's history.
    pub intake: Intake,
    sieve: Arc<Mutex<Sieve>>,
    sieved: Arc<Mutex<BTreeMap<Source, Sieved>>>,
    room: Arc<Semaphore>,
}

impl Ingest {
    /// Takes metrics in as a sieve says.
    pub fn new(intake: Intake, sieve: Sieve) -> Self {
        Self {
            intake,
            sieve: Arc::new(Mutex::new(sieve)),
            sieved: Arc::default(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    fn is_closed(&self) -> bool {
        lock(&self.sieve).is_closed()
    }

    /// Puts what `sift` finds into the history.
    fn take(
        &self,
        source: Source,
        sift: impl FnOnce(&mut Sieve, &mut Vec<Sample>) -> Sieved,
    ) -> (Sieved, Taken) {
        let mut found = Vec::new();
        let sieved = sift(&mut lock(&self.sieve), &mut found);
        let taken = self.intake.push(source, found);
        let mut counted = lock(&self.sieved);
        let total = counted.entry(source).or_default();
        let before = total.ambiguous;
        *total += sieved;
        if before == 0 && sieved.ambiguous > 0 {
            tracing::warn!(
                source = source.name(),
                "several series fit one rule for one instance: only the first is taken in; \
                 narrow ingest.series by labels, or sum them with a recording rule"
            );
        }
        (sieved, taken)
    }

    /// What the sieve made of metrics so far.
    pub fn sieved(&self) -> BTreeMap<Source, Sieved> {
        let counted = lock(&self.sieved);
        let of = |source| (source, counted.get(&source).copied().unwrap_or_default());
        [Source::RemoteWrite, Source::Otlp].map(of).into()
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Counts and rates are whole after every point.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The routes that this module answers.
pub fn routes() -> Router<Api> {
    let json = Router::new()
        .route("/api/samples", post(samples::push))
        .layer(DefaultBodyLimit::max(MAX_JSON));
    let metrics = Router::new()
        .route("/api/v1/write", post(wire::remote_write))
        .route("/v1/metrics", post(wire::otlp))
        .layer(DefaultBodyLimit::max(MAX_METRICS));
    json.merge(metrics).route(
        "/api/samples/{instance}",
        get(samples::known).delete(samples::forget),
    )
}
