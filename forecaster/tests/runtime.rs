//! The runtime's library, in a process of its own: it is loaded once per process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

use std::path::Path;

use foreshadow_forecaster::{Model, ModelError};

#[test]
fn a_library_that_is_missing_or_none_is_named_and_the_right_one_still_loads_after() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libonnxruntime.so");
    std::fs::write(&text, "no library").unwrap();
    for wrong in [Path::new("no-such-folder/libonnxruntime.so"), &text] {
        let Err(error) = Model::shipped(Some(wrong)) else {
            panic!("{} was accepted", wrong.display())
        };
        assert!(matches!(error, ModelError::Runtime(_)), "{error}");
        assert!(
            error.to_string().contains(&wrong.display().to_string()),
            "{error}"
        );
    }
    Model::shipped(None).unwrap();
}
