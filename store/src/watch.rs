//! Telling watchers about changes.

use std::sync::{Mutex, PoisonError};

use tokio::sync::broadcast;

use crate::key::{Key, Kind};
use crate::record::Record;

/// How many changes a watcher may lag behind before it has to list anew.
const CAPACITY: usize = 4_096;

/// A change of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Record),
    /// It was deleted.
    Deleted(Key),
    /// The watcher was too slow, or the store was away, and changes were missed: list anew.
    Missed,
}

/// Changes of one kind.
#[derive(Debug)]
pub struct Watch {
    kind: Kind,
    receiver: broadcast::Receiver<Change>,
}

impl Watch {
    /// The next change; `None` when the store is gone.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            match self.receiver.recv().await {
                Ok(change) if self.concerns(&change) => return Some(change),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return Some(Change::Missed),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// What has arrived and was not yet taken; `None` when something was missed.
    fn waiting(&mut self) -> Option<Vec<Change>> {
        let mut changes = Vec::new();
        loop {
            match self.receiver.try_recv() {
                Ok(Change::Missed) | Err(broadcast::error::TryRecvError::Lagged(_)) => return None,
                Ok(change) => changes.push(change),
                Err(
                    broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed,
                ) => return Some(changes),
            }
        }
    }

    fn concerns(&self, change: &Change) -> bool {
        match change {
            Change::Put(record) => record.key.kind == self.kind,
            Change::Deleted(key) => key.kind == self.kind,
            Change::Missed => true,
        }
    }
}

/// The sending half, one channel per kind so that busy telemetry does not push slow records out.
#[derive(Debug)]
pub(crate) struct Watchers {
    senders: Vec<broadcast::Sender<Change>>,
    /// Held while the changes of one transaction are told, and while they are drained.
    whole: Mutex<()>,
}

impl Watchers {
    pub(crate) fn new() -> Self {
        Self {
            senders: Kind::ALL
                .iter()
                .map(|_| broadcast::channel(CAPACITY).0)
                .collect(),
            whole: Mutex::new(()),
        }
    }

    /// Tells the changes of one transaction, which a [`Watchers::drain`] sees all or none of.
    pub(crate) fn tell_all(&self, changes: Vec<Change>) {
        let _whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            self.tell(change);
        }
    }

    /// Whole transactions that arrived at a watch; `None` when something was missed.
    pub(crate) fn drain(&self, watch: &mut Watch) -> Option<Vec<Change>> {
        let _whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        watch.waiting()
    }

    fn sender(&self, kind: Kind) -> Option<&broadcast::Sender<Change>> {
        let index = Kind::ALL.iter().position(|&known| known == kind)?;
        self.senders.get(index)
    }

    pub(crate) fn watch(&self, kind: Kind) -> Watch {
        let receiver = match self.sender(kind) {
            Some(sender) => sender.subscribe(),
            // `Kind::ALL` lists every kind; a closed channel is the harmless answer otherwise.
            None => broadcast::channel(1).1,
        };
        Watch { kind, receiver }
    }

    /// Tells the watchers of a kind that they missed something.
    pub(crate) fn missed(&self, kind: Kind) {
        if let Some(sender) = self.sender(kind) {
            let _ = sender.send(Change::Missed);
        }
    }

    pub(crate) fn tell(&self, change: Change) {
        let kind = match &change {
            Change::Put(record) => record.key.kind,
            Change::Deleted(key) => key.kind,
            Change::Missed => return,
        };
        if let Some(sender) = self.sender(kind) {
            // Nobody watching is not an error.
            let _ = sender.send(change);
        }
    }
}
