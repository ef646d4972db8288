//! What all parts of a running proxy share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::config::{Kind, Resources, RoutingTable};
use crate::hold::Holds;
use crate::mirror::Mirrors;
use crate::settings::ProxyConfig;
use crate::telemetry::Registry;

/// What all parts of a running proxy share.
pub(crate) struct Shared {
    pub(crate) config: ProxyConfig,
    pub(crate) table: ArcSwap<RoutingTable>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) mirrors: Mirrors,
    pub(crate) holds: Holds,
    ready: AtomicBool,
    connected: AtomicBool,
    draining: AtomicBool,
    began: Instant,
    versions: ArcSwap<serde_json::Value>,
}

impl Shared {
    pub(crate) fn new(config: ProxyConfig) -> Self {
        Self {
            table: ArcSwap::default(),
            registry: Arc::default(),
            mirrors: Mirrors::new(config.pairs_per_second),
            holds: Holds::default(),
            config,
            ready: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            began: Instant::now(),
            versions: ArcSwap::default(),
        }
    }

    /// Milliseconds since the proxy began.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Builds the table of `resources` and lets every request from now on use it.
    pub(crate) fn put_in_force(&self, resources: &Resources) {
        let table = RoutingTable::link(resources, &self.table.load(), &self.registry);
        self.table.store(Arc::new(table));
        self.holds.news();
        let versions = Kind::ALL.map(|kind| {
            let versions = serde_json::json!(resources.versions(kind));
            (api::xds::short_name(kind.url()).to_owned(), versions)
        });
        self.versions.store(Arc::new(serde_json::Value::Object(
            versions.into_iter().collect(),
        )));
        if resources.routes.is_some() {
            self.ready.store(true, Ordering::Release);
        }
    }

    /// Waits, for a bounded time, until no request that was sent before a hold is under way. An
    /// acknowledgement after that says so.
    pub(crate) async fn settle(&self) {
        let flights = self.table.load().held_flights();
        let left = self.holds.drained(&flights).await;
        if left > 0 {
            tracing::warn!(left, "requests from before the hold are still under way");
        }
    }

    /// Versions of the resources in force, by type and name, for people.
    pub(crate) fn versions(&self) -> serde_json::Value {
        serde_json::Value::clone(&self.versions.load())
    }

    /// Whether a table with routes is in force.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
