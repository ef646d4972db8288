//! A simulated fleet: clients that behave as Envoy does, and check at every message that they route
//! to nothing that they lack.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use api::envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use api::envoy::envoy::config::route::v3::{
    RouteConfiguration, route::Action, route_action::ClusterSpecifier,
};
use domain::{NodeId, RoutingState};
use foreshadow_xds_server::gate::{Gate, StreamId};
use foreshadow_xds_server::input::Inputs;
use foreshadow_xds_server::resources::{Resource, ResourceType};
use foreshadow_xds_server::stream::{Protocol, Request, Response, Stream};
use prost::Message as _;

use super::world::Scene;

/// A client that behaves as Envoy does.
pub struct Client {
    pub id: StreamId,
    pub node: NodeId,
    pub protocol: Protocol,
    pub inbox: VecDeque<Response>,
    pub versions: BTreeMap<(ResourceType, String), String>,
    pub endpoints: BTreeMap<String, usize>,
    pub routes: Vec<(String, u32)>,
    pub nonces: BTreeMap<ResourceType, String>,
    /// Versions of the whole, in the state-of-the-world form.
    pub wholes: BTreeMap<ResourceType, String>,
    pub wants_routes: bool,
    pub is_away: bool,
    /// Versions that it refuses, by type.
    pub refuses: Option<(ResourceType, String)>,
    pub seen: Vec<(ResourceType, String, String)>,
}

impl Client {
    pub fn new(id: u64, node: &str, protocol: Protocol) -> Self {
        Self {
            id: StreamId(id),
            node: NodeId::new(node).unwrap(),
            protocol,
            inbox: VecDeque::new(),
            versions: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            routes: Vec::new(),
            nonces: BTreeMap::new(),
            wholes: BTreeMap::new(),
            wants_routes: false,
            is_away: false,
            refuses: None,
            seen: Vec::new(),
        }
    }

    pub fn connect(&mut self, gate: &mut Gate) {
        self.is_away = false;
        gate.connect(self.id, Stream::new(self.node.clone(), self.protocol, None));
        self.ask(gate, ResourceType::Cluster, Vec::new());
        let names = self.clusters();
        if !names.is_empty() {
            self.ask(gate, ResourceType::Endpoint, names);
        }
        if self.wants_routes {
            self.ask(
                gate,
                ResourceType::Route,
                vec![api::xds::ROUTE_CONFIG.to_owned()],
            );
        }
    }

    /// Loses the stream; what is on the way is lost.
    pub fn lose(&mut self, gate: &mut Gate) {
        gate.disconnect(self.id);
        self.inbox.clear();
        self.nonces.clear();
        self.is_away = true;
    }

    /// Loses the stream and comes back on another.
    pub fn reconnect(&mut self, gate: &mut Gate, id: u64) {
        self.lose(gate);
        self.id = StreamId(id);
        self.connect(gate);
    }

    pub fn clusters(&self) -> Vec<String> {
        let clusters = self
            .versions
            .keys()
            .filter(|(kind, _)| *kind == ResourceType::Cluster);
        clusters.map(|(_, name)| name.clone()).collect()
    }

    pub fn ask(&mut self, gate: &mut Gate, kind: ResourceType, names: Vec<String>) {
        let first = !self.nonces.contains_key(&kind);
        let nonce = self.nonces.entry(kind).or_default().clone();
        let known = self.versions.iter().filter(|((of, _), _)| *of == kind);
        let request = match self.protocol {
            Protocol::StateOfTheWorld => Request::World {
                names,
                // As Envoy does, it says what it has, also on a new stream.
                version: self.wholes.get(&kind).cloned().unwrap_or_default(),
                nonce,
                error: None,
            },
            Protocol::Delta => Request::Delta {
                subscribe: names,
                unsubscribe: Vec::new(),
                initial: if first {
                    known
                        .map(|((_, name), version)| (name.clone(), version.clone()))
                        .collect()
                } else {
                    Vec::new()
                },
                nonce: String::new(),
                error: None,
            },
        };
        gate.request(self.id, kind, request).unwrap();
    }

