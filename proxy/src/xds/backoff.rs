//! How long to wait before the control plane is tried again.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(2);

/// The wait after so many failures in a row: doubled each time, between half and all of that by
/// `random` (from 0 to 1), so that proxies that lost the same control plane do not come back
/// together.
pub(crate) fn backoff(failures: u32, random: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST);
    let share = 0.5 + random.clamp(0.0, 1.0) / 2.0;
    doubled.mul_f64(share).max(FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_fifty_milliseconds_to_two_seconds() {
        assert_eq!(backoff(0, 0.0), FIRST);
        assert_eq!(backoff(1, 1.0), Duration::from_millis(100));
        assert_eq!(backoff(60, 1.0), LONGEST);
        assert_eq!(backoff(60, 0.0), Duration::from_secs(1));
    }
}
