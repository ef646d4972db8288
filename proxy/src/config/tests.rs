//! Domains, and what is refused.

use std::time::Duration;

use api::envoy::envoy::config::core::v3::TransportSocket;
use api::envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use api::envoy::envoy::config::route::v3::{
    QueryParameterMatcher, RouteConfiguration, Vhds, route_match::PathSpecifier,
};
use api::envoy::google::protobuf::{BoolValue, Duration as WireDuration, UInt32Value};
use proptest::prelude::*;
use prost::Message;

use super::parse;
use super::*;
use crate::telemetry::Registry;
use crate::xds::fixtures;

#[test]
fn authorities_are_matched_as_envoy_does() {
    let mut map = DomainMap::default();
    for (value, domain) in [
        "Shop",
        "shop:*",
        "*.example.com",
        "*.a.example.com",
        "www.*",
        "*",
    ]
    .iter()
    .enumerate()
    {
        map.insert(domain, value).unwrap();
    }
    let cases = [
        ("shop", 0),
        ("SHOP", 0),
        ("shop:80", 1),
        ("Shop:8080", 1),
        ("shop:", 5),
        ("x.example.com", 2),
        ("x.a.example.com", 3),
        (".example.com", 5),
        ("www.org", 4),
        ("www.example.com", 2),
        ("other", 5),
        ("", 5),
    ];
    for (authority, expected) in cases {
        assert_eq!(map.get(authority), Some(&expected), "{authority:?}");
    }
    assert!(map.insert("SHOP", 9).is_err());
    assert!(map.insert("a*b", 9).is_err());
    assert!(map.insert("", 9).is_err());
}

#[test]
fn a_cluster_that_would_be_spoken_to_differently_is_refused() {
    let good = fixtures::cluster_message("a");
    assert_eq!(parse::cluster(good.clone()).unwrap().endpoints, "a");
    let mut tls = good.clone();
    tls.transport_socket = Some(TransportSocket::default());
    let refusal = parse::cluster(tls).unwrap_err();
    assert!(
        refusal.to_string().contains("transport_socket"),
        "{refusal}"
    );
    let mut fixed = good.clone();
    fixed.cluster_discovery_type = None;
    assert!(
        parse::cluster(fixed)
            .unwrap_err()
            .to_string()
            .contains("EDS")
    );
    let mut timeout = good;
    timeout.connect_timeout = Some(WireDuration {
        seconds: -1,
        nanos: 0,
    });
    assert!(
        parse::cluster(timeout)
            .unwrap_err()
            .to_string()
            .contains("connect_timeout is -1s")
    );
}

#[test]
fn a_route_with_anything_that_is_not_understood_is_refused() {
    type Change = fn(&mut RouteConfiguration);
    let cases: [(Change, &str); 8] = [
        (
            |c| c.virtual_hosts[0].routes[0].r#match = None,
            "match is missing",
        ),
        (
            |c| matcher(c).case_sensitive = Some(BoolValue { value: false }),
            "case_sensitive",
        ),
        (
            |c| matcher(c).path_specifier = Some(PathSpecifier::Path("/".into())),
            "by prefix",
        ),
        (
            |c| {
                matcher(c)
                    .query_parameters
                    .push(QueryParameterMatcher::default());
            },
            "query_parameters",
        ),
        (|c| action(c).prefix_rewrite = "/x".into(), "prefix_rewrite"),
        (
            |c| {
                action(c).timeout = Some(WireDuration {
                    seconds: 0,
                    nanos: -1,
                });
            },
            "timeout is",
        ),
        (
            |c| c.virtual_hosts[0].routes[0].action = None,
            "only routes to clusters",
        ),
        (|c| c.vhds = Some(Vhds::default()), "vhds"),
    ];
    let good = fixtures::route_message("s", &[("a", 1)]);
    let spec = parse::routes(good.clone()).unwrap();
    assert_eq!(
        spec.hosts[0].routes[0].timeout,
        Some(Duration::from_secs(15))
    );
    for (change, reason) in cases {
        let mut bad = good.clone();
        change(&mut bad);
        let refusal = parse::routes(bad).unwrap_err();
        assert!(
            refusal.to_string().contains(reason),
            "{refusal} should say {reason}"
        );
    }
}

fn matcher(
    message: &mut RouteConfiguration,
) -> &mut api::envoy::envoy::config::route::v3::RouteMatch {
    message.virtual_hosts[0].routes[0].r#match.as_mut().unwrap()
}

fn action(
    message: &mut RouteConfiguration,
) -> &mut api::envoy::envoy::config::route::v3::RouteAction {
    use api::envoy::envoy::config::route::v3::route::Action;
    let Some(Action::Route(action)) = message.virtual_hosts[0].routes[0].action.as_mut() else {
        panic!("no route");
    };
    action
}

#[test]
fn endpoints_have_weights_of_at_least_one_and_unhealthy_ones_are_left_out() {
    let message = fixtures::endpoints("a", 3);
    let mut message = ClusterLoadAssignment::decode(&*message.resource.unwrap().value).unwrap();
    message.endpoints[0].lb_endpoints[0].health_status = 2;
    message.endpoints[0].lb_endpoints[1].load_balancing_weight = Some(UInt32Value { value: 7 });
    let spec = parse::assignment(message.clone()).unwrap();
    assert_eq!(
        spec.endpoints.iter().map(|e| e.weight).collect::<Vec<_>>(),
        [7, 1]
    );
    message.endpoints[0].lb_endpoints[1].load_balancing_weight = Some(UInt32Value { value: 0 });
    assert!(
        parse::assignment(message)
            .unwrap_err()
            .to_string()
            .contains("weight 0")
    );
}

#[test]
fn what_is_known_of_a_cluster_outlives_the_table() {
    let registry = Registry::default();
    let link = |weights: &[(&str, u32)], count, before: &RoutingTable| {
        let messages = vec![
            fixtures::cluster("a"),
            fixtures::endpoints("a", count),
            fixtures::routes("s", weights),
        ];
        RoutingTable::link(&Resources::restore(messages).unwrap(), before, &registry)
    };
    let first = link(&[("a", 3)], 2, &RoutingTable::default());
    first.clusters()["a"].endpoints.endpoints[0]
        .suspicion
        .failed(0);
    let before: Vec<u64> = (0..2)
        .map(|_| first.host("s").unwrap().routes[0].sequence.next_point())
        .collect();
    let second = link(&[("a", 3)], 3, &first);
    assert!(
        second.clusters()["a"].endpoints.endpoints[0]
            .suspicion
            .is_suspect(1)
    );
    let third = second.host("s").unwrap().routes[0].sequence.next_point();
    assert!(!before.contains(&third), "{before:?} goes on with {third}");
    assert_eq!(second.revision, 2);
}

proptest! {
    #[test]
    fn bytes_of_any_kind_are_refused_or_understood_but_never_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(message) = RouteConfiguration::decode(&*bytes) {
            let _ = parse::routes(message);
        }
        if let Ok(message) = ClusterLoadAssignment::decode(&*bytes) {
            let _ = parse::assignment(message);
        }
    }
}
