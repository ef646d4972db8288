//! The evidence of one stage.

use domain::Counts;
use domain::migration::{JudgeScope, Verdict};
use serde::{Deserialize, Serialize};

use super::Evidence;
use super::ledger::Increment;
use super::mixture::{Exact, add_ln};
use super::stream::{Bad, Proof, Stream};
use super::verdict;
use super::yardstick::{Width, Yardstick};
use crate::settings::JudgeSettings;

/// Parts of the whole that the streams get: failures, slow requests, requests that are far slower
/// than before. A weighted average of e-processes is one.
const FAILED: f64 = 0.35;
const SLOW: f64 = 0.45;
const FAR: f64 = 0.2;
/// Later starts of harm are not looked for one by one: each costs the others evidence.
const MOST_STARTS: u32 = 240;
/// An epoch in which the original is silent is waited with for this many times its length.
const PATIENCE: u64 = 5;

/// What is to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What is looked at.
    pub scope: JudgeScope,
    /// The shadow's weight, in basis points.
    pub shadow_share: u32,
    /// Least time of the stage, in milliseconds.
    pub hold_ms: u64,
    /// How many times the whole ramp is judged: `alpha` is shared among them.
    pub of: usize,
}

/// What was counted before the stage; frozen with its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Past {
    /// The original before the contention.
    pub baseline: Counts,
    /// The original in this migration's earlier stages.
    pub original: Counts,
}

/// The evidence of one stage. It can be put into words (serde) and taken up again bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeState {
    pub(super) task: Task,
    pub(super) width: Width,
    /// This stage's part of alpha.
    pub(super) alpha: Exact,
    past: Past,
    yardstick: Yardstick,
    failed: Stream,
    slow: Vec<Stream>,
    far: Option<Stream>,
    pub(super) proofs: Vec<Proof>,
    began_ms: u64,
    elapsed_ms: u64,
    /// The epoch that is not over.
    open: Sides,
    /// Since the stage began.
    pub(super) seen: Sides,
    /// `ln E` now, and the highest that it was.
    pub(super) ln: Exact,
    pub(super) highest: Exact,
    /// The stream that said most when that was.
    pub(super) words: Option<String>,
    pub(super) trouble: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Sides {
    pub(super) original: Counts,
    pub(super) shadow: Counts,
}

impl Sides {
    fn add(&mut self, more: &Increment) {
        self.original.merge(&more.original);
        self.shadow.merge(&more.shadow);
    }
}

/// Requests that ended, by whichever count knows of more.
fn ended(counts: &Counts) -> u64 {
    counts.ended().max(counts.latency.total())
}

impl JudgeState {
    /// Begins a stage.
    ///
    /// # Errors
    /// The setting that is out of its range, in words.
    pub fn begin(task: Task, past: Past, settings: &JudgeSettings) -> Result<Self, String> {
        settings.validate()?;
        let width = match task.scope {
            JudgeScope::Soak => Width::Alone,
            JudgeScope::Mirror | JudgeScope::Stage { .. } => Width::Usual,
        };
        let mut yardstick = Yardstick::new(&past.baseline, settings);
        if width == Width::Alone {
            yardstick.allow(&past.original);
        }
        let horizon = horizon(&task, settings);
        let frozen = yardstick.errors.is_some() || width == Width::Alone;
        let far = yardstick.far.map(|edge| {
            let bad = Bad::SlowerThan(edge.us);
            Stream::new(bad, Width::Alone, true, horizon)
        });
        let mut state = Self {
            task,
            width,
            alpha: Exact(settings.alpha / task.of.max(1) as f64),
            past,
            failed: Stream::new(Bad::Failed, width, frozen, horizon),
            slow: Vec::new(),
            far,
            proofs: Vec::new(),
            yardstick,
            began_ms: 0,
            elapsed_ms: 0,
            open: Sides::default(),
            seen: Sides::default(),
            ln: Exact(f64::NEG_INFINITY),
            highest: Exact(f64::NEG_INFINITY),
            words: None,
            trouble: None,
        };
        if state.must_prove(settings) {
            state.proofs.push(Proof::new(Bad::Failed));
        }
        state.use_edges(settings);
        Ok(state)
    }

    /// Takes in what was counted since the last call. Only what an epoch holds in all counts, not
    /// in how many pieces it came.
    pub fn feed(&mut self, elapsed_ms: u64, more: &Increment, settings: &JudgeSettings) {
        self.elapsed_ms = self.elapsed_ms.max(elapsed_ms);
        self.trouble.clone_from(&more.trouble);
        self.open.add(more);
        self.seen.add(more);
        let length = self.elapsed_ms.saturating_sub(self.began_ms);
        let both = ended(&self.open.original) > 0
            || self.width == Width::Alone
            || length >= PATIENCE.saturating_mul(settings.epoch_ms);
        if length >= settings.epoch_ms && ended(&self.open.shadow) > 0 && both {
            self.close_epoch(settings);
        }
    }

    /// The verdict, given how old the telemetry is.
    pub fn verdict(&self, age_ms: u64, settings: &JudgeSettings) -> Verdict {
        verdict::of(self, self.elapsed_ms, age_ms, settings)
    }

    /// Always valid: under "no worse" it ever falls to `x` with a probability of at most `x`.
    pub fn p_value(&self) -> f64 {
        (-self.highest.0).exp().min(1.0)
    }

