//! All state between the services: records, logs, leases and watches behind one trait.
//!
//! # Guarantees
//! - A [`Transaction`] is atomic: all its writes and log entries take effect, or none.
//! - A write carries what it expects to replace ([`Expect`]); a record's [`Generation`] grows with
//!   every write, so nobody overwrites what he has not seen.
//! - A transaction may carry a [`Fence`]: it is refused when a newer leader has taken the lease,
//!   so a stale leader that wakes up changes nothing.
//! - What [`Durability::Durable`] commits survives a crash of process and machine; ephemeral
//!   records (telemetry, progress) may be lost with the process and cost no disk write.
//! - A [`Watch`] tells of every change, or that it missed some ([`Change::Missed`]): then list
//!   anew.
//!
//! # Backends
//! [`MemoryStore`] for tests and simulation; [`EmbeddedStore`] (one `redb` file, exclusively
//! locked) as the default; [`RedisStore`] for services that share state. All pass the one suite in [`conformance`].

mod clock;
pub mod conformance;
mod embedded;
mod error;
mod key;
mod memory;
mod record;
mod redis;
mod table;
mod watch;
pub mod words;

use std::time::Duration;

pub use clock::{Clock, ManualClock, SystemClock};
pub use embedded::EmbeddedStore;
pub use error::StoreError;
pub use key::{Durability, Key, Kind, LeaseName, LogName};
pub use memory::{Earlier, MemoryStore};
pub use record::{
    Committed, Expect, Fence, Generation, Lease, LogEntry, Record, Transaction, Typed, Write,
};
pub use redis::{
    Address, Connector, NetConnector, Opening, Persistence, RedisOptions, RedisStore, Secret,
    SentinelConnector, Stream, Tls, Witness,
};
pub use watch::{Change, Watch};

use domain::HolderId;

/// State shared between the services. See the crate's documentation for what it guarantees.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// One record.
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError>;

    /// All records of a kind, by id.
    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError>;

    /// Applies all of a transaction, or nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a record is not what the transaction expects,
    /// [`StoreError::Fenced`] when its lease has a newer epoch.
    async fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError>;

    /// Entries of a log with a sequence number of at least `from`, oldest first, at most `limit`.
    async fn read_log(
        &self,
        log: &LogName,
        from: u64,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError>;

    /// Takes a lease that is free or expired (or already this holder's) for `ttl`. `None` while
    /// another holds it. Every acquisition raises the epoch.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a `ttl` under one millisecond.
    async fn acquire(
        &self,
        lease: &LeaseName,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError>;

    /// Extends a lease that is still held.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when it has been taken by somebody else, or given back;
    /// [`StoreError::Invalid`] for a `ttl` under one millisecond.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, StoreError>;

    /// Gives a lease back; without effect if it is no longer held.
    async fn release(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Changes of a kind from now on.
    fn watch(&self, kind: Kind) -> Watch;
}

/// A store, shared.
pub type SharedStore = std::sync::Arc<dyn Store>;
