//! The rules of Flagger, Argo Rollouts and Kayenta, written down anew.
//!
//! - **Flagger** (`pkg/controller/scheduler.go`, 1.44; docs' example): every 60 s, 5 % more up to
//!   50 %; a check fails when the success rate of the last minute is below 99 %, when its P99 is
//!   above 1.67 times the healthy P99, or without data; failed checks are counted over the whole
//!   ramp and the roll-back comes one tick after the limit. Docs say 10, unset means 1.
//! - **Argo Rollouts** (`docs/features/analysis.md`, 1.10): 20, 40, 60, 80 %, 10 min each; every
//!   5 min a measurement fails below a success rate of 95 %; more than 3 failures abort.
//! - **Kayenta** (`MannWhitneyClassifier`, `NetflixACAJudge-v1.0`): 10 % beside a baseline of 10 %
//!   of its own; error rate and mean latency per point, each its own group; Mann-Whitney at 98 %
//!   with tolerance 0.25 of the Hodges-Lehmann shift (as R's `wilcox.test`: ties in the variance,
//!   continuity correction); one metric "High" is a score of 50, below
//!   the marginal 75. Guidance: 60 s points, judged hourly, 3 h; and a fast setting.
//!
//! Users' published examples are in `tests`. Not modelled: scrape intervals and their lag, which would make Flagger and Argo slower.

use domain::{Counts, LATENCY_EDGES_US, LatencyHistogram};

use foreshadow_migrator::simulate::End;

use super::Rule;
use super::cells::Served;

pub(crate) struct Flagger {
    threshold: u32,
    failed: u32,
    weight: f64,
    seconds: u32,
    window: Counts,
    p99_limit: f64,
}

impl Flagger {
    pub(crate) fn new(threshold: u32) -> Self {
        // Lognormal with sigma 0.8: the quantile 0.99 is exp(0.8 × 2.326) medians.
        let p99 = 5_000.0 * (0.8_f64 * 2.326).exp();
        Self {
            threshold,
            failed: 0,
            weight: 0.05,
            seconds: 0,
            window: Counts::default(),
            p99_limit: 1.67 * p99,
        }
    }

    fn passes(&self) -> bool {
        let (all, bad) = (self.window.ended() as f64, self.window.error as f64);
        let p99 = self.window.latency.quantile_us(0.99);
        all > 0.0 && 1.0 - bad / all >= 0.99 && p99.is_some_and(|p99| p99 <= self.p99_limit)
    }
}

impl Rule for Flagger {
    fn shadow_share(&self) -> f64 {
        self.weight
    }

    fn original_share(&self) -> f64 {
        0.0
    }

    fn look(&mut self, _: &Served, shadow: &Served) -> Option<End> {
        let shadow = &shadow.requests;
        self.seconds += 1;
        self.window.merge(shadow);
        if !self.seconds.is_multiple_of(60) {
            return None;
        }
        if self.failed >= self.threshold {
            return Some(End::RolledBack);
        }
        let passes = self.passes();
        self.window = Counts::default();
        if !passes {
            self.failed += 1;
        } else if self.weight >= 0.499 {
            return Some(End::Promoted);
        } else {
            self.weight += 0.05;
        }
        None
    }
}

pub(crate) struct Argo {
    failed: u32,
    seconds: u32,
    window: Counts,
}

impl Argo {
    pub(crate) fn new() -> Self {
        Self {
            failed: 0,
            seconds: 0,
            window: Counts::default(),
        }
    }
}

impl Rule for Argo {
    fn shadow_share(&self) -> f64 {
        f64::from(self.seconds / 600 + 1) * 0.2
    }

    fn original_share(&self) -> f64 {
        0.0
    }

    fn look(&mut self, _: &Served, shadow: &Served) -> Option<End> {
        let shadow = &shadow.requests;
        self.seconds += 1;
        self.window.merge(shadow);
        if self.seconds.is_multiple_of(300) {
            let bad = self.window.error as f64 / self.window.ended().max(1) as f64;
            self.failed += u32::from(1.0 - bad < 0.95);
            self.window = Counts::default();
            if self.failed > 3 {
                return Some(End::RolledBack);
            }
        }
        (self.seconds >= 2_400).then_some(End::Promoted)
    }
}

pub(crate) struct Kayenta {
    point_s: u32,
    judge_s: u32,
    end_s: u32,
    seconds: u32,
    open: (Counts, Counts),
    /// Error rates of baseline and canary, and mean latencies.
    errors: (Vec<f64>, Vec<f64>),
    means: (Vec<f64>, Vec<f64>),
}

impl Kayenta {
    pub(crate) fn new(point_s: u32, judge_s: u32, end_s: u32) -> Self {
        Self {
            point_s,
            judge_s,
            end_s,
            seconds: 0,
            open: (Counts::default(), Counts::default()),
            errors: (Vec::new(), Vec::new()),
            means: (Vec::new(), Vec::new()),
        }
    }

    fn point(&mut self) {
        let (baseline, canary) = std::mem::take(&mut self.open);
        for (counts, errors, means) in [
            (baseline, &mut self.errors.0, &mut self.means.0),
            (canary, &mut self.errors.1, &mut self.means.1),
        ] {
            if counts.ended() > 0 {
                errors.push(100.0 * counts.error as f64 / counts.ended() as f64);
                means.push(mean(&counts.latency));
            }
        }
    }
}

