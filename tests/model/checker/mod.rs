//! The world around one migration, for the model checker.
//!
//! # What is explored
//! Every order of everything that may happen ([`action`]), from a planned migration on, breadth
//! first, each state once. The decisions are the production [`domain::step`] on real records
//! ([`record`]) and the production [`domain::ZeroTraffic::prove`]; what surrounds them is modelled:
//!
//! | part | what it does |
//! |---|---|
//! | two coordinators ([`executor`]) | lead, step, save, carry out; crash at any point; lose the lease and go on as zombies |
//! | the store | epoch fence and generation on every write; record, reservation, routing, instance |
//! | the driver ([`driver`]) | makes, forks, checks, destroys; refuses old epochs, and operations that were overtaken; does late what nobody waits for any more |
//! | two proxies ([`proxies`]) | apply and acknowledge late or never; lose the control plane and serve on with what they have; one request in progress per side |
//! | people and the judge | abort, answer a parked migration; promote, hold, roll back |
//!
//! An effect may fail, with or without having been done, for good or not; its answer may be lost
//! (a crash after it) or come twice; its deadline may pass. [`config::Budget`] says how often each
//! of these may happen in a world; within that, every combination is explored.
//!
//! # How it maps to the executor
//! One action is one thing that cannot be interrupted: a transaction of the store, a call that the
//! driver carries out, an acknowledgement. Between any two, everything else may happen. A paused
//! coordinator is one that takes no action for a while, so it needs no action of its own.
//!
//! # What is left out
//! - Time. A deadline may pass whenever something is waited for; a lease may end at any time.
//! - Versions of single resources: a proxy applies a routing as a whole. That clusters come before
//!   the routes that name them is the business of the control plane's own tests.
//! - The delay between the gate and the record it writes. The gate here waits for every proxy that
//!   serves, connected or not, so what it has said stays true until the routing changes.
//! - Telemetry's delay: requests in progress are seen as they are.
//! - Generations as numbers, times, texts, all of the history but its end. That nothing of this
//!   changes a later step is checked each time a record is made small ([`record`]).
//! - More than one migration; hosts and replicas that die by themselves; a store that loses
//!   writes; drivers that lie.
//! - A single writer's data: writes are counted, and what a replica has is the count that it was
//!   given. That contents are equal at a position is the driver's to check.
//!
//! # What is assumed
//! The worlds without a planted bug assume more than today's code keeps: a gate that waits for
//! absent proxies, a driver that refuses overtaken operations, a reservation that is not written
//! late, a proxy that keeps what it acknowledged. For each, a test in `planted` shows what breaks
//! without it; what is open is in `tests/TRACK_RECORD.md`.
//!
//! # How to read a counterexample
//! [`story`] prints one line per step: the phase *before* it, the action with the coordinator's or
//! proxy's number, and in brackets the epoch and the effect or event it is about; then the state
//! that breaks the invariant. Read the last lines first, and look for the step that should have
//! been refused. With one thread the way is a shortest one.

pub(crate) mod action;
pub(crate) mod config;
mod driver;
mod executor;
pub(crate) mod properties;
mod proxies;
mod record;
mod rest;
pub(crate) mod state;
pub(crate) mod story;
mod template;
mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stateright::{Model, Property};

use action::Action;
use config::Config;
use state::State;

/// The explored model.
#[derive(Debug, Clone)]
pub(crate) struct Explored {
    /// What is explored.
    pub(crate) config: Config,
    /// Which properties have spoken.
    seen: Arc<[AtomicBool; properties::PROPERTIES]>,
}

impl Explored {
    /// A model of this world.
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            seen: Arc::new(std::array::from_fn(|_| AtomicBool::new(false))),
        }
    }

    /// Whether the condition holds for the first time.
    fn first_time(&self, index: usize, condition: impl FnOnce() -> bool) -> bool {
        let Some(seen) = self.seen.get(index) else {
            return false;
        };
        !seen.load(Ordering::Relaxed) && condition() && !seen.swap(true, Ordering::Relaxed)
    }
}

impl Model for Explored {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(&self.config)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        action::list(&self.config, state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        action::take(&self.config, &mut state, action)?;
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
