//! Known future load, added to a forecast beside the network.
//!
//! # Theory
//! A job's past runs are in the history, where the network would take them for habits or noise. So
//! they are taken out before it looks (`strip`), and what is announced is put back for the runs to
//! come (`add`): exact where an announcement is, nothing where there is none. How much a run really
//! adds is learnt from its past runs by the step at each beginning, shrunk towards what was
//! announced; the spread of those steps and the announced uncertainty widen the curve, in
//! quadrature with the network's own (independent errors).

use domain::{Announcement, AnnouncementError, QUANTILE_LEVELS, QuantileCurve, Resource, When};

use crate::cron::{Cron, CronError};

/// The announced value counts as much as this many past runs.
const PRIOR_RUNS: f64 = 2.0;
/// Steps either side of a beginning that are compared.
const EDGE: usize = 3;
/// Quantiles of the normal distribution at [`QUANTILE_LEVELS`].
const NORMAL: [f64; 13] = [
    -2.326_348, -1.959_964, -1.281_552, -0.841_621, -0.524_401, -0.253_347, 0.0, 0.253_347,
    0.524_401, 0.841_621, 1.281_552, 1.959_964, 2.326_348,
];

/// Why an announcement is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncedError {
    /// A value that cannot be meant.
    #[error(transparent)]
    Value(#[from] AnnouncementError),
    /// A schedule that is none.
    #[error("announcement {id}: {source}")]
    Schedule {
        /// Which.
        id: String,
        /// What is wrong.
        source: CronError,
    },
}

/// An announcement that has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    announcement: Announcement,
    cron: Option<Cron>,
}

/// The grid that histories and horizons lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Length of a step in milliseconds.
    pub step_ms: u64,
    /// When the newest step began.
    pub newest_ms: u64,
}

/// What a job does to one series.
#[derive(Debug, Clone, PartialEq)]
struct Share {
    amount: f64,
    times: f64,
    spread: f64,
    /// How much of what was announced past runs have really added, and how far they differed.
    ratio: f64,
    ratio_spread: f64,
    runs: Vec<(u64, u64)>,
}

/// All that is announced for one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Announced {
    grid: Grid,
    shares: Vec<Share>,
}

impl Job {
    /// Checks an announcement.
    ///
    /// # Errors
    /// [`AnnouncedError`] naming the field.
    pub fn new(announcement: Announcement) -> Result<Self, AnnouncedError> {
        announcement.check()?;
        let cron = match &announcement.when {
            When::At(_) => None,
            When::Cron {
                expression,
                offset_min,
                ..
            } => Some(Cron::parse(expression, *offset_min).map_err(|source| {
                AnnouncedError::Schedule {
                    id: announcement.id.to_string(),
                    source,
                }
            })?),
        };
        Ok(Self { announcement, cron })
    }

    /// What was announced.
    pub const fn announcement(&self) -> &Announcement {
        &self.announcement
    }

    /// Runs that touch `[from, to)`, as spans in milliseconds; runs that overlap are one.
    fn runs(&self, from_ms: u64, to_ms: u64) -> Vec<(u64, u64)> {
        let duration = self.announcement.duration_ms;
        let begin = from_ms.saturating_sub(duration);
        let starts = match (&self.announcement.when, &self.cron) {
            (When::At(at), _) => vec![at.0],
            (When::Cron { until, .. }, Some(cron)) => {
                let end = until.map_or(to_ms, |until| to_ms.min(until.0.saturating_add(1)));
                cron.starts(begin, end)
            }
            (When::Cron { .. }, None) => Vec::new(),
        };
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for start in starts {
            let end = start.saturating_add(duration);
            if start >= to_ms || end <= from_ms {
                continue;
            }
            match runs.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                Some(_) | None => runs.push((start, end)),
            }
        }
        runs
    }
}

impl Announced {
    /// What the jobs that name a series do to it; `None` when none does. Learns from the history
    /// how much past runs really added.
    pub fn new<'a>(
        jobs: impl Iterator<Item = &'a Job>,
        resource: Resource,
        grid: Grid,
        history: &[f32],
        furthest: usize,
    ) -> Option<Self> {
        let back = grid.step_ms.saturating_mul(history.len() as u64);
        let from = grid.newest_ms.saturating_sub(back);
        let ahead = grid.step_ms.saturating_mul(furthest as u64 + 1);
        let to = grid.newest_ms.saturating_add(ahead);
        let mut shares = Vec::new();
        for job in jobs {
            let amount = job.announcement.adds.get(resource).unwrap_or(0.0);
            let times = job.announcement.times.unwrap_or(1.0);
            let runs = job.runs(from, to);
            if runs.is_empty() || (amount <= 0.0 && (times - 1.0).abs() < 1e-12) {
                continue;
            }
            let mut share = Share {
                amount,
                times,
                spread: job.announcement.spread,
                ratio: 1.0,
                ratio_spread: 0.0,
                runs,
            };
            share.learn(grid, history);
            shares.push(share);
        }
        (!shares.is_empty()).then_some(Self { grid, shares })
    }

    /// Takes the runs out of a history, whose last value is the newest step's.
    pub fn strip(&self, history: &mut [f32]) {
        let count = history.len();
        for (place, value) in history.iter_mut().enumerate() {
            if !value.is_finite() {
                continue;
            }
            let Some(begin) = step_begin(self.grid, count, place) else {
                continue;
            };
            let mut left = f64::from(*value);
            for share in &self.shares {
                let covered = share.covered(begin, self.grid.step_ms);
                if covered > 0.0 {
                    left -= share.ratio * share.amount * covered;
                    left /= 1.0 + (share.times - 1.0) * share.ratio * covered;
                }
            }
            #[expect(clippy::cast_possible_truncation, reason = "the model computes in f32")]
            let left = left.max(0.0) as f32;
            *value = if left.is_finite() { left } else { *value };
        }
    }

    /// The curve at a horizon (in steps) with what is announced for it.
    #[must_use]
    pub fn add(&self, curve: &QuantileCurve, steps: usize) -> QuantileCurve {
        let ahead = self.grid.step_ms.saturating_mul(steps as u64);
        let begin = self.grid.newest_ms.saturating_add(ahead);
        let mut curve = *curve;
        for share in &self.shares {
            let covered = share.covered(begin, self.grid.step_ms);
            if covered > 0.0 {
                curve = share.add(&curve, covered);
            }
        }
        curve
    }

    /// Whether anything is announced for a horizon.
    pub fn touches(&self, steps: usize) -> bool {
        let ahead = self.grid.step_ms.saturating_mul(steps as u64);
        let begin = self.grid.newest_ms.saturating_add(ahead);
        let covers = |share: &Share| share.covered(begin, self.grid.step_ms) > 0.0;
        self.shares.iter().any(covers)
    }
}

