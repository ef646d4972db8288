//! Forecasts without a model: the last value, or the value a day ago, with empirical residuals.
//!
//! The curve at a horizon is the point forecast plus the quantiles of the errors that the same
//! rule would have made at that horizon on the known history (split conformal prediction, Vovk,
//! Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005). Of the two rules the one
//! with the smaller mean error at that horizon is used.

use domain::{QUANTILE_LEVELS, QuantileCurve};

/// Steps of a day at five minutes; the accelerated demo keeps the count.
const DAY: usize = 288;
/// Most residuals that are looked at.
const RESIDUALS: usize = 576;

/// Curves at the horizons (in steps). `None` when nothing is known.
pub fn forecast(history: &[f64], horizons: &[usize]) -> Option<Vec<QuantileCurve>> {
    let filled = fill(history)?;
    horizons
        .iter()
        .map(|&ahead| one(&filled, ahead.max(1)))
        .collect()
}

/// The known part of a history with gaps filled by the value before.
fn fill(history: &[f64]) -> Option<Vec<f64>> {
    let first = history.iter().position(|value| value.is_finite())?;
    let mut last = *history.get(first)?;
    Some(
        history[first..]
            .iter()
            .map(|&value| {
                if value.is_finite() {
                    last = value;
                }
                last
            })
            .collect(),
    )
}

fn one(values: &[f64], ahead: usize) -> Option<QuantileCurve> {
    let last = *values.last()?;
    let seasonal_back = DAY * ahead.div_ceil(DAY);
    let season = |at: usize| {
        at.checked_sub(seasonal_back)
            .and_then(|i| values.get(i))
            .copied()
    };
    let from = values.len().saturating_sub(RESIDUALS).max(ahead);
    let mut naive = Vec::new();
    let mut seasonal = Vec::new();
    for at in from..values.len() {
        naive.push(values[at] - values[at - ahead]);
        if let Some(before) = season(at) {
            seasonal.push(values[at] - before);
        }
    }
    let error = |errors: &[f64]| {
        errors.iter().map(|error| error.abs()).sum::<f64>() / errors.len().max(1) as f64
    };
    let day_ago = season(values.len() - 1 + ahead);
    let (point, mut errors) = match day_ago {
        Some(value) if seasonal.len() >= DAY / 2 && error(&seasonal) < error(&naive) => {
            (value, seasonal)
        }
        Some(_) | None => (last, naive),
    };
    if errors.is_empty() {
        // Nothing to learn from: half the value either way is an admission, not a forecast.
        errors = vec![-0.5 * point, 0.0, 0.5 * point];
    }
    errors.sort_by(f64::total_cmp);
    QuantileCurve::rearranged(QUANTILE_LEVELS.map(|level| point + quantile(&errors, level)))
}

/// Quantile of sorted values, linear between them.
fn quantile(sorted: &[f64], level: f64) -> f64 {
    let place = level * (sorted.len() - 1) as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of values"
    )]
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_daily_habit_is_found() {
        let day = |step: usize| if step % DAY < 144 { 100.0 } else { 10.0 };
        let history: Vec<f64> = (0..DAY * 3 + 140).map(day).collect();
        let curves = forecast(&history, &[1, 24]).unwrap();
        assert!((curves[0].median() - 100.0).abs() < 5.0);
        assert!(
            (curves[1].median() - 10.0).abs() < 5.0,
            "{}",
            curves[1].median()
        );
    }

    #[test]
    fn nothing_known_gives_no_forecast() {
        assert!(forecast(&[f64::NAN; 10], &[1]).is_none());
        assert!(forecast(&[], &[1]).is_none());
    }

    proptest! {
        #[test]
        fn any_history_gives_valid_curves(
            history in prop::collection::vec(prop_oneof![Just(f64::NAN), 0.0..1e6_f64], 1..700),
        ) {
            if let Some(curves) = forecast(&history, &[1, 6, 72]) {
                for curve in curves {
                    prop_assert!(QuantileCurve::new(*curve.values()).is_ok());
                }
            }
        }
    }
}
