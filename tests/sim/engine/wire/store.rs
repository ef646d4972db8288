//! The control plane's way to the store: slow, cut off, or ended with its process. What decides about
//! routes it reads from a mirror, which follows the store as a watch over a network does, and in which
//! a deposed leader's weights appear although the store has refused them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::store::{
    Committed, Expect, Generation, Key, Kind, Lease, LeaseName, LogEntry, LogName, MemoryStore,
    Record, Store, StoreError, Transaction, Watch,
};
use domain::{HolderId, RoutingStatus};
use tokio::time::sleep;

use super::super::rng::Rng;
use super::super::world::World;

/// What decides about routes.
const MIRRORED: [Kind; 3] = [Kind::Service, Kind::Instance, Kind::Routing];
/// How long a client waits for the store.
const LIMIT_MS: u64 = 500;

/// The control plane's store.
pub(super) struct PlaneStore {
    world: Arc<World>,
    mirror: Arc<MemoryStore>,
    lives: Arc<AtomicBool>,
    rng: Mutex<Rng>,
}

impl PlaneStore {
    /// The store of a control plane that begins.
    pub(super) async fn new(world: &Arc<World>, lives: Arc<AtomicBool>, seed: u64) -> Self {
        let mirror = Arc::new(MemoryStore::new());
        let mut known = BTreeMap::new();
        follow(world, &mirror, &mut known).await;
        tokio::spawn(keep(
            Arc::clone(world),
            Arc::clone(&mirror),
            known,
            Arc::clone(&lives),
            Rng::new(seed, 320),
        ));
        Self {
            world: Arc::clone(world),
            mirror,
            lives,
            rng: Mutex::new(Rng::new(seed, 321)),
        }
    }

    /// Waits for the way there; an error when nothing arrives.
    async fn pass(&self, operation: &'static str) -> Result<(), StoreError> {
        let delay = {
            let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
            rng.between(0, 8)
        };
        sleep(Duration::from_millis(delay)).await;
        if !self.lives.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.world.remembers(0)?;
        if self.world.state().plane_is_cut_off() {
            sleep(Duration::from_millis(LIMIT_MS)).await;
            return Err(StoreError::TimedOut {
                operation,
                limit_ms: LIMIT_MS,
            });
        }
        Ok(())
    }

    fn of(&self, kind: Kind) -> &MemoryStore {
        if MIRRORED.contains(&kind) {
            &self.mirror
        } else {
            &self.world.store
        }
    }
}

/// The records that the mirror has, by the generation in the store.
type Known = BTreeMap<Key, Generation>;

async fn keep(
    world: Arc<World>,
    mirror: Arc<MemoryStore>,
    mut known: Known,
    lives: Arc<AtomicBool>,
    mut rng: Rng,
) {
    while lives.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(rng.between(4, 20))).await;
        if world.state().plane_is_cut_off() || world.remembers(0).is_err() {
            continue;
        }
        follow(&world, &mirror, &mut known).await;
        let stale = world.state().net.stale.pop_front();
        if let Some((id, value)) = stale {
            haunt(&world, &mirror, &mut known, &id, value).await;
        }
    }
}

/// Brings what has changed in the store into the mirror.
async fn follow(world: &World, mirror: &MemoryStore, known: &mut Known) {
    let mut found = Known::new();
    let mut changes = Transaction::new();
    for kind in MIRRORED {
        for record in world.store.list(kind).await.unwrap_or_default() {
            if known.get(&record.key) != Some(&record.generation) {
                changes = raw(changes, record.key.clone(), Some(record.value));
            }
            found.insert(record.key, record.generation);
        }
    }
    for gone in known.keys().filter(|key| !found.contains_key(*key)) {
        changes = raw(changes, gone.clone(), None);
    }
    *known = found;
    if !changes.writes.is_empty() {
        let _ = mirror.commit(changes).await;
    }
}

fn raw(mut into: Transaction, key: Key, value: Option<Vec<u8>>) -> Transaction {
    into.writes.push(::store::Write {
        key,
        expect: Expect::Any,
        value,
    });
    into
}

/// Shows the control plane what a deposed leader wanted, and then what is true again.
async fn haunt(world: &World, mirror: &MemoryStore, known: &mut Known, id: &str, value: Vec<u8>) {
    let key = Key::new(Kind::Routing, id);
    if world.store.get(&key).await.ok().flatten().is_none() {
        return;
    }
    {
        let mut state = world.state();
        state.counters.zombies.xds += 1;
        state.history.say(&format!(
            "network  stale weights of {id} reach the control plane"
        ));
    }
    let _ = mirror
        .commit(raw(Transaction::new(), key.clone(), Some(value)))
        .await;
    known.remove(&key);
}

#[async_trait::async_trait]
impl Store for PlaneStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.pass("get").await?;
        self.of(key.kind).get(key).await
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError> {
        self.pass("list").await?;
        self.of(kind).list(kind).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        self.pass("commit").await?;
        let words = transaction.writes.iter();
        let words = words.filter(|write| write.key.kind == Kind::RoutingStatus);
        for value in words.filter_map(|write| write.value.as_deref()) {
            self.reported(value);
        }
        self.world.store.commit(transaction).await
    }

    async fn read_log(
        &self,
        log: &LogName,
        from: u64,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.pass("read a log").await?;
        self.world.store.read_log(log, from, limit).await
    }

    async fn acquire(
        &self,
        lease: &LeaseName,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        self.pass("acquire a lease").await?;
        self.world.store.acquire(lease, holder, ttl).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, StoreError> {
        self.pass("renew a lease").await?;
        self.world.store.renew(lease, ttl).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.pass("release a lease").await?;
        self.world.store.release(lease).await
    }

    fn watch(&self, kind: Kind) -> Watch {
        self.of(kind).watch(kind)
    }
}

impl PlaneStore {
    /// I4: a control plane never goes back to the weights of a leader that was deposed.
    fn reported(&self, value: &[u8]) {
        let Ok(status) = serde_json::from_slice::<RoutingStatus>(value) else {
            return;
        };
        let mut state = self.world.state();
        let last = state
            .net
            .reported
            .entry(status.service.clone())
            .or_insert(0);
        let before = *last;
        *last = before.max(status.revision);
        if status.revision < before {
            state.violate(format!(
                "I4: the control plane went from revision {before} of {} to {}",
                status.service, status.revision
            ));
        }
    }
}
