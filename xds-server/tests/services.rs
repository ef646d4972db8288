//! The services beside the aggregated one: a stream per type, the nodes' status, administration.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;

use api::envoy::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use api::envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use api::envoy::envoy::service::endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient;
use api::envoy::envoy::service::listener::v3::listener_discovery_service_client::ListenerDiscoveryServiceClient;
use api::envoy::envoy::service::route::v3::route_discovery_service_client::RouteDiscoveryServiceClient;
use api::envoy::envoy::service::status::v3::{
    ClientStatusRequest, ConfigStatus,
    client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
};
use common::client::{Delta, node};
use common::until;
use common::upstream::Http;
use common::world::{Scene, bp};
use foreshadow_xds_server::{XdsConfig, XdsServer};
use store::{MemoryStore, SharedStore, SystemClock};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

async fn start(scene: &Scene) -> (SharedStore, XdsServer) {
    let store: SharedStore = Arc::new(MemoryStore::new());
    scene.save(&store).await;
    let config = XdsConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        admin: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ..XdsConfig::default()
    };
    let server = XdsServer::start(config, Arc::clone(&store), Arc::new(SystemClock))
        .await
        .unwrap();
    (store, server)
}

fn world(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(node("single")),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..DiscoveryRequest::default()
    }
}

fn delta(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node("single")),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A stream with one request on it, which stays open.
fn once<T: Send + 'static>(request: T) -> ReceiverStream<T> {
    let (requests, stream) = mpsc::channel(1);
    requests.try_send(request).unwrap();
    // The stream of a test lives as long as its runtime.
    std::mem::forget(requests);
    ReceiverStream::new(stream)
}

macro_rules! single {
    ($server:expr, $client:ident, $world:ident, $delta:ident, $names:expr, $url:expr) => {{
        let mut client = $client::connect(format!("http://{}", $server))
            .await
            .unwrap();
        let names: &[&str] = $names;
        let mut responses = client
            .$world(once(world(names)))
            .await
            .unwrap()
            .into_inner();
        let response = responses.message().await.unwrap().unwrap();
        assert_eq!(
            (response.type_url.as_str(), response.resources.len()),
            ($url, 1)
        );
        let mut responses = client
            .$delta(once(delta(names)))
            .await
            .unwrap()
            .into_inner();
        let response = responses.message().await.unwrap().unwrap();
        assert_eq!(
            (response.type_url.as_str(), response.resources.len()),
            ($url, 1)
        );
    }};
}

#[tokio::test]
async fn every_type_has_a_service_of_its_own_in_both_forms_which_needs_no_type_url() {
    let (_store, server) = start(&Scene::new("shop", 1)).await;
    let at = server.local_addr();
    single!(
        at,
        ClusterDiscoveryServiceClient,
        stream_clusters,
        delta_clusters,
        &[],
        api::xds::CLUSTER
    );
    single!(
        at,
        EndpointDiscoveryServiceClient,
        stream_endpoints,
        delta_endpoints,
        &["shop"],
        api::xds::ENDPOINT
    );
    single!(
        at,
        ListenerDiscoveryServiceClient,
        stream_listeners,
        delta_listeners,
        &["shop"],
        api::xds::LISTENER
    );
    single!(
        at,
        RouteDiscoveryServiceClient,
        stream_routes,
        delta_routes,
        &["foreshadow/shop"],
        api::xds::ROUTE
    );
    server.shutdown().await;
}

#[tokio::test]
async fn status_and_administration_show_what_a_node_has_and_what_it_refuses_and_why() {
    let scene = Scene::new("shop", 1).migrate(1, bp(0), false);
    let (store, server) = start(&scene).await;
    let mut client = Delta::connect(server.local_addr()).await;
    let all = ["shop", "shop~shop-1~original", "shop~shop-1~shadow"];
    for (kind, names) in [
        (api::xds::CLUSTER, &[][..]),
        (api::xds::ENDPOINT, &all),
        (api::xds::ROUTE, &[api::xds::ROUTE_CONFIG]),
    ] {
        client.subscribe("raw", kind, names).await;
        let response = client.next().await;
        client.ack(&response).await;
    }
    scene.applied(&store, 1).await;
    let mut csds =
        ClientStatusDiscoveryServiceClient::connect(format!("http://{}", server.local_addr()))
            .await
            .unwrap();
    let mut statuses = async || {
        let request = ClientStatusRequest::default();
        let response = csds
            .fetch_client_status(request)
            .await
            .unwrap()
            .into_inner();
        let [config] = response.config.as_slice() else {
            panic!("{response:?}")
        };
        assert_eq!(config.node.as_ref().unwrap().id, "raw");
        config.generic_xds_configs.clone()
    };
    let known = statuses().await;
    assert_eq!(known.len(), 7);
    let synced = i32::from(ConfigStatus::Synced);
    assert!(
        known.iter().all(|one| one.config_status == synced),
        "{known:?}"
    );

    let bad = scene.migrate(1, bp(9_000), false);
    bad.save(&store).await;
    let response = client.next().await;
    client.nack(&response, "no such thing").await;
    let admin = server.admin_addr().unwrap();
    let http = Http::new();
    let events = until("the refusal is an event", || async {
        let (status, body) = http.get(admin, "/events", "admin").await;
        (status == 200 && body.contains("no such thing")).then_some(body)
    })
    .await;
    assert!(
        events.contains("\"raw\"") && events.contains("RDS"),
        "{events}"
    );
    let (_, metrics) = http.get(admin, "/metrics", "admin").await;
    assert!(
        metrics.contains("foreshadow_xds_nacks_total 1\n"),
        "{metrics}"
    );
    let (status, dump) = http.get(admin, "/config_dump?node=raw", "admin").await;
    assert_eq!(status, 200);
    assert!(dump.contains("SYNCED"), "{dump}");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(http.get(admin, path, "admin").await.0, 200, "{path}");
    }
    server.shutdown().await;
}
