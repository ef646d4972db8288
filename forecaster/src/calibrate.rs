//! Online calibration: how often the truth was inside the interval, and how wide it should be.
//!
//! Adaptive conformal inference (Gibbs, Candès, "Adaptive conformal inference under distribution
//! shift", NeurIPS 2021), multiplicative: a truth outside the 80 % interval widens it, one inside
//! narrows it a little, in the proportion that balances at 80 %. The factor is bounded, so that a
//! burst cannot blind the detection, nor a long calm make it certain.

use domain::QuantileCurve;

/// Share of truths that should lie inside the interval.
pub const TARGET: f64 = 0.8;
/// The levels that bound it.
const INTERVAL: (f64, f64) = (0.1, 0.9);
/// How far one truth moves the logarithm of the factor.
const RATE: f64 = 0.02;
/// The widening factor stays within these.
pub const BOUNDS: (f64, f64) = (0.5, 3.0);

/// Calibration of one series at one horizon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    factor: f64,
    seen: u64,
    inside: u64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            factor: 1.0,
            seen: 0,
            inside: 0,
        }
    }
}

impl Calibration {
    /// Learns from what came true of a published curve. A truth that is no number teaches nothing.
    pub fn learn(&mut self, interval: Interval, truth: f64) {
        if !truth.is_finite() {
            return;
        }
        self.seen += 1;
        let missed = if (interval.low..=interval.high).contains(&truth) {
            self.inside += 1;
            0.0
        } else {
            1.0
        };
        let change = RATE * (missed - (1.0 - TARGET));
        self.factor = (self.factor * change.exp()).clamp(BOUNDS.0, BOUNDS.1);
    }

    /// The curve, drawn wider or narrower around its median.
    #[must_use]
    pub fn apply(&self, curve: &QuantileCurve) -> QuantileCurve {
        let median = curve.median();
        let drawn = curve
            .values()
            .map(|value| median + (value - median) * self.factor);
        QuantileCurve::rearranged(drawn).unwrap_or(*curve)
    }

    /// The widening factor, within [`BOUNDS`].
    pub const fn factor(&self) -> f64 {
        self.factor
    }

    /// Truths seen.
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// Share of the truths inside the interval; `None` before the first.
    pub fn coverage(&self) -> Option<f64> {
        (self.seen > 0).then(|| self.inside as f64 / self.seen as f64)
    }
}

/// The 80 % interval of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    /// Of a curve.
    pub fn of(curve: &QuantileCurve) -> Self {
        Self {
            low: curve.at(INTERVAL.0),
            high: curve.at(INTERVAL.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Curve of a uniform distribution around 100.
    fn uniform(half: f64) -> QuantileCurve {
        QuantileCurve::new(domain::QUANTILE_LEVELS.map(|l| 100.0 + (2.0 * l - 1.0) * half)).unwrap()
    }

    /// Values spread evenly over 90..110, in an order without trend.
    fn truths() -> impl Iterator<Item = f64> {
        (0..4_000_u32).map(|i| 90.0 + 20.0 * f64::from(i * 617 % 1_000) / 1_000.0)
    }

    fn coverage_of_the_last_half(half: f64) -> f64 {
        let (mut calibration, mut late) = (Calibration::default(), Calibration::default());
        for (i, truth) in truths().enumerate() {
            let interval = Interval::of(&calibration.apply(&uniform(half)));
            calibration.learn(interval, truth);
            if i >= 2_000 {
                late.learn(interval, truth);
            }
        }
        late.coverage().unwrap()
    }

    #[test]
    fn intervals_too_narrow_or_too_wide_come_to_cover_four_in_five() {
        for half in [5.0, 10.0, 15.0] {
            let coverage = coverage_of_the_last_half(half);
            assert!((0.77..=0.83).contains(&coverage), "{half}: {coverage}");
        }
    }

    #[test]
    fn the_factor_stays_bounded_whatever_comes() {
        let mut calibration = Calibration::default();
        let interval = Interval::of(&uniform(10.0));
        for _ in 0..10_000 {
            calibration.learn(interval, 1e9);
        }
        assert!((calibration.factor() - BOUNDS.1).abs() < 1e-12);
        for _ in 0..10_000 {
            calibration.learn(interval, 100.0);
        }
        assert!((calibration.factor() - BOUNDS.0).abs() < 1e-12);
    }

    #[test]
    fn a_gap_teaches_nothing() {
        let mut calibration = Calibration::default();
        calibration.learn(Interval::of(&uniform(10.0)), f64::NAN);
        assert_eq!(calibration, Calibration::default());
    }

    proptest! {
        #[test]
        fn a_calibrated_curve_never_crosses(
            raw in prop::array::uniform13(0.0..1e9_f64),
            truths in prop::collection::vec(0.0..1e9_f64, 0..200),
        ) {
            let curve = QuantileCurve::rearranged(raw).unwrap();
            let mut calibration = Calibration::default();
            for truth in truths {
                calibration.learn(Interval::of(&curve), truth);
            }
            prop_assert!(QuantileCurve::new(*calibration.apply(&curve).values()).is_ok());
        }
    }
}
