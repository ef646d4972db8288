//! The evidence of one ramp.

use domain::Counts;
use domain::migration::{JudgeScope, Verdict};
use serde::{Deserialize, Serialize};

use super::alarm::Trouble;
use super::factor::Margin;
use super::ledger::{Increment, Sides};
use super::mixture::{Exact, Harm, add_ln};
use super::stream::{Bad, Proof, Stream};
use super::verdict;
use super::yardstick::{Edge, Yardstick};
use super::{Evidence, Flips};
use crate::settings::JudgeSettings;

/// Parts of the whole that the streams get: failures, slow requests, requests that are far slower
/// than before. A weighted average of e-processes is one.
const FAILED: f64 = 0.75;
const SLOW: f64 = 0.22;
const FAR: f64 = 0.03;
/// An epoch in which the original is silent is waited with for this many times its length.
const PATIENCE: u64 = 5;

/// What is to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What is looked at.
    pub scope: JudgeScope,
    /// The weight of the shadow that the stage leads to, in basis points.
    pub shadow_share: u32,
    /// Least time of the stage, in milliseconds.
    pub hold_ms: u64,
    /// Whether the stage asks for proof that the shadow is no worse, not only for the absence of
    /// harm.
    pub prove: bool,
}

/// What was counted before the ramp; frozen with its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Past {
    /// The original before the contention.
    pub baseline: Counts,
    /// First requests of its sessions, where the service is sticky and data planes count them. If
    /// they do, sessions are the unit of the whole ramp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Counts>,
}

impl Past {
    /// What was counted, in the unit of the ramp.
    pub fn counted(&self) -> &Counts {
        self.sessions.as_ref().unwrap_or(&self.baseline)
    }
}

/// The evidence of one ramp. It can be put into words (serde) and taken up again bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeState {
    pub(super) task: Task,
    pub(super) past: Past,
    yardstick: Yardstick,
    failed: Stream,
    slow: Vec<Stream>,
    far: Option<Stream>,
    pub(super) proofs: Vec<Proof>,
    /// When the open epoch, and the stage, began; time counts from the ramp's beginning.
    epoch_began_ms: u64,
    stage_began_ms: u64,
    now_ms: u64,
    /// The epoch that is not over, and whether something was wrong when it began.
    open: Sides,
    doubtful: bool,
    /// Since the stage began.
    pub(super) seen: Sides,
    /// Since the ramp began.
    pub(super) total: Sides,
    /// `ln E` now, and the highest that it was.
    pub(super) ln: Exact,
    pub(super) highest: Exact,
    /// The stream that said most when that was.
    pub(super) words: Option<String>,
    pub(super) trouble: Option<String>,
    #[serde(default)]
    pub(super) dying: Dying,
}

/// Looks that brought failures of the shadow and nothing else, since the last success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Dying {
    /// Failures.
    pub(super) failed: u64,
    /// When the first and the last of them were told.
    pub(super) since_ms: u64,
    pub(super) last_ms: u64,
    /// The original's requests since then, and the failed ones among them.
    pub(super) original: u64,
    pub(super) original_failed: u64,
}

impl Dying {
    fn look(&mut self, at_ms: u64, more: &Increment) {
        if more.shadow.success > 0 {
            *self = Self::default();
            return;
        }
        if more.shadow.error > 0 {
            if self.failed == 0 {
                self.since_ms = at_ms;
            }
            self.failed = self.failed.saturating_add(more.shadow.error);
            self.last_ms = at_ms;
        }
        if self.failed > 0 {
            let (all, failed) = (more.original.ended(), more.original.error);
            self.original = self.original.saturating_add(all);
            self.original_failed = self.original_failed.saturating_add(failed);
        }
    }
}

/// Requests that ended, by whichever count knows of more.
fn ended(counts: &Counts) -> u64 {
    counts.ended().max(counts.latency.total())
}

impl JudgeState {
    /// Begins a ramp with its first task.
    ///
    /// # Errors
    /// The setting that is out of its range, in words.
    pub fn begin(task: Task, past: Past, settings: &JudgeSettings) -> Result<Self, String> {
        settings.validate()?;
        let yardstick = Yardstick::new(past.counted(), settings);
        let errors = &yardstick.errors;
        let limit = errors.upper.and_then(|_| limit(errors, settings));
        let live = Some(Harm::new());
        let far = yardstick.far.map(|edge| {
            let limit = far_limit(&edge, settings);
            Stream::new(edge.bad, None, limit, edge.before.0)
        });
        let mut state = Self {
            task,
            past,
            failed: Stream::new(Bad::Failed, live, limit, errors.before.0),
            slow: Vec::new(),
            far,
            proofs: Vec::new(),
            yardstick,
            epoch_began_ms: 0,
            stage_began_ms: 0,
            now_ms: 0,
            open: Sides::default(),
            doubtful: false,
            seen: Sides::default(),
            total: Sides::default(),
            ln: Exact(0.0),
            highest: Exact(0.0),
            words: None,
            trouble: None,
            dying: Dying::default(),
        };
        state.use_edges(settings);
        state.ask_for_proof(settings);
        Ok(state)
    }

