//! A deterministic simulation of the real migrator.
//!
//! # What runs
//! ```text
//! nemesis ─▶ 2 × real Migrator ─▶ FaultyStore ─▶ MemoryStore ◀─▶ real Gate ◀─▶ Envoy-like proxies
//!                │                                                                 │ requests
//!                └─▶ SimDriver ─▶ machines ◀───────────────────────────────────────┘
//! ```
//! One thread, tokio's paused clock, and every random number from the seed: the same seed gives
//! the same history. Each seed has a runtime of its own.
//!
//! Every second seed is a world of the other kind ([`wire`]): there the control plane is all of the real
//! one, and its clients speak to it over HTTP/2, through a network that has faults of its own.
//!
//! # What is checked
//! [`checks`] at every commit, driver call and step; [`rest`] at the end; [`operator`] that
//! everything comes to rest in bounded simulated time after the faults are healed.

mod checks;
mod clock;
mod driver;
pub(crate) mod faults;
mod faulty_store;
mod history;
mod load;
mod machines;
mod nemesis;
mod operator;
mod pause;
mod plane;
mod processes;
mod proxy;
mod rest;
mod rng;
mod setup;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use store::Clock as _;
use tokio::time::Instant;

use clock::{SimClock, millis};
use faults::{Fault, Planned, Planted};
use operator::Operator;
use processes::Processes;
use rng::Rng;
use world::State;
pub(crate) use world::{Counters, World};

/// How often the proxies and the clients are looked at.
const STEP: Duration = Duration::from_millis(10);
/// How long the world is left alone before the last look.
const CALM: Duration = Duration::from_secs(5);

/// What came of a seed.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    /// Of the history.
    pub(crate) hash: String,
    pub(crate) violations: Vec<String>,
    pub(crate) counters: Counters,
    /// Migrations by the phase in which they ended.
    pub(crate) outcomes: BTreeMap<&'static str, u64>,
    /// Answers that parked migrations were given.
    pub(crate) answers: u64,
    pub(crate) simulated_ms: u64,
    /// Streams that were opened over a network.
    pub(crate) streams: u64,
    pub(crate) lines: Vec<String>,
}

/// Whether a seed's world has a network.
pub(crate) const fn has_network(seed: u64) -> bool {
    seed % 2 == 1
}

/// Runs a seed. Planted bugs are those of worlds without a network.
///
/// # Panics
/// When there is no runtime to be had, or the world cannot be set up.
pub(crate) fn run(seed: u64, planted: Option<Planted>) -> Report {
    run_as(seed, planted, planted.is_none() && has_network(seed))
}

/// Runs a seed in a world with a network, or without one.
///
/// # Panics
/// As [`run`].
pub(crate) fn run_as(seed: u64, planted: Option<Planted>, wire: bool) -> Report {
    let plan = faults::plan(seed, setup::proxies(seed, wire).len(), wire);
    runtime().block_on(simulate(seed, planted, wire, plan, faults::HEALED_MS))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
}

/// Runs a seed's world with a fault that is asked for, instead of its own.
///
/// # Panics
/// As [`run`].
pub(crate) fn run_with(seed: u64, planned: Planned) -> Report {
    let healed_ms = planned.to_ms + 500;
    let all = vec![planned];
    runtime().block_on(simulate(seed, None, has_network(seed), all, healed_ms))
}

