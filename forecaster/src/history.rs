//! What is known of a series: a ring of values on a regular grid.
//!
//! Samples come when they come; each is averaged into its step. What is odd about them is counted,
//! never guessed away: a step without a sample is a gap (`NaN`), not a drop to zero.

use std::collections::VecDeque;

/// Values kept per series: a week of five minutes. At four bytes each, 400 000 series (100 000
/// instances with four resources) stay below 4 GiB, calibration included.
pub const KEPT: usize = 2_016;

/// What was odd about the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Samples for a step that was filled already; they are averaged into it.
    pub merged: u64,
    /// Samples of the same time as the one before; they are dropped.
    pub duplicates: u64,
    /// Samples older than the newest one (out of order); they are dropped.
    pub late: u64,
    /// Samples from the future; they are dropped, or one wrong clock would push the history out.
    pub future: u64,
    /// Samples that are no demand: not finite, or negative.
    pub refused: u64,
    /// Steps without a sample.
    pub gaps: u64,
}

/// One series.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    step_ms: u64,
    kept: usize,
    newest: Option<Newest>,
    values: VecDeque<f32>,
    counters: Counters,
}

/// The newest step, which still takes samples in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Newest {
    step: u64,
    at_ms: u64,
    samples: u32,
}

impl Series {
    /// An empty series that keeps [`KEPT`] values.
    pub fn new(step_ms: u64) -> Self {
        Self::keeping(KEPT, step_ms)
    }

