//! Walks every transition, and looks for event sequences that break an invariant.

#![allow(
    clippy::wildcard_enum_match_arm,
    clippy::match_same_arms,
    reason = "a model of the world is easier to check as a list of what each effect does"
)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::{HostId, InstanceId, MigrationId, PlanId, ServiceId};
use crate::inventory::{
    ConsistencyClass, Endpoint, Instance, InstanceSpec, InstanceState, Replica,
};
use crate::plan::Move;
use crate::routing::{
    DrainDeadline, Hold, MigrationRouting, Routing, RoutingState, RoutingStatus, ZeroTraffic,
};
use crate::units::{BasisPoints, Epoch, Resources, Timestamp};
use crate::weight::{RampPlan, Stage, WeightSplit};

fn replica(name: &str, port: u16) -> Replica {
    Replica {
        host: HostId::new(name).unwrap(),
        endpoint: Endpoint(([127, 0, 0, 1], port).into()),
        handle: "1".to_owned(),
        tag: name.to_owned(),
    }
}

fn proof() -> ZeroTraffic {
    let routing = Routing {
        service: ServiceId::new("s").unwrap(),
        revision: 1,
        epoch: Epoch(1),
        migration: Some(MigrationRouting {
            migration: MigrationId::new("m").unwrap(),
            instance: InstanceId::new("i").unwrap(),
            original: replica("a", 1).endpoint,
            shadow: replica("b", 2).endpoint,
            split: WeightSplit::SHADOW,
            mirror: false,
            hold: Hold::Off,
        }),
    };
    let status = RoutingStatus {
        service: routing.service.clone(),
        revision: 1,
        state: RoutingState::Applied,
        nodes: BTreeMap::new(),
        at: Timestamp(0),
    };
    ZeroTraffic::prove(&routing, &status, 0, DrainDeadline::Ahead).unwrap()
}

fn planned() -> Migration {
    planned_as(ConsistencyClass::Stateless)
}

