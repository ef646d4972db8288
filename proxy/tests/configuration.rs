//! The proxy and its control plane: acceptance, refusal, absence, return.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use common::message::{self, Service};
use common::{Control, Http, Upstream, admin, config, load, ready, stop, until};
use foreshadow_proxy::ProxyError;

fn service(clusters: &[(&str, u32)]) -> Service {
    Service::new("s", clusters)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_understood_or_names_nothing_is_refused_with_a_reason_and_changes_nothing() {
    let control = Control::start().await;
    let upstream = Upstream::start("a").await;
    control.cluster("a", &[upstream.address]);
    control.routes(&[service(&[("a", 1)])]);
    let proxy = ready(config(control.address)).await;
    let before = admin(&proxy, "/table").await;

    let mut unknown_matcher = message::routes(&[service(&[("a", 1)])]);
    let matcher = unknown_matcher.virtual_hosts[0].routes[0]
        .r#match
        .as_mut()
        .unwrap();
    matcher.headers.push(message::safe_methods());
    matcher.headers[0].name = "x-version".to_owned();
    let mut rewritten = message::routes(&[service(&[("a", 1)])]);
    rewritten.virtual_hosts[0]
        .request_headers_to_remove
        .push("x".to_owned());
    let twice = message::routes(&[service(&[("a", 1)]), service(&[("a", 1)])]);
    let mut bad = vec![
        (
            message::routes(&[service(&[("b", 1)])]),
            "cluster \"b\" is unknown",
        ),
        (
            message::routes(&[service(&[("a", 0)])]),
            "the weights sum to 0",
        ),
        (unknown_matcher, "only :method is understood"),
        (rewritten, "\"request_headers_to_remove\" is not understood"),
        (twice, "occurs twice"),
        (message::routes(&[]), "it has no virtual host"),
    ];
    for (count, (routes, reason)) in bad.drain(..).enumerate() {
        control.route_message(&routes);
        until("it is refused", || async {
            control.world().nacks.len() == count + 1
        })
        .await;
        let (kind, message) = control.world().nacks[count].clone();
        assert_eq!(kind, api::xds::ROUTE);
        assert!(message.contains(reason), "{message}");
    }
    assert_eq!(admin(&proxy, "/table").await, before);
    assert_eq!(load(&proxy, "s", 1, 10).await, Vec::<String>::new());

    let version = control.routes(&[service(&[("a", 2)])]);
    control.acknowledged(api::xds::ROUTE, version).await;
    let table = admin(&proxy, "/table").await;
    assert_eq!(table["routes"]["s"][0]["weights"]["a"], 2, "{table}");
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_are_acknowledged_when_their_endpoints_are_here() {
    let control = Control::start().await;
    let upstream = Upstream::start("a").await;
    control.cluster("a", &[upstream.address]);
    control.routes(&[service(&[("a", 1)])]);
    let proxy = ready(config(control.address)).await;

    control.world().withhold_endpoints = true;
    let before = control.world().acknowledged[api::xds::CLUSTER];
    control.cluster("b", &[upstream.address]);
    until("the endpoints are asked for", || async {
        let world = control.world();
        world
            .requests
            .iter()
            .any(|r| r.resource_names_subscribe.contains(&"b".to_owned()))
    })
    .await;
    let version = control.routes(&[service(&[("a", 1), ("b", 1)])]);
    // Requests are served meanwhile, by the routes before.
    assert_eq!(load(&proxy, "s", 1, 50).await, Vec::<String>::new());
    assert_eq!(control.world().acknowledged[api::xds::CLUSTER], before);
    assert!(control.world().acknowledged[api::xds::ROUTE] < version);

    control.world().withhold_endpoints = false;
    control.push();
    control.acknowledged(api::xds::ROUTE, version).await;
    assert!(control.world().acknowledged[api::xds::CLUSTER] > before);
    assert!(control.world().nacks.is_empty());

    // What is no longer there is no longer asked for.
    let version = control.routes(&[service(&[("a", 1)])]);
    control.acknowledged(api::xds::ROUTE, version).await;
    control.remove("b");
    until("it is unsubscribed", || async {
        let world = control.world();
        world
            .requests
            .iter()
            .any(|r| r.resource_names_unsubscribe == ["b"])
    })
    .await;
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_taken_away_too_early_serves_on_until_the_routes_let_go_of_it() {
    let control = Control::start().await;
    let (a, b) = (Upstream::start("a").await, Upstream::start("b").await);
    control.cluster("a", &[a.address]);
    control.cluster("b", &[b.address]);
    control.routes(&[service(&[("a", 1)])]);
    let proxy = ready(config(control.address)).await;
    let version = control.remove("a");
    control.acknowledged(api::xds::CLUSTER, version).await;
    assert_eq!(load(&proxy, "s", 1, 10).await, Vec::<String>::new());
    assert_eq!(a.requests(), 10);
    let version = control.routes(&[service(&[("b", 1)])]);
    control.acknowledged(api::xds::ROUTE, version).await;
    assert!(admin(&proxy, "/table").await["clusters"].get("a").is_none());
    control.routes(&[service(&[("a", 1)])]);
    until("it cannot be named again", || async {
        control.world().nacks.len() == 1
    })
    .await;
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_goes_on_while_the_control_plane_is_away_and_on_return_nothing_is_sent_again() {
    let control = Control::start().await;
    let upstream = Upstream::start("a").await;
    control.cluster("a", &[upstream.address]);
    let version = control.routes(&[service(&[("a", 1)])]);
    let proxy = ready(config(control.address)).await;
    control.acknowledged(api::xds::ROUTE, version).await;
    control.stop();
    until("the proxy has noticed", || async {
        admin(&proxy, "/table").await["connected"] == false
    })
    .await;
    assert_eq!(load(&proxy, "s", 1, 100).await, Vec::<String>::new());
    let (requests, revision) = {
        let table = admin(&proxy, "/table").await;
        (control.world().requests.len(), table["revision"].clone())
    };

    let control = control.restart().await;
    until("the proxy is back", || async {
        control.world().requests.len() >= requests + 3
    })
    .await;
    {
        let world = control.world();
        let first = &world.requests[requests..];
        assert_eq!(first[0].node.as_ref().unwrap().id, "proxy-1");
        for (request, kind) in first.iter().zip(common::control::KINDS) {
            assert_eq!(request.type_url, kind);
            assert_eq!(request.initial_resource_versions.len(), 1, "{request:?}");
        }
    }
    until("all requests are reported", || async {
        control.load_of("a").success == 100
    })
    .await;
    assert_eq!(admin(&proxy, "/table").await["revision"], revision);
    let version = control.routes(&[service(&[("a", 7)])]);
    control.acknowledged(api::xds::ROUTE, version).await;
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_good_configuration_serves_without_a_control_plane_and_a_corrupt_one_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last-good");
    let control = Control::start().await;
    let upstream = Upstream::start("a").await;
    control.cluster("a", &[upstream.address]);
    control.routes(&[service(&[("a", 1)])]);
    let mut config = config(control.address);
    config.last_good = Some(path.clone());
    let proxy = ready(config.clone()).await;
    // Refused routes must not be kept.
    control.routes(&[service(&[("b", 1)])]);
    until("it is refused", || async {
        control.world().nacks.len() == 1
    })
    .await;
    stop(proxy).await;
    control.stop();

    let proxy = ready(config.clone()).await;
    assert_eq!(load(&proxy, "s", 1, 10).await, Vec::<String>::new());
    assert_eq!(admin(&proxy, "/table").await["connected"], false);
    stop(proxy).await;

    let good = std::fs::read(&path).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bad in [
        &good[..good.len() - 1],
        &flipped,
        b"",
        b"foreshadow-last-good 2 0 0\n",
    ] {
        std::fs::write(&path, bad).unwrap();
        let proxy = foreshadow_proxy::spawn(config.clone()).unwrap();
        let uri = format!("http://{}/", proxy.local_addr());
        let answer = Http::new().get(&uri, "s").await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (503, "no configuration yet\n")
        );
        let ready = format!("http://{}/ready", proxy.admin_addr().unwrap());
        assert_eq!(Http::new().get(&ready, "admin").await.status, 503);
        stop(proxy).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last-good");
    let control = Control::start().await;
    let upstream = Upstream::start("a").await;
    control.cluster("a", &[upstream.address]);
    control.routes(&[service(&[("a", 1)])]);
    let mut config = config(control.address);
    config.last_good = Some(path.clone());
    let proxy = ready(config).await;
    for weight in 2..22 {
        let version = control.routes(&[service(&[("a", weight)])]);
        control.acknowledged(api::xds::ROUTE, version).await;
        let kept = foreshadow_proxy::last_good::load(&path).unwrap().unwrap();
        let routes = format!("{:?}", kept.routes.unwrap());
        assert!(
            routes.contains(&format!("weight: {weight}")),
            "{weight}: {routes}"
        );
    }
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_proxy_lets_requests_finish_and_ends_as_soon_as_they_have() {
    let control = Control::start().await;
    let upstream = Upstream::start("a").await;
    control.cluster("a", &[upstream.address]);
    control.routes(&[service(&[("a", 1)])]);
    let proxy = ready(config(control.address)).await;
    let address = proxy.local_addr();
    let idle = Http::new();
    assert_eq!(
        idle.get(&format!("http://{address}/"), "s").await.status,
        200
    );
    upstream.hang(true);
    let slow =
        tokio::spawn(async move { Http::new().get(&format!("http://{address}/"), "s").await });
    until("the request is in progress", || async {
        upstream.requests() == 2
    })
    .await;
    let stopping = tokio::spawn(stop(proxy));
    until("no connection is accepted", || async {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    assert!(!stopping.is_finished());
    let released = std::time::Instant::now();
    upstream.hang(false);
    let answer = slow.await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["connection"], "close");
    stopping.await.unwrap();
    // The grace period is ten seconds.
    assert!(released.elapsed().as_secs() < 5, "{:?}", released.elapsed());
    assert_eq!(control.load_of("a").success, 2, "the last report came");
}

#[test]
fn a_taken_address_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = config(address);
    config.listen = address;
    let error = foreshadow_proxy::spawn(config.clone()).unwrap_err();
    assert!(matches!(error, ProxyError::Bind { .. }));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let error = foreshadow_proxy::run(config, async {}).unwrap_err();
    assert!(error.to_string().contains("clients"), "{error}");
}
