//! A scripted control plane, small instances, and clients.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test file uses its part"
)]

pub mod control;
pub mod message;
pub mod upstream;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::NodeId;
use foreshadow_proxy::{ProxyConfig, RunningProxy};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

pub use control::Control;
pub use upstream::Upstream;

/// Waits for a condition, with a time limit.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < limit, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn config(control_plane: SocketAddr) -> ProxyConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = ProxyConfig::new(NodeId::new("proxy-1").unwrap(), any, control_plane);
    config.admin = Some(any);
    config.grace = Duration::from_secs(10);
    config
}

/// A proxy that has its configuration.
pub async fn ready(config: ProxyConfig) -> RunningProxy {
    let proxy = foreshadow_proxy::spawn(config).unwrap();
    let admin = format!("http://{}/ready", proxy.admin_addr().unwrap());
    let client = Http::new();
    until("the proxy is ready", || async {
        client.get(&admin, "admin").await.status == 200
    })
    .await;
    proxy
}

pub async fn stop(proxy: RunningProxy) {
    tokio::task::spawn_blocking(move || proxy.stop().unwrap())
        .await
        .unwrap();
}

/// What the proxy says about itself.
pub async fn admin(proxy: &RunningProxy, path: &str) -> serde_json::Value {
    let uri = format!("http://{}{path}", proxy.admin_addr().unwrap());
    serde_json::from_slice(&Http::new().get(&uri, "admin").await.body).unwrap()
}

/// A client with keep-alive.
#[derive(Clone)]
pub struct Http(Client<HttpConnector, Full<Bytes>>);

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Http {
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let response = self
            .0
            .request(request)
            .await
            .map_err(|error| format!("{error:?}"))?;
        let (parts, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| format!("{error:?}"))?
            .to_bytes();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    pub async fn get(&self, uri: &str, host: &str) -> Answer {
        self.try_get(uri, host, &[]).await.unwrap()
    }

    pub async fn try_get(
        &self,
        uri: &str,
        host: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, String> {
        let mut request = Request::get(uri).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::default()).unwrap()).await
    }
}

/// Sends `count` requests from `clients` at once. Gives how many were not answered with 200.
pub async fn load(proxy: &RunningProxy, host: &str, clients: usize, count: usize) -> Vec<String> {
    let uri: Arc<str> = format!("http://{}/", proxy.local_addr()).into();
    let host: Arc<str> = host.into();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (uri, host) = (Arc::clone(&uri), Arc::clone(&host));
            let mine = count / clients + usize::from(client < count % clients);
            tokio::spawn(async move {
                let http = Http::new();
                let mut failed = Vec::new();
                for _ in 0..mine {
                    match http.try_get(&uri, &host, &[]).await {
                        Ok(answer) if answer.status == 200 => {}
                        Ok(answer) => failed.push(answer.status.to_string()),
                        Err(error) => failed.push(error),
                    }
                }
                failed
            })
        })
        .collect();
    let mut failed = Vec::new();
    for task in tasks {
        failed.extend(task.await.unwrap());
    }
    failed
}
