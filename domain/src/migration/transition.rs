//! The transition function.

use crate::inventory::ConsistencyClass;
use crate::migration::record::{
    Effect, EffectKind, Entered, Event, Illegal, JudgeScope, Migration, OpId, Outcome, Pending,
    Phase, Question, RouteTo, Undo, Verdict, What,
};
use crate::migration::standing::Standing;
use crate::migration::table;
use crate::routing::Hold;
use crate::units::{BasisPoints, Timestamp};
use crate::weight::WeightSplit;

/// The record after an event, and what to do next.
///
/// # Errors
/// [`Illegal`] when the event must not happen in this state: a stale operation or epoch, an
/// outcome that does not belong to the pending effect, an abort after the commit.
pub fn step(record: &Migration, event: Event) -> Result<(Migration, Vec<Effect>), Illegal> {
    let mut next = record.clone();
    let at = event.at;
    match event.what {
        What::Start => {
            if next.phase != Phase::Planned || next.pending.is_some() {
                return Err(illegal(record, "a start"));
            }
            begin(&mut next, EffectKind::Reserve, at);
        }
        What::Succeeded { op, outcome } => {
            let kind = take_pending(&mut next, op)?;
            succeed(&mut next, kind, outcome, at)?;
        }
        What::Failed {
            op,
            error,
            may_retry,
        } => {
            expect_pending(&next, op)?;
            fail(&mut next, &error, may_retry, at);
        }
        What::Abort { reason } => match next.standing() {
            Standing::Reversible(reversible) => {
                reversible.roll_back(reason);
                unwind(&mut next, at);
            }
            Standing::Final(_) => return Err(illegal(record, "a roll-back")),
        },
        What::TakenOver { epoch } => {
            if epoch < next.epoch {
                return Err(Illegal::StaleEpoch {
                    migration: next.id,
                    ours: epoch,
                    current: record.epoch,
                });
            }
            next.epoch = epoch;
            if next.phase == Phase::Planned && next.pending.is_none() {
                begin(&mut next, EffectKind::Reserve, at);
            }
        }
        What::Contradiction { question } => {
            if next.phase.is_final() {
                return Err(illegal(record, "a contradiction"));
            }
            park(&mut next, question, at);
        }
        What::RetryParked => {
            let Some(question) = unpark(&mut next) else {
                return Err(illegal(record, "a person's answer"));
            };
            enter(&mut next, question.phase, at);
            if let Some(pending) = &mut next.pending {
                pending.attempts = 1;
            }
        }
        What::RollBackParked => {
            if next.phase != Phase::Parked {
                return Err(illegal(record, "a person's answer"));
            }
            match next.standing() {
                Standing::Reversible(reversible) => {
                    reversible.roll_back("an operator chose to roll back");
                    unwind(&mut next, at);
                }
                Standing::Final(_) => return Err(illegal(record, "a roll-back")),
            }
        }
    }
    let effects = effects(&next);
    Ok((next, effects))
}

/// What is pending, as an effect; nothing while a person must decide.
fn effects(record: &Migration) -> Vec<Effect> {
    if record.phase.is_final() {
        return Vec::new();
    }
    let effect = |pending: &Pending| Effect {
        op: pending.op,
        epoch: record.epoch,
        kind: pending.kind.clone(),
    };
    record.pending.iter().map(effect).collect()
}

fn illegal(record: &Migration, event: &'static str) -> Illegal {
    Illegal::InPhase {
        migration: record.id.clone(),
        event,
        phase: record.phase.name(),
    }
}

fn expect_pending(record: &Migration, op: OpId) -> Result<(), Illegal> {
    let is_pending = record
        .pending
        .as_ref()
        .is_some_and(|pending| pending.op == op);
    if is_pending && !record.phase.is_final() {
        Ok(())
    } else {
        Err(Illegal::StaleOp {
            migration: record.id.clone(),
            op: op.0,
        })
    }
}

