//! The counters of one cluster.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use domain::{Counts, LATENCY_EDGES_US, LatencyHistogram};

use super::sessions::Sessions;

/// Number of latency buckets.
const BUCKETS: usize = LATENCY_EDGES_US.len() + 1;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, with a status below 500.
    Success,
    /// Answered with 500 and above, too late, or not at all.
    Error,
    /// The client went away before an answer began.
    Cancelled,
}

impl Outcome {
    /// The outcome that a status means.
    pub const fn of_status(status: u16) -> Self {
        if status >= 500 {
            Self::Error
        } else {
            Self::Success
        }
    }
}

/// The counters of one cluster; cheap to add to from any thread.
#[derive(Debug, Default)]
pub struct Counters {
    ended: Ended,
    cancelled: AtomicU64,
    issued: AtomicU64,
    in_progress: AtomicU64,
    /// Of a sticky service: which sessions are known, and how their first requests ended.
    sessions: OnceLock<(Sessions, Ended)>,
}

/// How requests ended.
#[derive(Debug)]
struct Ended {
    success: AtomicU64,
    error: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

impl Default for Ended {
    fn default() -> Self {
        Self {
            success: AtomicU64::new(0),
            error: AtomicU64::new(0),
            latency: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Ended {
    /// Counts a request; one that was cancelled did not end.
    fn count(&self, outcome: Outcome, took: Duration) {
        let counter = match outcome {
            Outcome::Success => &self.success,
            Outcome::Error => &self.error,
            Outcome::Cancelled => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.latency.get(LatencyHistogram::bucket(micros)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counts(&self, in_progress: u64) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            success: read(&self.success),
            error: read(&self.error),
            in_progress,
            latency: self.latency.iter().map(read).collect::<Vec<u64>>().into(),
        }
    }
}

/// The totals of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Successes, errors, in progress, latencies.
    pub counts: Counts,
    /// Attempts.
    pub issued: u64,
    /// Given up by the client.
    pub cancelled: u64,
    /// The first requests of sessions, where a header chooses.
    pub sessions: Counts,
}

impl Counters {
    /// Counts an ended request.
    pub fn ended(&self, outcome: Outcome, took: Duration) {
        if outcome == Outcome::Cancelled {
            self.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        self.ended.count(outcome, took);
    }

    /// Whether a request is the first one of its session here, by the hash of the session's name.
    pub fn is_first_of(&self, session: u64, now_ms: u64) -> bool {
        let begin = || (Sessions::new(now_ms), Ended::default());
        let (sessions, _) = self.sessions.get_or_init(begin);
        sessions.is_first(session, now_ms)
    }

    /// Counts an ended request as its session's.
    pub fn session_ended(&self, outcome: Outcome, took: Duration) {
        if let Some((_, ended)) = self.sessions.get() {
            ended.count(outcome, took);
        }
    }

    /// Counts an attempt.
    pub fn issue(&self) {
        self.issued.fetch_add(1, Ordering::Relaxed);
    }

    /// The totals now.
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            counts: self.ended.counts(read(&self.in_progress)),
            issued: read(&self.issued),
            cancelled: read(&self.cancelled),
            sessions: match self.sessions.get() {
                Some((_, ended)) => ended.counts(0),
                None => Counts::default(),
            },
        }
    }
}

/// A request in progress at a cluster, until it is dropped.
#[derive(Debug)]
pub struct InProgress(Arc<Counters>);

impl InProgress {
    /// Begins.
    pub fn begin(counters: &Arc<Counters>) -> Self {
        counters.in_progress.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}
