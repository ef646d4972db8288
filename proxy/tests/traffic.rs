//! Requests through the proxy: shares, changes, failures.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::message::Service;
use common::{Control, Http, Upstream, admin, config, load, ready, stop, until};
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn two_sides(control: &Control) -> (Upstream, Upstream) {
    let (original, shadow) = (
        Upstream::start("original").await,
        Upstream::start("shadow").await,
    );
    control.cluster("s~i~original", &[original.address]);
    control.cluster("s~i~shadow", &[shadow.address]);
    (original, shadow)
}

fn split(original: u32, shadow: u32) -> Service {
    Service::new("s", &[("s~i~original", original), ("s~i~shadow", shadow)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_at_ninety_to_ten_are_split_exactly_and_reported_exactly() {
    let control = Control::start().await;
    let (original, shadow) = two_sides(&control).await;
    control.routes(&[split(9_000, 1_000)]);
    let proxy = ready(config(control.address)).await;

    let failed = load(&proxy, "s", 8, 10_000).await;
    assert_eq!(failed, Vec::<String>::new());
    assert_eq!((original.requests(), shadow.requests()), (9_000, 1_000));

    until("all requests are reported", || async {
        let (one, two) = (
            control.load_of("s~i~original"),
            control.load_of("s~i~shadow"),
        );
        one.ended() + two.ended() >= 10_000
    })
    .await;
    let (one, two) = (
        control.load_of("s~i~original"),
        control.load_of("s~i~shadow"),
    );
    assert_eq!(
        (one.success, one.error, one.latency.total()),
        (9_000, 0, 9_000)
    );
    assert_eq!(
        (two.success, two.error, two.latency.total()),
        (1_000, 0, 1_000)
    );
    assert_eq!((one.in_progress, two.in_progress), (0, 0));
    stop(proxy).await;
    let (one, two) = (
        control.load_of("s~i~original"),
        control.load_of("s~i~shadow"),
    );
    assert_eq!(
        one.ended() + two.ended(),
        10_000,
        "the last report repeats nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_weight_changes_under_load_lose_nothing_and_take_effect_when_acknowledged() {
    let control = Control::start().await;
    let (original, shadow) = two_sides(&control).await;
    control.routes(&[split(10_000, 0)]);
    let proxy = Arc::new(ready(config(control.address)).await);

    let running = Arc::new(AtomicBool::new(true));
    let background = {
        let (proxy, running) = (Arc::clone(&proxy), Arc::clone(&running));
        tokio::spawn(async move {
            let mut failed = Vec::new();
            while running.load(Ordering::Relaxed) {
                failed.extend(load(&proxy, "s", 4, 200).await);
            }
            failed
        })
    };
    for change in 0..200_u32 {
        let weight = change * 37 % 10_001;
        let version = control.routes(&[split(10_000 - weight, weight)]);
        control.acknowledged(api::xds::ROUTE, version).await;
    }
    for (weight, expected) in [(10_000, 100..=100), (0, 0..=0), (5_000, 48..=52)] {
        running.store(false, Ordering::Relaxed);
        let version = control.routes(&[split(10_000 - weight, weight)]);
        control.acknowledged(api::xds::ROUTE, version).await;
        if weight == 10_000 {
            until("the load has ended", || async { background.is_finished() }).await;
        }
        let before = (original.requests(), shadow.requests());
        assert_eq!(load(&proxy, "s", 1, 100).await, Vec::<String>::new());
        let after = (original.requests(), shadow.requests());
        let (to_original, to_shadow) = (after.0 - before.0, after.1 - before.1);
        assert_eq!(to_original + to_shadow, 100);
        assert!(
            expected.contains(&to_shadow),
            "{to_shadow} of 100 at {weight}"
        );
    }
    assert_eq!(background.await.unwrap(), Vec::<String>::new());
    assert!(control.world().nacks.is_empty());
    stop(Arc::into_inner(proxy).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_request_survives_the_removal_of_its_route_and_cluster() {
    let control = Control::start().await;
    let (original, shadow) = two_sides(&control).await;
    control.routes(&[split(10_000, 0)]);
    let proxy = ready(config(control.address)).await;
    original.hang(true);
    let uri = format!("http://{}/slow", proxy.local_addr());
    let slow = tokio::spawn(async move { Http::new().get(&uri, "s").await });
    until("the request is in progress", || async {
        original.requests() == 1
    })
    .await;

    let version = control.routes(&[Service::new("s", &[("s~i~shadow", 1)])]);
    control.acknowledged(api::xds::ROUTE, version).await;
    let version = control.remove("s~i~original");
    control.acknowledged(api::xds::CLUSTER, version).await;
    let table = admin(&proxy, "/table").await;
    assert!(table["clusters"].get("s~i~original").is_none(), "{table}");
    assert_eq!(load(&proxy, "s", 1, 10).await, Vec::<String>::new());
    assert_eq!(shadow.requests(), 10);

    original.hang(false);
    let answer = slow.await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "original"));
    until("the removed cluster's request is reported", || async {
        control.load_of("s~i~original").success == 1
    })
    .await;
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_side_and_a_dead_endpoint_are_hidden_from_clients_and_charged_to_the_dead() {
    let control = Control::start().await;
    let (original, shadow) = two_sides(&control).await;
    let dead = {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        taken.local_addr().unwrap()
    };
    control.endpoints(
        "s~i~shadow",
        &common::message::endpoints("s~i~shadow", &[dead]),
    );
    control.cluster("t", &[dead, shadow.address]);
    control.routes(&[split(5_000, 5_000), Service::new("t", &[("t", 1)])]);
    let proxy = ready(config(control.address)).await;

    assert_eq!(load(&proxy, "s", 4, 1_000).await, Vec::<String>::new());
    assert_eq!(original.requests(), 1_000);
    assert_eq!(load(&proxy, "t", 4, 1_000).await, Vec::<String>::new());
    assert_eq!(shadow.requests(), 1_000);
    until("all requests are reported", || async {
        ["s~i~original", "s~i~shadow", "t"]
            .iter()
            .map(|cluster| control.load_of(cluster).ended())
            .sum::<u64>()
            >= 2_000
    })
    .await;
    let of = |cluster: &str| {
        let load = control.load_of(cluster);
        (load.success, load.error, load.latency.total())
    };
    let (served, none, all) = of("s~i~original");
    assert!(
        (499..=501).contains(&served) && none == 0 && all == served,
        "{served}, {none}, {all}"
    );
    assert_eq!(of("s~i~shadow"), (0, 1_000 - served, 1_000 - served));
    assert_eq!(of("t"), (1_000, 0, 1_000));
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weight_zero_gets_nothing_even_when_everybody_else_is_dead() {
    let control = Control::start().await;
    let (_, shadow) = two_sides(&control).await;
    let dead: SocketAddr = ([127, 0, 0, 1], 1).into();
    control.endpoints(
        "s~i~original",
        &common::message::endpoints("s~i~original", &[dead]),
    );
    control.routes(&[split(10_000, 0)]);
    let proxy = ready(config(control.address)).await;
    let uri = format!("http://{}/", proxy.local_addr());
    for _ in 0..20 {
        assert_eq!(Http::new().get(&uri, "s").await.status, 503);
    }
    assert_eq!(shadow.requests(), 0);
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sticky_value_goes_where_envoy_sends_it_and_never_back_while_the_shadow_grows() {
    let control = Control::start().await;
    let _sides = two_sides(&control).await;
    let sticky = |shadow| Service {
        sticky: Some("x-user".to_owned()),
        ..split(10_000 - shadow, shadow)
    };
    control.routes(&[sticky(0)]);
    let proxy = ready(config(control.address)).await;
    let uri = format!("http://{}/", proxy.local_addr());
    let http = Http::new();
    let mut moved: BTreeMap<String, u32> = BTreeMap::new();
    for weight in [0, 100, 1_000, 2_500, 5_000, 7_500, 10_000] {
        let version = control.routes(&[sticky(weight)]);
        control.acknowledged(api::xds::ROUTE, version).await;
        for user in 0..200 {
            let user = format!("user-{user}");
            let answer = http.try_get(&uri, "s", &[("x-user", &user)]).await.unwrap();
            let point = xxhash_rust::xxh64::xxh64(user.as_bytes(), 0) % 10_000;
            let expected = if point < u64::from(10_000 - weight) {
                "original"
            } else {
                "shadow"
            };
            assert_eq!(answer.text(), expected, "{user} at {weight}");
            if expected == "shadow" {
                moved.entry(user).or_insert(weight);
            } else {
                assert!(!moved.contains_key(&user), "{user} moved back at {weight}");
            }
        }
    }
    assert_eq!(moved.len(), 200);
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_arrive_at_the_mirror_and_a_mirror_that_hangs_delays_and_fails_nothing() {
    let control = Control::start().await;
    let (original, _) = two_sides(&control).await;
    // Not the shadow of anything here: what it answers is compared with nothing.
    let shadow = Upstream::start("warm").await;
    control.cluster("warm", &[shadow.address]);
    let mirrored = Service {
        mirror: Some(("warm".to_owned(), 5_000)),
        ..split(10_000, 0)
    };
    control.routes(&[mirrored]);
    let proxy = ready(config(control.address)).await;
    assert_eq!(load(&proxy, "s", 1, 100).await, Vec::<String>::new());
    until("half of the requests are copied", || async {
        shadow.requests() == 50
    })
    .await;
    let seen = shadow.state.seen.lock().unwrap()[0].clone();
    assert_eq!(seen.headers["host"], "s");
    let uri = format!("http://{}/", proxy.local_addr());
    let post = Request::post(&uri)
        .header("host", "s")
        .body(Full::from("write"))
        .unwrap();
    assert_eq!(Http::new().send(post).await.unwrap().text(), "original:5");
    until("copies are reported", || async {
        control.load_of("warm").success == 50
    })
    .await;

    shadow.hang(true);
    let began = Instant::now();
    assert_eq!(load(&proxy, "s", 2, 1_000).await, Vec::<String>::new());
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "below the mirror's time limit"
    );
    assert_eq!(original.requests(), 1_101);
    let counts = admin(&proxy, "/counts").await;
    assert_eq!(counts["clusters"]["warm"]["in_progress"], 64, "{counts}");
    assert_eq!(counts["mirror_copies_shed"], 500 - 64, "{counts}");
    shadow.hang(false);
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_takes_too_long_gives_504_and_an_error_of_its_cluster() {
    let control = Control::start().await;
    let (original, _shadow) = two_sides(&control).await;
    control.routes(&[Service {
        timeout_ms: 200,
        ..split(10_000, 0)
    }]);
    let proxy = ready(config(control.address)).await;
    original.hang(true);
    let uri = format!("http://{}/", proxy.local_addr());
    assert_eq!(Http::new().get(&uri, "s").await.status, 504);
    until("it is reported", || async {
        control.load_of("s~i~original").error == 1
    })
    .await;
    original.hang(false);
    original.answer(500);
    assert_eq!(Http::new().get(&uri, "s").await.status, 500);
    until("it is reported", || async {
        control.load_of("s~i~original").error == 2
    })
    .await;
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_is_no_error_and_leaves_nothing_in_progress() {
    let control = Control::start().await;
    let (original, _shadow) = two_sides(&control).await;
    control.routes(&[split(10_000, 0)]);
    let proxy = ready(config(control.address)).await;
    original.hang(true);
    let uri = format!("http://{}/", proxy.local_addr());
    let gone = tokio::spawn(async move { Http::new().get(&uri, "s").await });
    until("the request is in progress", || async {
        original.requests() == 1
    })
    .await;
    gone.abort();
    until("the request is given up", || async {
        let counts = admin(&proxy, "/counts").await;
        let side = &counts["clusters"]["s~i~original"];
        side["cancelled"] == 1 && side["in_progress"] == 0 && side["error"] == 0
    })
    .await;
    original.hang(false);
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_instances_close_after_each_answer_cost_no_request() {
    let control = Control::start().await;
    let (original, _shadow) = two_sides(&control).await;
    original.state.closes.store(true, Ordering::SeqCst);
    control.routes(&[split(10_000, 0)]);
    let proxy = ready(config(control.address)).await;
    assert_eq!(load(&proxy, "s", 4, 500).await, Vec::<String>::new());
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_one_hop_stay_there_and_the_instance_learns_the_client() {
    let control = Control::start().await;
    let (original, _shadow) = two_sides(&control).await;
    control.routes(&[split(10_000, 0)]);
    let proxy = ready(config(control.address)).await;
    let uri = format!("http://{}/a?b=c", proxy.local_addr());
    let sent = [
        ("connection", "x-private"),
        ("x-private", "1"),
        ("x-public", "2"),
        ("te", "trailers"),
        ("x-forwarded-for", "10.0.0.1"),
    ];
    let answer = Http::new().try_get(&uri, "S:8080", &sent).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "original"));
    assert!(!answer.headers.contains_key("keep-alive"));
    let seen = original.state.seen.lock().unwrap()[0].clone();
    assert_eq!(seen.uri, "/a?b=c");
    assert_eq!(seen.headers["host"], "S:8080");
    assert_eq!(seen.headers["x-public"], "2");
    assert_eq!(seen.headers["x-forwarded-for"], "10.0.0.1, 127.0.0.1");
    for field in ["x-private", "te", "connection"] {
        assert!(
            !seen.headers.contains_key(field),
            "{field}: {:?}",
            seen.headers
        );
    }
    assert_eq!(Http::new().get(&uri, "unknown").await.status, 404);
    let body = Bytes::from(vec![b'x'; 300_000]);
    let post = Request::post(&uri)
        .header("host", "s")
        .body(Full::from(body))
        .unwrap();
    assert_eq!(
        Http::new().send(post).await.unwrap().text(),
        "original:300000"
    );
    stop(proxy).await;
}

/// Answers every connection with a switch of protocols and returns what it is sent.
async fn echo() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            assert!(head.contains("upgrade: websocket"), "{head}");
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(switch.as_bytes()).await.unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_lives_longer_than_the_time_limit_of_its_route() {
    let control = Control::start().await;
    control.cluster("w", &[echo().await]);
    control.routes(&[Service {
        timeout_ms: 200,
        ..Service::new("w", &[("w", 1)])
    }]);
    let proxy = ready(config(control.address)).await;
    let mut stream = tokio::net::TcpStream::connect(proxy.local_addr())
        .await
        .unwrap();
    let hello = "GET /chat HTTP/1.1\r\nHost: w\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(hello.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let began = Instant::now();
    let mut rounds = 0_u32;
    while began.elapsed() < Duration::from_millis(500) {
        stream.write_all(b"ping").await.unwrap();
        let mut pong = [0; 4];
        stream.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"ping");
        rounds += 1;
    }
    assert!(rounds > 2);
    drop(stream);
    until("it is over", || async {
        admin(&proxy, "/counts").await["clusters"]["w"]["in_progress"] == 0
    })
    .await;
    stop(proxy).await;
}
