//! The discovery protocol of one stream, as a pure state machine: what the client wants, what it
//! has been told, and what it has acknowledged or refused. Both forms, delta and state of the
//! world, share the bookkeeping and differ in what a response carries.
//!
//! # Flow
//! [`Stream::request`] takes a message in, [`Stream::changed`] tells of changes of what is
//! published, and [`Stream::next_response`] gives the next message out, if one is due. At most one
//! response per type waits for its acknowledgement (answers to new subscriptions excepted), so a
//! slow client gets the newest state next, not every state in between.
//!
//! # Guarantees
//! - A refused version is never sent again on the stream, nor on the next one of the same client.
//! - A cluster that is sent is followed by its endpoints, even unchanged ones: a client does not
//!   ask again for those of a changed cluster, and would wait in vain.
//! - A client that comes back keeps clusters that are gone until it has the new routes, and gets
//!   these when it has the clusters that they name (for a few seconds; then it gets what there is).
//!   In the state-of-the-world form what a response leaves out counts as gone, so the clusters that
//!   such a client still has (it names them when it asks for their endpoints) are said again.

mod kind_state;
mod message;
mod published;
mod spelling;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::NodeId;

use crate::resources::{Resource, ResourceType, Version, bare_cluster};
use kind_state::{KindState, View};
pub use kind_state::{LimitExceeded, MAX_NAME, MAX_NAME_BYTES, MAX_NAMES};
pub use message::{Protocol, Refusal, Request, Response};
pub use published::{Held, Published};
use spelling::Spelling;

/// For how many ticks the routes of a client that came back, and has answered, wait for their clusters.
const TICKS_TO_LEAD: u8 = 3;
/// For how many ticks a client that came back is spared routes that newer ones are about to replace.
const TICKS_TO_CATCH_UP: u8 = 5;
/// For how many ticks clusters that are gone wait for such a client's routes, if it wants any.
const TICKS_TO_KEEP: u8 = 30;
/// Most clusters that are kept for a client that came back: two per migration that it may have
/// missed the end of.
const MAX_KEPT: usize = 2_000;

/// One discovery stream.
#[derive(Debug)]
pub struct Stream {
    /// Who is at the other end.
    pub node: NodeId,
    protocol: Protocol,
    listener: Option<Arc<Resource>>,
    kinds: [KindState; 5],
    nonce: u64,
    /// Ticks since the client came back, while it is led over to the newest routes; only those in
    /// which it owed no answer.
    back: Option<u8>,
    /// Clusters that are gone, and that it still has.
    kept: BTreeMap<Arc<str>, Arc<Resource>>,
    /// A cluster that its routes wait for, to look at first.
    lacks: Option<Arc<str>>,
    ttl: Option<u32>,
    ticks: u32,
    /// Types whose heartbeat is due.
    beats: u8,
    /// Refusals of earlier streams of the same client.
    recalled: Vec<Refused>,
    spelling: Spelling,
}

/// A version that a node has refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The type.
    pub kind: ResourceType,
    /// The resource.
    pub name: Arc<str>,
    /// The version.
    pub version: Version,
    /// The node's words.
    pub reason: Arc<str>,
}

impl Stream {
    /// A stream on which nothing has been said yet.
    pub fn new(node: NodeId, protocol: Protocol, listener: Option<Arc<Resource>>) -> Self {
        Self {
            node,
            protocol,
            listener,
            kinds: ResourceType::ALL.map(KindState::new),
            nonce: 0,
            back: None,
            kept: BTreeMap::new(),
            lacks: None,
            ttl: None,
            ticks: 0,
            beats: 0,
            recalled: Vec::new(),
            spelling: Spelling::default(),
        }
    }

    /// A client that believes in resources for so many seconds only, and is told again before.
    #[must_use]
    pub const fn with_ttl(mut self, seconds: Option<u32>) -> Self {
        self.ttl = seconds;
        self
    }

    /// Its form of the protocol.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What the node has refused on earlier streams.
    pub(crate) fn recall(&mut self, refused: Vec<Refused>) {
        self.recalled = refused;
    }

    fn kind(&self, kind: ResourceType) -> &KindState {
        &self.kinds[kind.index()]
    }

