//! One kind of bad request, and the evidence on it.

use domain::Counts;
use serde::{Deserialize, Serialize};

use super::factor::{Margin, Tally};
use super::mixture::{Harm, NoWorse};
use super::yardstick::Width;
use crate::settings::JudgeSettings;

/// Which requests are bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Bad {
    /// Those that failed.
    Failed,
    /// Those that took longer, in microseconds.
    SlowerThan(u64),
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

    fn all(self, counts: &Counts) -> u64 {
        match self {
            Self::Failed => counts.ended(),
            Self::SlowerThan(_) => counts.latency.total(),
        }
    }

    fn bad(self, counts: &Counts) -> u64 {
        match self {
            Self::Failed => counts.error,
            Self::SlowerThan(us) => counts.latency.slower_than(us),
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
        }
    }

    /// The margin within which it must be shown to be before it gets most of the traffic.
    pub(super) fn proof_margin(self, settings: &JudgeSettings) -> Margin {
        let share = match self {
            Self::Failed => settings.prove_error_margin,
            Self::SlowerThan(_) => settings.prove_slow_margin,
        };
        Margin {
            share,
            ..self.harm_margin(settings)
        }
    }
}

/// Evidence of harm on one kind of bad request.
///
/// Beside a live original harm is what is worse than it **and** worse than before the contention:
/// the smaller of two e-processes is one for "no worse than the one or no worse than the other".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stream {
    pub(super) bad: Bad,
    /// Against the live original.
    live: Option<Harm>,
    /// Against the frozen share.
    frozen: Option<Harm>,
    /// Since the stage began.
    pub(super) seen: Tally,
}

impl Stream {
    pub(super) fn new(bad: Bad, width: Width, frozen: bool, horizon: u32) -> Self {
        let live = match width {
            Width::Usual => Some(Harm::new(horizon)),
            Width::Alone => None,
        };
        Self {
            bad,
            live,
            frozen: frozen.then(|| Harm::new(horizon)),
            seen: Tally::default(),
        }
    }

    /// `limit` is the frozen share that is allowed.
    pub(super) fn epoch(&mut self, tally: &Tally, margin: Margin, limit: Option<f64>, cap: f64) {
        self.seen.add(*tally);
        if let Some(live) = &mut self.live {
            live.against_original(tally, margin, cap);
        }
        if let (Some(frozen), Some(limit)) = (&mut self.frozen, limit) {
            frozen.against_limit(tally, limit, cap);
        }
    }

    /// `ln E`; without anything to compare with, that of an e-value that never moves.
    pub(super) fn ln(&self) -> f64 {
        let of = |harm: &Option<Harm>| harm.as_ref().map(Harm::ln);
        match (of(&self.live), of(&self.frozen)) {
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
}

impl Proof {
    pub(super) fn new(bad: Bad) -> Self {
        Self {
            bad,
            evidence: NoWorse::new(),
        }
    }

    pub(super) fn epoch(&mut self, tally: &Tally, margin: Margin, limit: Option<f64>) {
        match limit {
            Some(limit) => self.evidence.against_limit(tally, limit),
            None => self.evidence.against_original(tally, margin),
        }
    }

    pub(super) fn ln(&self) -> f64 {
        self.evidence.ln()
    }
}
