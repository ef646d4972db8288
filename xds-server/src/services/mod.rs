//! The gRPC services: thin edges that turn wire messages into events and back.

mod als;
mod csds;
mod discovery;
mod lrs;
mod pace;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use store::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

pub(crate) use als::Als;
pub(crate) use csds::Csds;
pub(crate) use discovery::{
    Aggregated, Clusters, Discovery, Endpoints, Listeners, Routes, Secrets,
};
pub(crate) use lrs::Lrs;
use pace::Pace;

use crate::hub::Command;
use crate::metrics::Metrics;
use crate::telemetry::SharedTelemetry;

/// Largest message accepted from a client.
pub(crate) const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// How long a stream may be open without a word.
pub(crate) const FIRST_MESSAGE: std::time::Duration = std::time::Duration::from_secs(10);

/// What all services share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) hub: mpsc::Sender<Command>,
    pub(crate) telemetry: SharedTelemetry,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    discovery: Arc<Semaphore>,
    telemetry_slots: Arc<Semaphore>,
    next_stream: Arc<AtomicU64>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) report_interval: std::time::Duration,
    pub(crate) metrics: Arc<Metrics>,
}

impl Shared {
    pub(crate) fn new(
        config: &crate::XdsConfig,
        hub: mpsc::Sender<Command>,
        telemetry: SharedTelemetry,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
        tasks: TaskTracker,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            hub,
            telemetry,
            clock,
            stop,
            tasks,
            discovery: Arc::new(Semaphore::new(config.max_streams)),
            // A node has one load reporting and one access log stream.
            telemetry_slots: Arc::new(Semaphore::new(config.max_streams.saturating_mul(2))),
            next_stream: Arc::default(),
            pace: Arc::new(Pace::new(config.streams_per_second)),
            report_interval: config.report_interval,
            metrics,
        }
    }

    /// A number that no other stream of this process has.
    pub(crate) fn number(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// A place among the discovery streams, held while the permit lives.
    fn discovery_slot(&self) -> Result<OwnedSemaphorePermit, Status> {
        slot(&self.discovery, "discovery")
    }

    /// A place among the telemetry streams, held while the permit lives.
    fn telemetry_slot(&self) -> Result<OwnedSemaphorePermit, Status> {
        slot(&self.telemetry_slots, "telemetry")
    }
}

fn slot(slots: &Arc<Semaphore>, kind: &str) -> Result<OwnedSemaphorePermit, Status> {
    Arc::clone(slots).try_acquire_owned().map_err(|_| {
        Status::resource_exhausted(format!("too many {kind} streams: max_streams is reached"))
    })
}
