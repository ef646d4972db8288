//! What the store's handle and its keeper share, and how an operation reaches the server.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::connect::Connector;
use super::fault;
use super::keys::Keys;
use super::memory::{Memory, Witness};
use super::options::RedisOptions;
use super::script::{self, Answer, Call, Script};
use crate::error::StoreError;
use crate::key::{Durability, Kind};
use crate::watch::Watchers;

/// A connection that has joined the store.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    /// Run id of the server process that it leads to.
    pub(super) run: Arc<str>,
    /// Where to complain about it; one complaint is enough to end it.
    complaints: mpsc::Sender<StoreError>,
    given_up: Arc<AtomicBool>,
}

impl Live {
    /// A connection, and where complaints about it arrive.
    pub(super) fn new(
        connection: MultiplexedConnection,
        run: &str,
    ) -> (Self, mpsc::Receiver<StoreError>) {
        let (complaints, receiver) = mpsc::channel(1);
        let live = Self {
            connection,
            run: run.into(),
            complaints,
            given_up: Arc::default(),
        };
        (live, receiver)
    }

    fn complain(&self, error: &StoreError) {
        self.given_up.store(true, Ordering::Relaxed);
        // Full: somebody has complained already.
        let _ = self.complaints.try_send(error.clone());
    }
}

/// Whether there is a connection.
#[derive(Clone)]
pub(super) enum Link {
    /// There is.
    Up(Live),
    /// There is none, and why.
    Down(StoreError),
}

/// Shared by the handle and the keeper.
pub(super) struct Core {
    pub(super) options: RedisOptions,
    pub(super) connector: Arc<dyn Connector>,
    /// The store's name for messages.
    pub(super) name: String,
    pub(super) keys: Keys,
    pub(super) memory: Memory,
    pub(super) watchers: Arc<Watchers>,
    pub(super) link: watch::Sender<Link>,
    wanted: Mutex<BTreeSet<Kind>>,
    /// Rung when another kind is wanted.
    pub(super) bell: Notify,
}

impl Core {
    pub(super) fn new(
        options: RedisOptions,
        connector: Arc<dyn Connector>,
        memory: Memory,
        link: watch::Sender<Link>,
    ) -> Self {
        // Durable kinds change seldom and everybody needs them; telemetry is heard on demand.
        let durable = |kind: &Kind| kind.durability() == Durability::Durable;
        Self {
            name: format!("{:?} at {}", options.prefix, connector.name()),
            keys: Keys::new(&options.prefix),
            memory,
            watchers: Arc::new(Watchers::new()),
            link,
            wanted: Mutex::new(Kind::ALL.into_iter().filter(durable).collect()),
            bell: Notify::new(),
            options,
            connector,
        }
    }

    fn wanted_kinds(&self) -> MutexGuard<'_, BTreeSet<Kind>> {
        // An insertion is the only change, so the set is whole even after a panic.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kinds whose changes this client listens to.
    pub(super) fn wanted(&self) -> BTreeSet<Kind> {
        self.wanted_kinds().clone()
    }

    /// Listens to a kind from soon on; its watchers are told that they missed something then.
    pub(super) fn want(&self, kind: Kind) {
        if self.wanted_kinds().insert(kind) {
            self.bell.notify_one();
        }
    }

    /// Runs a script, within the time limit, and reads what every answer begins with.
    pub(super) async fn call(
        &self,
        operation: &'static str,
        script: &Script,
        call: &Call,
    ) -> Result<Answer, StoreError> {
        let deadline = Instant::now() + self.options.timeout;
        let live = self.live(deadline).await?;
        self.call_on(&live, deadline, operation, script, call).await
    }

    /// The connection, once there is one.
    pub(super) async fn live(&self, deadline: Instant) -> Result<Live, StoreError> {
        let mut link = self.link.subscribe();
        loop {
            self.memory.recall()?;
            let now = link.borrow_and_update().clone();
            let reason = match now {
                Link::Up(live) if !live.given_up.load(Ordering::Relaxed) => return Ok(live),
                Link::Up(_) => fault::unavailable("connect", "the last connection failed"),
                Link::Down(reason) => reason,
            };
            if timeout_at(deadline, link.changed()).await.is_err() {
                return Err(reason);
            }
        }
    }

    /// As [`Core::call`], on this connection. Complains about it if it fails.
    pub(super) async fn call_on(
        &self,
        live: &Live,
        deadline: Instant,
        operation: &'static str,
        script: &Script,
        call: &Call,
    ) -> Result<Answer, StoreError> {
        let result = timeout_at(deadline, self.ask(live, operation, script, call))
            .await
            .unwrap_or_else(|_| Err(fault::timed_out(operation, self.options.timeout)));
        if let Err(error) = &result {
            self.memory.judge(error);
            if fault::is_of_the_connection(error) {
                live.complain(error);
            }
        }
        result
    }

    async fn ask(
        &self,
        live: &Live,
        operation: &'static str,
        script: &Script,
        call: &Call,
    ) -> Result<Answer, StoreError> {
        let seen = Witness {
            run: live.run.to_string(),
            ..self.memory.recall()?.unwrap_or_default()
        };
        let answer = script::run(operation, &live.connection, script, call, &seen).await?;
        let mut answer = answer.refusals(&self.name, seen.revision)?;
        if matches!(answer.word(), b"ok" | b"held") {
            self.memory.saw(&live.run, answer.number()?);
        }
        Ok(answer)
    }
}
