//! What has been accepted, what is waited for, and what is answered. Pure: messages and the time go
//! in, messages come out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use api::envoy::google::rpc::Status as RpcStatus;

use crate::config::{Held, Kind, Refusal, Resources, RoutesSpec};
use crate::config::{read_cluster, read_endpoints, read_routes};

/// How long the endpoints of a new cluster are waited for.
pub const WARMING: Duration = Duration::from_secs(5);
/// gRPC code "invalid argument".
const INVALID_ARGUMENT: i32 = 3;
/// Most clusters that are followed.
const MAX_CLUSTERS: usize = 20_000;
/// Most characters of a reason.
const MAX_REASON: usize = 900;

/// What follows from a message or from time passing.
#[derive(Debug, Default)]
pub struct Step {
    /// To be sent, in order, after the table is in force.
    pub requests: Vec<DeltaDiscoveryRequest>,
    /// Whether the resources changed, so that a new table must be put in force.
    pub changed: bool,
    /// What was refused.
    pub refused: Vec<(Kind, Refusal)>,
}

/// A response of clusters whose endpoints are not all here.
#[derive(Debug)]
struct Warming {
    nonce: String,
    deadline_ms: u64,
    clusters: BTreeSet<String>,
}

/// Routes that name clusters whose endpoints are not all here.
#[derive(Debug)]
struct WaitingRoutes {
    nonce: String,
    deadline_ms: u64,
    routes: Held<RoutesSpec>,
}

/// What has been accepted, what is waited for, and what is answered.
#[derive(Debug, Default)]
pub struct Ledger {
    resources: Resources,
    subscribed: BTreeSet<String>,
    routes_asked: bool,
    warming: Vec<Warming>,
    waiting: Option<WaitingRoutes>,
}

impl Ledger {
    /// Begins with resources that were kept.
    pub fn new(resources: Resources) -> Self {
        Self {
            resources,
            ..Self::default()
        }
    }

    /// What is accepted.
    pub const fn resources(&self) -> &Resources {
        &self.resources
    }

    /// A stream has been opened: the first requests on it. What an earlier stream left unanswered
    /// is forgotten; the control plane will say it again.
    pub fn begin(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.warming.clear();
        self.waiting = None;
        self.subscribed = self.wanted_endpoints();
        let mut requests = vec![self.first(Kind::Cluster, BTreeSet::from(["*".to_owned()]))];
        if !self.subscribed.is_empty() {
            requests.push(self.first(Kind::Endpoint, self.subscribed.clone()));
        }
        // Without clusters, routes could only be refused.
        self.routes_asked = !self.resources.clusters.is_empty();
        if self.routes_asked {
            requests.push(self.ask_routes());
        }
        requests
    }

    fn ask_routes(&self) -> DeltaDiscoveryRequest {
        self.first(
            Kind::Route,
            BTreeSet::from([api::xds::ROUTE_CONFIG.to_owned()]),
        )
    }

    fn first(&self, kind: Kind, names: BTreeSet<String>) -> DeltaDiscoveryRequest {
        let versions = self.resources.versions(kind).into_iter();
        DeltaDiscoveryRequest {
            initial_resource_versions: versions.collect(),
            ..subscribe(kind, names.into_iter().collect())
        }
    }

    fn wanted_endpoints(&self) -> BTreeSet<String> {
        let current = self.resources.clusters.iter();
        let current = current.filter(|(name, _)| !self.resources.lingering.contains(*name));
        current
            .map(|(_, held)| held.spec.endpoints.clone())
            .collect()
    }

    /// Takes a response in.
    pub fn response(&mut self, response: DeltaDiscoveryResponse, now_ms: u64) -> Step {
        let mut step = Step::default();
        let Some(kind) = Kind::of_url(&response.type_url) else {
            let reason = format!("type {:?} was not asked for", response.type_url);
            step.requests
                .push(nack(&response.type_url, response.nonce, &reason));
            return step;
        };
        let nonce = response.nonce.clone();
        let outcome = match kind {
            Kind::Cluster => self.clusters(response, now_ms, &mut step),
            Kind::Endpoint => self.endpoints(response, &mut step),
            Kind::Route => self.routes(response, now_ms, &mut step),
        };
        if let Err(refusal) = outcome {
            step.requests
                .push(nack(kind.url(), nonce, &refusal.to_string()));
            step.refused.push((kind, refusal));
        }
        self.settle(now_ms, &mut step);
        step
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64) -> Step {
        let mut step = Step::default();
        self.settle(now_ms, &mut step);
        step
    }

    /// When [`Ledger::tick`] is due.
    pub fn deadline_ms(&self) -> Option<u64> {
        let warming = self.warming.iter().map(|warming| warming.deadline_ms);
        let waiting = self.waiting.iter().map(|waiting| waiting.deadline_ms);
        warming.chain(waiting).min()
    }

    fn clusters(
        &mut self,
        response: DeltaDiscoveryResponse,
        now_ms: u64,
        step: &mut Step,
    ) -> Result<(), Refusal> {
        let mut fresh = BTreeMap::new();
        for resource in response.resources {
            let held = read_cluster(resource)?;
            fresh.insert(held.spec.name.clone(), held);
        }
        let count = self.resources.clusters.len() + fresh.len();
        if count > MAX_CLUSTERS {
            let reason = format!("{count} clusters; at most {MAX_CLUSTERS} are allowed");
            return Err(Refusal::new("clusters", reason));
        }
        step.changed |= !fresh.is_empty() || !response.removed_resources.is_empty();
        let names: BTreeSet<String> = fresh.keys().cloned().collect();
        for (name, held) in fresh {
            self.resources.lingering.remove(&name);
            self.resources.clusters.insert(name, held);
        }
        for name in response.removed_resources {
            if self.resources.clusters.contains_key(&name) {
                self.resources.lingering.insert(name);
            }
        }
        self.resources.tidy();
        self.subscribe_endpoints(step);
        let deadline_ms = now_ms.saturating_add(millis(WARMING));
        self.warming.push(Warming {
            nonce: response.nonce,
            deadline_ms,
            clusters: names,
        });
        Ok(())
    }

