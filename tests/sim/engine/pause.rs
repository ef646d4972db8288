//! Stops and ends a migrator's process as seen from outside: whatever it does goes through its
//! store and driver, so a process that stands still is one whose calls do not leave and whose
//! answers are not read. Calls that left before go on and land.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Runs,
    Stopped,
    Dead,
}

/// The switch of one process. Waiters go on in the order in which they came: `tokio::sync::watch`
/// wakes its own in an order that depends on the process's entropy.
#[derive(Debug)]
pub(crate) struct Pause {
    mode: Mutex<Mode>,
    changed: Notify,
}

impl Pause {
    pub(crate) fn new() -> Self {
        Self {
            mode: Mutex::new(Mode::Runs),
            changed: Notify::new(),
        }
    }

    /// It stands still until [`Pause::go_on`].
    pub(crate) fn stop(&self) {
        self.set(Mode::Stopped);
    }

    pub(crate) fn go_on(&self) {
        self.set(Mode::Runs);
    }

    /// It never does anything again.
    pub(crate) fn kill(&self) {
        self.set(Mode::Dead);
    }

    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, mode: Mode) {
        if !self.is_dead() {
            *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.mode() == Mode::Dead
    }

    /// Waits until the process runs; for ever when it is dead.
    pub(crate) async fn pass(&self) {
        while self.mode() != Mode::Runs {
            self.changed.notified().await;
        }
    }
}
