//! Resources as the control plane builds them.

use std::net::SocketAddr;

use api::envoy::envoy::config::cluster::v3::{
    Cluster,
    cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
};
use api::envoy::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ConfigSource, Metadata, RuntimeFractionalPercent,
    SocketAddress, address, config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
};
use api::envoy::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use api::envoy::envoy::config::route::v3::{
    HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    WeightedCluster,
    header_matcher::HeaderMatchSpecifier,
    route::Action,
    route_action::{
        ClusterSpecifier, HashPolicy, RequestMirrorPolicy,
        hash_policy::{Header, PolicySpecifier},
    },
    route_match::PathSpecifier,
    weighted_cluster::{ClusterWeight, RandomValueSpecifier},
};
use api::envoy::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use api::envoy::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use api::envoy::google::protobuf::{
    BoolValue, Duration, ListValue, Struct, UInt32Value, Value, value::Kind,
};

pub const fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}

pub fn cluster(name: &str) -> Cluster {
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
        connect_timeout: Some(Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..Cluster::default()
    }
}

pub fn endpoints(name: &str, addresses: &[SocketAddr]) -> ClusterLoadAssignment {
    let endpoint = |address: &SocketAddr| LbEndpoint {
        load_balancing_weight: Some(number(1)),
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address {
                address: Some(address::Address::SocketAddress(SocketAddress {
                    address: address.ip().to_string(),
                    port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
                    ..SocketAddress::default()
                })),
            }),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: addresses.iter().map(endpoint).collect(),
            load_balancing_weight: Some(number(1)),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

/// How a service is routed.
#[derive(Clone, Default)]
pub struct Service {
    pub name: String,
    pub weights: Vec<(String, u32)>,
    pub sticky: Option<String>,
    pub timeout_ms: u64,
    /// Cluster and basis points.
    pub mirror: Option<(String, u32)>,
    /// Requests that change something wait: how many, how long in milliseconds.
    pub hold: Option<(u32, u32)>,
}

impl Service {
    pub fn new(name: &str, weights: &[(&str, u32)]) -> Self {
        let weights = weights
            .iter()
            .map(|(name, weight)| ((*name).to_owned(), *weight));
        Self {
            name: name.to_owned(),
            weights: weights.collect(),
            timeout_ms: 5_000,
            ..Self::default()
        }
    }

    fn action(&self) -> RouteAction {
        let weight = |(name, weight): &(String, u32)| ClusterWeight {
            name: name.clone(),
            weight: Some(number(*weight)),
            ..ClusterWeight::default()
        };
        let by_hash = RandomValueSpecifier::UseHashPolicy(BoolValue { value: true });
        RouteAction {
            timeout: Some(Duration {
                seconds: i64::try_from(self.timeout_ms / 1_000).unwrap(),
                nanos: i32::try_from(self.timeout_ms % 1_000 * 1_000_000).unwrap(),
            }),
            hash_policy: self
                .sticky
                .iter()
                .map(|header| HashPolicy {
                    terminal: false,
                    policy_specifier: Some(PolicySpecifier::Header(Header {
                        header_name: header.clone(),
                        regex_rewrite: None,
                    })),
                })
                .collect(),
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: self.weights.iter().map(weight).collect(),
                random_value_specifier: self.sticky.as_ref().map(|_| by_hash),
                ..WeightedCluster::default()
            })),
            ..RouteAction::default()
        }
    }

    pub fn host(&self) -> VirtualHost {
        let mut routes = Vec::new();
        if let Some((cluster, basis_points)) = &self.mirror {
            let mut action = self.action();
            action.request_mirror_policies = vec![RequestMirrorPolicy {
                cluster: cluster.clone(),
                runtime_fraction: Some(RuntimeFractionalPercent {
                    default_value: Some(FractionalPercent {
                        numerator: *basis_points,
                        denominator: DenominatorType::TenThousand.into(),
                    }),
                    runtime_key: String::new(),
                }),
                disable_shadow_host_suffix_append: true,
                ..RequestMirrorPolicy::default()
            }];
            routes.push(route("safe", vec![safe_methods()], action));
        }
        let mut all = route("all", Vec::new(), self.action());
        if let Some((requests, limit_ms)) = self.hold {
            routes.push(route("reads", vec![safe_methods()], self.action()));
            let number = |number: u32| Value {
                kind: Some(Kind::NumberValue(number.into())),
            };
            let limits = ListValue {
                values: vec![number(requests), number(limit_ms)],
            };
            let limits = Value {
                kind: Some(Kind::ListValue(limits)),
            };
            let ours = Struct {
                fields: [(api::xds::HOLD.to_owned(), limits)].into(),
            };
            all.metadata = Some(Metadata {
                filter_metadata: [(api::xds::ROUTE_METADATA.to_owned(), ours)].into(),
                ..Metadata::default()
            });
        }
        routes.push(all);
        VirtualHost {
            name: self.name.clone(),
            domains: vec![self.name.clone(), format!("{}:*", self.name)],
            routes,
            ..VirtualHost::default()
        }
    }
}

fn route(name: &str, headers: Vec<HeaderMatcher>, action: RouteAction) -> Route {
    Route {
        name: name.to_owned(),
        r#match: Some(RouteMatch {
            headers,
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(action)),
        ..Route::default()
    }
}

pub fn safe_methods() -> HeaderMatcher {
    HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(RegexMatcher {
                regex: "GET|HEAD|OPTIONS".to_owned(),
                ..RegexMatcher::default()
            })),
            ..StringMatcher::default()
        })),
        ..HeaderMatcher::default()
    }
}

pub fn routes(services: &[Service]) -> RouteConfiguration {
    RouteConfiguration {
        name: api::xds::ROUTE_CONFIG.to_owned(),
        virtual_hosts: services.iter().map(Service::host).collect(),
        validate_clusters: Some(BoolValue { value: true }),
        ..RouteConfiguration::default()
    }
}
