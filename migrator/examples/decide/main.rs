//! `make bench-decide`, first part: how long the planner takes, and how far from the best it is.
//!
//! The peer is the exact optimum. Demand is certain here, one resource and memory, so the objective
//! (harm that is left, and the price of the moves) can be bounded from below host by host: the
//! cheapest set of instances whose leaving ends the contention, wherever they could go, found by
//! branch and bound. No plan can be better than the sum of these; the gap to it is at least the gap
//! to what an exact solver would give for the whole.
#![allow(
    clippy::expect_used,
    reason = "the names and numbers of its worlds are its own"
)]

mod exact;
mod worlds;

use std::time::{Duration, Instant};

use domain::Policy;
use foreshadow_migrator::detect::Memory;
use foreshadow_migrator::{Planning, Settings, plan};
use worlds::{Certainty, world};

fn settings() -> Settings {
    Settings {
        policy: Policy::Predictive,
        accepted_risk: 0.05,
        confirm_ticks: 1,
        of_ticks: 1,
        utilisation_limit: 1.0,
        max_migrations: 200,
        ..Settings::default()
    }
}

fn line(id: &str, measured: f64, unit: &str, target: f64) {
    let word = if measured <= target { "ok" } else { "short" };
    println!("promise {id} {measured:.2} {unit} target <= {target} {word}");
}

/// Median and longest time of some looks at a world, with what was decided.
fn timed(hosts: usize, instances: usize, looks: usize) -> (Duration, Duration, usize, usize) {
    let world = world(hosts, instances, 0.7, 7, Certainty::Forecast);
    let settings = settings();
    let mut took = Vec::new();
    let (mut contended, mut moves) = (0, 0);
    for _ in 0..looks {
        let mut memory = Memory::default();
        let began = Instant::now();
        let decision = plan::decide(&world, &settings, &mut memory);
        took.push(began.elapsed());
        (contended, moves) = (decision.contention.len(), decision.moves.len());
    }
    took.sort_unstable();
    (took[looks / 2], took[looks - 1], contended, moves)
}

fn main() {
    println!("hosts x instances     median ms  longest ms  contended  moves");
    let mut planned = f64::INFINITY;
    for (hosts, instances) in [(10, 500), (50, 2_500), (200, 10_000)] {
        let (median, longest, contended, moves) = timed(hosts, instances, 9);
        planned = median.as_secs_f64() * 1e3;
        println!(
            "{hosts:>5} x {instances:<10} {planned:>12.1} {:>11.1} {contended:>10} {moves:>6}",
            longest.as_secs_f64() * 1e3
        );
    }
    let (median, longest, contended, moves) = timed(2_000, 100_000, 1);
    println!(
        " 2000 x 100000     {:>12.1} {:>11.1} {contended:>10} {moves:>6}",
        median.as_secs_f64() * 1e3,
        longest.as_secs_f64() * 1e3
    );
    let gib = peak_bytes().map_or(f64::NAN, |bytes| bytes / 1_073_741_824.0);
    let mut gaps = Vec::new();
    for seed in 0..210_u64 {
        let (hosts, instances) = match seed % 4 {
            0 => (5, 60),
            1 => (10, 250),
            2 => (20, 500),
            _ => (40, 1_000),
        };
        gaps.push(gap(hosts, instances, seed));
    }
    gaps.sort_by(f64::total_cmp);
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    println!(
        "{} problems up to 40 x 1000: gap to the lower bound median {median:.2} %, 90 % {:.2} %, worst {worst:.2} %",
        gaps.len(),
        gaps[gaps.len() * 9 / 10]
    );
    line("A-plan-200x10000", planned, "ms", 100.0);
    line("A-tick-2000x100000", longest.as_secs_f64(), "s", 2.0);
    line("A-tick-memory", gib, "GiB", 2.0);
    line("A-exact-median", median, "%", 2.0);
    line("A-exact-worst", worst, "%", 5.0);
}

/// How much worse than the bound a plan is, in percent.
fn gap(hosts: usize, instances: usize, seed: u64) -> f64 {
    let world = world(hosts, instances, 0.75, seed, Certainty::Certain);
    let settings = Settings {
        max_migrations: 10_000,
        max_per_host: 1_000,
        planning: Planning {
            price: 0.01,
            price_per_gib: 0.01,
            steps: 200_000,
            ..Planning::default()
        },
        ..settings()
    };
    let decision = plan::decide(&world, &settings, &mut Memory::default());
    let ours = exact::value(&world, &settings, &decision);
    let bound = exact::bound(&world, &settings);
    if bound <= 0.0 {
        return 0.0;
    }
    100.0 * (ours / bound - 1.0)
}

/// The most memory this process has used.
fn peak_bytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024.0)
}
