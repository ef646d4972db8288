//! What is known of a connection and of a request while they last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::config::{Route, RoutingTable};
use crate::hold::InFlight;
use crate::pairs::Capture;
use crate::select::{Picked, Selection};
use crate::telemetry::Tally;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The client.
    pub(crate) peer: SocketAddr,
    header_read: AtomicBool,
}

impl Connection {
    pub(crate) const fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            header_read: AtomicBool::new(false),
        }
    }

    /// A request is awaited.
    pub(crate) fn await_header(&self) {
        self.header_read.store(false, Ordering::Relaxed);
    }

    /// A whole header is here.
    pub(crate) fn header_is_read(&self) {
        self.header_read.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_header(&self) -> bool {
        self.header_read.load(Ordering::Relaxed)
    }
}

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(super) began: Instant,
    pub(super) connection: Option<Arc<Connection>>,
    pub(super) plan: Option<Plan>,
    pub(super) tally: Tally,
    /// The status that the instance answered.
    pub(super) status: Option<u16>,
    /// The deadline passed in the middle of the answer.
    pub(super) too_late: bool,
    /// Whether it was sent to an instance.
    pub(super) attempted: bool,
    /// Where its answer is compared with the shadow's.
    pub(super) capture: Option<Capture>,
}

/// Where a request goes. The table stays alive with it, so that nothing that it needs goes away.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) _table: Arc<RoutingTable>,
    pub(super) route: Arc<Route>,
    pub(super) selection: Selection,
    /// Hash of the session's name, where that chooses.
    pub(super) session: Option<u64>,
    pub(super) picked: Option<Picked>,
    /// The same endpoint is to be tried again, on a fresh connection.
    pub(super) again: bool,
    /// It may change something: until it ends it is under way.
    pub(super) _under_way: Option<InFlight>,
}

impl Request {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            connection: None,
            plan: None,
            tally: Tally::default(),
            status: None,
            too_late: false,
            attempted: false,
            capture: None,
        }
    }

    /// The time that is left; `None` without a limit.
    pub(super) fn left(&self) -> Option<Duration> {
        let timeout = self.plan.as_ref()?.route.timeout?;
        Some(timeout.saturating_sub(self.began.elapsed()))
    }
}
