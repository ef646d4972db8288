//! The running forecaster.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::forecast::InstanceForecast;
use domain::{Announcement, Forecast, InstanceId, Readings, Resource, Timestamp};
use store::{Change, Clock, Expect, Key, Kind, Record, SharedStore, StoreError, Transaction};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::announced::Job;
use crate::book::{Book, Calibrating, Coverage, Drift, SeriesKey};
use crate::calendar::Calendar;
use crate::history::Counters;
use crate::insight::Insight;
use crate::intake::Intake;
use crate::model::{Asking, Model, ModelError};
use crate::predict::{self, Answer, Loaded, Predictor};
use crate::registry::{Registry, RegistryError};
use crate::shadow::{Said, Shadow};
use crate::{snapshot, trial};

/// Forecasts written in one transaction.
const PER_COMMIT: usize = 64;
/// Series forecast at a time, about: an instance's resources stay together.
const PER_PIECE: usize = 1_024;

/// Settings of the forecaster.
#[derive(Debug, Clone, PartialEq)]
pub struct ForecasterConfig {
    /// Length of a step in milliseconds.
    pub step_ms: u64,
    /// Time between forecasts in milliseconds; by default one step.
    pub interval_ms: Option<u64>,
    /// Folder of the model and its manifest; by default `FORESHADOW_MODEL_DIR`, or the model
    /// inside this program.
    pub model_dir: Option<PathBuf>,
    /// The ONNX Runtime library; by default `ORT_DYLIB_PATH`, or the one of the set-up.
    pub library: Option<PathBuf>,
    /// Folder in which the history survives a restart; by default it does not.
    pub snapshot_dir: Option<PathBuf>,
    /// Time between snapshots in milliseconds.
    pub snapshot_ms: u64,
    /// What is done with what calibration learns.
    pub calibrating: Calibrating,
    /// Local time, where it is to help; only with steps of five minutes, as in the training.
    pub calendar: Option<Calendar>,
    /// How a new version is tried.
    pub trial: trial::Settings,
}

impl Default for ForecasterConfig {
    fn default() -> Self {
        Self {
            step_ms: 300_000,
            interval_ms: None,
            model_dir: None,
            library: None,
            snapshot_dir: None,
            snapshot_ms: 300_000,
            calibrating: Calibrating::Adapt,
            calendar: None,
            trial: trial::Settings::default(),
        }
    }
}

impl ForecasterConfig {
    fn check(&self) -> Result<(), ForecasterError> {
        for (field, value) in [
            ("step_ms", self.step_ms),
            ("interval_ms", self.interval_ms.unwrap_or(self.step_ms)),
            ("snapshot_ms", self.snapshot_ms),
        ] {
            if !ALLOWED_MS.contains(&value) {
                return Err(ForecasterError::Setting { field, value });
            }
        }
        if self.calendar.is_some() && self.step_ms != TRAINED_MS {
            return Err(ForecasterError::Calendar(self.step_ms));
        }
        Ok(())
    }
}

/// From a tenth of a second to a day.
const ALLOWED_MS: std::ops::RangeInclusive<u64> = 100..=86_400_000;

/// The step that models were trained with.
pub const TRAINED_MS: u64 = 300_000;

/// What keeps a forecaster from starting.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForecasterError {
    /// A setting that is out of range.
    #[error("forecaster: {field} is {value}; allowed is 100 to 86400000")]
    Setting {
        /// Its name.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A calendar with other steps than those that the model counts local time in.
    #[error("forecaster: step_ms is {0}; allowed with a calendar is 300000")]
    Calendar(u64),
}

