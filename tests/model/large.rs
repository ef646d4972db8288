//! The explorations that are too long for every test run: `make model`.
//!
//! The first two worlds, of a stateless instance (S0) and of a single writer (S3), are those that the
//! promise is about; the others reach what they leave out. Ends
//! with a line per promise, and with an error if an invariant is broken, something was not reached
//! or a promise is short.
#![allow(
    clippy::expect_used,
    clippy::panic,
    dead_code,
    missing_docs,
    reason = "it says what it expects by failing; what it does not use, the tests use"
)]

mod checker;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use checker::Explored;
use checker::config::{Budget, Config};
use checker::story::{Told, tell};
use stateright::{Checker, HasDiscoveries, Model};

/// Unique states of the first two worlds.
const STATES: usize = 10_000_000;
/// For the first two worlds.
const LIMIT: Duration = Duration::from_mins(2);

/// One of nearly everything: a second leader, a crash, a fault, an abort, a contradiction and its
/// answer, a verdict against the shadow, a proxy that is away.
fn everything() -> Config {
    Config {
        budget: Budget {
            leases: 2,
            crashes: 1,
            faults: 1,
            aborts: 1,
            contradictions: 1,
            answers: 1,
            rollbacks: 1,
            losses: 1,
            ..Budget::default()
        },
        requests: false,
        ..Config::calm()
    }
}

/// Many leaders, each of which may crash or go on as a zombie.
fn leaders() -> Config {
    Config {
        budget: Budget {
            leases: 5,
            crashes: 4,
            aborts: 1,
            ..Budget::default()
        },
        requests: false,
        ..Config::calm()
    }
}

/// People, contradictions, and calls that come late.
fn people() -> Config {
    Config {
        budget: Budget {
            leases: 2,
            late: 1,
            aborts: 1,
            contradictions: 1,
            answers: 1,
            rollbacks: 1,
            ..Budget::default()
        },
        requests: false,
        ..Config::calm()
    }
}

/// Requests, and proxies that come and go.
fn traffic() -> Config {
    Config {
        budget: Budget {
            leases: 2,
            holds: 1,
            losses: 1,
            ..Budget::default()
        },
        ..Config::calm()
    }
}

/// A single writer's cut-over, with clients that write.
fn single() -> Config {
    Config {
        budget: Budget {
            leases: 2,
            crashes: 1,
            faults: 1,
            rollbacks: 1,
            writes: 1,
            ..Budget::default()
        },
        class: domain::ConsistencyClass::SingleWriter,
        requests: false,
        ..Config::calm()
    }
}

/// A longer migration: more rounds, stages and attempts.
fn long() -> Config {
    Config {
        budget: Budget {
            leases: 2,
            faults: 2,
            ..Budget::default()
        },
        rounds: 2,
        stages: 3,
        attempts: 3,
        requests: false,
        ..Config::calm()
    }
}

/// One world, explored to its end.
fn explore(name: &str, config: Config) -> (usize, Duration, Told) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    let checker = Explored::new(config)
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let (states, took) = (checker.unique_state_count(), began.elapsed());
    println!(
        "{name}: {states} unique states of {} generated, depth {}, {:.1} s, {threads} threads",
        checker.state_count(),
        checker.max_depth(),
        took.as_secs_f64(),
    );
    (states, took, tell(&checker))
}

/// What is printed of a promise.
fn word(kept: bool) -> &'static str {
    if kept { "ok" } else { "short" }
}

fn main() -> ExitCode {
    let (states, took, told) = explore("everything", everything());
    let (more, longer, of_single) = explore("single writer", single());
    let (states, took) = (states + more, took + longer);
    let mut broken = told.broken;
    broken.extend(of_single.broken);
    let mut missed: BTreeSet<_> = told.missed.into_iter().collect();
    missed.retain(|name| of_single.missed.contains(name));
    let others = [
        ("leaders", leaders()),
        ("people", people()),
        ("traffic", traffic()),
        ("long", long()),
    ];
    for (name, config) in others {
        let (_, _, told) = explore(name, config);
        broken.extend(told.broken);
        missed.retain(|name| told.missed.contains(name));
    }
    for (_, way) in &broken {
        println!("broken: {way}");
    }
    println!("invariants broken: {}", broken.len());
    println!("not reached in any world: {missed:?}");
    let (many, quick) = (states >= STATES, took <= LIMIT);
    let (least, most) = (STATES, LIMIT.as_secs());
    println!(
        "promise M1 {states} states target >= {least} {}",
        word(many)
    );
    let seconds = took.as_secs_f64();
    println!("promise M2 {seconds:.1} s target <= {most} {}", word(quick));
    if broken.is_empty() && missed.is_empty() && many && quick {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
