//! What a coordinator does: `migrator/src/saga/mod.rs`, action by action.
//!
//! ```text
//! Got(event) ── step(), save (fenced) ──▶ Work ── effect ──▶ Got(outcome)
//!                    │ refused                └─ published ──▶ Wait ── applied ──▶ Got(outcome)
//!                    └──▶ Refused             └─ no answer ──▶ Asked ── given up ──▶ Got(failed)
//! ```
//! Between any two arrows it may crash, or lose the lease without noticing.

use domain::Phase;
use domain::migration::Undo;
use domain::routing::DrainDeadline;

use super::action::{Answer, Fate};
use super::config::{Config, Planted};
use super::driver;
use super::proxies::{have_applied, in_progress};
use super::record::transit;
use super::rest::healthy;
use super::state::{Call, Coord, Doing, Mark, State};
use super::template::prove;
use super::words::{Eff, Ev, Place, Proof, Said, Told, Way};

/// Something is carried out for this operation: the record must name it already.
pub(super) fn note_intent(state: &mut State, op: u8) {
    if op >= state.store.rec.next_op {
        state.marks.make(Mark::Unlogged);
    }
}

/// The store is written under this epoch: it must be the newest.
fn note_write(state: &mut State, epoch: u8) {
    if epoch < state.store.epoch {
        state.marks.make(Mark::StaleEffect);
    }
}

/// Takes the lease under a new epoch. Whoever held it may not know yet.
pub(crate) fn acquire(state: &mut State, index: usize) -> Option<()> {
    let coord = state.coords.get_mut(index)?;
    let leads = coord.epoch == state.store.epoch && state.store.epoch > 0;
    let may = match coord.doing {
        Doing::Down | Doing::Refused => true,
        Doing::Idle => !leads,
        Doing::Stuck | Doing::Work | Doing::Asked | Doing::Wait(_) | Doing::Got(_) => false,
    };
    if !may || state.budget.leases == 0 {
        return None;
    }
    state.budget.leases -= 1;
    state.store.epoch += 1;
    let epoch = state.store.epoch;
    let phase = state.store.rec.phase;
    let doing = if phase.is_final() {
        Doing::Idle
    } else if phase == Phase::Planned && epoch == 1 {
        Doing::Got(Ev::Start)
    } else {
        Doing::Got(Ev::TakenOver { epoch })
    };
    *coord = Coord {
        doing,
        epoch,
        fresh: doing != Doing::Idle,
        eff: None,
        op: 0,
    };
    Some(())
}

/// It dies; what it asked for may still come about.
pub(crate) fn crash(state: &mut State, index: usize) -> Option<()> {
    let coord = state.coords.get_mut(index)?;
    let runs = match coord.doing {
        Doing::Work | Doing::Asked | Doing::Wait(_) | Doing::Got(_) => true,
        Doing::Down | Doing::Idle | Doing::Refused | Doing::Stuck => false,
    };
    if !runs || state.budget.crashes == 0 {
        return None;
    }
    state.budget.crashes -= 1;
    *coord = Coord::DOWN;
    Some(())
}

/// Whether the store lets a coordinator write.
fn admitted(config: &Config, state: &State, epoch: u8) -> bool {
    epoch >= state.store.epoch || config.has(Planted::NoStoreFence)
}

/// Steps with the event it has, and saves: the record changes, or the coordinator stops.
pub(crate) fn save(config: &Config, state: &mut State, index: usize) -> Option<()> {
    let coord = *state.coords.get(index)?;
    let Doing::Got(ev) = coord.doing else {
        return None;
    };
    if !admitted(config, state, coord.epoch) || !coord.fresh {
        state.coords[index].stop(Doing::Refused);
        return Some(());
    }
    let Some(next) = transit(config, &state.store.rec, ev) else {
        state.coords[index].stop(Doing::Stuck);
        return Some(());
    };
    note_write(state, coord.epoch);
    state.store.rec = next;
    let [first, second] = &mut state.coords;
    let (mine, other) = if index == 0 {
        (first, second)
    } else {
        (second, first)
    };
    other.fresh = false;
    let Some(eff) = next.effect() else {
        mine.rest();
        return Some(());
    };
    mine.eff = Some(eff);
    mine.op = next.op();
    mine.doing = Doing::Work;
    let assumes = config.has(Planted::TakeOverAssumesSuccess);
    let looks = matches!(eff, Eff::Judge(_) | Eff::Drain);
    if assumes && matches!(ev, Ev::TakenOver { .. }) && !looks {
        let told = healthy(eff);
        mine.doing = Doing::Got(Ev::Ok { op: mine.op, told });
    }
    Some(())
}

