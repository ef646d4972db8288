//! The wire as a client sees it that says exactly what it wants.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use api::envoy::envoy::config::endpoint::v3::{
    ClusterStats, EndpointLoadMetricStats, UpstreamLocalityStats,
};
use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
};
use api::envoy::envoy::service::load_stats::v3::{
    LoadStatsRequest, load_reporting_service_client::LoadReportingServiceClient,
};
use common::client::{Delta, World, node, refused};
use common::until;
use common::world::{Scene, bp};
use domain::{NodeId, NodeProgress, RoutingState};
use foreshadow_xds_server::{XdsConfig, XdsError, XdsServer};
use store::{MemoryStore, SharedStore, SystemClock};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

struct Setup {
    store: SharedStore,
    server: XdsServer,
}

impl Setup {
    async fn new(scene: &Scene) -> Self {
        Self::with(scene, XdsConfig::default()).await
    }

    async fn with(scene: &Scene, config: XdsConfig) -> Self {
        let store: SharedStore = Arc::new(MemoryStore::new());
        scene.save(&store).await;
        let config = XdsConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..config
        };
        let clock = Arc::new(SystemClock);
        let server = XdsServer::start(config, Arc::clone(&store), clock)
            .await
            .unwrap();
        Self { store, server }
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

/// Subscribes to everything, and acknowledges all of it.
async fn follow_all(client: &mut Delta, id: &str, clusters: &[&str]) {
    client.subscribe(id, api::xds::CLUSTER, &[]).await;
    let response = client.next().await;
    assert_eq!(names(&response), clusters);
    client.ack(&response).await;
    client.subscribe(id, api::xds::ENDPOINT, clusters).await;
    let response = client.next().await;
    client.ack(&response).await;
    client
        .subscribe(id, api::xds::ROUTE, &[api::xds::ROUTE_CONFIG])
        .await;
    let response = client.next().await;
    client.ack(&response).await;
}

#[tokio::test]
async fn a_refused_route_is_reported_taken_back_and_not_sent_again() {
    let good = Scene::new("shop", 2).migrate(1, bp(0), false);
    let setup = Setup::new(&good).await;
    let mut client = Delta::connect(setup.address()).await;
    let clusters = ["shop", "shop~shop-1~original", "shop~shop-1~shadow"];
    follow_all(&mut client, "raw", &clusters).await;
    good.applied(&setup.store, 1).await;

    let bad = good.clone().migrate(1, bp(5_000), false);
    bad.save(&setup.store).await;
    let refused = client.next().await;
    assert_eq!(refused.type_url, api::xds::ROUTE);
    client.nack(&refused, "I do not like it").await;
    let restored = client.next().await;
    assert_eq!(restored.type_url, api::xds::ROUTE);
    assert_ne!(restored.resources[0].version, refused.resources[0].version);
    client.ack(&restored).await;
    let status = until("the refusal is in the record", || async {
        let status = bad.status(&setup.store).await?;
        (status.state == RoutingState::Rejected).then_some(status)
    })
    .await;
    assert_eq!(status.revision, bad.revision());
    let progress = &status.nodes[&NodeId::new("raw").unwrap()];
    let expected = NodeProgress::Rejected {
        resource_type: "RDS".to_owned(),
        reason: "I do not like it".to_owned(),
    };
    assert_eq!(*progress, expected);
    client.silence().await;
    // A node that comes later gets the last good one.
    let mut later = Delta::connect(setup.address()).await;
    later
        .subscribe("later", api::xds::ROUTE, &[api::xds::ROUTE_CONFIG])
        .await;
    assert_eq!(
        later.next().await.resources[0].version,
        restored.resources[0].version
    );
    setup.server.shutdown().await;
}

#[tokio::test]
async fn what_is_unsubscribed_is_not_sent_any_more_and_asking_again_sends_it_again() {
    let scene = Scene::new("shop", 1);
    let setup = Setup::new(&scene).await;
    let mut client = Delta::connect(setup.address()).await;
    client
        .subscribe("raw", api::xds::ENDPOINT, &["shop", "unknown"])
        .await;
    let response = client.next().await;
    assert_eq!(
        (names(&response), response.removed_resources.as_slice()),
        (vec!["shop"], ["unknown".to_owned()].as_slice())
    );
    client.ack(&response).await;
    client.subscribe("raw", api::xds::ENDPOINT, &["shop"]).await;
    let response = client.next().await;
    assert_eq!(names(&response), ["shop"]);
    client.ack(&response).await;
    client
        .send(DeltaDiscoveryRequest {
            type_url: api::xds::ENDPOINT.to_owned(),
            resource_names_unsubscribe: vec!["shop".to_owned()],
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    client.subscribe("raw", api::xds::CLUSTER, &["shop"]).await;
    let clusters = client.next().await;
    assert_eq!(clusters.type_url, api::xds::CLUSTER);
    client.ack(&clusters).await;
    let other = domain::Endpoint(([10, 9, 9, 9], 1).into());
    scene.instance(2, other).save(&setup.store).await;
    client.silence().await;
    setup.server.shutdown().await;
}

#[tokio::test]
async fn a_client_that_comes_back_is_sent_only_what_differs_from_what_it_has() {
    let scene = Scene::new("shop", 1);
    let setup = Setup::new(&scene).await;
    let mut client = Delta::connect(setup.address()).await;
    client.subscribe("raw", api::xds::CLUSTER, &[]).await;
    let first = client.next().await;
    let version = first.resources[0].version.clone();
    drop(client);

    let mut client = Delta::connect(setup.address()).await;
    let known = [("shop", version.as_str()), ("gone", "0123456789abcdef")];
    client
        .send(DeltaDiscoveryRequest {
            node: Some(node("raw")),
            type_url: api::xds::CLUSTER.to_owned(),
            initial_resource_versions: HashMap::from(
                known.map(|(name, version)| (name.to_owned(), version.to_owned())),
            ),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    // What is gone is taken away once the client has the routes that do without it.
    client.silence().await;
    client
        .subscribe("raw", api::xds::ROUTE, &[api::xds::ROUTE_CONFIG])
        .await;
    let routes = client.next().await;
    assert_eq!(routes.type_url, api::xds::ROUTE);
    client.ack(&routes).await;
    let removal = client.next().await;
    assert!(removal.resources.is_empty());
    assert_eq!(removal.removed_resources, ["gone"]);
    setup.server.shutdown().await;
}

#[tokio::test]
async fn the_first_request_of_a_node_without_anything_to_get_is_answered_all_the_same() {
    let scene = Scene::new("shop", 1);
    let setup = Setup::new(&scene).await;
    let mut client = Delta::connect(setup.address()).await;
    client.subscribe("raw", api::xds::LISTENER, &[]).await;
    let response = client.next().await;
    assert_eq!(
        (response.type_url.as_str(), response.resources.len()),
        (api::xds::LISTENER, 0)
    );
    setup.server.shutdown().await;
}

fn world(type_url: &str, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(node("raw")),
        type_url: type_url.to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

#[tokio::test]
async fn a_stale_nonce_is_ignored_and_a_response_carries_all_that_is_wanted() {
    let scene = Scene::new("shop", 2).migrate(1, bp(0), false);
    let setup = Setup::new(&scene).await;
    let mut client = World::connect(setup.address()).await;
    let all = ["shop", "shop~shop-1~original", "shop~shop-1~shadow"];
    client.send(world(api::xds::ENDPOINT, &all[..1], "")).await;
    let first = client.next().await;
    assert_eq!(first.resources.len(), 1);
    client.send(world(api::xds::ENDPOINT, &all, "stale")).await;
    client.silence().await;
    client
        .send(world(api::xds::ENDPOINT, &all, &first.nonce))
        .await;
    let second = client.next().await;
    assert_eq!(second.resources.len(), 3);
    assert_ne!(second.version_info, first.version_info);
    // The first response's nonce is stale now, the second's refusal is not.
    client
        .send(world(api::xds::ENDPOINT, &all[..1], &first.nonce))
        .await;
    client.silence().await;
    let mut refusal = world(api::xds::ENDPOINT, &all, &second.nonce);
    refusal.error_detail = Some(refused("no"));
    client.send(refusal).await;
    client.silence().await;
    setup.server.shutdown().await;
}

#[tokio::test]
async fn a_node_without_a_proper_name_is_refused_by_name() {
    let setup = Setup::new(&Scene::new("shop", 1)).await;
    let mut client = Delta::connect(setup.address()).await;
    client.subscribe("Not A Node", api::xds::CLUSTER, &[]).await;
    let status = client.try_next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("node.id") && status.message().contains("Not A Node"));
    setup.server.shutdown().await;
}

#[tokio::test]
async fn a_client_that_wants_too_much_is_closed_with_the_limit_in_the_reason() {
    let setup = Setup::new(&Scene::new("shop", 1)).await;
    let mut client = Delta::connect(setup.address()).await;
    let many: Vec<String> = (0..20_001).map(|number| format!("c{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    client.subscribe("raw", api::xds::ENDPOINT, &many).await;
    let status = client.try_next().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("20000"), "{status}");
    setup.server.shutdown().await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_a_closed_one_makes_room() {
    let config = XdsConfig {
        max_streams: 1,
        ..XdsConfig::default()
    };
    let setup = Setup::with(&Scene::new("shop", 1), config).await;
    let mut first = Delta::connect(setup.address()).await;
    first.subscribe("first", api::xds::CLUSTER, &[]).await;
    first.next().await;
    let refused = raw_second(setup.address()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(first);
    until("room for another stream", || async {
        raw_second(setup.address()).await.ok()
    })
    .await;
    setup.server.shutdown().await;
}

async fn raw_second(server: SocketAddr) -> Result<(), tonic::Status> {
    use api::envoy::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    let endpoint = format!("http://{server}");
    let mut client = AggregatedDiscoveryServiceClient::connect(endpoint)
        .await
        .unwrap();
    let (_requests, stream) = mpsc::channel(1);
    client
        .delta_aggregated_resources(ReceiverStream::new(stream))
        .await
        .map(|_| ())
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_that_names_it() {
    let setup = Setup::new(&Scene::new("shop", 1)).await;
    let config = XdsConfig {
        listen: setup.address(),
        ..XdsConfig::default()
    };
    let store = Arc::new(MemoryStore::new());
    let error = XdsServer::start(config, store, Arc::new(SystemClock))
        .await
        .unwrap_err();
    assert!(matches!(error, XdsError::Bind { .. }));
    assert!(
        error.to_string().contains(&setup.address().to_string()),
        "{error}"
    );
    setup.server.shutdown().await;
}

/// What our proxy does: counts and latencies in one report.
#[tokio::test]
async fn a_load_report_with_latencies_arrives_in_traffic() {
    let scene = Scene::new("shop", 1);
    let setup = Setup::new(&scene).await;
    let endpoint = format!("http://{}", setup.address());
    let mut client = LoadReportingServiceClient::connect(endpoint).await.unwrap();
    let (requests, stream) = mpsc::channel(4);
    requests
        .send(LoadStatsRequest {
            node: Some(node("proxy")),
            ..LoadStatsRequest::default()
        })
        .await
        .unwrap();
    let stream = ReceiverStream::new(stream);
    let mut wishes = client.stream_load_stats(stream).await.unwrap().into_inner();
    let wish = wishes.message().await.unwrap().unwrap();
    assert!(wish.send_all_clusters && !wish.report_endpoint_granularity);
    let interval = wish.load_reporting_interval.unwrap();
    assert_eq!((interval.seconds, interval.nanos), (0, 500_000_000));
    let locality = UpstreamLocalityStats {
        total_successful_requests: 3,
        total_error_requests: 1,
        total_requests_in_progress: 2,
        load_metric_stats: vec![EndpointLoadMetricStats {
            metric_name: api::latency::bucket_metric(4),
            num_requests_finished_with_metric: 4,
            total_metric_value: 4.0,
        }],
        ..UpstreamLocalityStats::default()
    };
    let report = ClusterStats {
        cluster_name: "shop".to_owned(),
        upstream_locality_stats: vec![locality],
        ..ClusterStats::default()
    };
    let report = LoadStatsRequest {
        node: None,
        cluster_stats: vec![report],
    };
    requests.send(report).await.unwrap();
    let counts = until("the report in Traffic", || async {
        let traffic = scene.traffic(&setup.store).await?;
        Some(traffic.cluster("shop")).filter(|counts| counts.success > 0)
    })
    .await;
    assert_eq!(
        (counts.success, counts.error, counts.in_progress),
        (3, 1, 2)
    );
    assert_eq!(counts.latency.counts()[4], 4);
    setup.server.shutdown().await;
}

#[tokio::test]
async fn a_deleted_service_takes_its_records_along() {
    let scene = Scene::new("shop", 1);
    let setup = Setup::new(&scene).await;
    scene.applied(&setup.store, 0).await;
    let key = store::Key::new(store::Kind::Service, "shop");
    let deletion = store::Transaction::new().delete(key, store::Expect::Any);
    setup.store.commit(deletion).await.unwrap();
    until("the status is gone", || async {
        scene.status(&setup.store).await.is_none().then_some(())
    })
    .await;
    setup.server.shutdown().await;
}
