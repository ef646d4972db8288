//! Readings of demand, and forecasts of it.

use serde::{Deserialize, Serialize};

use crate::ids::InstanceId;
use crate::quantile::QuantileCurve;
use crate::units::{Resource, Resources, Timestamp};

/// Demand of one instance at one time; `None` where a resource was not measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// When the measured interval ended.
    pub at: Timestamp,
    /// Millicores, bytes, bytes per second.
    pub demand: Resources<Option<f64>>,
}

/// The newest readings of an instance, oldest first. Published whole, so that a reader that
/// missed an update loses nothing; readers drop what they have seen by its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// Whose demand.
    pub instance: InstanceId,
    /// Up to [`Readings::KEPT`] readings.
    pub readings: Vec<Reading>,
}

impl Readings {
    /// How many readings are published at a time.
    pub const KEPT: usize = 64;
}

/// Which model made a forecast.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelRef {
    /// Name of the model, or of the fallback method.
    pub id: String,
    /// Its version (the first hex digits of the model file's SHA-256), or the method's version.
    pub version: String,
    /// Set when this is not the model that should have answered: why it could not.
    pub fallback: Option<String>,
}

/// The distribution of demand at one horizon.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HorizonForecast {
    /// Milliseconds ahead of [`Forecast::issued_at`].
    pub ahead_ms: u64,
    /// Quantiles of the demand at that time.
    pub demand: QuantileCurve,
}

/// Predicted demand of one instance for one resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Whose demand.
    pub instance: InstanceId,
    /// Of which resource.
    pub resource: Resource,
    /// When it was made.
    pub issued_at: Timestamp,
    /// Age of the newest reading it rests on, in milliseconds.
    pub data_age_ms: u64,
    /// Number of readings it rests on.
    pub samples: u32,
    /// Set when there is too little history to know the instance's habits.
    pub cold_start: bool,
    /// What made it.
    pub model: ModelRef,
    /// The newest reading.
    pub last: Option<f64>,
    /// Horizons, nearest first.
    pub horizons: Vec<HorizonForecast>,
}

impl Forecast {
    /// The forecast at the horizon nearest to `ahead_ms`.
    pub fn nearest(&self, ahead_ms: u64) -> Option<&HorizonForecast> {
        self.horizons
            .iter()
            .min_by_key(|horizon| horizon.ahead_ms.abs_diff(ahead_ms))
    }
}

/// All forecasts of one instance, published as one record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceForecast {
    /// Whose demand.
    pub instance: InstanceId,
    /// One forecast per resource that has readings.
    pub forecasts: Vec<Forecast>,
}

impl InstanceForecast {
    /// The forecast of one resource.
    pub fn of(&self, resource: Resource) -> Option<&Forecast> {
        self.forecasts
            .iter()
            .find(|forecast| forecast.resource == resource)
    }
}
