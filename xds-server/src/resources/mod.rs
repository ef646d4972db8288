//! Domain → Envoy resources. Pure and deterministic: the same input gives the same bytes, so
//! versions agree between replicas of the control plane and between its runs.

mod cluster;
mod endpoint;
mod listener;
mod named;
mod pack;
mod route;
mod secret;
mod service;
pub mod validate;
mod weights;
pub mod xdstp;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use cluster::eds as bare_cluster;
pub use endpoint::assignment;
pub use listener::{ListenAddress, api_listener, ingress};
pub use named::{Resource, ResourceType, Resources, Version};
pub use route::{CONTROL_CLUSTER, configuration, service_configuration};
pub use secret::{authority, certificate};
pub use service::{ClusterParts, ServiceResources};
pub use weights::{Weights, split};

use crate::input::Inputs;

/// All resources of one state of the world.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceSet {
    /// Clusters by name.
    pub clusters: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Endpoints by the name of their cluster.
    pub endpoints: BTreeMap<Arc<str>, Arc<Resource>>,
    /// The one route configuration.
    pub routes: Arc<Resource>,
}

/// The resources of these inputs.
pub fn build(inputs: &Inputs) -> ResourceSet {
    let services: Vec<ServiceResources> = inputs
        .values()
        .map(|input| ServiceResources::new(input))
        .collect();
    let mut set = ResourceSet {
        clusters: BTreeMap::new(),
        endpoints: BTreeMap::new(),
        routes: Arc::new(configuration(
            services.iter().map(|service| &service.virtual_host),
        )),
    };
    for (name, parts) in services.iter().flat_map(|service| &service.clusters) {
        set.clusters
            .insert(Arc::clone(name), Arc::clone(&parts.cluster));
        let endpoints = assignment(name, &parts.endpoints);
        set.endpoints.insert(Arc::clone(name), Arc::new(endpoints));
    }
    set
}
