//! What happened, in the order in which it was seen: one JSON object a line, only ever appended.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Milliseconds since the history began.
    pub(crate) at: u64,
    /// What.
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "snake_case")]
pub(crate) enum What {
    /// A control plane's process did something.
    Process {
        name: String,
        pid: u32,
        did: Did,
        /// The step and the moment it was at, if that was asked for.
        place: Option<String>,
    },
    /// The store holds a new value, or none any more.
    Record {
        kind: String,
        id: String,
        /// 0 where records are only looked at from time to time.
        generation: u64,
        value: Option<Value>,
    },
    /// Changes of a kind were missed: what follows is what is there now.
    Missed { kind: String },
    /// The replicas whose processes live.
    Alive { tags: Vec<String> },
    /// Somebody asked the control plane for something.
    Asked { migration: String, word: String },
    /// Something goes wrong, or is well again.
    Trouble { name: String, begins: bool },
    /// A migration is over and nothing is left of it.
    Rest {
        migration: String,
        phase: String,
        /// From the last recovery to its end, in milliseconds.
        ended_after: u64,
        /// From the last recovery until nothing was left.
        rest_after: u64,
    },
    /// What a data plane routes by, without times and versions.
    Routes {
        migration: String,
        before: bool,
        digest: String,
    },
    /// Lines in a migration's log, and the generation of its record.
    Log {
        migration: String,
        lines: u64,
        generation: u64,
    },
    /// What the clients saw so far.
    Requests {
        sent: u64,
        ok: u64,
        failed: u64,
        shed: u64,
    },
    /// Something is left over, or a wait was in vain.
    Wrong { what: String },
}

/// What a process did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Did {
    /// Began.
    Start,
    /// Answers.
    Answer,
    /// Was killed.
    Die,
    /// Stands still.
    Stand,
    /// Goes on.
    GoOn,
    /// Ended when asked to.
    End,
}

/// A history that is being written.
#[derive(Clone)]
pub(crate) struct History {
    began: Instant,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    file: File,
    all: Vec<Seen>,
}

impl History {
    pub(crate) fn create(path: &Path) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self {
            began: Instant::now(),
            inner: Arc::new(Mutex::new(Inner {
                file,
                all: Vec::new(),
            })),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Adds what is seen now.
    pub(crate) fn add(&self, what: What) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = Seen {
            at: self.now(),
            what,
        };
        let line = serde_json::to_string(&seen).unwrap();
        writeln!(inner.file, "{line}").unwrap();
        inner.all.push(seen);
    }

    pub(crate) fn trouble(&self, name: &str, begins: bool) {
        let name = name.to_owned();
        self.add(What::Trouble { name, begins });
    }

    pub(crate) fn wrong(&self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("WRONG {what}");
        self.add(What::Wrong { what });
    }

    /// Everything so far.
    pub(crate) fn all(&self) -> Vec<Seen> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.all.clone()
    }
}
