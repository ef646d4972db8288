//! Routes: one virtual host per service, all in one route configuration.

use std::collections::BTreeSet;

use api::envoy::envoy::config::core::v3::{Metadata, RuntimeFractionalPercent};
use api::envoy::envoy::config::route::v3::{
    HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
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
use api::envoy::google::protobuf::{BoolValue, ListValue, Struct, Value, value::Kind};
use domain::routing::{service_cluster, side_cluster};
use domain::{Hold, MigrationRouting, Service, Side};
use prost::encoding;

use super::named::Resource;
use super::pack::{millis, number};
use super::weights::{Weights, split};
use crate::input::ServiceInput;

/// The bootstrap's static cluster of the control plane, to which access logs go.
pub const CONTROL_CLUSTER: &str = "foreshadow_control";

/// Failures that happen before a request can have had an effect. `5xx` is not among them: whether
/// a request may be repeated after an answer is the client's to know.
const RETRY_ON: &str = "connect-failure,refused-stream,reset-before-request";
/// Retries per request.
const RETRIES: u32 = 3;
/// Most requests of a service that wait while a single writer is cut over, per node …
const HELD_REQUESTS: u32 = 1_000;
/// … and how long, in milliseconds.
const HELD_MS: u32 = 5_000;
/// Requests that change nothing, so that a copy of them does no harm.
const SAFE_METHODS: &str = "GET|HEAD|OPTIONS";

/// The one route configuration. A domain that two services claim goes to the service of that name,
/// otherwise to the first by name: Envoy would refuse the whole configuration.
pub fn configuration<'a>(hosts: impl IntoIterator<Item = &'a VirtualHost>) -> Resource {
    let hosts: Vec<&VirtualHost> = hosts.into_iter().collect();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for host in &hosts {
        taken.extend(own_domains(&host.name));
    }
    // Written out host by host: copying every service's routes for the change of one would cost
    // more than all the rest.
    let mut bytes = Vec::new();
    encoding::string::encode(NAME, &api::xds::ROUTE_CONFIG.to_owned(), &mut bytes);
    for host in hosts {
        let own = own_domains(&host.name);
        let mut keeps =
            |domain: &String| own.contains(domain) || taken.insert(domain.to_ascii_lowercase());
        let kept: Vec<bool> = host.domains.iter().map(&mut keeps).collect();
        if kept.iter().all(|keep| *keep) {
            encoding::message::encode(VIRTUAL_HOSTS, host, &mut bytes);
        } else {
            let mut host = host.clone();
            let mut kept = kept.into_iter();
            host.domains.retain(|_| kept.next().unwrap_or(true));
            encoding::message::encode(VIRTUAL_HOSTS, &host, &mut bytes);
        }
    }
    let validate = BoolValue { value: true };
    encoding::message::encode(VALIDATE_CLUSTERS, &validate, &mut bytes);
    Resource::encoded(api::xds::ROUTE_CONFIG, api::xds::ROUTE, bytes)
}

/// Field numbers of a route configuration.
const NAME: u32 = 1;
const VIRTUAL_HOSTS: u32 = 2;
const VALIDATE_CLUSTERS: u32 = 7;

/// The route configuration of one service alone.
pub fn service_configuration(host: &VirtualHost) -> Resource {
    let name = api::xds::service_route_config(&host.name);
    let configuration = RouteConfiguration {
        name: name.clone(),
        virtual_hosts: vec![host.clone()],
        validate_clusters: Some(BoolValue { value: true }),
        ..RouteConfiguration::default()
    };
    Resource::encode(name, &configuration)
}

fn own_domains(service: &str) -> [String; 2] {
    [service.to_owned(), format!("{service}:*")]
}

/// The virtual host of a service.
pub(super) fn virtual_host(input: &ServiceInput) -> VirtualHost {
    let service = &input.service;
    let general = match input.migration() {
        None => vec![route(
            "all",
            service,
            to_cluster(service_cluster(&service.id)),
            None,
        )],
        Some(migration) => migrating(service, migration, split(input.others(), migration.split)),
    };
    VirtualHost {
        name: service.id.to_string(),
        domains: domains(service),
        routes: general,
        ..VirtualHost::default()
    }
}

fn domains(service: &Service) -> Vec<String> {
    let mut domains: Vec<String> = own_domains(service.id.as_str()).into();
    let extra = service
        .domains
        .iter()
        .filter(|domain| !domain.trim().is_empty());
    for domain in extra {
        domains.push(domain.clone());
        // A domain that is a pattern already, or names its port, means what it says.
        if !domain.contains(['*', ':']) {
            domains.push(format!("{domain}:*"));
        }
    }
    let mut seen = BTreeSet::new();
    domains.retain(|domain| seen.insert(domain.to_ascii_lowercase()));
    domains
}

