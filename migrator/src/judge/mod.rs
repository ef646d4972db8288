//! Whether a shadow is no worse than its original.
//!
//! A first judge: two-proportion tests with margins on failures and on slow requests, minimum
//! samples, holds and early roll-back. It is a pure function of the counts since the stage began.
//! Repeated looks make its error rate larger than one look's would be; `z` = 3 keeps that small,
//! and the always-valid tests that replace it will not need the excuse.

use domain::migration::{JudgeScope, Verdict};
use domain::{Counts, LATENCY_EDGES_US, LatencyHistogram};
use serde::{Deserialize, Serialize};

use crate::settings::JudgeSettings;

/// What the judge looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// The verdict on a stage. `Hold` and `Inconclusive` mean: look again.
pub fn judge(evidence: &Evidence, settings: &JudgeSettings) -> Verdict {
    if let Some(reason) = worse(evidence, settings) {
        return Verdict::Rollback { reason };
    }
    if evidence.age_ms > settings.max_age_ms {
        return Verdict::Hold {
            reason: format!(
                "telemetry is {} ms old: late is not the same as good",
                evidence.age_ms
            ),
        };
    }
    if evidence.elapsed_ms < evidence.hold_ms {
        return Verdict::Hold {
            reason: format!("held for at least {} ms", evidence.hold_ms),
        };
    }
    let answered = evidence.shadow.ended();
    if answered >= settings.min_requests {
        return Verdict::Promote {
            reason: format!(
                "{answered} requests, {} failed: no worse",
                evidence.shadow.error
            ),
        };
    }
    if evidence.scope == JudgeScope::Mirror && evidence.elapsed_ms >= settings.mirror_ms {
        return Verdict::Promote {
            reason: format!("{answered} copied requests; the ramp goes on carefully without more"),
        };
    }
    if evidence.elapsed_ms >= settings.deadline_ms {
        return Verdict::Rollback {
            reason: format!(
                "inconclusive: {answered} of {} requests after {} ms",
                settings.min_requests, evidence.elapsed_ms
            ),
        };
    }
    Verdict::Inconclusive {
        reason: format!("{answered} of {} requests so far", settings.min_requests),
    }
}

/// In which way the shadow is worse, if it is.
fn worse(evidence: &Evidence, settings: &JudgeSettings) -> Option<String> {
    let (shadow, original) = (&evidence.shadow, &evidence.original);
    if shadow.error >= 5 && shadow.success == 0 {
        return Some(format!("all of {} requests failed", shadow.error));
    }
    let errors = Difference {
        bad: (shadow.error, original.error),
        all: (shadow.ended(), original.ended()),
    };
    if shadow.error >= 3 && errors.exceeds(settings.error_margin, settings.z) {
        return Some(format!(
            "{} of {} requests failed, on the original {} of {}",
            shadow.error,
            shadow.ended(),
            original.error,
            original.ended()
        ));
    }
    // The original is migrated because it is, or will be, sick: the better of its present and its
    // past is what the shadow is held to.
    let healthy = [&evidence.baseline, &original.latency]
        .into_iter()
        .filter(|histogram| histogram.total() >= 20)
        .min_by(|one, other| {
            let q90 = |h: &LatencyHistogram| h.quantile_us(0.9).unwrap_or(f64::INFINITY);
            q90(one).total_cmp(&q90(other))
        })?;
    let q90 = healthy.quantile_us(0.9)?;
    let edge = LATENCY_EDGES_US
        .into_iter()
        .find(|&edge| edge as f64 >= 2.0 * q90 + 20_000.0)?;
    let slow = Difference {
        bad: (shadow.latency.slower_than(edge), healthy.slower_than(edge)),
        all: (shadow.latency.total(), healthy.total()),
    };
    (slow.bad.0 >= 8 && slow.exceeds(settings.slow_margin, settings.z)).then(|| {
        format!(
            "{} of {} requests took longer than {} ms, on the healthy original {} of {}",
            slow.bad.0,
            slow.all.0,
            edge / 1_000,
            slow.bad.1,
            slow.all.1
        )
    })
}

/// Two shares of bad requests: (shadow, original).
struct Difference {
    bad: (u64, u64),
    all: (u64, u64),
}

impl Difference {
    /// Whether the shadow's share exceeds the original's by the margin and `z` standard errors.
    /// Shares are smoothed by half a request (Jeffreys), so that zero counts have an error too.
    fn exceeds(&self, margin: f64, z: f64) -> bool {
        let share = |bad: u64, all: u64| (bad as f64 + 0.5) / (all as f64 + 1.0);
        let (p1, n1) = (share(self.bad.0, self.all.0), self.all.0 as f64 + 1.0);
        let (p0, n0) = (share(self.bad.1, self.all.1), self.all.1 as f64 + 1.0);
        let error = (p1 * (1.0 - p1) / n1 + p0 * (1.0 - p0) / n0).sqrt();
        p1 - p0 - margin > z * error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(success: u64, error: u64, latency_us: u64) -> Counts {
        let mut counts = Counts {
            success,
            error,
            ..Counts::default()
        };
        (0..success + error).for_each(|_| counts.latency.record(latency_us));
        counts
    }

    fn evidence(original: Counts, shadow: Counts) -> Evidence {
        Evidence {
            scope: JudgeScope::Stage { stage: 0 },
            hold_ms: 1_000,
            elapsed_ms: 2_000,
            age_ms: 100,
            baseline: original.latency.clone(),
            original,
            shadow,
        }
    }

    fn verdict(evidence: &Evidence) -> Verdict {
        judge(evidence, &JudgeSettings::default())
    }

    #[test]
    fn promotes_a_shadow_that_is_as_good() {
        let e = evidence(counts(1_000, 2, 5_000), counts(50, 0, 6_000));
        assert!(
            matches!(verdict(&e), Verdict::Promote { .. }),
            "{:?}",
            verdict(&e)
        );
    }

    #[test]
    fn rolls_back_errors_slowness_and_death_also_before_the_hold_is_over() {
        let errors = evidence(counts(1_000, 0, 5_000), counts(20, 20, 5_000));
        let slow = evidence(counts(1_000, 0, 5_000), counts(30, 0, 160_000));
        let dead = evidence(counts(1_000, 0, 5_000), counts(0, 6, 5_000));
        for mut bad in [errors, slow, dead] {
            bad.elapsed_ms = 100;
            assert!(
                matches!(verdict(&bad), Verdict::Rollback { .. }),
                "{:?}",
                verdict(&bad)
            );
        }
    }

    #[test]
    fn a_sick_original_does_not_excuse_a_slow_shadow() {
        let mut e = evidence(counts(1_000, 0, 5_000), counts(30, 0, 400_000));
        e.original = counts(300, 0, 400_000);
        assert!(matches!(verdict(&e), Verdict::Rollback { .. }));
    }

    #[test]
    fn holds_on_late_telemetry_and_waits_for_enough_requests() {
        let mut e = evidence(counts(1_000, 0, 5_000), counts(50, 0, 5_000));
        e.age_ms = 5_000;
        assert!(matches!(verdict(&e), Verdict::Hold { .. }));
        let few = evidence(counts(1_000, 0, 5_000), counts(3, 0, 5_000));
        assert!(matches!(verdict(&few), Verdict::Inconclusive { .. }));
    }
}
