//! The store on Redis 7, for services that run in several processes.
//!
//! # Flow
//! ```text
//! commit ──▶ one connection ──▶ one Lua script: guard ▶ fence ▶ expectations ▶ writes ▶ publish
//!   │  at most 500 ms              └─ refused: nothing written                        │
//!   ▼                                                                                 ▼
//! result, or a named error                            watchers of every client, by number
//! ```
//! Each operation is one script, so it is atomic; scripts are named by hash and sent along when
//! the server has forgotten them. Reads go to the server too: nothing is cached. The limit of
//! 500 ms is an option.
//!
//! # Ownership
//! The server owns the state and the clock of leases. A client owns one connection (`keeper`),
//! which carries operations and changes, and remembers what it has seen (`memory`). Every change
//! raises the store's **revision**. An **era** is the time of one server process; when the first
//! client joins a new one, all leases become void, because the server may have forgotten who took
//! them, and epochs go on above every epoch ever given.
//!
//! # Failure paths
//! - *The store lost or rewound state*: its identity, a collection, or a revision that was seen is
//!   gone. [`StoreError::Lost`] or [`StoreError::Rewound`], now and for every further operation of
//!   this client, until it is opened with [`Opening::AcknowledgeLoss`].
//! - *A value was damaged*: [`StoreError::Malformed`] names it. It is never overwritten; a person
//!   repairs or deletes it.
//! - *No answer in time, or the connection broke*: [`StoreError::TimedOut`] or
//!   [`StoreError::Unavailable`]; a commit may have happened. The connection is made anew with
//!   growing pauses, and then all watchers get [`Change::Missed`](crate::Change::Missed).
//! - *The server refuses*: [`StoreError::Denied`], [`StoreError::Full`], [`StoreError::ReadOnly`],
//!   [`StoreError::Moved`], [`StoreError::NotDurable`]. Scripts check before they write, so a
//!   refusal leaves nothing half done.
//!
//! # Limits
//! A list of many records is read in pages, and each page has its own time limit.
//! `docs/decisions/0008-redis.md` says what the server's settings must be and which rights a user
//! needs.

mod codec;
mod connect;
mod core;
mod fault;
mod feed;
mod keeper;
mod keys;
mod listing;
mod memory;
mod operations;
mod options;
mod script;
mod sentinel;
mod server;

use std::sync::Arc;

use tokio::sync::watch;

pub use connect::{Address, Connector, NetConnector, Stream, Tls};
pub use memory::Witness;
pub use options::{Opening, Persistence, RedisOptions, Secret};
pub use sentinel::SentinelConnector;

use self::core::{Core, Link};
use crate::error::StoreError;
use memory::Memory;

/// The store on Redis. Dropping it closes its connection.
pub struct RedisStore {
    core: Arc<Core>,
    _keeper: keeper::Task,
}

impl RedisStore {
    /// Opens the store without encryption. It needs a tokio runtime, now and while it lives.
    ///
    /// # Errors
    /// As [`RedisStore::open_through`].
    pub async fn open(address: Address, options: RedisOptions) -> Result<Self, StoreError> {
        Self::open_through(Arc::new(NetConnector::plain(address)), options).await
    }

    /// Opens the store over streams that the connector makes.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for options that cannot work, [`StoreError::NotDurable`] for a
    /// server that would forget, [`StoreError::Lost`] and [`StoreError::Rewound`] for state that
    /// is not what the options say it was, and everything that can go wrong with a server.
    pub async fn open_through(
        connector: Arc<dyn Connector>,
        options: RedisOptions,
    ) -> Result<Self, StoreError> {
        options.check()?;
        let opening = options.opening;
        let witness = match opening {
            Opening::Existing | Opening::CreateIfAbsent => options.witness.clone(),
            Opening::AcknowledgeLoss => None,
        };
        let (link, _) = watch::channel(Link::Down(fault::unavailable(
            "open the store",
            "it is not connected yet",
        )));
        let core = Arc::new(Core::new(options, connector, Memory::new(witness), link));
        let established = keeper::establish(&core, opening).await?;
        core.link.send_replace(Link::Up(established.live.clone()));
        let keeper = keeper::Task::spawn(keeper::keep(Arc::clone(&core), established));
        Ok(Self {
            core,
            _keeper: keeper,
        })
    }

    /// What this client has seen, to be kept and given to [`RedisOptions::witness`] later.
    ///
    /// # Errors
    /// The loss that was noticed, if one was.
    pub fn witness(&self) -> Result<Witness, StoreError> {
        Ok(self.core.memory.recall()?.unwrap_or_default())
    }

    /// What this client has seen, also when the store has failed it since: then more than ever it
    /// must be kept, for whoever opens the store next.
    pub fn last_seen(&self) -> Witness {
        self.core.memory.last()
    }
}
