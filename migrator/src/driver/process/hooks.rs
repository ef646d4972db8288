//! Short HTTP calls to an instance: health and hooks. What it answers is not trusted: sizes and
//! times are limited.

use std::time::Duration;

use domain::Endpoint;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

/// More than any hook has to say.
const LARGEST_ANSWER: usize = 64 * 1024;

/// What went wrong, in words.
pub(super) type HookError = String;

/// The state hook's answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct StateAnswer {
    pub(super) position: u64,
    pub(super) digest: String,
}

/// One request on a connection of its own.
pub(super) async fn call(
    endpoint: Endpoint,
    method: Method,
    path: &str,
    body: Option<String>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), HookError> {
    let what = format!("{method} http://{endpoint}{path}");
    match tokio::time::timeout(limit, exchange(endpoint, method, path, body)).await {
        Ok(outcome) => outcome.map_err(|error| format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: no answer within {} ms", limit.as_millis())),
    }
}

async fn exchange(
    endpoint: Endpoint,
    method: Method,
    path: &str,
    body: Option<String>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(endpoint.0).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", endpoint.to_string())
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    let response = sender.send_request(request).await;
    let outcome = match response {
        Ok(response) => {
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER)
                .collect()
                .await;
            body.map(|body| (status, body.to_bytes()))
        }
        Err(error) => Err(error.into()),
    };
    connection.abort();
    outcome
}

/// A `POST` that must answer 2xx.
pub(super) async fn post(
    endpoint: Endpoint,
    path: &str,
    body: Option<String>,
    limit: Duration,
) -> Result<(), HookError> {
    let (status, _) = call(endpoint, Method::POST, path, body, limit).await?;
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("POST {path} answered {status}"))
    }
}

/// Whether the health path answers 200.
pub(super) async fn is_healthy(endpoint: Endpoint, path: &str) -> bool {
    let answer = call(endpoint, Method::GET, path, None, Duration::from_secs(2)).await;
    answer.is_ok_and(|(status, _)| status == StatusCode::OK)
}

/// The path with a query parameter added.
pub(super) fn with_query(path: &str, query: &str) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}{query}")
}

/// Asks the state hook; `None` when it answers that this position is already behind it.
pub(super) async fn state(
    endpoint: Endpoint,
    path: &str,
    limit: Duration,
) -> Result<Option<StateAnswer>, HookError> {
    let (status, body) = call(endpoint, Method::GET, path, None, limit).await?;
    if status == StatusCode::CONFLICT {
        return Ok(None);
    }
    if status != StatusCode::OK {
        return Err(format!("GET {path} answered {status}"));
    }
    serde_json::from_slice(&body)
        .map(Some)
        .map_err(|error| format!("GET {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_added_to_a_path_with_and_without_one() {
        assert_eq!(with_query("/q", "a=1"), "/q?a=1");
        assert_eq!(with_query("/q?b=2", "a=1"), "/q?b=2&a=1");
    }
}
