//! The ONNX model: its manifest, its contract, and running it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use domain::{QUANTILE_LEVELS, QuantileCurve};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::Tensor;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Largest model file that is read.
const MAX_MODEL: u64 = 256 * 1024 * 1024;

/// Why a model cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// A file that cannot be read.
    #[error("model: cannot read {path}: {reason}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A manifest that says what it must not.
    #[error("model manifest: {field} is {value}; allowed is {allowed}")]
    Manifest {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A file that is not the one the manifest means.
    #[error("model: SHA-256 is {found}, the manifest says {wanted}")]
    Hash {
        /// Of the file.
        found: String,
        /// Of the manifest.
        wanted: String,
    },
    /// The runtime's library, or what it says.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
    /// An answer that is no forecast.
    #[error("model: {0}")]
    Answer(String),
}

#[derive(Debug, Deserialize)]
struct Manifest {
    schema: u32,
    id: String,
    file: String,
    sha256: String,
    context_steps: usize,
    input: Port,
    output: Port,
    horizons: Vec<usize>,
    levels: Vec<f64>,
}

#[derive(Debug, Deserialize)]
struct Port {
    name: String,
    dtype: String,
    shape: Vec<serde_json::Value>,
}

/// A model that is ready to run.
pub struct Model {
    session: Session,
    id: String,
    version: String,
    input: String,
    output: String,
    context: usize,
    horizons: Vec<usize>,
}

impl Model {
    /// Loads `manifest.json` and the model it names from a folder.
    ///
    /// # Errors
    /// [`ModelError`] saying which part is wrong; nothing is kept.
    pub fn load(folder: &Path, library: Option<&Path>) -> Result<Self, ModelError> {
        let text = read(&folder.join("manifest.json"))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| ModelError::Manifest {
                field: "manifest.json",
                value: error.to_string(),
                allowed: "the fields of onnx-models/README.md".to_owned(),
            })?;
        check(&manifest)?;
        let bytes = read(&folder.join(&manifest.file))?;
        let found = hex(&Sha256::digest(&bytes));
        if manifest.sha256 != found {
            return Err(ModelError::Hash {
                found,
                wanted: manifest.sha256,
            });
        }
        let environment = runtime(library)?;
        let session =
            session(environment, &bytes).map_err(|error| ModelError::Runtime(error.to_string()))?;
        let has = |names: Vec<String>, name: &str| names.iter().any(|known| known == name);
        let inputs = session
            .inputs()
            .iter()
            .map(|port| port.name().to_owned())
            .collect();
        let outputs = session
            .outputs()
            .iter()
            .map(|port| port.name().to_owned())
            .collect();
        if !has(inputs, &manifest.input.name) || !has(outputs, &manifest.output.name) {
            return Err(ModelError::Answer(format!(
                "the graph has no input {:?} or no output {:?}",
                manifest.input.name, manifest.output.name
            )));
        }
        let mut model = Self {
            session,
            id: manifest.id,
            version: found.chars().take(12).collect(),
            input: manifest.input.name,
            output: manifest.output.name,
            context: manifest.context_steps,
            horizons: manifest.horizons,
        };
        // One run on nothing but gaps and one on a constant: a graph of other shapes fails here,
        // not in the middle of the night.
        model.predict(&[vec![f64::NAN; model.context], vec![1.0; model.context]])?;
        Ok(model)
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// First digits of its SHA-256.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Steps of history it wants.
    pub const fn context(&self) -> usize {
        self.context
    }

    /// Horizons it forecasts, in steps.
    pub fn horizons(&self) -> &[usize] {
        &self.horizons
    }

