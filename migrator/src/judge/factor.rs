//! What one epoch says for or against one claim, as the logarithm of an e-value.
//!
//! An e-value is a number of at least 0 whose expectation is at most 1 while the claim (the null)
//! holds. Independent epochs multiply, and by Ville's inequality the product ever reaches 1/alpha
//! with a probability of at most alpha: one may look as often as one likes.
//!
//! **Against the original** ([`paired`]). `n1` requests of the shadow, `k1` of them bad, `n0` and
//! `k0` the same of the original; `p1`, `p0` the unknown shares, and `p0` may be another in every
//! epoch. With a ratio `c >= 1` and a margin `d >= 0` let
//!
//! ```text
//! e(y) = (1+y)^k1 · (1 - c·y·n1/n0)^k0 · exp(-n1·d·y),      y > -1 and c·y·n1/n0 < 1
//! ```
//!
//! A binomial count has E[(1+z)^k] = (1+p·z)^n <= exp(n·p·z) for z > -1, so
//!
//! ```text
//! E[e(y)] <= exp(n1·p1·y - n1·c·p0·y - n1·d·y) = exp(n1·y·(p1 - c·p0 - d))
//! ```
//!
//! For `y > 0` that is at most 1 whenever `p1 <= c·p0 + d`: evidence of **harm**. This null holds
//! all of `p1 <= max(c·p0, p0 + d)`, so that one factor keeps the relative and the absolute margin.
//! For `y < 0` it is at most 1 whenever `p1 >= c·p0 + d`: evidence that the shadow is **no worse**.
//!
//! **Against a frozen share** ([`fixed`]). `q` was fixed before the first look; with `r > q`
//!
//! ```text
//! e(r) = (r/q)^k1 · ((1-r)/(1-q))^(n1-k1),   E[e(r)] = (p1·r/q + (1-p1)·(1-r)/(1-q))^n1
//! ```
//!
//! The base is linear in `p1`, is 1 at `p1 = q`, and rises for `r > q` and falls for `r < q`: the
//! null is `p1 <= q` (harm) in the first case and `p1 >= q` (no worse) in the second. A beta prior
//! on `r` that reaches below `q` would break the first, so the mixtures are over fixed points.

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
}

/// How much worse the shadow may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Margin {
    /// Times the original's share …
    pub(super) ratio: f64,
    /// … and this share on top.
    pub(super) share: f64,
}

/// `ln e(y)` of [the paired factor](self). One side silent says nothing.
pub(super) fn paired(tally: &Tally, margin: Margin, y: f64) -> f64 {
    let (n0, n1) = (tally.original as f64, tally.shadow as f64);
    if tally.original == 0 || tally.shadow == 0 {
        return 0.0;
    }
    let fall = margin.ratio * y * n1 / n0;
    if !(fall < 1.0 && y > -1.0) {
        return 0.0;
    }
    tally.shadow_bad as f64 * y.ln_1p() + tally.original_bad as f64 * (-fall).ln_1p()
        - n1 * margin.share * y
}

/// The `y` that grows fastest if the shadow's share is `times` what the ratio allows.
pub(super) fn reach(tally: &Tally, margin: Margin, times: f64) -> f64 {
    let (n0, n1) = (tally.original as f64, tally.shadow as f64);
    if tally.original == 0 || tally.shadow == 0 {
        return 0.0;
    }
    n0 * (times - 1.0) / (n1 * margin.ratio * times + n0)
}

/// `ln e(r)` of [the fixed factor](self), where `r` has `times` the odds of `limit`.
pub(super) fn fixed(tally: &Tally, limit: f64, times: f64) -> f64 {
    let odds = times * limit / (1.0 - limit);
    let share = odds / (1.0 + odds);
    let good = tally.shadow.saturating_sub(tally.shadow_bad) as f64;
    tally.shadow_bad as f64 * (share / limit).ln() + good * ((1.0 - share) / (1.0 - limit)).ln()
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

    /// Calls with every size, margin, and share of the original.
    fn grid(mut visit: impl FnMut((u64, u64), Margin, f64)) {
        for n in SIZES {
            for margin in MARGINS {
                for p0 in SHARES {
                    visit(n, margin, p0);
                }
            }
        }
    }

    #[test]
    fn no_factor_for_harm_expects_more_than_one_from_a_shadow_within_its_margins() {
        grid(|n, margin, p0| {
            let edge = (margin.ratio * p0).max(p0 + margin.share).min(1.0);
            for p1 in [edge, edge * 0.9, 0.0] {
                for times in [1.1, 1.8, 6.0, 300.0] {
                    let factor = |t: &Tally| paired(t, margin, reach(t, margin, times));
                    let capped = |t: &Tally| factor(t).min(1.5);
                    let (whole, cut) = (
                        expectation(n, (p0, p1), factor),
                        expectation(n, (p0, p1), capped),
                    );
                    assert!(
                        whole <= 1.0 + EPS,
                        "{whole}: {n:?} {margin:?} {p0} {p1} {times}"
                    );
                    assert!(cut <= 1.0 + EPS, "{cut}");
                }
            }
        });
    }

    #[test]
    fn no_factor_for_no_worse_expects_more_than_one_from_a_shadow_beyond_its_margins() {
        grid(|n, margin, p0| {
            let edge = margin.ratio * p0 + margin.share;
            if edge > 1.0 {
                return;
            }
            for p1 in [edge, f64::midpoint(edge, 1.0), 1.0] {
                for x in [0.1, 0.6, 0.99] {
                    let e = expectation(n, (p0, p1), |t| paired(t, margin, -x));
                    assert!(e <= 1.0 + EPS, "{e}: {n:?} {margin:?} {p0} {p1} {x}");
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
                        let e = expectation((1, n), (0.5, low), |t| fixed(t, limit, times));
                        assert!(e <= 1.0 + EPS, "{e}: {limit} {n} {low} {times}");
                        let e = expectation((1, n), (0.5, high), |t| fixed(t, limit, 1.0 / times));
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
        assert!(paired(&bad, margin, reach(&bad, margin, 300.0)) > 9.0);
        assert!(fixed(&bad, 0.01, 50.0) > 9.0);
        assert!(paired(&bad, margin, -0.6) < 0.0);
    }
}
