//! Mirroring: copies of safe requests to another cluster.
//!
//! # Guarantees
//! A copy never delays its original: it runs in a task of its own, at most [`MAX_COPIES`] at once,
//! and is left out first when there are more. It counts for the cluster that it goes to. Copies for
//! the shadow of an instance under migration are of exactly the requests that its original answers,
//! and some of them are compared ([`crate::pairs`]); whatever is answered to copies reaches nobody.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, Method};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use pingora_http::RequestHeader;
use tokio::sync::Semaphore;

use crate::config::{Endpoint, Mirror, Route};
use crate::ingress::headers;
use crate::pairs::{Ask, Capture, Compare, Pace, Pairing};
use crate::select::by_weight;

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
    pace: Pace,
}

/// A request that is sent to an instance for the first time.
pub(crate) struct Copied<'a> {
    /// The request.
    pub(crate) request: &'a RequestHeader,
    /// The client.
    pub(crate) peer: Option<IpAddr>,
    /// Its route.
    pub(crate) route: &'a Route,
    /// Index of the target that it goes to.
    pub(crate) target: usize,
    /// The endpoint that it goes to.
    pub(crate) endpoint: &'a Arc<Endpoint>,
    /// The time.
    pub(crate) now_ms: u64,
}

impl Mirrors {
    /// `pairs_per_second`: how many copied requests are compared, see [`Pace`].
    pub(crate) fn new(pairs_per_second: u32) -> Self {
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
            pace: Pace::new(pairs_per_second),
        }
    }

    /// Copies that were left out for want of room.
    pub(crate) fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    /// Copies a request to where its route says, if it may be copied. Gives where the client's own
    /// answer goes, if it is compared.
    pub(crate) fn copy(&self, copied: &Copied<'_>) -> Option<Capture> {
        if copied.route.mirrors.is_empty() || !may_be_copied(copied.request) {
            return None;
        }
        let mut capture = None;
        for mirror in &copied.route.mirrors {
            let due = match &mirror.pair {
                // Exactly what goes to the original: a request to another instance has no pair.
                Some(pair) => mirror.copied > 0 && pair.original == copied.target,
                None => mirror.sequence.next_point() < u64::from(mirror.copied),
            };
            if due {
                capture = self.send(mirror, copied).or(capture);
            }
        }
        capture
    }

    fn send(&self, mirror: &Mirror, copied: &Copied<'_>) -> Option<Capture> {
        let now_ms = copied.now_ms;
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
        let shadow = index.and_then(|index| set.endpoints.get(index))?;
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            self.shed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let mut pairing = Pairing {
            client: self.client.clone(),
            ask: ask(copied, mirror.same_authority)?,
            shadow: Arc::clone(shadow),
            shadow_counters: Arc::clone(&mirror.cluster.counters),
            timeout: copied.route.timeout.unwrap_or(LONGEST).min(LONGEST),
            now_ms,
            compare: None,
        };
        let mut capture = None;
        if let Some(pair) = mirror.pair.as_ref().filter(|_| self.pace.takes(now_ms)) {
            let original = copied.route.targets.get(copied.target)?;
            let (ours, own) = Capture::new();
            capture = Some(ours);
            pairing.compare = Some(Compare {
                original: Arc::clone(copied.endpoint),
                original_counters: Arc::clone(&original.cluster.counters),
                own,
                book: Arc::clone(&pair.book),
            });
        }
        tokio::spawn(async move {
            pairing.run().await;
            drop(permit);
        });
        capture
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

/// The request as it is asked of both sides: also the original must not be able to tell its copy
/// from what the client asked.
fn ask(copied: &Copied<'_>, same_authority: bool) -> Option<Ask> {
    let request = copied.request;
    let path = request.uri.path_and_query().cloned()?;
    let mut fields = HeaderMap::with_capacity(request.headers.len());
    for (name, value) in &request.headers {
        fields.append(name, value.clone());
    }
    if let Some(chain) = copied
        .peer
        .and_then(|peer| headers::forwarded_for(&request.headers, peer))
    {
        fields.insert(headers::X_FORWARDED_FOR, chain);
    }
    headers::strip_hop_by_hop(&mut fields);
    fields.remove(CONTENT_LENGTH);
    if !same_authority && let Some(host) = request.headers.get(HOST) {
        let mut renamed = host.as_bytes().to_vec();
        renamed.extend_from_slice(b"-shadow");
        fields.insert(HOST, HeaderValue::from_bytes(&renamed).ok()?);
    }
    Some(Ask {
        method: request.method.clone(),
        path,
        headers: fields,
    })
}
