//! What was sent and what came of it.

use std::collections::BTreeMap;

use domain::LatencyHistogram;
use serde::{Deserialize, Serialize};

use super::outcome::{Ended, Outcome};

/// Different values of a header that are counted apart.
const LABELS: usize = 64;

/// The label for what is beyond them.
const OTHERS: &str = "(others)";

/// Requests that failed, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Failures {
    /// Answered with 400 or above.
    pub status: u64,
    /// No connection.
    pub connect: u64,
    /// Not answered in time.
    pub timeout: u64,
    /// The connection broke.
    pub reset: u64,
}

impl Failures {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.status + self.connect + self.timeout + self.reset
    }
}

/// One stream in one phase. A request belongs to the phase in which it was to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Requests sent.
    pub sent: u64,
    /// Answered below 400.
    pub ok: u64,
    /// Failed.
    pub failed: Failures,
    /// Not sent, because too many were in flight.
    pub shed: u64,
    /// Latency from the intended send time to the end, of all that ended, in time or not.
    pub latency: LatencyHistogram,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers by the `x-replica` header.
    pub replicas: BTreeMap<String, u64>,
    /// Answers of 400 and above by the `x-replica` header.
    pub refused_by: BTreeMap<String, u64>,
    /// Answers by the `x-instance` header.
    pub instances: BTreeMap<String, u64>,
}

fn count(labels: &mut BTreeMap<String, u64>, label: Option<String>) {
    let Some(label) = label else { return };
    let is_room = labels.len() < LABELS || labels.contains_key(&label);
    *labels
        .entry(if is_room { label } else { OTHERS.to_owned() })
        .or_default() += 1;
}

fn add<K: Ord + Clone>(sum: &mut BTreeMap<K, u64>, other: &BTreeMap<K, u64>) {
    for (label, count) in other {
        *sum.entry(label.clone()).or_default() += count;
    }
}

impl PhaseReport {
    /// Requests that have not ended yet.
    pub const fn in_flight(&self) -> u64 {
        self.sent.saturating_sub(self.ok + self.failed.total())
    }

    pub(super) fn record(&mut self, outcome: Outcome, latency_us: u64) {
        match outcome.ended {
            Ended::Answered => self.ok += 1,
            Ended::Refused => self.failed.status += 1,
            Ended::NoConnection => self.failed.connect += 1,
            Ended::TimedOut => self.failed.timeout += 1,
            Ended::Reset => self.failed.reset += 1,
        }
        self.latency.record(latency_us);
        if let Some(status) = outcome.status {
            *self.statuses.entry(status).or_default() += 1;
        }
        if outcome.ended == Ended::Refused {
            count(&mut self.refused_by, outcome.replica.clone());
        }
        count(&mut self.replicas, outcome.replica);
        count(&mut self.instances, outcome.instance);
    }

    /// Adds another stream's or phase's.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.ok += other.ok;
        self.failed.status += other.failed.status;
        self.failed.connect += other.failed.connect;
        self.failed.timeout += other.failed.timeout;
        self.failed.reset += other.failed.reset;
        self.shed += other.shed;
        self.latency.merge(&other.latency);
        add(&mut self.statuses, &other.statuses);
        add(&mut self.replicas, &other.replicas);
        add(&mut self.refused_by, &other.refused_by);
        add(&mut self.instances, &other.instances);
    }
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamReport {
    /// By phase.
    pub phases: BTreeMap<String, PhaseReport>,
}

impl StreamReport {
    /// All phases together.
    pub fn total(&self) -> PhaseReport {
        let mut sum = PhaseReport::default();
        self.phases.values().for_each(|phase| sum.merge(phase));
        sum
    }
}

/// One request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its stream.
    pub stream: String,
    /// When it should have been sent, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// How long it took, in microseconds.
    pub latency_us: u64,
    /// The answer's status, if there was one.
    pub status: Option<u16>,
    /// Who answered, if it was said.
    pub replica: Option<String>,
    /// What the answer said, shortened.
    pub words: Option<String>,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LoadReport {
    /// By stream.
    pub streams: BTreeMap<String, StreamReport>,
    /// The first requests that failed.
    pub failures: Vec<Failure>,
}

/// Failures that are kept whole.
const KEPT_FAILURES: usize = 100;

impl LoadReport {
    /// All streams and phases together.
    pub fn total(&self) -> PhaseReport {
        let mut sum = PhaseReport::default();
        self.streams
            .values()
            .for_each(|stream| sum.merge(&stream.total()));
        sum
    }

    pub(super) fn keep(&mut self, stream: &str, outcome: &Outcome, latency_us: u64) {
        if outcome.ended == Ended::Answered || self.failures.len() >= KEPT_FAILURES {
            return;
        }
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.failures.push(Failure {
            stream: stream.to_owned(),
            due_ms: now_ms.saturating_sub(latency_us / 1_000),
            latency_us,
            status: outcome.status,
            replica: outcome.replica.clone(),
            words: outcome.words.clone(),
        });
    }

    /// All streams in one phase.
    pub fn phase(&self, label: &str) -> PhaseReport {
        let mut sum = PhaseReport::default();
        let phases = self
            .streams
            .values()
            .filter_map(|stream| stream.phases.get(label));
        phases.for_each(|phase| sum.merge(phase));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_fill_the_report_with_labels() {
        let mut report = PhaseReport::default();
        for number in 0..1_000 {
            let outcome = Outcome {
                ended: Ended::Answered,
                status: Some(200),
                replica: Some(format!("r{number}")),
                instance: None,
                words: None,
            };
            report.record(outcome, 1_000);
        }
        assert_eq!(report.replicas.len(), LABELS + 1);
        assert_eq!(report.replicas.values().sum::<u64>(), 1_000);
    }
}
