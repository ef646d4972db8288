//! The thin edge: schedules become requests.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outcome::{HttpClient, Outcome, send};
use super::report::{LoadReport, PhaseReport};
use super::schedule::Schedule;
use super::stream::StreamSpec;

/// How load is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadSettings {
    /// Makes schedules and keys.
    pub seed: u64,
    /// Requests in flight, of all streams together; more are shed.
    pub max_in_flight: usize,
    /// Time limit of a request.
    pub timeout: Duration,
}

impl Default for LoadSettings {
    fn default() -> Self {
        Self {
            seed: 1,
            max_in_flight: 512,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Why load cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The report could not tell them apart.
    #[error("two streams are named {0:?}")]
    SameName(String),
    /// Method, path or headers make no request.
    #[error("stream {stream:?}: {reason}")]
    Request {
        /// Which.
        stream: String,
        /// Why.
        reason: String,
    },
}

/// What all streams share.
#[derive(Debug)]
struct Shared {
    client: HttpClient,
    in_flight: Arc<Semaphore>,
    timeout: Duration,
    phase: Mutex<Arc<str>>,
    report: Mutex<LoadReport>,
    requests: TaskTracker,
}

/// Load that is being made. Dropping it ends the streams; what is in flight ends by itself.
#[derive(Debug)]
pub struct LoadGenerator {
    shared: Arc<Shared>,
    streams: TaskTracker,
    stop: CancellationToken,
}

impl Drop for LoadGenerator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl LoadGenerator {
    /// Starts all streams at once, in the phase `phase`.
    ///
    /// # Errors
    /// [`LoadError`] before anything is sent.
    pub fn start(
        settings: LoadSettings,
        phase: &str,
        streams: Vec<StreamSpec>,
    ) -> Result<Self, LoadError> {
        check(&streams)?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build_http();
        let shared = Arc::new(Shared {
            client,
            in_flight: Arc::new(Semaphore::new(settings.max_in_flight)),
            timeout: settings.timeout,
            phase: Mutex::new(phase.into()),
            report: Mutex::default(),
            requests: TaskTracker::new(),
        });
        let this = Self {
            shared,
            streams: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let began = Instant::now();
        for (number, spec) in (0_u64..).zip(streams) {
            // Streams are independent of each other, and of how many there are.
            let seed = settings
                .seed
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add(number);
            this.streams.spawn(run(
                Arc::clone(&this.shared),
                this.stop.clone(),
                spec,
                seed,
                began,
            ));
        }
        this.streams.close();
        Ok(this)
    }

    /// From now on, requests belong to this phase.
    pub fn set_phase(&self, phase: &str) {
        *self
            .shared
            .phase
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = phase.into();
    }

    /// What has come of it so far.
    pub fn snapshot(&self) -> LoadReport {
        self.shared
            .report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until every stream has come to its end (curves that stop).
    pub async fn finished(&self) {
        self.streams.wait().await;
    }

    /// Sends nothing more, waits for what is in flight, and gives the report.
    pub async fn stop(self) -> LoadReport {
        self.stop.cancel();
        self.streams.wait().await;
        self.shared.requests.close();
        // Each request has its time limit, so this ends.
        self.shared.requests.wait().await;
        self.snapshot()
    }
}

fn check(streams: &[StreamSpec]) -> Result<(), LoadError> {
    let mut names = BTreeSet::new();
    for spec in streams {
        if !names.insert(&spec.name) {
            return Err(LoadError::SameName(spec.name.clone()));
        }
        if let Err(error) = spec.request(&mut StdRng::seed_from_u64(0)) {
            let reason = error.to_string();
            return Err(LoadError::Request {
                stream: spec.name.clone(),
                reason,
            });
        }
    }
    Ok(())
}

impl Shared {
    fn phase(&self) -> Arc<str> {
        Arc::clone(&self.phase.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, stream: &str, phase: &str, change: impl FnOnce(&mut PhaseReport)) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = report.streams.entry(stream.to_owned()).or_default();
        change(stream.phases.entry(phase.to_owned()).or_default());
    }

    fn end(&self, stream: &str, phase: &str, outcome: Outcome, latency_us: u64) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.keep(stream, &outcome, latency_us);
        let stream = report.streams.entry(stream.to_owned()).or_default();
        let phase = stream.phases.entry(phase.to_owned()).or_default();
        phase.record(outcome, latency_us);
    }
}

/// Sends a stream's requests at their times.
async fn run(
    shared: Arc<Shared>,
    stop: CancellationToken,
    spec: StreamSpec,
    seed: u64,
    began: Instant,
) {
    let mut random = StdRng::seed_from_u64(!seed);
    for after in Schedule::new(spec.curve.clone(), spec.arrivals, seed) {
        let due = began + after;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(due) => {}
        }
        // Also when late, where the sleep above does not wait: others must get their turn.
        let phase = shared.phase();
        let Ok(request) = spec.request(&mut random) else {
            continue;
        };
        let Ok(permit) = Arc::clone(&shared.in_flight).try_acquire_owned() else {
            shared.note(&spec.name, &phase, |report| report.shed += 1);
            tokio::task::yield_now().await;
            continue;
        };
        shared.note(&spec.name, &phase, |report| report.sent += 1);
        let (all, stream) = (Arc::clone(&shared), spec.name.clone());
        shared.requests.spawn(async move {
            let outcome: Outcome = send(&all.client, request, all.timeout).await;
            let latency = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
            all.end(&stream, &phase, outcome, latency);
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests;