type Shared = Arc<Mutex<Book>>;

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // Every change of the book is whole once made; a panic between two leaves both whole.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running forecaster.
pub struct Forecaster {
    book: Shared,
    intake: Intake,
    cancel: CancellationToken,
    task: JoinHandle<()>,
    model: Result<String, ModelError>,
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
        config.check()?;
        let loaded = load(config);
        Self::start_with(config, loaded, store, clock)
    }

    fn start_with(
        config: &ForecasterConfig,
        loaded: Loaded,
        store: SharedStore,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ForecasterError> {
        config.check()?;
        let model = match &loaded {
            Ok(model) => {
                let (id, version) = model.made_by();
                Ok(format!("{id} {version}"))
            }
            Err(error) => {
                tracing::warn!(%error, "forecasting without the model");
                Err(error.clone())
            }
        };
        let book = Arc::new(Mutex::new(restored(config)));
        let intake = Intake::new(Arc::clone(&book), Arc::clone(&clock));
        let cancel = CancellationToken::new();
        let registry = registry(config);
        let shadow = registry.as_ref().map(|(registry, _)| {
            Shadow::new(registry.clone(), config.library.clone(), config.trial)
        });
        let worker = Worker {
            registry,
            shadow,
            config: config.clone(),
            store,
            clock,
            book: Arc::clone(&book),
            context: predict::context(&loaded),
            model: Arc::new(Mutex::new(loaded)),
        };
        let task = tokio::spawn(worker.run(cancel.clone()));
        Ok(Self {
            book,
            intake,
            cancel,
            task,
            model,
        })
    }

    /// Tells whether it runs, for as long as anybody wants to know.
    pub fn pulse(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let task = self.task.abort_handle();
        move || !task.is_finished()
    }

    /// The way in for samples of others than drivers.
    pub fn intake(&self) -> Intake {
        self.intake.clone()
    }

    /// The model in use, or why there is none.
    ///
    /// # Errors
    /// The reason for which the fallback is used.
    pub fn model(&self) -> Result<&str, &ModelError> {
        self.model.as_deref()
    }

    /// Demand known from before, one value per step, the newest at `last_at`; replaces what is
    /// known of the series.
    pub fn preload(
        &self,
        instance: &InstanceId,
        resource: Resource,
        values: &[Option<f64>],
        last_at: Timestamp,
    ) {
        lock(&self.book).preload((instance.clone(), resource), values, last_at);
    }

    /// What was odd about a series' samples; `None` for one that is not known.
    pub fn counters(&self, instance: &InstanceId, resource: Resource) -> Option<Counters> {
        lock(&self.book).counters(instance, resource)
    }

    /// How well a series' forecasts came true, per horizon that has been compared.
    pub fn coverage(&self, instance: &InstanceId, resource: Resource) -> Vec<Coverage> {
        lock(&self.book).coverage(instance, resource)
    }

    /// How well the forecasts of all series of a resource came true, by horizon.
    pub fn group_coverage(&self) -> Vec<(Resource, Coverage)> {
        lock(&self.book).group_coverage()
    }

    /// What it knows of its own forecasts, for as long as anybody wants to know.
    pub fn insight(&self) -> Insight {
        Insight::new(Arc::clone(&self.book))
    }

    /// Series whose forecasts have stopped coming true, since this was asked before.
    pub fn take_drifts(&self) -> Vec<Drift> {
        lock(&self.book).take_drifts()
    }

    /// Stops; the history is saved once more before.
    pub async fn shutdown(self) {
        self.cancel.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the forecaster ended badly");
        }
    }
}

fn load(config: &ForecasterConfig) -> Loaded {
    let folder = model_dir(config);
    let library = config.library.as_deref();
    let model = match folder {
        Some(folder) if Registry::is_one(&folder) => {
            let unreadable = |error: RegistryError| ModelError::Read {
                path: folder.display().to_string(),
                reason: error.to_string(),
            };
            Registry::open(&folder)
                .map_err(unreadable)?
                .load_active(library)?
        }
        Some(folder) => Model::load(&folder, library)?,
        None => Model::shipped(library)?,
    };
    Ok(Box::new(model))
}