    /// An empty series that keeps this many values, at least one.
    pub fn keeping(kept: usize, step_ms: u64) -> Self {
        Self {
            step_ms: step_ms.max(1),
            kept: kept.max(1),
            newest: None,
            values: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes in a sample made at `at_ms` (since the epoch) and received at `now_ms`.
    pub fn push(&mut self, at_ms: u64, value: f64, now_ms: u64) {
        if !value.is_finite() || value < 0.0 {
            self.counters.refused += 1;
            return;
        }
        if at_ms > now_ms.saturating_add(self.step_ms) {
            self.counters.future += 1;
            return;
        }
        let step = at_ms / self.step_ms;
        match &mut self.newest {
            Some(newest) if at_ms == newest.at_ms => self.counters.duplicates += 1,
            Some(newest) if at_ms < newest.at_ms => self.counters.late += 1,
            Some(newest) if step == newest.step => {
                newest.at_ms = at_ms;
                newest.samples = newest.samples.saturating_add(1);
                self.counters.merged += 1;
                if let Some(last) = self.values.back_mut() {
                    // The step may have been a gap until now: then this is its first value.
                    if last.is_nan() {
                        *last = single(value);
                        newest.samples = 1;
                    } else {
                        let mean = f64::from(*last);
                        *last = single(mean + (value - mean) / f64::from(newest.samples));
                    }
                }
            }
            before => {
                let gap = before.as_ref().map_or(0, |newest| step - newest.step - 1);
                self.counters.gaps = self.counters.gaps.saturating_add(gap);
                self.newest = Some(Newest {
                    step,
                    at_ms,
                    samples: 1,
                });
                for _ in 0..gap.min(self.kept as u64) {
                    self.append(f64::NAN);
                }
                self.append(value);
            }
        }
    }

    fn append(&mut self, value: f64) {
        if self.values.len() == self.kept {
            self.values.pop_front();
        }
        self.values.push_back(single(value));
    }

    /// Values known from before, ending at `last_ms`; replaces what is there.
    pub fn preload(&mut self, values: &[Option<f64>], last_ms: u64) {
        self.values.clear();
        for value in values.iter().rev().take(self.kept).rev() {
            let usable = value.filter(|v| v.is_finite() && *v >= 0.0);
            self.append(usable.unwrap_or(f64::NAN));
        }
        self.newest = (!values.is_empty()).then_some(Newest {
            step: last_ms / self.step_ms,
            at_ms: last_ms,
            samples: 1,
        });
    }

    /// Adds the newest values, at most `steps` of them, oldest first, `NaN` for a gap.
    pub fn copy_newest(&self, steps: usize, to: &mut Vec<f32>) {
        let skipped = self.values.len().saturating_sub(steps);
        let (older, newer) = self.values.as_slices();
        to.extend_from_slice(older.get(skipped..).unwrap_or_default());
        let skipped = skipped.saturating_sub(older.len());
        to.extend_from_slice(newer.get(skipped..).unwrap_or_default());
    }

    /// The newest value that is known.
    pub fn last(&self) -> Option<f64> {
        self.values
            .iter()
            .rev()
            .copied()
            .find(|value| value.is_finite())
            .map(f64::from)
    }

    /// Number of values that are known.
    pub fn samples(&self) -> usize {
        self.values.iter().filter(|value| value.is_finite()).count()
    }

    /// When the newest step began, in milliseconds since the epoch.
    pub fn newest_ms(&self) -> Option<u64> {
        self.newest.map(|newest| newest.step * self.step_ms)
    }

    /// The newest step, counted from the epoch.
    pub fn newest_step(&self) -> Option<u64> {
        self.newest.map(|newest| newest.step)
    }

    /// When the newest sample was made.
    pub fn newest_at_ms(&self) -> Option<u64> {
        self.newest.map(|newest| newest.at_ms)
    }

    /// The value of a step, if it is still kept and was known.
    pub fn value_at(&self, step: u64) -> Option<f64> {
        let back = usize::try_from(self.newest?.step.checked_sub(step)?).ok()?;
        let index = self.values.len().checked_sub(back + 1)?;
        self.values
            .get(index)
            .copied()
            .filter(|value| value.is_finite())
            .map(f64::from)
    }

    /// Length of a step in milliseconds.
    pub const fn step_ms(&self) -> u64 {
        self.step_ms
    }

    /// The values kept, oldest first, `NaN` for a gap.
    pub fn values(&self) -> impl ExactSizeIterator<Item = f64> {
        self.values.iter().copied().map(f64::from)
    }

    /// What was odd about the samples.
    pub const fn counters(&self) -> Counters {
        self.counters
    }
}

/// Half the memory; seven digits are more than any meter has.
#[expect(clippy::cast_possible_truncation, reason = "the model computes in f32")]
const fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest(series: &Series, steps: usize) -> Vec<f32> {
        let mut values = Vec::new();
        series.copy_newest(steps, &mut values);
        values
    }

    const NOW: u64 = 1_000_000;

    #[test]
    fn gaps_stay_gaps_and_odd_samples_are_counted() {
        let mut series = Series::new(1_000);
        for (at, value) in [
            (1_000, 10.0),
            (1_500, 20.0),
            (1_500, 90.0),
            (4_000, 7.0),
            (2_000, 99.0),
            (5_000, -1.0),
            (5_000, f64::NAN),
            (5_000, f64::INFINITY),
            (NOW + 1_001, 3.0),
        ] {
            series.push(at, value, NOW);
        }
        let context = newest(&series, 5);
        assert_eq!(context.len(), 4, "nothing is known before the first");
        assert!((context[0] - 15.0).abs() < 1e-9);
        assert!(context[1].is_nan() && context[2].is_nan());
        assert!((context[3] - 7.0).abs() < 1e-9);
        assert_eq!(newest(&series, 1), [7.0]);
        let counters = Counters {
            merged: 1,
            duplicates: 1,
            late: 1,
            future: 1,
            refused: 3,
            gaps: 2,
        };
        assert_eq!(series.counters(), counters);
        assert_eq!(series.last(), Some(7.0));
    }

    #[test]
    fn the_ring_is_bounded_and_a_preload_goes_on_seamlessly() {
        let mut series = Series::new(1_000);
        series.preload(&vec![Some(1.0); KEPT + 10], 9_000);
        assert_eq!(series.samples(), KEPT);
        series.push(10_000, 2.0, NOW);
        assert_eq!(series.samples(), KEPT);
        assert_eq!(series.counters().gaps, 0);
    }

    #[test]
    fn a_long_silence_leaves_gaps_and_costs_no_more_than_the_ring() {
        let mut series = Series::keeping(4, 1);
        series.push(1, 5.0, u64::MAX);
        series.push(u64::MAX - 1, 6.0, u64::MAX);
        assert_eq!(series.values().len(), 4);
        assert_eq!(series.samples(), 1);
        assert_eq!(series.counters().gaps, u64::MAX - 3);
    }

    #[test]
    fn the_value_of_a_step_is_found_while_it_is_kept() {
        let mut series = Series::keeping(3, 1_000);
        for (at, value) in [(1_000, 1.0), (2_000, 2.0), (4_000, 4.0)] {
            series.push(at, value, NOW);
        }
        assert_eq!(series.value_at(1), None, "pushed out");
        assert_eq!(series.value_at(2), Some(2.0));
        assert_eq!(series.value_at(3), None, "a gap");
        assert_eq!(series.value_at(4), Some(4.0));
        assert_eq!(series.value_at(5), None, "not yet");
    }
}
