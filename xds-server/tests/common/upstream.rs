//! A tiny HTTP server that answers with its name, slowly when asked to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::Endpoint;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

pub struct Upstream {
    pub address: SocketAddr,
    pub requests: Arc<AtomicU64>,
}

impl Upstream {
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                let service = service_fn(move |request: Request<Incoming>| {
                    counter.fetch_add(1, Ordering::SeqCst);
                    answer(name, request)
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(connection), service));
            }
        });
        Self { address, requests }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint(self.address)
    }
}

/// `/slow/<milliseconds>` takes that long.
async fn answer(
    name: &'static str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Some(millis) = request.uri().path().strip_prefix("/slow/") {
        tokio::time::sleep(Duration::from_millis(millis.parse().unwrap())).await;
    }
    let mut response = Response::new(Full::new(Bytes::from_static(name.as_bytes())));
    // What it says of itself: ORCA, in its form as text.
    let load = http::HeaderValue::from_static("TEXT named_metrics.queue=2.5");
    response.headers_mut().insert("endpoint-load-metrics", load);
    Ok(response)
}

/// An HTTP client.
#[derive(Clone)]
pub struct Http(Client<HttpConnector, Empty<Bytes>>);

impl Http {
    pub fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }

    /// Status and body; status 0 when there was no answer.
    pub async fn get(&self, address: SocketAddr, path: &str, host: &str) -> (u16, String) {
        let request = Request::get(format!("http://{address}{path}")).header("host", host);
        self.send(request).await
    }

    /// The same for a client that names itself in a header.
    pub async fn get_as(
        &self,
        address: SocketAddr,
        host: &str,
        (header, value): (&str, &str),
    ) -> (u16, String) {
        let request = Request::get(format!("http://{address}/")).header("host", host);
        self.send(request.header(header, value)).await
    }

    async fn send(&self, request: hyper::http::request::Builder) -> (u16, String) {
        let request = request.body(Empty::new()).unwrap();
        match self.0.request(request).await {
            Ok(response) => {
                let status = response.status().as_u16();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                (status, String::from_utf8_lossy(&body).into_owned())
            }
            Err(error) => (0, error.to_string()),
        }
    }
}