fn take_pending(record: &mut Migration, op: OpId) -> Result<EffectKind, Illegal> {
    expect_pending(record, op)?;
    match record.pending.take() {
        Some(pending) => Ok(pending.kind),
        None => Err(Illegal::StaleOp {
            migration: record.id.clone(),
            op: op.0,
        }),
    }
}

fn enter(record: &mut Migration, phase: Phase, at: Timestamp) {
    record.phase = phase;
    record.history.push(Entered { phase, at });
}

/// Logs the intent: the undo first, then the effect.
fn begin(record: &mut Migration, kind: EffectKind, at: Timestamp) {
    if kind == EffectKind::OpenWrites {
        record.opened = true;
    }
    for undo in table::row(&kind).undo {
        if !record.undo.contains(undo) {
            record.undo.push(*undo);
        }
    }
    let op = OpId(record.next_op);
    record.next_op += 1;
    record.pending = Some(Pending {
        op,
        kind,
        attempts: 1,
        since: at,
    });
}

/// Goes on to the next entry of the undo stack, or ends.
fn unwind(record: &mut Migration, at: Timestamp) {
    if record
        .history
        .last()
        .is_none_or(|entered| entered.phase != Phase::RollingBack)
    {
        enter(record, Phase::RollingBack, at);
    }
    match record.undo.last().copied() {
        Some(undo) => begin(record, EffectKind::Undo(undo), at),
        None => enter(record, Phase::RolledBack, at),
    }
}

fn park(record: &mut Migration, text: String, at: Timestamp) {
    record.question = Some(Question {
        text,
        phase: record.phase,
    });
    enter(record, Phase::Parked, at);
}

fn unpark(record: &mut Migration) -> Option<Question> {
    if record.phase == Phase::Parked {
        record.question.take()
    } else {
        None
    }
}

fn fail(record: &mut Migration, error: &str, may_retry: bool, at: Timestamp) {
    let limit = record.limits.attempts;
    // While writes wait there is no time to try again for long.
    let in_time = record.phase != Phase::CutOver || !over_budget(record, at);
    let Some(pending) = &mut record.pending else {
        return;
    };
    if may_retry && in_time && pending.attempts < limit {
        pending.attempts += 1;
        return;
    }
    let name = table::row(&pending.kind).name;
    let (attempts, phase) = (pending.attempts, record.phase);
    let story = format!(
        "{name} failed after {attempts} attempt(s) while {}: {error}",
        phase.name()
    );
    if phase == Phase::RollingBack {
        park(record, format!("{story}. Repair it and retry?"), at);
        return;
    }
    match record.standing() {
        Standing::Reversible(reversible) => {
            reversible.roll_back(story);
            unwind(record, at);
        }
        Standing::Final(_) => {
            park(
                record,
                format!("{story}. It is committed: repair it and retry?"),
                at,
            );
        }
    }
}

