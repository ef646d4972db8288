//! What is known of an endpoint's health: whether connecting to it failed of late.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How long an endpoint is passed over after the first failure; doubled with each further one.
const FIRST_MS: u64 = 500;
/// The longest.
const LONGEST_MS: u64 = 8_000;

/// Whether connecting to an endpoint failed of late. Times are milliseconds since any fixed
/// moment.
#[derive(Debug, Default)]
pub struct Suspicion {
    until_ms: AtomicU64,
    failures: AtomicU32,
}

impl Suspicion {
    /// Connecting failed.
    pub fn failed(&self, now_ms: u64) {
        // Requests that were under way together count as one failure.
        if self.is_suspect(now_ms) {
            return;
        }
        let before = self.failures.fetch_add(1, Ordering::Relaxed).min(10);
        let pause = (FIRST_MS << before).min(LONGEST_MS);
        self.until_ms
            .store(now_ms.saturating_add(pause), Ordering::Relaxed);
    }

    /// Connecting succeeded.
    pub fn connected(&self) {
        // Reading first keeps the cache line shared in the usual case.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it should be passed over.
    pub fn is_suspect(&self, now_ms: u64) -> bool {
        self.until_ms.load(Ordering::Relaxed) > now_ms
    }
}
