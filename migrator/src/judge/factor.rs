//! What one epoch says for or against one claim, as the logarithm of an e-value.
//!
//! An e-value is a number of at least 0 whose expectation is at most 1 while the claim (the null)
//! holds. Independent epochs multiply, and by Ville's inequality the product ever reaches 1/alpha
//! with a probability of at most alpha: one may look as often as one likes.
//!
//! **Against the original** ([`harm`], [`no_worse`]). `n1` requests of the shadow, `k1` of them
//! bad, `n0` and `k0` the same of the original; `p1`, `p0` the unknown shares, and `p0` may be
//! another in every epoch. With a ratio `c >= 1` and a margin `d >= 0` the claim is about the line
//! `p1 = c·p0 + d`. For any `z1 > -1` and `z0 > -1` let
//!
//! ```text
//! e = (1+z1)^k1 · (1+z0)^k0 / C,   C = max over p of (1 + (c·p+d)·z1)^n1 · (1 + p·z0)^n0
//! ```
//!
//! with `p` from 0 to where the line reaches 1. A binomial count has E[(1+z)^k] = (1+p·z)^n, so on
//! the line E[e] is at most 1 by the choice of `C`. For `z1 > 0` it falls with `p1`: the null is
//! `p1 <= c·p0 + d`, and `e` is evidence of **harm**. That null holds all of
//! `p1 <= max(c·p0, p0 + d)`, so that one factor keeps the relative and the absolute margin. (Above
//! where the line reaches 1, `z0 < 0` makes it smaller still.) For `z1 < 0` the null is
//! `p1 >= c·p0 + d`, and `e` is evidence that the shadow is **no worse**.
//!
//! `ln C` is the maximum of a concave function of `p`; where its derivative is 0,
//!
//! ```text
//! p* = -(n1·c·z1 + n0·z0·(1 + d·z1)) / (c·z1·z0·(n0 + n1))
//! ```
//!
//! *Which `z`*: if the shares were `a0` and `a1`, growth is fastest for the likelihood ratio
//! against the point `(q0, c·q0 + d)` of the line that is nearest to them in relative entropy,
//! `z = (a - q) / (q·(1 - a))` on each side. `q0` is where
//! `n1·c·(a1-q1)/(q1·(1-q1)) + n0·(a0-q0)/(q0·(1-q0)) = 0`; then `p* = q0` and `C` is the maximum
//! itself. `q0` is found by a few steps, and as `C` is computed from the `z` that came out, a `q0` that
//! is a little off costs a little growth and never validity. `a0` is a guess from earlier epochs.
//!
//! **Against a frozen share** ([`Fixed`]). `q` was fixed before the first look; with `r > q`
//!
//! ```text
//! e(r) = (r/q)^k1 · ((1-r)/(1-q))^(n1-k1),   E[e(r)] = (p1·r/q + (1-p1)·(1-r)/(1-q))^n1
//! ```
//!
//! The base is linear in `p1`, is 1 at `p1 = q`, and rises for `r > q`: the null is `p1 <= q`. A
//! beta prior on `r` that reaches below `q` would break it, so mixtures are over fixed points.

use serde::{Deserialize, Serialize};

/// Requests of an epoch, all and bad, of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) original: u64,
    pub(super) original_bad: u64,
    pub(super) shadow: u64,
    pub(super) shadow_bad: u64,
}

impl Tally {
    pub(super) fn add(&mut self, more: Self) {
        self.original = self.original.saturating_add(more.original);
        self.original_bad = self.original_bad.saturating_add(more.original_bad);
        self.shadow = self.shadow.saturating_add(more.shadow);
        self.shadow_bad = self.shadow_bad.saturating_add(more.shadow_bad);
    }

    /// The original in the shadow's place, to be held against what is frozen.
    pub(super) const fn of_original(self) -> Self {
        Self {
            shadow: self.original,
            shadow_bad: self.original_bad,
            ..self
        }
    }
}

/// How much worse the shadow may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Margin {
    /// Times the original's share …
    pub(super) ratio: f64,
    /// … and this share on top.
    pub(super) share: f64,
}

