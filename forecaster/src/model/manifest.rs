//! The manifest beside a model: what it is and what it promises.

use domain::QUANTILE_LEVELS;
use serde::Deserialize;

use super::ModelError;

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
    pub(super) input: Port,
    pub(super) output: Port,
    pub(super) horizons: Vec<usize>,
    pub(super) levels: Vec<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Port {
    pub(super) name: String,
    dtype: String,
    shape: Vec<serde_json::Value>,
}

impl Manifest {
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
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ModelError> {
        if self.schema != 1 {
            return bad("schema", self.schema.to_string(), "1");
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
        let input = vec![self.context_steps];
        let output = vec![self.horizons.len(), QUANTILE_LEVELS.len()];
        for (names, port, dimensions) in [
            (["input.dtype", "input.shape"], &self.input, input),
            (["output.dtype", "output.shape"], &self.output, output),
        ] {
            if port.dtype != "float32" {
                return bad(names[0], port.dtype.clone(), "float32");
            }
            let found: Vec<_> = port
                .shape
                .iter()
                .skip(1)
                .map(serde_json::Value::as_u64)
                .collect();
            let wanted: Vec<_> = dimensions.iter().map(|&d| Some(d as u64)).collect();
            if port.shape.is_empty() || found != wanted {
                let allowed = format!("[\"batch\"] and then {dimensions:?}");
                return bad(names[1], format!("{:?}", port.shape), &allowed);
            }
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
