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
//! - A refused version is never sent again on the stream.
//! - A cluster that is sent is followed by its endpoints, even unchanged ones: a client does not
//!   ask again for those of a changed cluster, and would wait in vain.
//! - A client that comes back keeps clusters that are gone until it has the new routes, and gets
//!   these when it has the clusters that they name (for a few seconds; then it gets what there is).

mod kind_state;
mod message;
mod published;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use domain::NodeId;

use crate::resources::{Resource, ResourceType, Version};
use kind_state::{KindState, View};
pub use kind_state::{LimitExceeded, MAX_NAMES};
pub use message::{Protocol, Refusal, Request, Response};
pub use published::Published;

/// For how many ticks a client that came back is led over, make before break.
const TICKS_TO_LEAD: u8 = 3;

/// One discovery stream.
#[derive(Debug)]
pub struct Stream {
    /// Who is at the other end.
    pub node: NodeId,
    protocol: Protocol,
    listener: Option<Arc<Resource>>,
    kinds: [KindState; 4],
    nonce: u64,
    /// Ticks left in which routes wait for their clusters, and removals of clusters for the routes.
    leading: u8,
}

const fn index(kind: ResourceType) -> usize {
    match kind {
        ResourceType::Cluster => 0,
        ResourceType::Endpoint => 1,
        ResourceType::Listener => 2,
        ResourceType::Route => 3,
    }
}

impl Stream {
    /// A stream on which nothing has been said yet.
    pub fn new(node: NodeId, protocol: Protocol, listener: Option<Arc<Resource>>) -> Self {
        let kinds = ResourceType::ALL.map(KindState::new);
        Self {
            node,
            protocol,
            listener,
            kinds,
            nonce: 0,
            leading: 0,
        }
    }

    fn kind(&self, kind: ResourceType) -> &KindState {
        &self.kinds[index(kind)]
    }

    /// Takes a request in. Gives back what the client refuses, if it does.
    ///
    /// # Errors
    /// [`LimitExceeded`] when the client wants more than it may; the stream must be closed.
    pub fn request(
        &mut self,
        kind: ResourceType,
        request: Request,
        published: &Published,
    ) -> Result<Option<Refusal>, LimitExceeded> {
        let view = View {
            published,
            listener: self.listener.as_ref(),
        };
        let state = &mut self.kinds[index(kind)];
        if kind == ResourceType::Cluster && !state.is_active() && request.has_initial_versions() {
            self.leading = TICKS_TO_LEAD;
        }
        state.request(request, view)
    }

    /// Says that a published resource changed, came or went.
    pub fn changed(&mut self, kind: ResourceType, name: &Arc<str>) {
        self.kinds[index(kind)].changed(name);
    }

    /// Lets time pass: about a second.
    pub fn tick(&mut self) {
        self.leading = self.leading.saturating_sub(1);
    }

    /// The next response that is due. Clusters come before endpoints, these before listeners, and
    /// routes last.
    pub fn next_response(&mut self, published: &Published) -> Option<Response> {
        if self.leading > 0 && self.has_newest_routes(published) {
            self.leading = 0;
        }
        let view = View {
            published,
            listener: self.listener.as_ref(),
        };
        for kind in ResourceType::ALL {
            let keep = kind == ResourceType::Cluster && self.leading > 0;
            if kind == ResourceType::Route && self.leading > 0 && !self.is_ready_for_all(published)
            {
                continue;
            }
            let nonce = self.nonce + 1;
            let state = &mut self.kinds[index(kind)];
            let Some(response) = state.next_response(self.protocol, view, nonce, keep) else {
                continue;
            };
            self.nonce = nonce;
            if kind == ResourceType::Cluster {
                for cluster in &response.resources {
                    self.kinds[index(ResourceType::Endpoint)].force(&cluster.name);
                }
            }
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

    /// Whether the client has routes at least as new as the generation, or wants none.
    pub fn has_routes(&self, generation: u64, published: &Published) -> bool {
        let routes = self.kind(ResourceType::Route);
        !routes.follows(api::xds::ROUTE_CONFIG)
            || routes.generation() >= generation
            || routes.acknowledged(api::xds::ROUTE_CONFIG) == Some(published.routes.version)
    }

    fn is_ready_for_all(&self, published: &Published) -> bool {
        published
            .named
            .iter()
            .all(|cluster| self.is_ready_for(cluster, published))
    }

    fn has_newest_routes(&self, published: &Published) -> bool {
        self.follows(ResourceType::Route, api::xds::ROUTE_CONFIG)
            && self.has_routes(published.generation, published)
    }
}
