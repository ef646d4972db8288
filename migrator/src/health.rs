//! What is wrong at present, by name; an operator and a readiness probe read it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The troubles of one process. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health(Arc<Mutex<BTreeMap<String, String>>>);

impl Health {
    /// Something is wrong, or wrong in another way.
    pub(crate) fn trouble(&self, what: &str, error: &dyn std::fmt::Display) {
        let error = error.to_string();
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.get(what) != Some(&error) {
            tracing::error!(what, error, "trouble");
            troubles.insert(what.to_owned(), error);
        }
    }

    /// It is well again, or was never wrong.
    pub(crate) fn well(&self, what: &str) {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.remove(what).is_some() {
            tracing::info!(what, "well again");
        }
    }

    /// Everything that is wrong: what, and its error.
    pub(crate) fn troubles(&self) -> BTreeMap<String, String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
