//! Our part in Pingora's handling of a request.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONNECTION, HOST, UPGRADE};
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{BError, Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::context::{Connection, Plan, Request};
use super::{harden, headers};
use crate::config::{Route, RoutingTable};
use crate::hold::{self, Flight};
use crate::mirror::Copied;
use crate::select::{Selection, sticky_key};
use crate::state::Shared;
use crate::telemetry::Outcome;

/// How long a connection to an instance may be idle: shorter than the five seconds after which
/// widespread servers close theirs.
const UPSTREAM_IDLE: Duration = Duration::from_secs(4);
/// How long a write to an instance may take when the route sets no limit.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);

/// Our part in Pingora's handling of a request.
pub(crate) struct Forwarder {
    shared: Arc<Shared>,
}

impl Forwarder {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Finds the route of a request, and waits while requests of that route are held.
    async fn admit(&self, request: &RequestHeader) -> Result<Plan> {
        let mut found = self.find(request)?;
        let mut under_way = None;
        if hold::may_write(&request.method) {
            let mut waiting = None;
            loop {
                let flight = found.flight.begin();
                // It counts as under way now: look whether a hold came before that.
                found = self.find(request)?;
                let Some(held) = found.route.hold else {
                    under_way = Some(flight);
                    break;
                };
                drop(flight);
                let Some(waits) = waiting.as_mut() else {
                    let Some(entered) = self.shared.holds.enter(held.requests) else {
                        return refuse(503, "too many requests that change something are held");
                    };
                    // From here on no news is missed: look again before the first wait.
                    waiting = Some(entered);
                    found = self.find(request)?;
                    continue;
                };
                if !waits.next(held.limit).await {
                    return refuse(503, "requests that change something are held for too long");
                }
                found = self.find(request)?;
            }
        }
        let key = sticky_key(&found.route.sticky, &request.headers);
        let point = key.unwrap_or_else(|| found.route.sequence.next_point());
        Ok(Plan {
            _table: found.table,
            route: found.route,
            selection: Selection::new(point),
            session: key,
            picked: None,
            again: false,
            _under_way: under_way,
        })
    }

    /// Finds the route of a request.
    fn find(&self, request: &RequestHeader) -> Result<Found> {
        let table = self.shared.table.load_full();
        let authority = request
            .headers
            .get(HOST)
            .map_or("", |host| host.to_str().unwrap_or(""));
        let found = table.host(authority).and_then(|host| {
            let route = host.route(&request.method, request.raw_path())?;
            Some((Arc::clone(route), host.flight.clone()))
        });
        let Some((route, flight)) = found else {
            return if self.shared.is_ready() {
                refuse(404, "no route for this host and path")
            } else {
                refuse(503, "no configuration yet")
            };
        };
        Ok(Found {
            table,
            route,
            flight,
        })
    }
}

/// A route in a table.
struct Found {
    table: Arc<RoutingTable>,
    route: Arc<Route>,
    flight: Flight,
}

fn refuse<T>(status: u16, reason: &'static str) -> Result<T> {
    Err(Error::explain(ErrorType::HTTPStatus(status), reason))
}

#[async_trait]
impl ProxyHttp for Forwarder {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request::new()
    }

    /// There is no compression and nothing else to initialise.
    fn init_downstream_modules(&self, _: &mut pingora_core::modules::http::HttpModules) {}

    /// Runs for every request: the connection is handed over as context of the session.
    fn on_connection_reuse(
        &self,
        _: &mut Session,
        request: &mut Request,
        context: Box<dyn Any + Send + Sync>,
    ) {
        if let Ok(connection) = context.downcast::<Arc<Connection>>() {
            connection.header_is_read();
            request.connection = Some(*connection);
        }
    }

    fn persist_connection_context(
        &self,
        _: &Session,
        request: &Request,
    ) -> Option<Box<dyn Any + Send + Sync>> {
        let connection = request.connection.as_ref()?;
        Some(Box::new(Arc::clone(connection)))
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        request: &mut Request,
    ) -> Result<()> {
        if let Some(http1) = session.as_ref().as_http1() {
            let raw = http1.get_headers_raw_bytes();
            if let Err(rejection) = harden::check(http1.req_header(), &raw) {
                return refuse(rejection.status, rejection.reason);
            }
        }
        // Everybody behind us is asked for paths.
        if let Some(path) = harden::path_of_absolute(session.req_header().raw_path()) {
            session.req_header_mut().set_raw_path(&path)?;
        }
        request.plan = Some(self.admit(session.req_header()).await?);
        Ok(())
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        request: &mut Request,
    ) -> Result<Box<HttpPeer>> {
        let elapsed = request.began.elapsed();
        let left = request.left();
        request.status = None;
        let Some(plan) = &mut request.plan else {
            return refuse(500, "the request has no route");
        };
        if left.is_some_and(|left| left.is_zero()) {
            return refuse(504, "no time is left");
        }
        if !(std::mem::take(&mut plan.again) && plan.picked.is_some()) {
            plan.picked = plan.selection.next(&plan.route, self.shared.now_ms());
        }
        let target = |index: usize| plan.route.targets.get(index);
        if let Some(first) = plan.selection.first_choice().and_then(target) {
            let counters = &first.cluster.counters;
            match plan.session {
                Some(session) => {
                    let now_ms = self.shared.now_ms();
                    request.tally.chosen_by(counters, session, now_ms);
                }
                None => request.tally.chosen(counters),
            }
        }
        let Some((picked, target)) = plan
            .picked
            .as_ref()
            .and_then(|picked| Some((picked, target(picked.target)?)))
        else {
            return refuse(503, "no instance can be reached");
        };
        request.tally.attempt(&target.cluster.counters, elapsed);
        // Only a first attempt is copied, and only what that one answers is compared.
        request.capture = None;
        if !std::mem::replace(&mut request.attempted, true) {
            request.capture = self.shared.mirrors.copy(&Copied {
                request: session.req_header(),
                peer: request.connection.as_ref().map(|one| one.peer.ip()),
                route: &plan.route,
                target: picked.target,
                endpoint: &picked.endpoint,
                now_ms: self.shared.now_ms(),
            });
        }
        let mut peer = Box::new(HttpPeer::new(picked.endpoint.address, false, String::new()));
        let options = &mut peer.options;
        options.connection_timeout = Some(target.cluster.spec.connect_timeout);
        options.total_connection_timeout = options.connection_timeout;
        options.idle_timeout = Some(UPSTREAM_IDLE);
        options.write_timeout = Some(left.unwrap_or(WRITE_TIMEOUT));
        // What has been upgraded may be silent for as long as it likes.
        options.read_timeout = if session.is_upgrade_req() { None } else { left };
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        peer: &HttpPeer,
        request: &mut Request,
        error: BError,
    ) -> BError {
        let mut error = error.more_context(format!("connecting to {peer}"));
        let again = request.plan.as_mut().is_some_and(|plan| {
            plan.picked.take().is_some_and(|picked| {
                picked.endpoint.suspicion.failed(self.shared.now_ms());
                plan.selection.failed(picked.endpoint.address)
            })
        });
        error.set_retry(again);
        error
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        #[cfg(unix)] _: std::os::unix::io::RawFd,
        _: Option<&Digest>,
        request: &mut Request,
    ) -> Result<()> {
        let picked = request.plan.as_ref().and_then(|plan| plan.picked.as_ref());
        if let Some(picked) = picked.filter(|_| !reused) {
            picked.endpoint.suspicion.connected();
        }
        Ok(())
    }

    /// A connection from the pool that was closed in the meantime is replaced by a fresh one, if
    /// the request can be repeated.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: BError,
        request: &mut Request,
        reused: bool,
    ) -> BError {
        let mut error = error.more_context(format!("from {peer}"));
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none();
        if repeatable {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        if let Some(plan) = &mut request.plan {
            plan.again = error.retry();
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        request: &mut Request,
    ) -> Result<()> {
        if let Some(connection) = &request.connection {
            let chain = headers::forwarded_for(&session.req_header().headers, connection.peer.ip());
            if let Some(chain) = chain {
                upstream.insert_header(headers::X_FORWARDED_FOR, chain)?;
            }
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        request: &mut Request,
    ) -> Result<()> {
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
        {
            return Ok(());
        }
        request.status = Some(response.status.as_u16());
        if let Some(capture) = &mut request.capture {
            capture.head(response.status.as_u16(), &response.headers);
        }
        if self.shared.is_draining() {
            session.set_keepalive(None);
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        for name in headers::nominated(&response.headers) {
            response.remove_header(&name);
        }
        for name in headers::HOP_BY_HOP {
            response.remove_header(&name);
        }
        response.remove_header(&CONNECTION);
        response.remove_header(&UPGRADE);
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        request: &mut Request,
    ) -> Result<Option<Duration>> {
        if let (Some(capture), Some(piece)) = (&mut request.capture, body) {
            capture.piece(piece);
        }
        // Each read has its own time limit; this one is for all of them together.
        let over = request.left().is_some_and(|left| left.is_zero());
        if over && !end && !session.was_upgraded() {
            request.too_late = true;
            let error = Error::explain(ErrorType::ReadTimedout, "the answer takes too long");
            return Err(error.into_up());
        }
        Ok(None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        _: &mut Request,
    ) -> FailToProxy {
        let status = status_of(error);
        if status > 0 {
            let ours = matches!(error.etype(), ErrorType::HTTPStatus(_));
            let reason = error.context.as_ref().filter(|_| ours);
            let body = reason.map_or_else(String::new, |reason| format!("{}\n", reason.as_str()));
            let sent = session.respond_error_with_body(status, body.into()).await;
            if let Err(error) = sent {
                tracing::debug!(%error, "the client is gone before its error");
            }
        }
        FailToProxy {
            error_code: status,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, _: &mut Session, error: Option<&Error>, request: &mut Request) {
        let outcome = outcome(error, request);
        if let (Some(error), Outcome::Error) = (error, outcome) {
            tracing::debug!(%error, "a request failed");
        }
        request.tally.end(outcome, request.began.elapsed());
        if let (Some(capture), None) = (request.capture.take(), error) {
            capture.finish();
        }
    }

    /// Requests that fail are counted; a line for each would only add to what makes them fail.
    fn suppress_error_log(&self, _: &Session, _: &Request, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Request,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// The status that a failure is answered with; 0 if the client is gone.
fn status_of(error: &Error) -> u16 {
    match (error.etype(), error.esource()) {
        (ErrorType::HTTPStatus(status), _) => *status,
        (ErrorType::ReadTimedout | ErrorType::WriteTimedout, ErrorSource::Upstream) => 504,
        (
            ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::ConnectProxyFailure
            | ErrorType::BindError
            | ErrorType::SocketError,
            ErrorSource::Upstream,
        ) => 503,
        (_, ErrorSource::Upstream) => 502,
        (
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed,
            ErrorSource::Downstream,
        ) => 0,
        (ErrorType::ReadTimedout | ErrorType::WriteTimedout, ErrorSource::Downstream) => 408,
        (_, ErrorSource::Downstream) => 400,
        (_, ErrorSource::Internal | ErrorSource::Unset) => 500,
    }
}

fn outcome(error: Option<&Error>, request: &Request) -> Outcome {
    let answered = request.status.map(Outcome::of_status);
    match error {
        None => answered.unwrap_or(Outcome::Error),
        Some(_) if request.too_late => Outcome::Error,
        Some(error) if *error.esource() == ErrorSource::Downstream => {
            answered.unwrap_or(Outcome::Cancelled)
        }
        Some(_) => Outcome::Error,
    }
}
