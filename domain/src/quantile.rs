//! Quantile curves: a predictive distribution by its quantiles at fixed levels.

use serde::{Deserialize, Serialize};

/// The levels at which every forecast gives a value.
pub const QUANTILE_LEVELS: [f64; 13] = [
    0.01, 0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975, 0.99,
];

/// Probability that lies nearest to each level.
const SHARES: [f64; 13] = shares();

const fn shares() -> [f64; 13] {
    let mut shares = [0.0; 13];
    let mut index = 0;
    while index < 13 {
        let from = if index == 0 {
            0.0
        } else {
            f64::midpoint(QUANTILE_LEVELS[index - 1], QUANTILE_LEVELS[index])
        };
        let to = if index == 12 {
            1.0
        } else {
            f64::midpoint(QUANTILE_LEVELS[index], QUANTILE_LEVELS[index + 1])
        };
        shares[index] = to - from;
        index += 1;
    }
    shares
}

/// A distribution by its values at [`QUANTILE_LEVELS`]. The values are finite, not negative, and
/// never fall from one level to the next.
///
/// ```compile_fail
/// // The values are private: a curve that crosses cannot be built.
/// let curve = foreshadow_domain::QuantileCurve([1.0; 13]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f64; 13]", into = "[f64; 13]")]
pub struct QuantileCurve([f64; 13]);

/// Why thirteen numbers are no quantile curve.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantileError {
    /// A value is not a number, infinite, or negative.
    #[error("quantile {level} is {value}; it must be a finite number of at least 0")]
    NotADemand {
        /// The level.
        level: f64,
        /// The value found there.
        value: f64,
    },
    /// A value lies below the one at the level before.
    #[error(
        "quantile {level} is {value}, below the {before} of the level before: curves never cross"
    )]
    Crossing {
        /// The level.
        level: f64,
        /// The value found there.
        value: f64,
        /// The value at the level before.
        before: f64,
    },
}

impl QuantileCurve {
    /// A curve from its values.
    ///
    /// # Errors
    /// [`QuantileError`] for a value that is not finite, negative, or below its predecessor.
    pub fn new(values: [f64; 13]) -> Result<Self, QuantileError> {
        let mut before = 0.0;
        for (&value, &level) in values.iter().zip(&QUANTILE_LEVELS) {
            if !value.is_finite() || value < 0.0 {
                return Err(QuantileError::NotADemand { level, value });
            }
            if value < before {
                return Err(QuantileError::Crossing {
                    level,
                    value,
                    before,
                });
            }
            before = value;
        }
        Ok(Self(values))
    }

    /// The nearest curve to any thirteen numbers: what is not finite becomes its neighbour, what
    /// is negative becomes 0, what crosses is sorted (Chernozhukov, Fernández-Val, Galichon,
    /// "Quantile and probability curves without crossing", Econometrica 2010: sorting never
    /// worsens the quantile loss). `None` when no value is finite.
    pub fn rearranged(mut values: [f64; 13]) -> Option<Self> {
        let fill = values.iter().copied().find(|value| value.is_finite())?;
        for value in &mut values {
            if !value.is_finite() {
                *value = fill;
            }
            *value = value.max(0.0);
        }
        values.sort_by(f64::total_cmp);
        Some(Self(values))
    }

    /// A certain value.
    pub fn certain(value: f64) -> Option<Self> {
        Self::rearranged([value; 13])
    }

    /// The values at [`QUANTILE_LEVELS`].
    pub const fn values(&self) -> &[f64; 13] {
        &self.0
    }

    /// The value at `level`, linear between the levels and constant beyond them.
    pub fn at(&self, level: f64) -> f64 {
        let upper = QUANTILE_LEVELS.partition_point(|&known| known < level);
        match (upper.checked_sub(1), self.0.get(upper)) {
            (None, _) => self.0[0],
            (_, None) => self.0[12],
            (Some(lower), Some(&high)) => {
                let (from, to) = (QUANTILE_LEVELS[lower], QUANTILE_LEVELS[upper]);
                let low = self.0[lower];
                low + (high - low) * (level - from) / (to - from)
            }
        }
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.0[6]
    }

    /// Probability that the value exceeds `limit`, by linear interpolation of the curve; between
    /// 0.01 and 0.99 because nothing is known beyond the outer levels.
    pub fn exceedance(&self, limit: f64) -> f64 {
        let above = self.0.partition_point(|&value| value <= limit);
        let level = match (above.checked_sub(1), self.0.get(above)) {
            (None, _) => QUANTILE_LEVELS[0],
            (_, None) => QUANTILE_LEVELS[12],
            (Some(lower), Some(&high)) => {
                let low = self.0[lower];
                let (from, to) = (QUANTILE_LEVELS[lower], QUANTILE_LEVELS[above]);
                from + (to - from) * (limit - low) / (high - low)
            }
        };
        1.0 - level
    }

    /// Mean of the curve, each value weighted by the probability that lies nearest to its level.
    pub fn mean(&self) -> f64 {
        self.moments().0
    }

    /// Variance of the curve, in the same approximation as [`QuantileCurve::mean`].
    pub fn variance(&self) -> f64 {
        self.moments().1
    }

    /// Mean and variance.
    pub fn moments(&self) -> (f64, f64) {
        let mean: f64 = self.0.iter().zip(SHARES).map(|(v, share)| share * v).sum();
        let square = |(value, share): (&f64, f64)| share * (value - mean) * (value - mean);
        (mean, self.0.iter().zip(SHARES).map(square).sum())
    }

    /// The curve with every value multiplied by a factor of at least 0.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let factor = if factor.is_finite() {
            factor.max(0.0)
        } else {
            1.0
        };
        Self(self.0.map(|value| (value * factor).min(f64::MAX)))
    }
}

impl TryFrom<[f64; 13]> for QuantileCurve {
    type Error = QuantileError;
    fn try_from(values: [f64; 13]) -> Result<Self, QuantileError> {
        Self::new(values)
    }
}

impl From<QuantileCurve> for [f64; 13] {
    fn from(curve: QuantileCurve) -> Self {
        curve.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_curve_that_crosses_or_is_no_demand_is_refused() {
        let mut values = [1.0; 13];
        values[5] = 0.5;
        assert!(matches!(
            QuantileCurve::new(values),
            Err(QuantileError::Crossing { .. })
        ));
        values[5] = f64::NAN;
        assert!(matches!(
            QuantileCurve::new(values),
            Err(QuantileError::NotADemand { .. })
        ));
        assert!(QuantileCurve::new([-1.0; 13]).is_err());
        assert!(QuantileCurve::rearranged([f64::NAN; 13]).is_none());
    }

    #[test]
    fn exceedance_is_the_inverse_of_the_curve() {
        let curve = QuantileCurve::new(QUANTILE_LEVELS.map(|level| level * 100.0)).unwrap();
        assert!((curve.exceedance(80.0) - 0.2).abs() < 1e-9);
        assert!((curve.at(0.85) - 85.0).abs() < 1e-9);
        assert!((curve.exceedance(-1.0) - 0.99).abs() < 1e-9);
        assert!((curve.exceedance(1_000.0) - 0.01).abs() < 1e-9);
        assert!((curve.mean() - 50.0).abs() < 1.0);
    }

    proptest! {
        #[test]
        fn rearranging_gives_a_valid_curve(values in prop::array::uniform13(-1e6_f64..1e9)) {
            let curve = QuantileCurve::rearranged(values).unwrap();
            prop_assert!(QuantileCurve::new(*curve.values()).is_ok());
            prop_assert!(curve.exceedance(curve.median()) <= 0.6);
        }
    }
}
