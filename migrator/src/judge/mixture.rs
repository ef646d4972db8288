//! Products of factors, mixed over how large the harm is and when it began.
//!
//! A portfolio whose parts sum to 1 and which bets only on what it knew before an epoch is an
//! e-process: each part is multiplied by an e-value or left alone, and moving between parts changes
//! nothing. Its parts are
//!
//! - **whole**: for every size of harm the product since the first epoch;
//! - **late**: for every size `L`, the sum of the products since later starts, `L <- e·(L + h)`; a
//!   start every few epochs for the first few hundred. What is not yet started counts as it is;
//! - **nimble**: one sum that is bet while the epochs before (or an alarm that was raised before)
//!   make harm likely, spread over the sizes as they make them likely, and on nothing otherwise.
//!   Harm that sets in at any time is found as if one had begun to look just then, at the price of
//!   the epochs that raised the suspicion instead of the logarithm of all possible beginnings.

use serde::{Deserialize, Serialize};

use super::factor::{Fixed, Margin, Tally, harm, no_worse};

/// How many times the odds of what is allowed the shadow's may be, and the part each size gets.
pub(super) const SIZES: [(f64, f64); 7] = [
    (1.3, 0.12),
    (1.8, 0.18),
    (3.0, 0.22),
    (6.0, 0.2),
    (15.0, 0.14),
    (50.0, 0.09),
    (300.0, 0.05),
];
const WHOLE: f64 = 0.17;
const LATE: f64 = 0.03;
const NIMBLE: f64 = 0.8;
/// Late starts: one every so many epochs, so many times.
const EVERY: u32 = 8;
const STARTS: u32 = 60;
/// Evidence of the last epochs, in nats, from which on it is bet on.
const URGE: f64 = 3.0;
/// Part of the nimble sum that is never bet, so that no epoch takes all of it.
const KEPT_BACK: f64 = 0.03;
/// More of it is not kept, so that it is over soon after the harm is.
const MOST_RECENT: f64 = 8.0;
/// Odds against harm before anything is seen.
const RARE: f64 = 40.0;
/// Where, between the original's share and what is allowed, the shadow's may be.
const PARTS: [f64; 3] = [-0.5, 0.0, 0.35];

/// A number whose serialised form is its bits, so that it comes back as it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub(super) struct Exact(pub(super) f64);

impl From<u64> for Exact {
    fn from(bits: u64) -> Self {
        Self(f64::from_bits(bits))
    }
}

impl From<Exact> for u64 {
    fn from(number: Exact) -> Self {
        number.0.to_bits()
    }
}

/// `ln(exp(a) + exp(b))`.
pub(super) fn add_ln(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        return high;
    }
    high + (low - high).exp().ln_1p()
}

/// The fixed factors of every size for one limit, so that their logarithms are taken once. A cache:
/// it is not stored, and two of them are always the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ladder {
    limit: f64,
    steps: [Fixed; SIZES.len()],
}

impl Default for Ladder {
    fn default() -> Self {
        Self {
            limit: f64::NAN,
            steps: [Fixed::default(); SIZES.len()],
        }
    }
}

impl PartialEq for Ladder {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Ladder {
    /// The factors for a limit.
    pub(super) fn at(&mut self, limit: f64) -> &[Fixed; SIZES.len()] {
        if self.limit.to_bits() != limit.to_bits() {
            self.limit = limit;
            self.steps = SIZES.map(|(times, _)| Fixed::new(limit, times));
        }
        &self.steps
    }
}

/// What the last epochs say about each size: sums that begin anew at 0. No test, only a hint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Recent([Exact; SIZES.len()]);

impl Recent {
    pub(super) fn new() -> Self {
        Self([Exact(0.0); SIZES.len()])
    }

    pub(super) fn add(&mut self, size: usize, said: f64, most: f64) {
        if let Some(sum) = self.0.get_mut(size) {
            sum.0 = (sum.0 + said).clamp(0.0, most);
        }
    }

    /// What they say for a size.
    pub(super) fn of(&self, size: usize) -> f64 {
        self.0.get(size).map_or(0.0, |sum| sum.0)
    }

