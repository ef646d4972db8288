//! Questions about the proxy itself: `GET /ready`, `GET /table`, `GET /counts`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::state::Shared;

/// Connections at once.
const MAX_CONNECTIONS: usize = 32;

#[derive(Serialize)]
struct TableView {
    revision: u64,
    ready: bool,
    connected: bool,
    clusters: BTreeMap<String, ClusterView>,
}

#[derive(Serialize)]
struct ClusterView {
    endpoints: Vec<EndpointView>,
}

#[derive(Serialize)]
struct EndpointView {
    address: String,
    weight: u32,
    suspect: bool,
}

#[derive(Serialize)]
struct CountsView {
    clusters: BTreeMap<String, CountView>,
    mirror_copies_shed: u64,
    writes_held: u64,
    writes_turned_away: u64,
    pairs: BTreeMap<String, domain::Pairs>,
}

#[derive(Serialize)]
struct CountView {
    success: u64,
    error: u64,
    cancelled: u64,
    issued: u64,
    in_progress: u64,
    latency_p50_us: Option<f64>,
    latency_p99_us: Option<f64>,
}

/// Answers until `stop`.
pub(crate) async fn run(shared: Arc<Shared>, listener: StdListener, stop: CancellationToken) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the admin address does not answer");
            return;
        }
    };
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&shared, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "an admin connection broke");
                }
            }
            drop(permit);
        });
    }
}

fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is understood\n");
    }
    match request.uri().path() {
        "/ready" if shared.is_ready() => text(StatusCode::OK, "ready\n"),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "no configuration yet\n"),
        "/table" => json(&table(shared)),
        "/counts" => json(&counts(shared)),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /ready, /table and /counts\n",
        ),
    }
}

fn table(shared: &Shared) -> serde_json::Value {
    let table = shared.table.load();
    let now = shared.now_ms();
    let cluster = |cluster: &crate::config::Cluster| ClusterView {
        endpoints: cluster
            .endpoints
            .endpoints
            .iter()
            .map(|endpoint| EndpointView {
                address: endpoint.address.to_string(),
                weight: endpoint.weight,
                suspect: endpoint.suspicion.is_suspect(now),
            })
            .collect(),
    };
    let clusters = table
        .clusters()
        .iter()
        .map(|(name, one)| (name.clone(), cluster(one)));
    let view = TableView {
        revision: table.revision,
        ready: shared.is_ready(),
        connected: shared.is_connected(),
        clusters: clusters.collect(),
    };
    let mut value = serde_json::to_value(view).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("routes".to_owned(), table.describe_routes());
        object.insert("versions".to_owned(), shared.versions());
    }
    value
}

fn counts(shared: &Shared) -> CountsView {
    let clusters = shared.registry.totals().into_iter().map(|(name, total)| {
        let view = CountView {
            success: total.counts.success,
            error: total.counts.error,
            cancelled: total.cancelled,
            issued: total.issued,
            in_progress: total.counts.in_progress,
            latency_p50_us: total.counts.latency.quantile_us(0.5),
            latency_p99_us: total.counts.latency.quantile_us(0.99),
        };
        (name, view)
    });
    let (writes_held, writes_turned_away) = shared.holds.totals();
    CountsView {
        writes_held,
        writes_turned_away,
        clusters: clusters.collect(),
        mirror_copies_shed: shared.mirrors.shed(),
        pairs: shared.registry.pairs(),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
