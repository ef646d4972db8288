//! One migrator's way to the store: slow, failing, hanging or cut off, and watched.
//!
//! A commit that has left lands whether or not its caller still waits: it runs in a task of its
//! own. What lands is checked against the invariants before anything else can look at it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::HolderId;
use store::{
    Committed, Key, Kind, Lease, LeaseName, LogEntry, LogName, Record, Store, StoreError,
    Transaction, Watch,
};
use tokio::time::sleep;

use super::checks;
use super::faults::{Fault, Planted};
use super::pause::{Act, Pause};
use super::world::World;

/// How long a client waits for the store.
const LIMIT_MS: u64 = 500;

/// How a call goes.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Fine {
        to: u64,
        back: u64,
    },
    /// Refused before anything was done.
    Refused,
    /// Done, if it lands at all; the caller hears nothing of it.
    Unknown {
        lands_after: Option<u64>,
        told_after: u64,
    },
    /// Held back by the network; it lands when the way is free again.
    Held,
}

/// A record, or none, that is taken for what the store holds.
struct Believed(Option<Record>);

/// One migrator's store.
pub(crate) struct FaultyStore {
    pub(crate) world: Arc<World>,
    pub(crate) client: usize,
    pub(crate) pause: Arc<Pause>,
    /// How often the store had been put back when this client opened it.
    era: u64,
    /// Planted: what this client believes of records whose write had an unknown outcome.
    believed: Mutex<BTreeMap<Key, Option<Record>>>,
}

impl FaultyStore {
    pub(crate) fn new(world: Arc<World>, client: usize, pause: Arc<Pause>) -> Self {
        let era = world.state().era;
        Self {
            world,
            client,
            pause,
            era,
            believed: Mutex::default(),
        }
    }

    fn fate(&self) -> Fate {
        let mut state = self.world.state();
        let state = &mut *state;
        let chance = &mut state.chance;
        let cut_off = state.active.contains(&Fault::StoreAway)
            || (state.active.contains(&Fault::LeaderCutOff) && state.hit == Some(self.client));
        let errors = state.active.contains(&Fault::StoreErrors) && chance.in_thousand(120);
        let hangs = state.active.contains(&Fault::StoreHangs) && chance.in_thousand(80);
        let deaf = state.active.contains(&Fault::LeaderDeaf) && state.hit == Some(self.client);
        let held = state.active.contains(&Fault::LeaderHeld) && state.hit == Some(self.client);
        let told_after = LIMIT_MS;
        let fate = if held {
            Fate::Held
        } else if deaf {
            Fate::Unknown {
                lands_after: Some(chance.between(0, 3)),
                told_after,
            }
        } else if cut_off {
            let lands_after = None;
            Fate::Unknown {
                lands_after,
                told_after,
            }
        } else if errors && chance.in_thousand(500) {
            Fate::Refused
        } else if errors {
            let lands_after = Some(chance.between(0, 5));
            Fate::Unknown {
                lands_after,
                told_after: chance.between(5, 20),
            }
        } else if hangs {
            let lands_after = chance.in_thousand(600).then(|| chance.between(1, 2_500));
            Fate::Unknown {
                lands_after,
                told_after,
            }
        } else {
            return Fate::Fine {
                to: chance.between(0, 3),
                back: chance.between(0, 3),
            };
        };
        state.counters.store_faults += 1;
        fate
    }