    /// The size that they say most for, and how much.
    pub(super) fn leading(&self) -> (usize, f64) {
        let mut best = (0, 0.0);
        for (size, sum) in self.0.iter().enumerate() {
            // Of those that are at the most that is kept, the largest.
            if sum.0 > 0.0 && sum.0 >= best.1 {
                best = (size, sum.0);
            }
        }
        best
    }

    /// The part of a bet that each size gets, and how much is bet: harm is as likely as what was seen
    /// makes it, after odds of one to [`RARE`].
    fn spread(&self) -> ([f64; SIZES.len()], f64) {
        let mut parts = [0.0; SIZES.len()];
        let mut sum = 0.0;
        for ((part, recent), (_, before)) in parts.iter_mut().zip(&self.0).zip(SIZES) {
            *part = before * recent.0.exp();
            sum += *part;
        }
        (parts.map(|part| part / sum), sum / (sum + RARE))
    }
}

/// Evidence of harm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Harm {
    /// `ln A` for every size.
    whole: [Exact; SIZES.len()],
    /// `ln L` for every size.
    late: [Exact; SIZES.len()],
    /// `ln` of the part that is put on one size or on nothing.
    nimble: Exact,
    recent: Recent,
    epochs: u32,
    #[serde(skip)]
    ladder: Ladder,
}

impl Harm {
    pub(super) fn new() -> Self {
        Self {
            whole: SIZES.map(|(_, part)| Exact((WHOLE * part).ln())),
            late: [Exact(f64::NEG_INFINITY); SIZES.len()],
            nimble: Exact(NIMBLE.ln()),
            recent: Recent::new(),
            epochs: 0,
            ladder: Ladder::default(),
        }
    }

    /// One epoch against the original, whose share is guessed. `cap` bounds what it may say for
    /// harm: e-values that are cut down remain e-values, and no burst inside one epoch decides
    /// alone. `alarm` is a size that something known before the epoch makes likely.
    pub(super) fn against_original(
        &mut self,
        tally: &Tally,
        margin: Margin,
        guess: f64,
        cap: f64,
        alarm: Option<&Recent>,
    ) {
        if tally.original == 0 || tally.shadow == 0 {
            return;
        }
        let said = SIZES.map(|(times, _)| harm(tally, margin, guess, times));
        self.push(cap, alarm, said);
    }

    /// One epoch against a frozen share.
    pub(super) fn against_limit(
        &mut self,
        tally: &Tally,
        limit: f64,
        cap: f64,
        alarm: Option<&Recent>,
    ) {
        if tally.shadow > 0 {
            let said = self.ladder.at(limit).map(|factor| factor.ln(tally));
            self.push(cap, alarm, said);
        }
    }

    fn push(&mut self, cap: f64, alarm: Option<&Recent>, all_said: [f64; SIZES.len()]) {
        // Chosen before the epoch is looked at.
        let likely = (self.recent.leading().1 >= URGE).then_some(&self.recent);
        let bet = alarm.or(likely).map(Recent::spread);
        let mut won = 0.0;
        let starts = self.epochs.is_multiple_of(EVERY) && self.epochs / EVERY < STARTS;
        for (size, ((_, part), said)) in SIZES.into_iter().zip(all_said).enumerate() {
            let said = said.min(cap);
            self.whole[size].0 += said;
            let start = if starts {
                (LATE * part / f64::from(STARTS)).ln()
            } else {
                f64::NEG_INFINITY
            };
            self.late[size].0 = add_ln(self.late[size].0, start) + said;
            if let Some((parts, _)) = bet {
                won += parts[size] * said.exp();
            }
            self.recent.add(size, said, MOST_RECENT);
        }
        if let Some((_, share)) = bet {
            let staked = share * (1.0 - KEPT_BACK);
            self.nimble.0 += (1.0 - staked + staked * won).ln();
        }
        self.epochs = self.epochs.saturating_add(1);
    }

