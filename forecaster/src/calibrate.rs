//! Online calibration: how often the truth was inside the intervals, and how wide they should be.
//!
//! Adaptive conformal inference (Gibbs, Candès, "Adaptive conformal inference under distribution
//! shift", NeurIPS 2021), multiplicative and for each side: a truth below the 80 % interval widens
//! the lower side, every other truth narrows it a little, in the proportion that balances at one in
//! ten; the 95 % interval has tails of its own, balanced at one in forty. The factors are bounded,
//! so that a burst cannot blind the detection, nor a long calm make it certain.
//!
//! It works on two levels: a group's (all series of a resource at a horizon) learns fast because
//! it sees many truths, a series' own learns what is special about it. They add up.

use domain::QuantileCurve;

/// Share of truths that should lie inside the inner interval.
pub const TARGET: f64 = 0.8;
/// Share of truths that should lie inside the outer interval.
pub const TARGET_OUTER: f64 = 0.95;
/// Widening factors stay within these.
pub const BOUNDS: (f64, f64) = (0.5, 3.0);
/// Shares outside of each side, inner and outer.
const OUTSIDE: [f32; 2] = [0.1, 0.025];
/// How far one truth moves the logarithm of a series' factor, inner and outer.
const SERIES_RATE: [f32; 2] = [0.04, 0.06];
/// The same for a group.
const GROUP_RATE: [f32; 2] = [0.002, 0.004];

/// Logarithms of the widening factors.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Widening {
    /// Of the levels from 0.1 to the median, and from it to 0.9.
    inner: [f32; 2],
    /// What the levels beyond have on top.
    outer: [f32; 2],
}

impl Widening {
    /// From the logarithms of the factors: below and above the median, and what the levels beyond
    /// 0.1 and 0.9 have on top. Bounded, and 0 for what is no number.
    pub fn new(inner: [f32; 2], outer: [f32; 2]) -> Self {
        let usable = |value: f32| {
            if value.is_finite() {
                bounded(value)
            } else {
                0.0
            }
        };
        Self {
            inner: inner.map(usable),
            outer: outer.map(usable),
        }
    }

    /// The sum of two, bounded.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let add = |a: [f32; 2], b: [f32; 2]| [bounded(a[0] + b[0]), bounded(a[1] + b[1])];
        Self {
            inner: add(self.inner, other.inner),
            outer: add(self.outer, other.outer),
        }
    }

    /// Between two: `share` of the way to the other.
    #[must_use]
    pub fn towards(self, other: Self, share: f32) -> Self {
        let mix = |a: [f32; 2], b: [f32; 2]| [0, 1].map(|i| a[i] + (b[i] - a[i]) * share);
        Self {
            inner: mix(self.inner, other.inner),
            outer: mix(self.outer, other.outer),
        }
    }

    /// The curve, drawn wider or narrower around its median.
    #[must_use]
    pub fn apply(&self, curve: &QuantileCurve) -> QuantileCurve {
        if *self == Self::default() {
            return *curve;
        }
        let median = curve.median();
        let inner = self.inner.map(|log| f64::from(log).exp());
        let outer = [0, 1].map(|i| f64::from(bounded(self.inner[i] + self.outer[i])).exp());
        let mut values = *curve.values();
        for (place, value) in values.iter_mut().enumerate() {
            let factor = match place {
                0 | 1 => outer[0],
                11 | 12 => outer[1],
                2..=6 => inner[0],
                _ => inner[1],
            };
            *value = median + (*value - median) * factor;
        }
        QuantileCurve::rearranged(values).unwrap_or(*curve)
    }

    fn learn(&mut self, interval: &Interval, truth: f32, rate: [f32; 2]) {
        let outside = [
            [truth < interval.inner[0], truth > interval.inner[1]],
            [truth < interval.outer[0], truth > interval.outer[1]],
        ];
        let change = |level: usize, side: usize| {
            rate[level] * (f32::from(u8::from(outside[level][side])) - OUTSIDE[level])
        };
        for side in 0..2 {
            self.inner[side] = bounded(self.inner[side] + change(0, side));
            // The outer levels move with the inner ones: only what is left is theirs.
            let own = change(1, side) - change(0, side);
            self.outer[side] = bounded(self.outer[side] + own);
        }
    }
}

fn bounded(log: f32) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "two constants near 1")]
    let (low, high) = (BOUNDS.0.ln() as f32, BOUNDS.1.ln() as f32);
    log.clamp(low, high)
}

/// Calibration of one series at one horizon, or of a group of them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Calibration {
    widening: Widening,
    seen: u32,
    inside: u32,
    inside_outer: u32,
}

impl Calibration {
    /// Learns from what came true of a published curve; gives whether the truth was inside the
    /// inner interval. A truth that is no number teaches nothing.
    pub fn learn(&mut self, interval: &Interval, truth: f64) -> Option<bool> {
        self.learn_at(interval, truth, SERIES_RATE)
    }

