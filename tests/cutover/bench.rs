//! How long a single writer's writes stand still: `make bench-cutover` (MOVES=40).
//!
//! Real processes; what is measured is the longest time that any of the clients' writes took while
//! the writer moved, which is what they feel. Ends with a line per promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    dead_code,
    missing_docs,
    reason = "a bench says what it expects by failing, and prints"
)]

mod history;
mod lab;

use std::time::Duration;

use lab::{Lab, is_done};

fn main() {
    let moves = std::env::var("MOVES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(40_usize);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let mut lab = Lab::start().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut frozen = Vec::new();
        for number in 0..moves {
            let (ended, longest) = lab.cut_over(None).await;
            let phase = ended.migration.phase.name();
            println!(
                "move {number}: {phase}, longest write {:.1} ms",
                longest.as_secs_f64() * 1e3
            );
            if is_done(&ended) {
                frozen.push(longest);
            }
        }
        let (history, failed) = lab.end().await;
        let linear = history::is_linearizable(&history);
        frozen.sort();
        let at = |share: f64| -> f64 {
            let index = ((frozen.len() as f64 * share).ceil().max(1.0) - 1.0)
                .min(frozen.len() as f64 - 1.0);
            let index = format!("{index:.0}").parse::<usize>().unwrap_or(0);
            frozen
                .get(index)
                .map_or(f64::NAN, |one| one.as_secs_f64() * 1e3)
        };
        println!(
            "{} of {moves} moves done, {} operations, {} failed, history {}",
            frozen.len(),
            history.len(),
            failed.len(),
            linear
                .clone()
                .map_or_else(|wrong| wrong, |()| "linearizable".to_owned()),
        );
        for one in failed.iter().take(5) {
            println!("  {one}");
        }
        let promise = |id: &str, measured: f64, unit: &str, target: f64| {
            let verdict = if measured <= target { "ok" } else { "short" };
            println!("promise {id} {measured:.1} {unit} target <= {target} {verdict}");
        };
        promise("C1", at(0.5), "ms", 50.0);
        promise("C2", at(0.99), "ms", 300.0);
        promise(
            "C3",
            failed.len() as f64 + if linear.is_ok() { 0.0 } else { 1.0 },
            "operations",
            0.0,
        );
    });
}