/// The planted bug: the effect of the record that is still to be saved.
pub(crate) fn work_early(config: &Config, state: &mut State, index: usize) -> Option<()> {
    let coord = *state.coords.get(index)?;
    let Doing::Got(ev) = coord.doing else {
        return None;
    };
    let next = transit(config, &state.store.rec, ev).filter(|_| coord.fresh)?;
    let eff = next.effect().filter(|eff| eff.place() == Place::Driver)?;
    let call = Call {
        eff,
        op: next.op(),
        epoch: coord.epoch,
    };
    driver::call(config, state, call).ok().map(|_| ())
}

/// Carries its effect out, or does not, and is told so, or is not.
pub(crate) fn work(config: &Config, state: &mut State, index: usize, fate: Fate) -> Option<()> {
    let coord = *state.coords.get(index)?;
    let eff = coord.eff.filter(|_| coord.doing == Doing::Work)?;
    match fate {
        Fate::Good => {}
        Fate::NotDone { .. } | Fate::DoneButFailed { .. } => {
            state.budget.faults = state.budget.faults.checked_sub(1)?;
        }
    }
    let failed = |retry| {
        Doing::Got(Ev::Failed {
            op: coord.op,
            retry,
        })
    };
    let doing = match fate {
        Fate::NotDone { retry } => failed(retry),
        Fate::Good => carry_out(config, state, &coord, eff)?,
        Fate::DoneButFailed { retry } => {
            carry_out(config, state, &coord, eff)?;
            failed(retry)
        }
    };
    state.coords[index].doing = doing;
    Some(())
}

fn carry_out(config: &Config, state: &mut State, coord: &Coord, eff: Eff) -> Option<Doing> {
    let op = coord.op;
    Some(match eff.place() {
        Place::Judge => return None,
        Place::Driver => {
            let epoch = coord.epoch;
            match driver::call(config, state, Call { eff, op, epoch }) {
                Ok(told) => Doing::Got(Ev::Ok { op, told }),
                Err(driver::Refused) => Doing::Got(Ev::Failed { op, retry: false }),
            }
        }
        Place::Store => {
            if !admitted(config, state, coord.epoch) {
                return Some(Doing::Got(Ev::Failed { op, retry: true }));
            }
            note_intent(state, op);
            note_write(state, coord.epoch);
            state.store.reserved = eff == Eff::Reserve;
            let told = Told::Done;
            Doing::Got(Ev::Ok { op, told })
        }
        Place::Proxies => publish(config, state, coord, eff),
    })
}

/// Writes the routing, unless it is in force already.
fn publish(config: &Config, state: &mut State, coord: &Coord, eff: Eff) -> Doing {
    let op = coord.op;
    let rec = &state.store.rec;
    let done = Doing::Got(Ev::Ok {
        op,
        told: Told::Done,
    });
    let usual = |adopted| if adopted { Way::After } else { Way::Before };
    let wanted = match eff {
        Eff::Route(way) if way.feeds_shadow() && !rec.verified => {
            return Doing::Got(Ev::Failed { op, retry: false });
        }
        Eff::Route(way) => way,
        Eff::Drain => Way::SHADOW,
        Eff::Adopt => Way::After,
        Eff::Undo(Undo::ShiftBack) if !rec.endpoint || state.store.revision == 0 => return done,
        Eff::Undo(Undo::ShiftBack) => Way::ORIGINAL,
        Eff::Undo(Undo::HoldWrites) => state.store.way.held(),
        Eff::Undo(Undo::FlipBack) => Way::ORIGINAL.held(),
        Eff::Reserve
        | Eff::Prepare
        | Eff::Sync
        | Eff::Fork
        | Eff::Reidentify
        | Eff::Verify
        | Eff::Judge(_)
        | Eff::Freeze
        | Eff::CatchUp
        | Eff::Open
        | Eff::Terminate
        | Eff::Release
        | Eff::Undo(_) => usual(state.store.adopted),
    };
    let changes = state.store.revision == 0 || state.store.way != wanted;
    if changes {
        if !admitted(config, state, coord.epoch) {
            return Doing::Got(Ev::Failed { op, retry: true });
        }
        note_intent(state, op);
        note_write(state, coord.epoch);
        state.store.revision += 1;
        state.store.way = wanted;
        if config.has(Planted::PositionBeforeFreeze) && wanted == Way::ORIGINAL.held() {
            let writers = &mut state.machines.writers;
            writers.position = writers.original_wrote;
        }
    }
    state.store.adopted |= eff == Eff::Adopt;
    Doing::Wait(state.store.revision)
}

