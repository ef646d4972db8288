//! Protocol buffers to plain values.
//!
//! What is understood is taken out of the message; if what is left is not the default, the message
//! says something that is not understood, and is refused.

use std::mem::take;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use api::envoy::envoy::config::cluster::v3::Cluster;
use api::envoy::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use api::envoy::envoy::config::core::v3::{
    Address, HealthStatus, Metadata, address, config_source::ConfigSourceSpecifier,
    socket_address::PortSpecifier,
};
use api::envoy::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier,
};
use api::envoy::envoy::config::route::v3::{
    HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    WeightedCluster,
    header_matcher::HeaderMatchSpecifier,
    route::Action,
    route_action::{
        ClusterSpecifier, HashPolicy, RequestMirrorPolicy, hash_policy::PolicySpecifier,
    },
    route_match::PathSpecifier,
    weighted_cluster::RandomValueSpecifier,
};
use api::envoy::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use api::envoy::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use api::envoy::google::protobuf::{Duration as WireDuration, value::Kind};

use super::Refusal;
use super::domains::DomainMap;
use super::spec::{
    Assignment, ClusterSpec, EndpointSpec, HashHeader, HoldSpec, HostSpec, MirrorSpec, RouteSpec,
    RoutesSpec, TargetSpec,
};

/// Envoy's default for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Envoy's default for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Most endpoints of a cluster.
const MAX_ENDPOINTS: usize = 10_000;

type Parsed<T> = Result<T, Refusal>;

/// A cluster.
pub fn cluster(message: Cluster) -> Parsed<ClusterSpec> {
    let object = format!("cluster {:?}", message.name);
    let refuse = |reason: &str| Err(Refusal::new(&object, reason));
    if message.name.is_empty() {
        return refuse("it has no name");
    }
    let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds.into());
    let (Some(config), true) = (
        &message.eds_cluster_config,
        message.cluster_discovery_type.as_ref() == Some(&eds),
    ) else {
        return refuse("only clusters of type EDS are understood");
    };
    let source = config
        .eds_config
        .as_ref()
        .and_then(|c| c.config_source_specifier.as_ref());
    if !matches!(
        source,
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_))
    ) {
        return refuse("its endpoints must come over the aggregated stream (ads)");
    }
    if message.transport_socket.is_some()
        || !message.transport_socket_matches.is_empty()
        || message.transport_socket_matcher.is_some()
    {
        return refuse("transport_socket is not understood: only plain TCP is spoken to it");
    }
    #[expect(
        deprecated,
        reason = "a peer may still use it, and it changes what is spoken"
    )]
    let http2 = message.http2_protocol_options.is_some();
    if http2 || !message.typed_extension_protocol_options.is_empty() {
        return refuse("protocol options are not understood: only HTTP/1.1 is spoken to it");
    }
    let endpoints = match config.service_name.as_str() {
        "" => message.name.clone(),
        name => name.to_owned(),
    };
    let connect_timeout = optional(&object, "connect_timeout", message.connect_timeout.as_ref())?;
    Ok(ClusterSpec {
        name: message.name,
        endpoints,
        connect_timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT),
    })
}

/// The endpoints of a cluster: those of the first priority that are not said to be unhealthy.
pub fn assignment(message: ClusterLoadAssignment) -> Parsed<Assignment> {
    let object = format!("endpoints of {:?}", message.cluster_name);
    let mut endpoints = Vec::new();
    let first = message
        .endpoints
        .iter()
        .map(|locality| locality.priority)
        .min();
    for locality in message.endpoints {
        if locality.lb_config.is_some() {
            return Err(Refusal::new(object, "lb_config (LEDS) is not understood"));
        }
        if Some(locality.priority) != first {
            continue;
        }
        for endpoint in &locality.lb_endpoints {
            endpoints.extend(one_endpoint(&object, endpoint)?);
        }
    }
    if endpoints.len() > MAX_ENDPOINTS {
        let reason = format!(
            "{} endpoints; at most {MAX_ENDPOINTS} are allowed",
            endpoints.len()
        );
        return Err(Refusal::new(object, reason));
    }
    let total: u64 = endpoints
        .iter()
        .map(|endpoint| u64::from(endpoint.weight))
        .sum();
    if total > u64::from(u32::MAX) {
        return Err(Refusal::new(
            object,
            format!("the weights sum to {total}, above 2^32 - 1"),
        ));
    }
    Ok(Assignment { endpoints })
}

