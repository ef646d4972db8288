//! Requests that two programs could read differently, byte by byte.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use std::time::Duration;

use common::message::Service;
use common::{Control, Upstream, config, ready, stop};
use foreshadow_proxy::RunningProxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends bytes and reads until the other side closes or is silent for a while.
async fn raw(proxy: &RunningProxy, request: &str) -> String {
    let mut stream = TcpStream::connect(proxy.local_addr()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(read)) =
        tokio::time::timeout(Duration::from_millis(500), stream.read(&mut chunk)).await
    {
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

async fn serving() -> (Control, Upstream, RunningProxy) {
    let control = Control::start().await;
    let upstream = Upstream::start("a").await;
    control.cluster("a", &[upstream.address]);
    control.routes(&[Service::new("s", &[("a", 1)])]);
    let proxy = ready(config(control.address)).await;
    (control, upstream, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_requests_are_refused_and_never_reach_an_instance() {
    let (_control, upstream, proxy) = serving().await;
    let large = format!(
        "GET / HTTP/1.1\r\nHost: s\r\nX: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: s\r\n{}\r\n",
        "X-A: 1\r\n".repeat(130)
    );
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: s\r\nHost: t\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 5, 5\r\n\r\nhello",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: s\r\nContent-Length: +5\r\n\r\nhello",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("TRACE / HTTP/1.1\r\nHost: s\r\n\r\n", 405),
        ("CONNECT s:80 HTTP/1.1\r\nHost: s:80\r\n\r\n", 405),
        ("GET nowhere HTTP/1.1\r\nHost: s\r\n\r\n", 400),
        ("GET /a#b HTTP/1.1\r\nHost: s\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: s\r\nX:\x01\r\n\r\n", 400),
        (&*large, 431),
        (&*many, 431),
    ];
    for (request, status) in cases {
        let answer = raw(&proxy, request).await;
        let shown: String = request.chars().take(120).collect();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{shown:?} gave {answer:?}"
        );
        assert!(
            answer.to_ascii_lowercase().contains("connection: close"),
            "{answer:?}"
        );
    }
    assert_eq!(upstream.requests(), 0);
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_and_chunked_bodies_are_served() {
    let (_control, upstream, proxy) = serving().await;
    let two = "GET /1 HTTP/1.1\r\nHost: s\r\n\r\nGET /2 HTTP/1.1\r\nHost: s\r\n\r\n";
    let answers = raw(&proxy, two).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    let chunked =
        "POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert!(raw(&proxy, chunked).await.ends_with("a:5"));
    let absolute = "GET http://s/3 HTTP/1.1\r\nHost: s\r\n\r\n";
    let answer = raw(&proxy, absolute).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let elsewhere = "GET http://t/3 HTTP/1.1\r\nHost: s\r\n\r\n";
    assert!(raw(&proxy, elsewhere).await.starts_with("HTTP/1.1 400"));
    let paths: Vec<String> = upstream
        .state
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|seen| seen.uri.to_string())
        .collect();
    assert_eq!(paths, ["/1", "/2", "/", "/3"]);
    stop(proxy).await;
}
