//! Endpoints.

use std::collections::BTreeSet;

use api::envoy::envoy::config::core::v3::Locality;
use api::envoy::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
    lb_endpoint::HostIdentifier,
};
use domain::Endpoint;

use super::named::Resource;
use super::pack::{address, number};

/// The endpoints of a cluster. The one locality carries a weight because gRPC clients ignore
/// localities without.
pub fn assignment(cluster: &str, endpoints: &BTreeSet<Endpoint>) -> Resource {
    let lb_endpoints: Vec<LbEndpoint> = endpoints.iter().copied().map(lb_endpoint).collect();
    let localities = if lb_endpoints.is_empty() {
        Vec::new()
    } else {
        vec![LocalityLbEndpoints {
            locality: Some(Locality::default()),
            lb_endpoints,
            load_balancing_weight: Some(number(1)),
            ..LocalityLbEndpoints::default()
        }]
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: localities,
        ..ClusterLoadAssignment::default()
    };
    Resource::encode(cluster, &assignment)
}

fn lb_endpoint(endpoint: Endpoint) -> LbEndpoint {
    LbEndpoint {
        load_balancing_weight: Some(number(1)),
        host_identifier: Some(HostIdentifier::Endpoint(EnvoyEndpoint {
            address: Some(address(endpoint.0)),
            ..EnvoyEndpoint::default()
        })),
        ..LbEndpoint::default()
    }
}
