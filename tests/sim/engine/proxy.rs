//! A proxy that behaves as Envoy does: it applies what it is sent after a while, goes on with what
//! it has when its stream is lost, and counts what it does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use api::envoy::envoy::config::core::v3::{address::Address, socket_address::PortSpecifier};
use api::envoy::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier,
};
use api::envoy::envoy::config::route::v3::{
    RouteConfiguration, VirtualHost, route::Action, route_action::ClusterSpecifier,
};
use domain::{Counts, Endpoint, NodeId};
use prost::Message as _;
use xds_server::gate::{Gate, StreamId};
use xds_server::resources::ResourceType;
use xds_server::stream::{Protocol, Request, Response, Stream};

use super::rng::Rng;

/// A cluster and its share of a service's requests.
type Share = (String, u32);

/// What a proxy is told, by whichever way.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: ResourceType,
    pub(crate) nonce: String,
    pub(crate) items: Vec<Item>,
    pub(crate) removed: Vec<String>,
}

/// A resource as it is on the wire.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) value: Vec<u8>,
}

impl From<Response> for Message {
    fn from(response: Response) -> Self {
        let item = |resource: &std::sync::Arc<xds_server::resources::Resource>| Item {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            value: resource.any.value.clone(),
        };
        Self {
            kind: response.kind,
            nonce: response.nonce,
            items: response.resources.iter().map(item).collect(),
            removed: response.removed.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) node: NodeId,
    pub(crate) protocol: Protocol,
    pub(crate) stream: Option<StreamId>,
    /// When it tries to connect, while it is not.
    pub(crate) connects_at: Option<u64>,
    inbox: VecDeque<(u64, Message)>,
    /// What it says, until somebody takes it to the control plane.
    pub(crate) out: Vec<(ResourceType, Request)>,
    pub(crate) versions: BTreeMap<(ResourceType, String), String>,
    pub(crate) endpoints: BTreeMap<String, BTreeSet<Endpoint>>,
    /// By service.
    pub(crate) routes: BTreeMap<String, Vec<Share>>,
    nonces: BTreeMap<ResourceType, String>,
    wants_routes: bool,
    /// Whether it takes requests: not from its restart until it has routes.
    pub(crate) serves: bool,
    /// Its load reports.
    pub(crate) session: u64,
    pub(crate) reports: u64,
    pub(crate) counts: BTreeMap<String, Counts>,
    pub(crate) rng: Rng,
    pub(crate) next_request: u64,
}

impl Proxy {
    pub(crate) fn new(name: &str, protocol: Protocol, rng: Rng) -> Option<Self> {
        Some(Self {
            node: NodeId::new(name).ok()?,
            protocol,
            stream: None,
            connects_at: None,
            inbox: VecDeque::new(),
            out: Vec::new(),
            versions: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            routes: BTreeMap::new(),
            nonces: BTreeMap::new(),
            wants_routes: false,
            serves: true,
            session: 1,
            reports: 0,
            counts: BTreeMap::new(),
            rng,
            next_request: 1_000,
        })
    }

    /// Opens a stream at the gate and says what it has.
    pub(crate) fn connect(&mut self, gate: &mut Gate, id: StreamId) {
        gate.connect(id, Stream::new(self.node.clone(), self.protocol, None));
        self.begin(id);
        self.deliver(gate);
    }

    /// A stream is open: says what it has.
    pub(crate) fn begin(&mut self, id: StreamId) {
        self.stream = Some(id);
        self.connects_at = None;
        self.inbox.clear();
        self.out.clear();
        self.nonces.clear();
        // A new stream of load reports begins at zero.
        self.session += 1;
        self.reports = 0;
        for counts in self.counts.values_mut() {
            let in_progress = counts.in_progress;
            *counts = Counts {
                in_progress,
                ..Counts::default()
            };
        }
        self.ask(ResourceType::Cluster, Vec::new());
        let names = self.clusters();
        if !names.is_empty() {
            self.ask(ResourceType::Endpoint, names);
        }
        if self.wants_routes {
            self.ask_for_routes();
        }
    }

    /// Takes what it says to the gate.
    fn deliver(&mut self, gate: &mut Gate) {
        if let Some(id) = self.stream {
            for (kind, request) in self.out.drain(..) {
                // No client of this world comes near the limits.
                let _ = gate.request(id, kind, request);
            }
        }
    }

