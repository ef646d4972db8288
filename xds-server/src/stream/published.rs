//! What is published at this moment, and who may see it already.
//!
//! What is new is *held*: only its canaries see it, every other node still sees what was there
//! before. The gate releases it when a canary has acknowledged it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::{NodeId, ServiceId};

use crate::resources::{Resource, ResourceType, Resources, configuration};

/// A resource that only its canaries see.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The nodes that see it.
    pub canaries: BTreeSet<NodeId>,
    /// What every other node sees.
    pub previous: Option<Arc<Resource>>,
    /// For routes: the generation of `previous`.
    pub generation: u64,
    /// Ticks since the last canary was chosen.
    pub ticks: u32,
}

/// What is published at this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// Clusters by name.
    pub clusters: Arc<Resources>,
    /// Endpoints by the name of their cluster.
    pub endpoints: Arc<Resources>,
    /// Listeners that every node gets beside its own.
    pub listeners: Arc<Resources>,
    /// Listeners of clients without a proxy (gRPC), for those that ask by name.
    pub api_listeners: Arc<Resources>,
    /// The route configuration of all services.
    pub routes: Arc<Resource>,
    /// Route configurations of one service each, and others with a name of their own.
    pub other_routes: Arc<Resources>,
    /// Secrets by name.
    pub secrets: Arc<Resources>,
    /// The clusters that the routes of each service name.
    pub named: BTreeMap<ServiceId, BTreeSet<Arc<str>>>,
    /// Grows with every change of the routes.
    pub generation: u64,
    /// Whether newer routes are wanted, and wait for somebody.
    pub routes_lag: bool,
    held: [BTreeMap<Arc<str>, Held>; 5],
}

impl Default for Published {
    fn default() -> Self {
        Self {
            clusters: Arc::default(),
            endpoints: Arc::default(),
            listeners: Arc::default(),
            api_listeners: Arc::default(),
            routes: Arc::new(configuration([])),
            other_routes: Arc::default(),
            secrets: Arc::default(),
            named: BTreeMap::new(),
            generation: 1,
            routes_lag: false,
            held: Default::default(),
        }
    }
}

impl Published {
    /// What is published by type, apart from the route configuration of all services.
    pub const fn map(&self, kind: ResourceType) -> &Arc<Resources> {
        match kind {
            ResourceType::Cluster => &self.clusters,
            ResourceType::Endpoint => &self.endpoints,
            ResourceType::Listener => &self.listeners,
            ResourceType::Route => &self.other_routes,
            ResourceType::Secret => &self.secrets,
        }
    }

    fn map_mut(&mut self, kind: ResourceType) -> &mut Resources {
        Arc::make_mut(match kind {
            ResourceType::Cluster => &mut self.clusters,
            ResourceType::Endpoint => &mut self.endpoints,
            ResourceType::Listener => &mut self.listeners,
            ResourceType::Route => &mut self.other_routes,
            ResourceType::Secret => &mut self.secrets,
        })
    }

    /// Publishes a resource under its name. Gives what was there before.
    pub fn put(&mut self, kind: ResourceType, resource: Arc<Resource>) -> Option<Arc<Resource>> {
        let name = Arc::clone(&resource.name);
        self.map_mut(kind).insert(name, resource)
    }

    /// Takes a resource away. Gives what was there.
    pub fn take(&mut self, kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
        self.map(kind)
            .contains_key(name)
            .then(|| self.map_mut(kind).remove(name))
            .flatten()
    }

    /// What is published under a name, whoever may see it.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        if kind == ResourceType::Route && *self.routes.name == *name {
            return Some(&self.routes);
        }
        self.map(kind).get(name).or_else(|| {
            (kind == ResourceType::Listener)
                .then(|| self.api_listeners.get(name))
                .flatten()
        })
    }

    /// What a node sees under a name.
    pub fn visible(&self, kind: ResourceType, name: &str, node: &NodeId) -> Option<&Arc<Resource>> {
        match self.held(kind, name) {
            Some(held) if !held.canaries.contains(node) => held.previous.as_ref(),
            Some(_) | None => self.get(kind, name),
        }
    }

    /// Generation of the routes that a node sees.
    pub fn generation_for(&self, node: &NodeId) -> u64 {
        match self.held(ResourceType::Route, &self.routes.name) {
            Some(held) if !held.canaries.contains(node) => held.generation,
            Some(_) | None => self.generation,
        }
    }

    /// How a resource is held, if it is.
    pub fn held(&self, kind: ResourceType, name: &str) -> Option<&Held> {
        let held = &self.held[kind.index()];
        if held.is_empty() {
            return None;
        }
        held.get(name)
    }

    /// Whether anything of a type is held.
    pub fn holds_any(&self, kind: ResourceType) -> bool {
        !self.held[kind.index()].is_empty()
    }

    /// Everything that is held.
    pub fn all_held(&self) -> impl Iterator<Item = (ResourceType, &Arc<str>, &Held)> {
        ResourceType::ALL.into_iter().flat_map(|kind| {
            self.held[kind.index()]
                .iter()
                .map(move |(name, held)| (kind, name, held))
        })
    }

    /// Holds a resource.
    pub fn hold(&mut self, kind: ResourceType, name: Arc<str>, held: Held) {
        self.held[kind.index()].insert(name, held);
    }

    /// A held resource, to be changed.
    pub fn held_mut(&mut self, kind: ResourceType, name: &str) -> Option<&mut Held> {
        self.held[kind.index()].get_mut(name)
    }

    /// Lets every node see a resource.
    pub fn release(&mut self, kind: ResourceType, name: &str) -> Option<Held> {
        self.held[kind.index()].remove(name)
    }
}
