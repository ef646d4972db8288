//! What "slow" and "failed too often" mean for one ramp, fixed before its first look.

use domain::{Counts, LATENCY_EDGES_US, LatencyHistogram};
use serde::{Deserialize, Serialize};

use super::mixture::Exact;
use super::stream::Bad;
use crate::settings::JudgeSettings;

/// Fewer requests than these tell nothing about a distribution.
const ENOUGH: u64 = 20;
/// A limit this high forbids nothing that could be seen.
const IDLE: f64 = 0.98;
/// Share of failures that is accepted on an instance whose past nobody knows.
const UNKNOWN_ERRORS: f64 = 0.05;
/// Levels of the baseline at whose latency requests are counted as slow …
const LEVELS: [f64; 3] = [0.5, 0.9, 0.99];
/// … and as stalled.
const NEARLY_ALL: f64 = 0.999;

/// One edge of the latency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Edge {
    /// What is counted.
    pub(super) bad: Bad,
    /// Share of the baseline that was slower.
    pub(super) before: Exact,
    /// The same with two standard errors for its sample; `None` without a baseline.
    pub(super) upper: Option<Exact>,
}

/// Edges and shares from before the contention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Yardstick {
    /// Failures.
    pub(super) errors: Edge,
    /// By rising latency.
    pub(super) slow: Vec<Edge>,
    /// The edge that no state of the original excuses.
    pub(super) far: Option<Edge>,
}

impl Yardstick {
    pub(super) fn new(baseline: &Counts, settings: &JudgeSettings) -> Self {
        let known = baseline.ended() >= ENOUGH;
        let mut yardstick = Self {
            errors: Edge {
                bad: Bad::Failed,
                before: Exact(smoothed(baseline.error, baseline.ended())),
                upper: known.then(|| upper(baseline.error, baseline.ended())),
            },
            slow: Vec::new(),
            far: None,
        };
        if baseline.latency.total() >= ENOUGH {
            yardstick.slow = edges(&baseline.latency)
                .into_iter()
                .map(|bad| edge(bad, baseline))
                .collect();
            yardstick.far = far(baseline, settings);
        }
        yardstick
    }

    /// Without a baseline the edges come from what the original has shown so far. They are chosen
    /// before the requests that they are used for, so that the tests stay valid.
    pub(super) fn learn(&mut self, original: &LatencyHistogram) {
        if self.slow.is_empty() && original.total() >= ENOUGH {
            let learnt = |bad: Bad| Edge {
                bad,
                before: Exact(match bad {
                    Bad::Failed => 0.0,
                    Bad::SlowerThan(us) | Bad::Stalled(us) => {
                        smoothed(original.slower_than(us), original.total())
                    }
                }),
                upper: None,
            };
            self.slow = edges(original).into_iter().map(learnt).collect();
        }
    }
}

fn edges(histogram: &LatencyHistogram) -> Vec<Bad> {
    let quantiles = LEVELS.into_iter().filter_map(|l| histogram.quantile_us(l));
    let mut slow: Vec<u64> = quantiles.filter_map(nearest).collect();
    slow.dedup();
    let last = histogram.quantile_us(NEARLY_ALL);
    let stall = last.and_then(|last| LATENCY_EDGES_US.into_iter().find(|&e| e as f64 >= last));
    let stalled = stall.filter(|us| slow.last().is_none_or(|slowest| us > slowest));
    let slow = slow.into_iter().map(Bad::SlowerThan);
    slow.chain(stalled.map(Bad::Stalled)).collect()
}

fn nearest(latency_us: f64) -> Option<u64> {
    let distance = |edge: &u64| (*edge as f64 / latency_us).ln().abs();
    let closer = |a: &u64, b: &u64| distance(a).total_cmp(&distance(b));
    LATENCY_EDGES_US.into_iter().min_by(closer)
}

fn far(baseline: &Counts, settings: &JudgeSettings) -> Option<Edge> {
    let limit = settings.far_factor * baseline.latency.quantile_us(0.9)? + 20_000.0;
    let us = LATENCY_EDGES_US.into_iter().find(|&e| e as f64 >= limit)?;
    Some(edge(Bad::SlowerThan(us), baseline))
}

fn edge(bad: Bad, baseline: &Counts) -> Edge {
    let (count, all) = (bad.bad(baseline), bad.all(baseline));
    Edge {
        bad,
        before: Exact(smoothed(count, all)),
        upper: Some(upper(count, all)),
    }
}

/// A share, smoothed by half a request.
fn smoothed(bad: u64, all: u64) -> f64 {
    (bad as f64 + 0.5) / (all as f64 + 1.0)
}

/// A share and two standard errors.
fn upper(bad: u64, all: u64) -> Exact {
    let share = smoothed(bad, all);
    Exact((share + 2.0 * (share * (1.0 - share) / (all as f64 + 1.0)).sqrt()).min(1.0))
}

impl Edge {
    /// The share that is allowed over what was before; `None` if that is everything, or unknown.
    ///
    /// Worse than before by the margin is enough: how many times worse, the live original says.
    pub(super) fn limit(&self, share: f64) -> Option<f64> {
        let upper = match (self.upper, self.bad) {
            (Some(upper), _) => upper.0 + share,
            (None, Bad::Failed) => share.max(UNKNOWN_ERRORS),
            (None, Bad::SlowerThan(_) | Bad::Stalled(_)) => return None,
        };
        (upper < IDLE).then_some(upper)
    }
}
