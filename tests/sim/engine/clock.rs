//! Clocks of the simulated machines: one time, each with its own error.

use domain::Timestamp;
use store::Clock;
use tokio::time::Instant;

/// Where every simulation begins, in milliseconds; skewed clocks never fall below 0.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// A machine's clock on the runtime's paused time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SimClock {
    began: Instant,
    /// Added to the true time.
    ahead_ms: u64,
    /// Taken from it.
    behind_ms: u64,
}

impl SimClock {
    pub(crate) const fn new(began: Instant, ahead_ms: u64, behind_ms: u64) -> Self {
        Self {
            began,
            ahead_ms,
            behind_ms,
        }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp(EPOCH_MS + millis(self.began) + self.ahead_ms - self.behind_ms)
    }
}

/// Simulated milliseconds since an instant.
pub(crate) fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
