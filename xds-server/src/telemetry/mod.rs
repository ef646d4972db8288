//! What the nodes report: counts from load reports, latencies from access logs.
//!
//! # Rules
//! - Totals are cumulative within a session and begin anew with the next; a session is one load
//!   reporting stream.
//! - A cluster that a report leaves out has nothing in progress.
//! - A node that reports latencies inside its load reports (our proxy) is not counted again from
//!   its access logs.
//! - A node that has been silent for a minute is forgotten: what it does is not known any more.

mod node;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::envoy::envoy::config::endpoint::v3::ClusterStats;
use api::envoy::envoy::data::accesslog::v3::HttpAccessLogEntry;
use domain::{NodeId, ServiceId, Timestamp, Traffic};

use node::NodeState;

/// How long a silent node is remembered.
const FORGET_AFTER_MS: u64 = 60_000;
/// Services without news are written again after this many reports of a node.
const REPORTS_PER_REFRESH: u64 = 4;

/// Identity of a reporting session: unique across streams and across runs of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session(u64);

impl Session {
    /// A session that begins now; `number` distinguishes those of one millisecond.
    pub const fn new(now: Timestamp, number: u64) -> Self {
        // Below 2^53 until long after 2200, so that every JSON reader keeps it whole.
        Self(now.0.saturating_mul(1_024).saturating_add(number % 1_024))
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// All that is known of what the nodes do.
#[derive(Debug, Default)]
pub struct Telemetry {
    nodes: BTreeMap<NodeId, NodeState>,
    known: BTreeSet<ServiceId>,
    migrating: BTreeSet<ServiceId>,
    changed: BTreeSet<ServiceId>,
}

impl Telemetry {
    /// Says which services exist, and which are under migration: those are written with every
    /// report, because silence means something there.
    pub fn set_services(&mut self, known: BTreeSet<ServiceId>, migrating: BTreeSet<ServiceId>) {
        self.known = known;
        self.migrating = migrating;
    }

    /// A node begins to report.
    pub fn begin(&mut self, node: &NodeId, session: Session) {
        self.nodes.insert(node.clone(), NodeState::new(session));
    }

    /// A node says that it can hold requests.
    pub fn can_hold(&mut self, node: &NodeId) {
        if let Some(state) = self.nodes.get_mut(node) {
            state.holds = true;
        }
    }

    /// A load report. One of a session that has been replaced is ignored.
    pub fn load(
        &mut self,
        node: &NodeId,
        session: Session,
        stats: &[ClusterStats],
        now: Timestamp,
    ) {
        let Some(state) = self
            .nodes
            .get_mut(node)
            .filter(|state| state.session == session)
        else {
            return;
        };
        let touched = state.load(stats, now);
        let everything = state.reports.is_multiple_of(REPORTS_PER_REFRESH);
        self.mark(touched.iter().map(String::as_str));
        if everything {
            self.changed.extend(self.known.iter().cloned());
        } else {
            self.changed.extend(self.migrating.iter().cloned());
        }
    }

    /// Access logs. `session` counts only if the node has no session yet.
    pub fn log(
        &mut self,
        node: &NodeId,
        session: Session,
        entries: &[HttpAccessLogEntry],
        now: Timestamp,
    ) {
        let fresh = || NodeState::new(session);
        let state = self.nodes.entry(node.clone()).or_insert_with(fresh);
        let touched = state.log(entries, now);
        self.mark(touched.iter().map(String::as_str));
    }

    fn mark<'a>(&mut self, clusters: impl Iterator<Item = &'a str>) {
        for cluster in clusters {
            if let Ok(id) = ServiceId::new(crate::gate::owner(cluster))
                && self.known.contains(&id)
            {
                self.changed.insert(id);
            }
        }
    }

    /// The records of the services of which something changed since the last call.
    pub fn take(&mut self, now: Timestamp) -> Vec<Traffic> {
        self.nodes
            .retain(|_, state| now.since(state.reported_at) < FORGET_AFTER_MS);
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .filter(|id| self.known.contains(id))
            .map(|id| self.of(id, now))
            .collect()
    }

    fn of(&self, service: ServiceId, at: Timestamp) -> Traffic {
        let nodes = self
            .nodes
            .iter()
            .map(|(node, state)| (node.clone(), state.traffic(&service)))
            .collect();
        Traffic { service, at, nodes }
    }
}

/// The telemetry, shared between the services that feed it and the writer.
#[derive(Debug, Clone, Default)]
pub struct SharedTelemetry(Arc<Mutex<Telemetry>>);

impl SharedTelemetry {
    fn lock(&self) -> MutexGuard<'_, Telemetry> {
        // Counters stay meaningful whatever interrupted their writer.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Telemetry::set_services`].
    pub fn set_services(&self, known: BTreeSet<ServiceId>, migrating: BTreeSet<ServiceId>) {
        self.lock().set_services(known, migrating);
    }

    /// See [`Telemetry::begin`].
    pub fn begin(&self, node: &NodeId, session: Session) {
        self.lock().begin(node, session);
    }

    /// See [`Telemetry::can_hold`].
    pub fn can_hold(&self, node: &NodeId) {
        self.lock().can_hold(node);
    }

    /// See [`Telemetry::load`].
    pub fn load(&self, node: &NodeId, session: Session, stats: &[ClusterStats], now: Timestamp) {
        self.lock().load(node, session, stats, now);
    }

    /// See [`Telemetry::log`].
    pub fn log(
        &self,
        node: &NodeId,
        session: Session,
        entries: &[HttpAccessLogEntry],
        now: Timestamp,
    ) {
        self.lock().log(node, session, entries, now);
    }

    /// See [`Telemetry::take`].
    pub fn take(&self, now: Timestamp) -> Vec<Traffic> {
        self.lock().take(now)
    }
}
