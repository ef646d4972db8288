//! Shares, stickiness, retries.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::config::{Resources, Route, RoutingTable};
use crate::telemetry::Registry;
use crate::xds::fixtures;

/// The route of a service whose clusters have these weights and numbers of endpoints.
fn route(clusters: &[(u32, usize)]) -> Arc<Route> {
    let names: Vec<String> = (0..clusters.len())
        .map(|index| format!("c{index}"))
        .collect();
    let mut messages = Vec::new();
    for (name, (_, endpoints)) in names.iter().zip(clusters) {
        messages.push(fixtures::cluster(name));
        messages.push(fixtures::endpoints(name, *endpoints));
    }
    let weights: Vec<(&str, u32)> = names
        .iter()
        .zip(clusters)
        .map(|(name, (weight, _))| (&**name, *weight))
        .collect();
    messages.push(fixtures::routes("s", &weights));
    let resources = Resources::restore(messages).unwrap();
    let table = RoutingTable::link(&resources, &RoutingTable::default(), &Registry::default());
    Arc::clone(&table.host("s").unwrap().routes[0])
}

fn first(route: &Route, point: u64) -> Option<usize> {
    Selection::new(point)
        .next(route, 0)
        .map(|picked| picked.target)
}

fn counts(choices: &[usize], clusters: usize) -> Vec<u64> {
    let mut counts = vec![0; clusters];
    for &choice in choices {
        counts[choice] += 1;
    }
    counts
}

#[test]
fn at_ninety_to_ten_the_minority_never_comes_twice_in_a_row() {
    let route = route(&[(9_000, 1), (1_000, 1)]);
    let choices: Vec<usize> = (0..30_000)
        .map(|_| first(&route, route.sequence.next_point()).unwrap())
        .collect();
    assert!(!choices.windows(2).any(|pair| pair == [1, 1]));
    let longest = choices
        .split(|&choice| choice == 1)
        .map(<[usize]>::len)
        .max()
        .unwrap();
    assert!(longest <= 16, "longest run of the majority: {longest}");
}

#[test]
fn all_weights_zero_is_no_choice_and_no_panic() {
    assert_eq!(by_weight([0_u64, 0].into_iter(), 7), None);
    assert_eq!(by_weight(std::iter::empty(), 7), None);
    assert_eq!(Sequence::new(0, Turn::default()).next_point(), 0);
}

#[test]
fn after_a_failed_connection_the_same_cluster_is_tried_once_more_and_then_another() {
    let route = route(&[(10_000, 3), (5, 2), (0, 1)]);
    let mut selection = Selection::new(0);
    let mut targets = Vec::new();
    let mut tried: Vec<SocketAddr> = Vec::new();
    while let Some(picked) = selection.next(&route, 0) {
        targets.push(picked.target);
        assert!(!tried.contains(&picked.endpoint.address));
        tried.push(picked.endpoint.address);
        if !selection.failed(picked.endpoint.address) {
            break;
        }
    }
    assert_eq!(targets, [0, 0, 1, 1]);
    assert_eq!(selection.first_choice(), Some(0));
}

#[test]
fn a_cluster_without_endpoints_is_passed_over_and_still_the_first_choice() {
    let route = route(&[(9_000, 0), (1_000, 1)]);
    let mut selection = Selection::new(0);
    assert_eq!(selection.next(&route, 0).unwrap().target, 1);
    assert_eq!(selection.first_choice(), Some(0));
}

#[test]
fn an_endpoint_that_failed_is_passed_over_for_a_while_but_used_when_there_is_no_other() {
    let route = route(&[(1, 2)]);
    let set = &route.targets[0].cluster.endpoints.endpoints;
    set[0].suspicion.failed(1_000);
    for _ in 0..20 {
        let picked = Selection::new(0).next(&route, 1_100).unwrap();
        assert_eq!(picked.endpoint.address, set[1].address);
    }
    set[1].suspicion.failed(1_100);
    assert!(Selection::new(0).next(&route, 1_100).is_some());
    assert!(!set[0].suspicion.is_suspect(1_500));
    // The second failure counts longer, success ends it.
    set[0].suspicion.failed(2_000);
    assert!(set[0].suspicion.is_suspect(2_999));
    set[0].suspicion.connected();
    assert!(!set[0].suspicion.is_suspect(2_001));
}

