//! Clusters.

use api::envoy::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, OutlierDetection,
    circuit_breakers::Thresholds,
    cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
};

use api::envoy::google::protobuf::BoolValue;

use super::named::Resource;
use super::pack::{millis, number, over_ads};

/// How long connecting to an endpoint may take.
const CONNECT_TIMEOUT_MS: u64 = 1_000;
/// Connections, waiting and running requests at once: the instances limit themselves.
const MAX_REQUESTS: u32 = 10_000;
/// Retries at once. Envoy's default of 3 would silently defeat the retries that hide a dead
/// replica from the clients.
const MAX_RETRIES: u32 = 1_000;

/// Connections in a row that fail, or are cut, until an instance is left out for a while.
const FAILURES_TO_LEAVE_OUT: u32 = 5;
/// For how long it is left out, the first time.
const LEFT_OUT_MS: u64 = 10_000;
/// How often this is looked at.
const LOOK_MS: u64 = 1_000;
/// Of two instances one may be left out; the last one never.
const MOST_LEFT_OUT_PERCENT: u32 = 50;
/// What instances say of themselves in their answers (ORCA) that is passed on in load reports.
const PASSED_ON: [&str; 3] = ["cpu_utilization", "mem_utilization", "named_metrics.*"];

/// An instance that cannot be reached is left out. What it answers does not count: whether an error
/// is one is the service's own matter, and the judge's. The cluster of one side of a migration has one
/// endpoint, which must get what the weights give it, so nothing is left out there.
fn left_out(name: &str) -> Option<OutlierDetection> {
    (!name.contains('~')).then(|| OutlierDetection {
        interval: Some(millis(LOOK_MS)),
        base_ejection_time: Some(millis(LEFT_OUT_MS)),
        max_ejection_percent: Some(number(MOST_LEFT_OUT_PERCENT)),
        always_eject_one_host: Some(BoolValue { value: false }),
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: Some(number(FAILURES_TO_LEAVE_OUT)),
        enforcing_consecutive_local_origin_failure: Some(number(100)),
        enforcing_local_origin_success_rate: Some(number(0)),
        enforcing_consecutive_5xx: Some(number(0)),
        enforcing_consecutive_gateway_failure: Some(number(0)),
        enforcing_success_rate: Some(number(0)),
        ..OutlierDetection::default()
    })
}

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
        outlier_detection: left_out(name),
        lrs_report_endpoint_metrics: PASSED_ON.map(ToOwned::to_owned).into(),
        ..Cluster::default()
    };
    Resource::encode(name, &cluster)
}
