//! The running forecaster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::forecast::InstanceForecast;
use domain::{
    Forecast, HorizonForecast, InstanceId, ModelRef, QuantileCurve, Readings, Resource, Timestamp,
};
use store::{Change, Clock, Expect, Key, Kind, SharedStore, StoreError, Transaction};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fallback;
use crate::history::Series;
use crate::model::{Model, ModelError};

/// Horizons of the fallback, in steps; the model brings its own.
const HORIZONS: [usize; 12] = [1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72];
/// Context of the fallback.
const CONTEXT: usize = 2_016;
/// Fewer samples than a day's: the instance's habits are not known.
const DAY: usize = 288;

/// Settings of the forecaster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForecasterConfig {
    /// Length of a step in milliseconds; forecasts are made once per step.
    pub step_ms: u64,
    /// Folder of the model and its manifest; by default `FORESHADOW_MODEL_DIR`, or the one that
    /// is shipped.
    pub model_dir: Option<PathBuf>,
    /// The ONNX Runtime library; by default `ORT_DYLIB_PATH`, or the one of the set-up.
    pub library: Option<PathBuf>,
}

impl Default for ForecasterConfig {
    fn default() -> Self {
        Self {
            step_ms: 300_000,
            model_dir: None,
            library: None,
        }
    }
}

/// What keeps a forecaster from starting.
#[derive(Debug, thiserror::Error)]
pub enum ForecasterError {
    /// A setting that is out of range.
    #[error("forecaster: step_ms is {0}; allowed is 100 and more")]
    Step(u64),
}

type SeriesKey = (InstanceId, Resource);
type Known = Arc<Mutex<BTreeMap<SeriesKey, Series>>>;

/// A running forecaster.
pub struct Forecaster {
    step_ms: u64,
    known: Known,
    cancel: CancellationToken,
    task: JoinHandle<()>,
    model: Result<String, ModelError>,
}

fn shipped() -> PathBuf {
    std::env::var_os("FORESHADOW_MODEL_DIR").map_or_else(
        || {
            let local = PathBuf::from("onnx-models/artifacts");
            if local.is_dir() {
                local
            } else {
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../onnx-models/artifacts")
            }
        },
        PathBuf::from,
    )
}

impl Forecaster {
    /// Starts forecasting. A model that cannot be used is no reason not to: see
    /// [`Forecaster::model`].
    ///
    /// # Errors
    /// [`ForecasterError`] for settings out of range.
    pub fn start(
        config: &ForecasterConfig,
        store: SharedStore,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ForecasterError> {
        if config.step_ms < 100 {
            return Err(ForecasterError::Step(config.step_ms));
        }
        let folder = config.model_dir.clone().unwrap_or_else(shipped);
        let loaded = Model::load(&folder, config.library.as_deref());
        let model = match &loaded {
            Ok(model) => Ok(format!("{} {}", model.id(), model.version())),
            Err(error) => {
                tracing::warn!(%error, "forecasting without the model");
                Err(error.clone())
            }
        };
        let known = Known::default();
        let cancel = CancellationToken::new();
        let worker = Worker {
            store,
            clock,
            known: Arc::clone(&known),
            model: Arc::new(Mutex::new(loaded)),
            step_ms: config.step_ms,
        };
        let task = tokio::spawn(worker.run(cancel.clone()));
        Ok(Self {
            step_ms: config.step_ms,
            known,
            cancel,
            task,
            model,
        })
    }

    /// The model in use, or why there is none.
    ///
    /// # Errors
    /// The reason for which the fallback is used.
    pub fn model(&self) -> Result<&str, &ModelError> {
        self.model.as_deref()
    }

    /// Demand known from before, one value per step, the newest at `last_at`.
    pub fn preload(
        &self,
        instance: &InstanceId,
        resource: Resource,
        values: &[Option<f64>],
        last_at: Timestamp,
    ) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let series = known
            .entry((instance.clone(), resource))
            .or_insert_with(|| Series::new(self.step_ms));
        series.preload(values, last_at.0);
    }

    /// Stops.
    pub async fn shutdown(self) {
        self.cancel.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the forecaster ended badly");
        }
    }
}

struct Worker {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    known: Known,
    model: Arc<Mutex<Result<Model, ModelError>>>,
    step_ms: u64,
}