    /// Its process starts anew and has nothing: no routes, and no requests in progress.
    pub(crate) fn restart(&mut self) {
        self.lose_stream();
        self.versions.clear();
        self.endpoints.clear();
        self.routes.clear();
        self.counts.clear();
        self.wants_routes = false;
        self.serves = false;
    }

    /// Its stream is gone; its routes stay.
    pub(crate) fn lose_stream(&mut self) -> Option<StreamId> {
        self.inbox.clear();
        self.out.clear();
        self.stream.take()
    }

    /// A message arrives, to be applied at `due` or after those before it.
    pub(crate) fn receive(&mut self, due: u64, message: Message) {
        let last = self.inbox.back().map_or(0, |(due, _)| *due);
        self.inbox.push_back((due.max(last), message));
    }

    fn clusters(&self) -> Vec<String> {
        let clusters = self
            .versions
            .keys()
            .filter(|(kind, _)| *kind == ResourceType::Cluster);
        clusters.map(|(_, name)| name.clone()).collect()
    }

    fn send(&mut self, kind: ResourceType, request: Request) {
        self.out.push((kind, request));
    }

    fn ask_for_routes(&mut self) {
        let names = vec![api::xds::ROUTE_CONFIG.to_owned()];
        self.ask(ResourceType::Route, names);
    }

