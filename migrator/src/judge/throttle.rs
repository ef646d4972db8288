//! The shadow's weight inside a stage: how much harm may be done before one can react.
//!
//! # Raising
//! ```text
//! weight <= min(stage, 2 × the last, B / (rate · D · U))
//! ```
//! `B` bad requests beyond the original's are accepted per time of reaction `D`; `U` is an upper
//! bound on the shadow's share of failed or stalled requests beyond the original's, over the last
//! minute or so. Without a bad request `U` is about `3 / n`, and the weight grows exponentially
//! with the requests that were answered, as fast on a busy service as on a quiet one; it stops
//! where requests turn out bad. Without a budget the stage's weight is taken at once.
//!
//! # Lowering
//! While an alarm says that the shadow alone is ill, the weight goes to `B / (rate · D · share)` with
//! the share of bad requests since the trouble began, or to a fifth if that is less: the original's
//! requests beside the shadow's are what tells trouble of its own from trouble that both share. So
//! with all traffic on the shadow the original gets its share back before anything is decided, and
//! what is decided costs as much of the budget as it may. Once the alarm is over the weight is
//! raised again, doubling. All of this can be taken back; only the judge rolls back.

use domain::HarmBudget;
use serde::{Deserialize, Serialize};

use super::alarm::Trouble;
use super::ledger::Increment;
use super::mixture::Exact;
use super::state::JudgeState;

/// All traffic, in basis points.
const ALL: u32 = 10_000;
/// Least weight, in basis points: below it nothing would be learnt any more.
const LEAST: u32 = 10;
/// Most weight under an alarm.
const MOST_ALARMED: u32 = 2_000;
/// Part of the budget that is spent under an alarm: the less the shadow has, the more each of its
/// failures says, because what the original would have done is known the better.
const ALARMED: f64 = 0.15;
/// What was seen counts for e times less after this many milliseconds.
const FORGET_MS: f64 = 60_000.0;
/// Logarithm of one over the error that the upper bound is allowed.
const DOUBT: f64 = 3.0;
/// Time between two raises, in milliseconds.
const RAISE_MS: u64 = 1_000;

/// What has been seen of late, forgotten exponentially.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Recently {
    at_ms: u64,
    /// Requests of both sides, and for how long they were counted.
    requests: Exact,
    seconds: Exact,
    /// The shadow's, the failed and the stalled among them.
    shadow: Exact,
    failed: Exact,
    stalled: Exact,
}

/// The weight, and what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Throttle {
    weight: u32,
    raised_ms: u64,
    /// Whether an alarm has lowered it, and it is not back yet.
    lowered: bool,
    recently: Recently,
}

/// Where the weight may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The stage's weight.
    pub(super) stage: u32,
    /// What bounds it, if it is computed.
    pub(super) budget: Option<HarmBudget>,
    /// Whether it may be raised at all now.
    pub(super) may_raise: bool,
    /// Whether the evidence is half of the way to a roll-back.
    pub(super) suspicious: bool,
}

impl Throttle {
    /// `rate` is how many requests a second there have been; 0 if that is not known.
    pub(super) fn new(rate: f64) -> Self {
        let nothing = Exact(0.0);
        Self {
            weight: 0,
            raised_ms: 0,
            lowered: false,
            recently: Recently {
                at_ms: 0,
                requests: Exact(rate),
                seconds: Exact(if rate > 0.0 { 1.0 } else { 0.0 }),
                shadow: nothing,
                failed: nothing,
                stalled: nothing,
            },
        }
    }

    pub(super) const fn weight(&self) -> u32 {
        self.weight
    }

    /// The weight with which a stage begins: that of the stage, unless it is computed.
    pub(super) fn enter(&mut self, stage: u32, budget: Option<HarmBudget>) {
        match budget {
            None if !self.lowered => self.weight = stage,
            // All of the first requests may turn out bad.
            Some(budget) if self.weight == 0 => {
                self.weight = match self.rate() {
                    rate if rate > 0.0 => affordable(budget, rate, 1.0).max(LEAST),
                    _ => LEAST,
                };
            }
            None | Some(_) => {}
        }
        self.weight = self.weight.min(stage);
    }

