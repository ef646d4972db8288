//! A new version beside the one in use, on live data, until it is known which is better.
//!
//! # Theory
//! Both forecast the same series at the same times. When the truth has come, each pair of curves is
//! scored by the quantile loss `l` over all levels, and `(l_new - l_old) / (l_new + l_old)` is kept:
//! between -1 and 1, whatever the series' unit and size. Truths of the same hour hang together, so
//! they are one block; blocks are taken for independent. The version is used if, and only if, the
//! upper bound of the blocks' mean lies below [`Settings::margin`] and its 80 % intervals cover
//! about as well. It is looked at twice, after [`Settings::blocks`] and after three times as many,
//! with half of the error for each look; after the second it is refused.
//!
//! # Caveats
//! Compared is what the models say, before the online calibration, which learns about the one in
//! use only. Series with announced load count for both as they are.

use std::collections::BTreeMap;

use domain::{QUANTILE_LEVELS, QuantileCurve};
use serde::{Deserialize, Serialize};

use crate::book::SeriesKey;

/// Horizons that are compared, in steps, where both versions have them.
pub(crate) const HORIZONS: [usize; 3] = [1, 12, 72];
/// Most pairs of curves that wait for their truth.
const MAX_WAITING: usize = 100_000;
/// The normal distribution's quantile for one of two looks at 5 % in all.
const Z: f64 = 1.96;
/// How much further from 80 % its coverage may be.
const COVERAGE: f64 = 0.02;
/// Share of series that it may have no answer to although the one in use has.
const SILENT: f64 = 0.01;

/// How a version is tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Steps in a block.
    pub block: u64,
    /// Blocks until the first look.
    pub blocks: u64,
    /// What counts as "not worse": the mean of the scores above.
    pub margin: f64,
}

impl Default for Settings {
    /// An hour, a day of them, and a loss that is one per cent greater.
    fn default() -> Self {
        Self {
            block: 12,
            blocks: 24,
            margin: 0.005,
        }
    }
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not known yet.
    Running,
    /// It is not worse, and is used.
    Promoted,
    /// It is not used: why.
    Refused(String),
}

/// How a trial stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version that is tried.
    pub version: String,
    /// The version in use.
    pub against: String,
    /// Blocks of truths.
    pub blocks: u64,
    /// Truths.
    pub truths: u64,
    /// Mean of the scores: below 0 it is better.
    pub mean: f64,
    /// What the mean is at most, with 97.5 % confidence; nothing while there are too few blocks.
    pub at_most: Option<f64>,
    /// Share of truths inside its 80 % intervals, and inside those of the one in use.
    pub coverage: [f64; 2],
    /// What came of it.
    pub verdict: Verdict,
}

/// Curves that wait for their truth.
#[derive(Debug)]
struct Waiting {
    key: SeriesKey,
    new: QuantileCurve,
    old: QuantileCurve,
}

/// A block that is being filled.
#[derive(Debug, Default)]
struct Block {
    number: u64,
    total: f64,
    count: u64,
}

/// A running trial.
#[derive(Debug)]
pub(crate) struct Trial {
    settings: Settings,
    version: String,
    against: String,
    waiting: BTreeMap<u64, Vec<Waiting>>,
    waits: usize,
    block: Block,
    blocks: u64,
    mean: f64,
    squares: f64,
    truths: u64,
    inside: [u64; 2],
    asked: u64,
    silent: u64,
    verdict: Verdict,
}

