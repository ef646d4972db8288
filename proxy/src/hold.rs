//! Holding requests that change something, while a single writer is cut over.
//!
//! # Flow
//! A route with a hold makes its requests wait in [`Holds::enter`] until a later table has a route
//! for them without one. Before a table with a hold is acknowledged, [`Holds::drained`] waits for
//! those that were sent by earlier tables: the acknowledgement then says that none is under way.
//!
//! # Guarantees
//! - Bounded: in number and time by what the control plane says; beyond, a request is turned away
//!   with 503 and has had no effect.
//! - A request that is about to be sent counts as under way *before* it looks at the table for the
//!   last time, so that either it sees the hold, or whoever drains sees it.
//! - Requests that only read never wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use tokio::sync::watch;
use tokio::time::Instant;

/// Longest wait for requests that were under way when a hold came. Those that take longer are
/// turned away by the instance if they come after it has been frozen.
const DRAIN: Duration = Duration::from_secs(1);
/// How often they are looked at.
const GLANCE: Duration = Duration::from_millis(1);

/// Whether a request may change something.
pub(crate) fn may_write(method: &Method) -> bool {
    ![Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
}

/// Requests of a virtual host that may change something and are under way. Shared between the
/// tables that replace each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flight(Arc<AtomicU64>);

/// One request under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<AtomicU64>);

impl Flight {
    /// Begins.
    pub(crate) fn begin(&self) -> InFlight {
        self.0.fetch_add(1, Ordering::SeqCst);
        InFlight(Arc::clone(&self.0))
    }

    fn is_empty(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Requests that wait, and the news that they wait for.
#[derive(Debug)]
pub(crate) struct Holds {
    revision: watch::Sender<u64>,
    held: AtomicUsize,
    held_ever: AtomicU64,
    turned_away: AtomicU64,
}

impl Default for Holds {
    fn default() -> Self {
        Self {
            revision: watch::Sender::new(0),
            held: AtomicUsize::new(0),
            held_ever: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
        }
    }
}

/// A request that waits.
pub(crate) struct Waiting<'a> {
    holds: &'a Holds,
    news: watch::Receiver<u64>,
    since: Instant,
}

impl Holds {
    /// A table has come into force.
    pub(crate) fn news(&self) {
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// Requests that have waited, and that were turned away.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.held_ever), read(&self.turned_away))
    }

    /// Takes a request in, unless there are too many. Must be called before the table is looked at
    /// again.
    pub(crate) fn enter(&self, most: usize) -> Option<Waiting<'_>> {
        let news = self.revision.subscribe();
        if self.held.fetch_add(1, Ordering::SeqCst) >= most {
            self.held.fetch_sub(1, Ordering::SeqCst);
            self.turned_away.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.held_ever.fetch_add(1, Ordering::Relaxed);
        Some(Waiting {
            holds: self,
            news,
            since: Instant::now(),
        })
    }

    /// Waits until nothing is under way any more; gives what is left when the time is over.
    pub(crate) async fn drained(&self, flights: &[Flight]) -> u64 {
        let until = Instant::now() + DRAIN;
        loop {
            let busy = flights.iter().filter(|flight| !flight.is_empty());
            let left = busy.map(|flight| flight.0.load(Ordering::SeqCst)).sum();
            if left == 0 || Instant::now() >= until {
                return left;
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}

impl Waiting<'_> {
    /// Waits for the next table; `false` when the time is over.
    pub(crate) async fn next(&mut self, limit: Duration) -> bool {
        let changed = tokio::time::timeout_at(self.since + limit, self.news.changed()).await;
        let goes_on = matches!(changed, Ok(Ok(())));
        if !goes_on {
            self.holds.turned_away.fetch_add(1, Ordering::Relaxed);
        }
        goes_on
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.holds.held.fetch_sub(1, Ordering::SeqCst);
    }
}
