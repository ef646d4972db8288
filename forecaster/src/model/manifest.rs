//! The manifest beside a model: what it is and what it promises.

use domain::QUANTILE_LEVELS;
use serde::Deserialize;

use super::ModelError;
use crate::calibrate::Widening;
use crate::features;

/// Name of the contract between trainer and forecaster.
const NAME: &str = "foreshadow-features";

/// Most steps of history, and most horizons, that a model may ask for.
const MAX_CONTEXT: usize = 100_000;
const MAX_HORIZONS: usize = 1_000;

#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) schema: u32,
    pub(super) id: String,
    pub(super) file: String,
    pub(super) sha256: String,
    pub(super) context_steps: usize,
    /// What the model is meant for; `full` where it is not said.
    tier: Option<String>,
    /// Schema 1: the raw history.
    pub(super) input: Option<Port>,
    /// Schema 2: features computed by the forecaster.
    features: Option<FeatureContract>,
    pub(super) output: Port,
    pub(super) horizons: Vec<usize>,
    pub(super) levels: Vec<f64>,
    pub(super) calibration: Option<Offline>,
}

/// What the intervals lacked on steps the model was not trained on: logarithms of factors on the
/// distance from the median, per horizon.
#[derive(Debug, Deserialize)]
pub(super) struct Offline {
    horizons: Vec<usize>,
    low: Vec<f32>,
    high: Vec<f32>,
    far_low: Vec<f32>,
    far_high: Vec<f32>,
}

impl Offline {
    fn check(&self) -> Result<(), ModelError> {
        let rising = self.horizons.windows(2).all(|pair| pair[0] < pair[1]);
        let parts = [&self.low, &self.high, &self.far_low, &self.far_high];
        let fits = |part: &&Vec<f32>| {
            part.len() == self.horizons.len() && part.iter().all(|v| v.abs() <= 2.0)
        };
        if self.horizons.is_empty() || !rising || !parts.iter().all(fits) {
            let allowed = "as many numbers from -2 to 2 in each part as there are rising horizons";
            return bad("calibration", format!("{self:?}"), allowed);
        }
        Ok(())
    }

    fn knot(&self, place: usize) -> Widening {
        let of = |part: &[f32]| part.get(place).copied().unwrap_or(0.0);
        let inner = [of(&self.low), of(&self.high)];
        Widening::new(inner, [of(&self.far_low), of(&self.far_high)])
    }

