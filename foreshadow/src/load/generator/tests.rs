//! Real requests to a real server on the loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::load::{After, Arrivals, Keys, RateCurve};

/// Counts what it answers: every fourth with 503, alternately as two replicas.
async fn server(answered: Arc<AtomicU64>, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answered = Arc::clone(&answered);
            let service = service_fn(move |request: Request<Incoming>| {
                let number = answered.fetch_add(1, Ordering::Relaxed);
                async move {
                    assert_eq!(request.headers()["host"], "svc");
                    assert!(
                        request.headers()["x-key"]
                            .to_str()
                            .unwrap()
                            .starts_with('k')
                    );
                    assert!(request.uri().path().starts_with("/items/k"));
                    tokio::time::sleep(delay).await;
                    let replica = if number.is_multiple_of(2) {
                        "original/a"
                    } else {
                        "shadow/a"
                    };
                    let status = if number % 4 == 3 { 503 } else { 200 };
                    let response = Response::builder()
                        .status(status)
                        .header("x-replica", replica)
                        .header("x-instance", "a")
                        .body(Full::new(Bytes::from("ok")));
                    Ok::<_, Infallible>(response.unwrap())
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    address
}

fn stream(proxy: SocketAddr, rate: f64) -> StreamSpec {
    let curve = RateCurve::new(vec![rate], Duration::from_secs(1), After::Stop).unwrap();
    StreamSpec {
        keys: Some(Keys {
            count: 10,
            header: Some("x-key".to_owned()),
        }),
        arrivals: Arrivals::Jittered,
        ..StreamSpec::get("reads", proxy, "svc", "/items/{key}", curve)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_counted_once_by_outcome_replica_and_phase() {
    let answered = Arc::new(AtomicU64::new(0));
    let address = server(Arc::clone(&answered), Duration::ZERO).await;
    let load = LoadGenerator::start(
        LoadSettings::default(),
        "before",
        vec![stream(address, 400.0)],
    )
    .unwrap();
    while load.snapshot().total().sent < 100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    load.set_phase("after");
    load.finished().await;
    let report = load.stop().await;
    let total = report.total();
    let count = answered.load(Ordering::Relaxed);
    assert!((399..=401).contains(&count), "{count}");
    assert_eq!((total.sent, total.shed, total.in_flight()), (count, 0, 0));
    assert_eq!(
        (total.ok, total.failed.status),
        (count - count / 4, count / 4)
    );
    assert_eq!(total.failed.total(), total.failed.status);
    assert_eq!(total.latency.total(), count);
    assert_eq!(total.replicas["original/a"], count.div_ceil(2));
    assert_eq!(total.replicas["shadow/a"], count / 2);
    assert_eq!(total.instances["a"], count);
    let (before, after) = (report.phase("before"), report.phase("after"));
    assert!(before.sent >= 100 && after.sent > 0);
    assert_eq!(before.sent + after.sent, count);
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<LoadReport>(&text).unwrap(), report);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_in_time_is_shed_and_slow_answers_are_timed_out() {
    let answered = Arc::new(AtomicU64::new(0));
    let address = server(Arc::clone(&answered), Duration::from_mins(1)).await;
    let settings = LoadSettings {
        max_in_flight: 5,
        timeout: Duration::from_millis(1_500),
        seed: 3,
    };
    let load = LoadGenerator::start(settings, "x", vec![stream(address, 50.0)]).unwrap();
    load.finished().await;
    let total = load.stop().await.total();
    assert_eq!((total.sent, total.failed.timeout, total.ok), (5, 5, 0));
    assert!((44..=46).contains(&total.shed), "{}", total.shed);
    assert!(total.latency.quantile_us(0.5).unwrap() > 1_000_000.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_a_connect_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let load =
        LoadGenerator::start(LoadSettings::default(), "x", vec![stream(address, 20.0)]).unwrap();
    load.finished().await;
    let total = load.stop().await.total();
    assert_eq!((total.failed.connect, total.ok), (total.sent, 0));
    assert!(total.sent > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_knows_no_route_fails_every_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|_: Request<Incoming>| async {
                let response = Response::builder().status(404);
                Ok::<_, Infallible>(response.body(Full::new(Bytes::new())).unwrap())
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    let load =
        LoadGenerator::start(LoadSettings::default(), "x", vec![stream(address, 20.0)]).unwrap();
    load.finished().await;
    let total = load.stop().await.total();
    assert!(total.sent > 0);
    assert_eq!((total.ok, total.failed.status), (0, total.sent));
    assert_eq!(total.statuses[&404], total.sent);
}

#[tokio::test]
async fn streams_that_cannot_be_told_apart_or_sent_are_refused() {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let twice = vec![stream(address, 1.0), stream(address, 1.0)];
    let error = LoadGenerator::start(LoadSettings::default(), "x", twice).unwrap_err();
    assert_eq!(error, LoadError::SameName("reads".to_owned()));
    let bad = StreamSpec {
        authority: "a\nb".to_owned(),
        ..stream(address, 1.0)
    };
    let error = LoadGenerator::start(LoadSettings::default(), "x", vec![bad]).unwrap_err();
    assert!(error.to_string().starts_with("stream \"reads\""), "{error}");
}