/// Sends its call to the driver, or its write to the store, and hears nothing more. A late write
/// of a routing is left out: it names the routing's generation, and so loses to any later one.
pub(crate) fn send(state: &mut State, index: usize) -> Option<()> {
    let coord = state.coords.get_mut(index)?;
    let eff = coord
        .eff
        .filter(|_| coord.doing == Doing::Work)
        .filter(|eff| matches!(eff.place(), Place::Driver | Place::Store))?;
    if state.late.is_some() {
        return None;
    }
    state.budget.late = state.budget.late.checked_sub(1)?;
    state.late = Some(Call {
        eff,
        op: coord.op,
        epoch: coord.epoch,
    });
    coord.doing = Doing::Asked;
    Some(())
}

/// The call arrives, whoever still waits for it.
pub(crate) fn arrive(config: &Config, state: &mut State) -> Option<()> {
    let call = state.late.take()?;
    if call.eff.place() == Place::Store {
        let moved_on = call.op != state.store.rec.op();
        if admitted(config, state, call.epoch) && !(moved_on && config.store_order) {
            note_intent(state, call.op);
            note_write(state, call.epoch);
            state.store.reserved = call.eff == Eff::Reserve;
        }
    } else {
        // Nobody hears the answer; a caller that waits gives up and repeats.
        let _ = driver::call(config, state, call);
    }
    Some(())
}

/// Everybody has applied what it waits for.
pub(crate) fn applied(config: &Config, state: &mut State, index: usize) -> Option<()> {
    let coord = *state.coords.get(index)?;
    let Doing::Wait(revision) = coord.doing else {
        return None;
    };
    if !have_applied(config, state, revision) {
        return None;
    }
    let told = if coord.eff == Some(Eff::Drain) {
        Told::Drained(drained(config, state, revision, DrainDeadline::Ahead)?)
    } else {
        Told::Done
    };
    state.coords[index].doing = Doing::Got(Ev::Ok { op: coord.op, told });
    Some(())
}

/// The drain deadline passes and the policy lets go of what is left.
pub(crate) fn let_go(config: &Config, state: &mut State, index: usize) -> Option<()> {
    let coord = *state.coords.get(index)?;
    let Doing::Wait(revision) = coord.doing else {
        return None;
    };
    let waits = coord.eff == Some(Eff::Drain) && in_progress(config, state) > 0;
    if !waits || !have_applied(config, state, revision) {
        return None;
    }
    let told = Told::Drained(drained(config, state, revision, DrainDeadline::Passed)?);
    state.coords[index].doing = Doing::Got(Ev::Ok { op: coord.op, told });
    Some(())
}

/// The production proof.
fn drained(config: &Config, state: &State, revision: u8, deadline: DrainDeadline) -> Option<Proof> {
    let left = if config.has(Planted::DrainNotAwaited) {
        0
    } else {
        in_progress(config, state)
    };
    if left > 0 && deadline == DrainDeadline::Ahead {
        return None;
    }
    let newest = state.store.revision;
    let proof = prove(revision, newest, Way::SHADOW, left, deadline)?;
    Some(Proof {
        revision: u8::try_from(proof.revision()).ok()?,
        forced: proof.forced(),
    })
}

