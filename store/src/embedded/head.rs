//! The file's head: which store it is, and how far it is, so that a file that is gone, another one
//! or an older copy is not taken for it.

use std::hash::{BuildHasher, RandomState};

use domain::{Epoch, Timestamp};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{LEASES, decode, encode, unavailable};
use crate::error::StoreError;
use crate::redis::{Opening, Witness};
use crate::table::LeaseState;

/// Versions before this table know nothing of it, and leave it as it is.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta-v1");
pub(super) const HEAD: &str = "head";

/// What a store is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    /// Made when the store was.
    identity: String,
    /// Every change raises it by one.
    revision: u64,
    /// No lease has an epoch at or below it: leases from before a loss are void.
    floor: u64,
}

impl Head {
    /// Reads it and holds it against what was seen before; makes it where it may be made.
    pub(super) fn join(
        database: &Database,
        name: &str,
        opening: Opening,
        witness: Option<&Witness>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let found = read(database)?;
        let head = match opening {
            Opening::AcknowledgeLoss => {
                let given = highest_epoch(database)?;
                let before = found.unwrap_or_else(Self::fresh);
                Self {
                    // Above every epoch that is known, and by the time above those that are not.
                    floor: now.0.max(before.floor + 1).max(given + 1),
                    ..before
                }
            }
            Opening::Existing | Opening::CreateIfAbsent => {
                if let Some(seen) = witness {
                    recognise(name, found.as_ref(), seen)?;
                }
                found.unwrap_or_else(Self::fresh)
            }
        };
        let next = head.next();
        let write = database
            .begin_write()
            .map_err(unavailable("open the file"))?;
        next.put(&write)?;
        write.commit().map_err(unavailable("open the file"))?;
        Ok(next)
    }

    fn fresh() -> Self {
        // Unique without a generator of random numbers: the keys of two fresh hashers.
        let half = || RandomState::new().hash_one("a store");
        Self {
            identity: format!("{:016x}{:016x}", half(), half()),
            revision: 0,
            floor: 0,
        }
    }

    /// The head after one more change.
    pub(super) fn next(&self) -> Self {
        Self {
            revision: self.revision + 1,
            ..self.clone()
        }
    }

    /// Writes it beside the change that it counts.
    pub(super) fn put(&self, write: &WriteTransaction) -> Result<(), StoreError> {
        let bytes = encode(HEAD, self)?;
        let mut meta = write.open_table(META).map_err(unavailable("write"))?;
        meta.insert(HEAD, bytes.as_slice())
            .map_err(unavailable("write"))?;
        Ok(())
    }

    /// A lease as it counts: one from before a loss is held by nobody.
    pub(super) fn counts(&self, state: Option<LeaseState>) -> Option<LeaseState> {
        let is_void = state.as_ref().is_none_or(|s| s.epoch.0 <= self.floor);
        if self.floor > 0 && is_void {
            return Some(LeaseState {
                epoch: Epoch(self.floor),
                holder: None,
                expires_at: Timestamp(0),
            });
        }
        state
    }

    /// What whoever opens the file next must find.
    pub(super) fn witness(&self) -> Witness {
        Witness {
            identity: self.identity.clone(),
            run: String::new(),
            revision: self.revision,
        }
    }
}

fn recognise(name: &str, found: Option<&Head>, seen: &Witness) -> Result<(), StoreError> {
    let lost = |reason: String| {
        Err(StoreError::Lost {
            store: name.to_owned(),
            reason,
        })
    };
    match found {
        None => lost("its head is gone".to_owned()),
        Some(head) if head.identity != seen.identity => {
            lost(format!("another store, {}, is in its place", head.identity))
        }
        Some(head) if head.revision < seen.revision => Err(StoreError::Rewound {
            store: name.to_owned(),
            seen: seen.revision,
            found: head.revision,
        }),
        Some(_) => Ok(()),
    }
}

fn read(database: &Database) -> Result<Option<Head>, StoreError> {
    let read = database
        .begin_read()
        .map_err(unavailable("read the head"))?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(unavailable("read the head")(error)),
    };
    let found = meta.get(HEAD).map_err(unavailable("read the head"))?;
    found
        .map(|value| decode("the store's head", value.value()))
        .transpose()
}

fn highest_epoch(database: &Database) -> Result<u64, StoreError> {
    let read = database
        .begin_read()
        .map_err(unavailable("read the leases"))?;
    let leases = read
        .open_table(LEASES)
        .map_err(unavailable("read the leases"))?;
    let mut highest = 0;
    for entry in leases.iter().map_err(unavailable("read the leases"))? {
        let (name, value) = entry.map_err(unavailable("read the leases"))?;
        let state: LeaseState = decode(name.value(), value.value())?;
        highest = highest.max(state.epoch.0);
    }
    Ok(highest)
}