    /// Goes on to another task. The evidence stays: one product runs over the whole ramp. What a
    /// proof rests on does not: at another weight the shadow does another work.
    pub fn enter(&mut self, task: Task, at_ms: u64, settings: &JudgeSettings) {
        if task == self.task {
            return;
        }
        self.task = task;
        self.now_ms = self.now_ms.max(at_ms);
        self.stage_began_ms = self.now_ms;
        self.seen = Sides::default();
        self.ask_for_proof(settings);
    }

    /// Takes in what was counted since the last call; `at_ms` counts from the ramp's beginning.
    /// Only what an epoch holds in all counts as evidence, not in how many pieces it came.
    pub fn feed(&mut self, at_ms: u64, more: &Increment, settings: &JudgeSettings) {
        self.now_ms = self.now_ms.max(at_ms);
        self.trouble.clone_from(&more.trouble);
        self.seen.add(&more.original, &more.shadow);
        self.total.add(&more.original, &more.shadow);
        if !self.by_session() {
            self.open.add(&more.original, &more.shadow);
        } else if let Some(sessions) = &more.sessions {
            self.open.add(&sessions.original, &sessions.shadow);
        }
        self.look_for_trouble(more, settings);
        self.dying.look(self.now_ms, more);
        let length = self.now_ms.saturating_sub(self.epoch_began_ms);
        let both =
            ended(&self.open.original) > 0 || length >= PATIENCE.saturating_mul(settings.epoch_ms);
        if length >= settings.epoch_ms && ended(&self.open.shadow) > 0 && both {
            self.close_epoch(settings);
        }
    }

    /// The verdict, given how old the telemetry is.
    pub fn verdict(&self, age_ms: u64, settings: &JudgeSettings) -> Verdict {
        verdict::of(self, self.elapsed_ms(), age_ms, settings)
    }

    /// Whether sessions are the unit of what is shown, and not requests. An alarm looks at requests
    /// all the same: it only lowers a weight.
    pub(super) const fn by_session(&self) -> bool {
        self.past.sessions.is_some()
    }

    pub(super) const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// What would change the verdict.
    pub fn flips(&self, settings: &JudgeSettings) -> Flips {
        super::explain::flips(self, settings)
    }

    /// Time since the stage began.
    pub fn elapsed_ms(&self) -> u64 {
        self.now_ms.saturating_sub(self.stage_began_ms)
    }

    /// Always valid: under "no worse" it ever falls to `x` with a probability of at most `x`.
    pub fn p_value(&self) -> f64 {
        (-self.highest.0).exp().min(1.0)
    }

    /// Whether something is wrong just now, and the share of failed or stalled requests since it
    /// began.
    pub fn alarm(&self) -> (Trouble, f64) {
        let streams = std::iter::once(&self.failed).chain(&self.slow);
        let alarms = streams.map(|stream| {
            // Slow answers are answers: they cost no budget.
            let share = match stream.bad {
                Bad::Failed | Bad::Stalled(_) => stream.alarm.share(),
                Bad::SlowerThan(_) => 0.0,
            };
            (stream.alarm.trouble(), share)
        });
        alarms.fold((Trouble::None, 0.0), |worst, next| {
            if next.0 > worst.0 || next.0 == worst.0 && next.1 > worst.1 {
                next
            } else {
                worst
            }
        })
    }

    /// Shares of failed and stalled requests that the original has of late, as far as is known.
    pub(super) fn guesses(&self) -> (f64, f64) {
        let stalled = self.slow.last().map_or(0.0, |s| s.guess.share());
        (self.failed.guess.share(), stalled)
    }

    /// The slowest requests that are looked at.
    pub(super) fn last_edge(&self) -> Option<Bad> {
        self.slow.last().map(|stream| stream.bad)
    }

    /// All streams with the part of the whole that each gets.
    pub(super) fn streams(&self) -> impl Iterator<Item = (f64, &Stream)> {
        let each = SLOW / self.slow.len().max(1) as f64;
        std::iter::once((FAILED, &self.failed))
            .chain(self.slow.iter().map(move |stream| (each, stream)))
            .chain(self.far.iter().map(|stream| (FAR, stream)))
    }

    /// What is shown to people.
    pub fn evidence(&self, age_ms: u64, settings: &JudgeSettings) -> Evidence {
        super::explain::evidence(self, age_ms, settings)
    }

