//! A real Envoy as the client of the control plane.
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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::envoy::Envoy;
use common::until;
use common::upstream::{Http, Upstream};
use common::world::{Scene, bp};
use domain::WeightSplit;
use foreshadow_xds_server::bootstrap::Protocol;
use foreshadow_xds_server::{XdsConfig, XdsServer};
use store::{MemoryStore, SharedStore, SystemClock};

async fn server(store: &SharedStore, listen: SocketAddr) -> XdsServer {
    let config = XdsConfig {
        listen,
        ..XdsConfig::default()
    };
    XdsServer::start(config, Arc::clone(store), Arc::new(SystemClock))
        .await
        .unwrap()
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Requests without pause until told to stop; counts those that fail.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    failures: tokio::task::JoinHandle<Vec<(u16, String)>>,
}

impl Load {
    fn start(http: Http, target: SocketAddr) -> Self {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let failures = tokio::spawn(async move {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                let answer = http.get(target, "/", "shop").await;
                counter.fetch_add(1, Ordering::SeqCst);
                if answer.0 != 200 {
                    failures.push(answer);
                }
            }
            failures
        });
        Self {
            stop,
            sent,
            failures,
        }
    }

    async fn end(self) -> (u64, Vec<(u16, String)>) {
        self.stop.store(true, Ordering::SeqCst);
        let failures = self.failures.await.unwrap();
        (self.sent.load(Ordering::SeqCst), failures)
    }
}

async fn share_of(name: &str, http: &Http, target: SocketAddr, requests: u32) -> f64 {
    let mut hits = 0;
    for _ in 0..requests {
        let (status, body) = http.get(target, "/", "shop").await;
        assert_eq!(status, 200, "{body}");
        hits += u32::from(body == name);
    }
    f64::from(hits) / f64::from(requests)
}

/// A whole migration under load, from the first weight to the end of the temporary clusters.
async fn migrates_without_a_lost_request(node: &str, protocol: Protocol) {
    let (original, shadow) = (
        Upstream::start("original").await,
        Upstream::start("shadow").await,
    );
    let store: SharedStore = Arc::new(MemoryStore::new());
    let scene = Scene::new("shop", 0).instance(1, original.endpoint());
    scene.save(&store).await;
    let server = server(&store, any_port()).await;
    let envoy = Envoy::start(node, server.local_addr(), protocol);
    let http = Http::new();
    envoy.ready(&http).await;
    scene.applied(&store, 1).await;
    assert!(share_of("original", &http, envoy.listen, 20).await > 0.99);

    let load = Load::start(http.clone(), envoy.listen);
    let (slow_http, target) = (http.clone(), envoy.listen);
    let slow = tokio::spawn(async move { slow_http.get(target, "/slow/6000", "shop").await });
    let arrived = || async { (original.requests.load(Ordering::SeqCst) > 0).then_some(()) };
    until("the slow request is on its way", arrived).await;

    let mut scene = scene;
    for split in [WeightSplit::ORIGINAL, bp(100), bp(5_000)] {
        scene = scene.migrate_to(1, shadow.endpoint(), split, split == WeightSplit::ORIGINAL);
        scene.save(&store).await;
        scene.applied(&store, 1).await;
        if split == WeightSplit::ORIGINAL {
            let copied = || async { (shadow.requests.load(Ordering::SeqCst) > 0).then_some(()) };
            until("safe requests are copied to the shadow", copied).await;
        }
    }
    let share = share_of("shadow", &http, envoy.listen, 600).await;
    assert!(
        (0.40..0.60).contains(&share),
        "half was asked, observed {share}"
    );
    traffic_arrives(&scene, &store).await;

    scene = scene.migrate_to(1, shadow.endpoint(), WeightSplit::SHADOW, false);
    scene.save(&store).await;
    scene.applied(&store, 1).await;
    assert!(share_of("shadow", &http, envoy.listen, 50).await > 0.99);

    scene = scene.commit(1);
    scene.save(&store).await;
    scene.applied(&store, 1).await;
    let clusters = envoy.clusters(&http).await;
    assert!(
        clusters.contains("shop::") && !clusters.contains('~'),
        "{clusters}"
    );
    assert!(share_of("shadow", &http, envoy.listen, 50).await > 0.99);

    assert_eq!(
        slow.await.unwrap(),
        (200, "original".to_owned()),
        "the request in flight"
    );
    let (sent, failures) = load.end().await;
    assert!(
        failures.is_empty(),
        "{} of {sent} failed: {:?}",
        failures.len(),
        failures.first()
    );
    assert!(sent > 100, "only {sent} requests");
    server.shutdown().await;
}