    /// Linear in the logarithm of the horizon between the manifest's.
    pub(super) fn at(&self, steps: usize) -> Widening {
        let right = self.horizons.partition_point(|&known| known < steps);
        let (Some(left), Some(&to)) = (right.checked_sub(1), self.horizons.get(right)) else {
            return self.knot(right.min(self.horizons.len().saturating_sub(1)));
        };
        let from = self.horizons[left] as f32;
        let share = (steps as f32 / from).ln() / (to as f32 / from).ln();
        self.knot(left).towards(self.knot(right), share)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Port {
    pub(super) name: String,
    dtype: String,
    shape: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct FeatureContract {
    name: String,
    version: u32,
    context: usize,
    ahead: usize,
}

impl Manifest {
    /// Names of the graph's inputs.
    pub(super) fn inputs(&self) -> Vec<String> {
        match &self.input {
            Some(input) => vec![input.name.clone()],
            None => vec!["context".to_owned(), "ahead".to_owned()],
        }
    }

    pub(super) fn tier(&self) -> &str {
        self.tier.as_deref().unwrap_or("full")
    }

    /// Reads and checks a manifest.
    pub(super) fn parse(text: &[u8]) -> Result<Self, ModelError> {
        let manifest: Self =
            serde_json::from_slice(text).map_err(|error| ModelError::Manifest {
                field: "manifest.json",
                value: error.to_string(),
                allowed: "the fields of onnx-models/README.md".to_owned(),
            })?;
        manifest.check()?;
        manifest.check_shapes()?;
        if let Some(calibration) = &manifest.calibration {
            calibration.check()?;
        }
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ModelError> {
        if !matches!(
            (self.schema, &self.input, &self.features),
            (1, Some(_), None) | (2, None, Some(_))
        ) {
            let allowed = "1 with input, or 2 with features";
            return bad("schema", self.schema.to_string(), allowed);
        }
        if self.file.is_empty() || self.file.contains(['/', '\\']) || self.file.starts_with('.') {
            return bad("file", self.file.clone(), "a name without a folder");
        }
        if self.levels != QUANTILE_LEVELS {
            let levels = format!("{QUANTILE_LEVELS:?}");
            return bad("levels", format!("{:?}", self.levels), &levels);
        }
        if !(1..=MAX_CONTEXT).contains(&self.context_steps) {
            return bad(
                "context_steps",
                self.context_steps.to_string(),
                "1 to 100000",
            );
        }
        let rising = self.horizons.windows(2).all(|pair| pair[0] < pair[1]);
        let begins = self.horizons.first().is_some_and(|&first| first > 0);
        if !rising || !begins || self.horizons.len() > MAX_HORIZONS {
            let horizons = format!("{:?}", self.horizons);
            return bad(
                "horizons",
                horizons,
                "rising steps from 1, at most 1000 of them",
            );
        }
        Ok(())
    }

    fn check_shapes(&self) -> Result<(), ModelError> {
        if let Some(input) = &self.input {
            input.check(["input.dtype", "input.shape"], &[Some(self.context_steps)])?;
            let output = [Some(self.horizons.len()), Some(QUANTILE_LEVELS.len())];
            return self.output.check(["output.dtype", "output.shape"], &output);
        }
        let output = [None, Some(QUANTILE_LEVELS.len())];
        self.output
            .check(["output.dtype", "output.shape"], &output)?;
        self.check_features()
    }

    fn check_features(&self) -> Result<(), ModelError> {
        let Some(found) = &self.features else {
            return Ok(());
        };
        let wanted = (NAME, features::VERSION, features::CONTEXT, features::AHEAD);
        let found = (
            found.name.as_str(),
            found.version,
            found.context,
            found.ahead,
        );
        if found != wanted {
            let allowed = format!("{wanted:?} (name, version, context, ahead)");
            return bad("features", format!("{found:?}"), &allowed);
        }
        if self.context_steps != features::STEPS {
            let allowed = features::STEPS.to_string();
            return bad("context_steps", self.context_steps.to_string(), &allowed);
        }
        if self
            .horizons
            .last()
            .is_some_and(|&last| last > features::DAY)
        {
            return bad(
                "horizons",
                format!("{:?}", self.horizons),
                "at most 288 steps",
            );
        }
        Ok(())
    }
}

impl Port {
    /// `dimensions` after the batch; `None` is any.
    fn check(
        &self,
        names: [&'static str; 2],
        dimensions: &[Option<usize>],
    ) -> Result<(), ModelError> {
        if self.dtype != "float32" {
            return bad(names[0], self.dtype.clone(), "float32");
        }
        let fits = |(found, wanted): (&serde_json::Value, &Option<usize>)| match wanted {
            Some(wanted) => found.as_u64() == Some(*wanted as u64),
            None => found.is_string(),
        };
        let rest = self.shape.iter().skip(1);
        if self.shape.len() != dimensions.len() + 1 || !rest.zip(dimensions).all(fits) {
            let text = |d: &Option<usize>| d.map_or("a name".to_owned(), |d| d.to_string());
            let dimensions: Vec<_> = dimensions.iter().map(text).collect();
            let allowed = format!("[\"batch\"] and then {}", dimensions.join(", "));
            return bad(names[1], format!("{:?}", self.shape), &allowed);
        }
        Ok(())
    }
}

fn bad<T>(field: &'static str, value: String, allowed: &str) -> Result<T, ModelError> {
    Err(ModelError::Manifest {
        field,
        value,
        allowed: allowed.to_owned(),
    })
}
