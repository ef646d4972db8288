//! Rates from counters that only grow, until they begin anew.

/// What a counter's value says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Read {
    /// The rate per second since the value before.
    Rate(f64),
    /// The first value, or the first after a long silence: there is nothing to compare it with.
    First,
    /// The counter began anew. How much it had counted until then is not known, so nothing is said.
    Reset,
    /// Of the time of the value before, or older.
    Stale,
}

/// The newest value of one counter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Meter {
    at_ms: u64,
    value: f64,
    /// When it began to count, where that is told.
    since_ms: u64,
}

impl Meter {
    /// What a value says after the one before, which it replaces. A silence longer than
    /// `patience_ms` is not averaged over.
    pub fn read(
        known: &mut Option<Self>,
        at_ms: u64,
        value: f64,
        since_ms: u64,
        patience_ms: u64,
    ) -> Read {
        let next = Self {
            at_ms,
            value,
            since_ms,
        };
        let Some(before) = *known else {
            *known = Some(next);
            return Read::First;
        };
        if at_ms <= before.at_ms {
            return Read::Stale;
        }
        *known = Some(next);
        let elapsed = at_ms - before.at_ms;
        if value < before.value || since_ms > before.since_ms {
            return Read::Reset;
        }
        if elapsed > patience_ms {
            return Read::First;
        }
        Read::Rate((value - before.value) * 1_000.0 / elapsed as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_begins_anew_or_was_silent_is_no_drop_and_no_burst() {
        let mut known = None;
        let mut read = |at, value, since| Meter::read(&mut known, at, value, since, 60_000);
        assert_eq!(read(10_000, 100.0, 0), Read::First);
        assert_eq!(read(20_000, 150.0, 0), Read::Rate(5.0));
        assert_eq!(read(20_000, 150.0, 0), Read::Stale);
        assert_eq!(read(15_000, 120.0, 0), Read::Stale);
        assert_eq!(read(30_000, 7.0, 0), Read::Reset);
        assert_eq!(read(40_000, 17.0, 0), Read::Rate(1.0));
        // It began anew, and has counted beyond where it was.
        assert_eq!(read(50_000, 500.0, 41_000), Read::Reset);
        assert_eq!(read(60_000, 500.0, 41_000), Read::Rate(0.0));
        assert_eq!(read(120_001, 900.0, 41_000), Read::First);
    }
}