    pub fn answer(&mut self, gate: &mut Gate, response: &Response, error: Option<String>) {
        let kind = response.kind;
        self.nonces.insert(kind, response.nonce.clone());
        let nonce = response.nonce.clone();
        let request = match self.protocol {
            Protocol::StateOfTheWorld => {
                let names = match kind {
                    ResourceType::Cluster | ResourceType::Listener | ResourceType::Secret => {
                        Vec::new()
                    }
                    ResourceType::Endpoint => self.clusters(),
                    ResourceType::Route => vec![api::xds::ROUTE_CONFIG.to_owned()],
                };
                Request::World {
                    names,
                    version: String::new(),
                    nonce,
                    error,
                }
            }
            Protocol::Delta => Request::Delta {
                subscribe: Vec::new(),
                unsubscribe: Vec::new(),
                initial: Vec::new(),
                nonce,
                error,
            },
        };
        gate.request(self.id, kind, request).unwrap();
    }

    /// Applies the next message and answers it. `false` when there is none.
    pub fn step(&mut self, gate: &mut Gate) -> bool {
        let Some(response) = self.inbox.pop_front() else {
            return false;
        };
        let kind = response.kind;
        for resource in &response.resources {
            let version = resource.version.to_string();
            self.seen
                .push((kind, resource.name.to_string(), version.clone()));
            if self.refuses == Some((kind, version)) {
                self.answer(gate, &response, Some(format!("{} is bad", resource.name)));
                return true;
            }
        }
        let before: BTreeSet<String> = self.clusters().into_iter().collect();
        if kind == ResourceType::Cluster && self.protocol == Protocol::StateOfTheWorld {
            self.versions.retain(|(of, _), _| *of != kind);
        }
        for name in &response.removed {
            self.versions.remove(&(kind, name.to_string()));
        }
        for resource in &response.resources {
            let key = (kind, resource.name.to_string());
            self.versions.insert(key, resource.version.to_string());
            self.apply(kind, resource);
        }
        let after: BTreeSet<String> = self.clusters().into_iter().collect();
        self.endpoints.retain(|name, _| after.contains(name));
        self.versions
            .retain(|(of, name), _| *of != ResourceType::Endpoint || after.contains(name));
        self.check();
        self.wholes.insert(kind, response.version.to_string());
        self.answer(gate, &response, None);
        if kind == ResourceType::Cluster {
            self.ask_for_endpoints(gate, &before, &after);
        }
        if !self.wants_routes && after.iter().all(|name| self.endpoints.contains_key(name)) {
            self.wants_routes = true;
            self.ask(
                gate,
                ResourceType::Route,
                vec![api::xds::ROUTE_CONFIG.to_owned()],
            );
        }
        true
    }

    pub fn ask_for_endpoints(
        &mut self,
        gate: &mut Gate,
        before: &BTreeSet<String>,
        after: &BTreeSet<String>,
    ) {
        let kind = ResourceType::Endpoint;
        match self.protocol {
            Protocol::StateOfTheWorld if before != after => {
                self.ask(gate, kind, after.iter().cloned().collect());
            }
            Protocol::StateOfTheWorld => {}
            Protocol::Delta => {
                let gone = before.difference(after).cloned().collect();
                let request = Request::Delta {
                    subscribe: after.difference(before).cloned().collect(),
                    unsubscribe: gone,
                    initial: Vec::new(),
                    nonce: String::new(),
                    error: None,
                };
                gate.request(self.id, kind, request).unwrap();
                self.nonces.entry(kind).or_default();
            }
        }
    }

