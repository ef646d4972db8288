//! What can go wrong with the store.

use domain::Epoch;

/// What can go wrong with the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A record is not what the transaction expects. Read again and decide anew.
    #[error("record {key} changed: expected {expected}, found {found}")]
    Conflict {
        /// The record.
        key: String,
        /// What was expected.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A newer leader exists. Stop acting.
    #[error("lease {lease}: epoch {ours} is stale, the lease is at {current}")]
    Fenced {
        /// The lease.
        lease: String,
        /// The writer's epoch.
        ours: Epoch,
        /// The lease's epoch.
        current: Epoch,
    },
    /// A value is not what its kind says.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Record or log.
        what: String,
        /// The parser's words.
        reason: String,
    },
    /// The store's file is used by another process.
    #[error("store {path} is in use by another process; stop it, or use another file")]
    Locked {
        /// The file.
        path: String,
    },
    /// The backend failed. Nothing was changed, or it is unknown whether something was: read
    /// before deciding.
    #[error("store is unavailable while trying to {operation}: {reason}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// The backend's words.
        reason: String,
    },
}
