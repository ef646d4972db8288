//! Many seeds, or one with its history: `make sim SEEDS=1000`, `make sim ARGS='--seed 7'`. With
//! `--wire` all worlds have a network.
//!
//! Ends with a line per promise, and with an error if an invariant is broken, a promise is short or
//! too little happened to mean anything.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    missing_docs,
    reason = "it says what it expects by failing; what it does not use, the tests use"
)]

mod engine;
mod totals;

use std::process::ExitCode;
use std::time::Instant;

use totals::Totals;

/// Seeds of a promise.
const SEEDS: u64 = 1_000;

/// The number after a word of the command line.
fn argument(name: &str) -> Option<u64> {
    let mut words = std::env::args().skip_while(|word| word != name);
    words.nth(1)?.parse().ok()
}

fn run(seed: u64) -> engine::Report {
    let wire = std::env::args().any(|word| word == "--wire");
    engine::run_as(seed, None, wire || engine::has_network(seed))
}

/// One seed, for a reader.
fn replay(seed: u64) -> ExitCode {
    let report = run(seed);
    report.lines.iter().for_each(|line| println!("{line}"));
    println!(
        "seed {seed}: history {}, {} violations",
        report.hash,
        report.violations.len()
    );
    report
        .violations
        .iter()
        .for_each(|violation| println!("  {violation}"));
    ExitCode::from(u8::from(!report.violations.is_empty()))
}

fn word(kept: bool) -> &'static str {
    if kept { "ok" } else { "short" }
}

fn main() -> ExitCode {
    if let Some(seed) = argument("--seed") {
        return replay(seed);
    }
    let count = argument("--seeds").unwrap_or(SEEDS);
    let began = Instant::now();
    let from = argument("--from").unwrap_or(1);
    let totals = Totals::explore(from, count, run);
    print!("{totals}");
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{count} seeds in {seconds:.1} s, {:.1} seeds/s, {:.0} times as fast as real time",
        count as f64 / seconds,
        totals.simulated_ms as f64 / 1_000.0 / seconds
    );
    let idle = totals.too_little();
    if let Some(what) = &idle {
        println!("too little happened: {what}");
    }
    let violations = totals.violations;
    println!(
        "promise Z1 {violations} violations target <= 0 {}",
        word(violations == 0)
    );
    println!(
        "promise Z2 {count} seeds target >= {SEEDS} {}",
        word(count >= SEEDS)
    );
    // A thousand zombies are what a thousand seeds must show; fewer seeds show fewer.
    let zombies = totals.zombies();
    let wanted = count.min(SEEDS);
    println!(
        "promise Z5 {zombies} zombies target >= {wanted} {}",
        word(zombies >= wanted)
    );
    ExitCode::from(u8::from(violations > 0 || idle.is_some()))
}
