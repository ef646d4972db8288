//! Runs a candidate beside the model in use, where a registry names one.
//!
//! # Failure paths
//! A candidate that cannot be loaded, fails, panics or is far slower is refused by name in the
//! registry's `trial.json`; the forecasts that are published never come from it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::QuantileCurve;

use crate::book::{Book, SeriesKey};
use crate::model::{Asking, Curves, ModelError};
use crate::predict::{Answer, Predictor};
use crate::registry::Registry;
use crate::trial::{HORIZONS, Settings, Trial, Verdict};

/// How many times slower a candidate may be.
const SLOWER: u32 = 5;
/// Time that is no matter whatever the ratio.
const FREE: Duration = Duration::from_millis(250);

/// The candidate and how it stands.
pub(crate) struct Shadow {
    registry: Registry,
    library: Option<PathBuf>,
    settings: Settings,
    running: Option<Running>,
    /// One that was refused and is still named, so that it is not loaded again and again.
    refused: Option<String>,
}

struct Running {
    trial: Trial,
    model: Arc<Mutex<Box<dyn Predictor>>>,
    horizons: Vec<usize>,
    took: [Duration; 2],
    noted: u64,
}

/// What a candidate said, and how long it took.
pub(crate) type Said = (Result<Vec<Option<Curves>>, ModelError>, Duration);

impl Shadow {
    pub(crate) const fn new(
        registry: Registry,
        library: Option<PathBuf>,
        settings: Settings,
    ) -> Self {
        Self {
            registry,
            library,
            settings,
            running: None,
            refused: None,
        }
    }

    /// Begins or ends a trial as the registry says. `active` is the version in use.
    pub(crate) async fn look(&mut self, active: Option<&str>) {
        let named = match self.registry.candidate() {
            Ok(named) => named,
            Err(error) => {
                tracing::warn!(%error, "whether a version is to be tried is not known");
                return;
            }
        };
        let (Some(version), Some(active)) = (named, active) else {
            self.running = None;
            self.refused = None;
            return;
        };
        let same = |running: &Running| {
            running.trial.version() == version && running.trial.against() == active
        };
        if self.running.as_ref().is_some_and(same) || self.refused.as_ref() == Some(&version) {
            return;
        }
        let mut trial = Trial::new(self.settings, version.clone(), active.to_owned());
        let (registry, library) = (self.registry.clone(), self.library.clone());
        let load = move || registry.load_version(&version, library.as_deref());
        let loaded = tokio::task::spawn_blocking(load).await;
        let reason = match loaded {
            Ok(Ok(model)) => {
                tracing::info!(version = trial.version(), active, "a version is tried");
                self.running = Some(Running {
                    trial,
                    horizons: Predictor::horizons(&model),
                    model: Arc::new(Mutex::new(Box::new(model))),
                    took: [Duration::ZERO; 2],
                    noted: 0,
                });
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => format!("loading it broke off: {error}"),
        };
        trial.refuse(reason);
        self.end(&trial);
    }

    /// Asks the candidate, if there is one.
    pub(crate) fn ask(&self) -> Option<impl FnOnce(&Asking) -> Said + Send + use<>> {
        let model = Arc::clone(&self.running.as_ref()?.model);
        Some(move |asked: &Asking| {
            let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = Instant::now();
            let said = model.predict(asked);
            (said, begin.elapsed())
        })
    }

    /// Remembers what both said. `said` is nothing when the candidate's run broke off.
    pub(crate) fn note(
        &mut self,
        book: &Book,
        keys: &[SeriesKey],
        answers: &[Option<Answer>],
        took: Duration,
        said: Option<Said>,
    ) {
        let Some(running) = &mut self.running else {
            return;
        };
        let (said, slow) = match said {
            Some((Ok(said), slow)) if said.len() == keys.len() => (said, slow),
            Some((Ok(said), _)) => {
                let words = format!("{} answers to {} series", said.len(), keys.len());
                return running.trial.refuse(words);
            }
            Some((Err(error), _)) => return running.trial.refuse(error.to_string()),
            None => return running.trial.refuse("its run broke off".to_owned()),
        };
        running.took[0] += slow;
        running.took[1] += took;
        if running.took[0] > running.took[1] * SLOWER + FREE {
            let [new, old] = running.took;
            let words = format!("it takes {new:?} where the one in use takes {old:?}");
            return running.trial.refuse(words);
        }
        for ((key, answer), said) in keys.iter().zip(answers).zip(&said) {
            // The fallback is no measure.
            let Some(answer) = answer.as_ref().filter(|one| one.model.fallback.is_none()) else {
                continue;
            };
            let Some(newest) = book.newest_step(key) else {
                continue;
            };
            for steps in HORIZONS {
                let place = |horizons: &[usize]| horizons.iter().position(|&h| h == steps);
                let old = place(&answer.horizons).and_then(|at| answer.curves.get(at));
                let (Some(old), Some(at)) = (old, place(&running.horizons)) else {
                    continue;
                };
                let new: Option<&QuantileCurve> = said.as_ref().and_then(|said| said.get(at));
                let step = newest.saturating_add(steps as u64);
                running.trial.note(key, step, new, old);
            }
        }
    }

    /// Compares with what has come, and acts on what follows.
    pub(crate) fn settle(&mut self, book: &Book) {
        let Some(running) = &mut self.running else {
            return;
        };
        // The newest step is still in the making.
        if let Some(newest) = book.newest().and_then(|step| step.checked_sub(1)) {
            let truth = |key: &SeriesKey, step| book.value_at(key, step);
            running.trial.settle(newest, truth);
        }
        let report = running.trial.report();
        if report.verdict == Verdict::Running {
            if report.blocks > running.noted {
                running.noted = report.blocks;
                self.write(&report);
            }
            return;
        }
        if let Some(running) = self.running.take() {
            self.end(&running.trial);
        }
    }

    fn end(&mut self, trial: &Trial) {
        let mut report = trial.report();
        if report.verdict == Verdict::Promoted
            && let Err(error) = self.registry.promote(&report.version)
        {
            report.verdict = Verdict::Refused(error.to_string());
        }
        match &report.verdict {
            Verdict::Running => {}
            Verdict::Promoted => tracing::info!(?report, "a version was tried and is used"),
            Verdict::Refused(reason) => {
                tracing::warn!(?report, reason, "a version was tried and is not used");
            }
        }
        self.running = None;
        self.refused = Some(report.version.clone());
        self.write(&report);
        if let Err(error) = self.registry.end_trial() {
            tracing::warn!(%error, "the trial is over and still named in the registry");
        }
    }

    fn write(&self, report: &crate::trial::Report) {
        let text = match serde_json::to_string(report) {
            Ok(text) => text,
            Err(error) => return tracing::warn!(%error, "a trial was not written down"),
        };
        if let Err(error) = self.registry.note_trial(&text) {
            tracing::warn!(%error, "a trial was not written down");
        }
    }
}
