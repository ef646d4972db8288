//! The default store: one file, one process, no server.
//!
//! # Flow
//! ```text
//! commit ──▶ lock ──▶ check fence and expectations ──▶ redb transaction (fsync) ──▶ memory ──▶ watchers
//!                                   └─ conflict: nothing written      └─ failed: nothing changed
//! ```
//! Reads are served from memory, which is filled from the file when it is opened and changed only
//! after the file was. Ephemeral records live in memory alone.
//!
//! # Ownership
//! The file is locked by `redb`; a second process gets [`StoreError::Locked`].
//!
//! The file carries an identity and a revision that every change raises (`head`). Whoever keeps what
//! he has seen of them ([`EmbeddedStore::last_seen`]) is told at the next opening when the file is
//! gone, another one or an older copy.
//!
//! # Failure paths
//! A crash before the file's commit loses the transaction, which nobody was told of; a crash after
//! it keeps it. A record that does not parse when the file is opened is an error that names it.

#[cfg(test)]
mod damage;
mod head;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::HolderId;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

use crate::clock::Clock;
use crate::error::StoreError;
use crate::key::{Durability, Key, Kind, LeaseName, LogName};
use crate::record::{Committed, Lease, LogEntry, Record, Transaction};
use crate::redis::{Opening, Witness};
use crate::table::{self, LeaseState, Stored, Table};
use crate::watch::{Change, Watch, Watchers};
use crate::{Store, SystemClock};
use head::Head;

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records-v1");
const LOGS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("logs-v1");
const LEASES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("leases-v1");

/// The store in one crash-safe file.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    watchers: Watchers,
    /// Changed only while the table is held, after the file was.
    head: Mutex<Head>,
    table: Mutex<Table>,
    database: Database,
}

/// Names the failed operation in any error of the database.
fn unavailable<E: std::fmt::Display>(operation: &'static str) -> impl Fn(E) -> StoreError {
    move |source| StoreError::Unavailable {
        operation,
        reason: source.to_string(),
    }
}

fn encode<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|source| StoreError::Malformed {
        what: what.to_owned(),
        reason: source.to_string(),
    })
}

fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Malformed {
        what: what.to_owned(),
        reason: source.to_string(),
    })
}

impl EmbeddedStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it, [`StoreError::Malformed`] when it holds
    /// what this version cannot read, [`StoreError::Unavailable`] for everything of the disk.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with_clock(path, Arc::new(SystemClock))
    }

    /// Opens the file on another clock.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`].
    pub fn open_with_clock(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Self::open_as(path, clock, Opening::CreateIfAbsent, None)
    }

    /// Opens the file by somebody who knows what it was.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`]; [`StoreError::Lost`] and [`StoreError::Rewound`] when it is not
    /// what the witness saw, unless the loss is acknowledged.
    pub fn open_as(
        path: &Path,
        clock: Arc<dyn Clock>,
        opening: Opening,
        witness: Option<&Witness>,
    ) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        if opening == Opening::Existing && !path.exists() {
            // Looked at first: opening would make it.
            return Err(StoreError::Lost {
                store: name,
                reason: "its file is gone".to_owned(),
            });
        }
        // The file's pages are not checked by `redb` before it follows them: one that was written over
        // makes it panic, and whoever starts must be told which file that was.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let database = create(path)?;
            let table = load(&database)?;
            Ok((database, table))
        }));
        let (database, table) = opened.unwrap_or_else(|panic| {
            Err(StoreError::Unavailable {
                operation: "open the file",
                reason: format!("{name}: it is damaged: {}", words(&*panic)),
            })
        })?;
        let head = Head::join(&database, &name, opening, witness, clock.now())?;
        Ok(Self {
            shared: Arc::new(Shared {
                clock,
                watchers: Watchers::new(),
                head: Mutex::new(head),
                table: Mutex::new(table),
                database,
            }),
        })
    }

    /// What the file is known by and how far it is, to be kept and given to
    /// [`EmbeddedStore::open_as`] later.
    pub fn last_seen(&self) -> Witness {
        self.shared.head().witness()
    }

    /// Runs `work` where it may wait for the disk without holding up other tasks.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(unavailable(operation))?
    }
}