/// Routes during a migration: safe requests first when they are mirrored, then all.
fn migrating(service: &Service, migration: &MigrationRouting, weights: Weights) -> Vec<Route> {
    let target = || weighted(service, migration, weights);
    let mut routes = Vec::new();
    // Only what would go to the original is copied. Envoy has no mirroring per weighted cluster,
    // so a fraction of all safe requests is mirrored, as large as the original's.
    if migration.mirror && weights.original > 0 {
        let shadow = side_cluster(&service.id, &migration.instance, Side::Shadow);
        routes.push(route(
            "safe",
            service,
            target(),
            Some(mirror(shadow, weights.original)),
        ));
    }
    let mut all = route("all", service, target(), None);
    if migration.hold == Hold::Writes {
        // What only reads goes on.
        if routes.is_empty() {
            let mut reads = route("safe", service, target(), None);
            reads
                .r#match
                .get_or_insert_default()
                .headers
                .push(safe_methods());
            routes.push(reads);
        }
        all.metadata = Some(hold());
    }
    routes.push(all);
    routes
}

/// Tells our proxy to hold a route's requests. Envoy has no such thing and ignores it, so a single
/// writer is not cut over while a node that cannot hold requests is known.
fn hold() -> Metadata {
    let number = |number: u32| Value {
        kind: Some(Kind::NumberValue(number.into())),
    };
    let limits = ListValue {
        values: vec![number(HELD_REQUESTS), number(HELD_MS)],
    };
    let limits = Value {
        kind: Some(Kind::ListValue(limits)),
    };
    let ours = Struct {
        fields: [(api::xds::HOLD.to_owned(), limits)].into(),
    };
    Metadata {
        filter_metadata: [(api::xds::ROUTE_METADATA.to_owned(), ours)].into(),
        ..Metadata::default()
    }
}

fn to_cluster(name: String) -> ClusterSpecifier {
    ClusterSpecifier::Cluster(name)
}

fn weighted(service: &Service, migration: &MigrationRouting, weights: Weights) -> ClusterSpecifier {
    let side = |side| side_cluster(&service.id, &migration.instance, side);
    let weight = |name: String, weight| ClusterWeight {
        name,
        weight: Some(number(weight)),
        ..ClusterWeight::default()
    };
    let mut clusters = Vec::new();
    if weights.others > 0 {
        clusters.push(weight(service_cluster(&service.id), weights.others));
    }
    clusters.push(weight(side(Side::Original), weights.original));
    clusters.push(weight(side(Side::Shadow), weights.shadow));
    // Stable choice by hash: a session moves at most once while the shadow's weight rises.
    let by_hash = service.sticky_header.is_some();
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters,
        random_value_specifier: by_hash.then_some(RandomValueSpecifier::UseHashPolicy(BoolValue {
            value: true,
        })),
        ..WeightedCluster::default()
    })
}

fn mirror(cluster: String, basis_points: u32) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster,
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: basis_points,
                denominator: DenominatorType::TenThousand.into(),
            }),
            runtime_key: String::new(),
        }),
        // The shadow is a replica: it must see the authority that the original sees.
        disable_shadow_host_suffix_append: true,
        ..RequestMirrorPolicy::default()
    }
}

fn route(
    name: &str,
    service: &Service,
    to: ClusterSpecifier,
    mirror: Option<RequestMirrorPolicy>,
) -> Route {
    let headers = mirror.iter().map(|_| safe_methods()).collect();
    Route {
        name: format!("{}/{name}", service.id),
        r#match: Some(RouteMatch {
            headers,
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            timeout: Some(millis(service.timeout_ms)),
            retry_policy: Some(retries()),
            hash_policy: service
                .sticky_header
                .as_deref()
                .map(by_header)
                .into_iter()
                .collect(),
            request_mirror_policies: mirror.into_iter().collect(),
            cluster_specifier: Some(to),
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}

fn safe_methods() -> HeaderMatcher {
    HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(RegexMatcher {
                regex: SAFE_METHODS.to_owned(),
                ..RegexMatcher::default()
            })),
            ..StringMatcher::default()
        })),
        ..HeaderMatcher::default()
    }
}

fn retries() -> RetryPolicy {
    RetryPolicy {
        retry_on: RETRY_ON.to_owned(),
        num_retries: Some(number(RETRIES)),
        // Choose the cluster anew, so that a dead replica is left and not tried again.
        refresh_cluster_on_retry: true,
        ..RetryPolicy::default()
    }
}

fn by_header(header: &str) -> HashPolicy {
    HashPolicy {
        terminal: false,
        policy_specifier: Some(PolicySpecifier::Header(Header {
            header_name: header.to_owned(),
            regex_rewrite: None,
        })),
    }
}
