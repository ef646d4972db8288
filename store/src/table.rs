//! The rules of transactions and leases, on plain maps. The memory and the embedded
//! backend decide with this code; Redis does with Lua that must say the same.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::{Epoch, HolderId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::key::{Key, Kind, LeaseName};
use crate::record::{Expect, Fence, Generation, Lease, Record, Write};

/// A record as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stored {
    pub(crate) generation: Generation,
    pub(crate) value: Vec<u8>,
}

impl Stored {
    pub(crate) fn record(&self, key: Key) -> Record {
        Record {
            key,
            generation: self.generation,
            value: self.value.clone(),
        }
    }
}

/// A lease as it is kept: the epoch outlives the holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaseState {
    pub(crate) epoch: Epoch,
    pub(crate) holder: Option<HolderId>,
    pub(crate) expires_at: Timestamp,
}

/// Records by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    records: BTreeMap<Key, Stored>,
}

impl Table {
    pub(crate) fn get(&self, key: &Key) -> Option<&Stored> {
        self.records.get(key)
    }

    pub(crate) fn list(&self, kind: Kind) -> Vec<Record> {
        self.records
            .iter()
            .filter(|(key, _)| key.kind == kind)
            .map(|(key, stored)| stored.record(key.clone()))
            .collect()
    }

    pub(crate) fn set(&mut self, key: Key, stored: Option<Stored>) {
        match stored {
            Some(stored) => self.records.insert(key, stored),
            None => self.records.remove(&key),
        };
    }
}

/// What a write leaves behind, given what is there now.
pub(crate) fn apply_write(
    write: &Write,
    current: Option<&Stored>,
) -> Result<Option<Stored>, StoreError> {
    require(&write.key, write.expect, current)?;
    let found = current.map_or(0, |stored| stored.generation.0);
    Ok(write.value.as_ref().map(|value| Stored {
        generation: Generation(found + 1),
        value: value.clone(),
    }))
}

/// Refuses a record that is not what is expected.
pub(crate) fn require(
    key: &Key,
    expect: Expect,
    current: Option<&Stored>,
) -> Result<(), StoreError> {
    let found = current.map(|stored| stored.generation);
    let holds = match (expect, found) {
        (Expect::Any, _) | (Expect::Absent, None) => true,
        (Expect::Absent, Some(_)) | (Expect::Generation(_), None) => false,
        (Expect::Generation(wanted), Some(found)) => wanted == found,
    };
    if holds {
        Ok(())
    } else {
        Err(conflict(key, expect, found))
    }
}

/// Says that a record is not what is expected.
pub(crate) fn conflict(key: &Key, expect: Expect, found: Option<Generation>) -> StoreError {
    let generation = |generation: Generation| format!("generation {}", generation.0);
    StoreError::Conflict {
        key: key.to_string(),
        expected: match expect {
            Expect::Any => "anything".to_owned(),
            Expect::Absent => "no record".to_owned(),
            Expect::Generation(wanted) => generation(wanted),
        },
        found: found.map_or("no record".to_owned(), generation),
    }
}

/// Whole milliseconds of a lease's time to live; at least one.
pub(crate) fn time_to_live(ttl: Duration) -> Result<u64, StoreError> {
    match u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX) {
        0 => Err(StoreError::Invalid {
            what: "a lease's time to live",
            reason: format!("{ttl:?} is less than 1 ms"),
        }),
        millis => Ok(millis),
    }
}

/// Refuses a fence below the lease's epoch.
pub(crate) fn check_fence(fence: &Fence, state: Option<&LeaseState>) -> Result<(), StoreError> {
    let current = state.map_or(Epoch(0), |state| state.epoch);
    if fence.epoch == current {
        Ok(())
    } else {
        Err(StoreError::Fenced {
            lease: fence.lease.0.clone(),
            ours: fence.epoch,
            current,
        })
    }
}

/// The lease after an attempt to acquire it, or `None` while another holds it.
pub(crate) fn acquire(
    name: &LeaseName,
    state: Option<&LeaseState>,
    holder: &HolderId,
    now: Timestamp,
    ttl: Duration,
) -> Result<Option<Lease>, StoreError> {
    let ttl = time_to_live(ttl)?;
    if let Some(state) = state {
        let taken = state.holder.as_ref().is_some_and(|other| other != holder);
        if taken && now < state.expires_at {
            return Ok(None);
        }
    }
    let epoch = Epoch(state.map_or(0, |state| state.epoch.0) + 1);
    Ok(Some(Lease {
        name: name.clone(),
        holder: holder.clone(),
        epoch,
        expires_at: now.plus(ttl),
    }))
}

/// The lease after a renewal.
pub(crate) fn renew(
    lease: &Lease,
    state: Option<&LeaseState>,
    now: Timestamp,
    ttl: Duration,
) -> Result<Lease, StoreError> {
    let ttl = time_to_live(ttl)?;
    let fence = Fence {
        lease: lease.name.clone(),
        epoch: lease.epoch,
    };
    check_fence(&fence, state)?;
    match state.and_then(|state| state.holder.as_ref()) {
        Some(holder) if *holder == lease.holder => Ok(Lease {
            expires_at: now.plus(ttl),
            ..lease.clone()
        }),
        Some(_) | None => Err(StoreError::Fenced {
            lease: lease.name.0.clone(),
            ours: lease.epoch,
            current: state.map_or(Epoch(0), |state| state.epoch),
        }),
    }
}

/// What is kept of a lease that is held.
pub(crate) fn held(lease: &Lease) -> LeaseState {
    LeaseState {
        epoch: lease.epoch,
        holder: Some(lease.holder.clone()),
        expires_at: lease.expires_at,
    }
}

/// What is kept of a lease that was given back, if it was this one.
pub(crate) fn released(lease: &Lease, state: Option<&LeaseState>) -> Option<LeaseState> {
    let state = state?;
    let ours = state.epoch == lease.epoch && state.holder.as_ref() == Some(&lease.holder);
    ours.then_some(LeaseState {
        epoch: state.epoch,
        holder: None,
        expires_at: Timestamp(0),
    })
}