/// Its deadline passes while it waits, or a proxy refuses what it waits for.
pub(crate) fn give_up(state: &mut State, index: usize, retry: bool) -> Option<()> {
    let coord = state.coords.get_mut(index)?;
    match coord.doing {
        Doing::Wait(_) => state.budget.faults = state.budget.faults.checked_sub(1)?,
        Doing::Asked if retry => {}
        Doing::Asked
        | Doing::Down
        | Doing::Idle
        | Doing::Refused
        | Doing::Stuck
        | Doing::Work
        | Doing::Got(_) => return None,
    }
    let op = coord.op;
    coord.doing = Doing::Got(Ev::Failed { op, retry });
    Some(())
}

/// The judge speaks.
pub(crate) fn judged(state: &mut State, index: usize, said: Said) -> Option<()> {
    let coord = state.coords.get_mut(index)?;
    let judges = matches!(coord.eff, Some(Eff::Judge(_))) && coord.doing == Doing::Work;
    if !judges {
        return None;
    }
    let budget = &mut state.budget;
    match said {
        Said::Promote => {}
        Said::Rollback => budget.rollbacks = budget.rollbacks.checked_sub(1)?,
        Said::Hold => budget.holds = budget.holds.checked_sub(1)?,
    }
    let told = Told::Judged(said);
    coord.doing = Doing::Got(Ev::Ok { op: coord.op, told });
    Some(())
}

/// An operator undoes what runs; whatever the effect has done so far is not heard.
pub(crate) fn abort(config: &Config, state: &mut State, index: usize) -> Option<()> {
    let may = state.store.rec.may_be_aborted() || config.has(Planted::AbortAfterCommit);
    let coord = state.coords.get_mut(index)?;
    let interruptible = match coord.doing {
        Doing::Work | Doing::Asked | Doing::Wait(_) | Doing::Got(Ev::Ok { .. }) => true,
        Doing::Down
        | Doing::Idle
        | Doing::Refused
        | Doing::Stuck
        | Doing::Got(
            Ev::Start
            | Ev::Failed { .. }
            | Ev::Abort
            | Ev::TakenOver { .. }
            | Ev::Contradiction
            | Ev::Retry { .. }
            | Ev::RollBack { .. },
        ) => false,
    };
    if !may || !interruptible || !coord.fresh {
        return None;
    }
    state.budget.aborts = state.budget.aborts.checked_sub(1)?;
    coord.doing = Doing::Got(Ev::Abort);
    Some(())
}

/// What the leader finds contradicts the record.
pub(crate) fn contradict(state: &mut State, index: usize) -> Option<()> {
    let coord = state.coords.get_mut(index)?;
    if coord.doing != Doing::Work || !coord.fresh {
        return None;
    }
    state.budget.contradictions = state.budget.contradictions.checked_sub(1)?;
    coord.doing = Doing::Got(Ev::Contradiction);
    Some(())
}

/// A person answers; whoever leads carries it on. What may not be rolled back is refused at once.
pub(crate) fn answer(
    config: &Config,
    state: &mut State,
    index: usize,
    answer: Answer,
) -> Option<()> {
    let rec = state.store.rec;
    let epoch = state.store.epoch;
    let coord = state.coords.get_mut(index)?;
    let leads = coord.epoch == epoch && coord.doing == Doing::Idle;
    if !leads || rec.phase != Phase::Parked {
        return None;
    }
    let ev = match answer {
        Answer::Retry => Ev::Retry { epoch },
        Answer::RollBack => Ev::RollBack { epoch },
    };
    transit(config, &rec, ev)?;
    state.budget.answers = state.budget.answers.checked_sub(1)?;
    coord.doing = Doing::Got(ev);
    coord.fresh = true;
    Some(())
}

/// An answer to an operation of before arrives once more. It must change nothing.
pub(crate) fn late_reply(config: &Config, state: &mut State, index: usize) -> Option<()> {
    let coord = state.coords.get(index)?;
    if coord.doing != Doing::Work || !coord.fresh {
        return None;
    }
    let ev = Ev::Ok {
        op: coord.op.checked_sub(1)?,
        told: Told::Done,
    };
    state.store.rec = transit(config, &state.store.rec, ev)?;
    state.marks.make(Mark::LateReplyCounted);
    Some(())
}
