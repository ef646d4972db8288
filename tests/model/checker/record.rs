//! The record, small: what of a [`Migration`] can make a difference, and the way there and back.
//!
//! [`transit`] builds the real record, calls the production [`step`], and makes it small again. On
//! the way it checks that nothing got lost: what is expanded again equals what `step` gave, but
//! for times, texts and all of the history but its last line. It also checks that a healthy world
//! brings every record that comes up to rest. `step` is a pure function, so each thread remembers
//! what it has answered.

use std::cell::RefCell;
use std::collections::HashMap;

use domain::migration::{
    Entered, Event, Frozen, JudgeScope, OpId, Outcome, Pending, Question, RouteTo, Undo, Verdict,
    What,
};
use domain::routing::DrainDeadline;
use domain::{EffectKind, Epoch, Migration, Phase, Timestamp, ZeroTraffic, step};

use super::config::{Config, Planted};
use super::rest::comes_to_rest;
use super::template::{limits, prove, shadow, template};
use super::words::{Eff, Ev, Proof, Said, Scope, Told, Way};

/// Where the original's writes end. The model follows the writes themselves.
const FROZEN: Frozen = Frozen {
    writer: 2,
    position: 1,
};

/// The record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Rec {
    /// Where it stands.
    pub(crate) phase: Phase,
    /// Where it stood when it was parked.
    pub(crate) parked_in: Option<Phase>,
    /// The effect without outcome; its operation is the one before `next_op`.
    pub(crate) pending: Option<Eff>,
    /// How often it was begun.
    pub(crate) attempts: u8,
    /// What must be undone, newest last.
    pub(crate) undo: [Option<Undo>; 8],
    /// Number of the next operation.
    pub(crate) next_op: u8,
    /// Rounds of sync.
    pub(crate) rounds: u8,
    /// Whether the shadow's address is known.
    pub(crate) endpoint: bool,
    /// Whether the record names a shadow.
    pub(crate) shadow: bool,
    /// Whether the record says that it was verified.
    pub(crate) verified: bool,
    /// Whether it has a reason to roll back.
    pub(crate) failed: bool,
    /// The leadership that last drove it.
    pub(crate) epoch: u8,
    /// Whether the record knows where the original's writes end.
    pub(crate) frozen: bool,
    /// Whether the shadow may take writes.
    pub(crate) opened: bool,
    /// The proof for the commit.
    pub(crate) proof: Option<Proof>,
}

impl Rec {
    /// A migration that has not begun.
    pub(crate) fn planned(config: &Config) -> Self {
        compact(&template(config))
    }

    /// The effect to carry out, if one is.
    pub(crate) fn effect(&self) -> Option<Eff> {
        self.pending.filter(|_| !self.phase.is_final())
    }

    /// The pending operation.
    pub(crate) fn op(&self) -> u8 {
        self.next_op.saturating_sub(1)
    }

    /// Whether an executor lets an abort interrupt it.
    pub(crate) fn may_be_aborted(&self) -> bool {
        match self.phase {
            Phase::Planned
            | Phase::HostReserved
            | Phase::ShadowCreating
            | Phase::Syncing
            | Phase::Forking
            | Phase::Reidentifying
            | Phase::Verifying
            | Phase::Mirroring
            | Phase::Ramping { .. }
            | Phase::Soaking
            | Phase::CutOver
            | Phase::Draining => true,
            Phase::Committed
            | Phase::Terminating
            | Phase::Done
            | Phase::RollingBack
            | Phase::RolledBack
            | Phase::Parked => false,
        }
    }

    /// Whether nothing is left to do, and nothing is asked.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.phase == Phase::Done || self.phase == Phase::RolledBack
    }
}

/// A number that is small in every world that is explored.
pub(crate) fn small(number: usize) -> u8 {
    u8::try_from(number).expect("numbers stay small in a bounded world")
}

type Known = HashMap<(Config, Rec, Ev), Option<Rec>>;

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(HashMap::new());
}

/// The record after an event; `None` when `step` refuses it.
pub(crate) fn transit(config: &Config, rec: &Rec, ev: Ev) -> Option<Rec> {
    let key = (*config, *rec, ev);
    KNOWN.with(|known| {
        let found = known.borrow().get(&key).copied();
        found.unwrap_or_else(|| {
            let next = take_step(config, rec, ev);
            known.borrow_mut().insert(key, next);
            next
        })
    })
}