    pub(super) fn count(&mut self, at_ms: u64, more: &Increment, judge: &JudgeState) {
        let weight = self.weight;
        let recently = &mut self.recently;
        let passed = at_ms.saturating_sub(recently.at_ms) as f64;
        recently.at_ms = recently.at_ms.max(at_ms);
        let kept = (-passed / FORGET_MS).exp();
        let stalled = judge.last_edge().map_or(0, |bad| bad.bad(&more.shadow));
        // What answers copies is not asked beside the original.
        let copied = weight == 0;
        let beside = if copied { 0 } else { more.shadow.ended() };
        let all = more.original.ended().saturating_add(beside);
        for (sum, added) in [
            (&mut recently.requests, all as f64),
            (&mut recently.seconds, passed / 1_000.0),
            (&mut recently.shadow, more.shadow.ended() as f64),
            (&mut recently.failed, more.shadow.error as f64),
            (&mut recently.stalled, stalled as f64),
        ] {
            *sum = Exact(sum.0 * kept + added);
        }
    }

    /// Requests a second, of both sides.
    fn rate(&self) -> f64 {
        self.recently.requests.0 / self.recently.seconds.0.max(1.0)
    }

    /// Upper bound on the shadow's share of bad requests beyond the original's.
    fn excess(&self, judge: &JudgeState) -> f64 {
        let all = self.recently.shadow.0.max(1.0);
        let upper = |bad: f64| (bad + (2.0 * bad * DOUBT).sqrt() + DOUBT) / all;
        let (failed, stalled) = judge.guesses();
        let beyond =
            (upper(self.recently.failed.0) - failed).max(upper(self.recently.stalled.0) - stalled);
        beyond.clamp((DOUBT / all).min(1.0), 1.0)
    }

    /// The next weight.
    pub(super) fn next(&mut self, at_ms: u64, bounds: Bounds, judge: &JudgeState) -> u32 {
        let (trouble, share) = judge.alarm();
        let alarmed = trouble == Trouble::Shadow;
        let mut most = bounds.stage;
        if alarmed {
            let budget = bounds.budget.unwrap_or_default();
            let affordable = affordable(budget, self.rate(), share / ALARMED);
            // One request a second is needed to know when it is over.
            let one = whole(f64::from(ALL) / self.rate().max(1.0));
            most = most.min(affordable.max(one).clamp(LEAST, MOST_ALARMED));
        } else if let Some(budget) = bounds.budget {
            most = most.min(affordable(budget, self.rate(), self.excess(judge)));
        }
        if bounds.suspicious {
            most = most.min(MOST_ALARMED);
        }
        if alarmed && most < self.weight {
            (self.weight, self.lowered, self.raised_ms) = (most, true, at_ms);
            // What was seen before the trouble says nothing about what comes after it.
            let nothing = Exact(0.0);
            (self.recently.shadow, self.recently.failed) = (nothing, nothing);
            self.recently.stalled = nothing;
        }
        let patience = at_ms.saturating_sub(self.raised_ms) >= RAISE_MS;
        if !bounds.may_raise || trouble == Trouble::Shared || !patience || most <= self.weight {
            return self.weight;
        }
        let doubled = self.weight.saturating_mul(2).max(LEAST);
        let at_once = bounds.budget.is_none() && !self.lowered && !alarmed;
        self.weight = if at_once { most } else { doubled.min(most) };
        self.raised_ms = at_ms;
        self.lowered &= self.weight < bounds.stage;
        self.weight
    }
}

/// The weight at which a share of bad requests costs the budget in a time of reaction.
fn affordable(budget: HarmBudget, rate: f64, share: f64) -> u32 {
    let harm = rate * budget.reaction_ms as f64 / 1_000.0 * share;
    let weight = f64::from(ALL) * f64::from(budget.requests) / harm.max(1e-9);
    whole(weight.min(f64::from(ALL)))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 10000"
)]
fn whole(weight: f64) -> u32 {
    weight.max(0.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_begins_with_what_it_can_afford_to_lose() {
        let first = |rate| {
            let mut throttle = Throttle::new(rate);
            throttle.enter(2_000, Some(HarmBudget::default()));
            throttle.weight()
        };
        assert_eq!(first(50.0), 400);
        assert_eq!(first(5_000.0), LEAST);
        assert_eq!(first(0.5), 2_000);
        assert_eq!(first(0.0), LEAST);
    }
}