fn succeed(
    record: &mut Migration,
    kind: EffectKind,
    outcome: Outcome,
    at: Timestamp,
) -> Result<(), Illegal> {
    match (kind, outcome) {
        (EffectKind::Reserve, Outcome::Done) => {
            enter(record, Phase::HostReserved, at);
            enter(record, Phase::ShadowCreating, at);
            begin(record, EffectKind::PrepareShadow, at);
        }
        (EffectKind::PrepareShadow, Outcome::Prepared(endpoint)) => {
            record.shadow_endpoint = Some(endpoint);
            enter(record, Phase::Syncing, at);
            begin(record, EffectKind::SyncRound, at);
        }
        (EffectKind::SyncRound, Outcome::Synced { lag_bytes }) => {
            record.sync_rounds += 1;
            let near = lag_bytes <= record.limits.lag_bytes;
            if near || record.sync_rounds >= record.limits.sync_rounds {
                enter(record, Phase::Forking, at);
                begin(record, EffectKind::Fork, at);
            } else {
                begin(record, EffectKind::SyncRound, at);
            }
        }
        (EffectKind::Fork, Outcome::Forked(shadow)) => {
            record.shadow_endpoint = Some(shadow.endpoint);
            record.shadow = Some(shadow);
            enter(record, Phase::Reidentifying, at);
            begin(record, EffectKind::Reidentify, at);
        }
        (EffectKind::Reidentify, Outcome::Done) => {
            enter(record, Phase::Verifying, at);
            begin(record, EffectKind::Verify, at);
        }
        (EffectKind::Verify, Outcome::Done) => {
            record.verified = true;
            enter(record, Phase::Mirroring, at);
            let warm = RouteTo {
                split: WeightSplit::ORIGINAL,
                mirror: true,
                hold: Hold::Off,
            };
            begin(record, EffectKind::Route(warm), at);
        }
        (EffectKind::Route(to), Outcome::Done) if record.phase == Phase::CutOver => {
            after_hold(record, to, at);
        }
        (EffectKind::FreezeWrites, Outcome::Frozen(frozen)) => {
            record.frozen = Some(frozen);
            cut_over(record, EffectKind::CatchUp, at);
        }
        (EffectKind::CatchUp, Outcome::Done) => {
            let flip = held(WeightSplit::SHADOW, Hold::Writes);
            cut_over(record, flip, at);
        }
        (EffectKind::OpenWrites, Outcome::Done) => {
            // Too late to be undone for its length: the next step ends it.
            begin(record, held(WeightSplit::SHADOW, Hold::Off), at);
        }
        (EffectKind::Route(_), Outcome::Done) => after_route(record, at)?,
        (EffectKind::Judge(scope), Outcome::Judged(verdict)) => {
            after_verdict(record, scope, verdict, at);
        }
        (EffectKind::AwaitDrain, Outcome::Drained(proof)) => {
            record.proof = Some(proof);
            // Recorded here; from now on only forward, so nothing is left to undo.
            record.undo.clear();
            enter(record, Phase::Committed, at);
            begin(record, EffectKind::Adopt, at);
        }
        (EffectKind::Adopt, Outcome::Done) => match record.proof.clone() {
            Some(proof) => {
                enter(record, Phase::Terminating, at);
                begin(record, EffectKind::Terminate { proof }, at);
            }
            None => park(
                record,
                "committed without a proof of zero traffic".to_owned(),
                at,
            ),
        },
        (EffectKind::Terminate { .. }, Outcome::Done) => begin(record, EffectKind::Release, at),
        (EffectKind::Release, Outcome::Done) => enter(record, Phase::Done, at),
        (EffectKind::Undo(Undo::WritesBack), Outcome::Frozen(frozen)) => {
            record.frozen = Some(frozen);
            record.undo.retain(|undo| *undo != Undo::WritesBack);
            unwind(record, at);
        }
        (EffectKind::Undo(undone), Outcome::Done) if undone != Undo::WritesBack => {
            if undone == Undo::Reopen {
                record.frozen = None;
                record.opened = false;
            }
            record.undo.retain(|undo| *undo != undone);
            unwind(record, at);
        }
        (kind, outcome) => {
            return Err(Illegal::WrongOutcome {
                migration: record.id.clone(),
                outcome: outcome.name(),
                effect: table::row(&kind).name,
            });
        }
    }
    Ok(())
}

/// The split is everywhere: judge it.
fn after_route(record: &mut Migration, at: Timestamp) -> Result<(), Illegal> {
    let scope = match record.phase {
        Phase::Mirroring => JudgeScope::Mirror,
        Phase::Ramping { stage } => JudgeScope::Stage { stage },
        Phase::Soaking => JudgeScope::Soak,
        Phase::Planned
        | Phase::HostReserved
        | Phase::ShadowCreating
        | Phase::Syncing
        | Phase::Forking
        | Phase::Reidentifying
        | Phase::Verifying
        | Phase::CutOver
        | Phase::Draining
        | Phase::Committed
        | Phase::Terminating
        | Phase::Done
        | Phase::RollingBack
        | Phase::RolledBack
        | Phase::Parked => return Err(illegal(record, "a routing")),
    };
    begin(record, EffectKind::Judge(scope), at);
    Ok(())
}

