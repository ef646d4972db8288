//! Decides what is published and when: make before break, and back to the last good on refusal.
//!
//! # Theory of operation
//! The gate is level-triggered: after every event, [`Gate::advance`] compares, service by service,
//! what is wanted with what is published and what every stream has acknowledged, and does the next
//! steps that are safe. There is no phase to get stuck in and nothing to cancel when the wish
//! changes half-way; a service that waits holds up no other one. The steps for one service are:
//!
//! 1. **Add**: its new clusters and endpoints are published beside the old ones. Always safe.
//! 2. **Route**: its virtual host is published once every connected stream has acknowledged the
//!    clusters that it names, and their endpoints.
//! 3. **Shrink**: endpoints and clusters that are no longer wanted go once every connected stream
//!    has acknowledged the route that dropped them, and no known node is away: one that comes back
//!    still routes to them until it has the new routes.
//!
//! It is *applied* when all that, removals included, is acknowledged by every connected stream, and
//! no known node is away: what a node that lost its stream still routes to must stay alive. After
//! [`PATIENCE_TICKS`] it is taken for gone (`roster`).
//!
//! What is new goes to one node first, and to the others when that one has acknowledged it
//! (`canary`). What a data plane would refuse is not published at all (`resources::validate`).
//!
//! # Refusal
//! A node that refuses a resource *pins* the services at fault: they are brought back to the input
//! that was applied last, by the same three steps, and what was refused is not published again
//! until the wish for that service changes. A node that refuses what others run well with, so that
//! nothing is left to go back to, is shown as rejecting and is not sent that version again.
//!
//! # Assumptions
//! The gate is pure. It has one owner, which calls `advance` after a batch of events and then
//! drains [`Gate::take_ready`] and [`Gate::take_reports`].

mod blame;
mod canary;
mod peers;
mod roster;
mod service;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::{NodeId, NodeProgress, RoutingState, ServiceId};

use crate::input::{Inputs, ServiceInput};
use crate::resources::xdstp::plain_name;
use crate::resources::{
    Resource, ResourceType, api_listener, configuration, service_configuration,
};
use crate::stream::{LimitExceeded, Published, Refusal, Refused, Request, Response, Stream};
pub(crate) use blame::owner;
use canary::Proven;
pub use peers::PeerWord;
use peers::Peers;
use roster::Roster;
pub(crate) use service::Change;
use service::{Changes, ServiceState};

/// Ticks (of about a second) after which a node that went away is taken for gone. Longer than an
/// Envoy may wait before it connects anew (30 s).
pub const PATIENCE_TICKS: u32 = 60;

/// Most rounds of steps in one advance: there and back again takes three.
const MAX_PASSES: usize = 6;
/// Up to so many streams every advance reports how far each of them is; with more, that is done
/// once a tick, and at once when all have applied it or one refuses.
const STREAMS_TO_REPORT: usize = 64;
/// Up to so many pairs of stream and service a node that comes or goes is reported for every
/// service; with more, only for those that are on their way to something.
const PAIRS_TO_REPORT: usize = 20_000;
/// Ticks for which a service at rest still counts as on its way.
const TICKS_TO_COOL: u32 = 60;
/// Most refusals that are remembered of a node.
const MAX_REMEMBERED: usize = 256;

/// Names a stream for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// How far a service is; the record `RoutingStatus` without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The revision that is worked on.
    pub revision: u64,
    /// How far it is.
    pub state: RoutingState,
    /// Per connected node.
    pub nodes: BTreeMap<NodeId, NodeProgress>,
}

/// What is published, to whom, and what comes next.
#[derive(Debug)]
pub struct Gate {
    published: Published,
    /// Whether inputs have been set.
    begun: bool,
    services: BTreeMap<ServiceId, ServiceState>,
    /// Services that are not settled.
    open: BTreeSet<ServiceId>,
    /// Services that a node that comes or goes matters to, with the ticks since they settled.
    warm: BTreeMap<ServiceId, u32>,
    streams: BTreeMap<StreamId, Stream>,
    by_node: BTreeMap<NodeId, BTreeSet<StreamId>>,
    roster: Roster,
    /// What other control planes say.
    peers: Peers,
    /// Whether a change of what is wanted is on its way here.
    source_lags: bool,
    /// Whether a service's routes wait for somebody.
    routes_wait: bool,
    /// Streams that may have to be told something.
    ready: BTreeSet<StreamId>,
    /// The last report per service, to report changes only.
    reported: BTreeMap<ServiceId, Report>,
    /// Reports not taken yet; `None` when the service is gone.
    reports: BTreeMap<ServiceId, Option<Report>>,
    /// Whether every service on its way shall be reported, however many streams there are.
    report_all: bool,
    proven: Proven,
    /// The node that acknowledged something last.
    answered_last: Option<NodeId>,
    /// What nodes have refused, for their next streams.
    refusals: BTreeMap<NodeId, Vec<Refused>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(PATIENCE_TICKS)
    }
}