/// A book with what the snapshot knows.
fn restored(config: &ForecasterConfig) -> Book {
    let mut book = Book::new(config.step_ms, config.calibrating);
    book.keep_calendar(config.calendar.clone());
    let Some(folder) = &config.snapshot_dir else {
        return book;
    };
    match snapshot::restore(folder) {
        Ok(series) => {
            let refused = book.restore(series);
            if refused > 0 {
                tracing::warn!(
                    refused,
                    step_ms = config.step_ms,
                    "series of another step length in the snapshot are not used"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the history begins anew"),
    }
    book
}

/// The registry that models come from, and its version in use.
fn registry(config: &ForecasterConfig) -> Option<(Registry, Option<String>)> {
    let folder = model_dir(config).filter(|folder| Registry::is_one(folder))?;
    let registry = Registry::open(&folder).ok()?;
    let active = registry.active().ok().flatten();
    Some((registry, active))
}

fn model_dir(config: &ForecasterConfig) -> Option<PathBuf> {
    let named = || std::env::var_os("FORESHADOW_MODEL_DIR").map(PathBuf::from);
    config.model_dir.clone().or_else(named)
}

struct Worker {
    /// Where another version may be promoted, and the one that was looked at last.
    registry: Option<(Registry, Option<String>)>,
    /// A version that is tried beside it.
    shadow: Option<Shadow>,
    config: ForecasterConfig,
    store: SharedStore,
    clock: Arc<dyn Clock>,
    book: Shared,
    context: usize,
    model: Arc<Mutex<Loaded>>,
}

impl Worker {
    async fn run(mut self, cancel: CancellationToken) {
        let mut watch = self.store.watch(Kind::Readings);
        let mut tick = ticking(self.config.interval_ms.unwrap_or(self.config.step_ms));
        let mut saving = ticking(self.config.snapshot_ms);
        saving.reset();
        let mut announced = self.store.watch(Kind::Announcement);
        self.catch_up().await;
        self.catch_up_announced().await;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                // Before readings: a flood of them must not keep forecasts back.
                _ = tick.tick() => {
                    self.refresh().await;
                    self.try_candidate().await;
                    self.expire().await;
                    if let Err(error) = self.publish().await {
                        tracing::warn!(%error, "forecasts were not published");
                    }
                }
                _ = saving.tick() => self.save().await,
                change = announced.next() => match change {
                    Some(Change::Put(record)) => self.announce(&record),
                    Some(Change::Deleted(key)) => lock(&self.book).withdraw(&key.id),
                    Some(Change::Missed) => self.catch_up_announced().await,
                    None => break,
                },
                change = watch.next() => match change {
                    Some(Change::Put(record)) => self.take_in(&record),
                    Some(Change::Deleted(key)) => lock(&self.book).forget(&key.id),
                    Some(Change::Missed) => self.catch_up().await,
                    None => break,
                },
            }
        }
        self.save().await;
    }

    /// Takes up a version that was promoted since. One that cannot be used changes nothing.
    async fn refresh(&mut self) {
        let Some((registry, known)) = &mut self.registry else {
            return;
        };
        let active = match registry.active() {
            Ok(active) if active != *known => active,
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "the model in use stays");
                return;
            }
        };
        *known = active;
        let (registry, library) = (registry.clone(), self.config.library.clone());
        let load = move || registry.load_active(library.as_deref());
        match tokio::task::spawn_blocking(load).await {
            Ok(Ok(model)) => {
                tracing::info!(model = model.id(), version = model.version(), "promoted");
                self.context = Predictor::context(&model);
                let mut current = self.model.lock().unwrap_or_else(PoisonError::into_inner);
                *current = Ok(Box::new(model));
            }
            Ok(Err(error)) => tracing::warn!(%error, "not promoted: the model in use stays"),
            Err(error) => tracing::warn!(%error, "loading the promoted model broke off"),
        }
    }

    /// Compares a candidate with what has come, and begins or ends its trial.
    async fn try_candidate(&mut self) {
        let Some(shadow) = &mut self.shadow else {
            return;
        };
        let active = self.registry.as_ref().and_then(|(_, known)| known.clone());
        shadow.look(active.as_deref()).await;
        shadow.settle(&lock(&self.book));
    }

    /// Takes back the forecasts of what nobody speaks of any more.
    async fn expire(&self) {
        let gone = lock(&self.book).expire(self.clock.now());
        for instances in gone.chunks(PER_COMMIT) {
            let mut transaction = Transaction::new();
            for instance in instances {
                let key = Key::new(Kind::Forecast, instance.as_str());
                transaction = transaction.delete(key, Expect::Any);
            }
            if let Err(error) = self.store.commit(transaction).await {
                tracing::warn!(%error, "forecasts of what is silent were not taken back");
            }
        }
    }

    /// Takes in all readings that are published now.
    async fn catch_up(&self) {
        match self.store.list(Kind::Readings).await {
            Ok(records) => records.iter().for_each(|record| self.take_in(record)),
            Err(error) => tracing::warn!(%error, "readings were not listed"),
        }
    }

    /// Takes in all announcements there are.
    async fn catch_up_announced(&self) {
        match self.store.list(Kind::Announcement).await {
            Ok(records) => records.iter().for_each(|record| self.announce(record)),
            Err(error) => tracing::warn!(%error, "announcements were not listed"),
        }
    }

    fn announce(&self, record: &Record) {
        match record
            .parse::<Announcement>()
            .map(|known| Job::new(known.value))
        {
            Ok(Ok(job)) => lock(&self.book).announce(job),
            Ok(Err(error)) => tracing::warn!(%error, "refused"),
            Err(error) => tracing::warn!(%error, "an announcement is refused"),
        }
    }

    fn take_in(&self, record: &Record) {
        match record.parse::<Readings>() {
            Ok(readings) => lock(&self.book).take_in(&readings.value, self.clock.now()),
            Err(error) => tracing::warn!(%error, "readings refused"),
        }
    }

    /// Forecasts every series, a piece at a time: neither the lock nor the memory is held for all.
    async fn publish(&mut self) -> Result<(), StoreError> {
        let mut after: Option<SeriesKey> = None;
        let mut asking = Asking::default();
        loop {
            asking.clear();
            let keys = lock(&self.book).ask(after.as_ref(), PER_PIECE, self.context, &mut asking);
            if keys.is_empty() {
                return Ok(());
            }
            after = keys.last().cloned();
            let begin = Instant::now();
            let (answers, memory) = self.predict(asking).await;
            asking = self
                .ask_candidate(memory, &keys, &answers, begin.elapsed())
                .await;
            self.write(self.forecasts(keys, answers)).await?;
        }
    }

    async fn write(
        &self,
        forecasts: BTreeMap<InstanceId, Vec<Forecast>>,
    ) -> Result<(), StoreError> {
        let mut transaction = Transaction::new();
        for (instance, forecasts) in forecasts {
            let key = Key::new(Kind::Forecast, instance.as_str());
            let record = InstanceForecast {
                instance,
                forecasts,
            };
            transaction = transaction.put(key, Expect::Any, &record)?;
            if transaction.writes.len() == PER_COMMIT {
                self.store.commit(std::mem::take(&mut transaction)).await?;
            }
        }
        if !transaction.writes.is_empty() {
            self.store.commit(transaction).await?;
        }
        Ok(())
    }

    async fn predict(&self, asking: Asking) -> (Vec<Option<Answer>>, Asking) {
        let model = Arc::clone(&self.model);
        let asking = Arc::new(asking);
        let asked = Arc::clone(&asking);
        let run = tokio::task::spawn_blocking(move || predict::predict(&model, &asked));
        let answers = run.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the model's run broke off");
            predict::fall_back(&asking, "model: its run broke off")
        });
        (answers, Arc::into_inner(asking).unwrap_or_default())
    }

    /// Asks a candidate the same, if one is tried; gives the memory back.
    async fn ask_candidate(
        &mut self,
        asking: Asking,
        keys: &[SeriesKey],
        answers: &[Option<Answer>],
        took: Duration,
    ) -> Asking {
        let Some(shadow) = &mut self.shadow else {
            return asking;
        };
        let Some(ask) = shadow.ask() else {
            return asking;
        };
        let run = tokio::task::spawn_blocking(move || (ask(&asking), asking));
        let (said, asking): (Option<Said>, Asking) = match run.await {
            Ok((said, asking)) => (Some(said), asking),
            Err(error) => {
                tracing::warn!(%error, "the run of the version that is tried broke off");
                (None, Asking::default())
            }
        };
        shadow.note(&lock(&self.book), keys, answers, took, said);
        asking
    }

    fn forecasts(
        &self,
        keys: Vec<SeriesKey>,
        answers: Vec<Option<Answer>>,
    ) -> BTreeMap<InstanceId, Vec<Forecast>> {
        let now = self.clock.now();
        let mut book = lock(&self.book);
        let mut forecasts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, answer) in keys.into_iter().zip(answers) {
            if let Some(forecast) = answer.and_then(|answer| book.publish(&key, answer, now)) {
                forecasts.entry(key.0).or_default().push(forecast);
            }
        }
        forecasts
    }

    async fn save(&self) {
        let Some(folder) = self.config.snapshot_dir.clone() else {
            return;
        };
        let series: BTreeMap<_, _> = lock(&self.book)
            .series()
            .map(|(key, series)| (key.clone(), series.clone()))
            .collect();
        let saved = tokio::task::spawn_blocking(move || snapshot::save(&folder, series.iter()));
        match saved.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the history was not saved"),
            Err(error) => tracing::warn!(%error, "saving the history broke off"),
        }
    }
}

fn ticking(every_ms: u64) -> Interval {
    let mut tick = tokio::time::interval(Duration::from_millis(every_ms));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

#[cfg(test)]
mod tests;
