//! The real migrator in a simulated world, on paused time, with everything going wrong that a seed
//! asks for. What is real, what is modelled and how to read a history: [`engine`]; many seeds and
//! the replay of one: `make sim`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    missing_docs,
    reason = "tests say what they expect by failing; what they do not use, `make sim` uses"
)]

mod engine;
mod totals;

use std::process::Command;

use engine::faults::{Fault, Planned, Planted};
use totals::Totals;

/// Seeds of a test run; CI asks for a thousand.
const SEEDS: u64 = 40;
/// Who asks for another number.
const WANTED: &str = "FORESHADOW_SEEDS";
/// Seeds of `make sim`, within which a planted bug must be found.
const DEFAULT: u64 = 1_000;
/// The seed whose history another process is asked for.
const ASKED: &str = "FORESHADOW_SIM_SEED";

#[test]
fn whatever_goes_wrong_no_invariant_breaks_and_everything_comes_to_rest() {
    let seeds = std::env::var(WANTED).map_or(SEEDS, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{WANTED} is {text}: allowed is a whole number"))
    });
    let totals = Totals::explore(1, seeds, |seed| engine::run(seed, None));
    println!("{seeds} seeds\n{totals}");
    assert_eq!(
        totals.violations, 0,
        "replay a seed: make sim ARGS='--seed 7'"
    );
    assert_eq!(totals.too_little(), None, "{totals}");
}

#[test]
fn the_same_seed_gives_the_same_history_in_one_process() {
    for seed in 1..=8 {
        let (one, other) = (engine::run(seed, None), engine::run(seed, None));
        assert_eq!(one.lines, other.lines, "seed {seed}");
        assert_eq!(one.hash, other.hash, "seed {seed}");
    }
    assert_ne!(engine::run(1, None).hash, engine::run(2, None).hash);
}

/// The hash of a seed's history as another process finds it.
fn in_another_process(seed: u64) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "says_the_hash_of_a_seed", "--nocapture"])
        .env(ASKED, seed.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let hash = text.lines().find_map(|line| line.split_once("history "));
    let (_, hash) = hash.unwrap_or_else(|| panic!("no hash in {text}"));
    hash.trim().to_owned()
}

#[test]
fn the_same_seed_gives_the_same_history_in_two_processes() {
    // Every second one has a network.
    for seed in 1..=10 {
        let here = engine::run(seed, None).hash;
        assert_eq!(in_another_process(seed), here, "seed {seed}");
    }
}

/// Not a test by itself: what another process is asked for.
#[test]
fn says_the_hash_of_a_seed() {
    if let Ok(seed) = std::env::var(ASKED) {
        let report = engine::run(seed.parse().unwrap(), None);
        println!("\nhistory {}", report.hash);
    }
}

/// Runs seeds with a bug until it is found, which must be by these words. The seed that found it
/// last time comes first, so that this takes no minutes.
fn is_found(bug: Planted, last_time: u64, words: &[&str]) {
    let seeds = std::iter::once(last_time).chain(1..=DEFAULT);
    let found = { seeds }.find_map(|seed| {
        let violations = engine::run(seed, Some(bug)).violations;
        (!violations.is_empty()).then_some((seed, violations))
    });
    let (seed, violations) = found.unwrap_or_else(|| panic!("{bug:?} is not found"));
    println!("{bug:?}: seed {seed}: {}", violations[0]);
    assert!(
        violations
            .iter()
            .any(|violation| words.iter().any(|word| violation.contains(word))),
        "{bug:?} is found by other means in seed {seed}: {violations:#?}"
    );
}

/// Data planes go on with what they have, the ramp holds, and what was under way ends afterwards.
#[test]
fn ten_minutes_without_a_store_cost_no_request_and_nothing_is_decided_meanwhile() {
    let mut totals = Totals::default();
    for seed in 1..=12 {
        let from_ms = 2_500 + seed * 400;
        let away = Planned {
            fault: Fault::StoreAway,
            from_ms,
            to_ms: from_ms + 600_000,
        };
        let report = engine::run_with(seed, away);
        assert!(
            report.violations.is_empty(),
            "seed {seed}: {:#?}",
            report.violations
        );
        assert!(report.simulated_ms > 600_000, "seed {seed}");
        // What had been given to the shadow stays with it.
        let by_shadow = report.counters.by_shadow;
        assert!(by_shadow > 500, "seed {seed}: {by_shadow}");
        totals.add(&report);
    }
    println!("{totals}");
    assert_eq!(totals.too_little_without_a_store(), None, "{totals}");
}

/// The store took a plan late, after its planner was told that it had not.
#[test]
fn a_plan_that_was_stored_late_is_begun() {
    let report = engine::run(188, None);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

#[test]
fn a_store_without_a_fence_is_found() {
    is_found(Planted::NoStoreFence, 3, &["I4"]);
}

#[test]
fn a_driver_without_a_fence_is_found() {
    is_found(Planted::NoDriverFence, 180, &["I4"]);
}

#[test]
fn a_gate_that_forgets_nodes_that_are_away_is_found() {
    is_found(
        Planted::ForgetfulGate,
        6,
        &["I2", "I3", "was lost", "no endpoint"],
    );
}

#[test]
fn silence_that_is_taken_for_quiet_is_found() {
    is_found(Planted::SilenceIsQuiet, 110, &["I3", "was lost"]);
}

#[test]
fn an_unknown_outcome_that_is_taken_for_a_failure_is_found() {
    is_found(Planted::UnknownIsFailed, 286, &["liveness", "I7"]);
}
