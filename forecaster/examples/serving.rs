//! How fast the shipped models serve. `make bench-forecast` runs it after the accuracy table.
//!
//! Histories are those of the demo's trace, shifted and scaled, so that no two are alike. One
//! thread does everything. Closing lines: `promise <id> <measured> <unit> target <op> <value> …`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    clippy::cast_possible_truncation,
    reason = "a bench says what it expects by failing"
)]

use std::time::{Duration, Instant};

use foreshadow_forecaster::features::{self, Scratch};
use foreshadow_forecaster::history::Series;
use foreshadow_forecaster::{Asking, Model, Negative, read_trace};

const HISTORY: usize = 2_016;

/// Real histories, no two alike.
fn histories(count: usize) -> Vec<Vec<f32>> {
    let text = include_str!("../../deploy/demo/trace.csv");
    let trace = read_trace(text.as_bytes(), Negative::Refuse).unwrap();
    let known: Vec<Vec<f32>> = trace
        .values()
        .map(|values| {
            let single = |v: &Option<f64>| v.map_or(f32::NAN, |v| v as f32);
            values.iter().map(single).collect()
        })
        .collect();
    (0..count)
        .map(|place| {
            let values = &known[place % known.len()];
            let shift = place * 7 % (values.len() - HISTORY + 1);
            let factor = 1.0 + (place % 97) as f32;
            values[shift..shift + HISTORY]
                .iter()
                .map(|v| v * factor)
                .collect()
        })
        .collect()
}

fn asking(histories: &[Vec<f32>], count: usize) -> Asking {
    let mut asking = Asking::default();
    for place in 0..count {
        asking.push(&histories[place % histories.len()], &[], None);
    }
    asking
}

/// Microseconds per series, the best of several rounds: what the code costs, not its neighbours.
fn per_series(model: &mut Model, histories: &[Vec<f32>], batch: usize) -> f64 {
    let asked = asking(histories, batch);
    model.predict(&asked).unwrap();
    let rounds = (2_000 / batch).clamp(3, 200);
    let best = (0..rounds)
        .map(|_| {
            let began = Instant::now();
            model.predict(&asked).unwrap();
            began.elapsed()
        })
        .min()
        .unwrap_or(Duration::MAX);
    best.as_secs_f64() * 1e6 / batch as f64
}

fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0.0)
}

/// A closing line that a script can read.
fn promise(id: &str, measured: f64, unit: &str, op: &str, target: f64) {
    let met = match op {
        "<=" => measured <= target,
        ">=" => measured >= target,
        _ => panic!("{op}"),
    };
    let verdict = if met { "ok" } else { "short" };
    println!("promise {id} {measured:.3} {unit} target {op} {target} {verdict}");
}

fn main() {
    let before = resident_kib();
    let began = Instant::now();
    let mut model = Model::shipped(None).expect("the shipped model");
    let histories = histories(2_048);
    let one = asking(&histories, 1);
    // The histories are not part of a cold start, but reading them costs little.
    model.predict(&one).unwrap();
    let cold = began.elapsed().as_secs_f64() * 1e3;
    println!("cold start: library, session, first forecast {cold:.0} ms");
    println!(
        "resident: {:.0} MiB more than before",
        (resident_kib() - before) / 1_024.0
    );

    let mut scratch = Scratch::default();
    let horizons = model.horizons().to_vec();
    let mut context = vec![0.0; features::CONTEXT];
    let mut ahead = vec![0.0; features::AHEAD * horizons.len()];
    let asked = asking(&histories, 512);
    let began = Instant::now();
    for place in 0..512 {
        let known = asked.known(place);
        features::extract(&known, &horizons, &mut scratch, &mut context, &mut ahead);
    }
    println!(
        "features alone: {:.1} us per series",
        began.elapsed().as_secs_f64() * 1e6 / 512.0
    );

    let mut best = f64::INFINITY;
    let mut small = Model::shipped_small(None).expect("the small model");
    println!(
        "{:>8} {:>18} {:>18}",
        "batch", "full us/series", "small us/series"
    );
    for batch in [1, 8, 64, 256, 1_024] {
        let full = per_series(&mut model, &histories, batch);
        let small = per_series(&mut small, &histories, batch);
        println!("{batch:>8} {full:>18.1} {small:>18.1}");
        best = best.min(full);
    }
    let mut singles: Vec<f64> = (0..2_000)
        .map(|_| {
            let began = Instant::now();
            model.predict(&one).unwrap();
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    singles.sort_by(f64::total_cmp);
    println!(
        "single: p50 {:.3} ms, p99 {:.3} ms",
        singles[1_000], singles[1_980]
    );

    let sweep = sweep(&mut model, &histories, 300_000);
    println!("sweep of 100 000 instances x 3 resources: {sweep:.1} s on one thread");
    let per_series = memory_per_series(50_000);
    println!("history: {per_series:.0} bytes per series");

    promise("FC1", 1e6 / best, "series/s/core", ">=", 40_000.0);
    promise("FC2", singles[1_980], "ms_p99_single", "<=", 1.0);
    promise("FC3", cold, "ms_cold_start", "<=", 150.0);
    promise("FC4", sweep, "s_sweep_300000", "<=", 10.0);
    promise(
        "FC5",
        per_series * 400_000.0 / f64::from(1 << 30),
        "GiB_history_400000",
        "<=",
        4.0,
    );
}

/// Seconds for forecasts of so many series, history copied as the service copies it.
fn sweep(model: &mut Model, histories: &[Vec<f32>], count: usize) -> f64 {
    const PIECE: usize = 1_024;
    let mut asked = Asking::default();
    let mut answered = 0;
    let began = Instant::now();
    for begin in (0..count).step_by(PIECE) {
        asked.clear();
        for place in begin..(begin + PIECE).min(count) {
            asked.push(&histories[place % histories.len()], &[], None);
        }
        let answers = model.predict(&asked).unwrap();
        answered += answers.iter().filter(|answer| answer.is_some()).count();
    }
    assert_eq!(answered, count);
    began.elapsed().as_secs_f64()
}

/// Memory that a full history takes.
fn memory_per_series(count: usize) -> f64 {
    let values = vec![Some(1.0); HISTORY];
    let before = resident_kib();
    let series: Vec<Series> = (0..count)
        .map(|_| {
            let mut series = Series::new(300_000);
            series.preload(&values, 300_000 * 3_000);
            series
        })
        .collect();
    let after = resident_kib();
    assert_eq!(series.len(), count);
    (after - before) * 1_024.0 / count as f64
}
