//! One operation at a time per tag.
//!
//! The guard is owned, so that a copy in a blocking thread keeps its tag for as long as it really
//! runs, also when the caller has given up: two copies never write the same directory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::transient;
use crate::driver::DriverError;

/// The locks, by tag.
#[derive(Debug, Default)]
pub(super) struct Tags {
    locks: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

/// The right to work on a tag.
pub(super) type TagGuard = OwnedMutexGuard<()>;

impl Tags {
    /// Waits for the right to work on a tag.
    pub(super) async fn lock(
        &self,
        operation: &'static str,
        tag: &str,
        deadline: Duration,
    ) -> Result<TagGuard, DriverError> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody holds or awaits a lock that only the map knows.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(tag.to_owned()).or_default())
        };
        tokio::time::timeout(deadline, lock.lock_owned())
            .await
            .map_err(|_| transient(operation, tag, "an earlier operation on it still runs"))
    }
}
