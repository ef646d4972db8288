//! How long a single writer's writes stand still: `make bench-cutover` (MOVES=100).
//!
//! Real processes; what is measured is the longest time that any of the clients' writes took while
//! the writer moved, from the order to the end, which is what they feel. Beside it the plain way:
//! stop the same program, copy its directory, start it from the copy; nobody can write meanwhile.
//! Ends with a line per promise.
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

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use foreshadow::client;
use foreshadow::demo::planes::free_port;
use foreshadow_tests::{binary, until};
use lab::{Lab, is_done};

/// How often the plain way is measured.
const PLAIN: usize = 10;
/// Writes before it is.
const WRITES: usize = 200;
/// Writes of the clients before the first move.
const WARM: u64 = 200;

async fn writer(state: &Path) -> (Child, std::net::SocketAddr) {
    let listen = free_port().unwrap();
    let child = Command::new(binary())
        .args(["workload", "--work-us=200", "--instance=plain"])
        .arg(format!("--port={}", listen.port()))
        .arg(format!("--state={}", state.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until(Duration::from_mins(1), "the writer answers", async || {
        client::get(listen, "/healthz").await.ok()
    })
    .await;
    (child, listen)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The plain way: how long nobody can write.
async fn plain() -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let (mut before, listen) = writer(&one).await;
    for turn in 0..WRITES {
        let body = turn.to_string();
        let path = format!("/items/k{}", turn % 4);
        client::post(listen, &path, body.into_bytes().into())
            .await
            .unwrap();
    }
    let began = Instant::now();
    before.kill().unwrap();
    before.wait().unwrap();
    copy(&one, &two);
    let (mut after, _) = writer(&two).await;
    let took = began.elapsed();
    after.kill().unwrap();
    after.wait().unwrap();
    took
}

/// The value below which this share lies.
fn at(sorted: &[Duration], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil().max(1.0) - 1.0;
    let found = sorted
        .iter()
        .zip(0_u32..)
        .find(|(_, place)| f64::from(*place) >= rank);
    found.map_or(f64::NAN, |(one, _)| one.as_secs_f64() * 1e3)
}

fn main() {
    let moves = std::env::var("MOVES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(100_usize);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let mut lab = Lab::start().await;
        lab.has_written(WARM).await;
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
        let mut stopped = Vec::new();
        for _ in 0..PLAIN {
            stopped.push(plain().await);
        }
        stopped.sort();
        let (ours, plain) = (at(&frozen, 0.5), at(&stopped, 0.5));
        println!("writes stand still, ms      median      p99      most");
        for (name, all) in [("cut-over", &frozen), ("stop, copy, start", &stopped)] {
            let (half, most, worst) = (at(all, 0.5), at(all, 0.99), at(all, 1.0));
            println!("  {name:<20} {half:>11.1} {most:>8.1} {worst:>9.1}");
        }
        println!("the plain way takes {:.1} times as long", plain / ours);
        let promise = |id: &str, measured: f64, unit: &str, target: f64| {
            let verdict = if measured <= target { "ok" } else { "short" };
            println!("promise {id} {measured:.1} {unit} target <= {target} {verdict}");
        };
        promise("C1", ours, "ms", 50.0);
        promise("C2", at(&frozen, 0.99), "ms", 300.0);
        promise(
            "C3",
            failed.len() as f64 + if linear.is_ok() { 0.0 } else { 1.0 },
            "operations",
            0.0,
        );
    });
}
