//! What came of a request.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;

/// Longest answer that is read.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Answered with what a client wants: 200 to 399.
    Answered,
    /// Answered with 400 or above. A proxy without a route says 404: to its client that is a
    /// failure like any other.
    Refused,
    /// No connection.
    NoConnection,
    /// Not answered in time.
    TimedOut,
    /// The connection broke.
    Reset,
}

/// The outcome of one request.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) ended: Ended,
    pub(super) status: Option<u16>,
    pub(super) replica: Option<String>,
    pub(super) instance: Option<String>,
    /// What a failure said of itself, shortened.
    pub(super) words: Option<String>,
}

/// The client shared by all streams: it keeps connections alive.
pub(super) type HttpClient = Client<HttpConnector, Full<Bytes>>;

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    // What a server says of itself is counted, so its length is limited.
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.chars().take(128).collect())
}

/// Sends a request and reads the answer to its end.
pub(super) async fn send(
    client: &HttpClient,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Outcome {
    let failed = |ended| Outcome {
        ended,
        status: None,
        replica: None,
        instance: None,
        words: None,
    };
    let exchange = async {
        let response = match client.request(request).await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return failed(Ended::NoConnection),
            Err(_) => return failed(Ended::Reset),
        };
        let status = response.status().as_u16();
        let replica = text(response.headers(), "x-replica");
        let instance = text(response.headers(), "x-instance");
        let body = Limited::new(response.into_body(), LARGEST_ANSWER)
            .collect()
            .await;
        let ended = match (&body, status) {
            (Err(_), _) => Ended::Reset,
            (Ok(_), 400..) => Ended::Refused,
            (Ok(_), _) => Ended::Answered,
        };
        let words = body.ok().filter(|_| ended == Ended::Refused).map(|body| {
            let bytes = body.to_bytes();
            let text = String::from_utf8_lossy(&bytes);
            text.trim().chars().take(200).collect()
        });
        Outcome {
            ended,
            status: Some(status),
            replica,
            instance,
            words,
        }
    };
    tokio::time::timeout(limit, exchange)
        .await
        .unwrap_or_else(|_| failed(Ended::TimedOut))
}