impl Trial {
    pub(crate) fn new(settings: Settings, version: String, against: String) -> Self {
        Self {
            settings,
            version,
            against,
            waiting: BTreeMap::new(),
            waits: 0,
            block: Block::default(),
            blocks: 0,
            mean: 0.0,
            squares: 0.0,
            truths: 0,
            inside: [0; 2],
            asked: 0,
            silent: 0,
            verdict: Verdict::Running,
        }
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn against(&self) -> &str {
        &self.against
    }

    /// Remembers what both said of a series whose truth comes at `step`; nothing of the new one
    /// when it had no answer.
    pub(crate) fn note(
        &mut self,
        key: &SeriesKey,
        step: u64,
        new: Option<&QuantileCurve>,
        old: &QuantileCurve,
    ) {
        self.asked += 1;
        let Some(new) = new else {
            self.silent += 1;
            return;
        };
        if self.waits < MAX_WAITING {
            self.waits += 1;
            let waiting = self.waiting.entry(step).or_default();
            waiting.push(Waiting {
                key: key.clone(),
                new: *new,
                old: *old,
            });
        }
    }

    /// Compares with what has come. `newest` is the newest step that is complete; a truth that is
    /// not known says nothing.
    pub(crate) fn settle(&mut self, newest: u64, truth: impl Fn(&SeriesKey, u64) -> Option<f64>) {
        while let Some(entry) = self.waiting.first_entry() {
            if *entry.key() > newest {
                break;
            }
            let (step, waiting) = entry.remove_entry();
            self.waits -= waiting.len();
            let number = step / self.settings.block.max(1);
            if number != self.block.number {
                self.close(number);
            }
            for one in waiting {
                if let Some(value) = truth(&one.key, step) {
                    self.score(&one, value);
                }
            }
        }
    }

    fn score(&mut self, one: &Waiting, truth: f64) {
        let losses = [loss(&one.new, truth), loss(&one.old, truth)];
        let total = losses[0] + losses[1];
        // Both were certain, and right.
        let score = if total > 0.0 {
            (losses[0] - losses[1]) / total
        } else {
            0.0
        };
        self.truths += 1;
        self.block.total += score;
        self.block.count += 1;
        for (inside, curve) in self.inside.iter_mut().zip([&one.new, &one.old]) {
            if (curve.at(0.1)..=curve.at(0.9)).contains(&truth) {
                *inside += 1;
            }
        }
    }

    fn close(&mut self, next: u64) {
        let block = std::mem::take(&mut self.block);
        self.block.number = next;
        if block.count == 0 {
            return;
        }
        let value = block.total / block.count as f64;
        self.blocks += 1;
        let before = value - self.mean;
        self.mean += before / self.blocks as f64;
        self.squares += before * (value - self.mean);
        if self.verdict == Verdict::Running {
            let last = self.settings.blocks.saturating_mul(3);
            if self.blocks == self.settings.blocks || self.blocks == last {
                self.look(self.blocks == last);
            }
        }
    }

    fn look(&mut self, last: bool) {
        let report = self.report();
        let silent = self.silent as f64 > SILENT * self.asked as f64;
        let far = |coverage: f64| (coverage - 0.8).abs();
        let reason = if silent {
            format!("no answer to {} of {} series", self.silent, self.asked)
        } else if far(report.coverage[0]) > far(report.coverage[1]) + COVERAGE {
            format!(
                "its 80 % intervals cover {:.3}, those in use {:.3}",
                report.coverage[0], report.coverage[1]
            )
        } else if report
            .at_most
            .is_none_or(|most| most > self.settings.margin)
        {
            format!(
                "its losses may be greater: mean score {:.4}, at most {:.4}; allowed is {}",
                report.mean,
                report.at_most.unwrap_or(1.0),
                self.settings.margin
            )
        } else {
            self.verdict = Verdict::Promoted;
            return;
        };
        if last {
            self.verdict = Verdict::Refused(reason);
        }
    }

    /// It failed.
    pub(crate) fn refuse(&mut self, reason: String) {
        self.verdict = Verdict::Refused(reason);
    }

    /// How it stands.
    pub(crate) fn report(&self) -> Report {
        let count = self.blocks as f64;
        let at_most = (self.blocks > 1).then(|| {
            let variance = self.squares / (count - 1.0);
            self.mean + Z * (variance / count).sqrt()
        });
        let share = |inside: u64| inside as f64 / self.truths.max(1) as f64;
        Report {
            version: self.version.clone(),
            against: self.against.clone(),
            blocks: self.blocks,
            truths: self.truths,
            mean: self.mean,
            at_most,
            coverage: self.inside.map(share),
            verdict: self.verdict.clone(),
        }
    }
}

/// Quantile loss over all levels.
fn loss(curve: &QuantileCurve, truth: f64) -> f64 {
    let levels = QUANTILE_LEVELS.iter().zip(curve.values());
    let one = |(level, value): (&f64, &f64)| {
        let above = truth - value;
        (level * above).max((level - 1.0) * above)
    };
    levels.map(one).sum()
}

#[cfg(test)]
mod tests;
