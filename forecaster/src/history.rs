//! What is known of a series: a ring of values on a regular grid.

use std::collections::VecDeque;

/// Values kept per series: two weeks of five minutes.
pub const KEPT: usize = 4_032;

/// What was odd about the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Samples for a step that was filled already; they are averaged into it.
    pub merged: u64,
    /// Samples older than the newest step; they are dropped.
    pub late: u64,
    /// Samples that are no demand: not finite, or negative.
    pub refused: u64,
    /// Steps without a sample.
    pub gaps: u64,
}

/// One series. A gap is a gap (`NaN`), never a drop to zero.
#[derive(Debug, Clone)]
pub struct Series {
    step_ms: u64,
    newest_step: Option<u64>,
    in_newest: u32,
    values: VecDeque<f64>,
    counters: Counters,
}

impl Series {
    /// An empty series.
    pub fn new(step_ms: u64) -> Self {
        Self {
            step_ms: step_ms.max(1),
            newest_step: None,
            in_newest: 0,
            values: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes in a sample at `at_ms` since the epoch.
    pub fn push(&mut self, at_ms: u64, value: f64) {
        if !value.is_finite() || value < 0.0 {
            self.counters.refused += 1;
            return;
        }
        let step = at_ms / self.step_ms;
        match self.newest_step {
            Some(newest) if step < newest => self.counters.late += 1,
            Some(newest) if step == newest => {
                self.counters.merged += 1;
                self.in_newest += 1;
                if let Some(last) = self.values.back_mut() {
                    *last += (value - *last) / f64::from(self.in_newest);
                }
            }
            before => {
                let gap = before.map_or(0, |newest| step - newest - 1);
                self.counters.gaps += gap;
                for _ in 0..gap.min(KEPT as u64) {
                    self.append(f64::NAN);
                }
                self.append(value);
                self.newest_step = Some(step);
                self.in_newest = 1;
            }
        }
    }

    fn append(&mut self, value: f64) {
        if self.values.len() == KEPT {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// Values known from before, ending at `last_ms`; replaces what is there.
    pub fn preload(&mut self, values: &[Option<f64>], last_ms: u64) {
        self.values.clear();
        for value in values.iter().rev().take(KEPT).rev() {
            let usable = value.filter(|v| v.is_finite() && *v >= 0.0);
            self.append(usable.unwrap_or(f64::NAN));
        }
        self.newest_step = Some(last_ms / self.step_ms);
        self.in_newest = 1;
    }

    /// The newest `steps` values, oldest first, `NaN` where nothing is known.
    pub fn context(&self, steps: usize) -> Vec<f64> {
        let missing = steps.saturating_sub(self.values.len());
        let skipped = self.values.len().saturating_sub(steps);
        std::iter::repeat_n(f64::NAN, missing)
            .chain(self.values.iter().skip(skipped).copied())
            .collect()
    }

    /// The newest value that is known.
    pub fn last(&self) -> Option<f64> {
        self.values
            .iter()
            .rev()
            .copied()
            .find(|value| value.is_finite())
    }

    /// Number of values that are known.
    pub fn samples(&self) -> usize {
        self.values.iter().filter(|value| value.is_finite()).count()
    }

    /// When the newest step began, in milliseconds since the epoch.
    pub fn newest_ms(&self) -> Option<u64> {
        self.newest_step.map(|step| step * self.step_ms)
    }

    /// What was odd about the samples.
    pub const fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_stay_gaps_and_odd_samples_are_counted() {
        let mut series = Series::new(1_000);
        series.push(1_000, 10.0);
        series.push(1_500, 20.0);
        series.push(4_000, 7.0);
        series.push(2_000, 99.0);
        series.push(5_000, -1.0);
        series.push(5_000, f64::NAN);
        let context = series.context(5);
        assert!(context[0].is_nan());
        assert!((context[1] - 15.0).abs() < 1e-9);
        assert!(context[2].is_nan() && context[3].is_nan());
        assert!((context[4] - 7.0).abs() < 1e-9);
        let counters = Counters {
            merged: 1,
            late: 1,
            refused: 2,
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
        series.push(10_000, 2.0);
        assert_eq!(series.samples(), KEPT);
        assert_eq!(series.counters().gaps, 0);
    }
}
