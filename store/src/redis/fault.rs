//! From the server's and the client library's words to [`StoreError`].

use std::time::Duration;

use ::redis::{ErrorKind, RedisError};

use crate::error::StoreError;

/// Names the failure of an operation.
pub(super) fn name(operation: &'static str, error: &RedisError) -> StoreError {
    // The server's own words where there are some; the library would add its own name for them.
    let reason = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    if error.kind() == ErrorKind::AuthenticationFailed {
        return StoreError::Denied { operation, reason };
    }
    match error.code().unwrap_or_default() {
        "NOPERM" | "NOAUTH" | "WRONGPASS" => StoreError::Denied { operation, reason },
        "OOM" => StoreError::Full { operation, reason },
        "READONLY" => StoreError::ReadOnly { operation, reason },
        "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "CROSSSLOT" => {
            StoreError::Moved { operation, reason }
        }
        "WRONGTYPE" => StoreError::Malformed {
            what: format!("a key read to {operation}"),
            reason,
        },
        // In the words of Redis 7.0 a script that lacks a right has no code of its own.
        _ if reason.contains("The user executing the script can't") => {
            StoreError::Denied { operation, reason }
        }
        _ => StoreError::Unavailable { operation, reason },
    }
}

/// The connection's failure, when it is not the server's answer.
pub(super) fn unavailable(operation: &'static str, reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable {
        operation,
        reason: reason.into(),
    }
}

/// No answer within the limit.
pub(super) fn timed_out(operation: &'static str, limit: Duration) -> StoreError {
    StoreError::TimedOut {
        operation,
        limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Whether another connection may do better: this one is given up then.
pub(super) fn is_of_the_connection(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable { .. }
        | StoreError::TimedOut { .. }
        | StoreError::ReadOnly { .. }
        | StoreError::Moved { .. }
        | StoreError::Lost { .. }
        | StoreError::Rewound { .. } => true,
        StoreError::Conflict { .. }
        | StoreError::Fenced { .. }
        | StoreError::Malformed { .. }
        | StoreError::Invalid { .. }
        | StoreError::NotDurable { .. }
        | StoreError::Denied { .. }
        | StoreError::Full { .. }
        | StoreError::Locked { .. } => false,
    }
}
