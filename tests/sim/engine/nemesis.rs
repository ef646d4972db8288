//! Brings the faults of a seed about, and heals everything in the end.

use std::sync::Arc;
use std::time::Duration;

use super::clock::millis;
use super::faults::{Fault, HEALED_MS, Planned};
use super::processes::{Process, Processes};
use super::world::World;

/// Runs one fault from its beginning to its end.
pub(crate) async fn run(world: Arc<World>, processes: Arc<Processes>, planned: Planned) {
    let Planned {
        fault,
        from_ms,
        to_ms,
    } = planned;
    until(&world, from_ms).await;
    let hit = processes.leader();
    begin(&world, fault, hit.as_ref().map(|(number, _)| *number));
    strike(&world, fault, hit.as_ref());
    until(&world, to_ms).await;
    end(&world, fault);
    match (fault, hit) {
        (Fault::LeaderCrash, _) => {
            let _ = processes.start_one();
        }
        (Fault::LeaderPause, Some((_, process))) => process.pause.go_on(),
        _ => {}
    }
}

/// Heals everything.
pub(crate) async fn heal(world: Arc<World>, processes: Arc<Processes>) {
    until(&world, HEALED_MS).await;
    {
        let mut state = world.state();
        state.active.clear();
        state.hit = None;
        state.history.say("nemesis  everything is healed");
    }
    processes.heal();
}

pub(crate) async fn until(world: &World, at_ms: u64) {
    let left = at_ms.saturating_sub(millis(world.began));
    tokio::time::sleep(Duration::from_millis(left)).await;
}

fn begin(world: &World, fault: Fault, hit: Option<usize>) {
    let mut state = world.state();
    state.active.push(fault);
    if matches!(
        fault,
        Fault::LeaderCutOff | Fault::LeaderDeaf | Fault::LeaderHeld
    ) {
        state.hit = hit;
    }
    *state.counters.faults.entry(fault.name()).or_default() += 1;
    let whom = if matches!(
        fault,
        Fault::LeaderCrash
            | Fault::LeaderPause
            | Fault::LeaderCutOff
            | Fault::LeaderDeaf
            | Fault::LeaderHeld
    ) {
        hit.map_or_else(String::new, |number| format!(" (migrator {number})"))
    } else if let Fault::ProxyAway(index) | Fault::ProxySlow(index) | Fault::ProxyMute(index) =
        fault
    {
        format!(" (proxy {index})")
    } else {
        String::new()
    };
    state
        .history
        .say(&format!("nemesis  {} begins{whom}", fault.name()));
}

fn end(world: &World, fault: Fault) {
    let mut state = world.state();
    if let Some(index) = state.active.iter().position(|active| *active == fault) {
        state.active.remove(index);
    }
    state
        .history
        .say(&format!("nemesis  {} ends", fault.name()));
}

/// What is done once, at the beginning.
fn strike(world: &World, fault: Fault, hit: Option<&(usize, Process)>) {
    match (fault, hit) {
        (Fault::LeaderCrash, Some((_, process))) => process.pause.kill(),
        (Fault::LeaderPause, Some((_, process))) => process.pause.stop(),
        (Fault::Abort, Some((_, process))) => {
            let running: Vec<_> = world.state().phases.keys().cloned().collect();
            for id in running {
                process.migrator.abort(&id, "the simulation wants it");
            }
        }
        _ => {}
    }
}
