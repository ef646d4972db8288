//! What resources say, as plain values.

use std::net::SocketAddr;
use std::time::Duration;

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Its name.
    pub name: String,
    /// Name of its endpoints' resource.
    pub endpoints: String,
    /// How long connecting to an endpoint may take.
    pub connect_timeout: Duration,
}

/// The endpoints of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// Those that may be used.
    pub endpoints: Vec<EndpointSpec>,
}

/// An endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Where it answers.
    pub address: SocketAddr,
    /// Its share, relative to the cluster's other endpoints; at least 1.
    pub weight: u32,
}

/// The route configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutesSpec {
    /// Virtual hosts; no domain occurs twice.
    pub hosts: Vec<HostSpec>,
}

impl RoutesSpec {
    /// Every cluster that is named, with the route that names it.
    pub fn named(&self) -> impl Iterator<Item = (&str, &RouteSpec)> {
        self.hosts
            .iter()
            .flat_map(|host| &host.routes)
            .flat_map(|route| {
                let targets = route.targets.iter().map(|target| &*target.cluster);
                let mirrors = route.mirrors.iter().map(|mirror| &*mirror.cluster);
                targets.chain(mirrors).map(move |name| (name, route))
            })
    }
}

/// A virtual host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// Its name.
    pub name: String,
    /// Domains in lower case.
    pub domains: Vec<String>,
    /// Routes; the first that matches is taken.
    pub routes: Vec<RouteSpec>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// Its name, or its place in the virtual host.
    pub name: String,
    /// What the path must begin with.
    pub prefix: String,
    /// The methods that match; all if there is no list.
    pub methods: Option<Vec<String>>,
    /// Clusters with their weights.
    pub targets: Vec<TargetSpec>,
    /// Headers whose values choose the cluster; if there are none, requests take turns.
    pub sticky: Vec<HashHeader>,
    /// How long a request may take.
    pub timeout: Option<Duration>,
    /// Where copies go.
    pub mirrors: Vec<MirrorSpec>,
    /// Requests wait until a later configuration lets them go.
    pub hold: Option<HoldSpec>,
}

/// How requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldSpec {
    /// Most at once; further ones are turned away.
    pub requests: usize,
    /// Longest time; then they are turned away.
    pub limit: Duration,
}

/// A cluster of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSpec {
    /// The cluster.
    pub cluster: String,
    /// Its weight.
    pub weight: u32,
}

/// A header that chooses the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashHeader {
    /// Its name.
    pub name: http::HeaderName,
    /// Whether later headers are ignored when this one is there.
    pub terminal: bool,
}

/// A destination of copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorSpec {
    /// The cluster.
    pub cluster: String,
    /// Of so many requests …
    pub out_of: u32,
    /// … so many are copied.
    pub copied: u32,
    /// Whether the copy's authority is the original's; otherwise "-shadow" is appended.
    pub same_authority: bool,
}