impl Gate {
    /// A gate that publishes nothing but an empty route configuration, and waits for a node that
    /// went away for `patience` ticks.
    pub fn new(patience: u32) -> Self {
        Self {
            published: Published::default(),
            begun: false,
            services: BTreeMap::new(),
            open: BTreeSet::new(),
            warm: BTreeMap::new(),
            streams: BTreeMap::new(),
            by_node: BTreeMap::new(),
            roster: Roster::new(patience),
            peers: Peers::default(),
            source_lags: false,
            routes_wait: false,
            ready: BTreeSet::new(),
            reported: BTreeMap::new(),
            reports: BTreeMap::new(),
            report_all: true,
            proven: Proven::default(),
            answered_last: None,
            refusals: BTreeMap::new(),
        }
    }

    /// Names a node that was connected before this gate began: it is waited for.
    pub fn expect(&mut self, node: NodeId) {
        self.roster.expect(node);
        self.unsettle();
    }

    /// Takes in what another control plane says of a service, or that it says nothing any more.
    pub fn hear(&mut self, service: &ServiceId, server: &str, word: Option<PeerWord>) {
        self.peers.hear(service, server, word);
        self.reopen(service);
    }

    /// Some control plane is connected to the node, and is believed to be for so many ticks.
    pub fn met(&mut self, node: NodeId, ticks: u32) {
        let matters = self.roster.is_away(&node);
        if self.peers.met(node, ticks) && matters {
            self.unsettle();
        }
    }

    /// All that other control planes say is about to be said again.
    pub fn forget_peers(&mut self) {
        self.peers.forget_all();
    }

    fn reopen(&mut self, service: &ServiceId) {
        if let Some(state) = self.services.get_mut(service) {
            state.settled = false;
            self.open.insert(service.clone());
            self.warm.insert(service.clone(), 0);
            self.report_all = true;
        }
    }

    /// What is published now.
    pub const fn published(&self) -> &Published {
        &self.published
    }

    /// How many streams are connected.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Every stream, for those who ask how far it is.
    pub fn all_streams(&self) -> impl Iterator<Item = (StreamId, &Stream)> {
        self.streams.iter().map(|(&id, stream)| (id, stream))
    }