async fn traffic_arrives(scene: &Scene, store: &SharedStore) {
    until("counts and latencies of both sides in Traffic", || async {
        let traffic = scene.traffic(store).await?;
        let original = traffic.cluster("shop~shop-1~original");
        let shadow = traffic.cluster("shop~shop-1~shadow");
        let counted = original.success > 50 && shadow.success > 50;
        let measured = original.latency.total() > 50 && shadow.latency.total() > 50;
        (counted && measured && original.in_progress > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_over_delta_loses_nothing_and_leaves_nothing_behind() {
    migrates_without_a_lost_request("envoy-delta", Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_over_state_of_the_world_loses_nothing_and_leaves_nothing_behind() {
    migrates_without_a_lost_request("envoy-sotw", Protocol::StateOfTheWorld).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_serves_on_without_the_control_plane_and_comes_back_to_it() {
    let (original, shadow) = (
        Upstream::start("original").await,
        Upstream::start("shadow").await,
    );
    let store: SharedStore = Arc::new(MemoryStore::new());
    let scene = Scene::new("shop", 0).instance(1, original.endpoint());
    let scene = scene.migrate_to(1, shadow.endpoint(), bp(0), false);
    scene.save(&store).await;
    let first = server(&store, any_port()).await;
    let address = first.local_addr();
    let envoy = Envoy::start("envoy-restart", address, Protocol::Delta);
    let http = Http::new();
    envoy.ready(&http).await;
    scene.applied(&store, 1).await;

    let load = Load::start(http.clone(), envoy.listen);
    first.shutdown().await;
    assert!(share_of("original", &http, envoy.listen, 200).await > 0.99);

    // The migration is over when the control plane comes back: Envoy has clusters, and routes to
    // them, that are not published any more.
    let scene = scene
        .migrate_to(1, shadow.endpoint(), WeightSplit::SHADOW, false)
        .commit(1);
    scene.save(&store).await;
    let second = server(&store, address).await;
    scene.applied(&store, 1).await;
    assert!(share_of("shadow", &http, envoy.listen, 50).await > 0.99);
    let clusters = envoy.clusters(&http).await;
    assert!(!clusters.contains('~'), "{clusters}");
    let (sent, failures) = load.end().await;
    assert!(
        failures.is_empty(),
        "{} of {sent} failed: {:?}",
        failures.len(),
        failures.first()
    );
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_shadow_with_half_the_weight_costs_no_request_and_its_errors_are_seen() {
    let original = Upstream::start("original").await;
    let dead = domain::Endpoint(([127, 0, 0, 1], 1).into());
    let store: SharedStore = Arc::new(MemoryStore::new());
    let scene = Scene::new("shop", 0).instance(1, original.endpoint());
    let scene = scene.migrate_to(1, dead, bp(5_000), false);
    scene.save(&store).await;
    let server = server(&store, any_port()).await;
    let envoy = Envoy::start("envoy-dead", server.local_addr(), Protocol::Delta);
    let http = Http::new();
    envoy.ready(&http).await;
    scene.applied(&store, 1).await;
    let mut failed = 0;
    for _ in 0..400 {
        failed += u32::from(http.get(envoy.listen, "/", "shop").await.0 != 200);
    }
    assert_eq!(
        failed, 0,
        "of 400 requests; without a new choice at a retry half of them fail"
    );
    until("the dead side's errors are reported", || async {
        let traffic = scene.traffic(&store).await?;
        (traffic.cluster("shop~shop-1~shadow").error > 50).then_some(())
    })
    .await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_moves_to_the_shadow_once_and_never_back() {
    let (original, shadow) = (
        Upstream::start("original").await,
        Upstream::start("shadow").await,
    );
    let store: SharedStore = Arc::new(MemoryStore::new());
    let scene = Scene::new("shop", 0)
        .sticky("x-session")
        .instance(1, original.endpoint());
    let mut scene = scene.migrate_to(1, shadow.endpoint(), WeightSplit::ORIGINAL, false);
    scene.save(&store).await;
    let server = server(&store, any_port()).await;
    let envoy = Envoy::start("envoy-sticky", server.local_addr(), Protocol::Delta);
    let http = Http::new();
    envoy.ready(&http).await;
    let users: Vec<String> = (0..80).map(|user| format!("user-{user}")).collect();
    let mut moved = vec![false; users.len()];
    for weight in [1_000, 4_000, 7_000, 10_000] {
        scene = scene.migrate_to(1, shadow.endpoint(), bp(weight), false);
        scene.save(&store).await;
        scene.applied(&store, 1).await;
        for (user, was_moved) in users.iter().zip(&mut moved) {
            for _ in 0..2 {
                let (status, body) = http.get_as(envoy.listen, "shop", ("x-session", user)).await;
                assert_eq!(status, 200, "{body}");
                assert!(
                    !*was_moved || body == "shadow",
                    "{user} moved back at {weight}"
                );
                *was_moved = body == "shadow";
            }
        }
        let share = moved.iter().filter(|moved| **moved).count() * 10_000 / users.len();
        assert!(
            share.abs_diff(weight as usize) < 1_800,
            "{share} at {weight}"
        );
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_proves_who_it_is_and_one_under_another_name_gets_nothing() {
    use foreshadow_xds_server::Security;
    use foreshadow_xds_server::authority::LocalAuthority;
    let folder = tempfile::tempdir().unwrap();
    let authority = LocalAuthority::open(folder.path()).unwrap();
    let upstream = Upstream::start("original").await;
    let store: SharedStore = Arc::new(MemoryStore::new());
    let scene = Scene::new("shop", 0).instance(1, upstream.endpoint());
    scene.save(&store).await;
    let config = XdsConfig {
        listen: any_port(),
        admin: Some(any_port()),
        security: Security::Mutual(authority.server().unwrap()),
        ..XdsConfig::default()
    };
    let server = XdsServer::start(config, Arc::clone(&store), Arc::new(SystemClock))
        .await
        .unwrap();
    let own = domain::NodeId::new("envoy-tls").unwrap();
    let files = authority.node(&own).unwrap();
    let (at, delta) = (server.local_addr(), Protocol::Delta);
    let envoy = Envoy::start_as("envoy-tls", at, delta, Some(files.clone()));
    let http = Http::new();
    envoy.ready(&http).await;
    scene.applied(&store, 1).await;
    assert!(share_of("original", &http, envoy.listen, 20).await > 0.99);
    // The same certificate under another name.
    let other = Envoy::start_as("envoy-other", at, delta, Some(files));
    until("the other is refused", || async {
        let (_, metrics) = http.get(server.admin_addr()?, "/metrics", "admin").await;
        let line = metrics
            .lines()
            .find(|l| l.starts_with("foreshadow_xds_streams_refused_total "))?;
        (!line.ends_with(" 0")).then_some(())
    })
    .await;
    assert_eq!(scene.status(&store).await.unwrap().nodes.len(), 1);
    drop(other);
    server.shutdown().await;
}

/// Nobody listens there.
async fn deaf() -> domain::Endpoint {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    domain::Endpoint(listener.local_addr().unwrap())
}

async fn left_out(envoy: &Envoy, http: &Http) -> String {
    let path = "/stats?filter=cluster.shop.outlier_detection.ejections_active";
    http.get(envoy.admin, path, "admin")
        .await
        .1
        .trim()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_cannot_be_reached_is_left_out_unless_it_is_the_last_one() {
    let good = Upstream::start("good").await;
    let store: SharedStore = Arc::new(MemoryStore::new());
    let scene = Scene::new("shop", 0).instance(1, deaf().await);
    scene.save(&store).await;
    let server = server(&store, any_port()).await;
    let envoy = Envoy::start("envoy-outlier", server.local_addr(), Protocol::Delta);
    let http = Http::new();
    envoy.ready(&http).await;
    scene.applied(&store, 1).await;
    let mut tried = 0;
    for _ in 0..30 {
        let (status, body) = http.get(envoy.listen, "/", "shop").await;
        assert_eq!(status, 503);
        // It was tried: with nobody left Envoy says "no healthy upstream".
        tried += u32::from(!body.contains("no healthy upstream"));
    }
    assert_eq!(tried, 30, "the last one must be tried always");
    let none = "cluster.shop.outlier_detection.ejections_active: 0";
    assert_eq!(left_out(&envoy, &http).await, none);
    // With another one beside it, it is left out.
    let scene = scene.instance(2, good.endpoint());
    scene.save(&store).await;
    until("the one that cannot be reached is left out", || async {
        assert!(http.get(envoy.listen, "/", "shop").await.0 > 0);
        let one = "cluster.shop.outlier_detection.ejections_active: 1";
        (left_out(&envoy, &http).await == one).then_some(())
    })
    .await;
    assert!(share_of("good", &http, envoy.listen, 50).await > 0.99);
    // What instances say of themselves comes with the load reports.
    until("what the instance says of itself is in Traffic", || async {
        let traffic = scene.traffic(&store).await?;
        let node = traffic.nodes.values().next()?;
        let queue = node.metrics.get("shop")?.get("named_metrics.queue")?;
        assert_eq!(queue.mean(), Some(2.5));
        (queue.answers >= 50).then_some(())
    })
    .await;
    server.shutdown().await;
}