    pub fn apply(&mut self, kind: ResourceType, resource: &Resource) {
        match kind {
            ResourceType::Endpoint => {
                let assignment =
                    ClusterLoadAssignment::decode(resource.any.value.as_slice()).unwrap();
                let count = assignment
                    .endpoints
                    .iter()
                    .map(|e| e.lb_endpoints.len())
                    .sum();
                self.endpoints.insert(resource.name.to_string(), count);
            }
            ResourceType::Route => self.routes = targets(resource),
            ResourceType::Cluster | ResourceType::Listener | ResourceType::Secret => {}
        }
    }

    /// What a user of this client relies on at every instant.
    pub fn check(&self) {
        let clusters = self.clusters();
        for (cluster, weight) in &self.routes {
            assert!(
                clusters.contains(cluster),
                "{} routes to {cluster}, which it lacks",
                self.node
            );
            let endpoints = self.endpoints.get(cluster);
            assert!(
                *weight == 0 || endpoints.is_some_and(|count| *count > 0),
                "{} sends traffic to {cluster}, which has no endpoint",
                self.node
            );
        }
        for (cluster, count) in self.endpoints.iter().filter(|(name, _)| name.contains('~')) {
            assert!(
                *count <= 1,
                "{cluster} mixes the replicas of two migrations"
            );
        }
    }
}

pub fn targets(resource: &Resource) -> Vec<(String, u32)> {
    weights(RouteConfiguration::decode(resource.any.value.as_slice()).unwrap())
}

/// Clusters that routes name, with their weights.
pub fn weights(routes: RouteConfiguration) -> Vec<(String, u32)> {
    let routes = routes
        .virtual_hosts
        .into_iter()
        .flat_map(|host| host.routes);
    routes
        .flat_map(|route| {
            let Some(Action::Route(action)) = route.action else {
                panic!("no route action")
            };
            match action.cluster_specifier {
                Some(ClusterSpecifier::Cluster(name)) => vec![(name, 10_000)],
                Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted
                    .clusters
                    .into_iter()
                    .map(|cluster| (cluster.name, cluster.weight.map_or(0, |w| w.value)))
                    .collect(),
                other => panic!("unexpected {other:?}"),
            }
        })
        .collect()
}

pub struct Fleet {
    pub gate: Gate,
    pub clients: Vec<Client>,
    pub next: u64,
}

impl Fleet {
    pub fn new(inputs: &Inputs) -> Self {
        let mut gate = Gate::default();
        gate.set_inputs(inputs);
        let mut fleet = Self {
            gate,
            clients: Vec::new(),
            next: 1,
        };
        fleet.pump();
        fleet
    }

    pub fn connect(&mut self, protocol: Protocol) -> usize {
        let mut client = Client::new(self.next, &format!("node-{}", self.next), protocol);
        self.next += 1;
        client.connect(&mut self.gate);
        self.clients.push(client);
        self.pump();
        self.clients.len() - 1
    }

    pub fn pump(&mut self) {
        self.gate.advance();
        for id in self.gate.take_ready() {
            let client = self.clients.iter_mut().find(|client| client.id == id);
            let Some(client) = client else { continue };
            while let Some(response) = self.gate.next_response(id) {
                client.inbox.push_back(response);
            }
        }
    }

    pub fn set(&mut self, inputs: &Inputs) {
        self.gate.set_inputs(inputs);
        self.pump();
    }

    pub fn step(&mut self, index: usize) -> bool {
        let moved = self.clients[index].step(&mut self.gate);
        self.pump();
        moved
    }

    pub fn reconnect(&mut self, index: usize) {
        let id = self.next;
        self.next += 1;
        self.clients[index].reconnect(&mut self.gate, id);
        self.pump();
    }

    /// Everybody reads and answers until nothing is left to say.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let moved = (0..self.clients.len())
                .filter(|&index| self.step(index))
                .count();
            if moved == 0 {
                return;
            }
        }
        panic!("the fleet never comes to rest");
    }

    pub fn state(&self, scene: &Scene) -> RoutingState {
        self.gate.last_report(&scene.service.id).unwrap().state
    }
}
