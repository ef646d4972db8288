//! What a forecaster knows of its own forecasts, for those who watch it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{InstanceId, Resource};

use crate::book::{Book, Calibrating, Coverage};

/// A view of a running forecaster.
#[derive(Debug, Clone)]
pub struct Insight {
    book: Arc<Mutex<Book>>,
}

impl Insight {
    pub(crate) const fn new(book: Arc<Mutex<Book>>) -> Self {
        Self { book }
    }

    /// Of a forecaster that knows nothing.
    pub fn empty(step_ms: u64) -> Self {
        let book = Book::new(step_ms, Calibrating::Observe);
        Self::new(Arc::new(Mutex::new(book)))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How well the forecasts of all series of a resource came true, by horizon.
    pub fn group_coverage(&self) -> Vec<(Resource, Coverage)> {
        self.book().group_coverage()
    }

    /// What is known of an instance: when a step began, and the value of each resource in it.
    pub fn history(&self, instance: &InstanceId) -> Vec<(u64, [Option<f64>; 4])> {
        self.book().history(instance)
    }

    /// Length of a step in milliseconds.
    pub fn step_ms(&self) -> u64 {
        self.book().step_ms()
    }

    /// How many times forecasts of a series stopped coming true.
    pub fn drifts(&self) -> u64 {
        self.book().drifted()
    }
}
