//! Products of factors, mixed over how large the harm is and when it began.
//!
//! A mixture with weights of sum 1 of e-processes is one. For every size `i` of harm with weight
//! `w` the state is `A`, the product since the first epoch, begun at `w/2`, and `L`, the sum of the
//! products since every later start: `L <- e·(L + h)`, with `h = w/(2·horizon)` for the first
//! `horizon` epochs. The masses add up to 1, and harm that sets in late is found as if one had
//! begun to look then, at the price of `ln(2·horizon)`.

use serde::{Deserialize, Serialize};

use super::factor::{Margin, Tally, fixed, paired, reach};

/// How many times what is allowed the shadow's share may be.
pub(super) const SIZES: [f64; 7] = [1.3, 1.8, 3.0, 6.0, 15.0, 50.0, 300.0];
/// How far below what is allowed it may be: as `-y` of the paired factor, or as odds.
const BELOW: [f64; 5] = [0.1, 0.3, 0.6, 0.9, 0.99];

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

/// Evidence of harm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Harm {
    /// `ln A` for every size.
    whole: Vec<Exact>,
    /// `ln L` for every size.
    late: Vec<Exact>,
    epochs: u32,
    horizon: u32,
}

impl Harm {
    pub(super) fn new(horizon: u32) -> Self {
        let begin = -(2.0 * SIZES.len() as f64).ln();
        Self {
            whole: vec![Exact(begin); SIZES.len()],
            late: vec![Exact(f64::NEG_INFINITY); SIZES.len()],
            epochs: 0,
            horizon: horizon.max(1),
        }
    }

    /// One epoch against the original. `cap` bounds what it may say for harm: e-values that are cut
    /// down remain e-values, and no burst inside one epoch decides alone.
    pub(super) fn against_original(&mut self, tally: &Tally, margin: Margin, cap: f64) {
        self.push(cap, |times| {
            paired(tally, margin, reach(tally, margin, times))
        });
    }

    /// One epoch against a frozen share.
    pub(super) fn against_limit(&mut self, tally: &Tally, limit: f64, cap: f64) {
        self.push(cap, |times| fixed(tally, limit, times));
    }

    fn push(&mut self, cap: f64, factor: impl Fn(f64) -> f64) {
        let start = if self.epochs < self.horizon {
            -(2.0 * SIZES.len() as f64 * f64::from(self.horizon)).ln()
        } else {
            f64::NEG_INFINITY
        };
        for ((whole, late), times) in self.whole.iter_mut().zip(&mut self.late).zip(SIZES) {
            let said = factor(times).min(cap);
            whole.0 += said;
            late.0 = add_ln(late.0, start) + said;
        }
        self.epochs = self.epochs.saturating_add(1);
    }

    /// `ln E`.
    pub(super) fn ln(&self) -> f64 {
        let all = self.whole.iter().chain(&self.late);
        all.fold(f64::NEG_INFINITY, |sum, term| add_ln(sum, term.0))
    }
}

/// Evidence that the shadow is no worse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NoWorse {
    whole: Vec<Exact>,
}

impl NoWorse {
    pub(super) fn new() -> Self {
        Self {
            whole: vec![Exact(-(BELOW.len() as f64).ln()); BELOW.len()],
        }
    }

    pub(super) fn against_original(&mut self, tally: &Tally, margin: Margin) {
        for (whole, below) in self.whole.iter_mut().zip(BELOW) {
            whole.0 += paired(tally, margin, -below);
        }
    }

    pub(super) fn against_limit(&mut self, tally: &Tally, limit: f64) {
        for (whole, below) in self.whole.iter_mut().zip(BELOW) {
            whole.0 += fixed(tally, limit, 1.0 - below);
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

    /// Expectation over every course of five epochs with one request on each side.
    #[test]
    fn the_mixture_over_sizes_and_starts_expects_at_most_one_after_every_epoch() {
        let margin = Margin {
            ratio: 1.2,
            share: 0.02,
        };
        let (p0, p1): (f64, f64) = (0.3, 0.38);
        let mut courses = vec![(1.0, Harm::new(3))];
        for _ in 0..5 {
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
                        harm.against_original(&tally, margin, 2.0);
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
        let mut harm = Harm::new(600);
        let tally = |bad| Tally {
            original: 190,
            original_bad: 0,
            shadow: 10,
            shadow_bad: bad,
        };
        for _ in 0..500 {
            harm.against_original(&tally(0), margin, 3.0);
        }
        let mut epochs = 0;
        while harm.ln() < 100_f64.ln() {
            harm.against_original(&tally(5), margin, 3.0);
            epochs += 1;
        }
        assert!(epochs <= 6, "{epochs}");
    }
}
