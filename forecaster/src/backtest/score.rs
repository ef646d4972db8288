//! Scores, summed up on the way.

use std::collections::BTreeMap;

use domain::QUANTILE_LEVELS;

use super::Subject;
use crate::features::DAY;
use crate::model::Curves;

const LEVELS: usize = QUANTILE_LEVELS.len();
/// The levels 0.1 to 0.9.
const DECILES: std::ops::Range<usize> = 2..11;
/// Quantiles of the normal distribution at the levels.
pub(super) const NORMAL: [f64; LEVELS] = [
    -2.326_348, -1.959_964, -1.281_552, -0.841_621, -0.524_401, -0.253_347, 0.0, 0.253_347,
    0.524_401, 0.841_621, 1.281_552, 1.959_964, 2.326_348,
];

/// Quantile of sorted values, linear between them; 0 of nothing.
pub(super) fn quantile(sorted: &[f64], level: f64) -> f64 {
    let Some(most) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = level * most as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of values"
    )]
    let below = place.floor() as usize;
    let above = (below + 1).min(most);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// Sums of one series, method and step.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    loss: f64,
    error: f64,
    truth: f64,
    count: u32,
    inside: u32,
    inside_outer: u32,
    below: [u32; LEVELS],
}

/// Sums of everything.
pub(super) struct Tally<'a> {
    subjects: &'a [Subject],
    ahead: usize,
    methods: usize,
    /// By series, method, step.
    cells: Vec<Cell>,
    /// Per series: absolute errors of the seasonal naive in the history, and their number.
    naive: Vec<(f64, u32)>,
}

/// The scores of one method.
pub(super) struct Score {
    pub(super) wql: f64,
    pub(super) rel_crps: f64,
    pub(super) mase: f64,
    pub(super) coverage_80: f64,
    pub(super) coverage_95: f64,
    pub(super) reliability: Vec<f64>,
    pub(super) groups: BTreeMap<String, [f64; 2]>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(subjects: &'a [Subject], horizons: &[usize], methods: usize) -> Self {
        Self {
            subjects,
            ahead: horizons.len(),
            methods,
            cells: vec![Cell::default(); subjects.len() * methods * horizons.len()],
            naive: vec![(0.0, 0); subjects.len()],
        }
    }

    /// Scores what every method forecast for a series.
    pub(super) fn add(
        &mut self,
        place: usize,
        history: &[f32],
        truth: &[f32],
        methods: &[&Curves],
    ) {
        for at in DAY..history.len() {
            let error = f64::from((history[at] - history[at - DAY]).abs());
            if error.is_finite() {
                self.naive[place].0 += error;
                self.naive[place].1 += 1;
            }
        }
        for (method, curves) in methods.iter().enumerate() {
            let begin = (place * self.methods + method) * self.ahead;
            let cells = &mut self.cells[begin..begin + self.ahead];
            for ((cell, curve), &truth) in cells.iter_mut().zip(curves.iter()).zip(truth) {
                if truth.is_finite() {
                    cell.add(curve.values(), f64::from(truth));
                }
            }
        }
    }

    fn cells(&self, place: usize, method: usize, steps: usize) -> &[Cell] {
        let begin = (place * self.methods + method) * self.ahead;
        &self.cells[begin..begin + steps.min(self.ahead)]
    }

    pub(super) fn score(&self, method: usize, naive: usize, steps: usize) -> Score {
        let mut groups: BTreeMap<&str, Cell> = BTreeMap::new();
        let mut all = Cell::default();
        let (mut logs, mut mase) = (Vec::new(), Vec::new());
        for (place, subject) in self.subjects.iter().enumerate() {
            let mine = Cell::sum(self.cells(place, method, steps));
            let theirs = Cell::sum(self.cells(place, naive, steps));
            groups.entry(&subject.group).or_default().take(&mine);
            all.take(&mine);
            if mine.count > 0 && theirs.loss > 1e-9 * f64::from(theirs.count) {
                logs.push((mine.loss / theirs.loss).max(1e-3).ln());
            }
            let (errors, count) = self.naive[place];
            let usual = errors / f64::from(count.max(1));
            if mine.count > 0 && usual > 1e-9 {
                mase.push(mine.error / f64::from(mine.count) / usual);
            }
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let wql: Vec<_> = groups
            .values()
            .map(|cell| cell.loss / (cell.truth + 1e-9))
            .collect();
        let share = |part: u32, cell: &Cell| f64::from(part) / f64::from(cell.count.max(1));
        let coverage = |cell: &Cell| [share(cell.inside, cell), share(cell.inside_outer, cell)];
        let [coverage_80, coverage_95] = coverage(&all);
        Score {
            wql: mean(&wql),
            rel_crps: mean(&logs).exp(),
            mase: mean(&mase),
            coverage_80,
            coverage_95,
            reliability: all.below.iter().map(|&below| share(below, &all)).collect(),
            groups: groups
                .iter()
                .map(|(name, cell)| ((*name).to_owned(), coverage(cell)))
                .collect(),
        }
    }
}

impl Cell {
    fn add(&mut self, values: &[f64; LEVELS], truth: f64) {
        // What is equal in the histories' precision is equal.
        let slack = 1e-6 * (1e-3 + truth.abs());
        let loss: f64 = DECILES
            .map(|place| {
                let error = truth - values[place];
                let level = QUANTILE_LEVELS[place];
                2.0 * (level * error).max((level - 1.0) * error)
            })
            .sum();
        self.loss += loss / DECILES.len() as f64;
        self.error += (truth - values[LEVELS / 2]).abs();
        self.truth += truth.abs();
        self.count += 1;
        let within =
            |low: usize, high: usize| truth >= values[low] - slack && truth <= values[high] + slack;
        self.inside += u32::from(within(2, 10));
        self.inside_outer += u32::from(within(1, 11));
        for (below, value) in self.below.iter_mut().zip(values) {
            *below += u32::from(truth <= *value + slack);
        }
    }

    fn take(&mut self, other: &Self) {
        self.loss += other.loss;
        self.error += other.error;
        self.truth += other.truth;
        self.count += other.count;
        self.inside += other.inside;
        self.inside_outer += other.inside_outer;
        for (mine, theirs) in self.below.iter_mut().zip(other.below) {
            *mine += theirs;
        }
    }

    fn sum(cells: &[Self]) -> Self {
        let mut sum = Self::default();
        for cell in cells {
            sum.take(cell);
        }
        sum
    }
}