    /// A call that changes nothing.
    async fn read<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.pause.pass().await;
        self.world.remembers(self.era)?;
        let result = match self.fate() {
            Fate::Fine { to, back } => {
                sleep(Duration::from_millis(to)).await;
                self.world.remembers(self.era)?;
                let result = work.await;
                sleep(Duration::from_millis(back)).await;
                result
            }
            Fate::Refused => Err(unavailable(operation)),
            Fate::Unknown { told_after, .. } => {
                sleep(Duration::from_millis(told_after)).await;
                Err(timed_out(operation))
            }
            Fate::Held => {
                sleep(Duration::from_millis(LIMIT_MS)).await;
                Err(timed_out(operation))
            }
        };
        self.pause.pass().await;
        result
    }

    /// A call that changes something, and lands whoever waits for it.
    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (world, era) = (Arc::clone(&self.world), self.era);
        let work = async move {
            // A call to a server that was put back arrives at none.
            world.remembers(era)?;
            work.await
        };
        if self.pause.is_stopped() {
            return self.stopped_before(operation, work).await;
        }
        self.pause.pass().await;
        self.world.remembers(self.era)?;
        let result = match self.fate() {
            Fate::Fine { to, back } => {
                let landing = tokio::spawn(async move {
                    sleep(Duration::from_millis(to)).await;
                    let result = work.await;
                    sleep(Duration::from_millis(back)).await;
                    result
                });
                match landing.await {
                    Ok(result) => result,
                    Err(_) => Err(unavailable(operation)),
                }
            }
            Fate::Refused => {
                drop(work);
                Err(unavailable(operation))
            }
            Fate::Unknown {
                lands_after,
                told_after,
            } => {
                if let Some(after) = lands_after {
                    let world = Arc::clone(&self.world);
                    tokio::spawn(async move {
                        sleep(Duration::from_millis(after)).await;
                        let landed = work.await.is_ok();
                        if landed && after > told_after {
                            world.state().counters.late += 1;
                        }
                    });
                }
                sleep(Duration::from_millis(told_after)).await;
                Err(timed_out(operation))
            }
            Fate::Held => {
                let (world, client) = (Arc::clone(&self.world), self.client);
                tokio::spawn(async move {
                    while world.state().hits(Fault::LeaderHeld, client) {
                        sleep(Duration::from_millis(20)).await;
                    }
                    if work.await.is_ok() {
                        world.state().counters.late += 1;
                    }
                });
                sleep(Duration::from_millis(LIMIT_MS)).await;
                Err(timed_out(operation))
            }
        };
        self.pause.pass().await;
        result
    }

    /// A call whose thread was stopped just before it: it is made when the process goes on, also if
    /// the lease has run out meanwhile and everybody else in the process knows it.
    async fn stopped_before<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let pause = Arc::clone(&self.pause);
        let landing = tokio::spawn(async move {
            pause.pass().await;
            work.await
        });
        let result = match landing.await {
            Ok(result) => result,
            Err(_) => Err(unavailable(operation)),
        };
        self.pause.pass().await;
        result
    }

    /// What this client answers without asking: a record, or that there is none.
    fn believes(&self, key: &Key) -> Option<Believed> {
        let believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        believed.get(key).cloned().map(Believed)
    }

    /// Planted: a write of unknown outcome is taken as not made, and what was there before as
    /// what is there.
    fn believe(&self, before: Vec<(Key, Option<Record>)>, result: &Result<Committed, StoreError>) {
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => believed.retain(|key, _| before.iter().all(|(written, _)| written != key)),
            Err(StoreError::TimedOut { .. }) => believed.extend(before),
            Err(_) => {}
        }
    }
}

fn unavailable(operation: &'static str) -> StoreError {
    StoreError::Unavailable {
        operation,
        reason: "simulated".to_owned(),
    }
}

fn timed_out(operation: &'static str) -> StoreError {
    StoreError::TimedOut {
        operation,
        limit_ms: LIMIT_MS,
    }
}

/// A commit arrives.
async fn land(
    world: Arc<World>,
    client: usize,
    mut transaction: Transaction,
) -> Result<Committed, StoreError> {
    let seen = transaction.clone();
    if world.has(Planted::NoStoreFence) {
        transaction.fence = None;
    }
    let result = world.store.commit(transaction).await;
    let mut state = world.state();
    match &result {
        Ok(_) => checks::committed(&mut state, client, &seen),
        Err(StoreError::Fenced { .. }) => {
            state.counters.zombies.store += 1;
            let weights = seen.writes.iter();
            let weights = weights.filter(|write| write.key.kind == Kind::Routing && state.wire);
            let weights: Vec<_> = weights.cloned().collect();
            for write in weights {
                let value = write.value.as_deref().unwrap_or_default();
                state.net.refused(&write.key.id, value);
            }
        }
        Err(_) => {}
    }
    result
}

#[async_trait::async_trait]
impl Store for FaultyStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        if let Some(Believed(believed)) = self.believes(key) {
            return self.read("get", async { Ok(believed) }).await;
        }
        self.read("get", self.world.store.get(key)).await
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError> {
        self.read("list", self.world.store.list(kind)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        let mut writes = transaction.writes.iter();
        let weights = writes.any(|write| write.key.kind == Kind::Routing);
        if transaction.fence.is_some() {
            let act = if weights { Act::Weights } else { Act::Commit };
            self.pause.comes(act);
        }
        let mut before = Vec::new();
        if self.world.has(Planted::UnknownIsFailed) {
            for write in &transaction.writes {
                let record = self.world.store.get(&write.key).await?;
                before.push((write.key.clone(), record));
            }
        }
        let landing = land(Arc::clone(&self.world), self.client, transaction);
        let result = self.write("commit", landing).await;
        self.believe(before, &result);
        result
    }

    async fn read_log(
        &self,
        log: &LogName,
        from: u64,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let work = self.world.store.read_log(log, from, limit);
        self.read("read a log", work).await
    }

    async fn acquire(
        &self,
        lease: &LeaseName,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let (world, client) = (Arc::clone(&self.world), self.client);
        let (lease, holder) = (lease.clone(), holder.clone());
        let landing = async move {
            let taken = world.store.acquire(&lease, &holder, ttl).await;
            if let Ok(Some(lease)) = &taken {
                checks::acquired(&mut world.state(), client, lease);
            }
            taken
        };
        self.write("acquire a lease", landing).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, StoreError> {
        let (world, lease) = (Arc::clone(&self.world), lease.clone());
        let landing = async move { world.store.renew(&lease, ttl).await };
        self.write("renew a lease", landing).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let (world, lease) = (Arc::clone(&self.world), lease.clone());
        let landing = async move { world.store.release(&lease).await };
        self.write("release a lease", landing).await
    }

    fn watch(&self, kind: Kind) -> Watch {
        self.world.store.watch(kind)
    }
}