#[test]
fn headers_are_hashed_as_envoy_does() {
    let policy = |name: &'static str, terminal| crate::config::HashHeader {
        name: http::HeaderName::from_static(name),
        terminal,
    };
    let mut headers = http::HeaderMap::new();
    headers.insert("x-user", http::HeaderValue::from_static("alice"));
    let alice = xxhash_rust::xxh64::xxh64(b"alice", 0);
    assert_eq!(
        sticky_key(&[policy("x-user", false)], &headers),
        Some(alice)
    );
    assert_eq!(sticky_key(&[policy("x-other", false)], &headers), None);
    headers.insert("x-other", http::HeaderValue::from_static("b"));
    let both = alice.rotate_left(1) ^ xxhash_rust::xxh64::xxh64(b"b", 0);
    assert_eq!(
        sticky_key(
            &[policy("x-user", false), policy("x-other", false)],
            &headers
        ),
        Some(both)
    );
    assert_eq!(
        sticky_key(
            &[policy("x-user", true), policy("x-other", false)],
            &headers
        ),
        Some(alice)
    );
}

fn three_weights() -> impl Strategy<Value = [u32; 3]> {
    (0_u32..=10_000, 0_u32..=10_000).prop_map(|(one, two)| {
        let (low, high) = (one.min(two), one.max(two));
        [low, high - low, 10_000 - high]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_ten_thousand_consecutive_requests_are_split_exactly(
        weights in three_weights(), skip in 0_usize..25_000,
    ) {
        let sequence = Sequence::new(10_000, Turn::default());
        for _ in 0..skip {
            sequence.next_point();
        }
        let weights = weights.map(u64::from);
        let choices: Vec<usize> = (0..10_000)
            .map(|_| by_weight(weights.into_iter(), sequence.next_point()).unwrap())
            .collect();
        prop_assert_eq!(counts(&choices, 3), weights.to_vec());
    }

    #[test]
    fn any_few_consecutive_requests_are_split_nearly(
        shadow in 0_u64..=10_000, skip in 0_usize..25_000, window in 1_usize..2_000,
    ) {
        let sequence = Sequence::new(10_000, Turn::default());
        for _ in 0..skip {
            sequence.next_point();
        }
        let weights = [10_000 - shadow, shadow];
        let choices: Vec<usize> = (0..window)
            .map(|_| by_weight(weights.into_iter(), sequence.next_point()).unwrap())
            .collect();
        let expected = window as f64 * shadow as f64 / 10_000.0;
        let found = counts(&choices, 2)[1] as f64;
        prop_assert!((found - expected).abs() < 5.0, "{} of {}, {} expected", found, window, expected);
    }

    #[test]
    fn every_total_has_a_sequence_that_visits_each_point_once(total in 1_u64..5_000) {
        let sequence = Sequence::new(total, Turn::default());
        let mut seen: Vec<u64> = (0..total).map(|_| sequence.next_point()).collect();
        seen.sort_unstable();
        prop_assert!(seen.into_iter().eq(0..total));
    }

    #[test]
    fn raising_the_shadow_moves_no_key_back_and_lowering_it_none_forward(
        keys in prop::collection::vec(any::<u64>(), 1..200), low in 0_u64..=10_000, high in 0_u64..=10_000,
    ) {
        let (low, high) = (low.min(high), low.max(high));
        for key in keys {
            let at = |shadow: u64| by_weight([10_000 - shadow, shadow].into_iter(), key).unwrap();
            prop_assert!(at(low) <= at(high));
        }
    }

    #[test]
    fn weight_zero_is_never_chosen_not_even_after_failures(
        clusters in prop::collection::vec((0_u32..4, 0_usize..3), 1..6), point in any::<u64>(),
    ) {
        prop_assume!(clusters.iter().any(|(weight, _)| *weight > 0));
        let route = route(&clusters);
        let mut selection = Selection::new(point);
        let mut attempts: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        while let Some(picked) = selection.next(&route, 0) {
            prop_assert!(route.targets[picked.target].weight > 0);
            *attempts.entry(picked.endpoint.address).or_default() += 1;
            if !selection.failed(picked.endpoint.address) {
                break;
            }
        }
        prop_assert!(attempts.values().all(|&times| times == 1));
        let sum: u32 = attempts.values().sum();
        prop_assert!(sum <= MAX_RETRIES + 1);
        let reachable = clusters.iter().any(|(weight, endpoints)| *weight > 0 && *endpoints > 0);
        prop_assert_eq!(sum > 0, reachable);
    }
}