    fn ask(&mut self, kind: ResourceType, names: Vec<String>) {
        let first = !self.nonces.contains_key(&kind);
        let nonce = self.nonces.entry(kind).or_default().clone();
        let mut known = self.versions.iter().filter(|((of, _), _)| *of == kind);
        let request = match self.protocol {
            Protocol::StateOfTheWorld => Request::World {
                names,
                version: known
                    .next_back()
                    .map(|(_, v)| v.clone())
                    .unwrap_or_default(),
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
        self.send(kind, request);
    }

    fn acknowledge(&mut self, message: &Message) {
        let kind = message.kind;
        let nonce = message.nonce.clone();
        self.nonces.insert(kind, nonce.clone());
        let request = match self.protocol {
            Protocol::StateOfTheWorld => Request::World {
                names: match kind {
                    ResourceType::Cluster | ResourceType::Listener | ResourceType::Secret => {
                        Vec::new()
                    }
                    ResourceType::Endpoint => self.clusters(),
                    ResourceType::Route => vec![api::xds::ROUTE_CONFIG.to_owned()],
                },
                version: String::new(),
                nonce,
                error: None,
            },
            Protocol::Delta => Request::Delta {
                subscribe: Vec::new(),
                unsubscribe: Vec::new(),
                initial: Vec::new(),
                nonce,
                error: None,
            },
        };
        self.send(kind, request);
    }

    /// Applies the next message that is due, and takes the answer to the gate. `false` when there
    /// is none.
    pub(crate) fn step_at(&mut self, gate: &mut Gate, now: u64) -> bool {
        let applied = self.step(now);
        self.deliver(gate);
        applied
    }

    /// Applies the next message that is due. `false` when there is none.
    pub(crate) fn step(&mut self, now: u64) -> bool {
        if self.inbox.front().is_none_or(|(due, _)| *due > now) {
            return false;
        }
        let Some((_, message)) = self.inbox.pop_front() else {
            return false;
        };
        let before: BTreeSet<String> = self.clusters().into_iter().collect();
        self.take_in(&message);
        let after: BTreeSet<String> = self.clusters().into_iter().collect();
        self.endpoints.retain(|name, _| after.contains(name));
        self.versions
            .retain(|(of, name), _| *of != ResourceType::Endpoint || after.contains(name));
        self.acknowledge(&message);
        if message.kind == ResourceType::Cluster {
            self.ask_for_endpoints(&before, &after);
        }
        if !self.wants_routes && after.iter().all(|name| self.endpoints.contains_key(name)) {
            self.wants_routes = true;
            self.ask_for_routes();
        }
        true
    }

    fn take_in(&mut self, message: &Message) {
        let kind = message.kind;
        if kind == ResourceType::Cluster && self.protocol == Protocol::StateOfTheWorld {
            self.versions.retain(|(of, _), _| *of != kind);
        }
        for name in &message.removed {
            self.versions.remove(&(kind, name.clone()));
        }
        for item in &message.items {
            let key = (kind, item.name.clone());
            self.versions.insert(key, item.version.clone());
            match kind {
                ResourceType::Endpoint => {
                    self.endpoints
                        .insert(item.name.clone(), addresses(&item.value));
                }
                ResourceType::Route => {
                    self.routes = shares(&item.value);
                    self.serves = true;
                }
                ResourceType::Cluster | ResourceType::Listener | ResourceType::Secret => {}
            }
        }
    }

    fn ask_for_endpoints(&mut self, before: &BTreeSet<String>, after: &BTreeSet<String>) {
        let kind = ResourceType::Endpoint;
        match self.protocol {
            Protocol::StateOfTheWorld if before != after => {
                self.ask(kind, after.iter().cloned().collect());
            }
            Protocol::StateOfTheWorld => {}
            Protocol::Delta => {
                let request = Request::Delta {
                    subscribe: after.difference(before).cloned().collect(),
                    unsubscribe: before.difference(after).cloned().collect(),
                    initial: Vec::new(),
                    nonce: String::new(),
                    error: None,
                };
                self.send(kind, request);
                self.nonces.entry(kind).or_default();
            }
        }
    }

    /// Where it may send a request now.
    pub(crate) fn feeds(&self) -> impl Iterator<Item = (&str, Endpoint)> {
        let shares = self
            .routes
            .values()
            .flatten()
            .filter(|(_, weight)| *weight > 0);
        shares.flat_map(|(cluster, _)| {
            let endpoints = self.endpoints.get(cluster).into_iter().flatten();
            endpoints.map(move |endpoint| (cluster.as_str(), *endpoint))
        })
    }

    /// What it routes to and has no endpoint for, in words.
    pub(crate) fn lacks(&self) -> String {
        let shares = self.routes.values().flatten();
        let lacks = shares.filter(|(cluster, weight)| {
            *weight > 0 && self.endpoints.get(cluster).is_none_or(BTreeSet::is_empty)
        });
        let protocol = self.protocol;
        let names: Vec<_> = lacks.map(|(cluster, _)| cluster.as_str()).collect();
        format!("{} ({protocol:?})", names.join(", "))
    }

    /// Chooses where a request for a service goes.
    pub(crate) fn choose(&mut self, service: &str) -> Option<(String, Endpoint)> {
        let shares = self.routes.get(service)?;
        let total: u32 = shares.iter().map(|(_, weight)| weight).sum();
        let mut left = self.rng.between(0, u64::from(total.max(1)));
        let cluster = shares.iter().find_map(|(cluster, weight)| {
            let weight = u64::from(*weight);
            if left < weight {
                return Some(cluster.clone());
            }
            left -= weight;
            None
        })?;
        let endpoints = self.endpoints.get(&cluster)?;
        let index = self.rng.index(endpoints.len());
        let endpoint = *endpoints.iter().nth(index)?;
        Some((cluster, endpoint))
    }
}

fn addresses(value: &[u8]) -> BTreeSet<Endpoint> {
    let assignment = ClusterLoadAssignment::decode(value);
    let localities = assignment.unwrap_or_default().endpoints;
    let endpoints = localities
        .into_iter()
        .flat_map(|locality| locality.lb_endpoints);
    endpoints.filter_map(address).collect()
}

fn address(endpoint: LbEndpoint) -> Option<Endpoint> {
    let Some(HostIdentifier::Endpoint(endpoint)) = endpoint.host_identifier else {
        return None;
    };
    let Some(Address::SocketAddress(socket)) = endpoint.address?.address else {
        return None;
    };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return None;
    };
    let ip: std::net::IpAddr = socket.address.parse().ok()?;
    Some(Endpoint((ip, u16::try_from(port).ok()?).into()))
}

fn shares(value: &[u8]) -> BTreeMap<String, Vec<Share>> {
    let routes = RouteConfiguration::decode(value).unwrap_or_default();
    let hosts = routes.virtual_hosts.into_iter();
    hosts
        .map(|host| (host.name.clone(), of_host(host)))
        .collect()
}

/// The last route of a host takes every request that those before it leave.
fn of_host(host: VirtualHost) -> Vec<Share> {
    let Some(Action::Route(action)) = host.routes.into_iter().next_back().and_then(|r| r.action)
    else {
        return Vec::new();
    };
    match action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![(name, 10_000)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted
            .clusters
            .into_iter()
            .map(|cluster| (cluster.name, cluster.weight.map_or(0, |w| w.value)))
            .collect(),
        Some(_) | None => Vec::new(),
    }
}