fn create(path: &Path) -> Result<Database, StoreError> {
    Database::create(path).map_err(|source| {
        let path = path.display().to_string();
        if matches!(source, redb::DatabaseError::DatabaseAlreadyOpen) {
            StoreError::Locked { path }
        } else {
            StoreError::Unavailable {
                operation: "open the file",
                reason: format!("{path}: {source}"),
            }
        }
    })
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a word")
}

/// Makes the tables and reads all records.
fn load(database: &Database) -> Result<Table, StoreError> {
    let begin = database
        .begin_write()
        .map_err(unavailable("open the file"))?;
    begin
        .open_table(RECORDS)
        .map_err(unavailable("open the records"))?;
    begin
        .open_table(LOGS)
        .map_err(unavailable("open the logs"))?;
    begin
        .open_table(LEASES)
        .map_err(unavailable("open the leases"))?;
    begin.commit().map_err(unavailable("open the file"))?;

    let read = database
        .begin_read()
        .map_err(unavailable("read the records"))?;
    let records = read
        .open_table(RECORDS)
        .map_err(unavailable("read the records"))?;
    let mut table = Table::default();
    for entry in records.iter().map_err(unavailable("read the records"))? {
        let (name, value) = entry.map_err(unavailable("read the records"))?;
        let key = parse_key(name.value())?;
        table.set(key, Some(decode::<Stored>(name.value(), value.value())?));
    }
    Ok(table)
}

fn parse_key(name: &str) -> Result<Key, StoreError> {
    let parsed = name.split_once('/').and_then(|(kind, id)| {
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
        Some(Key::new(kind, id))
    });
    parsed.ok_or_else(|| StoreError::Malformed {
        what: format!("record {name:?}"),
        reason: "its kind is not known to this version".to_owned(),
    })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is changed only after every check and the file's commit, so it is whole even
        // if a holder of the lock panicked.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn head(&self) -> MutexGuard<'_, Head> {
        // One assignment changes it, so it is whole.
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        let mut table = self.lock();
        for (key, expect) in &transaction.requires {
            table::require(key, *expect, table.get(key))?;
        }
        let mut results = Vec::with_capacity(transaction.writes.len());
        for write in &transaction.writes {
            results.push(table::apply_write(write, table.get(&write.key))?);
        }
        self.write_file(&transaction, &results)?;

        let mut committed = Committed::default();
        for (write, result) in transaction.writes.into_iter().zip(results) {
            committed
                .generations
                .push(result.as_ref().map(|stored| stored.generation));
            let change = match &result {
                Some(stored) => Change::Put(stored.record(write.key.clone())),
                None => Change::Deleted(write.key.clone()),
            };
            table.set(write.key, result);
            self.watchers.tell(change);
        }
        Ok(committed)
    }

    /// Writes what must survive, in one transaction of the file; checks the fence in it.
    fn write_file(
        &self,
        transaction: &Transaction,
        results: &[Option<Stored>],
    ) -> Result<(), StoreError> {
        let durable: Vec<_> = transaction
            .writes
            .iter()
            .zip(results)
            .filter(|(write, _)| write.key.kind.durability() == Durability::Durable)
            .collect();
        if durable.is_empty() && transaction.appends.is_empty() && transaction.fence.is_none() {
            return Ok(());
        }
        if let Some(fence) = &transaction.fence {
            table::check_fence(fence, self.lease(&fence.lease)?.as_ref())?;
        }
        if durable.is_empty() && transaction.appends.is_empty() {
            return Ok(());
        }
        let failed = unavailable::<redb::StorageError>("write");
        let write = self.database.begin_write().map_err(unavailable("write"))?;
        {
            let mut records = write.open_table(RECORDS).map_err(unavailable("write"))?;
            for (change, result) in durable {
                let name = change.key.to_string();
                match result {
                    Some(stored) => {
                        let bytes = encode(&name, stored)?;
                        records
                            .insert(name.as_str(), bytes.as_slice())
                            .map_err(&failed)?;
                    }
                    None => {
                        records.remove(name.as_str()).map_err(&failed)?;
                    }
                }
            }
            let mut logs = write.open_table(LOGS).map_err(unavailable("write"))?;
            for (log, entry) in &transaction.appends {
                let name = log.0.as_str();
                let last = logs
                    .range((name, 0)..=(name, u64::MAX))
                    .map_err(&failed)?
                    .next_back()
                    .transpose()
                    .map_err(&failed)?
                    .map_or(0, |(key, _)| key.value().1);
                logs.insert((name, last + 1), entry.as_slice())
                    .map_err(&failed)?;
            }
        }
        self.finish(write)
    }

    /// Commits, with the head that counts it.
    fn finish(&self, write: redb::WriteTransaction) -> Result<(), StoreError> {
        let next = self.head().next();
        next.put(&write)?;
        write.commit().map_err(unavailable("write"))?;
        *self.head() = next;
        Ok(())
    }

    fn lease(&self, name: &LeaseName) -> Result<Option<LeaseState>, StoreError> {
        let read = self
            .database
            .begin_read()
            .map_err(unavailable("read a lease"))?;
        let leases = read
            .open_table(LEASES)
            .map_err(unavailable("read a lease"))?;
        let found = leases
            .get(name.0.as_str())
            .map_err(unavailable("read a lease"))?;
        let state = found
            .map(|value| decode(&name.0, value.value()))
            .transpose()?;
        Ok(self.head().counts(state))
    }

    fn set_lease(&self, name: &LeaseName, state: &LeaseState) -> Result<(), StoreError> {
        let bytes = encode(&name.0, state)?;
        let write = self
            .database
            .begin_write()
            .map_err(unavailable("write a lease"))?;
        {
            let mut leases = write
                .open_table(LEASES)
                .map_err(unavailable("write a lease"))?;
            leases
                .insert(name.0.as_str(), bytes.as_slice())
                .map_err(unavailable("write a lease"))?;
        }
        self.finish(write)
    }

    fn read_log(&self, log: &str, from: u64, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        let read = self
            .database
            .begin_read()
            .map_err(unavailable("read a log"))?;
        let logs = read.open_table(LOGS).map_err(unavailable("read a log"))?;
        let range = logs
            .range((log, from)..=(log, u64::MAX))
            .map_err(unavailable("read a log"))?;
        range
            .take(limit)
            .map(|entry| {
                let (key, value) = entry.map_err(unavailable("read a log"))?;
                Ok(LogEntry {
                    sequence: key.value().1,
                    value: value.value().to_vec(),
                })
            })
            .collect()
    }
}

