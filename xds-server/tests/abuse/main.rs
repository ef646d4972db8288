//! What a hostile or broken client may say: the server stays up, its memory stays bounded, and an honest
//! client beside it is served.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests say what they expect by failing"
)]

#[path = "../common/mod.rs"]
mod common;
mod driver;
mod frames;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use api::envoy::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use common::client::{Delta, node};
use common::world::{Scene, bp};
use foreshadow_xds_server::{XdsConfig, XdsServer};
use proptest::prelude::*;
use store::{MemoryStore, SharedStore, SystemClock};
use tonic::Code;

/// Most bytes by which the process may grow while it is attacked.
const MAX_GROWTH_KIB: u64 = 300 * 1024;

async fn server() -> XdsServer {
    let store: SharedStore = Arc::new(MemoryStore::new());
    Scene::new("shop", 2)
        .migrate(1, bp(100), false)
        .save(&store)
        .await;
    let config = XdsConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..XdsConfig::default()
    };
    XdsServer::start(config, store, Arc::new(SystemClock))
        .await
        .unwrap()
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Somebody who wants what everybody wants.
async fn an_honest_client_is_served(server: SocketAddr, id: &str) {
    let mut client = Delta::connect(server).await;
    client.subscribe(id, api::xds::CLUSTER, &[]).await;
    let clusters = client.next().await;
    assert_eq!(clusters.resources.len(), 3);
    client.ack(&clusters).await;
    client
        .subscribe(id, api::xds::ROUTE, &[api::xds::ROUTE_CONFIG])
        .await;
    assert_eq!(client.next().await.type_url, api::xds::ROUTE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_frames_and_floods_cost_the_attacker_his_connection_and_nobody_else_anything() {
    let server = server().await;
    let at = server.local_addr();
    an_honest_client_is_served(at, "before").await;
    let before = rss_kib();
    for attack in frames::ALL {
        let mut attackers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            attackers.spawn(frames::send(at, attack));
        }
        an_honest_client_is_served(at, "beside").await;
        attackers.join_all().await;
        an_honest_client_is_served(at, "after").await;
    }
    let grown = rss_kib().saturating_sub(before);
    assert!(grown < MAX_GROWTH_KIB, "{grown} KiB more");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_in_any_number_and_of_any_kind_end_the_stream_and_memory_stays_bounded() {
    let server = server().await;
    let at = server.local_addr();
    let before = rss_kib();
    for round in 0..40 {
        let mut client = Delta::connect(at).await;
        let long: Vec<String> = (0..100_000)
            .map(|number| format!("{round}-{number}"))
            .collect();
        let wide: Vec<String> = (0..4_000)
            .map(|number| format!("{number:0>1000}"))
            .collect();
        let names = if round % 2 == 0 { long } else { wide };
        let request = DeltaDiscoveryRequest {
            node: Some(node("greedy")),
            type_url: api::xds::ENDPOINT.to_owned(),
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        };
        client.send(request).await;
        let status = client.try_next().await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
    for bad in [
        "",
        "\u{0}",
        "a\nb",
        "../../etc/passwd\u{7f}",
        &"x".repeat(64 * 1024),
    ] {
        let mut client = Delta::connect(at).await;
        client.subscribe("odd", api::xds::ENDPOINT, &[bad]).await;
        let status = client.try_next().await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
    // Odd, but a name.
    let mut client = Delta::connect(at).await;
    let odd = [
        "../../etc/passwd",
        "a//b",
        "\u{202e}pohs",
        "xdstp://%",
        "*/*",
    ];
    client.subscribe("odd", api::xds::ENDPOINT, &odd).await;
    let response = client.next().await;
    assert_eq!(
        (response.resources.len(), response.removed_resources.len()),
        (0, 5)
    );
    // A message that is too large.
    let mut client = Delta::connect(at).await;
    let huge = "x".repeat(5 * 1024 * 1024);
    client.subscribe("huge", api::xds::ENDPOINT, &[&huge]).await;
    assert!(!matches!(client.try_next().await, Ok(Some(_))));
    an_honest_client_is_served(at, "honest").await;
    let grown = rss_kib().saturating_sub(before);
    assert!(grown < MAX_GROWTH_KIB, "{grown} KiB more");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_more_streams_than_any_needs_loses_its_oldest() {
    let server = server().await;
    let at = server.local_addr();
    let mut streams = Vec::new();
    for _ in 0..17 {
        let mut client = Delta::connect(at).await;
        client.subscribe("many", api::xds::CLUSTER, &["shop"]).await;
        client.next().await;
        streams.push(client);
    }
    let status = streams[0].try_next().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("16"), "{status}");
    streams[16]
        .subscribe("many", api::xds::ENDPOINT, &["shop"])
        .await;
    assert_eq!(streams[16].next().await.type_url, api::xds::ENDPOINT);
    an_honest_client_is_served(at, "honest").await;
    server.shutdown().await;
}

/// Inputs worth keeping: those written by hand, and whatever is found later.
#[test]
fn every_input_of_the_corpus_is_taken_without_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abuse/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        driver::run(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count >= 12, "only {count} inputs");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_clients_say_an_honest_one_is_served_afterwards(
        words in prop::collection::vec(driver::word(), 1..60),
    ) {
        driver::run(&driver::encode(&words));
    }

    #[test]
    fn bytes_without_sense_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        driver::run(&bytes);
    }
}

/// Writes the inputs that were made by hand: `WRITE_CORPUS=1 cargo test --workspace --test abuse`.
#[test]
fn the_corpus_made_by_hand_is_the_one_in_the_repository() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abuse/corpus");
    for (name, words) in driver::by_hand() {
        let bytes = driver::encode(&words);
        let path = folder.join(name);
        if std::env::var_os("WRITE_CORPUS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
    }
}
