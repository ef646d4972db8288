//! The shipped model against the last value, on the demo's trace: steps it was not trained on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

use domain::{QuantileCurve, Resource};
use foreshadow_forecaster::{Asking, Model, Negative, read_trace};
use proptest::prelude::*;

const HISTORY: usize = 2_016;

#[test]
fn the_shipped_model_beats_the_last_value_half_an_hour_ahead_and_more() {
    let text = include_str!("../../deploy/demo/trace.csv");
    let trace = read_trace(text.as_bytes(), Negative::Refuse).unwrap();
    let mut model = Model::shipped(None).unwrap();
    let horizons = model.horizons().to_vec();
    let (mut by_model, mut by_last) = (0.0, 0.0);
    for ((instance, resource), values) in &trace {
        assert_eq!(*resource, Resource::Cpu);
        let values: Vec<f64> = values.iter().map(|v| v.unwrap_or(f64::NAN)).collect();
        let origins: Vec<_> = (HISTORY..values.len() - 72).step_by(6).collect();
        let mut asking = Asking::default();
        for &at in &origins {
            asking.push_history(&values[at - HISTORY..at]);
        }
        let answers = model.predict(&asking).unwrap();
        for (&at, curves) in origins.iter().zip(answers) {
            let curves = curves.unwrap_or_else(|| panic!("{instance} has no forecast at {at}"));
            for (&steps, curve) in horizons
                .iter()
                .zip(&curves)
                .filter(|(steps, _)| (6..=72).contains(*steps))
            {
                let (truth, last) = (values[at - 1 + steps], values[at - 1]);
                if truth.is_finite() && last.is_finite() {
                    by_model += (curve.median() - truth).abs();
                    by_last += (last - truth).abs();
                }
            }
        }
    }
    println!(
        "mean absolute error, model to last value: {:.3}",
        by_model / by_last
    );
    assert!(by_model < by_last, "model {by_model}, last value {by_last}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_history_the_model_gives_valid_curves_or_none(
        tail in prop::collection::vec(
            prop_oneof![4 => 0.0..1e3_f64, 1 => Just(f64::NAN), 1 => Just(0.0), 1 => 0.0..1e12_f64],
            0..HISTORY,
        ),
    ) {
        let mut asking = Asking::default();
        asking.push_history(&tail);
        let known = tail.iter().any(|value| value.is_finite());
        let answer = Model::shipped(None).unwrap().predict(&asking).unwrap().remove(0);
        prop_assert_eq!(answer.is_some(), known);
        for curve in answer.into_iter().flatten() {
            prop_assert!(QuantileCurve::new(*curve.values()).is_ok());
        }
    }
}