    /// `ln E`.
    pub(super) fn ln(&self) -> f64 {
        let unstarted = STARTS.saturating_sub(self.epochs.div_ceil(EVERY));
        let rest = (LATE * f64::from(unstarted) / f64::from(STARTS)).ln();
        let all = || self.whole.iter().chain(&self.late).map(|term| term.0);
        let most = all().fold(self.nimble.0.max(rest), f64::max);
        let part = |ln: f64| (ln - most).exp();
        let sum = all().map(part).sum::<f64>() + part(self.nimble.0) + part(rest);
        most + sum.ln()
    }
}

/// Evidence that the shadow is no worse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NoWorse {
    whole: [Exact; PARTS.len()],
}

impl NoWorse {
    pub(super) fn new() -> Self {
        Self {
            whole: [Exact(-(PARTS.len() as f64).ln()); PARTS.len()],
        }
    }

    pub(super) fn against_original(&mut self, tally: &Tally, margin: Margin, guess: f64) {
        for (whole, part) in self.whole.iter_mut().zip(PARTS) {
            whole.0 += no_worse(tally, margin, guess, part);
        }
    }

    /// `ln E`.
    pub(super) fn ln(&self) -> f64 {
        let all = self.whole.iter();
        all.fold(f64::NEG_INFINITY, |sum, term| add_ln(sum, term.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expectation over every course of epochs with one request on each side.
    #[test]
    fn the_portfolio_expects_at_most_one_after_every_epoch() {
        let margin = Margin {
            ratio: 1.2,
            share: 0.02,
        };
        for (p0, p1) in [(0.3_f64, 0.38_f64), (0.05, 0.08), (0.3, 0.1)] {
            let mut courses = vec![(1.0, Harm::new())];
            for epoch in 0..6 {
                let mut next = Vec::new();
                for (mass, harm) in &courses {
                    for (bad, chance) in [(0, 1.0 - p1), (1, p1)] {
                        for (sick, odds) in [(0, 1.0 - p0), (1, p0)] {
                            let tally = Tally {
                                original: 1,
                                original_bad: sick,
                                shadow: 1,
                                shadow_bad: bad,
                            };
                            let mut harm = harm.clone();
                            let mut recent = Recent::new();
                            recent.add(3, 2.5, 7.0);
                            let alarm = (epoch == 4).then_some(&recent);
                            harm.against_original(&tally, margin, 0.2, 2.0, alarm);
                            next.push((mass * chance * odds, harm));
                        }
                    }
                }
                courses = next;
                let expected: f64 = courses
                    .iter()
                    .map(|(mass, harm)| mass * harm.ln().exp())
                    .sum();
                assert!(expected <= 1.0 + 1e-9, "{expected}");
            }
        }
    }

    #[test]
    fn a_portfolio_begins_whole() {
        assert!(Harm::new().ln().abs() < 1e-9);
        assert!((SIZES.iter().map(|(_, part)| part).sum::<f64>() - 1.0).abs() < 1e-9);
        assert!((WHOLE + LATE + NIMBLE - 1.0).abs() < 1e-9);
    }

    #[test]
    fn numbers_come_back_bit_for_bit() {
        for number in [0.1 + 0.2, -1e-300, f64::NEG_INFINITY, 1.0 / 3.0] {
            let text = serde_json::to_string(&Exact(number)).unwrap();
            let back: Exact = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0.to_bits(), number.to_bits());
        }
    }

    #[test]
    fn harm_that_sets_in_late_is_found_soon_after() {
        let margin = Margin {
            ratio: 1.2,
            share: 0.001,
        };
        let mut harm = Harm::new();
        let tally = |bad| Tally {
            original: 190,
            original_bad: 0,
            shadow: 10,
            shadow_bad: bad,
        };
        for _ in 0..500 {
            harm.against_original(&tally(0), margin, 0.001, 3.0, None);
        }
        let mut epochs = 0;
        while harm.ln() < 100_f64.ln() {
            harm.against_original(&tally(5), margin, 0.001, 3.0, None);
            epochs += 1;
        }
        assert!(epochs <= 4, "{epochs}");
    }
}
