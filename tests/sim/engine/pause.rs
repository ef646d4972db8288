//! Stops and ends a migrator's process as seen from outside: whatever it does goes through its
//! store and driver, so a process that stands still is one whose calls do not leave and whose
//! answers are not read. Calls that left before go on and land. A call that begins while it stands still
//! was decided on before: it leaves as soon as the process goes on, and is then a zombie's.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Runs,
    /// It stops when it is about to do this.
    Armed(Act),
    Stopped,
    Dead,
}

/// What a leader does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// It writes something.
    Commit,
    /// It writes weights.
    Weights,
    /// It calls the driver.
    Effect,
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

    /// It stands still from its next act of a kind on, just before it.
    pub(crate) fn arm(&self, act: Act) {
        self.set(Mode::Armed(act));
    }

    /// It is about to do something.
    pub(crate) fn comes(&self, act: Act) {
        let writes = |wanted, act| wanted == Act::Commit && act == Act::Weights;
        if let Mode::Armed(wanted) = self.mode()
            && (wanted == act || writes(wanted, act))
        {
            self.stop();
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

    /// Whether it stands still. A call that begins now is that of a thread which was stopped between
    /// its look at the lease and the call: it leaves when the process goes on, whatever the rest of
    /// the process finds out by then.
    pub(crate) fn is_stopped(&self) -> bool {
        self.mode() == Mode::Stopped
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.mode() == Mode::Dead
    }

    /// Waits until the process runs; for ever when it is dead.
    pub(crate) async fn pass(&self) {
        while matches!(self.mode(), Mode::Stopped | Mode::Dead) {
            self.changed.notified().await;
        }
    }
}
