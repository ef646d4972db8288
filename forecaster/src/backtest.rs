//! How well forecasts would have come true: rolling origins over known series, the model beside
//! what anybody could do without one.
//!
//! At every origin the histories up to it are forecast, what earlier origins forecast and has come
//! true by then is learnt from, and, from `score_from` on, what comes true is scored. Nothing is
//! looked at before its time, so the calibration here is the one a running forecaster would have.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use domain::{QUANTILE_LEVELS, QuantileCurve};
use serde::Serialize;

use crate::calibrate::{Calibration, Interval};
use crate::features::{DAY, STEPS};
use crate::model::{Asking, Curves, Model, ModelError};

mod score;

use score::{Score, Tally};

/// A series to test on.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// What it has in common with others: the resource. Weighted losses are averaged over groups.
    pub group: String,
    /// Its values, one a step, `NaN` where nothing is known.
    pub values: Vec<f32>,
    /// Another series of the same instance that shows what its users do; may be empty.
    pub activity: Vec<f32>,
}

/// Where and how to test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The first origin: steps before it are known.
    pub from: usize,
    /// Steps between origins.
    pub stride: usize,
    /// Origins from this one on are scored.
    pub score_from: usize,
    /// Of the origins from there on, every n-th is scored.
    pub score_every: usize,
    /// Origins that are scored, at most.
    pub origins: usize,
    /// Steps ahead, from 1 to this.
    pub ahead: usize,
}

/// The scores of one method over a span of horizons.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The method.
    pub method: String,
    /// Steps ahead: 1 to this.
    pub steps: usize,
    /// Weighted quantile loss over the nine deciles, averaged over groups.
    pub wql: f64,
    /// Geometric mean over series of the decile loss divided by the seasonal naive's.
    pub rel_crps: f64,
    /// Mean absolute error divided by that of the seasonal naive in the history.
    pub mase: f64,
    /// Share of truths inside the 80 % interval.
    pub coverage_80: f64,
    /// Share of truths inside the 95 % interval.
    pub coverage_95: f64,
    /// Share of truths below each quantile: honest ones are the levels themselves.
    pub reliability: Vec<f64>,
    /// Coverage of the 80 % and 95 % interval by group.
    pub groups: BTreeMap<String, [f64; 2]>,
}

/// Names of the methods, in the order of the report.
const METHODS: [&str; 4] = [
    "model",
    "model, calibrated online",
    "last value",
    "seasonal naive",
];