fn planned_as(class: ConsistencyClass) -> Migration {
    let stage = |shadow| Stage {
        shadow: BasisPoints::new(shadow).unwrap(),
        hold_ms: 1,
    };
    let spec = serde_json::from_str(r#"{"id":"i","service":"s","argv":["x"],"class":"stateless"}"#);
    let mut spec: InstanceSpec = spec.unwrap();
    spec.class = class;
    let instance = Instance {
        spec,
        replica: replica("a", 1),
        state: InstanceState::Running,
        placed_at: Timestamp(0),
    };
    let intent = Move {
        instance: instance.spec.id.clone(),
        from: HostId::new("a").unwrap(),
        target: HostId::new("b").unwrap(),
        ramp: RampPlan::new(vec![stage(100), stage(5_000), stage(10_000)]).unwrap(),
        reserve: Resources::default(),
        score: 1.0,
        reasons: Vec::new(),
        expected: crate::plan::Expected::default(),
    };
    Migration::new(
        MigrationId::new("m").unwrap(),
        PlanId::new("p").unwrap(),
        &instance,
        &intent,
        Limits::default(),
        Epoch(1),
        Timestamp(0),
    )
}

fn at(what: What) -> Event {
    Event {
        at: Timestamp(1),
        what,
    }
}

const FROZEN: Frozen = Frozen {
    writer: 2,
    position: 77,
};

/// The outcome that a healthy world gives.
fn good_outcome(kind: &EffectKind) -> Outcome {
    match kind {
        EffectKind::PrepareShadow => Outcome::Prepared(replica("b", 2).endpoint),
        EffectKind::SyncRound => Outcome::Synced { lag_bytes: 0 },
        EffectKind::Fork => Outcome::Forked(replica("b", 2)),
        EffectKind::Judge(_) => Outcome::Judged(Verdict::Promote {
            reason: "no worse".to_owned(),
        }),
        EffectKind::AwaitDrain => Outcome::Drained(proof()),
        EffectKind::FreezeWrites | EffectKind::Undo(Undo::WritesBack) => Outcome::Frozen(FROZEN),
        EffectKind::CatchUp
        | EffectKind::OpenWrites
        | EffectKind::Reserve
        | EffectKind::Reidentify
        | EffectKind::Verify
        | EffectKind::Route(_)
        | EffectKind::Adopt
        | EffectKind::Terminate { .. }
        | EffectKind::Release
        | EffectKind::Undo(_) => Outcome::Done,
    }
}

fn succeed(record: &Migration) -> Event {
    let pending = record.pending.as_ref().expect("something is pending");
    at(What::Succeeded {
        op: pending.op,
        outcome: good_outcome(&pending.kind),
    })
}

fn started() -> Migration {
    step(&planned(), at(What::Start)).unwrap().0
}

/// A single writer's migration, once its traffic has been copied.
fn cutting_over() -> Migration {
    let planned = planned_as(ConsistencyClass::SingleWriter);
    let started = step(&planned, at(What::Start)).unwrap().0;
    drive(started, |r| r.phase == Phase::CutOver).0
}

/// Drives a healthy world until `stop` says so or nothing is pending.
fn drive(mut record: Migration, stop: impl Fn(&Migration) -> bool) -> (Migration, Vec<EffectKind>) {
    let mut done = Vec::new();
    while !stop(&record) && !record.phase.is_final() {
        done.push(record.pending.clone().expect("pending").kind);
        record = step(&record, succeed(&record)).unwrap().0;
    }
    (record, done)
}

#[test]
fn a_healthy_migration_walks_all_phases_in_order() {
    let (record, _) = drive(started(), |_| false);
    let names: Vec<_> = record
        .history
        .iter()
        .map(|entered| entered.phase.name())
        .collect();
    assert_eq!(
        names,
        [
            "planned",
            "host reserved",
            "shadow creating",
            "syncing",
            "forking",
            "re-identifying",
            "verifying",
            "mirroring",
            "ramping",
            "ramping",
            "soaking",
            "draining",
            "committed",
            "terminating",
            "done"
        ]
    );
    assert!(record.undo.is_empty());
    assert!(record.pending.is_none());
}

#[test]
fn weights_rise_only_after_verification_and_end_at_everything() {
    let (_, done) = drive(started(), |_| false);
    let verified = done
        .iter()
        .position(|kind| *kind == EffectKind::Verify)
        .unwrap();
    let weights: Vec<_> = done
        .iter()
        .enumerate()
        .filter_map(|(index, kind)| match kind {
            EffectKind::Route(to) => Some((index, to.split.shadow().get())),
            _ => None,
        })
        .collect();
    assert!(weights.iter().all(|(index, _)| *index > verified));
    let shares: Vec<_> = weights.iter().map(|(_, share)| *share).collect();
    assert_eq!(shares, [0, 100, 5_000, 10_000]);
}

#[test]
fn a_failed_shadow_is_undone_in_reverse_order() {
    let (record, _) = drive(started(), |r| {
        matches!(r.phase, Phase::Ramping { stage: 1 })
    });
    let record = step(&record, succeed(&record)).unwrap().0;
    let op = record.pending.as_ref().unwrap().op;
    let verdict = Verdict::Rollback {
        reason: "slower".to_owned(),
    };
    let event = at(What::Succeeded {
        op,
        outcome: Outcome::Judged(verdict),
    });
    let (record, _) = step(&record, event).unwrap();
    assert_eq!(record.phase, Phase::RollingBack);
    let (record, undone) = drive(record, |_| false);
    assert_eq!(
        undone,
        [
            Undo::ShiftBack,
            Undo::RestoreRouting,
            Undo::DestroyShadow,
            Undo::ReleaseReservation
        ]
        .map(EffectKind::Undo)
    );
    assert_eq!(record.phase, Phase::RolledBack);
    assert_eq!(record.failure.as_deref(), Some("slower"));
}

#[test]
fn an_effect_is_repeated_with_the_same_operation_and_then_undone() {
    let mut record = drive(started(), |r| r.phase == Phase::Verifying).0;
    let op = record.pending.as_ref().unwrap().op;
    for attempt in 1..=3 {
        assert_eq!(record.pending.as_ref().unwrap().op, op);
        assert_eq!(record.pending.as_ref().unwrap().attempts, attempt);
        let failed = What::Failed {
            op,
            error: "no answer".to_owned(),
            may_retry: true,
        };
        record = step(&record, at(failed)).unwrap().0;
    }
    assert_eq!(record.phase, Phase::RollingBack);
    assert!(
        record
            .failure
            .unwrap()
            .contains("verify failed after 3 attempt(s)")
    );
}

#[test]
fn nothing_is_rolled_back_after_the_commit_and_failures_park() {
    let record = drive(started(), |r| r.phase == Phase::Committed).0;
    let abort = at(What::Abort {
        reason: "changed my mind".to_owned(),
    });
    assert!(matches!(step(&record, abort), Err(Illegal::InPhase { .. })));
    let op = record.pending.as_ref().unwrap().op;
    let failed = What::Failed {
        op,
        error: "gone".to_owned(),
        may_retry: false,
    };
    let (parked, effects) = step(&record, at(failed)).unwrap();
    assert_eq!(parked.phase, Phase::Parked);
    assert!(effects.is_empty());
    assert!(step(&parked, at(What::RollBackParked)).is_err());
    let (again, effects) = step(&parked, at(What::RetryParked)).unwrap();
    assert_eq!(again.phase, Phase::Committed);
    assert_eq!(effects.len(), 1);
    assert_eq!(drive(again, |_| false).0.phase, Phase::Done);
}

#[test]
fn a_takeover_repeats_the_pending_effect_under_the_new_epoch() {
    let record = drive(started(), |r| r.phase == Phase::Forking).0;
    let (taken, effects) = step(&record, at(What::TakenOver { epoch: Epoch(5) })).unwrap();
    assert_eq!(effects.len(), 1);
    assert_eq!(effects[0].epoch, Epoch(5));
    assert_eq!(effects[0].op, record.pending.unwrap().op);
    let stale = step(&taken, at(What::TakenOver { epoch: Epoch(4) }));
    assert!(matches!(stale, Err(Illegal::StaleEpoch { .. })));
}

#[test]
fn an_outcome_that_answers_nothing_changes_nothing() {
    let record = started();
    let unknown = What::Succeeded {
        op: OpId(99),
        outcome: Outcome::Done,
    };
    assert!(matches!(
        step(&record, at(unknown)),
        Err(Illegal::StaleOp { .. })
    ));
    let op = record.pending.as_ref().unwrap().op;
    let wrong = What::Succeeded {
        op,
        outcome: Outcome::Synced { lag_bytes: 0 },
    };
    assert!(matches!(
        step(&record, at(wrong)),
        Err(Illegal::WrongOutcome { .. })
    ));
}

const HELD: EffectKind = EffectKind::Route(RouteTo {
    split: WeightSplit::ORIGINAL,
    mirror: false,
    hold: Hold::Writes,
});
const FLIPPED: EffectKind = EffectKind::Route(RouteTo {
    split: WeightSplit::SHADOW,
    mirror: false,
    hold: Hold::Writes,
});
const RELEASED: EffectKind = EffectKind::Route(RouteTo {
    split: WeightSplit::SHADOW,
    mirror: false,
    hold: Hold::Off,
});

#[test]
fn a_single_writer_flips_once_and_everything_stands_in_its_order() {
    let (record, done) = drive(cutting_over(), |r| r.phase == Phase::Draining);
    let soak = EffectKind::Judge(JudgeScope::Soak);
    assert_eq!(
        done,
        [
            HELD,
            EffectKind::FreezeWrites,
            EffectKind::CatchUp,
            FLIPPED,
            EffectKind::OpenWrites,
            RELEASED,
            soak
        ]
    );
    assert_eq!(record.frozen, Some(FROZEN));
    let (record, _) = drive(record, |_| false);
    assert_eq!(record.phase, Phase::Done);
    let ramped = |entered: &Entered| matches!(entered.phase, Phase::Ramping { .. });
    assert!(!record.history.iter().any(ramped), "reads never ramp");
}

/// Vitess 16563: the position that the target must reach was recorded before the lock, and what was
/// written in between was lost.
#[test]
fn vitess_16563_the_position_is_taken_only_after_writes_are_held_and_refused() {
    let record = cutting_over();
    // Nobody can hand a position in before the original is frozen.
    let early = What::Succeeded {
        op: record.pending.as_ref().unwrap().op,
        outcome: Outcome::Frozen(FROZEN),
    };
    assert!(matches!(
        step(&record, at(early)),
        Err(Illegal::WrongOutcome { .. })
    ));
    let (_, done) = drive(record, |r| r.frozen.is_some());
    assert_eq!(done, [HELD, EffectKind::FreezeWrites]);
}

/// Vitess 6951: the switch was allowed without the target having caught up.
#[test]
fn vitess_6951_nothing_flips_without_having_caught_up() {
    let (record, _) = drive(cutting_over(), |r| {
        r.pending
            .as_ref()
            .is_some_and(|p| p.kind == EffectKind::CatchUp)
    });
    let op = record.pending.as_ref().unwrap().op;
    let behind = What::Failed {
        op,
        error: "12 bytes behind".to_owned(),
        may_retry: false,
    };
    let (record, _) = step(&record, at(behind)).unwrap();
    assert_eq!(record.phase, Phase::RollingBack);
    let (record, undone) = drive(record, |_| false);
    assert_eq!(undone[0], EffectKind::Undo(Undo::HoldWrites));
    assert!(!undone.contains(&FLIPPED) && !undone.contains(&EffectKind::OpenWrites));
    assert_eq!(record.phase, Phase::RolledBack);
}

/// Vitess 17326: a failure between "deny the target" and "allow the source" left nobody to write to.
#[test]
fn vitess_17326_whatever_fails_somebody_takes_writes_again() {
    for failing in [
        HELD,
        EffectKind::FreezeWrites,
        EffectKind::CatchUp,
        FLIPPED,
        EffectKind::OpenWrites,
        RELEASED,
    ] {
        let (record, _) = drive(cutting_over(), |r| {
            r.pending.as_ref().is_some_and(|p| p.kind == failing)
        });
        let op = record.pending.as_ref().unwrap().op;
        let failed = What::Failed {
            op,
            error: "gone".to_owned(),
            may_retry: false,
        };
        let (record, _) = step(&record, at(failed)).unwrap();
        let (record, undone) = drive(record, |_| false);
        assert_eq!(record.phase, Phase::RolledBack);
        assert_eq!((record.frozen, record.opened), (None, false));
        let back = undone
            .iter()
            .position(|k| *k == EffectKind::Undo(Undo::Reopen));
        let shift = undone
            .iter()
            .position(|k| *k == EffectKind::Undo(Undo::ShiftBack));
        // The hold is let go after the original takes writes again, and in every case.
        assert!(shift.is_some());
        assert!(
            failing == HELD || back.is_some() && back < shift,
            "{failing:?}: {undone:?}"
        );
    }
}

/// Vitess 7061: what was held was let go only by its own time limit.
#[test]
fn vitess_7061_the_hold_ends_with_the_cut_over_and_not_with_its_time_limit() {
    let (_, done) = drive(cutting_over(), |r| r.phase == Phase::Draining);
    let opened = done
        .iter()
        .position(|k| *k == EffectKind::OpenWrites)
        .unwrap();
    assert_eq!(done[opened + 1], RELEASED, "right after the shadow is open");
}

#[test]
fn a_cut_over_that_takes_too_long_is_undone_and_says_so() {
    let record = cutting_over();
    let late = Event {
        at: Timestamp(1 + record.limits.freeze_ms + 1),
        ..succeed(&record)
    };
    let (record, _) = step(&record, late).unwrap();
    assert_eq!(record.phase, Phase::RollingBack);
    let failure = record.failure.clone().unwrap();
    assert!(failure.contains("2001 ms; allowed is 2000 ms"), "{failure}");
}

#[test]
fn a_shadow_that_is_found_bad_after_the_flip_gives_the_writes_back_first() {
    let (record, _) = drive(cutting_over(), |r| r.phase == Phase::Soaking);
    assert!(record.opened);
    let op = record.pending.as_ref().unwrap().op;
    let verdict = Verdict::Rollback {
        reason: "slower".to_owned(),
    };
    let event = at(What::Succeeded {
        op,
        outcome: Outcome::Judged(verdict),
    });
    let (record, undone) = drive(step(&record, event).unwrap().0, |_| false);
    assert_eq!(
        undone,
        [
            Undo::HoldWrites,
            Undo::WritesBack,
            Undo::FlipBack,
            Undo::Reopen,
            Undo::ShiftBack,
            Undo::RestoreRouting,
            Undo::DestroyShadow,
            Undo::ReleaseReservation
        ]
        .map(EffectKind::Undo)
    );
    assert_eq!(record.phase, Phase::RolledBack);
}

/// What a random world may answer.
#[derive(Debug, Clone)]
enum Answer {
    Good,
    Lag,
    Worse,
    Hold,
    FailRetry,
    FailForGood,
    Abort,
    Crash,
    Retry,
    RollBack,
    Contradict,
}

fn answers() -> impl Strategy<Value = Vec<Answer>> {
    let answer = prop_oneof![
        24 => Just(Answer::Good),
        1 => Just(Answer::Lag),
        1 => Just(Answer::Worse),
        1 => Just(Answer::Hold),
        2 => Just(Answer::FailRetry),
        1 => Just(Answer::FailForGood),
        1 => Just(Answer::Abort),
        3 => Just(Answer::Crash),
        1 => Just(Answer::Retry),
        1 => Just(Answer::RollBack),
        1 => Just(Answer::Contradict),
    ];
    prop::collection::vec(answer, 1..120)
}

fn event(record: &Migration, answer: &Answer, epoch: u64) -> Event {
    let op = record
        .pending
        .as_ref()
        .map_or(OpId(0), |pending| pending.op);
    let outcome = |outcome| What::Succeeded { op, outcome };
    at(match answer {
        Answer::Good => match &record.pending {
            Some(pending) => outcome(good_outcome(&pending.kind)),
            None => What::Start,
        },
        Answer::Lag => outcome(Outcome::Synced { lag_bytes: 1 << 40 }),
        Answer::Worse => outcome(Outcome::Judged(Verdict::Rollback {
            reason: "w".to_owned(),
        })),
        Answer::Hold => outcome(Outcome::Judged(Verdict::Hold {
            reason: "h".to_owned(),
        })),
        Answer::FailRetry => What::Failed {
            op,
            error: "e".to_owned(),
            may_retry: true,
        },
        Answer::FailForGood => What::Failed {
            op,
            error: "e".to_owned(),
            may_retry: false,
        },
        Answer::Abort => What::Abort {
            reason: "a".to_owned(),
        },
        Answer::Crash => What::TakenOver {
            epoch: Epoch(epoch),
        },
        Answer::Retry => What::RetryParked,
        Answer::RollBack => What::RollBackParked,
        Answer::Contradict => What::Contradiction {
            question: "?".to_owned(),
        },
    })
}

/// A model of the world that the effects act on.
#[derive(Debug)]
struct World {
    original_writes: bool,
    shadow_writes: bool,
    held: bool,
    reserved: bool,
    shadow: bool,
    split: u32,
    original_gone: bool,
    routed: bool,
}

impl World {
    fn new() -> Self {
        Self {
            original_writes: true,
            shadow_writes: false,
            held: false,
            reserved: false,
            shadow: false,
            split: 0,
            original_gone: false,
            routed: false,
        }
    }

    fn apply(&mut self, kind: &EffectKind) {
        match kind {
            EffectKind::Reserve => self.reserved = true,
            EffectKind::PrepareShadow | EffectKind::Fork => self.shadow = true,
            EffectKind::Route(to) => {
                self.routed = true;
                self.split = to.split.shadow().get();
                self.held = to.hold == Hold::Writes;
            }
            EffectKind::FreezeWrites => self.original_writes = false,
            EffectKind::OpenWrites => self.shadow_writes = true,
            EffectKind::Undo(Undo::HoldWrites) => self.held = true,
            EffectKind::Undo(Undo::WritesBack) => self.shadow_writes = false,
            EffectKind::Undo(Undo::FlipBack) => self.split = 0,
            EffectKind::Undo(Undo::Reopen) => self.original_writes = true,
            EffectKind::Adopt => self.routed = false,
            EffectKind::Terminate { .. } => self.original_gone = true,
            EffectKind::Release | EffectKind::Undo(Undo::ReleaseReservation) => {
                self.reserved = false;
            }
            EffectKind::Undo(Undo::DestroyShadow) => self.shadow = false,
            EffectKind::Undo(Undo::RestoreRouting) => self.routed = false,
            EffectKind::Undo(Undo::ShiftBack) => {
                self.split = 0;
                self.held = false;
            }
            EffectKind::SyncRound
            | EffectKind::CatchUp
            | EffectKind::Reidentify
            | EffectKind::Verify
            | EffectKind::Judge(_)
            | EffectKind::AwaitDrain => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_sequence_of_events_breaks_an_invariant(
        answers in answers(),
        class in prop_oneof![Just(ConsistencyClass::Stateless), Just(ConsistencyClass::SingleWriter)],
    ) {
        let mut record = step(&planned_as(class), at(What::Start)).unwrap().0;
        let mut world = World::new();
        let mut committed = false;
        for (epoch, answer) in (2_u64..).zip(&answers) {
            // The effect may have been carried out, whatever the record learns of it: this is
            // the harder half of a crash.
            if let Some(pending) = record.pending.as_ref().filter(|_| !record.phase.is_final()) {
                world.apply(&pending.kind.clone());
            }
            if let Ok((next, effects)) = step(&record, event(&record, answer, epoch)) {
                prop_assert!(effects.len() <= 1);
                prop_assert!(next.phase.is_final() || effects.len() == 1, "stuck in {:?}", next.phase);
                prop_assert!(next.epoch >= record.epoch);
                // What is stored is what is read back, in every state.
                let stored = serde_json::to_vec(&next).unwrap();
                prop_assert_eq!(&serde_json::from_slice::<Migration>(&stored).unwrap(), &next);
                record = next;
            }
            // I1: the original goes only when the shadow is there and has all traffic.
            prop_assert!(!world.original_gone || (world.shadow && world.split == 10_000));
            // I11: never two writers.
            prop_assert!(!(world.original_writes && world.shadow_writes));
            // I2: weight only for a verified shadow.
            prop_assert!(world.split == 0 || record.verified);
            committed |= record.phase == Phase::Committed;
            // No way back after the commit.
            prop_assert!(!(committed && matches!(record.phase, Phase::RollingBack | Phase::RolledBack)));
            prop_assert!(!world.original_gone || committed);
            // I7 and I9: at rest nothing is left behind.
            match record.phase {
                Phase::RolledBack => {
                    prop_assert!(!world.reserved && !world.shadow && !world.routed && world.split == 0);
                    prop_assert!(!world.original_gone);
                    prop_assert!(world.original_writes && !world.shadow_writes && !world.held);
                }
                Phase::Done => {
                    prop_assert!(!world.reserved && world.original_gone && !world.routed);
                    let single = class == ConsistencyClass::SingleWriter;
                    prop_assert!(world.shadow_writes == single && !world.held);
                }
                _ => {}
            }
        }
        // From wherever it is, a healthy world and a person that says "retry" bring it to an end.
        for _ in 0..60 {
            if record.phase == Phase::Parked {
                record = step(&record, at(What::RetryParked)).unwrap().0;
            } else if !record.phase.is_final() {
                record = step(&record, succeed(&record)).unwrap().0;
            }
        }
        prop_assert!(matches!(record.phase, Phase::Done | Phase::RolledBack), "{:?}", record.phase);
    }
}

#[test]
fn what_is_not_cut_over_is_stored_as_before_there_were_cut_overs() {
    // An earlier build refuses fields that it does not know.
    let mut record = started();
    while !record.phase.is_final() {
        let stored = serde_json::to_string(&record).unwrap();
        for new in ["frozen", "opened", "hold", "freeze_ms"] {
            assert!(!stored.contains(&format!("\"{new}\"")), "{new} in {stored}");
        }
        record = step(&record, succeed(&record)).unwrap().0;
    }
    assert_eq!(record.phase, Phase::Done);
}
