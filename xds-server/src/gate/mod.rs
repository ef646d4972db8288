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
mod roster;
mod service;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::{NodeId, NodeProgress, RoutingState, ServiceId};

use crate::input::Inputs;
use crate::resources::{Resource, ResourceType, configuration};
use crate::stream::{LimitExceeded, Published, Refusal, Request, Response, Stream};
pub(crate) use blame::owner;
use roster::Roster;
use service::{Changes, ServiceState};

/// Ticks (of about a second) after which a node that went away is taken for gone. Longer than an
/// Envoy may wait before it connects anew (30 s).
pub const PATIENCE_TICKS: u32 = 60;

/// Most rounds of steps in one advance: there and back again takes three.
const MAX_PASSES: usize = 6;

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
    streams: BTreeMap<StreamId, Stream>,
    roster: Roster,
    /// Streams that may have to be told something.
    ready: BTreeSet<StreamId>,
    /// The last report per service, to report changes only.
    reported: BTreeMap<ServiceId, Report>,
    /// Reports not taken yet; `None` when the service is gone.
    reports: BTreeMap<ServiceId, Option<Report>>,
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
            streams: BTreeMap::new(),
            roster: Roster::new(patience),
            ready: BTreeSet::new(),
            reported: BTreeMap::new(),
            reports: BTreeMap::new(),
        }
    }

    /// Names a node that was connected before this gate began: it is waited for.
    pub fn expect(&mut self, node: NodeId) {
        self.roster.expect(node);
        self.unsettle_all();
    }

    /// What is published now.
    pub const fn published(&self) -> &Published {
        &self.published
    }

    /// How many streams are connected.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Replaces what is wanted. What is wanted first was in force before this control plane began
    /// and counts as good: one odd node must not take a service away from all.
    pub fn set_inputs(&mut self, inputs: &Inputs) {
        let first = !std::mem::replace(&mut self.begun, true);
        for (id, input) in inputs {
            self.services
                .entry(id.clone())
                .or_default()
                .want(Some(input));
        }
        for (_, service) in self
            .services
            .iter_mut()
            .filter(|(id, _)| !inputs.contains_key(*id))
        {
            service.want(None);
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

    /// A stream begins.
    pub fn connect(&mut self, id: StreamId, stream: Stream) {
        self.streams.insert(id, stream);
    }

    /// A stream is gone: no step waits for it any more, but nothing is applied while its node is
    /// away.
    pub fn disconnect(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            self.ready.remove(&id);
            self.roster.look(&stream.node, self.streams.values());
            self.unsettle_all();
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
        let refusal = stream.request(kind, request, &self.published)?;
        let node = stream.node.clone();
        self.ready.insert(id);
        if joins {
            self.roster.look(&node, self.streams.values());
        }
        if joins || refusal.is_some() {
            self.unsettle_all();
        }
        if let Some(refusal) = &refusal {
            self.blame(&node, refusal);
        }
        Ok(refusal)
    }

    /// About a second has passed.
    pub fn tick(&mut self) {
        for (&id, stream) in &mut self.streams {
            stream.tick();
            self.ready.insert(id);
        }
        if self.roster.tick() {
            self.unsettle_all();
        }
    }

    /// Does every step that is safe now.
    pub fn advance(&mut self) {
        let open: Vec<ServiceId> = self
            .services
            .iter()
            .filter(|(_, service)| !service.settled)
            .map(|(id, _)| id.clone())
            .collect();
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
        // A node that is away still routes to what is there; it finds it when it comes back.
        if !self.roster.away().is_empty() {
            return changes;
        }
        for id in open {
            let Some(service) = self.services.get_mut(id) else {
                continue;
            };
            if service.may_shrink(self.streams.values(), &self.published) {
                service.shrink(&mut self.published, &mut changes);
            }
        }
        changes
    }

    fn route(&mut self, open: &[ServiceId], changes: &mut Changes) {
        let next = self.published.generation + 1;
        let mut any = false;
        for id in open {
            let Some(service) = self.services.get_mut(id) else {
                continue;
            };
            if service.may_route(self.streams.values(), &self.published) {
                service.route(next);
                any = true;
            }
        }
        if any {
            let hosts = self.services.values().filter_map(ServiceState::routed_host);
            self.published.routes = Arc::new(configuration(hosts));
            self.published.generation = next;
            let named = self
                .services
                .values()
                .flat_map(|service| &service.routed_named);
            self.published.named = named.cloned().collect();
            changes.add(ResourceType::Route, Arc::clone(&self.published.routes.name));
        }
    }

    fn tell(&mut self, changes: &Changes) {
        for (&id, stream) in &mut self.streams {
            for (kind, name) in changes.iter() {
                stream.changed(kind, name);
            }
            self.ready.insert(id);
        }
    }

    fn report(&mut self, open: &[ServiceId]) {
        let away = self.roster.away();
        for id in open {
            let Some(service) = self.services.get_mut(id) else {
                continue;
            };
            let report = service.report(self.streams.values(), &away, &self.published);
            if service.settled && service.is_gone() {
                self.services.remove(id);
                self.reported.remove(id);
                self.reports.insert(id.clone(), None);
            } else if self.reported.get(id) != Some(&report) {
                self.reported.insert(id.clone(), report.clone());
                self.reports.insert(id.clone(), Some(report));
            }
        }
    }

    fn unsettle_all(&mut self) {
        for service in self.services.values_mut() {
            service.settled = false;
        }
    }

    /// Streams that may have something to be told since the last call.
    pub fn take_ready(&mut self) -> BTreeSet<StreamId> {
        std::mem::take(&mut self.ready)
    }

    /// The next response for a stream, if one is due.
    pub fn next_response(&mut self, id: StreamId) -> Option<Response> {
        self.streams.get_mut(&id)?.next_response(&self.published)
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