fn after_verdict(record: &mut Migration, scope: JudgeScope, verdict: Verdict, at: Timestamp) {
    match verdict {
        Verdict::Promote { .. } => advance(record, scope, at),
        Verdict::Rollback { reason } => {
            if let Standing::Reversible(reversible) = record.standing() {
                reversible.roll_back(reason);
                unwind(record, at);
            }
        }
        // Neither good nor bad yet: look on.
        Verdict::Hold { .. } | Verdict::Inconclusive { .. } => {
            begin(record, EffectKind::Judge(scope), at);
        }
    }
}

const fn held(split: WeightSplit, hold: Hold) -> EffectKind {
    EffectKind::Route(RouteTo {
        split,
        mirror: false,
        hold,
    })
}

/// Whether writes have been held for longer than they may.
fn over_budget(record: &Migration, at: Timestamp) -> bool {
    at.since(record.entered_at()) > record.limits.freeze_ms
}

/// The next step of the cut-over, while there is time; else everything is undone.
fn cut_over(record: &mut Migration, next: EffectKind, at: Timestamp) {
    if over_budget(record, at) {
        let (held, allowed) = (at.since(record.entered_at()), record.limits.freeze_ms);
        if let Standing::Reversible(reversible) = record.standing() {
            reversible.roll_back(format!(
                "writes were held for {held} ms; allowed is {allowed} ms"
            ));
            unwind(record, at);
        }
        return;
    }
    begin(record, next, at);
}

/// Every data plane has what the cut-over asked for.
fn after_hold(record: &mut Migration, to: RouteTo, at: Timestamp) {
    match to.hold {
        Hold::Writes if to.split == WeightSplit::SHADOW => {
            cut_over(record, EffectKind::OpenWrites, at);
        }
        Hold::Writes => cut_over(record, EffectKind::FreezeWrites, at),
        Hold::Off => {
            enter(record, Phase::Soaking, at);
            begin(record, EffectKind::Judge(JudgeScope::Soak), at);
        }
    }
}

/// The next stage, or what follows the last. A single writer has no stages.
fn advance(record: &mut Migration, scope: JudgeScope, at: Timestamp) {
    let next = match scope {
        JudgeScope::Mirror if record.class == ConsistencyClass::SingleWriter => {
            enter(record, Phase::CutOver, at);
            begin(record, held(WeightSplit::ORIGINAL, Hold::Writes), at);
            return;
        }
        JudgeScope::Mirror => 0,
        JudgeScope::Stage { stage } => stage + 1,
        JudgeScope::Soak => {
            enter(record, Phase::Draining, at);
            begin(record, EffectKind::AwaitDrain, at);
            return;
        }
    };
    let shadow = record
        .ramp
        .stage(next)
        .map_or(BasisPoints::ALL, |stage| stage.shadow);
    let phase = if shadow == BasisPoints::ALL {
        Phase::Soaking
    } else {
        Phase::Ramping { stage: next }
    };
    enter(record, phase, at);
    let route = RouteTo {
        split: WeightSplit::shadow_share(shadow),
        mirror: false,
        hold: Hold::Off,
    };
    begin(record, EffectKind::Route(route), at);
}

impl Outcome {
    /// The name used in errors.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Prepared(_) => "prepared",
            Self::Synced { .. } => "synced",
            Self::Forked(_) => "forked",
            Self::Judged(_) => "judged",
            Self::Frozen(_) => "frozen",
            Self::Drained(_) => "drained",
        }
    }
}
