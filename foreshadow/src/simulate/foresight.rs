//! Forecasts for a run: the shipped model (ONNX) on what was measured so far, or the truth.

use std::path::PathBuf;

use domain::forecast::InstanceForecast;
use domain::{
    Forecast, HorizonForecast, ModelRef, QUANTILE_LEVELS, QuantileCurve, Resource, Timestamp,
};
use forecaster::{Asking, Model};

use super::workload::Workload;
use crate::error::Failure;

/// What makes forecasts.
pub struct Foresight {
    model: Model,
    /// Where forecasts are kept from run to run.
    cache: Option<PathBuf>,
}

impl Foresight {
    /// With the shipped model, or the one in a folder.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] without model or ONNX Runtime.
    pub fn new(model: Option<&PathBuf>, cache: Option<PathBuf>) -> Result<Self, Failure> {
        let model = match model {
            Some(folder) => Model::load(folder, None),
            None => Model::shipped(None),
        };
        let model = model.map_err(Failure::unavailable("load the forecast model"))?;
        if let Some(folder) = &cache {
            std::fs::create_dir_all(folder)
                .map_err(Failure::unavailable(&format!("make {}", folder.display())))?;
        }
        Ok(Self { model, cache })
    }

    /// Name and version of the model.
    pub fn made_by(&self) -> String {
        format!("{} {}", self.model.id(), self.model.version())
    }

    /// Forecasts of all instances from what was measured before a step.
    ///
    /// # Errors
    /// The model's, or the cache's.
    pub fn at(
        &mut self,
        workload: &Workload,
        step: usize,
    ) -> Result<Vec<InstanceForecast>, Failure> {
        let mut all: Vec<InstanceForecast> = workload
            .ids
            .iter()
            .map(|id| InstanceForecast {
                instance: id.clone(),
                forecasts: Vec::new(),
            })
            .collect();
        for &resource in &workload.resources {
            let curves = self.curves(workload, resource, step)?;
            for (index, curves) in curves.into_iter().enumerate() {
                let Some(curves) = curves else { continue };
                let horizons = self.model.horizons();
                all[index].forecasts.push(forecast(
                    workload,
                    index,
                    resource,
                    step,
                    horizons.iter().copied().zip(curves).collect(),
                    ModelRef {
                        id: self.model.id().to_owned(),
                        version: self.model.version().to_owned(),
                        fallback: None,
                    },
                ));
            }
        }
        Ok(all)
    }

    fn curves(
        &mut self,
        workload: &Workload,
        resource: Resource,
        step: usize,
    ) -> Result<Vec<Option<Vec<QuantileCurve>>>, Failure> {
        let file = self.cache.as_ref().map(|folder| {
            let version = self.model.version();
            folder.join(format!("{}-{version}-{resource}-{step}.f32", workload.name))
        });
        let per_series = self.model.horizons().len() * QUANTILE_LEVELS.len();
        if let Some(known) = file.as_ref().and_then(|file| std::fs::read(file).ok())
            && known.len() == workload.ids.len() * per_series * 4
        {
            return Ok(known.chunks_exact(per_series * 4).map(parse).collect());
        }
        let context = self.model.context();
        let mut asking = Asking::default();
        for index in 0..workload.ids.len() {
            let known = workload.measured(index, resource, step);
            let known = &known[known.len().saturating_sub(context)..];
            // The trace does not say what time of day it is.
            asking.push(known, &[], None);
        }
        let curves = self
            .model
            .predict(&asking)
            .map_err(Failure::failed("forecast"))?;
        if let Some(file) = file {
            let write = Failure::failed::<std::io::Error>("keep forecasts");
            std::fs::write(file, bytes(&curves, per_series)).map_err(write)?;
        }
        Ok(curves)
    }
}

/// The truth as a forecast, some steps ahead: what an oracle would say.
pub fn truth(workload: &Workload, step: usize, ahead: usize) -> Vec<InstanceForecast> {
    let oracle = ModelRef {
        id: "truth".to_owned(),
        version: "1".to_owned(),
        fallback: None,
    };
    let certain = |index: usize, resource: Resource| {
        let last = workload.steps - 1;
        let horizons = (1..=ahead)
            .filter_map(|h| {
                let value = workload.at(index, resource, (step + h - 1).min(last));
                Some((h, QuantileCurve::certain(value)?))
            })
            .collect();
        forecast(workload, index, resource, step, horizons, oracle.clone())
    };
    (0..workload.ids.len())
        .map(|index| InstanceForecast {
            instance: workload.ids[index].clone(),
            forecasts: workload
                .resources
                .iter()
                .map(|&resource| certain(index, resource))
                .collect(),
        })
        .collect()
}

fn forecast(
    workload: &Workload,
    index: usize,
    resource: Resource,
    step: usize,
    curves: Vec<(usize, QuantileCurve)>,
    model: ModelRef,
) -> Forecast {
    Forecast {
        instance: workload.ids[index].clone(),
        resource,
        issued_at: Timestamp(step as u64 * workload.step_ms),
        data_age_ms: 0,
        samples: u32::try_from(step).unwrap_or(u32::MAX),
        cold_start: step < 288,
        model,
        last: step
            .checked_sub(1)
            .map(|last| workload.at(index, resource, last)),
        horizons: curves
            .into_iter()
            .map(|(h, demand)| HorizonForecast {
                ahead_ms: h as u64 * workload.step_ms,
                demand,
            })
            .collect(),
    }
}

fn bytes(curves: &[Option<Vec<QuantileCurve>>], per_series: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(curves.len() * per_series * 4);
    for curves in curves {
        match curves {
            Some(curves) => {
                for value in curves.iter().flat_map(QuantileCurve::values) {
                    #[expect(clippy::cast_possible_truncation, reason = "the model's own width")]
                    let value = *value as f32;
                    bytes.extend(value.to_le_bytes());
                }
            }
            None => bytes.extend(f32::NAN.to_le_bytes().repeat(per_series)),
        }
    }
    bytes
}

fn parse(bytes: &[u8]) -> Option<Vec<QuantileCurve>> {
    let values: Vec<f64> = bytes
        .chunks_exact(4)
        .map(|four| f64::from(f32::from_le_bytes([four[0], four[1], four[2], four[3]])))
        .collect();
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    values
        .chunks_exact(QUANTILE_LEVELS.len())
        .map(|curve| {
            let mut values = [0.0; QUANTILE_LEVELS.len()];
            values.copy_from_slice(curve);
            QuantileCurve::rearranged(values)
        })
        .collect()
}
