//! Clusters.

use api::envoy::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster,
    circuit_breakers::Thresholds,
    cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
};

use super::named::Resource;
use super::pack::{millis, number, over_ads};

/// How long connecting to an endpoint may take.
const CONNECT_TIMEOUT_MS: u64 = 1_000;
/// Connections, waiting and running requests at once: the instances limit themselves.
const MAX_REQUESTS: u32 = 10_000;
/// Retries at once. Envoy's default of 3 would silently defeat the retries that hide a dead
/// replica from the clients.
const MAX_RETRIES: u32 = 1_000;

/// A cluster whose endpoints come over the aggregated stream. It does not depend on what the
/// service is at: a change of a cluster costs every node a warming, so there is none in a ramp.
pub fn eds(name: &str) -> Resource {
    let cluster = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(over_ads()),
            service_name: String::new(),
        }),
        connect_timeout: Some(millis(CONNECT_TIMEOUT_MS)),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: Some(number(MAX_REQUESTS)),
                max_pending_requests: Some(number(MAX_REQUESTS)),
                max_requests: Some(number(MAX_REQUESTS)),
                max_retries: Some(number(MAX_RETRIES)),
                ..Thresholds::default()
            }],
            per_host_thresholds: Vec::new(),
        }),
        ..Cluster::default()
    };
    Resource::encode(name, &cluster)
}
