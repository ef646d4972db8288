//! Mirroring: copies of safe requests to another cluster.
//!
//! # Guarantees
//! A copy never delays its original: it runs in a task of its own, at most [`MAX_COPIES`] at once,
//! and is left out first when there are more. Its answer is read and dropped. It counts for the
//! cluster that it goes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use pingora_http::RequestHeader;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{Endpoint, Mirror, Route};
use crate::ingress::headers;
use crate::select::by_weight;
use crate::telemetry::{Counters, Outcome, Tally};

/// Most copies at once.
pub(crate) const MAX_COPIES: usize = 64;
/// Longest that a copy may take, whatever the route allows its original.
const LONGEST: Duration = Duration::from_secs(10);
/// Idle connections per endpoint.
const IDLE_CONNECTIONS: usize = 8;

/// Sends copies.
pub(crate) struct Mirrors {
    client: Client<HttpConnector, Empty<Bytes>>,
    room: Arc<Semaphore>,
    shed: AtomicU64,
}

impl Mirrors {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(1)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(4))
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Self {
            client,
            room: Arc::new(Semaphore::new(MAX_COPIES)),
            shed: AtomicU64::new(0),
        }
    }

    /// Copies that were left out for want of room.
    pub(crate) fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    /// Copies a request to where its route says, if it may be copied.
    pub(crate) fn copy(&self, route: &Route, request: &RequestHeader, now_ms: u64) {
        if route.mirrors.is_empty() || !may_be_copied(request) {
            return;
        }
        for mirror in &route.mirrors {
            if mirror.sequence.next_point() < u64::from(mirror.copied) {
                self.send(mirror, route.timeout, request, now_ms);
            }
        }
    }

    fn send(
        &self,
        mirror: &Mirror,
        timeout: Option<Duration>,
        request: &RequestHeader,
        now_ms: u64,
    ) {
        let set = &mirror.cluster.endpoints;
        let point = set.sequence.next_point();
        let weigh = |fits: fn(&Endpoint, u64) -> bool| {
            let weights = set.endpoints.iter();
            let weights = weights.map(|one| {
                if fits(one, now_ms) {
                    u64::from(one.weight)
                } else {
                    0
                }
            });
            by_weight(weights, point)
        };
        let healthy = weigh(|endpoint, now| !endpoint.suspicion.is_suspect(now));
        let index = healthy.or_else(|| weigh(|_, _| true));
        let Some(endpoint) = index.and_then(|index| set.endpoints.get(index)) else {
            return;
        };
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            self.shed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let Some(copy) = copy_of(request, endpoint, mirror.same_authority) else {
            return;
        };
        let copying = Copying {
            counters: Arc::clone(&mirror.cluster.counters),
            endpoint: Arc::clone(endpoint),
            timeout: timeout.unwrap_or(LONGEST).min(LONGEST),
            now_ms,
            permit,
        };
        tokio::spawn(copying.run(self.client.clone(), copy));
    }
}

struct Copying {
    counters: Arc<Counters>,
    endpoint: Arc<Endpoint>,
    timeout: Duration,
    now_ms: u64,
    permit: OwnedSemaphorePermit,
}

impl Copying {
    async fn run(self, client: Client<HttpConnector, Empty<Bytes>>, copy: Request<Empty<Bytes>>) {
        let began = Instant::now();
        let mut tally = Tally::default();
        tally.chosen(&self.counters);
        tally.attempt(&self.counters, Duration::ZERO);
        let answer = async {
            let response = match client.request(copy).await {
                Ok(response) => response,
                Err(error) => {
                    if error.is_connect() {
                        self.endpoint.suspicion.failed(self.now_ms);
                    }
                    return Outcome::Error;
                }
            };
            let outcome = Outcome::of_status(response.status().as_u16());
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                if frame.is_err() {
                    return Outcome::Error;
                }
            }
            outcome
        };
        let outcome = tokio::time::timeout(self.timeout, answer)
            .await
            .unwrap_or(Outcome::Error);
        tally.end(outcome, began.elapsed());
        drop(self.permit);
    }
}

/// Whether a copy does no harm: a method that changes nothing, and no body.
fn may_be_copied(request: &RequestHeader) -> bool {
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(&request.method);
    let length = request.headers.get(CONTENT_LENGTH);
    safe && !request.headers.contains_key(TRANSFER_ENCODING)
        && !request.headers.contains_key(http::header::UPGRADE)
        && length.is_none_or(|length| length.as_bytes() == b"0")
}

fn copy_of(
    request: &RequestHeader,
    endpoint: &Endpoint,
    same_authority: bool,
) -> Option<Request<Empty<Bytes>>> {
    let path = request.uri.path_and_query().cloned()?;
    let uri = Uri::builder()
        .scheme("http")
        .authority(endpoint.address.to_string())
        .path_and_query(path)
        .build()
        .ok()?;
    let mut copy = Request::new(Empty::new());
    *copy.method_mut() = request.method.clone();
    *copy.uri_mut() = uri;
    *copy.version_mut() = Version::HTTP_11;
    let fields = copy.headers_mut();
    for (name, value) in &request.headers {
        fields.append(name, value.clone());
    }
    headers::strip_hop_by_hop(fields);
    fields.remove(CONTENT_LENGTH);
    if !same_authority && let Some(host) = request.headers.get(HOST) {
        let mut renamed = host.as_bytes().to_vec();
        renamed.extend_from_slice(b"-shadow");
        fields.insert(HOST, HeaderValue::from_bytes(&renamed).ok()?);
    }
    Some(copy)
}
