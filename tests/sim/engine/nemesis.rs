//! Brings the faults of a seed about, and heals everything in the end.

use std::sync::Arc;
use std::time::Duration;

use domain::Phase;
use store::Clock as _;

use super::clock::{SimClock, millis};
use super::faults::{Fault, Planned};
use super::pause::Act;
use super::processes::{Process, Processes};
use super::rng::Rng;
use super::world::World;

/// Runs one fault from its beginning to its end.
pub(crate) async fn run(world: Arc<World>, processes: Arc<Processes>, planned: Planned) {
    let Planned {
        fault,
        from_ms,
        to_ms,
    } = planned;
    until(&world, from_ms).await;
    if fault == Fault::StoreAway {
        ramp(&world).await;
    }
    let hit = processes.leader();
    begin(&world, fault, hit.as_ref().map(|(number, _)| *number));
    strike(&world, fault, hit.as_ref());
    if fault == Fault::LeaderZombie {
        zombies(&world, &processes, from_ms, to_ms).await;
    } else if fault == Fault::StoreAway {
        nothing_is_decided(&world, to_ms).await;
    }
    until(&world, to_ms).await;
    end(&world, fault);
    match (fault, hit) {
        (Fault::LeaderCrash, _) => {
            let _ = processes.start_one();
        }
        (Fault::LeaderPause, Some((_, process))) => process.pause.go_on(),
        (Fault::StoreRewind, _) => go_back(&world, &processes).await,
        _ => {}
    }
}

/// Waits for a migration in the middle of its ramp: one whose shadow answers requests.
async fn ramp(world: &World) {
    let mut before = None;
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let state = world.state();
        let mut phases = state.phases.values();
        let answered = state.counters.by_shadow;
        if !phases.any(|(_, phase)| matches!(phase, Phase::Ramping { .. })) {
            before = None;
        } else if answered > *before.get_or_insert(answered) + 5 {
            return;
        }
    }
}

/// Watches that nobody acts on the silence of the store: what was under way has a lease's time to
/// find out, and from then on weights and replicas stay what they are.
async fn nothing_is_decided(world: &World, to_ms: u64) {
    tokio::time::sleep(Duration::from_secs(5)).await;
    let seen = |world: &World| {
        let state = world.state();
        let routes: Vec<_> = state.proxies.iter().map(|one| one.routes.clone()).collect();
        let running: Vec<_> = state.machines.running.keys().copied().collect();
        (routes, running)
    };
    let before = seen(world);
    while millis(world.began) < to_ms {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = seen(world);
        if now != before && millis(world.began) < to_ms {
            let what = format!("while the store was away {before:?} became {now:?}");
            return world.state().violate(what);
        }
    }
}

/// Stops leaders just before an act, until another has led for a while.
async fn zombies(world: &World, processes: &Processes, from_ms: u64, to_ms: u64) {
    let mut rng = Rng::new(from_ms, 14);
    while millis(world.began) < to_ms {
        let Some((number, process)) = processes.leader() else {
            return;
        };
        let act = [Act::Commit, Act::Weights, Act::Effect][rng.index(3)];
        process.pause.arm(act);
        let patience = millis(world.began) + rng.between(1_000, 4_000);
        while !process.pause.is_stopped() && millis(world.began) < patience {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if process.pause.is_stopped() {
            world.state().history.say(&format!(
                "nemesis  migrator {number} stands still before {act:?}"
            ));
            // Longer than a lease and the time until another one asks for it.
            tokio::time::sleep(Duration::from_millis(rng.between(2_600, 4_500))).await;
        }
        process.pause.go_on();
        tokio::time::sleep(Duration::from_millis(rng.between(100, 1_500))).await;
    }
}

/// The store comes back with what it held earlier. Everybody who saw more stops; a person sees that,
/// compares, starts the migrators anew and acknowledges the loss.
async fn go_back(world: &Arc<World>, processes: &Processes) {
    {
        let mut state = world.state();
        let Some(earlier) = state.earlier.take() else {
            return;
        };
        world.store.put_back(&earlier);
        state.era += 1;
        state.history.say("nemesis  the store is put back");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let now = SimClock::new(world.began, 0, 0).now();
    let noted = migrator::recovery::note_loss(&*world.store, now).await;
    if let Err(error) = noted {
        world
            .state()
            .violate(format!("the loss is not noted: {error}"));
    }
    processes.replace_all();
}

/// Heals everything.
pub(crate) async fn heal(world: Arc<World>, processes: Arc<Processes>) {
    until(&world, world.healed_ms).await;
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
    } else if let Some(index) = fault.proxy() {
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
        (Fault::StoreRewind, _) => {
            let copy = world.store.copy();
            world.state().earlier.get_or_insert(copy);
        }
        (Fault::ProxyAway(index) | Fault::NetReset(index), _) => world.state().net.cut(index),
        (Fault::ProxyRestart(index), _) => {
            let mut state = world.state();
            state.net.cut(index);
            state.proxies[index].restart();
            state.load.end_with(index);
        }
        _ => {}
    }
}
