//! The store in memory: for tests, simulation, and nothing that must survive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{Epoch, HolderId, Timestamp};

use crate::clock::Clock;
use crate::error::StoreError;
use crate::key::{Key, Kind, LeaseName, LogName};
use crate::record::{Committed, Lease, LogEntry, Record, Transaction};
use crate::table::{self, LeaseState, Table};
use crate::watch::{Change, Watch, Watchers};
use crate::{Store, SystemClock};

/// The store in memory.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    watchers: Watchers,
    inner: Mutex<Inner>,
}

#[derive(Clone, Default)]
struct Inner {
    table: Table,
    logs: BTreeMap<LogName, Vec<Vec<u8>>>,
    leases: BTreeMap<LeaseName, LeaseState>,
}

impl MemoryStore {
    /// An empty store on the machine's clock.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store on another clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            watchers: Watchers::new(),
            inner: Mutex::default(),
        }
    }

    /// What is in it now, as a copy of a server's file would be.
    pub fn copy(&self) -> Earlier {
        Earlier(self.lock().clone())
    }

    /// Puts an earlier copy back, as it comes up after the loss was acknowledged: leases are void, and
    /// epochs go on above all that were ever given.
    pub fn put_back(&self, earlier: &Earlier) {
        let mut inner = self.lock();
        let mut leases = std::mem::take(&mut inner.leases);
        for state in leases.values_mut() {
            state.epoch = Epoch(state.epoch.0 + 1);
            state.holder = None;
            state.expires_at = Timestamp(0);
        }
        *inner = earlier.0.clone();
        inner.leases = leases;
        for kind in Kind::ALL {
            self.watchers.missed(kind);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock was held can only have come from a failed allocation; the maps
        // are changed only after every check has passed, so they are whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a store held once.
pub struct Earlier(Inner);

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(self
            .lock()
            .table
            .get(key)
            .map(|stored| stored.record(key.clone())))
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError> {
        Ok(self.lock().table.list(kind))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        let mut inner = self.lock();
        if let Some(fence) = &transaction.fence {
            table::check_fence(fence, inner.leases.get(&fence.lease))?;
        }
        for (key, expect) in &transaction.requires {
            table::require(key, *expect, inner.table.get(key))?;
        }
        let mut results = Vec::with_capacity(transaction.writes.len());
        for write in &transaction.writes {
            results.push(table::apply_write(write, inner.table.get(&write.key))?);
        }
        let mut committed = Committed::default();
        for (write, result) in transaction.writes.into_iter().zip(results) {
            committed
                .generations
                .push(result.as_ref().map(|stored| stored.generation));
            let change = match &result {
                Some(stored) => Change::Put(stored.record(write.key.clone())),
                None => Change::Deleted(write.key.clone()),
            };
            inner.table.set(write.key, result);
            // Told while the lock is held, so that watchers see changes in their true order.
            self.watchers.tell(change);
        }
        for (log, entry) in transaction.appends {
            inner.logs.entry(log).or_default().push(entry);
        }
        Ok(committed)
    }

    async fn read_log(
        &self,
        log: &LogName,
        from: u64,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let inner = self.lock();
        let entries = inner.logs.get(log).map_or(&[][..], Vec::as_slice);
        Ok((1_u64..)
            .zip(entries)
            .filter(|(sequence, _)| *sequence >= from)
            .take(limit)
            .map(|(sequence, value)| LogEntry {
                sequence,
                value: value.clone(),
            })
            .collect())
    }

    async fn acquire(
        &self,
        lease: &LeaseName,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let mut inner = self.lock();
        let now = self.clock.now();
        let acquired = table::acquire(lease, inner.leases.get(lease), holder, now, ttl)?;
        if let Some(lease) = &acquired {
            inner.leases.insert(lease.name.clone(), table::held(lease));
        }
        Ok(acquired)
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, StoreError> {
        let mut inner = self.lock();
        let renewed = table::renew(lease, inner.leases.get(&lease.name), self.clock.now(), ttl)?;
        inner
            .leases
            .insert(lease.name.clone(), table::held(&renewed));
        Ok(renewed)
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if let Some(state) = table::released(lease, inner.leases.get(&lease.name)) {
            inner.leases.insert(lease.name.clone(), state);
        }
        Ok(())
    }

    fn watch(&self, kind: Kind) -> Watch {
        self.watchers.watch(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[tokio::test]
    async fn conforms() {
        conformance::run(&|clock| async move { Arc::new(MemoryStore::with_clock(clock)) as _ })
            .await;
    }
}
