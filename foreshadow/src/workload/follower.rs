//! The thread that follows the journal into the index, and can be brought to rest.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::history::History;
use super::index::Index;
use super::journal::{Entry, Reader};

/// How often the journal is looked at for what others append.
const GLANCE: Duration = Duration::from_millis(4);

/// Further behind than this, digests between are not worth their time.
const FAR_BEHIND: u64 = 256 * 1024;

/// Where the follower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Progress {
    /// The index's position.
    pub(super) position: u64,
    /// Whether it has reached the journal's end as it was at the start.
    pub(super) has_caught_up: bool,
    /// Whether it is at rest.
    pub(super) is_at_rest: bool,
    /// Whether it has died.
    pub(super) is_dead: bool,
}

/// What the follower is told.
#[derive(Debug, Default)]
struct Orders {
    rest_until: Option<Instant>,
    look_now: bool,
    end: bool,
}

/// Shared with the requests.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) index: RwLock<Index>,
    pub(super) history: Mutex<History>,
    orders: Mutex<Orders>,
    bell: Condvar,
    progress: watch::Sender<Progress>,
}

impl Follower {
    /// Starts the thread from the index's position.
    pub(super) fn start(index: Index, journal: &Path) -> io::Result<Arc<Self>> {
        let reached = index.reached();
        let reader = Reader::open(journal, reached.position).map_err(|error| {
            let folder = index.folder().display();
            io::Error::new(error.kind(), format!("state in {folder}: {error}"))
        })?;
        let goal = reader.len()?.max(reached.upto);
        let start = Progress {
            position: reached.position,
            ..Progress::default()
        };
        let this = Arc::new(Self {
            index: RwLock::new(index),
            history: Mutex::default(),
            orders: Mutex::default(),
            bell: Condvar::new(),
            progress: watch::Sender::new(start),
        });
        let follower = Arc::clone(&this);
        std::thread::Builder::new()
            .name("follower".to_owned())
            .spawn(move || {
                let outcome = follower.run(reader, goal, reached.upto);
                if let Err(error) = outcome {
                    tracing::error!(%error, "the journal cannot be followed any more");
                }
                follower
                    .progress
                    .send_modify(|progress| progress.is_dead = true);
            })?;
        Ok(this)
    }

    /// News of its progress.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.notify_all();
    }

    /// Something was appended here.
    pub(super) fn look_now(&self) {
        self.order(|orders| orders.look_now = true);
    }

    /// Rest until `resume`, or for `limit` at most.
    pub(super) fn rest(&self, limit: Duration) {
        self.order(|orders| orders.rest_until = Some(Instant::now() + limit));
    }

    /// Go on.
    pub(super) fn resume(&self) {
        self.order(|orders| orders.rest_until = None);
    }

    /// End the thread.
    pub(super) fn end(&self) {
        self.order(|orders| orders.end = true);
    }

    fn run(&self, mut reader: Reader, goal: u64, trusted_from: u64) -> io::Result<()> {
        self.remember(trusted_from);
        self.tell(goal);
        loop {
            if self.obey() {
                return Ok(());
            }
            let entries = reader.read()?;
            let Some(last) = entries.last() else {
                self.wait();
                continue;
            };
            let behind = reader.len()?.saturating_sub(last.end);
            self.apply(&entries, last.end, behind, trusted_from)?;
            self.tell(goal);
        }
    }

    /// Rests while told to; `true` to end.
    fn obey(&self) -> bool {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rested = false;
        while !orders.end
            && let Some(until) = orders.rest_until
        {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                orders.rest_until = None;
                continue;
            }
            if !rested {
                rested = true;
                self.progress
                    .send_modify(|progress| progress.is_at_rest = true);
            }
            orders = self
                .bell
                .wait_timeout(orders, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if rested {
            self.progress
                .send_modify(|progress| progress.is_at_rest = false);
        }
        orders.end
    }

    fn wait(&self) {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let idle =
            |orders: &mut Orders| !orders.look_now && !orders.end && orders.rest_until.is_none();
        let (mut orders, _) = self
            .bell
            .wait_timeout_while(orders, GLANCE, idle)
            .unwrap_or_else(PoisonError::into_inner);
        orders.look_now = false;
    }

    fn apply(&self, entries: &[Entry], end: u64, behind: u64, trusted_from: u64) -> io::Result<()> {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.begin(end)?;
        for entry in entries {
            index.apply(entry.record.as_ref(), entry.end)?;
            // Shards that were ahead of their position at the start are right only from there on.
            if behind < FAR_BEHIND && entry.end >= trusted_from {
                let digest = index.digest();
                self.history
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(entry.end, digest);
            }
        }
        if behind >= FAR_BEHIND {
            self.history
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        }
        index.finish()
    }

    /// The digest of the position at the start, if that is one to be trusted.
    fn remember(&self, trusted_from: u64) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let position = index.reached().position;
        if position >= trusted_from {
            let digest = index.digest();
            self.history
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(position, digest);
        }
    }

    fn tell(&self, goal: u64) {
        let position = self
            .index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .reached()
            .position;
        self.progress.send_modify(|progress| {
            progress.position = position;
            progress.has_caught_up |= position >= goal;
        });
    }
}
