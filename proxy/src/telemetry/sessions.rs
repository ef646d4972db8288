//! One request of every session, for whoever judges a sticky service.
//!
//! Requests of a session are not independent of each other: one bad client fails all of its own, on
//! whichever side its hash put it. So a session is counted by the first request that a cluster has
//! of it. Which request that is depends on its hash and on when it came, never on how it ended, and
//! no session is counted twice; what is counted is independent if the sessions are.
//!
//! Which sessions are known is kept in a fixed number of bits, by hash. Where two share a bit the
//! later one is not counted, which again does not depend on how its request ends. Every
//! [`PERIOD_MS`] all are forgotten, so that sessions that last go on to say something.

use std::sync::atomic::{AtomicU64, Ordering};

/// How long a session is known, in milliseconds.
const PERIOD_MS: u64 = 600_000;
/// Bits, in words of 64: 8 KiB for each cluster of a sticky service.
const WORDS: usize = 1_024;

/// The sessions that a cluster has seen in this period.
#[derive(Debug)]
pub(super) struct Sessions {
    period: AtomicU64,
    bits: Box<[AtomicU64]>,
}

impl Sessions {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            period: AtomicU64::new(now_ms / PERIOD_MS),
            bits: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether this is the first request of a session, by the hash of its name.
    pub(super) fn is_first(&self, key: u64, now_ms: u64) -> bool {
        let period = now_ms / PERIOD_MS;
        if self.period.swap(period, Ordering::Relaxed) != period {
            for word in &self.bits {
                word.store(0, Ordering::Relaxed);
            }
        }
        // The choice of a side is by the hash's remainder: sessions of a side must not share bits.
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        let bit = 1_u64 << (mixed % 64);
        let place = usize::try_from(mixed / 64).unwrap_or(0);
        let Some(word) = self.bits.get(place % WORDS) else {
            return false;
        };
        word.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_counted_once_in_a_period_and_again_in_the_next() {
        let sessions = Sessions::new(0);
        let keys: Vec<u64> = (0..1_000_u64)
            .map(|n| n.wrapping_mul(0x5851_f42d_4c95_7f2d))
            .collect();
        let count = |now| {
            keys.iter()
                .filter(|key| sessions.is_first(**key, now))
                .count()
        };
        let first = count(1);
        assert!(first > 970, "{first} of 1000; few share a bit");
        assert_eq!(count(PERIOD_MS - 1), 0);
        assert_eq!(count(PERIOD_MS), first);
    }

    #[test]
    fn the_sessions_of_one_side_use_all_bits() {
        // A tenth of the weight: keys whose remainder is small.
        let sessions = Sessions::new(0);
        let side = (0..20_000_u64).filter(|n| n % 10_000 < 1_000);
        let all = side.clone().count();
        let first = side.filter(|key| sessions.is_first(*key, 0)).count();
        assert!(first * 100 > all * 95, "{first} of {all}");
    }
}
