//! The ONNX model: loading it through its manifest, and running it.
//!
//! A model is used only when its SHA-256 is the manifest's, the manifest's contract is ours, and
//! two trial runs give curves of the promised shape. One model is shipped inside the program.

mod asking;
mod external;
mod manifest;
mod runtime;

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use domain::{QUANTILE_LEVELS, QuantileCurve};
use ort::session::Session;
use ort::value::{Outlet, TensorRef};
use sha2::{Digest, Sha256};

pub use asking::Asking;
use manifest::{Manifest, Offline};

use crate::calibrate::Widening;
use crate::features::{self, Scaling, Scratch};

/// Largest model file that is read.
const MAX_MODEL: u64 = 256 * 1024 * 1024;
/// Series per run: more would only push the features out of the processor's caches.
const BATCH: usize = 64;
/// The model that is shipped, and its manifest.
const SHIPPED: [&[u8]; 2] = [
    include_bytes!("../../onnx-models/artifacts/manifest.json"),
    include_bytes!("../../onnx-models/artifacts/demand.onnx"),
];

const SHIPPED_SMALL: [&[u8]; 2] = [
    include_bytes!("../../onnx-models/artifacts/manifest-small.json"),
    include_bytes!("../../onnx-models/artifacts/demand-small.onnx"),
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
    tier: String,
    contract: Contract,
    output: String,
    context: usize,
    horizons: Vec<usize>,
    calibration: Option<Offline>,
}

/// What a model reads.
enum Contract {
    /// The raw history, by the name of its input; its horizons are fixed.
    History(String),
    /// The features of `features`, for any horizons.
    Features(Buffers),
}

/// Working memory of feature models: made once, used for every batch.
#[derive(Default)]
struct Buffers {
    scratch: Scratch,
    context: Vec<f32>,
    ahead: Vec<f32>,
    scaling: Vec<Option<Scaling>>,
}

impl Model {
    /// Loads `manifest.json` and the model it names from a folder.
    ///
    /// # Errors
    /// [`ModelError`] saying which part is wrong; nothing is kept.
    pub fn load(folder: &Path, library: Option<&Path>) -> Result<Self, ModelError> {
        Self::open(&folder.join("manifest.json"), library)
    }

    /// Loads the model that a manifest names, from the manifest's folder.
    ///
    /// # Errors
    /// [`ModelError`] saying which part is wrong; nothing is kept.
    pub fn open(manifest: &Path, library: Option<&Path>) -> Result<Self, ModelError> {
        let parsed = Manifest::parse(&read(manifest)?)?;
        let folder = manifest.parent().unwrap_or(Path::new("."));
        let bytes = read(&folder.join(&parsed.file))?;
        Self::build(parsed, &bytes, library)
    }

    /// The full model that is shipped inside this program.
    ///
    /// # Errors
    /// [`ModelError::Runtime`] when the runtime's library is missing.
    pub fn shipped(library: Option<&Path>) -> Result<Self, ModelError> {
        let [manifest, model] = SHIPPED;
        Self::build(Manifest::parse(manifest)?, model, library)
    }

    /// The small model that is shipped inside this program.
    ///
    /// # Errors
    /// [`ModelError::Runtime`] when the runtime's library is missing.
    pub fn shipped_small(library: Option<&Path>) -> Result<Self, ModelError> {
        let [manifest, model] = SHIPPED_SMALL;
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
        external::refuse(bytes)?;
        let session = runtime::session(bytes, library)?;
        let inputs = names(session.inputs().iter().map(Outlet::name));
        let outputs = names(session.outputs().iter().map(Outlet::name));
        let wanted = manifest.inputs();
        if !wanted.iter().all(|name| inputs.iter().any(|i| i == name))
            || !outputs.contains(&manifest.output.name)
        {
            return Err(ModelError::Answer(format!(
                "the graph has inputs {inputs:?} and outputs {outputs:?}; the manifest names {wanted:?} and {:?}",
                manifest.output.name
            )));
        }
        let mut model = Self {
            session,
            version: found.chars().take(12).collect(),
            tier: manifest.tier().to_owned(),
            contract: match &manifest.input {
                Some(input) => Contract::History(input.name.clone()),
                None => Contract::Features(Buffers::default()),
            },
            id: manifest.id,
            output: manifest.output.name,
            context: manifest.context_steps,
            horizons: manifest.horizons,
            calibration: manifest.calibration,
        };
        model.try_out()?;
        Ok(model)
    }

