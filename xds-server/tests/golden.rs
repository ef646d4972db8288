//! The resources of typical states, compared with files. `UPDATE_GOLDEN=1` writes them anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use std::fmt::Write as _;
use std::path::Path;

use api::envoy::envoy::config::cluster::v3::Cluster;
use api::envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use api::envoy::envoy::config::listener::v3::Listener;
use api::envoy::envoy::config::route::v3::{
    RouteConfiguration, route::Action, route_action::ClusterSpecifier,
};
use common::world::{Scene, bp};
use domain::WeightSplit;
use foreshadow_xds_server::resources::{ListenAddress, Resource, ResourceSet, build, ingress};
use proptest::prelude::*;
use prost::Message;

/// A message as text, without the fields that are at their default.
fn text(message: &impl std::fmt::Debug) -> String {
    let mut out = String::new();
    for line in format!("{message:#?}").lines() {
        let value = line
            .trim()
            .split_once(": ")
            .map(|(key, value)| (key, value.trim_end_matches(',')));
        let silent = match value {
            Some(("value", _)) | None => false,
            Some((_, value)) => ["None", "[]", "\"\"", "0", "false", "{}"].contains(&value),
        };
        if !silent {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

fn decoded<M: Message + Default + std::fmt::Debug>(resource: &Resource) -> String {
    let message = M::decode(resource.any.value.as_slice()).unwrap();
    format!(
        "{} {} @ {}\n{}",
        resource.any.type_url,
        resource.name,
        resource.version,
        text(&message)
    )
}

fn dump(set: &ResourceSet) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(
        set.clusters
            .values()
            .map(|resource| decoded::<Cluster>(resource)),
    );
    parts.extend(
        set.endpoints
            .values()
            .map(|resource| decoded::<ClusterLoadAssignment>(resource)),
    );
    parts.push(decoded::<RouteConfiguration>(&set.routes));
    parts.join("\n")
}

fn check(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
        return;
    }
    let wanted = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{name}: {error}; write it with UPDATE_GOLDEN=1"));
    assert!(
        found == wanted,
        "{name} differs from what is expected; found:\n{found}\nWrite it anew with UPDATE_GOLDEN=1 if that is meant."
    );
}

#[test]
fn steady_state() {
    let scene = Scene::new("shop", 3).domain("shop.example.com");
    check("steady.txt", &dump(&build(&scene.inputs())));
}

#[test]
fn migration_at_100_basis_points() {
    let scene = Scene::new("shop", 3).migrate(1, bp(100), false);
    check("migration-100.txt", &dump(&build(&scene.inputs())));
}

#[test]
fn migration_at_5000_basis_points_with_mirror() {
    let scene = Scene::new("shop", 2).migrate(1, bp(5_000), true);
    check("migration-5000-mirror.txt", &dump(&build(&scene.inputs())));
}

#[test]
fn migration_of_a_lone_instance() {
    let scene = Scene::new("shop", 1).migrate(1, bp(2_500), false);
    check("migration-lone.txt", &dump(&build(&scene.inputs())));
}

#[test]
fn migration_of_a_sticky_service() {
    let scene = Scene::new("cart", 2)
        .sticky("x-session")
        .migrate(1, bp(1_000), false);
    check("migration-sticky.txt", &dump(&build(&scene.inputs())));
}

#[test]
fn listener() {
    let address = ListenAddress("127.0.0.1:10000".parse().unwrap());
    check("listener.txt", &decoded::<Listener>(&ingress(address)));
}

#[test]
fn a_domain_claimed_twice_goes_to_one_service_so_that_envoy_does_not_refuse_both() {
    let mut inputs = Scene::new("a", 1).domain("B").domain("common").inputs();
    inputs.extend(Scene::new("b", 1).domain("common").inputs());
    let routes = RouteConfiguration::decode(build(&inputs).routes.any.value.as_slice()).unwrap();
    let domains: Vec<_> = routes
        .virtual_hosts
        .iter()
        .map(|host| host.domains.clone())
        .collect();
    assert_eq!(
        domains,
        [vec!["a", "a:*", "common", "common:*"], vec!["b", "b:*"]]
    );
}

fn named(routes: &RouteConfiguration) -> Vec<Vec<(String, Option<u32>)>> {
    let routes = routes.virtual_hosts.iter().flat_map(|host| &host.routes);
    routes
        .map(|route| {
            let Some(Action::Route(action)) = &route.action else {
                panic!("no route action")
            };
            let mirrors = action
                .request_mirror_policies
                .iter()
                .map(|mirror| (mirror.cluster.clone(), None));
            let targets: Vec<(String, Option<u32>)> = match action.cluster_specifier.as_ref() {
                Some(ClusterSpecifier::Cluster(name)) => vec![(name.clone(), Some(10_000))],
                Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted
                    .clusters
                    .iter()
                    .map(|cluster| (cluster.name.clone(), cluster.weight.map(|w| w.value)))
                    .collect(),
                other => panic!("unexpected {other:?}"),
            };
            targets.into_iter().chain(mirrors).collect()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn routes_name_only_what_exists_and_their_weights_make_the_whole(
        count in 1_u16..40, shadow in 0_u32..=10_000, mirror: bool, migrating: bool,
    ) {
        let mut scene = Scene::new("shop", count);
        if migrating {
            scene = scene.migrate(1, bp(shadow), mirror);
        }
        let set = build(&scene.inputs());
        let routes = RouteConfiguration::decode(set.routes.any.value.as_slice()).unwrap();
        for targets in named(&routes) {
            let total: u32 = targets.iter().filter_map(|(_, weight)| *weight).sum();
            prop_assert_eq!(total, 10_000);
            for (cluster, _) in targets {
                prop_assert!(set.clusters.contains_key(cluster.as_str()), "{}", cluster);
            }
        }
        let clusters: Vec<_> = set.clusters.keys().collect();
        let endpoints: Vec<_> = set.endpoints.keys().collect();
        prop_assert_eq!(clusters, endpoints);
        // Same input, same bytes.
        prop_assert_eq!(build(&scene.inputs()), set);
    }
}

#[test]
fn a_split_of_nothing_gives_the_shadow_no_weight() {
    let scene = Scene::new("shop", 3).migrate(1, WeightSplit::ORIGINAL, true);
    let set = build(&scene.inputs());
    let routes = RouteConfiguration::decode(set.routes.any.value.as_slice()).unwrap();
    let general = named(&routes).pop().unwrap();
    assert!(
        general.contains(&("shop~shop-1~shadow".to_owned(), Some(0))),
        "{general:?}"
    );
}