fn take_step(config: &Config, rec: &Rec, ev: Ev) -> Option<Rec> {
    let mut record = expand(config, rec);
    for what in events(config, &mut record, ev) {
        let event = Event {
            at: Timestamp(0),
            what,
        };
        let (next, effects) = step(&record, event).ok()?;
        assert!(effects.len() <= 1, "more than one effect: {effects:?}");
        for effect in &effects {
            let pending = next.pending.as_ref().expect("an effect is pending");
            assert_eq!((effect.op, effect.epoch), (pending.op, next.epoch));
            assert_eq!(effect.kind, pending.kind);
        }
        record = forget(next);
    }
    plant(config, &mut record);
    let small = compact(&record);
    assert_eq!(expand(config, &small), record, "something got lost");
    if config.planted.is_none() {
        assert!(comes_to_rest(config, record), "no way to rest: {small:?}");
    }
    Some(small)
}

/// The operation that is pending, or was last.
pub(super) fn small_op(record: &Migration) -> u8 {
    number(record.next_op.saturating_sub(1))
}

fn number(number: u64) -> u8 {
    small(usize::try_from(number).expect("numbers are small"))
}

/// The events that one event of the model stands for.
fn events(config: &Config, record: &mut Migration, ev: Ev) -> Vec<What> {
    let taken = |epoch: u8| What::TakenOver {
        epoch: Epoch(epoch.into()),
    };
    let reason = String::new;
    match ev {
        Ev::Start => vec![What::Start],
        Ev::Ok { op, told } => {
            let skip = config.has(Planted::VerifySkipped)
                && record.phase == Phase::Reidentifying
                && told == Told::Done;
            let op = if config.has(Planted::LateReplyTaken) {
                small_op(record)
            } else {
                op
            };
            let mut all = vec![succeeded(config, op, told)];
            if skip {
                all.push(succeeded(config, op + 1, Told::Done));
            }
            all
        }
        Ev::Failed { op, retry } => {
            let committed = matches!(record.phase, Phase::Committed | Phase::Terminating);
            if committed && !retry && config.has(Planted::UndoAfterCommit) {
                record.phase = Phase::Draining;
                record.undo = vec![Undo::ReleaseReservation, Undo::DestroyShadow];
                return vec![What::Abort { reason: reason() }];
            }
            vec![What::Failed {
                op: OpId(op.into()),
                error: reason(),
                may_retry: retry,
            }]
        }
        Ev::Abort => vec![What::Abort { reason: reason() }],
        Ev::TakenOver { epoch } => vec![taken(epoch)],
        Ev::Contradiction => vec![What::Contradiction { question: reason() }],
        Ev::Retry { .. } if config.has(Planted::AnswerUnderOldEpoch) => vec![What::RetryParked],
        Ev::Retry { epoch } => vec![taken(epoch), What::RetryParked],
        Ev::RollBack { epoch } => vec![taken(epoch), What::RollBackParked],
    }
}

pub(super) fn succeeded(config: &Config, op: u8, told: Told) -> What {
    let outcome = match told {
        Told::Done => Outcome::Done,
        Told::Prepared => Outcome::Prepared(shadow().endpoint),
        Told::Synced { near } => Outcome::Synced {
            lag_bytes: if near {
                0
            } else {
                limits(config).lag_bytes + 1
            },
        },
        Told::Forked => Outcome::Forked(shadow()),
        Told::Judged(said) => {
            let reason = String::new();
            Outcome::Judged(match said {
                Said::Promote => Verdict::Promote { reason },
                Said::Rollback => Verdict::Rollback { reason },
                Said::Hold => Verdict::Hold { reason },
            })
        }
        Told::Frozen => Outcome::Frozen(FROZEN),
        Told::Drained(proof) => Outcome::Drained(expand_proof(proof)),
    };
    What::Succeeded {
        op: OpId(op.into()),
        outcome,
    }
}

/// Bugs that would sit in `step()` or its table.
fn plant(config: &Config, record: &mut Migration) {
    if config.has(Planted::RoutingNotRestored) {
        record.undo.retain(|undo| *undo != Undo::RestoreRouting);
    }
    let usual = [Undo::ReleaseReservation, Undo::DestroyShadow];
    if config.has(Planted::ReleaseBeforeDestroy) && record.undo.starts_with(&usual) {
        record.undo.swap(0, 1);
    }
}