/// When a place of a history began.
fn step_begin(grid: Grid, count: usize, place: usize) -> Option<u64> {
    let back = (count - 1 - place) as u64;
    grid.newest_ms.checked_sub(back.checked_mul(grid.step_ms)?)
}

impl Share {
    /// The part of a step that runs cover.
    fn covered(&self, begin: u64, step_ms: u64) -> f64 {
        let end = begin.saturating_add(step_ms);
        let from = self.runs.partition_point(|run| run.1 <= begin);
        let within = self.runs[from..].iter().take_while(|run| run.0 < end);
        let covered: u64 = within.map(|run| run.1.min(end) - run.0.max(begin)).sum();
        covered as f64 / step_ms.max(1) as f64
    }

    /// Compares the steps around every beginning in the history.
    fn learn(&mut self, grid: Grid, history: &[f32]) {
        let covered: Vec<f64> = (0..history.len())
            .map(|place| {
                let begin = step_begin(grid, history.len(), place);
                begin.map_or(0.0, |begin| self.covered(begin, grid.step_ms))
            })
            .collect();
        let mut ratios = Vec::new();
        for at in EDGE..history.len().saturating_sub(1) {
            if covered[at - 1] > 0.0 || covered[at] <= 0.0 {
                continue;
            }
            // The first step may be covered in part; the whole ones after it count.
            let first = if covered[at] < 1.0 { at + 1 } else { at };
            let inside = (first..history.len()).take_while(|&i| covered[i] >= 1.0);
            let inside = mean(inside.take(EDGE).map(|i| history[i]));
            let before = mean(
                (at - EDGE..at)
                    .filter(|&i| covered[i] <= 0.0)
                    .map(|i| history[i]),
            );
            if let (Some(inside), Some(before)) = (inside, before) {
                let wanted = self.amount + before * (self.times - 1.0);
                if wanted.abs() > 1e-9 {
                    ratios.push(((inside - before) / wanted).clamp(0.0, 3.0));
                }
            }
        }
        ratios.sort_by(f64::total_cmp);
        let Some(&median) = ratios.get(ratios.len() / 2) else {
            return;
        };
        let count = ratios.len() as f64;
        self.ratio = (count * median + PRIOR_RUNS) / (count + PRIOR_RUNS);
        let far = ratios
            .iter()
            .map(|ratio| (ratio - median).powi(2))
            .sum::<f64>();
        self.ratio_spread = (far / count).sqrt();
        // Runs that were seen say more than what was announced about how sure it is.
        let seen = count / (count + PRIOR_RUNS);
        let (announced, found) = (self.spread.powi(2), self.ratio_spread.powi(2));
        self.spread = (announced * (1.0 - seen) + found * seen).sqrt();
    }

    fn add(&self, curve: &QuantileCurve, covered: f64) -> QuantileCurve {
        let middle = curve.median();
        let factor = 1.0 + (self.times - 1.0) * self.ratio * covered;
        let amount = self.ratio * self.amount * covered;
        let added = (factor - 1.0).abs() * middle + self.amount * covered;
        let deviation = self.spread * added;
        let new_middle = (middle * factor + amount).max(0.0);
        let mut values = *curve.values();
        for (place, value) in values.iter_mut().enumerate() {
            let own = (*value - middle) * factor;
            let more = NORMAL[place] * deviation;
            let sign = if QUANTILE_LEVELS[place] < 0.5 {
                -1.0
            } else {
                1.0
            };
            *value = new_middle + sign * own.hypot(more);
        }
        QuantileCurve::rearranged(values).unwrap_or(*curve)
    }
}

fn mean(values: impl Iterator<Item = f32>) -> Option<f64> {
    let known = values.filter(|value| value.is_finite()).map(f64::from);
    let (total, count) = known.fold((0.0, 0_u32), |(t, c), value| (t + value, c + 1));
    (count > 0).then(|| total / f64::from(count))
}

#[cfg(test)]
mod tests;