    /// Takes a request in. Gives back what the client refuses, if it does.
    ///
    /// # Errors
    /// [`LimitExceeded`] when the client wants more than it may; the stream must be closed.
    pub fn request(
        &mut self,
        kind: ResourceType,
        mut request: Request,
        published: &Published,
    ) -> Result<Option<Refusal>, LimitExceeded> {
        self.spelling.read(kind, &mut request);
        let first = !self.kinds[kind.index()].is_active();
        if first && request.has_initial_versions() {
            if kind == ResourceType::Cluster {
                self.back = Some(0);
            }
            self.recall_for(kind);
        }
        if first && self.back.is_some() && self.protocol == Protocol::StateOfTheWorld {
            self.keep_what_it_has(kind, &request, published);
        }
        let view = View {
            published,
            node: &self.node,
            listener: self.listener.as_ref(),
            kept: &self.kept,
        };
        self.kinds[kind.index()].request(request, view)
    }

    /// A client that is started anew may think better of it; one that only reconnects does not.
    fn recall_for(&mut self, kind: ResourceType) {
        let (now, later) = std::mem::take(&mut self.recalled)
            .into_iter()
            .partition::<Vec<_>, _>(|refused| refused.kind == kind);
        self.recalled = later;
        for refused in now {
            self.kinds[kind.index()].recall(refused.name, refused.version, refused.reason);
        }
    }

    /// Clusters that the client has, to judge by what it asks for, and that are not there any more.
    fn keep_what_it_has(&mut self, kind: ResourceType, request: &Request, published: &Published) {
        let names = match (kind, request) {
            (ResourceType::Cluster | ResourceType::Endpoint, Request::World { names, .. }) => names,
            (_, Request::World { .. } | Request::Delta { .. }) => return,
        };
        // One of the same name may be there again, but only for its canary yet.
        let temporary = |name: &&String| {
            name.contains('~')
                && published
                    .visible(ResourceType::Cluster, name, &self.node)
                    .is_none()
        };
        for name in names.iter().filter(temporary).take(MAX_KEPT) {
            let cluster = Arc::new(bare_cluster(name));
            let name = Arc::clone(&cluster.name);
            self.kept.insert(Arc::clone(&name), cluster);
            self.kinds[ResourceType::Cluster.index()].changed(&name);
        }
    }

    /// Says that a published resource changed, came or went. Whether the client follows it.
    pub fn changed(&mut self, kind: ResourceType, name: &Arc<str>) -> bool {
        self.kinds[kind.index()].changed(name)
    }

    /// Has the endpoints of a cluster told again.
    pub(crate) fn force_endpoints(&mut self, cluster: &Arc<str>) {
        self.kinds[ResourceType::Endpoint.index()].force(cluster);
    }

    /// Lets time pass: about a second. Whether something may be due because of it.
    pub fn tick(&mut self) -> bool {
        self.ticks = self.ticks.wrapping_add(1);
        let was_back = self.back.is_some();
        // A client that has not answered yet may not have been reached: routes that came before their
        // clusters would lead to nothing. One that is not there any more ends with its connection.
        let answered = self.is_idle(ResourceType::Cluster) && self.is_idle(ResourceType::Endpoint);
        if answered {
            self.back = self.back.map(|ticks| ticks.saturating_add(1));
        }
        let beats = self
            .ttl
            .is_some_and(|ttl| self.ticks.is_multiple_of((ttl / 3).max(1)));
        if beats {
            self.beats = 1 << ResourceType::ALL.len();
            self.beats -= 1;
        }
        was_back || beats
    }

    /// Whether routes wait for their clusters.
    const fn routes_wait(&self) -> bool {
        matches!(self.back, Some(ticks) if ticks < TICKS_TO_LEAD)
    }

    /// Whether the client came back and is not led over to the newest routes yet.
    pub(crate) const fn is_back(&self) -> bool {
        self.back.is_some()
    }

    /// Whether newer routes than the client may see are under way. It may have these already, from
    /// another control plane: weights never go back.
    fn routes_lag(&self, published: &Published) -> bool {
        let is_held = |name: &Arc<str>| {
            let held = published.held(ResourceType::Route, name);
            held.is_some_and(|held| !held.canaries.contains(&self.node))
        };
        self.back.is_some_and(|ticks| ticks < TICKS_TO_CATCH_UP)
            && (published.routes_lag || self.kind(ResourceType::Route).names().any(is_held))
    }

    /// Whether clusters that are gone wait for the new routes.
    fn keeps_clusters(&self) -> bool {
        let limit = if self.wants(ResourceType::Route) {
            TICKS_TO_KEEP
        } else {
            TICKS_TO_LEAD
        };
        self.back.is_some_and(|ticks| ticks < limit)
    }

