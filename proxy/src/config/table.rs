//! The table that requests are routed by.
//!
//! A table never changes; a new one replaces it, and a request uses the one that it began with to
//! its end. What must outlive a table is shared between them: counters, the turn of the next
//! request, and what is known of an endpoint's health.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::domains::DomainMap;
use super::resources::{Held, Resources};
use super::spec::{Assignment, ClusterSpec, HashHeader, HoldSpec, HostSpec, MirrorSpec, RouteSpec};
use crate::hold::Flight;
use crate::pairs::Book;
use crate::select::{Sequence, Suspicion, Turn};
use crate::telemetry::{Counters, Registry};

/// The table that requests are routed by.
#[derive(Debug, Default)]
pub struct RoutingTable {
    hosts: DomainMap<Arc<VirtualHost>>,
    clusters: BTreeMap<String, Arc<Cluster>>,
    turns: HashMap<String, Turn>,
    flights: HashMap<String, Flight>,
    /// How many tables have been in force before.
    pub revision: u64,
}

/// A virtual host.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: String,
    /// Its routes, in order.
    pub routes: Vec<Arc<Route>>,
    /// Requests under way that may change something.
    pub(crate) flight: Flight,
}

/// A route.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    prefix: String,
    methods: Option<Vec<http::Method>>,
    /// Clusters and weights.
    pub targets: Vec<Target>,
    /// Headers that choose the cluster.
    pub sticky: Vec<HashHeader>,
    /// Whose turn it is when no header chooses.
    pub sequence: Sequence,
    /// How long a request may take.
    pub timeout: Option<Duration>,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
    /// Requests wait.
    pub hold: Option<HoldSpec>,
}

/// A cluster of a route.
#[derive(Debug)]
pub struct Target {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Its weight.
    pub weight: u32,
}

/// A destination of copies.
#[derive(Debug)]
pub struct Mirror {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// How many of how many requests are copied.
    pub copied: u32,
    /// Whether the copy is, in turn.
    pub sequence: Sequence,
    /// Whether the copy's authority is the original's.
    pub same_authority: bool,
    /// Whose answers its answers are compared with.
    pub(crate) pair: Option<Pair>,
}

/// The other side of a shadow.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Index of the original's target.
    pub(crate) original: usize,
    /// What was found so far.
    pub(crate) book: Arc<Book>,
}

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    /// What is said about it.
    pub spec: Arc<ClusterSpec>,
    /// Its endpoints.
    pub endpoints: Arc<EndpointSet>,
    /// What it did.
    pub counters: Arc<Counters>,
}

/// The endpoints of a cluster.
#[derive(Debug)]
pub struct EndpointSet {
    assignment: Arc<Assignment>,
    /// The endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Whose turn it is.
    pub sequence: Sequence,
}

/// An endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it answers.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u32,
    /// Whether connecting to it failed of late.
    pub suspicion: Arc<Suspicion>,
}

impl RoutingTable {
    /// Resolves the names of accepted resources. Clusters that are missing (which [`Resources`]
    /// never lets happen) leave their routes out.
    pub fn link(resources: &Resources, before: &Self, registry: &Registry) -> Self {
        let mut clusters = BTreeMap::new();
        for (name, held) in &resources.clusters {
            let assignment = resources.endpoints.get(&held.spec.endpoints);
            let cluster = Cluster {
                spec: Arc::clone(&held.spec),
                endpoints: endpoint_set(assignment, before.clusters.get(name)),
                counters: registry.counters(name),
            };
            clusters.insert(name.clone(), Arc::new(cluster));
        }
        let mut table = Self {
            clusters,
            revision: before.revision + 1,
            ..Self::default()
        };
        for host in resources.routes.iter().flat_map(|held| &held.spec.hosts) {
            table.add_host(host, before, registry);
        }
        table
    }

    fn add_host(&mut self, spec: &HostSpec, before: &Self, registry: &Registry) {
        let mut routes = Vec::with_capacity(spec.routes.len());
        for route in &spec.routes {
            let route = self.route(&spec.name, route, before, registry);
            routes.extend(route.map(Arc::new));
        }
        let host = Arc::new(VirtualHost {
            name: spec.name.clone(),
            routes,
            flight: before.flights.get(&spec.name).cloned().unwrap_or_default(),
        });
        let flight = host.flight.clone();
        self.flights.insert(spec.name.clone(), flight);
        for domain in &spec.domains {
            if let Err(reason) = self.hosts.insert(domain, Arc::clone(&host)) {
                tracing::warn!(domain, reason, "domain left out");
            }
        }
    }

