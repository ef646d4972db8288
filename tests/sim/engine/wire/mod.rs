//! The other kind of world: the real `xds-server`, all of it, and its clients over HTTP/2.
//!
//! ```text
//! MemoryStore ─▶ mirror ─▶ XdsServer: watcher, hub, gate, writer ─▶ gRPC ─▶ link ─▶ client ─▶ Proxy
//!      ▲                                        │                                        │
//!      └──────────── status, traffic ───────────┘ ◀────── load reports, answers ─────────┘
//! ```
//! The links are in memory, on the runtime's paused time; they delay, hold one or both ways, and
//! break. What the store's fence refused of a deposed leader's weights is shown to the control plane
//! all the same (`store`), as if the fence had failed: it has one of its own.

mod client;
mod link;
mod store;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::{NodeId, ServiceId};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use xds_server::{Link, XdsConfig, XdsServer};

use super::clock::{SimClock, millis};
use super::faults::Fault;
use super::rng::Rng;
use super::world::{State, World};

pub(crate) use client::Lines;

/// How often the life of the control plane is looked at.
const GLANCE: Duration = Duration::from_millis(20);
/// How far the control plane's clock may be off.
const SKEW_MS: u64 = 400;

/// What the network and the control plane behind it are like now.
#[derive(Debug, Default)]
pub(crate) struct Net {
    /// Where a new connection is handed in; nowhere while the control plane is down.
    door: Option<mpsc::Sender<Box<dyn Link>>>,
    /// What carries each proxy's connection.
    pumps: BTreeMap<usize, Vec<AbortHandle>>,
    /// Each proxy's streams, while they are open.
    pub(crate) lines: BTreeMap<usize, Lines>,
    /// Weights of deposed leaders that the store has refused.
    stale: VecDeque<(String, Vec<u8>)>,
    /// Highest revision that the present control plane has reported, by service.
    reported: BTreeMap<ServiceId, u64>,
    /// Streams that were opened.
    pub(crate) streams: u64,
}

impl Net {
    /// Breaks a proxy's connection.
    pub(crate) fn cut(&mut self, proxy: usize) {
        for pump in self.pumps.remove(&proxy).unwrap_or_default() {
            pump.abort();
        }
    }

    /// A deposed leader's weights were refused by the store.
    pub(crate) fn refused(&mut self, id: &str, value: &[u8]) {
        self.stale.push_back((id.to_owned(), value.to_vec()));
    }
}

/// Runs the control plane and its clients for ever.
pub(crate) fn start(world: &Arc<World>, seed: u64) {
    tokio::spawn(plane(Arc::clone(world), seed));
    let count = world.state().proxies.len();
    for index in 0..count {
        tokio::spawn(client::run(Arc::clone(world), index, seed));
    }
}

async fn plane(world: Arc<World>, seed: u64) {
    let mut rng = Rng::new(seed, 300);
    loop {
        let clock = SimClock::new(
            world.began,
            rng.between(0, SKEW_MS),
            rng.between(0, SKEW_MS),
        );
        let lives = Arc::new(AtomicBool::new(true));
        let (door, links) = mpsc::channel(16);
        let store = store::PlaneStore::new(&world, Arc::clone(&lives), seed).await;
        let config = XdsConfig {
            report_interval: client::REPORTS,
            ..XdsConfig::default()
        };
        let store: ::store::SharedStore = Arc::new(store);
        let started = XdsServer::start_over(config, store, Arc::new(clock), links).await;
        let Ok(server) = started else {
            lives.store(false, Ordering::SeqCst);
            tokio::time::sleep(GLANCE * 10).await;
            continue;
        };
        {
            let mut state = world.state();
            state.net.door = Some(door);
            state.net.reported.clear();
            state.history.say("plane    up");
        }
        while !world.state().is(Fault::PlaneDown) {
            tokio::time::sleep(GLANCE).await;
        }
        // Killed: its connections break, and nothing that it still wants to write arrives.
        lives.store(false, Ordering::SeqCst);
        {
            let mut state = world.state();
            state.net.door = None;
            for index in 0..state.proxies.len() {
                state.net.cut(index);
            }
            state.history.say("plane    down");
        }
        tokio::time::sleep(GLANCE).await;
        drop(server);
        while world.state().is(Fault::PlaneDown) {
            tokio::time::sleep(GLANCE).await;
        }
    }
}

/// Proxies apply what is due, and what they say is sent.
pub(crate) fn step(world: &World, state: &mut State) {
    let now = millis(world.began);
    for index in 0..state.proxies.len() {
        let proxy = &mut state.proxies[index];
        while proxy.step(now) {}
        let said = std::mem::take(&mut proxy.out);
        if let Some(lines) = state.net.lines.get_mut(&index) {
            for (kind, request) in said {
                let node = &proxy.node;
                let (kind_name, says) = (kind.short_name(), words::in_short(&request));
                state
                    .history
                    .say(&format!("wire     {node} says {kind_name} {says}"));
                lines.say(&proxy.node, kind, request);
            }
        }
    }
}

/// Everything that a proxy of this world has, by node, kind and name.
pub(crate) fn published(state: &State) -> BTreeMap<String, String> {
    let of = |node: &NodeId, kind: &str, name: &str| format!("{kind} {name} at {node}");
    let each = state.proxies.iter().flat_map(|proxy| {
        let versions = proxy.versions.iter();
        versions.map(|((kind, name), version)| {
            (of(&proxy.node, kind.short_name(), name), version.clone())
        })
    });
    each.collect()
}
