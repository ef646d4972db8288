//! Lets discovery streams begin at a steady rate, so that a whole fleet that comes back at once is
//! served in turn and the nodes that are there already are not starved.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Streams that may begin at once after a quiet time, as a part of a second's.
const BURST: u32 = 4;
/// Longest wait for a turn: who would wait for longer is sent away, and comes back in its own time.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Turns at a steady rate.
#[derive(Debug)]
struct Turns {
    /// Between one turn and the next.
    interval: Duration,
    /// So far ahead of time a turn may be taken.
    ahead: Duration,
    /// When the next turn is due.
    due: Option<Instant>,
}

impl Turns {
    fn new(per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self {
            interval,
            ahead: Duration::from_secs(1) / BURST,
            due: None,
        }
    }

    /// How long to wait; `None` when it would be too long, and then no turn is taken.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let due = self.due.map_or(now, |due| due.max(now));
        let wait = (due - now).saturating_sub(self.ahead);
        if wait > MAX_WAIT {
            return None;
        }
        self.due = Some(due + self.interval);
        Some(wait)
    }
}

/// Paces the beginning of streams.
#[derive(Debug)]
pub(crate) struct Pace {
    turns: Mutex<Turns>,
    jitter: RandomState,
}

impl Pace {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            turns: Mutex::new(Turns::new(per_second)),
            jitter: RandomState::new(),
        }
    }

    /// How long a stream has to wait; `None` when the queue is too long for it.
    ///
    /// Who waits at all waits up to a tenth longer, so that those who came together do not go on
    /// together.
    pub(crate) fn turn(&self, number: u64) -> Option<Duration> {
        // Whole values only: whatever interrupted their writer left them whole.
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = turns.take(Instant::now())?;
        drop(turns);
        let tenth = u32::try_from(self.jitter.hash_one(number) % 100).unwrap_or(0);
        Some(wait + wait * tenth / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_comes_at_once_begins_at_a_steady_rate_and_a_few_do_not_wait() {
        let mut turns = Turns::new(1_000);
        let now = Instant::now();
        let waits: Vec<_> = (0..10_000).map(|_| turns.take(now).unwrap()).collect();
        assert!(waits[..250].iter().all(Duration::is_zero));
        assert_eq!(waits[9_999], Duration::from_millis(9_999 - 250));
        assert!(waits.is_sorted());
        // After a quiet time nobody waits.
        assert_eq!(
            turns.take(now + Duration::from_mins(1)),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn who_would_wait_for_too_long_is_sent_away_and_takes_no_turn() {
        let mut turns = Turns::new(10);
        let now = Instant::now();
        let taken = (0..1_000).filter(|_| turns.take(now).is_some()).count();
        assert!((200..=205).contains(&taken), "{taken}");
        let later = now + Duration::from_secs(1);
        assert!(turns.take(later).is_some());
    }
}
