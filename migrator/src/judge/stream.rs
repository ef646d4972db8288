//! One kind of bad request, and the evidence on it.

use domain::Counts;
use serde::{Deserialize, Serialize};

use super::alarm::Alarm;
use super::factor::{Margin, Tally};
use super::mixture::{Exact, Harm, NoWorse, Recent};
use crate::settings::JudgeSettings;

/// Which requests are bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Bad {
    /// Those that failed.
    Failed,
    /// Those that took longer, in microseconds.
    SlowerThan(u64),
    /// Those that took longer than nearly all did, in microseconds.
    Stalled(u64),
}

impl Bad {
    pub(super) fn tally(self, original: &Counts, shadow: &Counts) -> Tally {
        let (all, bad) = (|c| self.all(c), |c| self.bad(c));
        Tally {
            original: all(original),
            original_bad: bad(original),
            shadow: all(shadow),
            shadow_bad: bad(shadow),
        }
    }

    pub(super) fn all(self, counts: &Counts) -> u64 {
        match self {
            Self::Failed => counts.ended(),
            Self::SlowerThan(_) | Self::Stalled(_) => counts.latency.total(),
        }
    }

    pub(super) fn bad(self, counts: &Counts) -> u64 {
        match self {
            Self::Failed => counts.error,
            Self::SlowerThan(us) | Self::Stalled(us) => counts.latency.slower_than(us),
        }
    }

    /// The margin within which the shadow does no harm.
    pub(super) fn harm_margin(self, settings: &JudgeSettings) -> Margin {
        match self {
            Self::Failed => Margin {
                ratio: settings.error_ratio,
                share: settings.error_margin,
            },
            Self::SlowerThan(_) => Margin {
                ratio: settings.slow_ratio,
                share: settings.slow_margin,
            },
            Self::Stalled(_) => Margin {
                ratio: settings.slow_ratio,
                share: settings.stall_margin,
            },
        }
    }

    /// The margin within which it must be shown to be before it gets most of the traffic.
    pub(super) fn proof_margin(self, settings: &JudgeSettings) -> Margin {
        let share = match self {
            Self::Failed => settings.prove_error_margin,
            Self::SlowerThan(_) | Self::Stalled(_) => settings.prove_slow_margin,
        };
        Margin {
            share,
            ..self.harm_margin(settings)
        }
    }

    /// What such requests did.
    pub(super) fn did(self) -> String {
        match self {
            Self::Failed => "failed".to_owned(),
            Self::SlowerThan(us) | Self::Stalled(us) => {
                format!("took longer than {} ms", us as f64 / 1_000.0)
            }
        }
    }
}

/// How many requests' worth what is frozen is in a guess, and how much an epoch leaves of the rest.
const BEFORE: f64 = 300.0;
const KEPT: f64 = 0.9;

/// The original's share of late: a guess that costs growth where it is wrong, never validity.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Guess {
    before: Exact,
    bad: Exact,
    all: Exact,
}

impl Guess {
    pub(super) fn new(share: f64) -> Self {
        Self {
            before: Exact(share),
            bad: Exact(0.0),
            all: Exact(0.0),
        }
    }

    pub(super) fn share(self) -> f64 {
        let share = (self.bad.0 + BEFORE * self.before.0) / (self.all.0 + BEFORE);
        share.clamp(1e-4, 0.999)
    }

    fn add(&mut self, tally: &Tally) {
        self.bad = Exact(self.bad.0 * KEPT + tally.original_bad as f64);
        self.all = Exact(self.all.0 * KEPT + tally.original as f64);
    }
}

/// Evidence of harm on one kind of bad request.
///
/// Harm is what is worse than the live original **and** worse than before the contention: the
/// smaller of two e-processes is one for "no worse than the one, or no worse than the other". A
/// stream without `live` is held against the frozen share alone, one without `frozen` against the
/// original alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stream {
    pub(super) bad: Bad,
    live: Option<Harm>,
    frozen: Option<Harm>,
    pub(super) guess: Guess,
    pub(super) alarm: Alarm,
    /// What the alarm made likely when the open epoch began: a bet must not know its epoch.
    hint: Option<Recent>,
    /// Since the ramp began.
    pub(super) seen: Tally,
}

impl Stream {
    /// `limit` is the frozen share that is allowed, `before` what it was.
    pub(super) fn new(bad: Bad, live: Option<Harm>, limit: Option<f64>, before: f64) -> Self {
        Self {
            bad,
            live,
            frozen: limit.map(|_| Harm::new()),
            guess: Guess::new(before),
            alarm: Alarm::new(),
            hint: None,
            seen: Tally::default(),
        }
    }

    pub(super) fn epoch(&mut self, tally: &Tally, margin: Margin, limit: Option<f64>, cap: f64) {
        self.seen.add(*tally);
        let hint = self.hint.as_ref();
        if let Some(live) = &mut self.live {
            live.against_original(tally, margin, self.guess.share(), cap, hint);
        }
        if let (Some(frozen), Some(limit)) = (&mut self.frozen, limit) {
            frozen.against_limit(tally, limit, cap, hint);
        }
        self.guess.add(tally);
        self.hint = limit.and_then(|limit| self.alarm.likely(limit));
    }

    /// `ln E` against the live original, and against the frozen share.
    pub(super) fn parts(&self) -> (Option<f64>, Option<f64>) {
        let of = |harm: &Option<Harm>| harm.as_ref().map(Harm::ln);
        (of(&self.live), of(&self.frozen))
    }

    /// `ln E`; without anything to compare with, that of an e-value that never moves.
    pub(super) fn ln(&self) -> f64 {
        match self.parts() {
            (Some(live), Some(frozen)) => live.min(frozen),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => 0.0,
        }
    }
}

/// Evidence that the shadow is no worse on one kind of bad request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Proof {
    pub(super) bad: Bad,
    evidence: NoWorse,
    guess: Guess,
}

impl Proof {
    pub(super) fn new(bad: Bad, guess: Guess) -> Self {
        Self {
            bad,
            evidence: NoWorse::new(),
            guess,
        }
    }

    pub(super) fn epoch(&mut self, tally: &Tally, margin: Margin) {
        self.evidence
            .against_original(tally, margin, self.guess.share());
        self.guess.add(tally);
    }

    pub(super) fn ln(&self) -> f64 {
        self.evidence.ln()
    }
}
