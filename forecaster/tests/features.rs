//! The features that the forecaster computes are those that the model was trained on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

use foreshadow_forecaster::features::{AHEAD, CONTEXT, Known, Scratch, extract};
use serde::Deserialize;

/// Written by `python -m demand.golden` from the trainer's own features.
#[derive(Deserialize)]
struct Golden {
    name: String,
    history: Vec<Option<f32>>,
    activity: Vec<Option<f32>>,
    local_s: Option<f64>,
    horizons: Vec<usize>,
    level: f64,
    scale: f64,
    context: Vec<f32>,
    ahead: Vec<f32>,
}

fn values(from: &[Option<f32>]) -> Vec<f32> {
    from.iter().map(|v| v.unwrap_or(f32::NAN)).collect()
}

#[test]
fn features_are_those_of_the_trainer() {
    let text = include_str!("golden/features.json");
    let cases: Vec<Golden> = serde_json::from_str(text).unwrap();
    assert!(cases.len() >= 6);
    let mut scratch = Scratch::default();
    for case in cases {
        let (history, activity) = (values(&case.history), values(&case.activity));
        let known = Known {
            history: &history,
            activity: &activity,
            local_s: case.local_s,
        };
        let mut context = vec![f32::NAN; CONTEXT];
        let mut ahead = vec![f32::NAN; AHEAD * case.horizons.len()];
        let scaling = extract(
            &known,
            &case.horizons,
            &mut scratch,
            &mut context,
            &mut ahead,
        )
        .unwrap();
        let close = |found: f64, wanted: f64| (found - wanted).abs() <= 2e-3 * (1.0 + wanted.abs());
        assert!(
            close(scaling.level, case.level),
            "{}: {scaling:?}",
            case.name
        );
        assert!(
            close(scaling.scale, case.scale),
            "{}: {scaling:?}",
            case.name
        );
        for (part, found, wanted, width) in [
            ("context", &context, &case.context, CONTEXT),
            ("ahead", &ahead, &case.ahead, AHEAD),
        ] {
            assert_eq!(found.len(), wanted.len());
            for (place, (f, w)) in found.iter().zip(wanted).enumerate() {
                assert!(
                    close(f64::from(*f), f64::from(*w)),
                    "{}: {part} {} of row {}: {f}, the trainer has {w}",
                    case.name,
                    place % width,
                    place / width
                );
            }
        }
    }
}