    fn use_edges(&mut self, settings: &JudgeSettings) {
        for edge in &self.yardstick.slow {
            let limit = edge.upper.and_then(|_| limit(edge, settings));
            let live = Some(Harm::new());
            self.slow
                .push(Stream::new(edge.bad, live, limit, edge.before.0));
        }
    }

    fn ask_for_proof(&mut self, settings: &JudgeSettings) {
        self.proofs.clear();
        if !self.task.prove {
            return;
        }
        self.proofs.push(Proof::new(Bad::Failed, self.failed.guess));
        // Proof at the edge that one in ten was slower than, or the nearest there is.
        if let Some(stream) = self.slow.get(1).or_else(|| self.slow.first())
            && settings.prove_slow_margin < 1.0
        {
            self.proofs.push(Proof::new(stream.bad, stream.guess));
        }
    }

    fn look_for_trouble(&mut self, more: &Increment, settings: &JudgeSettings) {
        let all = self
            .total
            .original
            .ended()
            .saturating_add(self.total.shadow.ended());
        let rate = all as f64 * 1_000.0 / self.now_ms.max(1_000) as f64;
        let errors = limit(&self.yardstick.errors, settings);
        let edges = self.yardstick.slow.iter();
        let limits = std::iter::once(errors).chain(edges.map(|edge| limit(edge, settings)));
        let streams = std::iter::once(&mut self.failed).chain(&mut self.slow);
        for (stream, limit) in streams.zip(limits) {
            if let Some(limit) = limit {
                let tally = stream.bad.tally(&more.original, &more.shadow);
                let rate = match stream.bad {
                    Bad::Failed | Bad::Stalled(_) => rate,
                    // They raise few alarms by chance.
                    Bad::SlowerThan(_) => 0.0,
                };
                stream.alarm.look(&tally, limit, rate);
            }
        }
    }

    fn close_epoch(&mut self, settings: &JudgeSettings) {
        let epoch = std::mem::take(&mut self.open);
        self.epoch_began_ms = self.now_ms;
        self.weigh(&epoch, settings);
        // What happens in trouble says nothing about what comes after it.
        let doubtful = self.doubtful;
        self.doubtful = self.alarm().0 != Trouble::None;
        for proof in self.proofs.iter_mut().filter(|_| !doubtful) {
            let tally = proof.bad.tally(&epoch.original, &epoch.shadow);
            proof.epoch(&tally, proof.bad.proof_margin(settings));
        }
        self.sum_up();
        if self.slow.is_empty() {
            self.yardstick.learn(&self.total.original.latency);
            self.use_edges(settings);
            if !self.slow.is_empty() {
                self.ask_for_proof(settings);
            }
        }
    }

    fn weigh(&mut self, epoch: &Sides, settings: &JudgeSettings) {
        // Just under half of the way: no two epochs decide alone, however bad.
        let cap = -settings.alpha.ln() * 0.4999;
        let errors = &self.yardstick.errors;
        let edges = std::iter::once(errors).chain(&self.yardstick.slow);
        let streams = std::iter::once(&mut self.failed).chain(&mut self.slow);
        for (stream, edge) in streams.zip(edges) {
            let tally = stream.bad.tally(&epoch.original, &epoch.shadow);
            let margin = stream.bad.harm_margin(settings);
            stream.epoch(&tally, margin, limit(edge, settings), cap);
        }
        if let (Some(stream), Some(edge)) = (&mut self.far, self.yardstick.far) {
            let tally = stream.bad.tally(&epoch.original, &epoch.shadow);
            let margin = Margin {
                ratio: 1.0,
                share: settings.far_share,
            };
            stream.epoch(&tally, margin, far_limit(&edge, settings), cap);
        }
    }

    fn sum_up(&mut self) {
        let mut sum = f64::NEG_INFINITY;
        let mut most: Option<(f64, &Stream)> = None;
        for (part, stream) in self.streams() {
            let ln = part.ln() + stream.ln();
            sum = add_ln(sum, ln);
            if most.is_none_or(|(highest, _)| ln > highest) {
                most = Some((ln, stream));
            }
        }
        let words = (sum > self.highest.0)
            .then(|| most.map(|(_, stream)| verdict::words(stream, &self.past)));
        self.ln = Exact(sum);
        if let Some(words) = words {
            self.highest = Exact(sum);
            self.words = words;
        }
    }
}

/// The share that is allowed over what was before.
fn limit(edge: &Edge, settings: &JudgeSettings) -> Option<f64> {
    edge.limit(edge.bad.harm_margin(settings).share)
}

fn far_limit(edge: &Edge, settings: &JudgeSettings) -> Option<f64> {
    edge.limit(settings.far_share)
}
