//! Resources for tests.

use api::envoy::envoy::config::cluster::v3::{
    Cluster,
    cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
};
use api::envoy::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ConfigSource, SocketAddress, address,
    config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
};
use api::envoy::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use api::envoy::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
    route::Action, route_action::ClusterSpecifier, route_match::PathSpecifier,
    weighted_cluster::ClusterWeight,
};
use api::envoy::envoy::service::discovery::v3::Resource;
use api::envoy::google::protobuf::{Any, UInt32Value};
use prost::Message;

use crate::config::Kind;

pub(crate) fn resource(kind: Kind, name: &str, message: &impl Message) -> Resource {
    Resource {
        name: name.to_owned(),
        version: "1".to_owned(),
        resource: Some(Any {
            type_url: kind.url().to_owned(),
            value: message.encode_to_vec(),
        }),
        ..Resource::default()
    }
}

pub(crate) fn cluster_message(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ConfigSource {
                config_source_specifier: Some(ConfigSourceSpecifier::Ads(
                    AggregatedConfigSource {},
                )),
                ..ConfigSource::default()
            }),
            service_name: String::new(),
        }),
        ..Cluster::default()
    }
}

pub(crate) fn cluster(name: &str) -> Resource {
    resource(Kind::Cluster, name, &cluster_message(name))
}

/// Endpoints with addresses that depend on the cluster's name, so that they differ.
pub(crate) fn endpoints(name: &str, count: usize) -> Resource {
    let base = 1_000 + 100 * u32::from(*name.as_bytes().last().unwrap());
    let endpoint = |index| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address {
                address: Some(address::Address::SocketAddress(SocketAddress {
                    address: "127.0.0.1".to_owned(),
                    port_specifier: Some(PortSpecifier::PortValue(base + index)),
                    ..SocketAddress::default()
                })),
            }),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: (0..u32::try_from(count).unwrap()).map(endpoint).collect(),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    };
    resource(Kind::Endpoint, name, &assignment)
}

pub(crate) fn route_message(host: &str, weights: &[(&str, u32)]) -> RouteConfiguration {
    let weight = |(name, weight): &(&str, u32)| ClusterWeight {
        name: (*name).to_owned(),
        weight: Some(UInt32Value { value: *weight }),
        ..ClusterWeight::default()
    };
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: weights.iter().map(weight).collect(),
            ..WeightedCluster::default()
        })),
        ..RouteAction::default()
    };
    RouteConfiguration {
        name: api::xds::ROUTE_CONFIG.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: host.to_owned(),
            domains: vec![host.to_owned(), format!("{host}:*")],
            routes: vec![Route {
                r#match: Some(RouteMatch {
                    path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
                    ..RouteMatch::default()
                }),
                action: Some(Action::Route(action)),
                ..Route::default()
            }],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    }
}

pub(crate) fn routes(host: &str, weights: &[(&str, u32)]) -> Resource {
    resource(
        Kind::Route,
        api::xds::ROUTE_CONFIG,
        &route_message(host, weights),
    )
}