    /// Asks for the endpoints of new clusters, and no longer for those of clusters that are gone.
    fn subscribe_endpoints(&mut self, step: &mut Step) {
        let wanted = self.wanted_endpoints();
        let more: Vec<String> = wanted.difference(&self.subscribed).cloned().collect();
        let less: Vec<String> = self.subscribed.difference(&wanted).cloned().collect();
        if !more.is_empty() || !less.is_empty() {
            step.requests.push(DeltaDiscoveryRequest {
                resource_names_unsubscribe: less,
                ..subscribe(Kind::Endpoint, more)
            });
        }
        self.subscribed = wanted;
    }

    fn endpoints(
        &mut self,
        response: DeltaDiscoveryResponse,
        step: &mut Step,
    ) -> Result<(), Refusal> {
        let wanted = |resource: &Resource| self.subscribed.contains(&resource.name);
        let resources: Vec<_> = response.resources.into_iter().filter(wanted).collect();
        let fresh: Vec<_> = resources
            .into_iter()
            .map(read_endpoints)
            .collect::<Result<_, _>>()?;
        step.changed |= !fresh.is_empty();
        for held in fresh {
            self.resources
                .endpoints
                .insert(held.wire.name.clone(), held);
        }
        // Endpoints go with their cluster; removing them alone means nothing.
        step.requests.push(ack(Kind::Endpoint, response.nonce));
        Ok(())
    }

    fn routes(
        &mut self,
        response: DeltaDiscoveryResponse,
        now_ms: u64,
        step: &mut Step,
    ) -> Result<(), Refusal> {
        // The answer to the routes before is due before that to these.
        if let Some(waiting) = self.waiting.take() {
            self.accept_routes(waiting.nonce, waiting.routes, step);
        }
        let named = |resource: &Resource| resource.name == api::xds::ROUTE_CONFIG;
        let Some(resource) = response.resources.into_iter().find(named) else {
            step.requests.push(ack(Kind::Route, response.nonce));
            return Ok(());
        };
        let routes = read_routes(resource)?;
        self.refuse_empty(&routes.spec)?;
        self.resources.check(&routes.spec)?;
        self.waiting = Some(WaitingRoutes {
            nonce: response.nonce,
            deadline_ms: now_ms.saturating_add(millis(WARMING)),
            routes,
        });
        Ok(())
    }

    /// A control plane that has lost its memory must not take all traffic down with it.
    fn refuse_empty(&self, routes: &RoutesSpec) -> Result<(), Refusal> {
        let serving = self
            .resources
            .routes
            .as_ref()
            .is_some_and(|held| !held.spec.hosts.is_empty());
        if serving && routes.hosts.is_empty() {
            let reason = "it has no virtual host; the routes in force are kept";
            return Err(Refusal::new("route configuration", reason));
        }
        Ok(())
    }

    fn accept_routes(&mut self, nonce: String, routes: Held<RoutesSpec>, step: &mut Step) {
        // Clusters may have been taken away while the routes waited.
        if let Err(refusal) = self.resources.check(&routes.spec) {
            step.requests
                .push(nack(Kind::Route.url(), nonce, &refusal.to_string()));
            step.refused.push((Kind::Route, refusal));
            return;
        }
        self.resources.routes = Some(routes);
        self.resources.tidy();
        step.changed = true;
        step.requests.push(ack(Kind::Route, nonce));
    }

    /// Answers what does not have to wait any longer.
    fn settle(&mut self, now_ms: u64, step: &mut Step) {
        let resources = &self.resources;
        self.warming.retain(|warming| {
            let cold = |name: &String| resources.offers(name) && !resources.is_warm(name);
            let waits = warming.clusters.iter().any(cold) && now_ms < warming.deadline_ms;
            if !waits {
                step.requests
                    .push(ack(Kind::Cluster, warming.nonce.clone()));
            }
            waits
        });
        if self.warming.is_empty() && !self.routes_asked && !self.resources.clusters.is_empty() {
            self.routes_asked = true;
            step.requests.push(self.ask_routes());
        }
        let Some(waiting) = self.waiting.take() else {
            return;
        };
        let cold = waiting
            .routes
            .spec
            .named()
            .any(|(name, _)| !self.resources.is_warm(name));
        if cold && now_ms < waiting.deadline_ms {
            self.waiting = Some(waiting);
        } else {
            self.accept_routes(waiting.nonce, waiting.routes, step);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn subscribe(kind: Kind, names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.url().to_owned(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    }
}

fn ack(kind: Kind, nonce: String) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.url().to_owned(),
        response_nonce: nonce,
        ..DeltaDiscoveryRequest::default()
    }
}

fn nack(type_url: &str, nonce: String, reason: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        response_nonce: nonce,
        error_detail: Some(RpcStatus {
            code: INVALID_ARGUMENT,
            message: reason.chars().take(MAX_REASON).collect(),
            details: Vec::new(),
        }),
        ..DeltaDiscoveryRequest::default()
    }
}
