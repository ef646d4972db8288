//! What a client remembers of the store, to notice when the store does not.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// What a client has seen of a store: enough to recognise later that it lost something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The store's identity, made when the store was.
    pub identity: String,
    /// Run id of the server process under which `revision` was seen.
    pub run: String,
    /// The highest revision that was seen; every change of the store raises it by one.
    pub revision: u64,
}

/// A witness that is kept up to date, and the verdict once the store failed it.
#[derive(Debug)]
pub(super) struct Memory {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    witness: Option<Witness>,
    stopped: Option<StoreError>,
}

impl Memory {
    pub(super) fn new(witness: Option<Witness>) -> Self {
        Self {
            state: Mutex::new(State {
                witness,
                stopped: None,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so the state is whole even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was seen so far, or why nothing is done any more.
    pub(super) fn recall(&self) -> Result<Option<Witness>, StoreError> {
        let state = self.lock();
        match &state.stopped {
            Some(reason) => Err(reason.clone()),
            None => Ok(state.witness.clone()),
        }
    }

    /// What was seen so far, also when the store has failed it since.
    pub(super) fn last(&self) -> Witness {
        self.lock().witness.clone().unwrap_or_default()
    }

    /// A connection joined the store.
    pub(super) fn joined(&self, witness: Witness) {
        self.lock().witness = Some(witness);
    }

    /// An answer of the server process `run` was at this revision.
    pub(super) fn saw(&self, run: &str, revision: u64) {
        if let Some(witness) = &mut self.lock().witness
            && witness.run == run
        {
            // Answers may be handled in another order than they were given.
            witness.revision = witness.revision.max(revision);
        }
    }

    /// Keeps a loss or a rewind for good; other errors pass.
    pub(super) fn judge(&self, error: &StoreError) {
        if is_final(error) {
            self.lock().stopped.get_or_insert_with(|| error.clone());
        }
    }
}

/// Whether the error ends this client's use of the store.
pub(super) fn is_final(error: &StoreError) -> bool {
    matches!(error, StoreError::Lost { .. } | StoreError::Rewound { .. })
}