fn one_endpoint(object: &str, message: &LbEndpoint) -> Parsed<Option<EndpointSpec>> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &message.host_identifier else {
        return Err(Refusal::new(
            object,
            "an endpoint without an address is not understood",
        ));
    };
    let address = socket(object, endpoint.address.as_ref())?;
    let weight = message
        .load_balancing_weight
        .as_ref()
        .map_or(1, |weight| weight.value);
    if weight == 0 {
        return Err(Refusal::new(
            object,
            format!("{address} has weight 0; it must be at least 1"),
        ));
    }
    let usable = [
        HealthStatus::Unknown,
        HealthStatus::Healthy,
        HealthStatus::Degraded,
    ];
    let health = HealthStatus::try_from(message.health_status);
    let usable = health.is_ok_and(|health| usable.contains(&health));
    Ok(usable.then_some(EndpointSpec { address, weight }))
}

fn socket(object: &str, address: Option<&Address>) -> Parsed<SocketAddr> {
    let Some(address::Address::SocketAddress(socket)) = address.and_then(|a| a.address.as_ref())
    else {
        return Err(Refusal::new(object, "only socket addresses are understood"));
    };
    let ip: Result<IpAddr, _> = socket.address.parse();
    let port = match socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).ok(),
        Some(PortSpecifier::NamedPort(_)) | None => None,
    };
    match (ip, port) {
        (Ok(ip), Some(port)) if port > 0 => Ok(SocketAddr::new(ip, port)),
        _ => {
            let reason = format!(
                "{:?} with its port is no IP address and port",
                socket.address
            );
            Err(Refusal::new(object, reason))
        }
    }
}

/// The route configuration.
pub fn routes(mut message: RouteConfiguration) -> Parsed<RoutesSpec> {
    let object = format!("route configuration {:?}", take(&mut message.name));
    let virtual_hosts = take(&mut message.virtual_hosts);
    message.validate_clusters = None;
    message.metadata = None;
    nothing_else(&object, &message)?;
    let mut seen: DomainMap<()> = DomainMap::default();
    let mut hosts = Vec::with_capacity(virtual_hosts.len());
    for host in virtual_hosts {
        let object = format!("virtual host {:?}", host.name);
        for domain in &host.domains {
            let taken = |reason| Refusal::new(&object, format!("domain {domain:?}: {reason}"));
            seen.insert(domain, ()).map_err(taken)?;
        }
        hosts.push(virtual_host(&object, host)?);
    }
    Ok(RoutesSpec { hosts })
}

fn virtual_host(object: &str, mut message: VirtualHost) -> Parsed<HostSpec> {
    let name = take(&mut message.name);
    let domains = take(&mut message.domains);
    let routes = take(&mut message.routes);
    message.retry_policy = None;
    message.metadata = None;
    nothing_else(object, &message)?;
    let routes = routes.into_iter().enumerate();
    let routes = routes.map(|(index, route)| one_route(object, index, route));
    Ok(HostSpec {
        name,
        domains: domains
            .iter()
            .map(|domain| domain.to_ascii_lowercase())
            .collect(),
        routes: routes.collect::<Parsed<_>>()?,
    })
}

fn one_route(host: &str, index: usize, mut message: Route) -> Parsed<RouteSpec> {
    let name = take(&mut message.name);
    let name = if name.is_empty() {
        format!("#{index}")
    } else {
        name
    };
    let object = format!("{host}, route {name:?}");
    let matcher = message.r#match.take();
    let action = message.action.take();
    let hold = match message.metadata.take() {
        Some(metadata) => hold(&object, &metadata)?,
        None => None,
    };
    message.decorator = None;
    message.stat_prefix.clear();
    nothing_else(&object, &message)?;
    let Some(matcher) = matcher else {
        return Err(Refusal::new(object, "match is missing"));
    };
    let (prefix, methods) = matching(&object, matcher)?;
    let Some(Action::Route(action)) = action else {
        return Err(Refusal::new(
            object,
            "only routes to clusters are understood",
        ));
    };
    let mut route = action_of(&object, action)?;
    route.name = name;
    route.prefix = prefix;
    route.methods = methods;
    route.hold = hold;
    Ok(route)
}

