//! What the driver does with a call: the guards first, then the effect.

use domain::migration::Undo;

use super::config::{Config, Planted};
use super::state::{Call, Mark, State};
use super::words::{Eff, Told};

/// Why a call was not carried out. None of these may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// Carries a call out.
pub(crate) fn call(config: &Config, state: &mut State, call: Call) -> Result<Told, Refused> {
    guard(config, state, call)?;
    super::executor::note_intent(state, call.op);
    if config.driver_fence && call.epoch < state.machines.seen_epoch {
        state.marks.make(Mark::StaleEffect);
    }
    let machines = &mut state.machines;
    machines.seen_epoch = machines.seen_epoch.max(call.epoch);
    machines.last_op = call.op;
    perform(config, state, call)
}

fn guard(config: &Config, state: &State, call: Call) -> Result<(), Refused> {
    let machines = &state.machines;
    let stale = call.epoch < machines.seen_epoch;
    let overtaken = call.op < machines.last_op;
    if stale && config.driver_fence || overtaken && config.driver_order {
        return Err(Refused);
    }
    Ok(())
}

fn perform(config: &Config, state: &mut State, call: Call) -> Result<Told, Refused> {
    let lag = state.store.rec.rounds + 1 >= config.rounds;
    let machines = &mut state.machines;
    match call.eff {
        Eff::Prepare => {
            machines.room = true;
            Ok(Told::Prepared)
        }
        Eff::Sync if machines.room && machines.shadows == 0 => Ok(Told::Synced { near: lag }),
        Eff::Fork if machines.room => {
            fork(config, state, call.op);
            Ok(Told::Forked)
        }
        Eff::Reidentify if machines.shadows > 0 => {
            machines.identity = true;
            Ok(Told::Done)
        }
        Eff::Verify if machines.shadows > 0 && machines.identity => {
            machines.verified = true;
            Ok(Told::Done)
        }
        Eff::Freeze => {
            let writers = &mut machines.writers;
            writers.original = false;
            // In the planted bug it was noted when the hold was asked for.
            if !config.has(Planted::PositionBeforeFreeze) {
                writers.position = writers.original_wrote;
            }
            Ok(Told::Frozen)
        }
        Eff::CatchUp if machines.shadows > 0 => {
            machines.writers.shadow_has = machines.writers.position;
            Ok(Told::Done)
        }
        Eff::Open if machines.shadows > 0 => {
            let writers = &mut machines.writers;
            // A shadow that was told to refuse stays so: its epoch is above the one it is given.
            if writers.shadow_fenced && !config.has(Planted::NoWriterFence) {
                return Err(Refused);
            }
            writers.shadow = true;
            Ok(Told::Done)
        }
        Eff::Undo(Undo::WritesBack) => {
            let writers = &mut machines.writers;
            writers.original = false;
            writers.shadow = false;
            writers.shadow_fenced = true;
            if !config.has(Planted::NoReverseSync) {
                writers.original_has = writers.shadow_wrote;
            }
            Ok(Told::Frozen)
        }
        Eff::Undo(Undo::Reopen) => {
            machines.writers.original = true;
            Ok(Told::Done)
        }
        Eff::Terminate => {
            terminate(state);
            Ok(Told::Done)
        }
        Eff::Undo(Undo::DestroyShadow) => {
            machines.room = false;
            machines.shadows = 0;
            machines.identity = false;
            machines.verified = false;
            machines.writers.shadow = false;
            machines.writers.shadow_has = 0;
            for proxy in &mut state.proxies {
                proxy.on_shadow = false;
            }
            Ok(Told::Done)
        }
        Eff::Sync
        | Eff::Fork
        | Eff::Reidentify
        | Eff::Verify
        | Eff::Reserve
        | Eff::Route(_)
        | Eff::Judge(_)
        | Eff::Drain
        | Eff::Adopt
        | Eff::Release
        | Eff::CatchUp
        | Eff::Open
        | Eff::Undo(_) => Err(Refused),
    }
}

/// One shot: the same operation finds its shadow, another one replaces it.
fn fork(config: &Config, state: &mut State, op: u8) {
    let machines = &mut state.machines;
    if config.has(Planted::ForkUnguarded) {
        machines.shadows = (machines.shadows + 1).min(2);
        return;
    }
    if machines.shadows > 0 && machines.forked_by == op {
        return;
    }
    machines.shadows = 1;
    machines.forked_by = op;
    machines.identity = false;
    machines.verified = false;
}

fn terminate(state: &mut State) {
    if !state.machines.original {
        return;
    }
    let forced = state.store.rec.proof.is_some_and(|proof| proof.forced);
    let busy = state.proxies.iter().any(|proxy| proxy.on_original);
    if state.original_is_fed() || busy && !forced {
        state.marks.make(Mark::TerminatedTooEarly);
    }
    state.machines.original = false;
    state.machines.writers.original = false;
    for proxy in &mut state.proxies {
        proxy.on_original = false;
    }
}