    /// The same for a group, of which many truths come at a time.
    pub fn learn_group(&mut self, interval: &Interval, truth: f64) -> Option<bool> {
        self.learn_at(interval, truth, GROUP_RATE)
    }

    fn learn_at(&mut self, interval: &Interval, truth: f64, rate: [f32; 2]) -> Option<bool> {
        if !truth.is_finite() {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "histories are held as f32")]
        let truth = truth as f32;
        let within = |ends: [f32; 2]| (ends[0]..=ends[1]).contains(&truth);
        let inside = within(interval.inner);
        self.seen = self.seen.saturating_add(1);
        self.inside = self.inside.saturating_add(u32::from(inside));
        let outer = u32::from(within(interval.outer));
        self.inside_outer = self.inside_outer.saturating_add(outer);
        self.widening.learn(interval, truth, rate);
        Some(inside)
    }

    /// What was learnt.
    pub const fn widening(&self) -> Widening {
        self.widening
    }

    /// The widening factor of the 80 % interval, the mean of both sides; within [`BOUNDS`].
    pub fn factor(&self) -> f64 {
        let [low, high] = self.widening.inner.map(|log| f64::from(log).exp());
        f64::midpoint(low, high)
    }

    /// Truths seen.
    pub fn seen(&self) -> u64 {
        u64::from(self.seen)
    }

    /// Share of the truths inside the 80 % interval; `None` before the first.
    pub fn coverage(&self) -> Option<f64> {
        (self.seen > 0).then(|| f64::from(self.inside) / f64::from(self.seen))
    }

    /// Share of the truths inside the 95 % interval; `None` before the first.
    pub fn coverage_outer(&self) -> Option<f64> {
        (self.seen > 0).then(|| f64::from(self.inside_outer) / f64::from(self.seen))
    }
}

/// The 80 % and the 95 % interval of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    inner: [f32; 2],
    outer: [f32; 2],
}

impl Interval {
    /// Of a curve.
    pub fn of(curve: &QuantileCurve) -> Self {
        let values = curve.values();
        #[expect(clippy::cast_possible_truncation, reason = "histories are held as f32")]
        let ends = |low: usize, high: usize| [values[low] as f32, values[high] as f32];
        Self {
            inner: ends(2, 10),
            outer: ends(1, 11),
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
        (0..8_000_u32).map(|i| 90.0 + 20.0 * f64::from(i * 617 % 1_000) / 1_000.0)
    }

    fn coverage_of_the_last_half(half: f64) -> (f64, f64) {
        let (mut calibration, mut late) = (Calibration::default(), Calibration::default());
        for (i, truth) in truths().enumerate() {
            let interval = Interval::of(&calibration.widening().apply(&uniform(half)));
            calibration.learn(&interval, truth);
            if i >= 4_000 {
                late.learn(&interval, truth);
            }
        }
        (late.coverage().unwrap(), late.coverage_outer().unwrap())
    }

    #[test]
    fn intervals_too_narrow_or_too_wide_come_to_cover_what_they_say() {
        for half in [5.0, 10.0, 15.0] {
            let (inner, outer) = coverage_of_the_last_half(half);
            assert!((inner - TARGET).abs() < 0.02, "{half}: {inner}");
            assert!((outer - TARGET_OUTER).abs() < 0.01, "{half}: {outer}");
        }
    }

    #[test]
    fn a_side_that_is_too_near_is_moved_and_the_other_is_not() {
        let mut calibration = Calibration::default();
        // Truths lie high: above the upper end every second time, never below the lower.
        for i in 0..2_000 {
            let curve = calibration.widening().apply(&uniform(10.0));
            let truth = if i % 2 == 0 { 112.0 } else { 101.0 };
            calibration.learn(&Interval::of(&curve), truth);
        }
        let curve = calibration.widening().apply(&uniform(10.0));
        assert!(curve.at(0.9) > 110.0, "{}", curve.at(0.9));
        assert!(curve.at(0.1) > 93.0, "{}", curve.at(0.1));
    }

    #[test]
    fn the_factor_stays_bounded_whatever_comes() {
        let mut calibration = Calibration::default();
        let interval = Interval::of(&uniform(10.0));
        for truth in [1e9, 0.0] {
            for _ in 0..10_000 {
                calibration.learn(&interval, truth);
            }
        }
        assert!(calibration.factor() <= BOUNDS.1 + 1e-6);
        for _ in 0..10_000 {
            calibration.learn(&interval, 100.0);
        }
        assert!((calibration.factor() - BOUNDS.0).abs() < 1e-6);
    }

    #[test]
    fn a_gap_teaches_nothing() {
        let mut calibration = Calibration::default();
        calibration.learn(&Interval::of(&uniform(10.0)), f64::NAN);
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
                calibration.learn(&Interval::of(&curve), truth);
            }
            let drawn = calibration.widening().apply(&curve);
            prop_assert!(QuantileCurve::new(*drawn.values()).is_ok());
        }
    }
}
