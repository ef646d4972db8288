//! The model that is shipped, and what happens when it is not what its manifest says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

use std::path::{Path, PathBuf};

use domain::QuantileCurve;
use foreshadow_forecaster::{Model, ModelError};

fn artifacts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../onnx-models/artifacts")
}

/// A copy of the shipped model that a test may spoil.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["manifest.json", "demand.onnx"] {
        std::fs::copy(artifacts().join(file), folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn the_shipped_model_loads_and_its_curves_never_cross() {
    let mut model = Model::load(&artifacts(), None).unwrap();
    let daily: Vec<f64> = (0..2_016)
        .map(|t| f64::from(50 + 40 * ((t / 144) % 2)))
        .collect();
    let unknown = vec![f64::NAN; 2_016];
    let answers = model.predict(&[daily, unknown]).unwrap();
    let curves = answers[0].as_ref().unwrap();
    assert_eq!(curves.len(), model.horizons().len());
    assert!(
        curves
            .iter()
            .all(|curve| QuantileCurve::new(*curve.values()).is_ok())
    );
    assert!(
        answers[1].is_none(),
        "nothing is known, nothing is forecast"
    );
}

#[test]
fn a_truncated_model_is_refused_by_its_hash() {
    let folder = copy();
    let file = folder.path().join("demand.onnx");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(
        Model::load(folder.path(), None),
        Err(ModelError::Hash { .. })
    ));
}

#[test]
fn a_manifest_with_other_shapes_is_refused_by_the_field() {
    let folder = copy();
    let file = folder.path().join("manifest.json");
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace("2016", "2000");
    std::fs::write(&file, text.replacen("2000", "2016", 1)).unwrap();
    let Err(error) = Model::load(folder.path(), None) else {
        panic!("it was accepted")
    };
    assert!(
        matches!(
            error,
            ModelError::Manifest {
                field: "input.shape",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_missing_folder_is_named() {
    let Err(error) = Model::load(Path::new("no-such-folder"), None) else {
        panic!("accepted")
    };
    assert!(error.to_string().contains("no-such-folder"), "{error}");
}
