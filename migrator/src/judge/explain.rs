//! What the judge has seen, for people.

use domain::migration::{JudgeScope, Verdict};
use domain::{Counts, LatencyHistogram};
use serde::{Deserialize, Serialize};

use super::alarm::Trouble;
use super::ledger::{Increment, Sides};
use super::state::JudgeState;
use crate::settings::JudgeSettings;

/// What the judge has seen of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What is judged.
    pub scope: JudgeScope,
    /// Least time of this stage, in milliseconds.
    pub hold_ms: u64,
    /// Time since the stage began.
    pub elapsed_ms: u64,
    /// Age of the telemetry.
    pub age_ms: u64,
    /// The original since the stage began.
    pub original: Counts,
    /// The shadow since the stage began.
    pub shadow: Counts,
    /// The original before the migration began.
    pub baseline: LatencyHistogram,
    /// Always-valid p-value of "no worse", over the whole ramp.
    #[serde(default = "nothing_said")]
    pub p_value: f64,
    /// What each kind of bad request says, over the whole ramp.
    #[serde(default)]
    pub streams: Vec<StreamEvidence>,
    /// What is to be shown before the stage is advanced.
    #[serde(default)]
    pub proofs: Vec<ProofEvidence>,
    /// Who is worse than before just now.
    #[serde(default = "nobody")]
    pub trouble: Trouble,
    /// Whether sessions are counted in the streams and proofs, by their first requests, and not
    /// requests.
    #[serde(default)]
    pub by_session: bool,
}

/// One kind of bad request over the whole ramp.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamEvidence {
    /// What bad requests did.
    pub bad: String,
    /// The shadow's requests, and the bad ones among them.
    pub shadow: (u64, u64),
    /// The original's.
    pub original: (u64, u64),
    /// The original's before the contention.
    pub before: (u64, u64),
    /// Part of the whole that this stream gets.
    pub part: f64,
    /// Logarithm of the e-value of harm against the live original …
    pub against_original: Option<f64>,
    /// … and against what was before; the smaller one counts.
    pub against_before: Option<f64>,
    /// Where the shadow's share less the original's is, with a probability of 95 % at all times
    /// together while neither share changes.
    pub difference: (f64, f64),
}

/// What is to be shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProofEvidence {
    /// What the shadow's requests should not do more often.
    pub bad: String,
    /// By which share, on top of the ratio.
    pub margin: f64,
    /// Logarithm of the e-value of no worse, and what it has to reach.
    pub shown: f64,
    /// What it has to reach.
    pub wanted: f64,
}

const fn nothing_said() -> f64 {
    1.0
}

const fn nobody() -> Trouble {
    Trouble::None
}

pub(super) fn evidence(state: &JudgeState, age_ms: u64, settings: &JudgeSettings) -> Evidence {
    let streams = state.streams().map(|(part, stream)| {
        let seen = stream.seen;
        let (against_original, against_before) = stream.parts();
        let baseline = state.past.counted();
        StreamEvidence {
            bad: stream.bad.did(),
            shadow: (seen.shadow, seen.shadow_bad),
            original: (seen.original, seen.original_bad),
            before: (stream.bad.all(baseline), stream.bad.bad(baseline)),
            part,
            against_original,
            against_before,
            difference: difference(
                (seen.original, seen.original_bad),
                (seen.shadow, seen.shadow_bad),
            ),
        }
    });
    let proofs = state.proofs.iter().map(|proof| ProofEvidence {
        bad: proof.bad.did(),
        margin: proof.bad.proof_margin(settings).share,
        shown: proof.ln(),
        wanted: -settings.beta.ln(),
    });
    Evidence {
        scope: state.task.scope,
        hold_ms: state.task.hold_ms,
        elapsed_ms: state.elapsed_ms(),
        age_ms,
        original: state.seen.original.clone(),
        shadow: state.seen.shadow.clone(),
        baseline: state.past.baseline.latency.clone(),
        p_value: state.p_value(),
        streams: streams.collect(),
        proofs: proofs.collect(),
        trouble: state.alarm().0,
        by_session: state.by_session(),
    }
}

/// What would change the verdict on a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flips {
    /// So many failed requests of the shadow in a row, one an epoch, would roll it back.
    pub failures_to_roll_back: Option<u64>,
    /// So many good requests of it would let the stage go on.
    pub requests_to_advance: Option<u64>,
}

/// Most epochs that are thought ahead.
const AHEAD: u64 = 2_000;