    fn route(
        &mut self,
        host: &str,
        spec: &RouteSpec,
        before: &Self,
        registry: &Registry,
    ) -> Option<Route> {
        let mut targets = Vec::with_capacity(spec.targets.len());
        for target in &spec.targets {
            let cluster = Arc::clone(self.clusters.get(&target.cluster)?);
            targets.push(Target {
                cluster,
                weight: target.weight,
            });
        }
        let mut mirrors = Vec::with_capacity(spec.mirrors.len());
        for mirror in &spec.mirrors {
            mirrors.push(self.mirror(host, spec, mirror, before, registry)?);
        }
        let total = targets.iter().map(|target| u64::from(target.weight)).sum();
        let turn = self.turn(format!("{host}\n{}", spec.name), before);
        let methods = spec.methods.as_ref().map(|methods| {
            methods
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect()
        });
        Some(Route {
            name: spec.name.clone(),
            prefix: spec.prefix.clone(),
            methods,
            targets,
            sticky: spec.sticky.clone(),
            sequence: Sequence::new(total, turn),
            timeout: spec.timeout,
            mirrors,
            hold: spec.hold,
        })
    }

    fn mirror(
        &mut self,
        host: &str,
        route: &RouteSpec,
        spec: &MirrorSpec,
        before: &Self,
        registry: &Registry,
    ) -> Option<Mirror> {
        let cluster = Arc::clone(self.clusters.get(&spec.cluster)?);
        let original = api::xds::original_of(&spec.cluster);
        let original = original.and_then(|original| {
            let mut targets = route.targets.iter();
            targets.position(|target| target.cluster == original)
        });
        let pair = original.map(|original| Pair {
            original,
            book: registry.book(&spec.cluster),
        });
        let turn = self.turn(format!("{host}\n{}\n{}", route.name, spec.cluster), before);
        Some(Mirror {
            cluster,
            copied: spec.copied,
            sequence: Sequence::new(u64::from(spec.out_of), turn),
            same_authority: spec.same_authority,
            pair,
        })
    }

    fn turn(&mut self, key: String, before: &Self) -> Turn {
        let turn = before.turns.get(&key).cloned().unwrap_or_default();
        self.turns.insert(key, Turn::clone(&turn));
        turn
    }

    /// The virtual host of an authority.
    pub fn host(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        self.hosts.get(authority)
    }

    /// What is under way at hosts of which requests are held.
    pub(crate) fn held_flights(&self) -> Vec<Flight> {
        let holds = |host: &&Arc<VirtualHost>| host.routes.iter().any(|one| one.hold.is_some());
        let hosts = self.hosts.values().filter(holds);
        hosts.map(|host| host.flight.clone()).collect()
    }

    /// Routes with their clusters and weights, for people.
    pub fn describe_routes(&self) -> serde_json::Value {
        let mut hosts = serde_json::Map::new();
        for host in self.hosts.values() {
            let routes = host.routes.iter().map(|route| {
                let weights = route.targets.iter();
                let weights = weights.map(|target| (target.cluster.name(), target.weight));
                serde_json::json!({
                    "name": route.name,
                    "prefix": route.prefix,
                    "held": route.hold.is_some(),
                    "weights": weights.collect::<BTreeMap<_, _>>(),
                    "mirrors": route.mirrors.iter().map(|m| m.cluster.name()).collect::<Vec<_>>(),
                })
            });
            hosts.insert(host.name.clone(), routes.collect());
        }
        hosts.into()
    }

    /// The clusters by name.
    pub const fn clusters(&self) -> &BTreeMap<String, Arc<Cluster>> {
        &self.clusters
    }
}

impl VirtualHost {
    /// The first route that matches.
    pub fn route(&self, method: &http::Method, path: &[u8]) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.matches(method, path))
    }
}

impl Route {
    fn matches(&self, method: &http::Method, path: &[u8]) -> bool {
        path.starts_with(self.prefix.as_bytes())
            && self
                .methods
                .as_ref()
                .is_none_or(|methods| methods.contains(method))
    }
}

impl Cluster {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }
}

fn endpoint_set(
    assignment: Option<&Held<Assignment>>,
    before: Option<&Arc<Cluster>>,
) -> Arc<EndpointSet> {
    let assignment = assignment
        .map(|held| Arc::clone(&held.spec))
        .unwrap_or_default();
    if let Some(before) = before
        && before.endpoints.assignment == assignment
    {
        return Arc::clone(&before.endpoints);
    }
    let known: HashMap<SocketAddr, &Arc<Endpoint>> = before
        .iter()
        .flat_map(|cluster| &cluster.endpoints.endpoints)
        .map(|endpoint| (endpoint.address, endpoint))
        .collect();
    let endpoints: Vec<Arc<Endpoint>> = assignment
        .endpoints
        .iter()
        .map(|spec| {
            let suspicion = known
                .get(&spec.address)
                .map(|old| Arc::clone(&old.suspicion));
            let suspicion = suspicion.unwrap_or_default();
            Arc::new(Endpoint {
                address: spec.address,
                weight: spec.weight,
                suspicion,
            })
        })
        .collect();
    let total = endpoints
        .iter()
        .map(|endpoint| u64::from(endpoint.weight))
        .sum();
    let turn = before
        .map(|cluster| cluster.endpoints.sequence.turn())
        .unwrap_or_default();
    Arc::new(EndpointSet {
        assignment,
        endpoints,
        sequence: Sequence::new(total, turn),
    })
}