async fn simulate(
    seed: u64,
    planted: Option<Planted>,
    wire: bool,
    plan: Vec<Planned>,
    healed_ms: u64,
) -> Report {
    let proxies = setup::proxies(seed, wire);
    let world = World::new(seed, Instant::now(), proxies, planted, wire, healed_ms);
    let world = Arc::new(world);
    setup::records(&world).await.expect("the world is set up");
    if wire {
        wire::start(&world, seed);
    } else {
        tokio::spawn(plane::run(Arc::clone(&world)));
    }
    tokio::spawn(step(Arc::clone(&world)));
    let processes = Processes::start(&world, seed).expect("settings are valid");
    nemesis::until(&world, 1_000).await;
    let before = rest::published(&world.state());
    for planned in plan {
        tokio::spawn(nemesis::run(
            Arc::clone(&world),
            Arc::clone(&processes),
            planned,
        ));
    }
    tokio::spawn(nemesis::heal(Arc::clone(&world), Arc::clone(&processes)));
    let mut operator = Operator {
        world: Arc::clone(&world),
        processes,
        rng: Rng::new(seed, 4),
        parked: 0,
    };
    operator.run().await;
    tokio::time::sleep(CALM).await;
    rest::check(&world, &before)
        .await
        .expect("the store answers");
    report(seed, &world, operator.parked)
}

fn report(seed: u64, world: &World, answers: u64) -> Report {
    let state = world.state();
    let mut outcomes = BTreeMap::new();
    for (_, phase) in state.phases.values() {
        *outcomes.entry(phase.name()).or_default() += 1;
    }
    Report {
        seed,
        hash: state.history.hash(),
        violations: state.violations.clone(),
        counters: state.counters.clone(),
        outcomes,
        streams: state.net.streams,
        answers,
        simulated_ms: millis(world.began),
        lines: state.history.lines().to_vec(),
    }
}

/// Proxies, clients and checks, for ever.
async fn step(world: Arc<World>) {
    let clock = SimClock::new(world.began, 0, 0);
    loop {
        tokio::time::sleep(STEP).await;
        let now = millis(world.began);
        let mut state = world.state();
        if state.wire {
            wire::step(&world, &mut state);
        } else {
            streams(&mut state, now);
            read(&mut state, now);
        }
        shadow_dies(&mut state);
        if now >= 1_000 {
            load::step(&mut state, now, clock.now());
            checks::always(&mut state);
        }
    }
}

/// Streams end and begin.
fn streams(state: &mut State, now: u64) {
    for index in 0..state.proxies.len() {
        let away = state.is(Fault::ProxyAway(index));
        let State { proxies, plane, .. } = &mut *state;
        let proxy = &mut proxies[index];
        let reachable = plane.gate.is_some() && !away;
        if !reachable {
            proxy.connects_at = None;
            if let (Some(id), Some(gate)) = (proxy.lose_stream(), &mut plane.gate) {
                gate.disconnect(id);
            }
        } else if proxy.stream.is_none() {
            let wait = if now < 500 {
                0
            } else {
                proxy.rng.between(50, 1_500)
            };
            let at = *proxy.connects_at.get_or_insert(now + wait);
            let id = plane::stream_id(plane);
            if let Some(gate) = plane.gate.as_mut().filter(|_| at <= now) {
                proxy.connect(gate, id);
            }
        }
    }
}

/// Every proxy applies what is due.
fn read(state: &mut State, now: u64) {
    let State { proxies, plane, .. } = &mut *state;
    if let Some(gate) = &mut plane.gate {
        for proxy in proxies {
            while proxy.step_at(gate, now) {}
        }
    }
    plane::pump(state, now);
}

/// One shadow that takes part of the traffic, and is not all there is, dies.
fn shadow_dies(state: &mut State) {
    if !state.is(Fault::ShadowDies) {
        return;
    }
    let ramping = |tag: &str| {
        let mut phases = state.phases.iter();
        phases.any(|(id, (_, phase))| {
            id.as_str() == tag && matches!(phase, domain::Phase::Ramping { .. })
        })
    };
    let mut machines = state.machines.running.values();
    let found = machines.find(|machine| machine.alive && ramping(&machine.replica.tag));
    let Some(endpoint) = found.map(|machine| machine.replica.endpoint) else {
        return;
    };
    if let Some(machine) = state.machines.running.get_mut(&endpoint) {
        machine.alive = false;
    }
    state.load.excused.insert(endpoint);
    state.active.retain(|fault| *fault != Fault::ShadowDies);
    state
        .history
        .say(&format!("nemesis  the shadow at {endpoint} dies"));
}
