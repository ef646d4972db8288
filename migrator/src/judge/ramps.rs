//! Whole ramps over simulated traffic: one rule per property.

use domain::{Counts, HarmBudget, RampPlan};

use crate::settings::JudgeSettings;
use crate::simulate::{Dice, End, Latencies, Ramp, Side};

#[derive(Debug, Clone, Copy)]
struct Health {
    errors: f64,
    slower: f64,
}

const fn side(errors: f64, slower: f64) -> Health {
    Health { errors, slower }
}

/// How a ramp ended, and after how many seconds. From `from_s` on, both sides are as `then`.
fn ramp(
    seed: u64,
    rate: u64,
    (original, shadow): (Health, Health),
    (from_s, then): (u64, (Health, Health)),
) -> (Option<End>, u64) {
    let mut dice = Dice::new(seed);
    let kinds = [original, shadow, then.0, then.1];
    let latencies = kinds.map(|health| Latencies::new(health.slower, 0.0));
    let sides: Vec<Side<'_>> = kinds
        .iter()
        .zip(&latencies)
        .map(|(health, latencies)| Side {
            errors: health.errors,
            latencies,
        })
        .collect();
    let mut baseline = Counts::default();
    (0..100).for_each(|_| baseline.merge(&dice.serve(100.0, &sides[0])));
    let plan = RampPlan::budgeted(HarmBudget::default(), 30_000);
    let rate = rate as f64;
    let mut ramp = Ramp::begin(plan, baseline, rate, JudgeSettings::default()).unwrap();
    for second in 1..=900 {
        let of = if second > from_s { 2 } else { 0 };
        let share = ramp.share();
        let on_original = dice.serve(rate * (1.0 - share), &sides[of]);
        let on_shadow = dice.serve(rate * share, &sides[of + 1]);
        if let Some(end) = ramp.look(1_000, on_original, on_shadow) {
            return (Some(end), second);
        }
    }
    (None, 900)
}

fn steady(seed: u64, rate: u64, original: Health, shadow: Health) -> (Option<End>, u64) {
    let both = (original, shadow);
    ramp(seed, rate, both, (u64::MAX, both))
}

/// How many of `runs` ramps were rolled back by evidence.
fn rolled_back(runs: u64, rate: u64, original: Health, shadow: Health) -> u64 {
    let seed = |run| run * 7_919 + rate;
    (0..runs)
        .filter(|&run| steady(seed(run), rate, original, shadow).0 == Some(End::RolledBack))
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
        let count = rolled_back(100, rate, same, same);
        assert!(count <= 2, "{count} of 100 at {rate}/s and {errors}");
        (runs, bad) = (runs + 100, bad + count);
    }
    assert!(
        runs >= 600 && bad as f64 <= 0.01 * runs as f64,
        "{bad} of {runs}"
    );
}

#[test]
fn trouble_that_both_sides_share_delays_a_ramp_and_ends_none() {
    let healthy = side(0.002, 1.0);
    for ill in [side(0.3, 1.0), side(0.002, 3.0)] {
        for (seed, from_s) in [(1, 20), (2, 60), (3, 90), (4, 110), (5, 120)] {
            let both = (healthy, healthy);
            let (end, after) = ramp(seed, 60, both, (from_s, (ill, ill)));
            let during = end == Some(End::Promoted) && after <= from_s + 60;
            assert!(
                end.is_none() || during,
                "{end:?} after {after}, {ill:?} from {from_s}"
            );
        }
    }
}

#[test]
fn a_clean_move_is_promoted() {
    let same = side(0.001, 1.0);
    let promoted = (0..20)
        .map(|seed| steady(seed, 50, same, same))
        .filter(|(end, after)| *end == Some(End::Promoted) && *after <= 400)
        .count();
    assert!(promoted >= 18, "{promoted} of 20");
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
fn half_of_the_answers_failing_is_found_within_a_few_looks() {
    for seed in 0..50 {
        let (end, after) = steady(seed, 60, side(0.0, 1.0), side(0.5, 1.0));
        assert!(
            end == Some(End::RolledBack) && after <= 30,
            "{end:?} after {after} at seed {seed}"
        );
    }
}

#[test]
fn harm_that_sets_in_late_is_found_whatever_the_weight_is() {
    let (good, bad) = (side(0.002, 1.0), side(0.05, 1.0));
    for from_s in [20, 60, 90, 110] {
        let (end, after) = ramp(from_s, 60, (good, good), (from_s, (good, bad)));
        let found = end == Some(End::RolledBack) && after <= from_s + 60;
        assert!(found, "{end:?} after {after}, from {from_s}");
    }
}
