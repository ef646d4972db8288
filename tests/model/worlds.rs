//! Worlds without a planted bug: every invariant holds, and what a world is about is reached.

use stateright::{Checker, HasDiscoveries, Model};

use crate::checker::Explored;
use crate::checker::config::{Budget, Config};
use crate::checker::story::{Told, tell};

/// Explores a whole world.
fn explore(config: Config) -> Told {
    let checker = Explored::new(config)
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let told = tell(&checker);
    let ways: Vec<_> = told.broken.iter().map(|(_, way)| way.as_str()).collect();
    assert!(ways.is_empty(), "broken: {}", ways.join("\n"));
    assert!(checker.is_done(), "the world is not explored to its end");
    println!(
        "{} states, {} steps deep, reached: {}",
        checker.unique_state_count(),
        checker.max_depth(),
        told.reached.join(", ")
    );
    told
}

/// Fails for what was to be reached and was not.
fn must_reach(told: &Told, is_meant: impl Fn(&str) -> bool) {
    let missed: Vec<_> = told.missed.iter().filter(|name| is_meant(name)).collect();
    assert!(missed.is_empty(), "not reached: {missed:?}");
}

fn quiet(budget: Budget) -> Config {
    Config {
        budget,
        requests: false,
        ..Config::calm()
    }
}

#[test]
fn leaders_that_crash_and_zombies_break_nothing() {
    let told = explore(quiet(Budget {
        leases: 2,
        crashes: 1,
        faults: 1,
        ..Budget::default()
    }));
    let about = ["done", "rolled back", "a zombie was refused"];
    must_reach(&told, |name| {
        about.contains(&name) || name.starts_with("taken over")
    });
}

#[test]
fn an_operator_may_abort_and_answer_at_any_time() {
    let told = explore(quiet(Budget {
        leases: 2,
        aborts: 1,
        contradictions: 1,
        answers: 1,
        ..Budget::default()
    }));
    must_reach(&told, |name| {
        name.starts_with("aborted") || name.contains("parked")
    });
}

#[test]
fn requests_and_proxies_that_come_and_go_are_waited_for() {
    let told = explore(Config {
        budget: Budget {
            leases: 1,
            rollbacks: 1,
            losses: 1,
            ..Budget::default()
        },
        ..Config::calm()
    });
    must_reach(&told, |name| {
        name.contains("drain ") || name.contains("a proxy is away")
    });
}

#[test]
fn a_driver_call_that_comes_late_leaves_nothing_behind() {
    let told = explore(quiet(Budget {
        leases: 2,
        late: 1,
        aborts: 1,
        ..Budget::default()
    }));
    must_reach(&told, |name| name.contains("a call is late"));
}

#[test]
fn a_driver_without_fence_is_kept_in_order_by_its_operations() {
    let told = explore(Config {
        driver_fence: false,
        ..quiet(Budget {
            leases: 2,
            late: 1,
            aborts: 1,
            ..Budget::default()
        })
    });
    must_reach(&told, |name| name.contains("two coordinators"));
}

#[test]
fn a_driver_that_only_fences_is_enough_where_no_call_is_late() {
    let told = explore(Config {
        driver_order: false,
        ..quiet(Budget {
            leases: 2,
            crashes: 1,
            aborts: 1,
            ..Budget::default()
        })
    });
    must_reach(&told, |name| name.contains("two coordinators"));
}

#[test]
fn a_single_writer_is_never_two_and_loses_nothing() {
    for budget in [
        Budget {
            leases: 2,
            crashes: 1,
            writes: 1,
            ..Budget::default()
        },
        Budget {
            leases: 1,
            aborts: 1,
            rollbacks: 1,
            writes: 1,
            ..Budget::default()
        },
        Budget {
            leases: 1,
            late: 1,
            aborts: 1,
            writes: 1,
            ..Budget::default()
        },
    ] {
        let told = explore(Config {
            class: domain::ConsistencyClass::SingleWriter,
            ..quiet(budget)
        });
        must_reach(&told, |name| {
            name.contains("took a write")
                || (budget.aborts > 0 && name.contains("cut-over is aborted"))
        });
    }
}