impl Margin {
    pub(super) fn over(self, share: f64) -> f64 {
        self.ratio * share + self.share
    }
}

/// Shares nearer to none or all than this cannot be told from them.
const LEAST: f64 = 1e-6;
/// Most steps in the search for the nearest point, by Newton's method where that stays inside, and
/// when it is near enough.
const STEPS: u32 = 25;
const NEAR: f64 = 1e-7;

/// A share with `times` the odds of another.
pub(super) fn raised(share: f64, times: f64) -> f64 {
    let odds = times * share / (1.0 - share);
    odds / (1.0 + odds)
}

/// `ln e` for harm: grows if the original's share is near `guess` and the shadow's has `times` the
/// odds of what is allowed then. One side silent says nothing.
pub(super) fn harm(tally: &Tally, margin: Margin, guess: f64, times: f64) -> f64 {
    let guess = guess.clamp(LEAST, 1.0 - LEAST);
    let limit = margin.over(guess);
    if limit >= 1.0 - LEAST {
        return 0.0;
    }
    against(tally, margin, guess, raised(limit, times))
}

/// `ln e` for no worse: grows if the original's share is near `guess` and the shadow's this `part`
/// of the way from there to what is allowed; below 0 it is better.
pub(super) fn no_worse(tally: &Tally, margin: Margin, guess: f64, part: f64) -> f64 {
    let guess = guess.clamp(LEAST, 1.0 - LEAST);
    let thought = guess * (1.0 + part.min(0.0)) + part.max(0.0) * (margin.over(guess) - guess);
    against(tally, margin, guess, thought)
}

fn against(tally: &Tally, margin: Margin, a0: f64, a1: f64) -> f64 {
    if tally.original == 0 || tally.shadow == 0 {
        return 0.0;
    }
    let a1 = a1.clamp(LEAST, 1.0 - LEAST);
    let (n0, n1) = (tally.original as f64, tally.shadow as f64);
    let (q0, q1) = nearest((n0, n1), margin, (a0, a1));
    if !(q0 > 0.0 && q1 > 0.0 && q1 < 1.0) {
        return 0.0;
    }
    let (z0, z1) = ((a0 - q0) / (q0 * (1.0 - a0)), (a1 - q1) / (q1 * (1.0 - a1)));
    let ceiling = ceiling((n0, n1), margin, (z0, z1));
    let ln =
        tally.shadow_bad as f64 * z1.ln_1p() + tally.original_bad as f64 * z0.ln_1p() - ceiling;
    if ln.is_nan() { 0.0 } else { ln }
}

/// The point of the line that is nearest to `a`.
fn nearest((n0, n1): (f64, f64), margin: Margin, (a0, a1): (f64, f64)) -> (f64, f64) {
    let on_line = (a1 - margin.share) / margin.ratio;
    let (mut low, mut high) = if on_line > a0 {
        (a0, on_line)
    } else {
        (on_line.max(0.0), a0)
    };
    // Exact where shares are small and the margin is a ratio alone.
    let first = (n1 * (a1 - margin.share) + n0 * a0) / (n1 * margin.ratio + n0);
    let mut q0 = if first > low && first < high {
        first
    } else {
        f64::midpoint(low, high)
    };
    for _ in 0..STEPS {
        let (pull1, bend1) = pull(a1, margin.over(q0));
        let (pull0, bend0) = pull(a0, q0);
        let slope = n1 * margin.ratio * pull1 + n0 * pull0;
        if slope > 0.0 {
            low = q0;
        } else {
            high = q0;
        }
        let next = q0 - slope / (n1 * margin.ratio * margin.ratio * bend1 + n0 * bend0);
        let next = if next > low && next < high {
            next
        } else {
            f64::midpoint(low, high)
        };
        let moved = (next - q0).abs();
        q0 = next;
        if moved <= NEAR * q0 {
            break;
        }
    }
    (q0, margin.over(q0))
}

/// How hard a share `a` pulls at `q`, and how that changes with `q`.
fn pull(a: f64, q: f64) -> (f64, f64) {
    let spread = q * (1.0 - q);
    let pull = (a - q) / spread;
    (pull, -(1.0 + pull * (1.0 - 2.0 * q)) / spread)
}

