//! What the pairs of one cluster said so far.

use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::Pairs;

use super::Noise;

/// Most names of one kind that are told apart.
const MOST_NAMES: usize = 48;
const OTHERS: &str = "others";

/// What the pairs of one cluster said so far.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pairs: Mutex<Pairs>,
    noise: Mutex<Noise>,
}

impl Book {
    /// Everything so far.
    pub(crate) fn pairs(&self) -> Pairs {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Pairs> {
        // Counts stay meaningful whatever interrupted their writer.
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn noise(&self) -> MutexGuard<'_, Noise> {
        self.noise.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn incomparable(&self, reason: &str) {
        count(&mut self.lock().incomparable, reason);
    }

    pub(super) fn add(&self, change: impl FnOnce(&mut Pairs)) {
        change(&mut self.lock());
    }
}

/// Counts under a name, or among others when there are too many.
pub(super) fn count(names: &mut std::collections::BTreeMap<String, u64>, name: &str) {
    let known = names.contains_key(name) || names.len() < MOST_NAMES;
    let name = if known { name } else { OTHERS };
    let sum = names.entry(name.to_owned()).or_default();
    *sum = sum.saturating_add(1);
}