    /// One run on nothing but gaps and one on a constant: a graph of other shapes fails here, not
    /// in the middle of the night.
    fn try_out(&mut self) -> Result<(), ModelError> {
        let mut trial = Asking::default();
        trial.push(&[], &[], None);
        let constant = vec![1.0; self.context];
        trial.push(&constant, &[], None);
        match self.predict(&trial)?.as_slice() {
            [None, Some(_)] => Ok(()),
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

    /// Its tier: `full`, `small`, or what its manifest says.
    pub fn tier(&self) -> &str {
        &self.tier
    }

    /// Steps of history it wants.
    pub const fn context(&self) -> usize {
        self.context
    }

    /// Horizons it forecasts, in steps.
    pub fn horizons(&self) -> &[usize] {
        &self.horizons
    }

    /// Curves per history and horizon of the model. `None` for a history of nothing but gaps, and
    /// for one the model has no finite answer to.
    ///
    /// # Errors
    /// [`ModelError`] when the runtime fails or the answer has the wrong shape.
    pub fn predict(&mut self, asked: &Asking) -> Result<Vec<Option<Curves>>, ModelError> {
        let horizons = self.horizons.clone();
        self.predict_at(asked, &horizons)
    }

    /// Curves at these horizons, in steps from 1 to a day.
    ///
    /// # Errors
    /// [`ModelError`] as for [`Model::predict`], and for horizons that the model does not have.
    pub fn predict_at(
        &mut self,
        asked: &Asking,
        horizons: &[usize],
    ) -> Result<Vec<Option<Curves>>, ModelError> {
        if matches!(self.contract, Contract::History(_)) && horizons != self.horizons {
            return Err(ModelError::Answer(format!(
                "horizons {horizons:?}; this model has {:?}",
                self.horizons
            )));
        }
        let mut answers = Vec::with_capacity(asked.len());
        for begin in (0..asked.len()).step_by(BATCH) {
            let batch = begin..(begin + BATCH).min(asked.len());
            self.run(asked, batch, horizons, &mut answers)?;
        }
        Ok(answers)
    }

    fn run(
        &mut self,
        asked: &Asking,
        batch: Range<usize>,
        horizons: &[usize],
        answers: &mut Vec<Option<Curves>>,
    ) -> Result<(), ModelError> {
        let wanted = [batch.len(), horizons.len(), QUANTILE_LEVELS.len()];
        let flat;
        let mut scaling: Option<&[Option<Scaling>]> = None;
        let outputs = match &mut self.contract {
            Contract::History(input) => {
                flat = asked.padded(batch.clone(), self.context);
                let tensor =
                    TensorRef::from_array_view(([batch.len(), self.context], flat.as_slice()))
                        .map_err(runtime)?;
                self.session.run(ort::inputs![input.as_str() => tensor])
            }
            Contract::Features(buffers) => {
                buffers.fill(asked, batch.clone(), horizons);
                let (context, ahead) = (buffers.context.as_slice(), buffers.ahead.as_slice());
                scaling = Some(&buffers.scaling);
                let context =
                    TensorRef::from_array_view(([batch.len(), features::CONTEXT], context))
                        .map_err(runtime)?;
                let shape = [batch.len(), horizons.len(), features::AHEAD];
                let ahead = TensorRef::from_array_view((shape, ahead)).map_err(runtime)?;
                self.session
                    .run(ort::inputs!["context" => context, "ahead" => ahead])
            }
        }
        .map_err(runtime)?;
        let answer = outputs
            .get(self.output.as_str())
            .ok_or_else(|| ModelError::Answer(format!("no output {:?}", self.output)))?;
        let (shape, values) = answer.try_extract_tensor::<f32>().map_err(runtime)?;
        if !shape
            .iter()
            .map(|&d| usize::try_from(d).ok())
            .eq(wanted.map(Some))
        {
            return Err(ModelError::Answer(format!(
                "the output has shape {shape:?}; the manifest promises {wanted:?}"
            )));
        }
        let per_series = horizons.len() * QUANTILE_LEVELS.len();
        let widening = |&steps: &usize| {
            self.calibration
                .as_ref()
                .map_or(Widening::default(), |c| c.at(steps))
        };
        let widening: Vec<_> = horizons.iter().map(widening).collect();
        for (place, values) in batch.clone().zip(values.chunks_exact(per_series)) {
            let scaling = match scaling {
                None => asked.is_known(place).then_some(Scaling::NONE),
                Some(scaling) => scaling.get(place - batch.start).copied().flatten(),
            };
            answers.push(scaling.and_then(|scaling| curves(values, scaling, &widening)));
        }
        Ok(())
    }
}

impl Buffers {
    fn fill(&mut self, asked: &Asking, batch: Range<usize>, horizons: &[usize]) {
        self.context.resize(batch.len() * features::CONTEXT, 0.0);
        let per_series = horizons.len() * features::AHEAD;
        self.ahead.resize(batch.len() * per_series, 0.0);
        self.scaling.clear();
        let contexts = self.context.chunks_exact_mut(features::CONTEXT);
        let aheads = self.ahead.chunks_exact_mut(per_series.max(1));
        for ((place, context), ahead) in batch.zip(contexts).zip(aheads) {
            let known = asked.known(place);
            let scaling = features::extract(&known, horizons, &mut self.scratch, context, ahead);
            if scaling.is_none() {
                context.fill(0.0);
                ahead.fill(0.0);
            }
            self.scaling.push(scaling);
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn runtime(error: ort::Error) -> ModelError {
    ModelError::Runtime(error.to_string())
}

fn names<'a>(ports: impl Iterator<Item = &'a str>) -> Vec<String> {
    ports.map(ToOwned::to_owned).collect()
}

/// One curve per horizon.
pub type Curves = Vec<QuantileCurve>;

/// The curves of one series, if all their values are finite.
fn curves(values: &[f32], scaling: Scaling, widening: &[Widening]) -> Option<Curves> {
    let one = |(values, widening): (&[f32], &Widening)| {
        let mut curve = [0.0; QUANTILE_LEVELS.len()];
        for (to, &from) in curve.iter_mut().zip(values) {
            if !from.is_finite() {
                return None;
            }
            *to = scaling.restore(from);
        }
        QuantileCurve::rearranged(curve).map(|curve| widening.apply(&curve))
    };
    values
        .chunks_exact(QUANTILE_LEVELS.len())
        .zip(widening)
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