/// Leaves out what makes no difference to any later step.
pub(super) fn forget(mut record: Migration) -> Migration {
    let last = record.history.pop().expect("a history has an end");
    assert_eq!(last.phase, record.phase, "the history ends where it stands");
    record.history = vec![last];
    if let Some(failure) = &mut record.failure {
        failure.clear();
    }
    if let Some(question) = &mut record.question {
        question.text.clear();
    }
    record
}

fn compact(record: &Migration) -> Rec {
    let mut undo = [None; 8];
    for (place, entry) in undo.iter_mut().zip(&record.undo) {
        *place = Some(*entry);
    }
    Rec {
        phase: record.phase,
        parked_in: record.question.as_ref().map(|question| question.phase),
        pending: record
            .pending
            .as_ref()
            .map(|pending| Eff::of(&pending.kind)),
        attempts: record
            .pending
            .as_ref()
            .map_or(0, |pending| number(pending.attempts.into())),
        undo,
        next_op: number(record.next_op),
        rounds: number(record.sync_rounds.into()),
        endpoint: record.shadow_endpoint.is_some(),
        shadow: record.shadow.is_some(),
        verified: record.verified,
        failed: record.failure.is_some(),
        epoch: number(record.epoch.0),
        frozen: record.frozen.is_some(),
        opened: record.opened,
        proof: record.proof.as_ref().map(|proof| Proof {
            revision: number(proof.revision()),
            forced: proof.forced(),
        }),
    }
}

fn expand(config: &Config, rec: &Rec) -> Migration {
    Migration {
        epoch: Epoch(rec.epoch.into()),
        phase: rec.phase,
        pending: rec.pending.map(|eff| Pending {
            op: OpId(rec.op().into()),
            kind: expand_effect(eff, rec.proof),
            attempts: rec.attempts.into(),
            since: Timestamp(0),
        }),
        undo: rec.undo.iter().flatten().copied().collect(),
        next_op: rec.next_op.into(),
        sync_rounds: rec.rounds.into(),
        shadow_endpoint: rec.endpoint.then(|| shadow().endpoint),
        shadow: rec.shadow.then(shadow),
        verified: rec.verified,
        frozen: rec.frozen.then_some(FROZEN),
        opened: rec.opened,
        proof: rec.proof.map(expand_proof),
        failure: rec.failed.then(String::new),
        question: rec.parked_in.map(|phase| Question {
            text: String::new(),
            phase,
        }),
        history: vec![Entered {
            phase: rec.phase,
            at: Timestamp(0),
        }],
        ..template(config)
    }
}

fn expand_effect(eff: Eff, proof: Option<Proof>) -> EffectKind {
    match eff {
        Eff::Reserve => EffectKind::Reserve,
        Eff::Prepare => EffectKind::PrepareShadow,
        Eff::Sync => EffectKind::SyncRound,
        Eff::Fork => EffectKind::Fork,
        Eff::Reidentify => EffectKind::Reidentify,
        Eff::Verify => EffectKind::Verify,
        Eff::Route(way) => EffectKind::Route(match way {
            Way::Split {
                shadow,
                mirror,
                hold,
            } => RouteTo {
                split: shadow,
                mirror,
                hold,
            },
            Way::Before | Way::After => unreachable!("a record routes to a split only"),
        }),
        Eff::Judge(Scope::Mirror) => EffectKind::Judge(JudgeScope::Mirror),
        Eff::Judge(Scope::Stage(stage)) => EffectKind::Judge(JudgeScope::Stage {
            stage: stage.into(),
        }),
        Eff::Judge(Scope::Soak) => EffectKind::Judge(JudgeScope::Soak),
        Eff::Freeze => EffectKind::FreezeWrites,
        Eff::CatchUp => EffectKind::CatchUp,
        Eff::Open => EffectKind::OpenWrites,
        Eff::Drain => EffectKind::AwaitDrain,
        Eff::Adopt => EffectKind::Adopt,
        Eff::Terminate => EffectKind::Terminate {
            proof: expand_proof(proof.expect("termination has a proof")),
        },
        Eff::Release => EffectKind::Release,
        Eff::Undo(undo) => EffectKind::Undo(undo),
    }
}

fn expand_proof(proof: Proof) -> ZeroTraffic {
    let left = u64::from(proof.forced);
    prove(
        proof.revision,
        proof.revision,
        Way::SHADOW,
        left,
        DrainDeadline::Passed,
    )
    .expect("an applied routing without weight proves it")
}