    /// Curves per history and horizon. A history of nothing but gaps gives `None`.
    ///
    /// # Errors
    /// [`ModelError`] when the runtime fails or the answer has the wrong shape or no finite value.
    pub fn predict(
        &mut self,
        histories: &[Vec<f64>],
    ) -> Result<Vec<Option<Vec<QuantileCurve>>>, ModelError> {
        if histories.is_empty() {
            return Ok(Vec::new());
        }
        let runtime = |error: ort::Error| ModelError::Runtime(error.to_string());
        #[expect(clippy::cast_possible_truncation, reason = "the model computes in f32")]
        let flat: Vec<f32> = histories
            .iter()
            .flatten()
            .map(|&value| value as f32)
            .collect();
        if flat.len() != histories.len() * self.context {
            return Err(ModelError::Answer(format!(
                "histories must have {} steps",
                self.context
            )));
        }
        let tensor =
            Tensor::from_array(([histories.len(), self.context], flat)).map_err(runtime)?;
        let outputs = self
            .session
            .run(ort::inputs![self.input.as_str() => tensor])
            .map_err(|error| ModelError::Runtime(error.to_string()))?;
        let answer = outputs
            .get(self.output.as_str())
            .ok_or_else(|| ModelError::Answer(format!("no output {:?}", self.output)))?;
        let (shape, values) = answer.try_extract_tensor::<f32>().map_err(runtime)?;
        let per_series = self.horizons.len() * QUANTILE_LEVELS.len();
        if values.len() != histories.len() * per_series {
            return Err(ModelError::Answer(format!("output has shape {shape:?}")));
        }
        histories
            .iter()
            .zip(values.chunks_exact(per_series))
            .map(|(history, values)| {
                if !history.iter().any(|value| value.is_finite()) {
                    return Ok(None);
                }
                values
                    .chunks_exact(QUANTILE_LEVELS.len())
                    .map(curve)
                    .collect::<Result<Vec<_>, _>>()
                    .map(Some)
            })
            .collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn curve(values: &[f32]) -> Result<QuantileCurve, ModelError> {
    let mut curve = [0.0; QUANTILE_LEVELS.len()];
    for (to, from) in curve.iter_mut().zip(values) {
        *to = f64::from(*from);
    }
    if !curve.iter().all(|value| value.is_finite()) {
        return Err(ModelError::Answer(
            "a quantile is not a finite number".to_owned(),
        ));
    }
    QuantileCurve::rearranged(curve)
        .ok_or_else(|| ModelError::Answer("no quantile is a number".to_owned()))
}

fn session(environment: &Environment, bytes: &[u8]) -> Result<Session, ort::Error> {
    let builder = Session::builder(environment)?;
    let mut builder = builder.with_intra_threads(1)?;
    builder.commit_from_memory(bytes)
}

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    let failed = |reason: String| ModelError::Read {
        path: path.display().to_string(),
        reason,
    };
    let size = std::fs::metadata(path)
        .map_err(|error| failed(error.to_string()))?
        .len();
    if size > MAX_MODEL {
        return Err(failed(format!(
            "{size} bytes; at most {MAX_MODEL} are allowed"
        )));
    }
    std::fs::read(path).map_err(|error| failed(error.to_string()))
}

fn check(manifest: &Manifest) -> Result<(), ModelError> {
    let bad = |field, value: String, allowed: &str| {
        Err(ModelError::Manifest {
            field,
            value,
            allowed: allowed.to_owned(),
        })
    };
    if manifest.schema != 1 {
        return bad("schema", manifest.schema.to_string(), "1");
    }
    if manifest.file.contains(['/', '\\']) {
        return bad("file", manifest.file.clone(), "a name without a folder");
    }
    if manifest.levels != QUANTILE_LEVELS {
        return bad(
            "levels",
            format!("{:?}", manifest.levels),
            "domain::QUANTILE_LEVELS",
        );
    }
    let rising = manifest.horizons.windows(2).all(|pair| pair[0] < pair[1]);
    if manifest.horizons.first().is_none_or(|&first| first == 0) || !rising {
        return bad(
            "horizons",
            format!("{:?}", manifest.horizons),
            "rising steps from 1",
        );
    }
    for (field, port) in [("input", &manifest.input), ("output", &manifest.output)] {
        if port.dtype != "float32" {
            return bad(field, port.dtype.clone(), "float32");
        }
    }
    let wanted = [
        (
            "input.shape",
            &manifest.input.shape,
            vec![manifest.context_steps],
        ),
        (
            "output.shape",
            &manifest.output.shape,
            vec![manifest.horizons.len(), QUANTILE_LEVELS.len()],
        ),
    ];
    for (field, shape, dimensions) in wanted {
        let found: Vec<_> = shape
            .iter()
            .skip(1)
            .filter_map(serde_json::Value::as_u64)
            .collect();
        if found != dimensions.iter().map(|&d| d as u64).collect::<Vec<_>>() {
            return bad(
                field,
                format!("{shape:?}"),
                &format!("[\"batch\", {dimensions:?}]"),
            );
        }
    }
    Ok(())
}

/// Loads the runtime's library once per process.
fn runtime(library: Option<&Path>) -> Result<&'static Environment, ModelError> {
    static LOADED: OnceLock<Result<Environment, ModelError>> = OnceLock::new();
    let path = library
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from))
        .or_else(in_checkout)
        .ok_or_else(|| {
            ModelError::Runtime(
                "its library is not found: run deploy/setup, or set ORT_DYLIB_PATH".to_owned(),
            )
        })?;
    LOADED
        .get_or_init(|| {
            if !path.is_file() {
                return Err(ModelError::Runtime(format!(
                    "{} is no file",
                    path.display()
                )));
            }
            let failed = |error: &dyn std::fmt::Display| {
                ModelError::Runtime(format!("{}: {error}", path.display()))
            };
            let builder = ort::init_from(&path).map_err(|error| failed(&error))?;
            builder.build().map_err(|error| failed(&error))
        })
        .as_ref()
        .map_err(Clone::clone)
}

fn in_checkout() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    [PathBuf::from("."), built]
        .into_iter()
        .map(|root| root.join(".venv/lib/libonnxruntime.so"))
        .find(|file| file.is_file())
}