#[async_trait::async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(self
            .shared
            .lock()
            .get(key)
            .map(|stored| stored.record(key.clone())))
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError> {
        Ok(self.shared.lock().list(kind))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        self.blocking("commit", move |shared| shared.commit(transaction))
            .await
    }

    async fn read_log(
        &self,
        log: &LogName,
        from: u64,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let log = log.clone();
        self.blocking("read a log", move |shared| {
            shared.read_log(&log.0, from, limit)
        })
        .await
    }

    async fn acquire(
        &self,
        lease: &LeaseName,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let (name, holder) = (lease.clone(), holder.clone());
        self.blocking("acquire a lease", move |shared| {
            let _one_at_a_time = shared.lock();
            let state = shared.lease(&name)?;
            let now = shared.clock.now();
            let acquired = table::acquire(&name, state.as_ref(), &holder, now, ttl)?;
            if let Some(lease) = &acquired {
                shared.set_lease(&name, &table::held(lease))?;
            }
            Ok(acquired)
        })
        .await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, StoreError> {
        let lease = lease.clone();
        self.blocking("renew a lease", move |shared| {
            let _one_at_a_time = shared.lock();
            let state = shared.lease(&lease.name)?;
            let renewed = table::renew(&lease, state.as_ref(), shared.clock.now(), ttl)?;
            shared.set_lease(&renewed.name, &table::held(&renewed))?;
            Ok(renewed)
        })
        .await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let lease = lease.clone();
        self.blocking("release a lease", move |shared| {
            let _one_at_a_time = shared.lock();
            let state = shared.lease(&lease.name)?;
            match table::released(&lease, state.as_ref()) {
                Some(free) => shared.set_lease(&lease.name, &free),
                None => Ok(()),
            }
        })
        .await
    }

    fn watch(&self, kind: Kind) -> Watch {
        self.shared.watchers.watch(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use crate::record::Expect;

    #[tokio::test]
    async fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        let count = std::sync::atomic::AtomicUsize::new(0);
        conformance::run(&|clock| {
            let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let path = folder.path().join(format!("{number}.redb"));
            async move { Arc::new(EmbeddedStore::open_with_clock(&path, clock).unwrap()) as _ }
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_durable_survives_and_what_is_ephemeral_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let (host, traffic) = (Key::new(Kind::Host, "a"), Key::new(Kind::Traffic, "a"));
        let log = LogName("migration/m".to_owned());
        {
            let store = EmbeddedStore::open(&path).unwrap();
            let transaction = Transaction::new()
                .put(host.clone(), Expect::Absent, &1)
                .unwrap()
                .put(traffic.clone(), Expect::Any, &2)
                .unwrap()
                .append(log.clone(), &"intent")
                .unwrap();
            store.commit(transaction).await.unwrap();
        }
        let store = EmbeddedStore::open(&path).unwrap();
        assert_eq!(
            store
                .get(&host)
                .await
                .unwrap()
                .unwrap()
                .parse::<u8>()
                .unwrap()
                .value,
            1
        );
        assert_eq!(store.get(&traffic).await.unwrap(), None);
        assert_eq!(store.read_log(&log, 0, 10).await.unwrap().len(), 1);
    }

    fn lease_of(store: &EmbeddedStore) -> impl Future<Output = Lease> + '_ {
        let ttl = Duration::from_hours(1);
        async move {
            let holder = HolderId::new("one").unwrap();
            let name = LeaseName("l".to_owned());
            store.acquire(&name, &holder, ttl).await.unwrap().unwrap()
        }
    }

    fn open_knowing(
        path: &Path,
        opening: Opening,
        seen: &Witness,
    ) -> Result<EmbeddedStore, StoreError> {
        EmbeddedStore::open_as(path, Arc::new(SystemClock), opening, Some(seen))
    }

    #[tokio::test]
    async fn a_file_that_is_gone_another_or_an_older_copy_is_refused_by_name_until_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let copy = folder.path().join("copy.redb");
        let key = Key::new(Kind::Host, "a");
        let put = |value: u8| Transaction::new().put(key.clone(), Expect::Any, &value);
        {
            let store = EmbeddedStore::open(&path).unwrap();
            store.commit(put(1).unwrap()).await.unwrap();
        }
        std::fs::copy(&path, &copy).unwrap();
        let (seen, lease) = {
            let store = EmbeddedStore::open(&path).unwrap();
            let lease = lease_of(&store).await;
            store.commit(put(2).unwrap().fenced(&lease)).await.unwrap();
            (store.last_seen(), lease)
        };
        // What was seen is there: it goes on.
        drop(open_knowing(&path, Opening::Existing, &seen).unwrap());

        std::fs::copy(&copy, &path).unwrap();
        let back = open_knowing(&path, Opening::Existing, &seen).err();
        assert!(matches!(back, Some(StoreError::Rewound { .. })), "{back:?}");
        std::fs::remove_file(&path).unwrap();
        let gone = open_knowing(&path, Opening::Existing, &seen).err();
        assert!(matches!(gone, Some(StoreError::Lost { .. })), "{gone:?}");
        assert!(!path.exists(), "nothing was put in its place");
        drop(EmbeddedStore::open(&path).unwrap());
        let other = open_knowing(&path, Opening::Existing, &seen).err();
        assert!(matches!(other, Some(StoreError::Lost { .. })), "{other:?}");

        // The older copy again, and a person who takes it as the truth.
        std::fs::copy(&copy, &path).unwrap();
        let store = open_knowing(&path, Opening::AcknowledgeLoss, &seen).unwrap();
        let stale = store.commit(put(3).unwrap().fenced(&lease)).await;
        assert!(matches!(stale, Err(StoreError::Fenced { .. })), "{stale:?}");
        let next = lease_of(&store).await;
        assert!(next.epoch > lease.epoch, "epochs go on above what was lost");
        store.commit(put(4).unwrap().fenced(&next)).await.unwrap();
        let seen = store.last_seen();
        drop(store);
        drop(open_knowing(&path, Opening::Existing, &seen).unwrap());
    }

    #[test]
    fn a_second_opener_is_told_that_the_file_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let _first = EmbeddedStore::open(&path).unwrap();
        assert!(matches!(
            EmbeddedStore::open(&path),
            Err(StoreError::Locked { .. })
        ));
    }

    #[test]
    fn a_file_that_is_no_store_is_an_error_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        std::fs::write(&path, b"not a database, but somebody's text").unwrap();
        assert!(matches!(
            EmbeddedStore::open(&path),
            Err(StoreError::Unavailable { .. })
        ));
        assert_eq!(
            std::fs::read(&path).unwrap(),
            b"not a database, but somebody's text"
        );
    }
}
