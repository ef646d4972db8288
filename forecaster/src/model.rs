//! The ONNX model: loading it through its manifest, and running it.
//!
//! A model is used only when its SHA-256 is the manifest's, the manifest's contract is ours, and
//! two trial runs give curves of the promised shape. One model is shipped inside the program.

mod manifest;
mod runtime;

use std::fmt::Write as _;
use std::path::Path;

use domain::{QUANTILE_LEVELS, QuantileCurve};
use ort::session::Session;
use ort::value::Tensor;
use sha2::{Digest, Sha256};

use manifest::Manifest;

/// Largest model file that is read.
const MAX_MODEL: u64 = 256 * 1024 * 1024;
/// Series per run: more would only push the features out of the processor's caches.
const BATCH: usize = 256;
/// The model that is shipped, and its manifest.
const SHIPPED: [&[u8]; 2] = [
    include_bytes!("../../onnx-models/artifacts/manifest.json"),
    include_bytes!("../../onnx-models/artifacts/demand.onnx"),
];

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
        let manifest = Manifest::parse(&read(&folder.join("manifest.json"))?)?;
        let bytes = read(&folder.join(&manifest.file))?;
        Self::build(manifest, &bytes, library)
    }

    /// The model that is shipped inside this program.
    ///
    /// # Errors
    /// [`ModelError::Runtime`] when the runtime's library is missing.
    pub fn shipped(library: Option<&Path>) -> Result<Self, ModelError> {
        let [manifest, model] = SHIPPED;
        Self::build(Manifest::parse(manifest)?, model, library)
    }

    fn build(manifest: Manifest, bytes: &[u8], library: Option<&Path>) -> Result<Self, ModelError> {
        let found = hex(&Sha256::digest(bytes));
        if manifest.sha256 != found {
            return Err(ModelError::Hash {
                found,
                wanted: manifest.sha256,
            });
        }
        let session = runtime::session(bytes, library)?;
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
        let trial = [vec![f64::NAN; model.context], vec![1.0; model.context]];
        match model.predict(&trial)?.as_slice() {
            [None, Some(_)] => Ok(model),
            _ => Err(ModelError::Answer(
                "a constant history has no finite forecast".to_owned(),
            )),
        }
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

    /// Curves per history and horizon. `None` for a history of nothing but gaps, and for one the
    /// model has no finite answer to.
    ///
    /// # Errors
    /// [`ModelError`] when the runtime fails or the answer has the wrong shape.
    pub fn predict(&mut self, histories: &[Vec<f64>]) -> Result<Vec<Option<Curves>>, ModelError> {
        let mut answers = Vec::with_capacity(histories.len());
        for batch in histories.chunks(BATCH) {
            answers.append(&mut self.run(batch)?);
        }
        Ok(answers)
    }

    fn run(&mut self, histories: &[Vec<f64>]) -> Result<Vec<Option<Curves>>, ModelError> {
        if let Some(wrong) = histories.iter().find(|h| h.len() != self.context) {
            return Err(ModelError::Answer(format!(
                "a history has {} steps; allowed is {}",
                wrong.len(),
                self.context
            )));
        }
        let runtime = |error: ort::Error| ModelError::Runtime(error.to_string());
        #[expect(clippy::cast_possible_truncation, reason = "the model computes in f32")]
        let flat: Vec<f32> = histories
            .iter()
            .flatten()
            .map(|&value| value as f32)
            .collect();
        let tensor =
            Tensor::from_array(([histories.len(), self.context], flat)).map_err(runtime)?;
        let outputs = self
            .session
            .run(ort::inputs![self.input.as_str() => tensor])
            .map_err(runtime)?;
        let answer = outputs
            .get(self.output.as_str())
            .ok_or_else(|| ModelError::Answer(format!("no output {:?}", self.output)))?;
        let (shape, values) = answer.try_extract_tensor::<f32>().map_err(runtime)?;
        let per_series = self.horizons.len() * QUANTILE_LEVELS.len();
        let wanted = [histories.len(), self.horizons.len(), QUANTILE_LEVELS.len()];
        let found = shape.iter().map(|&d| usize::try_from(d).ok());
        if !found.eq(wanted.map(Some)) {
            return Err(ModelError::Answer(format!(
                "the output has shape {shape:?}; the manifest promises {wanted:?}"
            )));
        }
        let of_series = |(history, values): (&Vec<f64>, &[f32])| {
            let known = history.iter().any(|value| value.is_finite());
            known.then(|| curves(values)).flatten()
        };
        let answers = values.chunks_exact(per_series);
        Ok(histories.iter().zip(answers).map(of_series).collect())
    }
}

/// One curve per horizon.
pub type Curves = Vec<QuantileCurve>;

/// The curves of one series, if all their values are finite.
fn curves(values: &[f32]) -> Option<Curves> {
    let one = |values: &[f32]| {
        let mut curve = [0.0; QUANTILE_LEVELS.len()];
        for (to, &from) in curve.iter_mut().zip(values) {
            if !from.is_finite() {
                return None;
            }
            *to = f64::from(from);
        }
        QuantileCurve::rearranged(curve)
    };
    values
        .chunks_exact(QUANTILE_LEVELS.len())
        .map(one)
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
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
