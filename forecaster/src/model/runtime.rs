//! The ONNX Runtime's shared library: found, loaded once per process, kept.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::session::Session;

use super::ModelError;

/// A session for a model's bytes.
pub(super) fn session(model: &[u8], library: Option<&Path>) -> Result<Session, ModelError> {
    let failed = |error: ort::Error| ModelError::Runtime(error.to_string());
    let environment = environment(library)?;
    let mut builder = Session::builder(environment).map_err(failed)?;
    builder = builder
        .with_intra_threads(1)
        .map_err(|error| ModelError::Runtime(error.to_string()))?;
    builder.commit_from_memory(model).map_err(failed)
}

/// The environment. Only success is kept: after a failure, another path may still do.
fn environment(library: Option<&Path>) -> Result<&'static Environment, ModelError> {
    static LOADED: OnceLock<Environment> = OnceLock::new();
    static LOADING: Mutex<()> = Mutex::new(());
    if let Some(loaded) = LOADED.get() {
        return Ok(loaded);
    }
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = LOADED.get() {
        return Ok(loaded);
    }
    let environment = load(library)?;
    Ok(LOADED.get_or_init(|| environment))
}

fn load(library: Option<&Path>) -> Result<Environment, ModelError> {
    let path = library
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from))
        .or_else(in_checkout)
        .ok_or_else(|| {
            ModelError::Runtime(
                "its library is not found: run deploy/setup, or set ORT_DYLIB_PATH".to_owned(),
            )
        })?;
    let failed = |reason: String| ModelError::Runtime(format!("{}: {reason}", path.display()));
    // Looked for here, because the runtime's own complaint about a missing file is hard to read.
    if !path.is_file() {
        return Err(failed("no such file".to_owned()));
    }
    let builder = ort::init_from(&path).map_err(|error| failed(error.to_string()))?;
    builder.build().map_err(|error| failed(error.to_string()))
}

fn in_checkout() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    [PathBuf::from("."), built]
        .into_iter()
        .map(|root| root.join(".venv/lib/libonnxruntime.so"))
        .find(|file| file.is_file())
}