impl Rule for Kayenta {
    fn shadow_share(&self) -> f64 {
        0.1
    }

    fn original_share(&self) -> f64 {
        0.1
    }

    fn look(&mut self, original: &Served, shadow: &Served) -> Option<End> {
        let (original, shadow) = (&original.requests, &shadow.requests);
        self.seconds += 1;
        self.open.0.merge(original);
        self.open.1.merge(shadow);
        if self.seconds.is_multiple_of(self.point_s) {
            self.point();
        }
        if self.seconds.is_multiple_of(self.judge_s)
            && (high(&self.errors.0, &self.errors.1) || high(&self.means.0, &self.means.1))
        {
            return Some(End::RolledBack);
        }
        (self.seconds >= self.end_s).then_some(End::Promoted)
    }
}

/// The mean by the middles of the buckets.
fn mean(histogram: &LatencyHistogram) -> f64 {
    let counts = histogram.counts().iter().enumerate();
    let middle = |index: usize| {
        let high = LATENCY_EDGES_US.get(index).copied().unwrap_or(46_000_000);
        high as f64 * 0.85
    };
    let sum: f64 = counts.map(|(index, &n)| n as f64 * middle(index)).sum();
    sum / histogram.total().max(1) as f64
}

/// How Kayenta classifies a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Pass,
    High,
    Low,
    NoData,
}

/// Its default judge: the 98 % interval of the shift must lie beyond a quarter of the shift.
fn high(baseline: &[f64], canary: &[f64]) -> bool {
    classify(baseline, canary, 0.25, Z_98) == Class::High
}

/// The normal quantiles of a two-sided interval at 98 % and at 95 %.
pub(crate) const Z_98: f64 = 2.326_347_874;
#[cfg(test)]
pub(crate) const Z_95: f64 = 1.959_963_985;

/// `MannWhitneyClassifier`: "High" if the lower bound of the confidence interval of the shift is
/// above `tolerance` times its size, "Low" if the upper bound is below minus that.
pub(crate) fn classify(baseline: &[f64], canary: &[f64], tolerance: f64, z: f64) -> Class {
    if baseline.is_empty() || canary.is_empty() {
        return Class::NoData;
    }
    if baseline == canary {
        return Class::Pass;
    }
    let (mut x, mut y) = (canary.to_vec(), baseline.to_vec());
    x.sort_by(f64::total_cmp);
    y.sort_by(f64::total_cmp);
    let Some(estimate) = shift(&x, &y, 0.0) else {
        return Class::Pass;
    };
    let bound = tolerance * estimate.abs();
    if shift(&x, &y, z).is_some_and(|lower| lower > bound) {
        Class::High
    } else if shift(&x, &y, -z).is_some_and(|upper| upper < -bound) {
        Class::Low
    } else {
        Class::Pass
    }
}

/// The shift `d` at which the standardised rank sum of `x - d` against `y` passes `quantile`, as in
/// R's `wilcox.test` (normal approximation with continuity correction, ties in the variance); both
/// are sorted. `None` if all observations are tied.
fn shift(x: &[f64], y: &[f64], quantile: f64) -> Option<f64> {
    let (mut low, mut high) = (x[0] - y[y.len() - 1], x[x.len() - 1] - y[0]);
    if standardised(x, y, low)? - quantile <= 0.0 {
        return Some(low);
    }
    if standardised(x, y, high)? - quantile >= 0.0 {
        return Some(high);
    }
    while high - low > 1e-9 * (1.0 + low.abs().max(high.abs())) {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if standardised(x, y, middle)? > quantile {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(low)
}

fn standardised(canary: &[f64], baseline: &[f64], moved: f64) -> Option<f64> {
    let (m, n) = (canary.len() as f64, baseline.len() as f64);
    let (mut mine, mut theirs) = (0, 0);
    let (mut ranks, mut ties, mut before) = (0.0, 0.0, 0.0);
    while mine < canary.len() || theirs < baseline.len() {
        let next = canary.get(mine).map_or(f64::INFINITY, |x| x - moved);
        let next = next.min(baseline.get(theirs).copied().unwrap_or(f64::INFINITY));
        let from = (mine, theirs);
        while canary.get(mine).is_some_and(|x| x - moved <= next) {
            mine += 1;
        }
        while baseline.get(theirs).is_some_and(|y| *y <= next) {
            theirs += 1;
        }
        let tied = (mine - from.0) as f64;
        let group = tied + (theirs - from.1) as f64;
        ranks += tied * (before + f64::midpoint(group, 1.0));
        ties += group.powi(3) - group;
        before += group;
    }
    let over = ranks - m * (m + 1.0) / 2.0 - m * n / 2.0;
    let variance = m * n / 12.0 * (m + n + 1.0 - ties / ((m + n) * (m + n - 1.0)));
    let corrected = over - 0.5 * if over == 0.0 { 0.0 } else { over.signum() };
    (variance > 1e-12).then(|| corrected / variance.sqrt())
}