/// What our own metadata says; that of others says nothing to us.
fn hold(object: &str, metadata: &Metadata) -> Parsed<Option<HoldSpec>> {
    let Some(ours) = metadata.filter_metadata.get(api::xds::ROUTE_METADATA) else {
        return Ok(None);
    };
    let limits = match ours.fields.get(api::xds::HOLD).map(|value| &value.kind) {
        None => return Ok(None),
        Some(Some(Kind::ListValue(list))) => &*list.values,
        Some(_) => &[],
    };
    let number = |place: usize, highest: u64| {
        let value = limits.get(place).and_then(|value| value.kind.as_ref());
        let whole = match value {
            Some(Kind::NumberValue(number)) => format!("{number}").parse::<u64>().ok(),
            _ => None,
        };
        whole
            .filter(|number| (1..=highest).contains(number))
            .ok_or_else(|| {
                let reason = format!(
                    "metadata {:?} must be a list of two whole numbers; number {place} must be from 1 to {highest}",
                    api::xds::HOLD
                );
                Refusal::new(object, reason)
            })
    };
    let (requests, limit) = (number(0, 100_000)?, number(1, 60_000)?);
    Ok(Some(HoldSpec {
        requests: usize::try_from(requests).unwrap_or(usize::MAX),
        limit: Duration::from_millis(limit),
    }))
}

fn matching(object: &str, mut message: RouteMatch) -> Parsed<(String, Option<Vec<String>>)> {
    let path = message.path_specifier.take();
    let headers = take(&mut message.headers);
    if message
        .case_sensitive
        .as_ref()
        .is_some_and(|sensitive| sensitive.value)
    {
        message.case_sensitive = None;
    }
    nothing_else(&format!("{object}, match"), &message)?;
    let Some(PathSpecifier::Prefix(prefix)) = path else {
        return Err(Refusal::new(object, "only paths by prefix are understood"));
    };
    let mut methods: Option<Vec<String>> = None;
    for header in &headers {
        let these = methods_of(object, header)?;
        methods = Some(match methods {
            None => these,
            Some(before) => before
                .into_iter()
                .filter(|one| these.contains(one))
                .collect(),
        });
    }
    Ok((prefix, methods))
}

/// The methods that a header matcher on `:method` lets pass.
fn methods_of(object: &str, message: &HeaderMatcher) -> Parsed<Vec<String>> {
    let refuse = |reason: &str| {
        Err(Refusal::new(
            object,
            format!("header matcher {:?}: {reason}", message.name),
        ))
    };
    if message.name != ":method" {
        return refuse("only :method is understood");
    }
    if message.invert_match || message.treat_missing_header_as_empty {
        return refuse("invert_match and treat_missing_header_as_empty are not understood");
    }
    let Some(HeaderMatchSpecifier::StringMatch(text)) = &message.header_match_specifier else {
        return refuse("only string_match is understood");
    };
    if text.ignore_case {
        return refuse("ignore_case is not understood");
    }
    let alternatives = match &text.match_pattern {
        Some(MatchPattern::Exact(method)) => vec![method.clone()],
        Some(MatchPattern::SafeRegex(regex)) => regex.regex.split('|').map(str::to_owned).collect(),
        _ => return refuse("only exact and safe_regex are understood"),
    };
    // Anything but letters could be an operator of the regular expression.
    let plain = |method: &String| {
        !method.is_empty()
            && method
                .bytes()
                .all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
    };
    if !alternatives.iter().all(plain) {
        return refuse("only a list of methods as \"GET|HEAD\" is understood");
    }
    Ok(alternatives)
}