impl Worker {
    async fn run(self, cancel: CancellationToken) {
        let mut watch = self.store.watch(Kind::Readings);
        let mut tick = tokio::time::interval(Duration::from_millis(self.step_ms));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                change = watch.next() => match change {
                    Some(Change::Put(record)) => match record.parse::<Readings>() {
                        Ok(readings) => self.take_in(&readings.value),
                        Err(error) => tracing::warn!(%error, "readings refused"),
                    },
                    // What was missed comes again: readings are published with their past.
                    Some(Change::Deleted(_) | Change::Missed) => {}
                    None => return,
                },
                _ = tick.tick() => {
                    if let Err(error) = self.publish().await {
                        tracing::warn!(%error, "forecasts were not published");
                    }
                }
            }
        }
    }

    fn take_in(&self, readings: &Readings) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in Resource::ALL {
            for reading in &readings.readings {
                let Some(value) = *reading.demand.get(resource) else {
                    continue;
                };
                let series = known
                    .entry((readings.instance.clone(), resource))
                    .or_insert_with(|| Series::new(self.step_ms));
                // Published with their past: only what is newer than the newest step is news.
                let newest = series.newest_ms().map(|ms| ms / self.step_ms);
                if newest.is_none_or(|newest| reading.at.0 / self.step_ms > newest) {
                    series.push(reading.at.0, value);
                }
            }
        }
    }

    async fn publish(&self) -> Result<(), StoreError> {
        let (mut keys, mut series) = (Vec::new(), Vec::new());
        for (key, known) in &*self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            if known.samples() > 0 {
                keys.push(key.clone());
                series.push(known.clone());
            }
        }
        let model = Arc::clone(&self.model);
        let histories: Vec<_> = series
            .iter()
            .map(|series| series.context(CONTEXT))
            .collect();
        let predicted = tokio::task::spawn_blocking(move || predict(&model, &histories))
            .await
            .map_err(|error| StoreError::Unavailable {
                operation: "run the model",
                reason: error.to_string(),
            })?;
        let now = self.clock.now();
        let mut by_instance: BTreeMap<InstanceId, Vec<Forecast>> = BTreeMap::new();
        for (((instance, resource), series), answer) in keys.into_iter().zip(series).zip(predicted)
        {
            let Some(answer) = answer else { continue };
            let newest = series.newest_ms().unwrap_or(now.0);
            let samples = series.samples();
            let forecast = Forecast {
                instance: instance.clone(),
                resource,
                issued_at: Timestamp(newest.min(now.0)),
                data_age_ms: now.0.saturating_sub(newest),
                samples: u32::try_from(samples).unwrap_or(u32::MAX),
                cold_start: samples < DAY,
                model: answer.model,
                last: series.last(),
                horizons: answer
                    .horizons
                    .iter()
                    .zip(answer.curves)
                    .map(|(&steps, demand)| HorizonForecast {
                        ahead_ms: steps as u64 * self.step_ms,
                        demand,
                    })
                    .collect(),
            };
            by_instance.entry(instance).or_default().push(forecast);
        }
        for (instance, forecasts) in by_instance {
            let key = Key::new(Kind::Forecast, instance.as_str());
            let record = InstanceForecast {
                instance,
                forecasts,
            };
            self.store
                .commit(Transaction::new().put(key, Expect::Any, &record)?)
                .await?;
        }
        Ok(())
    }
}

struct Answer {
    model: ModelRef,
    horizons: Vec<usize>,
    curves: Vec<QuantileCurve>,
}

/// Runs the model on all series, or the fallback where there is none.
fn predict(
    model: &Mutex<Result<Model, ModelError>>,
    histories: &[Vec<f64>],
) -> Vec<Option<Answer>> {
    let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
    let reason = match &mut *model {
        Ok(model) => match model.predict(histories) {
            Ok(curves) => {
                let made_by = ModelRef {
                    id: model.id().to_owned(),
                    version: model.version().to_owned(),
                    fallback: None,
                };
                let horizons = model.horizons().to_vec();
                let answer = |curves| Answer {
                    model: made_by.clone(),
                    horizons: horizons.clone(),
                    curves,
                };
                return curves
                    .into_iter()
                    .map(|curves| curves.map(answer))
                    .collect();
            }
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    histories
        .iter()
        .map(|history| {
            let curves = fallback::forecast(history, &HORIZONS)?;
            let model = ModelRef {
                id: "conformal-naive".to_owned(),
                version: "1".to_owned(),
                fallback: Some(reason.clone()),
            };
            Some(Answer {
                model,
                horizons: HORIZONS.to_vec(),
                curves,
            })
        })
        .collect()
}
