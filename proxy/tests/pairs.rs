//! Copied requests, answered by both sides of an instance and compared: a real proxy, two real
//! backends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::message::Service;
use common::{Control, Http, config, ready, stop, until};
use domain::Pairs;
use flate2::Compression;
use flate2::write::GzEncoder;
use foreshadow_proxy::RunningProxy;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// How a backend answers.
#[derive(Clone, Copy, Default)]
struct Manner {
    /// One answer in so many has another value; 0: none.
    wrong_one_in: u64,
    /// This key's value is another one, always.
    wrong_key: Option<&'static str>,
    /// Milliseconds before each answer, times 1.2 if it is slow.
    works_ms: u64,
    slow: bool,
    /// Statuses of one answer in so many are 503.
    fails_one_in: u64,
}

struct Backend {
    address: SocketAddr,
    /// Requests that change something.
    writes: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
}

impl Backend {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Self {
            address: listener.local_addr().unwrap(),
            writes: Arc::default(),
            reads: Arc::default(),
        };
        let (writes, reads) = (Arc::clone(&backend.writes), Arc::clone(&backend.reads));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (writes, reads) = (Arc::clone(&writes), Arc::clone(&reads));
                let service = service_fn(move |request| {
                    answer(manner, Arc::clone(&writes), Arc::clone(&reads), request)
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        backend
    }
}

async fn answer(
    manner: Manner,
    writes: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    if !safe {
        writes.fetch_add(1, Ordering::SeqCst);
    }
    let path = request.uri().path().to_owned();
    let forwarded = request.headers().get("x-forwarded-for").cloned();
    let gzip = request.headers().contains_key("accept-encoding");
    request.into_body().collect().await.unwrap();
    let turn = reads.fetch_add(1, Ordering::SeqCst) + 1;
    if manner.works_ms > 0 {
        let works = Duration::from_millis(manner.works_ms);
        tokio::time::sleep(if manner.slow { works * 6 / 5 } else { works }).await;
    }
    let one_in = |every: u64| every > 0 && turn % every == 0;
    let wrong =
        one_in(manner.wrong_one_in) || manner.wrong_key.is_some_and(|key| path.ends_with(key));
    let mut response = Response::builder();
    if one_in(manner.fails_one_in) {
        response = response.status(503);
    }
    let body = match &*path {
        "/large" => vec![b'x'; 200_000],
        "/stream" => {
            response = response.header("content-type", "text/event-stream");
            format!("data: {turn}\n\n").into_bytes()
        }
        _ => {
            response = response.header("content-type", "application/json");
            // The time, a number of the request, and whom it came from: none of it alarms.
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
            let request: u64 = rand::random();
            let value = if wrong { "corrupt" } else { "sound" };
            serde_json::to_vec(&serde_json::json!({
                "key": path, "value": value, "at_us": now.as_micros(), "request": request,
                "client": forwarded.map(|value| value.to_str().unwrap().to_owned()),
            }))
            .unwrap()
        }
    };
    let body = if gzip {
        response = response.header("content-encoding", "gzip");
        // Each answer is compressed differently.
        let mut encoder = GzEncoder::new(
            Vec::new(),
            Compression::new(u32::try_from(turn % 10).unwrap()),
        );
        encoder.write_all(&body).unwrap();
        encoder.finish().unwrap()
    } else {
        body
    };
    Ok(response.body(Full::from(body)).unwrap())
}

/// A proxy that copies what goes to the original, and compares everything.
async fn lab(original: Manner, shadow: Manner) -> (Control, Backend, Backend, RunningProxy) {
    let control = Control::start().await;
    let (original, shadow) = (Backend::start(original).await, Backend::start(shadow).await);
    control.cluster("s~i~original", &[original.address]);
    control.cluster("s~i~shadow", &[shadow.address]);
    control.routes(&[Service {
        mirror: Some(("s~i~shadow".to_owned(), 10_000)),
        ..Service::new("s", &[("s~i~original", 10_000), ("s~i~shadow", 0)])
    }]);
    let mut config = config(control.address);
    config.pairs_per_second = 1_000_000;
    let proxy = ready(config).await;
    (control, original, shadow, proxy)
}

/// Sends requests one after the other, each after the one before was compared.
async fn ask(control: &Control, proxy: &RunningProxy, paths: &[&str], count: u64) -> Pairs {
    let http = Http::new();
    let before = control.pairs_of("s~i~shadow");
    for turn in 0..count {
        let path = paths[usize::try_from(turn).unwrap() % paths.len()];
        let uri = format!("http://{}{path}", proxy.local_addr());
        let answer = http.get(&uri, "s").await;
        assert!(answer.status == 200 || answer.status == 503);
        let text = String::from_utf8_lossy(&answer.body);
        assert!(
            !text.contains("corrupt"),
            "a copy's answer reached a client"
        );
    }
    until("all pairs are reported", || async {
        let now = control.pairs_of("s~i~shadow").since(&before);
        now.compared + now.left_out() >= count
    })
    .await;
    control.pairs_of("s~i~shadow").since(&before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_and_numbers_of_requests_do_not_alarm_and_copies_change_nothing() {
    let (control, original, shadow, proxy) = lab(Manner::default(), Manner::default()).await;
    let pairs = ask(&control, &proxy, &["/items/a", "/items/b"], 200).await;
    assert_eq!((pairs.compared, pairs.left_out()), (200, 0), "{pairs:?}");
    assert_eq!(
        (pairs.against_shadow, pairs.against_original),
        (0, 0),
        "{pairs:?}"
    );
    let noisy: Vec<_> = pairs.noisy.keys().collect();
    assert_eq!(noisy, ["/items body.at_us", "/items body.request"]);
    assert_eq!(pairs.ratios.values().sum::<u64>(), 200);
    // The client's own request and one more; the shadow is asked twice.
    let asked = |backend: &Backend| backend.reads.load(Ordering::SeqCst);
    assert_eq!((asked(&original), asked(&shadow)), (400, 400));
    // What is counted for the judge are the clients' requests and one copy of each.
    until("the counts are reported", || async {
        control.load_of("s~i~original").ended() == 200
    })
    .await;
    assert_eq!(control.load_of("s~i~shadow").ended(), 200);

    let http = Http::new();
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}/items/a", proxy.local_addr()))
            .header("host", "s")
            .body(Full::from("write"))
            .unwrap();
        assert_eq!(http.send(request).await.unwrap().status, 200);
    }
    let last = ask(&control, &proxy, &["/items/a"], 5).await;
    assert_eq!(last.compared, 5);
    assert_eq!(original.writes.load(Ordering::SeqCst), 3);
    assert_eq!(
        shadow.writes.load(Ordering::SeqCst),
        0,
        "a copy had an effect"
    );
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_corrupted_answer_in_a_hundred_is_found_within_500_pairs_and_named() {
    let wrong = Manner {
        wrong_one_in: 100,
        ..Manner::default()
    };
    let (control, _original, _shadow, proxy) = lab(Manner::default(), wrong).await;
    let pairs = ask(&control, &proxy, &["/items/a", "/items/b"], 500).await;
    // The shadow is asked about a thousand times.
    assert!((9..=11).contains(&pairs.against_shadow), "{pairs:?}");
    assert_eq!(pairs.against_original, 0, "{pairs:?}");
    let fields: Vec<_> = pairs.fields.keys().collect();
    assert_eq!(fields, ["/items body.value"]);
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_whose_value_is_wrong_is_found_the_first_time_it_is_asked_for() {
    let wrong = Manner {
        wrong_key: Some("/bad"),
        ..Manner::default()
    };
    let (control, _original, _shadow, proxy) = lab(Manner::default(), wrong).await;
    ask(&control, &proxy, &["/items/a"], 10).await;
    let pairs = ask(&control, &proxy, &["/items/bad"], 1).await;
    assert_eq!(
        (pairs.against_shadow, pairs.against_original),
        (8, 0),
        "{pairs:?}"
    );
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_fails_or_is_slower_shows_and_the_clients_never_see_it() {
    let bad = Manner {
        fails_one_in: 20,
        works_ms: 10,
        slow: true,
        ..Manner::default()
    };
    let good = Manner {
        works_ms: 10,
        ..Manner::default()
    };
    let (control, _original, _shadow, proxy) = lab(good, bad).await;
    let pairs = ask(&control, &proxy, &["/items/a"], 80).await;
    assert!(pairs.against_shadow >= 6, "{pairs:?}");
    assert!(pairs.fields.contains_key("/items status"), "{pairs:?}");
    // 2 ms of 12 in the middle, on a machine that does other things too.
    let slower: u64 = pairs.ratios.range(1..).map(|(_, count)| count).sum();
    let faster: u64 = pairs.ratios.range(..0).map(|(_, count)| count).sum();
    assert!(slower > 2 * faster, "{pairs:?}");
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_large_endless_or_compressed_neither_alarm_nor_break_anything() {
    let (control, _original, _shadow, proxy) = lab(Manner::default(), Manner::default()).await;
    let pairs = ask(&control, &proxy, &["/large", "/stream"], 40).await;
    assert_eq!((pairs.compared, pairs.against_shadow), (0, 0), "{pairs:?}");
    assert_eq!(pairs.incomparable["too large"], 20);
    assert_eq!(pairs.incomparable["streaming"], 20);

    let http = Http::new();
    for _ in 0..40 {
        let uri = format!("http://{}/items/a", proxy.local_addr());
        let answer = http
            .try_get(&uri, "s", &[("accept-encoding", "gzip")])
            .await
            .unwrap();
        assert_eq!(answer.headers["content-encoding"], "gzip");
    }
    until("the compressed answers are compared", || async {
        control.pairs_of("s~i~shadow").compared == 40
    })
    .await;
    let pairs = control.pairs_of("s~i~shadow");
    assert_eq!(
        (pairs.against_shadow, pairs.against_original),
        (0, 0),
        "{pairs:?}"
    );
    stop(proxy).await;
}