    /// The streams of a node, the oldest first.
    pub(crate) fn streams_of_node(&self, node: &NodeId) -> Vec<StreamId> {
        self.by_node
            .get(node)
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    /// A stream, if it is connected.
    pub fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    /// Services that are not settled: something is under way, or somebody is missing.
    pub fn unsettled(&self) -> impl Iterator<Item = &ServiceId> {
        self.open.iter()
    }

    /// Nodes that are known and have lost their stream.
    pub fn away(&self) -> usize {
        self.roster.count_away()
    }

    /// Replaces what is wanted. What is wanted first was in force before this control plane began
    /// and counts as good: one odd node must not take a service away from all.
    pub fn set_inputs(&mut self, inputs: &Inputs) {
        let gone: Vec<ServiceId> = self
            .services
            .keys()
            .filter(|id| !inputs.contains_key(*id))
            .cloned()
            .collect();
        let first = !std::mem::replace(&mut self.begun, true);
        for (id, input) in inputs {
            self.want(id, Some(input));
        }
        for id in gone {
            self.want(&id, None);
        }
        if first {
            let mut changes = Changes::default();
            for service in self.services.values_mut() {
                service.presume_good();
                service.add_before(&mut self.published, &mut changes);
            }
            self.tell(&changes);
        }
    }

    /// Replaces what is wanted of single services; `None` when one is deleted.
    pub fn update_inputs(&mut self, inputs: &BTreeMap<ServiceId, Option<Arc<ServiceInput>>>) {
        for (id, input) in inputs {
            if input.is_some() || self.services.contains_key(id) {
                self.want(id, input.as_ref());
            }
        }
    }

    fn want(&mut self, id: &ServiceId, input: Option<&Arc<ServiceInput>>) {
        let service = self
            .services
            .entry(id.clone())
            .or_insert_with(|| ServiceState::new(id));
        service.want(input);
        if !service.settled {
            self.open.insert(id.clone());
            self.warm.insert(id.clone(), 0);
        }
    }

    /// Publishes a resource beside those of the services, or takes it away: whatever the operator
    /// wants every data plane to have.
    pub fn put_extra(
        &mut self,
        kind: ResourceType,
        name: &Arc<str>,
        resource: Option<Arc<Resource>>,
    ) {
        let generation = self.published.generation;
        let previous = match resource {
            Some(resource) => self.published.put(kind, resource),
            None => self.published.take(kind, name),
        };
        let change = Change {
            previous,
            generation,
            urgent: false,
        };
        let mut changes = Changes::default();
        changes.add(kind, Arc::clone(name), change);
        self.tell(&changes);
    }

    /// A stream begins.
    pub fn connect(&mut self, id: StreamId, mut stream: Stream) {
        if let Some(refused) = self.refusals.get(&stream.node) {
            stream.recall(refused.clone());
        }
        self.by_node
            .entry(stream.node.clone())
            .or_default()
            .insert(id);
        self.streams.insert(id, stream);
    }

    /// A stream is gone: no step waits for it any more, but nothing is applied while its node is
    /// away.
    pub fn disconnect(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            self.ready.remove(&id);
            if let Some(ids) = self.by_node.get_mut(&stream.node) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_node.remove(&stream.node);
                }
            }
            self.look_at(&stream.node);
            self.unsettle();
        }
    }

    fn look_at(&mut self, node: &NodeId) {
        let ids = self.by_node.get(node).into_iter().flatten();
        let streams = ids.filter_map(|id| self.streams.get(id));
        if self.roster.look(node, streams) {
            self.peers.joined(node);
        }
    }

    /// A client says something. Gives back what it refuses, for the log.
    ///
    /// # Errors
    /// [`LimitExceeded`] when it wants more than it may: close the stream.
    pub fn request(
        &mut self,
        id: StreamId,
        kind: ResourceType,
        request: Request,
    ) -> Result<Option<Refusal>, LimitExceeded> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(None);
        };
        let joins = !stream.wants(kind);
        let answers = request.is_answer();
        let refusal = stream.request(kind, request, &self.published)?;
        let node = stream.node.clone();
        self.ready.insert(id);
        if joins {
            self.look_at(&node);
        }
        if joins || refusal.is_some() {
            self.unsettle();
        }
        match &refusal {
            Some(refusal) => {
                self.remember(&node, refusal);
                self.report_all = true;
                self.blame(&node, refusal);
            }
            None if answers && self.answered_last.as_ref() != Some(&node) => {
                self.answered_last = Some(node);
            }
            None => {}
        }
        Ok(refusal)
    }

    fn remember(&mut self, node: &NodeId, refusal: &Refusal) {
        let known = self.refusals.entry(node.clone()).or_default();
        let reason: Arc<str> = Arc::from(&*refusal.reason);
        for (name, version) in &refusal.items {
            if known.len() < MAX_REMEMBERED {
                known.push(Refused {
                    kind: refusal.kind,
                    name: Arc::clone(name),
                    version: *version,
                    reason: Arc::clone(&reason),
                });
            }
        }
    }

    /// About a second has passed.
    pub fn tick(&mut self) {
        for (&id, stream) in &mut self.streams {
            if stream.tick() {
                self.ready.insert(id);
            }
        }
        self.tick_canaries();
        if self.peers.tick() && self.roster.count_away() > 0 {
            self.unsettle();
        }
        self.report_all = true;
        let open = &self.open;
        self.warm.retain(|id, ticks| {
            *ticks = if open.contains(id) { 0 } else { *ticks + 1 };
            *ticks <= TICKS_TO_COOL
        });
        if self.roster.tick() {
            let roster = &self.roster;
            self.refusals.retain(|node, _| roster.knows(node));
            self.unsettle();
        }
    }

    /// Does every step that is safe now.
    pub fn advance(&mut self) {
        self.release_proven();
        if self.open.is_empty() {
            self.report_all = false;
            return;
        }
        let open: Vec<ServiceId> = self.open.iter().cloned().collect();
        // Where nobody has to acknowledge, one step makes room for the next.
        for _ in 0..MAX_PASSES {
            let changes = self.pass(&open);
            if changes.is_empty() {
                break;
            }
            self.tell(&changes);
        }
        self.report(&open);
    }

    /// Each step once.
    fn pass(&mut self, open: &[ServiceId]) -> Changes {
        let mut changes = Changes::default();
        for id in open {
            if let Some(service) = self.services.get_mut(id) {
                service.add(&mut self.published, &mut changes);
            }
        }
        self.route(open, &mut changes);
        for id in open {
            if self.is_needed_elsewhere(id) {
                continue;
            }
            let Some(service) = self.services.get_mut(id) else {
                continue;
            };
            if service.may_shrink(&self.streams, &self.published) {
                service.shrink(&mut self.published, &mut changes);
            }
        }
        changes
    }

    /// Whether a node that is not connected here may still route to what a service no longer wants: it
    /// finds it when it comes back, or comes over from another control plane.
    fn is_needed_elsewhere(&self, id: &ServiceId) -> bool {
        let revision = self.services.get(id).map_or(0, ServiceState::revision);
        let is_here = |node: &NodeId| self.by_node.contains_key(node) && !self.roster.is_away(node);
        let mut away = self.roster.all_away();
        away.any(|node| !self.peers.has_routes(id, node, revision))
            || self.peers.lacking(id, revision).any(|node| !is_here(node))
    }

    fn route(&mut self, open: &[ServiceId], changes: &mut Changes) {
        let before = self.published.generation;
        let next = before + 1;
        let mut routed = Vec::new();
        let mut urgent = false;
        for id in open {
            let Some(service) = self.services.get_mut(id) else {
                continue;
            };
            if service.may_route(&self.streams, &self.published) {
                urgent |= service.route(next);
                routed.push(id);
            }
        }
        self.note_lag(open);
        if routed.is_empty() {
            return;
        }
        self.published.generation = next;
        for id in routed {
            self.publish_own_routes(id, before, urgent, changes);
        }
        let hosts = self.services.values().filter_map(ServiceState::routed_host);
        let routes = Arc::new(configuration(hosts));
        let name = Arc::clone(&routes.name);
        let change = Change {
            previous: Some(std::mem::replace(&mut self.published.routes, routes)),
            generation: before,
            urgent,
        };
        changes.add(ResourceType::Route, name, change);
    }

    /// Notes whether newer routes than the published ones are wanted and wait for somebody: a client
    /// that comes over from another control plane may have them already.
    fn note_lag(&mut self, open: &[ServiceId]) {
        let mut states = open.iter().filter_map(|id| self.services.get(id));
        self.routes_wait = states.any(ServiceState::waits_to_route);
        self.set_lag();
    }

    /// Says whether a change of what is wanted is on its way to this gate.
    pub fn expect_change(&mut self, is_expected: bool) {
        if self.source_lags != is_expected {
            self.source_lags = is_expected;
            self.set_lag();
        }
    }

    fn set_lag(&mut self) {
        let lags = self.source_lags || self.routes_wait;
        let lagged = std::mem::replace(&mut self.published.routes_lag, lags);
        if lagged && !lags {
            let back = self.streams.iter().filter(|(_, stream)| stream.is_back());
            self.ready.extend(back.map(|(id, _)| *id));
        }
    }

    /// The routes of one service alone, and the listeners that gRPC clients find them by.
    fn publish_own_routes(
        &mut self,
        id: &ServiceId,
        before: u64,
        urgent: bool,
        changes: &mut Changes,
    ) {
        let Some(service) = self.services.get(id) else {
            return;
        };
        let own = api::xds::service_route_config(id.as_str());
        let previous = if let Some(host) = service.routed_host() {
            let named = service.routed_named.clone();
            self.published.named.insert(id.clone(), named);
            let own = Arc::new(service_configuration(host));
            self.published.put(ResourceType::Route, own)
        } else {
            self.published.named.remove(id);
            self.published.take(ResourceType::Route, &own)
        };
        let change = Change {
            previous,
            generation: before,
            urgent,
        };
        changes.add(ResourceType::Route, Arc::from(own), change);
        self.publish_api_listener(id, changes);
    }

    fn publish_api_listener(&mut self, id: &ServiceId, changes: &mut Changes) {
        let exists = self
            .services
            .get(id)
            .is_some_and(|service| service.routed_host().is_some());
        if exists == self.published.api_listeners.contains_key(id.as_str()) {
            return;
        }
        let name: Arc<str> = Arc::from(id.as_str());
        let listeners = Arc::make_mut(&mut self.published.api_listeners);
        if exists {
            let listener = Arc::new(api_listener(&name, &name));
            listeners.insert(Arc::clone(&name), listener);
        } else {
            listeners.remove(&name);
        }
        let change = Change {
            previous: None,
            generation: self.published.generation,
            urgent: true,
        };
        changes.add(ResourceType::Listener, name, change);
    }

    fn report(&mut self, open: &[ServiceId]) {
        let all = std::mem::take(&mut self.report_all) || self.streams.len() <= STREAMS_TO_REPORT;
        let mut away = None;
        for id in open {
            let Some(service) = self.services.get_mut(id) else {
                self.open.remove(id);
                continue;
            };
            let is_elsewhere = |node: &&NodeId| self.peers.has(id, node);
            let nobody_away = || self.roster.all_away().all(|node| is_elsewhere(&node));
            let may_be_done =
                || service.is_complete() && self.reported.contains_key(id) && nobody_away();
            if !all
                && self.reported.contains_key(id)
                && !(may_be_done() && service.all_have(&self.streams, &self.published))
            {
                continue;
            }
            let away = away.get_or_insert_with(|| self.roster.away());
            // Whoever they are connected to speaks for them.
            let elsewhere = away.iter().filter(is_elsewhere).cloned();
            let elsewhere: BTreeSet<NodeId> = elsewhere.collect();
            let left: BTreeSet<NodeId>;
            let away = if elsewhere.is_empty() {
                &*away
            } else {
                left = away.difference(&elsewhere).cloned().collect();
                &left
            };
            let report = service.report(self.streams.values(), away, &self.published);
            if service.settled {
                self.open.remove(id);
            }
            if service.settled && service.is_gone() {
                self.services.remove(id);
                self.reported.remove(id);
                self.warm.remove(id);
                self.reports.insert(id.clone(), None);
            } else if self.reported.get(id) != Some(&report) {
                self.reported.insert(id.clone(), report.clone());
                self.reports.insert(id.clone(), Some(report));
            }
        }
    }

    /// A node has come, gone, or refuses something: how far the services are has to be looked at
    /// again. With many of them, only those count that are on their way, or were a while ago.
    fn unsettle(&mut self) {
        let pairs = self.services.len().saturating_mul(self.streams.len());
        if pairs <= PAIRS_TO_REPORT {
            for (id, service) in &mut self.services {
                service.settled = false;
                if !self.open.contains(id) {
                    self.open.insert(id.clone());
                }
            }
            return;
        }
        for id in self.warm.keys() {
            if let Some(service) = self.services.get_mut(id) {
                service.settled = false;
                self.open.insert(id.clone());
            }
        }
    }

    /// Streams that may have something to be told since the last call.
    pub fn take_ready(&mut self) -> BTreeSet<StreamId> {
        std::mem::take(&mut self.ready)
    }

    /// The next response for a stream, if one is due.
    pub fn next_response(&mut self, id: StreamId) -> Option<Response> {
        let stream = self.streams.get_mut(&id)?;
        let response = stream.next_response(&self.published)?;
        if response.kind == ResourceType::Cluster {
            self.force_on_other_streams(id, &response);
        }
        Some(response)
    }

    /// A node with one stream per type has its endpoints on another than its clusters.
    fn force_on_other_streams(&mut self, id: StreamId, response: &Response) {
        let Some(node) = self.streams.get(&id).map(|stream| stream.node.clone()) else {
            return;
        };
        let ids = self.by_node.get(&node).into_iter().flatten();
        for &other in ids.filter(|other| **other != id) {
            if let Some(stream) = self.streams.get_mut(&other) {
                for cluster in &response.resources {
                    let plain = plain_name(ResourceType::Cluster, &cluster.name);
                    let plain = plain.map_or_else(|| Arc::clone(&cluster.name), Arc::from);
                    stream.force_endpoints(&plain);
                }
                self.ready.insert(other);
            }
        }
    }

    /// Reports that changed since the last call; `None` for a service that is gone.
    pub fn take_reports(&mut self) -> BTreeMap<ServiceId, Option<Report>> {
        std::mem::take(&mut self.reports)
    }

    /// Nodes that became known (`true`) or were forgotten (`false`) since the last call.
    pub fn take_roster(&mut self) -> BTreeMap<NodeId, bool> {
        self.roster.take_news()
    }

    /// The last report about a service.
    pub fn last_report(&self, service: &ServiceId) -> Option<&Report> {
        self.reported.get(service)
    }
}

/// The published endpoints of a cluster, encoded.
fn endpoints_resource(cluster: &str, endpoints: &BTreeSet<domain::Endpoint>) -> Arc<Resource> {
    Arc::new(crate::resources::assignment(cluster, endpoints))
}
