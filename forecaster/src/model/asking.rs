//! The series a model is asked about, in one piece of memory that is used again.

use std::ops::Range;

use crate::features::Known;

/// What is known of several series.
#[derive(Debug, Default)]
pub struct Asking {
    values: Vec<f32>,
    series: Vec<Span>,
}

#[derive(Debug)]
struct Span {
    history: Range<usize>,
    activity: Range<usize>,
    local_s: Option<f64>,
}

impl Asking {
    /// Forgets all series and keeps the memory.
    pub fn clear(&mut self) {
        self.values.clear();
        self.series.clear();
    }

    /// Adds a series: its values, what its users do (may be empty), and the local time of its
    /// newest step in seconds since a Thursday's midnight.
    pub fn push(&mut self, history: &[f32], activity: &[f32], local_s: Option<f64>) {
        let begin = self.values.len();
        self.values.extend_from_slice(history);
        let middle = self.values.len();
        self.values.extend_from_slice(activity);
        self.series.push(Span {
            history: begin..middle,
            activity: middle..self.values.len(),
            local_s,
        });
    }

    /// Adds a series of which only its own values are known.
    pub fn push_history(&mut self, history: &[f64]) {
        let begin = self.values.len();
        #[expect(clippy::cast_possible_truncation, reason = "the model computes in f32")]
        self.values.extend(history.iter().map(|&v| v as f32));
        let end = self.values.len();
        self.series.push(Span {
            history: begin..end,
            activity: end..end,
            local_s: None,
        });
    }

    /// How many series.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// What is known of a series; nothing beyond the last.
    pub fn known(&self, place: usize) -> Known<'_> {
        let Some(span) = self.series.get(place) else {
            return Known {
                history: &[],
                activity: &[],
                local_s: None,
            };
        };
        Known {
            history: &self.values[span.history.clone()],
            activity: &self.values[span.activity.clone()],
            local_s: span.local_s,
        }
    }

    /// Whether a series has a known value.
    pub(super) fn is_known(&self, place: usize) -> bool {
        self.known(place).history.iter().any(|v| v.is_finite())
    }

    /// Histories of equal length, `NaN` before their beginning.
    pub(super) fn padded(&self, batch: Range<usize>, context: usize) -> Vec<f32> {
        let mut flat = Vec::with_capacity(batch.len() * context);
        for place in batch {
            let history = self.known(place).history;
            let skipped = history.len().saturating_sub(context);
            flat.extend(std::iter::repeat_n(
                f32::NAN,
                context.saturating_sub(history.len()),
            ));
            flat.extend_from_slice(&history[skipped..]);
        }
        flat
    }
}
