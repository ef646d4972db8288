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
    /// A value is not what its kind says, or is damaged.
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
    /// An argument that is never right, whatever the store holds.
    #[error("{what} is refused: {reason}")]
    Invalid {
        /// The argument.
        what: &'static str,
        /// What is allowed.
        reason: String,
    },
    /// State that was there is gone: flushed, evicted, or another store is in its place. Every
    /// further operation of this client answers so. Compare with the observed world before the
    /// loss is acknowledged; an empty answer would be a guess.
    #[error("store {store} lost its state: {reason}")]
    Lost {
        /// The store.
        store: String,
        /// What is missing.
        reason: String,
    },
    /// The store went back to an earlier state, for instance to an older copy of its file or a
    /// replica that lagged. Every further operation of this client answers so.
    #[error("store {store} went back: revision {seen} was seen, it is at {found} now")]
    Rewound {
        /// The store.
        store: String,
        /// The highest revision that this client has seen.
        seen: u64,
        /// The store's revision when that was noticed.
        found: u64,
    },
    /// The server would lose what it acknowledges.
    #[error("store {store} is not durable: {reason}")]
    NotDurable {
        /// The store.
        store: String,
        /// Which setting, and what it should be.
        reason: String,
    },
    /// The server refuses this user: wrong password, or a right is missing. Nothing was changed.
    #[error("store refuses to {operation}: {reason}")]
    Denied {
        /// What was tried.
        operation: &'static str,
        /// The server's words; never the password.
        reason: String,
    },
    /// The server has no memory left. Nothing was changed; reading goes on.
    #[error("store is full while trying to {operation}: {reason}")]
    Full {
        /// What was tried.
        operation: &'static str,
        /// The server's words.
        reason: String,
    },
    /// The server is a replica. Nothing was changed.
    #[error("store is read-only while trying to {operation}: {reason}")]
    ReadOnly {
        /// What was tried.
        operation: &'static str,
        /// The server's words.
        reason: String,
    },
    /// Another node of the cluster has the store. Nothing was changed.
    #[error("store is elsewhere in the cluster while trying to {operation}: {reason}")]
    Moved {
        /// What was tried.
        operation: &'static str,
        /// The server's words, which name the node if it knows it.
        reason: String,
    },
    /// No answer in time. It is unknown whether something was changed: read before deciding.
    #[error("store did not answer within {limit_ms} ms while trying to {operation}")]
    TimedOut {
        /// What was tried.
        operation: &'static str,
        /// How long was waited, in milliseconds.
        limit_ms: u64,
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
