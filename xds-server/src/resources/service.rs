//! The resources of one service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::envoy::envoy::config::route::v3::{
    VirtualHost, route::Action, route_action::ClusterSpecifier,
};
use domain::routing::{service_cluster, side_cluster};
use domain::{Endpoint, Side};

use super::{cluster, named::Resource, route, weights};
use crate::input::ServiceInput;

/// A cluster and where its endpoints are.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterParts {
    /// The cluster.
    pub cluster: Arc<Resource>,
    /// Its endpoints.
    pub endpoints: BTreeSet<Endpoint>,
}

/// The resources of one service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceResources {
    /// Its clusters by name: the shared one, and two more during a migration.
    pub clusters: BTreeMap<Arc<str>, ClusterParts>,
    /// Its virtual host.
    pub virtual_host: VirtualHost,
    /// The clusters that the virtual host names.
    pub named: BTreeSet<Arc<str>>,
}

impl ServiceResources {
    /// The resources for this input.
    pub fn new(input: &ServiceInput) -> Self {
        let id = &input.service.id;
        let shared = service_cluster(id);
        let mut clusters = BTreeMap::new();
        let mut add = |name: &str, endpoints: BTreeSet<Endpoint>| {
            let parts = ClusterParts {
                cluster: Arc::new(cluster::eds(name)),
                endpoints,
            };
            clusters.insert(Arc::<str>::from(name), parts);
        };
        let mut named = BTreeSet::new();
        add(&shared, input.shared_endpoints());
        if let Some(migration) = input.migration() {
            let original = side_cluster(id, &migration.instance, Side::Original);
            let shadow = side_cluster(id, &migration.instance, Side::Shadow);
            add(&original, BTreeSet::from([migration.original]));
            add(&shadow, BTreeSet::from([migration.shadow]));
            named.extend([Arc::from(original), Arc::from(shadow)]);
            if weights::split(input.others(), migration.split).others > 0 {
                named.insert(Arc::from(shared));
            }
        } else {
            named.insert(Arc::from(shared));
        }
        Self {
            clusters,
            virtual_host: route::virtual_host(input),
            named,
        }
    }

    /// The clusters that the virtual host sends traffic to.
    pub fn used(&self) -> BTreeSet<Arc<str>> {
        let actions = self.virtual_host.routes.iter().map(|route| &route.action);
        let specifiers = actions.filter_map(|action| match action {
            Some(Action::Route(action)) => action.cluster_specifier.as_ref(),
            Some(_) | None => None,
        });
        let names = specifiers.flat_map(|specifier| match specifier {
            ClusterSpecifier::Cluster(name) => vec![name.as_str()],
            ClusterSpecifier::WeightedClusters(weighted) => {
                let clusters = weighted.clusters.iter();
                let used = clusters
                    .filter(|cluster| cluster.weight.is_some_and(|weight| weight.value > 0));
                used.map(|cluster| cluster.name.as_str()).collect()
            }
            ClusterSpecifier::ClusterHeader(_)
            | ClusterSpecifier::ClusterSpecifierPlugin(_)
            | ClusterSpecifier::InlineClusterSpecifierPlugin(_) => Vec::new(),
        });
        names
            .filter_map(|name| self.clusters.get_key_value(name))
            .map(|(name, _)| Arc::clone(name))
            .collect()
    }
}