    /// What is shown to people.
    pub fn evidence(&self, age_ms: u64) -> Evidence {
        Evidence {
            scope: self.task.scope,
            hold_ms: self.task.hold_ms,
            elapsed_ms: self.elapsed_ms,
            age_ms,
            original: self.seen.original.clone(),
            shadow: self.seen.shadow.clone(),
            baseline: self.past.baseline.latency.clone(),
            p_value: self.p_value(),
        }
    }

    /// Whether this stage's weight asks for proof, not only for the absence of harm.
    fn must_prove(&self, settings: &JudgeSettings) -> bool {
        self.task.scope != JudgeScope::Mirror && self.task.shadow_share >= settings.prove_from
    }

    fn use_edges(&mut self, settings: &JudgeSettings) {
        let horizon = horizon(&self.task, settings);
        for edge in &self.yardstick.edges {
            let bad = Bad::SlowerThan(edge.us);
            let frozen = edge.before.is_some();
            self.slow
                .push(Stream::new(bad, self.width, frozen, horizon));
        }
        // Proof at the edge that one in ten was slower than, or the nearest there is.
        let edges = &self.yardstick.edges;
        if let Some(edge) = edges.get(1).or_else(|| edges.first())
            && self.must_prove(settings)
            && settings.prove_slow_margin < 1.0
        {
            self.proofs.push(Proof::new(Bad::SlowerThan(edge.us)));
        }
    }

    fn close_epoch(&mut self, settings: &JudgeSettings) {
        let epoch = std::mem::take(&mut self.open);
        self.began_ms = self.elapsed_ms;
        self.weigh(&epoch, settings);
        self.prove(&epoch, settings);
        self.sum_up();
        if self.slow.is_empty() {
            self.yardstick.learn(&self.seen.original.latency);
            self.use_edges(settings);
        }
    }

    fn weigh(&mut self, epoch: &Sides, settings: &JudgeSettings) {
        // Just under half of the way: no two epochs decide alone, however bad.
        let cap = -self.alpha.0.ln() * 0.4999;
        let tally = |bad: Bad| bad.tally(&epoch.original, &epoch.shadow);
        let margin = Bad::Failed.harm_margin(settings);
        let limit = self
            .width
            .error_limit(self.yardstick.errors, margin, settings);
        self.failed.epoch(&tally(Bad::Failed), margin, limit, cap);
        for (stream, edge) in self.slow.iter_mut().zip(&self.yardstick.edges) {
            let margin = stream.bad.harm_margin(settings);
            let limit = edge
                .before
                .and_then(|b| self.width.limit(b, margin, settings));
            stream.epoch(&tally(stream.bad), margin, limit, cap);
        }
        if let (Some(stream), Some(edge)) = (&mut self.far, self.yardstick.far) {
            let margin = super::factor::Margin {
                share: settings.far_share,
                ..stream.bad.harm_margin(settings)
            };
            let limit = edge
                .before
                .and_then(|b| Width::Usual.limit(b, margin, settings));
            stream.epoch(&tally(stream.bad), margin, limit, cap);
        }
    }

    fn prove(&mut self, epoch: &Sides, settings: &JudgeSettings) {
        let (width, yardstick) = (self.width, &self.yardstick);
        self.proofs.retain_mut(|proof| {
            let margin = proof.bad.proof_margin(settings);
            let limit = match (width, proof.bad) {
                (Width::Usual, _) => None,
                (Width::Alone, Bad::Failed) => {
                    let Some(errors) = yardstick.errors else {
                        return false;
                    };
                    width.limit(errors, margin, settings)
                }
                (Width::Alone, Bad::SlowerThan(us)) => yardstick
                    .edges
                    .iter()
                    .find(|edge| edge.us == us)
                    .and_then(|edge| width.limit(edge.before?, margin, settings)),
            };
            if width == Width::Alone && limit.is_none() {
                return false;
            }
            let tally = proof.bad.tally(&epoch.original, &epoch.shadow);
            proof.epoch(&tally, margin, limit);
            true
        });
    }

    fn sum_up(&mut self) {
        let each = SLOW / self.slow.len().max(1) as f64;
        let parts = std::iter::once((FAILED, &self.failed))
            .chain(self.slow.iter().map(|stream| (each, stream)))
            .chain(self.far.iter().map(|stream| (FAR, stream)));
        let mut sum = f64::NEG_INFINITY;
        let mut most: Option<(f64, &Stream)> = None;
        for (part, stream) in parts {
            let ln = part.ln() + stream.ln();
            sum = add_ln(sum, ln);
            if most.is_none_or(|(highest, _)| ln > highest) {
                most = Some((ln, stream));
            }
        }
        self.ln = Exact(sum);
        if sum > self.highest.0 {
            self.highest = Exact(sum);
            let past = &self.past;
            self.words = most.map(|(_, stream)| verdict::words(stream, past, self.width));
        }
    }
}

/// Epochs in which harm may begin.
fn horizon(task: &Task, settings: &JudgeSettings) -> u32 {
    let longest = settings.deadline_ms.max(task.hold_ms);
    let epochs = u32::try_from(longest / settings.epoch_ms.max(1)).unwrap_or(u32::MAX);
    epochs.min(MOST_STARTS)
}
