//! The resources that have been accepted, as they came and as they are understood.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::envoy::envoy::service::discovery::v3::Resource;
use prost::Message;

use super::spec::{Assignment, ClusterSpec, RoutesSpec};
use super::{Refusal, parse};

/// The types of resources that are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// RDS.
    Route,
}

impl Kind {
    /// All, in the order in which they are asked for.
    pub const ALL: [Self; 3] = [Self::Cluster, Self::Endpoint, Self::Route];

    /// The type URL.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Cluster => api::xds::CLUSTER,
            Self::Endpoint => api::xds::ENDPOINT,
            Self::Route => api::xds::ROUTE,
        }
    }

    /// The type that a URL means.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// A resource: its meaning, and the message that said it.
#[derive(Debug, Clone)]
pub struct Held<T> {
    /// What it means.
    pub spec: Arc<T>,
    /// The message.
    pub wire: Arc<Resource>,
}

/// All accepted resources.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// Clusters by name.
    pub clusters: BTreeMap<String, Held<ClusterSpec>>,
    /// Endpoints by the name of their resource.
    pub endpoints: BTreeMap<String, Held<Assignment>>,
    /// The route configuration.
    pub routes: Option<Held<RoutesSpec>>,
    /// Clusters that the control plane has taken away while routes in force still name them: they
    /// serve on until the routes let go of them. New routes cannot name them.
    pub lingering: BTreeSet<String>,
}

impl Resources {
    /// Whether routes may name the cluster.
    pub fn offers(&self, cluster: &str) -> bool {
        self.clusters.contains_key(cluster) && !self.lingering.contains(cluster)
    }

    /// Whether the endpoints of the cluster are known.
    pub fn is_warm(&self, cluster: &str) -> bool {
        let spec = self.clusters.get(cluster);
        spec.is_some_and(|held| self.endpoints.contains_key(&held.spec.endpoints))
    }

    /// Refuses routes that name a cluster that is not there.
    ///
    /// # Errors
    /// Names the first such route and cluster.
    pub fn check(&self, routes: &RoutesSpec) -> Result<(), Refusal> {
        for (cluster, route) in routes.named() {
            if !self.offers(cluster) {
                let reason = format!("cluster {cluster:?} is unknown");
                return Err(Refusal::new(format!("route {:?}", route.name), reason));
            }
        }
        Ok(())
    }

    /// Drops lingering clusters that no route names any more, and endpoints that no cluster has.
    pub fn tidy(&mut self) {
        let routes = self.routes.clone();
        let named: BTreeSet<&str> = routes
            .iter()
            .flat_map(|held| held.spec.named().map(|(name, _)| name))
            .collect();
        let clusters = &mut self.clusters;
        self.lingering.retain(|name| {
            let needed = named.contains(&**name);
            if !needed {
                clusters.remove(name);
            }
            needed
        });
        let used: BTreeSet<&str> = clusters
            .values()
            .map(|held| &*held.spec.endpoints)
            .collect();
        self.endpoints.retain(|name, _| used.contains(&**name));
    }

    /// Names and versions of a type, to tell the control plane what is here already.
    pub fn versions(&self, kind: Kind) -> BTreeMap<String, String> {
        let version = |wire: &Resource| (wire.name.clone(), wire.version.clone());
        match kind {
            Kind::Cluster => {
                let current = self
                    .clusters
                    .iter()
                    .filter(|(name, _)| !self.lingering.contains(*name));
                current.map(|(_, held)| version(&held.wire)).collect()
            }
            Kind::Endpoint => self
                .endpoints
                .values()
                .map(|held| version(&held.wire))
                .collect(),
            Kind::Route => self.routes.iter().map(|held| version(&held.wire)).collect(),
        }
    }

    /// All messages, in an order in which [`Resources::restore`] accepts them.
    pub fn messages(&self) -> Vec<Resource> {
        let clusters = self.clusters.values().map(|held| &held.wire);
        let endpoints = self.endpoints.values().map(|held| &held.wire);
        let routes = self.routes.iter().map(|held| &held.wire);
        clusters
            .chain(endpoints)
            .chain(routes)
            .map(|wire| Resource::clone(wire))
            .collect()
    }

    /// Resources from messages that were kept.
    ///
    /// # Errors
    /// The first message that is not understood, or routes that name a cluster that is missing.
    pub fn restore(messages: Vec<Resource>) -> Result<Self, Refusal> {
        let mut resources = Self::default();
        for message in messages {
            let url = message.resource.as_ref().map_or("", |any| &*any.type_url);
            match Kind::of_url(url) {
                Some(Kind::Cluster) => {
                    let held = cluster(message)?;
                    resources.clusters.insert(held.spec.name.clone(), held);
                }
                Some(Kind::Endpoint) => {
                    let held = endpoints(message)?;
                    resources.endpoints.insert(held.wire.name.clone(), held);
                }
                Some(Kind::Route) => resources.routes = Some(routes(message)?),
                None => {
                    return Err(Refusal::new(
                        message.name,
                        format!("type {url:?} is unknown"),
                    ));
                }
            }
        }
        if let Some(routes) = &resources.routes {
            resources.check(&routes.spec)?;
        }
        Ok(resources)
    }
}

/// Reads a cluster.
pub(crate) fn cluster(message: Resource) -> Result<Held<ClusterSpec>, Refusal> {
    hold(message, Kind::Cluster, parse::cluster, |spec| {
        Some(spec.name.clone())
    })
}

/// Reads endpoints.
pub(crate) fn endpoints(message: Resource) -> Result<Held<Assignment>, Refusal> {
    hold(message, Kind::Endpoint, parse::assignment, |_| None)
}

/// Reads the route configuration.
pub(crate) fn routes(message: Resource) -> Result<Held<RoutesSpec>, Refusal> {
    hold(message, Kind::Route, parse::routes, |_| None)
}

fn hold<M: Message + Default, T>(
    wire: Resource,
    kind: Kind,
    parse: impl Fn(M) -> Result<T, Refusal>,
    name: impl Fn(&T) -> Option<String>,
) -> Result<Held<T>, Refusal> {
    let refuse = |reason: String| Refusal::new(format!("resource {:?}", wire.name), reason);
    let Some(any) = wire.resource.as_ref() else {
        return Err(refuse("it has no content".to_owned()));
    };
    if any.type_url != kind.url() {
        return Err(refuse(format!(
            "its type is {:?} and not {:?}",
            any.type_url,
            kind.url()
        )));
    }
    let message = M::decode(&*any.value).map_err(|error| refuse(error.to_string()))?;
    let spec = parse(message)?;
    if let Some(inner) = name(&spec).filter(|inner| *inner != wire.name) {
        return Err(refuse(format!("its content is named {inner:?}")));
    }
    Ok(Held {
        spec: Arc::new(spec),
        wire: Arc::new(wire),
    })
}