/// Thinks ahead on a copy: only failures, or only good answers as they were before the contention.
pub(super) fn flips(state: &JudgeState, settings: &JudgeSettings) -> Flips {
    let usual = usual(&state.past.baseline.latency);
    let answer = |good: u64, bad: u64| {
        let mut counts = Counts {
            success: good,
            error: bad,
            ..Counts::default()
        };
        counts.latency.add(usual, good + bad);
        counts
    };
    let beside = |requests: u64| {
        let (shadow, original) = (state.seen.shadow.ended(), state.seen.original.ended());
        requests.saturating_mul(original) / shadow.max(1)
    };
    let think = |shadow: Counts, limit: u64| -> Option<(u64, Verdict)> {
        let mut ahead = state.clone();
        let original = answer(beside(shadow.ended()).max(1), 0);
        for epoch in 1..=limit {
            let sides = || Sides {
                original: original.clone(),
                shadow: shadow.clone(),
            };
            let more = Increment {
                original: original.clone(),
                shadow: shadow.clone(),
                sessions: state.by_session().then(|| Box::new(sides())),
                trouble: None,
            };
            ahead.feed(ahead.now_ms() + settings.epoch_ms, &more, settings);
            let verdict = ahead.verdict(0, settings);
            if matches!(verdict, Verdict::Rollback { .. } | Verdict::Promote { .. }) {
                return Some((epoch, verdict));
            }
        }
        None
    };
    let failures = think(answer(0, 1), 200).filter(|(_, v)| matches!(v, Verdict::Rollback { .. }));
    let good = think(answer(10, 0), AHEAD).filter(|(_, v)| matches!(v, Verdict::Promote { .. }));
    Flips {
        failures_to_roll_back: failures.map(|(epochs, _)| epochs),
        requests_to_advance: good.map(|(epochs, _)| epochs * 10),
    }
}

/// The bucket of the median, where nothing is slow.
fn usual(latency: &LatencyHistogram) -> usize {
    latency
        .quantile_us(0.4)
        .map_or(0, |us| LatencyHistogram::bucket(whole(us)))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a latency in microseconds"
)]
fn whole(us: f64) -> u64 {
    us.max(0.0) as u64
}

/// A confidence sequence for the difference of two shares: each side's at 97.5 %.
fn difference(original: (u64, u64), shadow: (u64, u64)) -> (f64, f64) {
    let (low0, high0) = interval(original, 0.025);
    let (low1, high1) = interval(shadow, 0.025);
    (low1 - high0, high1 - low0)
}

/// A confidence sequence for a share: where the likelihood, averaged over a uniform prior, is less
/// than 1/`error` times that of the share. The average over the prior divided by the likelihood of
/// the truth is a martingale, so that Ville's inequality makes this valid at all times together.
///
/// The average is 1 / ((n + 1) · C(n, k)).
fn interval((all, bad): (u64, u64), error: f64) -> (f64, f64) {
    if all == 0 {
        return (0.0, 1.0);
    }
    let (n, k) = (all as f64, bad as f64);
    let average = -(n + 1.0).ln() - (ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k));
    let least = average + error.ln();
    let part = |count: f64, share: f64| if count > 0.0 { count * share.ln() } else { 0.0 };
    let fits = |share: f64| part(k, share) + part(n - k, 1.0 - share) >= least;
    let peak = k / n;
    let edge = |mut inside: f64, mut outside: f64| {
        if fits(outside) {
            return outside;
        }
        for _ in 0..40 {
            let middle = f64::midpoint(inside, outside);
            if fits(middle) {
                inside = middle;
            } else {
                outside = middle;
            }
        }
        inside
    };
    (edge(peak, 0.0), edge(peak, 1.0))
}

/// `ln n!` by Stirling's series, exact enough beyond 1.
fn ln_factorial(n: f64) -> f64 {
    if n < 2.0 {
        return 0.0;
    }
    let x = n + 1.0;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + 1.0 / (12.0 * x)
        - 1.0 / (360.0 * x.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_the_share_and_shrinks() {
        let (low, high) = interval((1_000, 10), 0.05);
        assert!(low > 0.002 && low < 0.01 && high > 0.01 && high < 0.03);
        let (less, more) = interval((100_000, 1_000), 0.05);
        assert!(less > low && more < high);
        assert_eq!(interval((0, 0), 0.05), (0.0, 1.0));
        let (none, few) = interval((300, 0), 0.05);
        assert!(none == 0.0 && few < 0.035, "{few}");
        assert!((ln_factorial(10.0) - 3_628_800_f64.ln()).abs() < 1e-6);
    }

    /// Over every course of 60 requests: the share is ever outside with at most the error.
    #[test]
    fn an_interval_misses_the_share_at_any_time_with_no_more_than_its_error() {
        for share in [0.05_f64, 0.3] {
            // Mass of courses that were inside so far, by bad requests.
            let mut inside = vec![1.0];
            let mut missed = 0.0;
            for n in 1..=60_u64 {
                let mut next = vec![0.0; inside.len() + 1];
                for (k, mass) in inside.iter().enumerate() {
                    next[k] += mass * (1.0 - share);
                    next[k + 1] += mass * share;
                }
                for (k, mass) in (0..).zip(next.iter_mut()) {
                    let (low, high) = interval((n, k), 0.1);
                    if share < low || share > high {
                        missed += *mass;
                        *mass = 0.0;
                    }
                }
                inside = next;
            }
            assert!(missed <= 0.1, "{missed}");
        }
    }
}