    /// Whether it is not known yet which clusters a client that came back has: it says so when it
    /// asks for their endpoints, which it does at once.
    fn is_about_to_say_what_it_has(&self) -> bool {
        self.back == Some(0)
            && self.protocol == Protocol::StateOfTheWorld
            && self.kind(ResourceType::Cluster).is_wildcard()
            && !self.kind(ResourceType::Endpoint).is_active()
    }

    fn end_of_leading(&mut self) {
        self.back = None;
        self.lacks = None;
        for name in std::mem::take(&mut self.kept).into_keys() {
            self.kinds[ResourceType::Cluster.index()].changed(&name);
        }
    }

    /// The next response that is due. Clusters come before endpoints, these before listeners, and
    /// routes last.
    pub fn next_response(&mut self, published: &Published) -> Option<Response> {
        if self.back.is_some() && (!self.keeps_clusters() || self.has_newest_routes(published)) {
            self.end_of_leading();
        }
        for kind in ResourceType::ALL {
            let keep = kind == ResourceType::Cluster && self.keeps_clusters();
            if kind == ResourceType::Cluster && self.is_about_to_say_what_it_has() {
                continue;
            }
            if kind == ResourceType::Route
                && (self.routes_lag(published)
                    || self.routes_wait() && !self.is_ready_for_all(published))
            {
                continue;
            }
            let nonce = self.nonce + 1;
            let view = View {
                published,
                node: &self.node,
                listener: self.listener.as_ref(),
                kept: &self.kept,
            };
            let state = &mut self.kinds[kind.index()];
            let mut response = state.next_response(self.protocol, view, nonce, keep);
            if response.is_none() && self.beats & (1 << kind.index()) != 0 {
                response = state.heartbeat(view, nonce);
            }
            self.beats &= !(1 << kind.index());
            let Some(mut response) = response else {
                continue;
            };
            self.nonce = nonce;
            response.ttl = self.ttl;
            if kind == ResourceType::Cluster && !response.is_heartbeat {
                for cluster in &response.resources {
                    self.force_endpoints(&cluster.name);
                }
            }
            self.spelling.write(&mut response);
            return Some(response);
        }
        None
    }

    /// Whether the client has asked for this type at all.
    pub fn wants(&self, kind: ResourceType) -> bool {
        self.kind(kind).is_active()
    }

    /// Whether the client wants this resource.
    pub fn follows(&self, kind: ResourceType, name: &str) -> bool {
        self.kind(kind).follows(name)
    }

    /// Whether the client may have the resource in any version.
    pub fn may_have(&self, kind: ResourceType, name: &str) -> bool {
        self.kind(kind).may_have(name)
    }

    /// The version that the client has acknowledged, if nothing else is on the way to it.
    pub fn acknowledged(&self, kind: ResourceType, name: &str) -> Option<Version> {
        self.kind(kind).acknowledged(name)
    }

    /// The version that the client was told last.
    pub fn told(&self, kind: ResourceType, name: &str) -> Option<Version> {
        self.kind(kind).told(name)
    }

    /// Whether everything that was sent of a type has been answered.
    pub fn is_idle(&self, kind: ResourceType) -> bool {
        self.kind(kind).is_idle()
    }

