//! Planted bugs: each must be found, by the invariant that it breaks.

use stateright::{Checker, HasDiscoveries, Model};

use crate::checker::Explored;
use crate::checker::config::{Budget, Config, Planted};
use crate::checker::properties as must;
use crate::checker::story::tell;

/// Explores a world with one bug until these invariants are broken. Without the bug the same
/// world breaks none.
fn finds(bug: Planted, budget: Budget, broken: &[&'static str]) {
    let sound = Config {
        budget,
        ..Config::calm()
    };
    let planted = Some(bug);
    find(Config { planted, ..sound }, broken);
    holds(sound);
}

/// Explores a world to its end.
fn holds(config: Config) {
    let checker = Explored::new(config).checker().spawn_bfs().join();
    let told = tell(&checker);
    assert!(told.broken.is_empty(), "broken: {:?}", told.broken);
}

/// Explores a world to its end, in which this invariant holds, whatever else does not.
fn keeps(config: Config, name: &'static str) {
    let checker = Explored::new(config)
        .checker()
        .finish_when(HasDiscoveries::AllOf([name].into()))
        .spawn_bfs()
        .join();
    let broken = tell(&checker).broken;
    assert!(broken.iter().all(|(is, _)| *is != name), "{broken:?}");
}

/// One thread: so the ways that are told are shortest ones.
fn find(config: Config, broken: &[&'static str]) {
    let checker = Explored::new(config)
        .checker()
        .finish_when(HasDiscoveries::AllOf(broken.iter().copied().collect()))
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    let told = tell(&checker);
    for name in broken {
        let found = told.broken.iter().find(|(is, _)| is == name);
        let Some((_, way)) = found else {
            panic!(
                "{:?} does not break {name:?} in {states} states",
                config.planted
            );
        };
        println!(
            "{:?} breaks, as found in {states} states, {way}",
            config.planted
        );
    }
}

/// One leader, nothing that fails.
fn calm() -> Budget {
    Config::calm().budget
}

#[test]
fn a_store_without_fence_lets_a_zombie_act() {
    let budget = Budget {
        leases: 2,
        rollbacks: 1,
        ..calm()
    };
    finds(Planted::NoStoreFence, budget, &[must::FENCED, must::WEIGHT]);
}

#[test]
fn an_effect_before_its_intent_is_seen() {
    finds(Planted::EffectBeforeIntent, calm(), &[must::LOGGED]);
}

#[test]
fn one_acknowledgement_is_not_all() {
    finds(Planted::OneAckIsAll, calm(), &[must::DRAINED, must::WEIGHT]);
}

#[test]
fn a_drain_that_is_not_awaited_loses_requests() {
    finds(Planted::DrainNotAwaited, calm(), &[must::DRAINED]);
}

#[test]
fn undoing_after_the_commit_leaves_nobody_alive() {
    let budget = Budget {
        faults: 1,
        ..calm()
    };
    let broken = [must::SERVED, must::WEIGHT, must::NO_WAY_BACK];
    finds(Planted::UndoAfterCommit, budget, &broken);
}

#[test]
fn a_reservation_given_back_too_early_leaves_a_shadow_without_room() {
    let budget = Budget {
        aborts: 1,
        ..calm()
    };
    finds(Planted::ReleaseBeforeDestroy, budget, &[must::RESERVED]);
}

#[test]
fn a_new_leader_that_assumes_success_skips_what_was_not_done() {
    let budget = Budget {
        leases: 2,
        ..calm()
    };
    finds(Planted::TakeOverAssumesSuccess, budget, &[must::WEIGHT]);
}

#[test]
fn an_unverified_shadow_gets_no_weight() {
    finds(Planted::VerifySkipped, calm(), &[must::WEIGHT]);
}

#[test]
fn a_proxy_that_is_away_still_sends_to_the_original() {
    let budget = Budget {
        losses: 1,
        ..calm()
    };
    let broken = [must::DRAINED, must::WEIGHT];
    finds(Planted::AbsentCountsAsApplied, budget, &broken);
}

#[test]
fn a_roll_back_that_forgets_the_routing_is_seen() {
    let budget = Budget {
        rollbacks: 1,
        ..calm()
    };
    finds(Planted::RoutingNotRestored, budget, &[must::RESTORED]);
}

#[test]
fn an_unguarded_fork_makes_two_shadows() {
    let budget = Budget {
        faults: 1,
        ..calm()
    };
    finds(Planted::ForkUnguarded, budget, &[must::ONE_SHADOW]);
}

#[test]
fn a_late_call_that_is_accepted_leaves_a_room_behind() {
    let config = Config {
        budget: Budget {
            late: 1,
            aborts: 1,
            ..calm()
        },
        driver_order: false,
        ..Config::calm()
    };
    find(config, &[must::CLEAN]);
}

#[test]
fn a_reservation_that_is_written_late_stays_for_ever() {
    let config = Config {
        budget: Budget {
            late: 1,
            aborts: 1,
            ..calm()
        },
        store_order: false,
        ..Config::calm()
    };
    find(config, &[must::CLEAN]);
}

#[test]
fn a_driver_that_neither_fences_nor_orders_obeys_a_zombie() {
    let config = Config {
        budget: Budget {
            leases: 2,
            aborts: 1,
            ..calm()
        },
        driver_fence: false,
        driver_order: false,
        ..Config::calm()
    };
    find(config, &[must::CLEAN]);
}

#[test]
fn a_parked_migration_goes_on_only_under_the_present_epoch() {
    let budget = Budget {
        leases: 2,
        contradictions: 1,
        answers: 1,
        ..calm()
    };
    finds(Planted::AnswerUnderOldEpoch, budget, &[must::OWN_EPOCH]);
}

#[test]
fn a_proxy_that_forgets_what_it_acknowledged_goes_back() {
    let budget = Budget {
        losses: 1,
        ..calm()
    };
    let broken = [must::FORWARD, must::WEIGHT, must::DRAINED];
    finds(Planted::ProxyForgets, budget, &broken);
}

#[test]
fn a_late_reply_that_is_taken_verifies_what_nobody_checked() {
    let broken = [must::ANSWERED_ONCE, must::WEIGHT];
    finds(Planted::LateReplyTaken, calm(), &broken);
}

#[test]
fn an_abort_after_the_commit_stops_the_executor() {
    let budget = Budget {
        aborts: 1,
        ..calm()
    };
    finds(Planted::AbortAfterCommit, budget, &[must::AGREED]);
}

/// A single writer, and clients that write.
fn single(budget: Budget) -> Config {
    Config {
        budget,
        class: domain::ConsistencyClass::SingleWriter,
        requests: false,
        ..Config::calm()
    }
}

#[test]
fn a_position_that_is_noted_before_the_freeze_loses_a_write() {
    let budget = Budget {
        writes: 1,
        ..calm()
    };
    let config = Config {
        planted: Some(Planted::PositionBeforeFreeze),
        // A proxy that applies the hold late is enough, as in Vitess 16563.
        ..single(budget)
    };
    find(config, &[must::NOTHING_LOST]);
    holds(single(budget));
}

#[test]
fn a_shadow_that_is_opened_by_a_call_from_before_makes_two_writers() {
    // Without the driver's order the writer's own fence is all that there is.
    let world = Config {
        driver_order: false,
        ..single(Budget {
            late: 1,
            aborts: 1,
            ..calm()
        })
    };
    let planted = Some(Planted::NoWriterFence);
    find(Config { planted, ..world }, &[must::ONE_WRITER]);
    keeps(world, must::ONE_WRITER);
}

#[test]
fn writes_that_are_not_given_back_are_lost() {
    let world = single(Budget {
        rollbacks: 1,
        writes: 1,
        ..calm()
    });
    let planted = Some(Planted::NoReverseSync);
    find(Config { planted, ..world }, &[must::NOTHING_LOST]);
    holds(world);
}

#[test]
fn a_shadow_that_is_opened_before_all_read_from_it_is_read_around() {
    let world = single(Budget {
        writes: 1,
        ..calm()
    });
    let planted = Some(Planted::OneAckIsAll);
    find(Config { planted, ..world }, &[must::FRESH]);
    holds(world);
}
