//! What "slow" and "failed too often" mean for one stage, fixed before its first look.

use domain::{Counts, LATENCY_EDGES_US, LatencyHistogram};
use serde::{Deserialize, Serialize};

use super::factor::Margin;
use super::mixture::Exact;
use crate::settings::JudgeSettings;

/// Fewer requests than these tell nothing about a distribution.
const ENOUGH: u64 = 20;
/// A limit this high forbids nothing that could be seen.
const IDLE: f64 = 0.98;
/// Share of failures that is accepted on an instance whose past nobody knows.
const UNKNOWN_ERRORS: f64 = 0.05;
/// Levels of the baseline at whose latency requests are counted as slow.
const LEVELS: [f64; 3] = [0.5, 0.9, 0.99];

/// One edge of the latency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Edge {
    /// Requests slower than this are slow, in microseconds.
    pub(super) us: u64,
    /// Share of the baseline that was slower, with two standard errors for its sample.
    pub(super) before: Option<Exact>,
}

/// Edges and shares from before the contention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Yardstick {
    /// Share of the baseline that failed, likewise.
    pub(super) errors: Option<Exact>,
    /// By rising level.
    pub(super) edges: Vec<Edge>,
    /// The edge that no state of the original excuses.
    pub(super) far: Option<Edge>,
}

impl Yardstick {
    pub(super) fn new(baseline: &Counts, settings: &JudgeSettings) -> Self {
        let known = baseline.ended() >= ENOUGH;
        let mut yardstick = Self {
            errors: known.then(|| upper(baseline.error, baseline.ended())),
            edges: Vec::new(),
            far: None,
        };
        if baseline.latency.total() >= ENOUGH {
            yardstick.edges = edges(&baseline.latency);
            for edge in &mut yardstick.edges {
                edge.before = Some(before(&baseline.latency, edge.us));
            }
            yardstick.far = far(&baseline.latency, settings);
        }
        yardstick
    }

    /// What the original did during the ramp is allowed as well: it stands in for the live one.
    pub(super) fn allow(&mut self, original: &Counts) {
        let more = |before: Exact, bad, all| Exact(before.0.max(upper(bad, all).0));
        if original.ended() >= ENOUGH {
            self.errors = self
                .errors
                .map(|before| more(before, original.error, original.ended()));
        }
        let latency = &original.latency;
        if latency.total() >= ENOUGH {
            for edge in &mut self.edges {
                let slower = latency.slower_than(edge.us);
                edge.before = edge.before.map(|b| more(b, slower, latency.total()));
            }
        }
    }

    /// Without a baseline the edges come from what the original has shown so far. They are chosen
    /// before the requests that they are used for, so that the tests stay valid.
    pub(super) fn learn(&mut self, original: &LatencyHistogram) {
        if self.edges.is_empty() && original.total() >= ENOUGH {
            self.edges = edges(original);
        }
    }
}

fn edges(histogram: &LatencyHistogram) -> Vec<Edge> {
    let quantiles = LEVELS.into_iter().filter_map(|l| histogram.quantile_us(l));
    let mut edges: Vec<u64> = quantiles.filter_map(nearest).collect();
    edges.dedup();
    let edge = |us| Edge { us, before: None };
    edges.into_iter().map(edge).collect()
}

fn nearest(latency_us: f64) -> Option<u64> {
    let distance = |edge: &u64| (*edge as f64 / latency_us).ln().abs();
    let closer = |a: &u64, b: &u64| distance(a).total_cmp(&distance(b));
    LATENCY_EDGES_US.into_iter().min_by(closer)
}

fn far(baseline: &LatencyHistogram, settings: &JudgeSettings) -> Option<Edge> {
    let limit = settings.far_factor * baseline.quantile_us(0.9)? + 20_000.0;
    let us = LATENCY_EDGES_US.into_iter().find(|&e| e as f64 >= limit)?;
    Some(Edge {
        us,
        before: Some(before(baseline, us)),
    })
}

fn before(baseline: &LatencyHistogram, us: u64) -> Exact {
    upper(baseline.slower_than(us), baseline.total())
}

/// A share and two standard errors, smoothed by half a request.
fn upper(bad: u64, all: u64) -> Exact {
    let n = all as f64 + 1.0;
    let share = (bad as f64 + 0.5) / n;
    Exact((share + 2.0 * (share * (1.0 - share) / n).sqrt()).min(1.0))
}

/// How wide the margins are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Width {
    /// Beside a live original.
    Usual,
    /// With nothing to compare with but the past.
    Alone,
}

impl Width {
    fn widen(self, margin: Margin, settings: &JudgeSettings) -> Margin {
        match self {
            // Worse than before is enough here: how much worse, the live original says.
            Self::Usual => Margin {
                ratio: 1.0,
                ..margin
            },
            Self::Alone => Margin {
                ratio: 1.0 + (margin.ratio - 1.0) * settings.alone_factor,
                share: margin.share * settings.alone_factor,
            },
        }
    }

    /// The share that a margin allows over a frozen one; `None` if it allows everything.
    pub(super) fn limit(
        self,
        before: Exact,
        margin: Margin,
        settings: &JudgeSettings,
    ) -> Option<f64> {
        let margin = self.widen(margin, settings);
        let limit = margin.ratio * before.0 + margin.share;
        (limit < IDLE).then_some(limit)
    }

    /// The share of failures that is allowed.
    pub(super) fn error_limit(
        self,
        errors: Option<Exact>,
        margin: Margin,
        settings: &JudgeSettings,
    ) -> Option<f64> {
        match errors {
            Some(errors) => self.limit(errors, margin, settings),
            None => Some(self.widen(margin, settings).share.max(UNKNOWN_ERRORS)),
        }
    }
}
