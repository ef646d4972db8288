//! The simulated world: everything that is not a migrator or the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{Epoch, InstanceId, MigrationId, Phase, ServiceId};
use store::{Earlier, MemoryStore, SharedStore, StoreError};
use tokio::time::Instant;

use super::clock::SimClock;
use super::faults::{Fault, Planted};
use super::history::History;
use super::load::Load;
use super::machines::Machines;
use super::plane::Plane;
use super::proxy::Proxy;
use super::rng::Rng;
use super::wire::Net;

/// What is counted for the tables and for the guard against vacuity.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    /// Requests that clients sent.
    pub(crate) requests: u64,
    /// Requests lost to a shadow that was bad or died by injection.
    pub(crate) explained: u64,
    /// Requests answered by a shadow before it was adopted.
    pub(crate) by_shadow: u64,
    /// Calls to the store that were failed, delayed past their time, or cut off.
    pub(crate) store_faults: u64,
    /// The same of the driver.
    pub(crate) driver_faults: u64,
    /// Calls that landed after their caller had given up or died.
    pub(crate) late: u64,
    /// Acts of leaders that were deposed, by who refused them.
    pub(crate) zombies: Zombies,
    /// Faults by name.
    pub(crate) faults: BTreeMap<&'static str, u64>,
}

/// Acts of a deposed leader: writes, effects and weights of an old epoch that arrived and were refused.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Zombies {
    pub(crate) store: u64,
    pub(crate) driver: u64,
    pub(crate) xds: u64,
}

impl Zombies {
    pub(crate) const fn all(self) -> u64 {
        self.store + self.driver + self.xds
    }
}

/// All that changes.
pub(crate) struct State {
    pub(crate) history: History,
    pub(crate) violations: Vec<String>,
    pub(crate) counters: Counters,
    pub(crate) machines: Machines,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) plane: Plane,
    /// Whether the control plane is all of the real one, behind a network.
    pub(crate) wire: bool,
    pub(crate) net: Net,
    pub(crate) load: Load,
    /// Faults in force.
    pub(crate) active: Vec<Fault>,
    /// Who leads by the store's word: the migrator and its epoch.
    pub(crate) leader: Option<(usize, Epoch)>,
    /// Which migrator the fault at the leader hit.
    pub(crate) hit: Option<usize>,
    /// Highest routing revision seen, by service.
    pub(crate) revisions: BTreeMap<ServiceId, u64>,
    /// Instance and phase of every migration.
    pub(crate) phases: BTreeMap<MigrationId, (InstanceId, Phase)>,
    /// The instances' replicas by their records.
    pub(crate) homes: BTreeMap<InstanceId, domain::Endpoint>,
    /// How often the store was put back.
    pub(crate) era: u64,
    /// What it is put back to.
    pub(crate) earlier: Option<Earlier>,
    /// Random numbers of the store's and the driver's faults.
    pub(crate) chance: Rng,
}

impl State {
    /// Something that must never happen has happened.
    pub(crate) fn violate(&mut self, what: String) {
        if !self.violations.contains(&what) {
            self.history.say(&format!("VIOLATION {what}"));
            self.violations.push(what);
        }
    }

    pub(crate) fn is(&self, fault: Fault) -> bool {
        self.active.contains(&fault)
    }

    pub(crate) fn plane_is_cut_off(&self) -> bool {
        self.is(Fault::PlaneCutOff) || self.is(Fault::StoreAway)
    }

    /// Whether a migrator is the one that a fault at the leader hit.
    pub(crate) fn hits(&self, fault: Fault, client: usize) -> bool {
        self.is(fault) && self.hit == Some(client)
    }
}

/// The world, shared by its tasks.
pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) began: Instant,
    pub(crate) planted: Option<Planted>,
    /// When everything is healed.
    pub(crate) healed_ms: u64,
    state: Mutex<State>,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        began: Instant,
        proxies: Vec<Proxy>,
        planted: Option<Planted>,
        wire: bool,
        healed_ms: u64,
    ) -> Self {
        let clock = SimClock::new(began, 0, 0);
        Self {
            store: Arc::new(MemoryStore::with_clock(Arc::new(clock))),
            began,
            planted,
            healed_ms,
            state: Mutex::new(State {
                history: History::new(began),
                violations: Vec::new(),
                counters: Counters::default(),
                machines: Machines::default(),
                proxies,
                plane: Plane::default(),
                wire,
                net: Net::default(),
                load: Load::new(Rng::new(seed, 2)),
                active: Vec::new(),
                leader: None,
                hit: None,
                revisions: BTreeMap::new(),
                phases: BTreeMap::new(),
                homes: BTreeMap::new(),
                era: 0,
                earlier: None,
                chance: Rng::new(seed, 3),
            }),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a client is told that saw more than the store holds since it was put back.
    pub(crate) fn remembers(&self, era: u64) -> Result<(), StoreError> {
        if self.state().era == era {
            return Ok(());
        }
        Err(StoreError::Rewound {
            store: "simulated".to_owned(),
            seen: 2,
            found: 1,
        })
    }

    pub(crate) fn has(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }

    /// The store itself, without anything in between.
    pub(crate) fn raw(&self) -> SharedStore {
        Arc::clone(&self.store) as SharedStore
    }
}