/// A route as far as its action says; the rest is the caller's.
fn action_of(object: &str, mut message: RouteAction) -> Parsed<RouteSpec> {
    let clusters = message.cluster_specifier.take();
    let timeout = message.timeout.take();
    let policies = take(&mut message.hash_policy);
    let mirrors = take(&mut message.request_mirror_policies);
    // Ours are fixed: what never reached a replica is tried elsewhere, nothing else is repeated.
    message.retry_policy = None;
    // Connections that are idle are closed in any case.
    message.idle_timeout = None;
    nothing_else(&format!("{object}, action"), &message)?;
    let timeout = match optional(object, "timeout", timeout.as_ref())? {
        None => Some(REQUEST_TIMEOUT),
        Some(Duration::ZERO) => None,
        some => some,
    };
    let (targets, by_hash) = match clusters {
        Some(ClusterSpecifier::Cluster(cluster)) => {
            (vec![TargetSpec { cluster, weight: 1 }], false)
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted_clusters(object, weighted)?,
        _ => {
            return Err(Refusal::new(
                object,
                "only cluster and weighted_clusters are understood",
            ));
        }
    };
    let sticky = policies.iter().map(|policy| hash_header(object, policy));
    let sticky: Vec<HashHeader> = sticky.collect::<Parsed<_>>()?;
    let mirrors = mirrors.into_iter().map(|policy| mirror(object, policy));
    Ok(RouteSpec {
        name: String::new(),
        prefix: String::new(),
        methods: None,
        targets,
        sticky: if by_hash { sticky } else { Vec::new() },
        timeout,
        mirrors: mirrors.collect::<Parsed<_>>()?,
        hold: None,
    })
}

fn weighted_clusters(
    object: &str,
    mut message: WeightedCluster,
) -> Parsed<(Vec<TargetSpec>, bool)> {
    let clusters = take(&mut message.clusters);
    #[expect(
        deprecated,
        reason = "a peer may still send it; the sum is what counts"
    )]
    {
        message.total_weight = None;
    }
    let mut by_hash = false;
    if let Some(RandomValueSpecifier::UseHashPolicy(on)) = message.random_value_specifier {
        message.random_value_specifier = None;
        by_hash = on.value;
    }
    nothing_else(&format!("{object}, weighted_clusters"), &message)?;
    let mut targets = Vec::with_capacity(clusters.len());
    for mut entry in clusters {
        let cluster = take(&mut entry.name);
        let weight = entry.weight.take().map_or(0, |weight| weight.value);
        let object = format!("{object}, weighted cluster {cluster:?}");
        nothing_else(&object, &entry)?;
        if cluster.is_empty() {
            return Err(Refusal::new(object, "it has no name"));
        }
        targets.push(TargetSpec { cluster, weight });
    }
    let total: u64 = targets.iter().map(|target| u64::from(target.weight)).sum();
    if total == 0 || total > u64::from(u32::MAX) {
        let reason = format!("the weights sum to {total}; it must be from 1 to 2^32 - 1");
        return Err(Refusal::new(object, reason));
    }
    Ok((targets, by_hash))
}

fn hash_header(object: &str, message: &HashPolicy) -> Parsed<HashHeader> {
    let Some(PolicySpecifier::Header(header)) = &message.policy_specifier else {
        return Err(Refusal::new(
            object,
            "hash_policy: only header is understood",
        ));
    };
    if header.regex_rewrite.is_some() {
        return Err(Refusal::new(
            object,
            "hash_policy: regex_rewrite is not understood",
        ));
    }
    let name = header.header_name.parse().map_err(|_| {
        let reason = format!(
            "hash_policy: {:?} is no name of a header",
            header.header_name
        );
        Refusal::new(object, reason)
    })?;
    Ok(HashHeader {
        name,
        terminal: message.terminal,
    })
}

fn mirror(object: &str, mut message: RequestMirrorPolicy) -> Parsed<MirrorSpec> {
    let cluster = take(&mut message.cluster);
    let object = format!("{object}, mirror to {cluster:?}");
    let fraction = message
        .runtime_fraction
        .take()
        .and_then(|fraction| fraction.default_value);
    let same_authority = take(&mut message.disable_shadow_host_suffix_append);
    message.trace_sampled = None;
    nothing_else(&object, &message)?;
    let all = FractionalPercent {
        numerator: 100,
        denominator: DenominatorType::Hundred.into(),
    };
    let fraction = fraction.unwrap_or(all);
    let out_of = match DenominatorType::try_from(fraction.denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => return Err(Refusal::new(object, "the denominator is not understood")),
    };
    Ok(MirrorSpec {
        cluster,
        out_of,
        copied: fraction.numerator.min(out_of),
        same_authority,
    })
}

/// Refuses what is left of a message after the understood was taken out.
fn nothing_else<M: Default + PartialEq + std::fmt::Debug>(object: &str, rest: &M) -> Parsed<()> {
    if *rest == M::default() {
        return Ok(());
    }
    let difference = first_difference(&format!("{rest:#?}"), &format!("{:#?}", M::default()));
    Err(Refusal::new(
        object,
        format!("{difference} is not understood"),
    ))
}

/// The first line in which two values differ: names the field.
fn first_difference(text: &str, usual: &str) -> String {
    let mut lines = text.lines().zip(usual.lines());
    let line = lines
        .find(|(one, other)| one != other)
        .map_or(text, |(one, _)| one);
    let field = line.split(':').next().unwrap_or(line).trim();
    format!("{:?}", field.chars().take(60).collect::<String>())
}

fn optional(object: &str, field: &str, value: Option<&WireDuration>) -> Parsed<Option<Duration>> {
    let Some(value) = value else { return Ok(None) };
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => {
            Ok(Some(Duration::new(seconds, nanos)))
        }
        _ => {
            let reason = format!(
                "{field} is {}s {}ns; it must be 0 or more",
                value.seconds, value.nanos
            );
            Err(Refusal::new(object, reason))
        }
    }
}
