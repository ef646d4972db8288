//! Records, transactions, leases.

use domain::{Epoch, HolderId, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::StoreError;
use crate::key::{Key, LeaseName, LogName};

/// Version of a record: 1 when first written, one more with every write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

/// A stored value with its name and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub key: Key,
    /// Its version.
    pub generation: Generation,
    /// The value, as JSON.
    pub value: Vec<u8>,
}

/// A record, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Typed<T> {
    /// Its version.
    pub generation: Generation,
    /// The value.
    pub value: T,
}

impl Record {
    /// Parses the value.
    ///
    /// # Errors
    /// [`StoreError::Malformed`], naming the key, when it is not a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<Typed<T>, StoreError> {
        match serde_json::from_slice(&self.value) {
            Ok(value) => Ok(Typed {
                generation: self.generation,
                value,
            }),
            Err(source) => Err(StoreError::Malformed {
                what: self.key.to_string(),
                reason: source.to_string(),
            }),
        }
    }
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything, or nothing.
    Any,
    /// No record.
    Absent,
    /// Exactly this version.
    Generation(Generation),
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The record's name.
    pub key: Key,
    /// What must be there now.
    pub expect: Expect,
    /// The new value, or `None` to delete.
    pub value: Option<Vec<u8>>,
}

/// Refuses a transaction when the lease has a newer epoch than the writer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The lease.
    pub lease: LeaseName,
    /// The writer's epoch.
    pub epoch: Epoch,
}

/// Writes and log entries that take effect together, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// The leadership it is made under.
    pub fence: Option<Fence>,
    /// What must be there besides what is written.
    pub requires: Vec<(Key, Expect)>,
    /// Its writes.
    pub writes: Vec<Write>,
    /// Its log entries.
    pub appends: Vec<(LogName, Vec<u8>)>,
}

impl Transaction {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes it conditional on the lease.
    #[must_use]
    pub fn fenced(mut self, lease: &Lease) -> Self {
        self.fence = Some(Fence {
            lease: lease.name.clone(),
            epoch: lease.epoch,
        });
        self
    }

    /// Makes it conditional on a record that it does not write: a write that is late, because its
    /// caller has given up or gone on, then changes nothing.
    #[must_use]
    pub fn requires(mut self, key: Key, expect: Expect) -> Self {
        self.requires.push((key, expect));
        self
    }

    /// Adds a write.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when the value has no JSON form.
    pub fn put<T: Serialize>(
        mut self,
        key: Key,
        expect: Expect,
        value: &T,
    ) -> Result<Self, StoreError> {
        let bytes = serde_json::to_vec(value).map_err(|source| StoreError::Malformed {
            what: key.to_string(),
            reason: source.to_string(),
        })?;
        self.writes.push(Write {
            key,
            expect,
            value: Some(bytes),
        });
        Ok(self)
    }

    /// Adds a deletion.
    #[must_use]
    pub fn delete(mut self, key: Key, expect: Expect) -> Self {
        self.writes.push(Write {
            key,
            expect,
            value: None,
        });
        self
    }

    /// Adds a log entry.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when the entry has no JSON form.
    pub fn append<T: Serialize>(mut self, log: LogName, entry: &T) -> Result<Self, StoreError> {
        let bytes = serde_json::to_vec(entry).map_err(|source| StoreError::Malformed {
            what: log.0.clone(),
            reason: source.to_string(),
        })?;
        self.appends.push((log, bytes));
        Ok(self)
    }
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// New version per write, in order; `None` for a deletion.
    pub generations: Vec<Option<Generation>>,
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number; the first is 1.
    pub sequence: u64,
    /// The entry, as JSON.
    pub value: Vec<u8>,
}

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its name.
    pub name: LeaseName,
    /// Who holds it.
    pub holder: HolderId,
    /// Grows with every acquisition.
    pub epoch: Epoch,
    /// When it ends unless renewed.
    pub expires_at: Timestamp,
}
