//! Names of keys and channels.
//!
//! All begin with `{prefix}:`. The braces are Redis' hash tag: in a cluster all keys of a store
//! hash to one slot, so one script may touch them all. A store is therefore as large as one node;
//! more shards are more stores, each with its own prefix.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `head` | string | identity, revision, server run, epoch floor |
//! | `counts` | hash | how many entries each collection has, and numbers of the changes told |
//! | `eras` | list | server runs, and the revision at which each began |
//! | `leases` | hash | leases by name |
//! | `records:<kind>` | hash | records by id |
//! | `log:<name>` | list | entries of a log |
//!
//! and one channel per kind, `changes:<kind>`.

use crate::key::{Kind, LogName};

/// Names under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    tag: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            tag: format!("{{{prefix}}}:"),
        }
    }

    pub(super) fn head(&self) -> String {
        format!("{}head", self.tag)
    }

    pub(super) fn counts(&self) -> String {
        format!("{}counts", self.tag)
    }

    pub(super) fn eras(&self) -> String {
        format!("{}eras", self.tag)
    }

    pub(super) fn leases(&self) -> String {
        format!("{}leases", self.tag)
    }

    pub(super) fn records(&self, kind: Kind) -> String {
        format!("{}records:{}", self.tag, kind.name())
    }

    pub(super) fn log(&self, name: &LogName) -> String {
        format!("{}{}", self.log_prefix(), name.0)
    }

    pub(super) fn log_prefix(&self) -> String {
        format!("{}log:", self.tag)
    }

    pub(super) fn channel(&self, kind: Kind) -> String {
        format!("{}changes:{}", self.tag, kind.name())
    }

    /// For trying out rights.
    pub(super) fn scratch(&self) -> String {
        format!("{}scratch", self.tag)
    }

    /// The kind that a channel is about.
    pub(super) fn kind_of(&self, channel: &[u8]) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|&kind| self.channel(kind).as_bytes() == channel)
    }
}