/// `ln C`.
fn ceiling((n0, n1): (f64, f64), margin: Margin, (z0, z1): (f64, f64)) -> f64 {
    let top = ((1.0 - margin.share) / margin.ratio).max(0.0);
    let bend = margin.ratio * z1 * z0 * (n0 + n1);
    let free = -(n1 * margin.ratio * z1 + n0 * z0 * (1.0 + margin.share * z1)) / bend;
    let value = |p: f64| n1 * (margin.over(p) * z1).ln_1p() + n0 * (p * z0).ln_1p();
    if free.is_finite() {
        value(free.clamp(0.0, top))
    } else {
        // One of the two is flat: the maximum is at an end.
        value(0.0).max(value(top))
    }
}

/// [The fixed factor](self) `e(r)`: what a bad request says, and what a good one, in nats.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fixed {
    bad: f64,
    good: f64,
}

impl Fixed {
    /// `r` has `times` the odds of `limit`.
    pub(super) fn new(limit: f64, times: f64) -> Self {
        let share = raised(limit, times);
        Self {
            bad: (share / limit).ln(),
            good: ((1.0 - share) / (1.0 - limit)).ln(),
        }
    }

    /// `ln e(r)`.
    pub(super) fn ln(self, tally: &Tally) -> f64 {
        let good = tally.shadow.saturating_sub(tally.shadow_bad) as f64;
        tally.shadow_bad as f64 * self.bad + good * self.good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binomial(n: u64, p: f64) -> Vec<f64> {
        let mut mass = vec![1.0];
        for _ in 0..n {
            let mut next = vec![0.0; mass.len() + 1];
            for (k, m) in mass.iter().enumerate() {
                next[k] += m * (1.0 - p);
                next[k + 1] += m * p;
            }
            mass = next;
        }
        mass
    }

    /// The exact expectation of a factor over both sides' counts.
    fn expectation(n: (u64, u64), p: (f64, f64), factor: impl Fn(&Tally) -> f64) -> f64 {
        let (originals, shadows) = (binomial(n.0, p.0), binomial(n.1, p.1));
        let mut sum = 0.0;
        for (k0, m0) in (0..).zip(&originals) {
            for (k1, m1) in (0..).zip(&shadows) {
                let tally = Tally {
                    original: n.0,
                    original_bad: k0,
                    shadow: n.1,
                    shadow_bad: k1,
                };
                sum += m0 * m1 * factor(&tally).exp();
            }
        }
        sum
    }

    #[test]
    fn the_nearest_point_is_where_nothing_pulls() {
        let mut steps = 0;
        for margin in MARGINS {
            for n1 in [0.01, 1.0, 50.0, 4_000.0] {
                for a0 in [1e-4, 0.001, 0.1, 0.6] {
                    for times in [0.3, 1.3, 6.0, 300.0] {
                        let a1 = raised(margin.over(a0).min(0.9), times);
                        let (q0, q1) = nearest((10.0, n1), margin, (a0, a1));
                        let on_line = ((a1 - margin.share) / margin.ratio).max(0.0);
                        let width = (on_line - a0).abs();
                        let slope = |q0: f64| {
                            n1 * margin.ratio * pull(a1, margin.over(q0)).0 + 10.0 * pull(a0, q0).0
                        };
                        let near = 1e-5 * width.min(q0);
                        let found = slope(q0 - near) >= 0.0 && slope(q0 + near) <= 0.0;
                        assert!(found, "{margin:?} {n1} {a0} {times}: {q0} {q1}");
                        steps += 1;
                    }
                }
            }
        }
        assert_eq!(steps, 256);
    }

    const SIZES: [(u64, u64); 7] = [(1, 1), (19, 1), (2, 9), (12, 12), (40, 3), (0, 5), (5, 0)];
    const SHARES: [f64; 6] = [0.0, 0.001, 0.02, 0.2, 0.6, 1.0];
    const MARGINS: [Margin; 4] = [
        Margin {
            ratio: 1.0,
            share: 0.0,
        },
        Margin {
            ratio: 1.2,
            share: 0.0,
        },
        Margin {
            ratio: 1.0,
            share: 0.05,
        },
        Margin {
            ratio: 1.5,
            share: 0.01,
        },
    ];
    const EPS: f64 = 1e-9;

    /// Calls with every size, margin, share of the original, and guess of it.
    fn grid(mut visit: impl FnMut((u64, u64), Margin, f64, f64)) {
        for n in SIZES {
            for margin in MARGINS {
                for p0 in SHARES {
                    for guess in [0.0, 0.0005, 0.1, 0.7] {
                        visit(n, margin, p0, guess);
                    }
                }
            }
        }
    }

    #[test]
    fn no_factor_for_harm_expects_more_than_one_from_a_shadow_within_its_margins() {
        grid(|n, margin, p0, guess| {
            let edge = margin.over(p0).min(1.0);
            for p1 in [edge, edge * 0.9, 0.0] {
                for times in [1.1, 1.8, 6.0, 300.0] {
                    let factor = |t: &Tally| harm(t, margin, guess, times);
                    let capped = |t: &Tally| factor(t).min(1.5);
                    let (whole, cut) = (
                        expectation(n, (p0, p1), factor),
                        expectation(n, (p0, p1), capped),
                    );
                    assert!(
                        whole <= 1.0 + EPS,
                        "{whole}: {n:?} {margin:?} {p0} {p1} {guess} {times}"
                    );
                    assert!(cut <= 1.0 + EPS, "{cut}");
                }
            }
        });
    }

    #[test]
    fn no_factor_for_no_worse_expects_more_than_one_from_a_shadow_beyond_its_margins() {
        grid(|n, margin, p0, guess| {
            let edge = margin.over(p0);
            if edge > 1.0 {
                return;
            }
            for p1 in [edge, f64::midpoint(edge, 1.0), 1.0] {
                for part in [-0.5, 0.0, 0.4] {
                    let e = expectation(n, (p0, p1), |t| no_worse(t, margin, guess, part));
                    assert!(
                        e <= 1.0 + EPS,
                        "{e}: {n:?} {margin:?} {p0} {p1} {guess} {part}"
                    );
                }
            }
        });
    }

    #[test]
    fn no_factor_against_a_frozen_share_expects_more_than_one_on_its_own_side() {
        for limit in [0.001, 0.05, 0.5, 0.95] {
            for n in [1, 7, 60] {
                for part in [0.0, 0.5, 1.0] {
                    let (low, high) = (limit * part, limit + (1.0 - limit) * part);
                    for times in [1.3, 6.0, 300.0] {
                        let e = expectation((1, n), (0.5, low), |t| Fixed::new(limit, times).ln(t));
                        assert!(e <= 1.0 + EPS, "{e}: {limit} {n} {low} {times}");
                        let e = expectation((1, n), (0.5, high), |t| {
                            Fixed::new(limit, 1.0 / times).ln(t)
                        });
                        assert!(e <= 1.0 + EPS, "{e}: {limit} {n} {high} {times}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_factor_grows_on_what_it_is_meant_to_find() {
        let bad = Tally {
            original: 200,
            original_bad: 0,
            shadow: 10,
            shadow_bad: 5,
        };
        let margin = MARGINS[3];
        assert!(harm(&bad, margin, 0.01, 300.0) > 9.0);
        assert!(Fixed::new(0.01, 50.0).ln(&bad) > 9.0);
        assert!(no_worse(&bad, margin, 0.01, 0.0) < 0.0);
    }

    /// Half of the requests slow, and 63 % of the shadow's: a Poisson bound on the counts would
    /// give less than half of this.
    #[test]
    fn a_factor_does_not_waste_what_common_outcomes_say() {
        let tally = Tally {
            original: 1_000,
            original_bad: 500,
            shadow: 1_000,
            shadow_bad: 629,
        };
        let margin = Margin {
            ratio: 1.15,
            share: 0.005,
        };
        let times = 0.629 / 0.371 / (0.58 / 0.42);
        assert!(harm(&tally, margin, 0.5, times) > 1.9);
    }
}
