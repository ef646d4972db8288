//! The main job, end to end, with the real binary: real Envoy, real proxy, real processes, a real
//! trace. The binary starts and stops everything; these tests read its closing table.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod away;
mod forecasting;
mod lab;
mod operator;
mod restart;
mod wire;

use std::process::{Command, Output};

use foreshadow_tests::binary;
use serde_json::Value;

/// These tests share the machine's processors; one at a time.
static ONE_AT_A_TIME: Turns = Turns(std::sync::Mutex::new(()));

struct Turns(std::sync::Mutex<()>);

impl Turns {
    /// Waits for its turn; a test that failed gives its own back.
    fn lock(&self) -> std::sync::MutexGuard<'_, ()> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn demo(arguments: &[&str]) -> (Output, Value) {
    let _turn = ONE_AT_A_TIME.lock();
    let output = Command::new(binary())
        .args(["demo", "--short", "--page", "127.0.0.1:0", "-o", "json"])
        .args(arguments)
        .output()
        .expect("the demo starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let reports: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    (output, reports[0].clone())
}

/// The move that was decided first. One that is undone early leaves time for another to begin.
fn first_move(report: &Value) -> &Value {
    let decided = |one: &Value| one["decided_at_s"].as_f64().unwrap();
    let moves = report["migrations"].as_array().unwrap().iter();
    let first = moves.min_by(|one, other| decided(one).total_cmp(&decided(other)));
    first.expect("nothing moved")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_instance_is_moved_ahead_of_contention_and_no_request_is_lost() {
    let (output, report) = demo(&[]);
    assert!(output.status.success(), "{report:#}\n{}", told(&output));
    assert_eq!(report["failed"], 0, "{report:#}");
    assert!(
        report["sent"].as_u64().unwrap() > 1_000,
        "too few requests to mean anything"
    );
    let moved = first_move(&report);
    assert_eq!(moved["outcome"], "done", "{report:#}");
    let decided = moved["decided_at_s"].as_f64().unwrap();
    let contended = report["contended_from_s"].as_f64().unwrap();
    assert!(
        decided < contended,
        "decided at {decided} s, contention from {contended} s"
    );
    assert!(
        !told(&output).contains("Envoy is missing"),
        "Envoy must be part of it"
    );
}

#[test]
fn a_shadow_that_answers_with_errors_is_rolled_back() {
    let (output, report) = demo(&["--bad-shadow", "errors"]);
    assert!(output.status.success(), "{report:#}\n{}", told(&output));
    let moved = first_move(&report);
    assert_eq!(moved["outcome"], "rolled back", "{report:#}");
    let failed = report["failed"].as_u64().unwrap();
    // What bad shadows themselves answered before the judge acted, and nothing beyond.
    let moves = report["migrations"].as_array().unwrap();
    let exposed: u64 = moves
        .iter()
        .map(|one| one["shadow"][1].as_u64().unwrap())
        .sum();
    assert_eq!(failed, exposed, "{report:#}");
    assert!(
        failed < 50,
        "{failed} requests were exposed before the judge acted"
    );
}

#[test]
fn a_slow_shadow_is_rolled_back_without_a_failed_request() {
    let (output, report) = demo(&["--bad-shadow", "slow"]);
    assert!(output.status.success(), "{report:#}\n{}", told(&output));
    assert_eq!(first_move(&report)["outcome"], "rolled back", "{report:#}");
    assert_eq!(report["failed"], 0, "{report:#}");
}

#[test]
fn a_shadow_that_dies_is_rolled_back_and_costs_no_more_than_what_it_held() {
    let (output, report) = demo(&["--bad-shadow", "dead"]);
    assert!(output.status.success(), "{report:#}\n{}", told(&output));
    assert_eq!(first_move(&report)["outcome"], "rolled back", "{report:#}");
    // What it was answering in the instant of its death, at a tenth of the traffic.
    let failed = report["failed"].as_u64().unwrap();
    assert!(failed <= 3, "{report:#}");
}

#[test]
fn a_configuration_with_an_unknown_field_ends_with_64_and_names_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "data: x\nhostss: []\n").unwrap();
    let output = Command::new(binary())
        .args(["serve", "--config"])
        .arg(file.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(told(&output).contains("hostss"), "{}", told(&output));
}

#[test]
fn asking_where_nobody_answers_ends_with_69() {
    let output = Command::new(binary())
        .args(["status", "--server", "127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
}
