//! Whole ramps over simulated traffic: one rule per property.

use domain::Counts;
use domain::migration::{JudgeScope, Verdict};

use super::{Increment, JudgeState, Past, Task};
use crate::settings::JudgeSettings;

const TICK: u64 = 1_000;
const SHARES: [u32; 5] = [500, 2_500, 5_000, 8_000, 10_000];

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A latency of median 5 ms, spread by a logistic of the same width as a lognormal of 0.8.
    fn latency_us(&mut self, factor: f64) -> u64 {
        let u = self.next().clamp(1e-9, 1.0 - 1e-9);
        (5_000.0 * factor * ((u / (1.0 - u)).ln() * 0.44).exp()).whole()
    }

    fn serve(&mut self, side: Side, requests: u64) -> Counts {
        let mut counts = Counts::default();
        for _ in 0..requests {
            if self.next() < side.errors {
                counts.error += 1;
            } else {
                counts.success += 1;
            }
            counts.latency.record(self.latency_us(side.slower));
        }
        counts
    }
}

trait Whole {
    fn whole(self) -> u64;
}

impl Whole for f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "simulated latencies are positive and small"
    )]
    fn whole(self) -> u64 {
        self as u64
    }
}

#[derive(Debug, Clone, Copy)]
struct Side {
    errors: f64,
    slower: f64,
}

const fn side(errors: f64, slower: f64) -> Side {
    Side { errors, slower }
}

fn settings() -> JudgeSettings {
    JudgeSettings {
        epoch_ms: TICK,
        deadline_ms: 300_000,
        ..JudgeSettings::default()
    }
}

/// Whether a ramp is rolled back by evidence, and after how many ticks it ended.
fn ramp(seed: u64, rate: u64, original: Side, shadow: Side) -> (bool, u64) {
    let settings = settings();
    let mut dice = Dice(seed);
    let mut past = Past {
        baseline: dice.serve(original, 4_000),
        original: Counts::default(),
    };
    let mut ticks = 0;
    for (index, share) in SHARES.into_iter().enumerate() {
        let scope = if share == 10_000 {
            JudgeScope::Soak
        } else {
            JudgeScope::Stage { stage: index }
        };
        let task = Task {
            scope,
            shadow_share: share,
            hold_ms: 5_000,
            of: SHARES.len() + 1,
        };
        let mut state = JudgeState::begin(task, past.clone(), &settings).unwrap();
        for tick in 1..=300 {
            ticks += 1;
            let to_shadow = (0..rate)
                .filter(|_| dice.next() * 10_000.0 < f64::from(share))
                .count() as u64;
            let more = Increment {
                original: dice.serve(original, rate - to_shadow),
                shadow: dice.serve(shadow, to_shadow),
                trouble: None,
            };
            past.original.merge(&more.original);
            state.feed(tick * TICK, &more, &settings);
            match state.verdict(0, &settings) {
                Verdict::Rollback { reason } if reason.starts_with("inconclusive") => break,
                Verdict::Rollback { .. } => return (true, ticks),
                Verdict::Promote { .. } => break,
                Verdict::Hold { .. } | Verdict::Inconclusive { .. } => {}
            }
        }
    }
    (false, ticks)
}

/// How many of `runs` ramps were rolled back by evidence.
fn rolled_back(runs: u64, rate: u64, original: Side, shadow: Side) -> u64 {
    let seed = |run| run * 7_919 + rate;
    (0..runs)
        .filter(|&run| ramp(seed(run), rate, original, shadow).0)
        .count() as u64
}

#[test]
fn a_shadow_that_is_the_same_is_rolled_back_no_more_often_than_alpha() {
    let cells = [
        (5, 0.0),
        (5, 0.01),
        (20, 0.0),
        (20, 0.05),
        (60, 0.002),
        (60, 0.2),
    ];
    let (mut runs, mut bad) = (0_u64, 0_u64);
    for (rate, errors) in cells {
        let same = side(errors, 1.0);
        let count = rolled_back(340, rate, same, same);
        assert!(count <= 3, "{count} of 340 at {rate}/s and {errors}");
        (runs, bad) = (runs + 340, bad + count);
    }
    assert!(
        runs > 2_000 && bad as f64 <= 0.01 * runs as f64,
        "{bad} of {runs}"
    );
}

#[test]
fn trouble_that_both_sides_share_is_no_reason_to_go_back() {
    let healthy = side(0.002, 1.0);
    for ill in [side(0.3, 1.0), side(0.002, 3.0)] {
        for seed in 0..40 {
            let mut dice = Dice(seed);
            let past = Past {
                baseline: dice.serve(healthy, 4_000),
                original: Counts::default(),
            };
            let settings = settings();
            let task = Task {
                scope: JudgeScope::Stage { stage: 1 },
                shadow_share: 5_000,
                hold_ms: 5_000,
                of: 6,
            };
            let mut state = JudgeState::begin(task, past, &settings).unwrap();
            for tick in 1..60 {
                let more = Increment {
                    original: dice.serve(ill, 30),
                    shadow: dice.serve(ill, 30),
                    trouble: None,
                };
                state.feed(tick * TICK, &more, &settings);
                let verdict = state.verdict(0, &settings);
                assert!(!matches!(verdict, Verdict::Rollback { .. }), "{verdict:?}");
            }
        }
    }
}

#[test]
fn ten_times_the_errors_are_caught() {
    let caught = rolled_back(60, 60, side(0.005, 1.0), side(0.05, 1.0));
    assert!(caught >= 59, "{caught} of 60");
}

#[test]
fn a_third_slower_is_caught() {
    let caught = rolled_back(60, 60, side(0.002, 1.0), side(0.002, 1.3));
    assert!(caught >= 50, "{caught} of 60");
}

#[test]
fn half_of_the_answers_failing_is_found_within_a_few_ticks() {
    for seed in 0..50 {
        let (rolled_back, ticks) = ramp(seed, 60, side(0.0, 1.0), side(0.5, 1.0));
        assert!(
            rolled_back && ticks <= 9,
            "{rolled_back} after {ticks} at seed {seed}"
        );
    }
}
