//! The model that is shipped, and what happens when it is not what its manifest says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use domain::QuantileCurve;
use foreshadow_forecaster::{Asking, Model, ModelError};
use sha2::Digest as _;

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

fn daily_and_unknown() -> Asking {
    let daily: Vec<f64> = (0..2_016)
        .map(|t| f64::from(50 + 40 * ((t / 144) % 2)))
        .collect();
    let mut asking = Asking::default();
    asking.push_history(&daily);
    asking.push_history(&vec![f64::NAN; 2_016]);
    asking
}

#[test]
fn the_small_model_answers_at_any_horizon_up_to_a_day() {
    let mut model = Model::shipped_small(None).unwrap();
    assert_eq!(model.tier(), "small");
    let horizons: Vec<usize> = (1..=288).collect();
    let answers = model.predict_at(&daily_and_unknown(), &horizons).unwrap();
    let curves = answers[0].as_ref().unwrap();
    // The history ends with the end of a high half day: low comes next, high again after it.
    assert_eq!(curves.len(), 288);
    assert!(curves[60].median() < 70.0 && curves[200].median() > 70.0);
}

#[test]
fn weights_in_another_file_are_refused_and_the_file_is_named() {
    let folder = copy();
    let file = folder.path().join("demand.onnx");
    let mut bytes = std::fs::read(&file).unwrap();
    // External data of a tensor: the pair ("location", path), as protobuf writes it.
    bytes.extend_from_slice(b"\x0a\x08location\x12\x0d../../secrets");
    std::fs::write(&file, &bytes).unwrap();
    let manifest = folder.path().join("manifest.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    let hash = sha2::Sha256::digest(&bytes);
    let hash = hash.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    });
    json["sha256"] = hash.into();
    std::fs::write(&manifest, json.to_string()).unwrap();
    let error = Model::load(folder.path(), None).err().unwrap().to_string();
    assert!(error.contains("../../secrets"), "{error}");
}

#[test]
fn a_model_of_another_feature_contract_is_refused_by_the_field() {
    let folder = copy();
    let file = folder.path().join("manifest.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    json["features"]["version"] = 3.into();
    std::fs::write(&file, json.to_string()).unwrap();
    let Err(error) = Model::load(folder.path(), None) else {
        panic!("it was accepted")
    };
    assert!(error.to_string().contains("features"), "{error}");
}

#[test]
fn the_shipped_model_loads_and_its_curves_never_cross() {
    let mut model = Model::load(&artifacts(), None).unwrap();
    let answers = model.predict(&daily_and_unknown()).unwrap();
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
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    json["output"]["shape"][2] = 12.into();
    std::fs::write(&file, json.to_string()).unwrap();
    let Err(error) = Model::load(folder.path(), None) else {
        panic!("it was accepted")
    };
    assert!(
        matches!(
            error,
            ModelError::Manifest {
                field: "output.shape",
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