/// Runs a plan. `progress` is told origins done and origins in all.
///
/// # Errors
/// [`ModelError`] when the model fails.
pub fn run(
    subjects: &[Subject],
    plan: &Plan,
    model: &mut Model,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Row>, ModelError> {
    let horizons: Vec<usize> = (1..=plan.ahead.clamp(1, DAY)).collect();
    let longest = subjects.iter().map(|s| s.values.len()).max().unwrap_or(0);
    let last = longest.saturating_sub(horizons.len());
    let origins: Vec<usize> = (plan.from..=last).step_by(plan.stride.max(1)).collect();
    let mut learning = Learning::new(subjects.len());
    let mut tally = Tally::new(subjects, &horizons, METHODS.len());
    let mut scored = 0;
    for (done, &origin) in origins.iter().enumerate() {
        progress(done, origins.len());
        let since = origin.checked_sub(plan.score_from);
        let due =
            since.is_some_and(|s| (s / plan.stride.max(1)).is_multiple_of(plan.score_every.max(1)));
        let score = due && scored < plan.origins;
        if scored >= plan.origins {
            break;
        }
        scored += usize::from(score);
        let mut asking = Asking::default();
        for subject in subjects {
            asking.push(
                until(&subject.values, origin),
                until(&subject.activity, origin),
                None,
            );
        }
        let answers = model.predict_at(&asking, &horizons)?;
        for (place, (subject, answer)) in subjects.iter().zip(answers).enumerate() {
            learning.settle(place, subject, origin);
            let Some(curves) = answer.filter(|_| origin + horizons.len() <= subject.values.len())
            else {
                continue;
            };
            let calibrated = learning.apply(&subject.group, place, &curves);
            if score {
                let history = until(&subject.values, origin);
                let truth = &subject.values[origin..origin + horizons.len()];
                if let Some(peers) = peers(history, horizons.len()) {
                    let [last, seasonal] = peers;
                    let all = [&curves, &calibrated, &last, &seasonal];
                    tally.add(place, history, truth, &all);
                }
            }
            learning.remember(place, origin, &calibrated);
        }
    }
    progress(origins.len(), origins.len());
    Ok(rows(&tally, horizons.len()))
}

fn rows(tally: &Tally<'_>, ahead: usize) -> Vec<Row> {
    let mut spans = vec![12, 72, DAY];
    spans.retain(|&span| span < ahead);
    spans.push(ahead);
    let naive = METHODS.len() - 1;
    let row = |(steps, method): (usize, usize)| {
        let Score {
            wql,
            rel_crps,
            mase,
            coverage_80,
            coverage_95,
            reliability,
            groups,
        } = tally.score(method, naive, steps);
        Row {
            method: METHODS[method].to_owned(),
            steps,
            wql,
            rel_crps,
            mase,
            coverage_80,
            coverage_95,
            reliability,
            groups,
        }
    };
    let pairs = spans
        .into_iter()
        .flat_map(|steps| (0..METHODS.len()).map(move |method| (steps, method)));
    pairs.map(row).collect()
}

/// The newest week of what is known at an origin.
fn until(values: &[f32], origin: usize) -> &[f32] {
    let end = origin.min(values.len());
    &values[end.saturating_sub(STEPS)..end]
}

/// What is learnt on the way, as the running forecaster learns it.
struct Learning {
    groups: BTreeMap<(String, usize), Calibration>,
    /// Per series and horizon.
    series: Vec<Vec<Calibration>>,
    /// Per series: origin, and the intervals forecast there.
    open: Vec<VecDeque<(usize, Vec<Option<Interval>>)>>,
}

impl Learning {
    fn new(count: usize) -> Self {
        Self {
            groups: BTreeMap::new(),
            series: vec![Vec::new(); count],
            open: vec![VecDeque::new(); count],
        }
    }

    /// Learns from what has come true before `origin`.
    fn settle(&mut self, place: usize, subject: &Subject, origin: usize) {
        for (made_at, intervals) in &mut self.open[place] {
            for (step, slot) in intervals.iter_mut().enumerate() {
                if *made_at + step >= origin {
                    break;
                }
                let Some(interval) = slot.take() else {
                    continue;
                };
                let truth = subject.values.get(*made_at + step).copied();
                let truth = f64::from(truth.unwrap_or(f32::NAN));
                self.series[place][step].learn(&interval, truth);
                let key = (subject.group.clone(), step);
                self.groups
                    .entry(key)
                    .or_default()
                    .learn_group(&interval, truth);
            }
        }
        let whole = |(made_at, intervals): &(usize, Vec<_>)| made_at + intervals.len() > origin;
        self.open[place].retain(whole);
    }

    fn apply(&mut self, group: &str, place: usize, curves: &Curves) -> Curves {
        self.series[place].resize(curves.len(), Calibration::default());
        let one = |(step, curve): (usize, &QuantileCurve)| {
            let shared = self.groups.get(&(group.to_owned(), step));
            let shared = shared.copied().unwrap_or_default().widening();
            shared.and(self.series[place][step].widening()).apply(curve)
        };
        curves.iter().enumerate().map(one).collect()
    }

    fn remember(&mut self, place: usize, origin: usize, curves: &Curves) {
        let intervals = curves.iter().map(|curve| Some(Interval::of(curve)));
        self.open[place].push_back((origin, intervals.collect()));
    }
}

/// The last value with the quantiles of its errors, and the value of a day ago with normal ones.
fn peers(history: &[f32], ahead: usize) -> Option<[Curves; 2]> {
    let mut filled: Vec<f64> = Vec::with_capacity(history.len());
    for &value in history {
        let before = filled.last().copied();
        match (value.is_finite(), before) {
            (true, _) => filled.push(f64::from(value)),
            (false, Some(before)) => filled.push(before),
            (false, None) => {}
        }
    }
    let last = *filled.last()?;
    let season = |back: usize| filled.len().checked_sub(back).map(|at| filled[at]);
    let errors: Vec<f64> = (DAY..filled.len())
        .map(|t| filled[t] - filled[t - DAY])
        .collect();
    let spread = errors.iter().map(|e| e * e).sum::<f64>() / errors.len().max(1) as f64;
    let spread = spread.sqrt() + 1e-6;
    let (mut by_last, mut seasonal) = (Vec::new(), Vec::new());
    for steps in 1..=ahead {
        let mut changes: Vec<f64> = (steps..filled.len())
            .map(|t| filled[t] - filled[t - steps])
            .collect();
        changes.sort_by(f64::total_cmp);
        let point = season(DAY + 1 - steps.min(DAY)).unwrap_or(last);
        let at = |level: f64| last + score::quantile(&changes, level);
        by_last.push(QuantileCurve::rearranged(QUANTILE_LEVELS.map(at))?);
        let normal = score::NORMAL.map(|z| point + z * spread);
        seasonal.push(QuantileCurve::rearranged(normal)?);
    }
    Some([by_last, seasonal])
}

#[cfg(test)]
mod tests;