    /// What the client follows of a type and may see.
    pub fn following(&self, kind: ResourceType, published: &Published) -> Vec<Arc<str>> {
        let state = self.kind(kind);
        let mut names: Vec<Arc<str>> = state.names().cloned().collect();
        if state.is_wildcard() {
            let view = View {
                published,
                node: &self.node,
                listener: self.listener.as_ref(),
                kept: &self.kept,
            };
            names.extend(view.names(kind));
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What the node would be told under a name.
    pub fn current(
        &self,
        kind: ResourceType,
        name: &str,
        published: &Published,
    ) -> Option<Arc<Resource>> {
        let view = View {
            published,
            node: &self.node,
            listener: self.listener.as_ref(),
            kept: &self.kept,
        };
        view.get(kind, name).cloned()
    }

    /// Why the client refuses this version, if it does.
    pub fn refusal(&self, kind: ResourceType, name: &str, version: Version) -> Option<&str> {
        self.kind(kind).refusal(name, version)
    }

    /// The latest refusal of a type, whatever it was about, until it is acknowledged again.
    pub fn last_refusal(&self, kind: ResourceType) -> Option<&str> {
        self.kind(kind).last_refusal()
    }

    /// Generation of the routes that the client has acknowledged.
    pub fn route_generation(&self) -> u64 {
        self.kind(ResourceType::Route).generation()
    }

    /// Whether traffic may be sent to the cluster: the client has it and its published endpoints,
    /// or has no use for it. A client that takes all clusters must take their endpoints.
    pub fn is_ready_for(&self, cluster: &str, published: &Published) -> bool {
        let clusters = self.kind(ResourceType::Cluster);
        if clusters.is_active() {
            if !clusters.follows(cluster) {
                return true;
            }
            if clusters.acknowledged(cluster).is_none() {
                return false;
            }
        }
        self.has_endpoints_of(cluster, published)
    }

    /// Whether the client has the published endpoints of a cluster, or has no use for them.
    pub fn has_endpoints_of(&self, cluster: &str, published: &Published) -> bool {
        let endpoints = self.kind(ResourceType::Endpoint);
        if !endpoints.is_active() {
            return true;
        }
        if !endpoints.follows(cluster) {
            // One that takes all clusters is about to ask.
            return !self.kind(ResourceType::Cluster).is_wildcard();
        }
        let wanted = published
            .endpoints
            .get(cluster)
            .map(|resource| resource.version);
        wanted.is_none() || endpoints.acknowledged(cluster) == wanted
    }

    /// Whether the client has routes of a service at least as new as the generation, or wants none.
    /// `own` is the name of the service's own route configuration.
    pub fn has_routes(&self, generation: u64, own: &str, published: &Published) -> bool {
        let routes = self.kind(ResourceType::Route);
        if !routes.is_active() {
            return true;
        }
        let all = !routes.follows(api::xds::ROUTE_CONFIG)
            || routes.generation() >= generation
            || routes.acknowledged(api::xds::ROUTE_CONFIG) == Some(published.routes.version);
        all && (!routes.follows(own) || {
            let wanted = published.other_routes.get(own).map(|own| own.version);
            wanted.is_none() || routes.acknowledged(own) == wanted
        })
    }

    /// Whether a client that follows the routes of single services has what those of one (`own`)
    /// send traffic to. It asks for a cluster when it has the routes that name it, and goes on with
    /// the routes before until it has the cluster, too. One that takes all clusters has them first.
    pub fn has_taken_up(&self, cluster: &str, own: &str, published: &Published) -> bool {
        let clusters = self.kind(ResourceType::Cluster);
        if !clusters.is_active()
            || clusters.is_wildcard()
            || !self.kind(ResourceType::Route).follows(own)
        {
            return true;
        }
        if clusters.acknowledged(cluster).is_none() {
            return false;
        }
        let endpoints = self.kind(ResourceType::Endpoint);
        let wanted = published.endpoints.get(cluster);
        !endpoints.is_active()
            || wanted.is_none_or(|wanted| endpoints.acknowledged(cluster) == Some(wanted.version))
    }

    /// Whether the client is ready for every cluster that the routes name which it follows.
    fn is_ready_for_all(&mut self, published: &Published) -> bool {
        if let Some(name) = &self.lacks
            && published.get(ResourceType::Cluster, name).is_some()
            && !self.is_ready_for(name, published)
        {
            return false;
        }
        let routes = self.kind(ResourceType::Route);
        let all = routes.follows(api::xds::ROUTE_CONFIG);
        let follows =
            |service: &str| all || routes.follows(&api::xds::service_route_config(service));
        let lacks = published
            .named
            .iter()
            .filter(|(service, _)| follows(service.as_str()))
            .flat_map(|(_, clusters)| clusters)
            .find(|cluster| !self.is_ready_for(cluster, published));
        self.lacks = lacks.cloned();
        self.lacks.is_none()
    }

    /// Whether the client has the newest of the routes that it asks for. While these are held for a
    /// canary it is led: it may neither be sent those before, nor the newest before their clusters.
    fn has_newest_routes(&self, published: &Published) -> bool {
        let routes = self.kind(ResourceType::Route);
        if !routes.is_active() {
            return false;
        }
        let mut names = routes.names().peekable();
        names.peek().is_some()
            && names.all(|name| {
                let kind = ResourceType::Route;
                let newest = published.get(kind, name).map(|newest| newest.version);
                let seen = published.visible(kind, name, &self.node);
                newest.is_some()
                    && seen.map(|seen| seen.version) == newest
                    && routes.acknowledged(name) == newest
            })
    }
}
