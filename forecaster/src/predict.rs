//! Asking the model, and the fallback where the model has no answer.

use std::sync::{Mutex, PoisonError};

use domain::{ModelRef, QuantileCurve};

use crate::fallback;
use crate::model::{Asking, Curves, Model, ModelError};

/// Horizons of the fallback, in steps; a model brings its own.
pub(crate) const HORIZONS: [usize; 16] =
    [1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72, 108, 144, 216, 288];
/// Steps of history that the fallback looks at.
const CONTEXT: usize = 2_016;

/// What makes forecasts from histories.
pub(crate) trait Predictor: Send {
    /// Its name and version.
    fn made_by(&self) -> (String, String);
    /// Steps of history it wants.
    fn context(&self) -> usize;
    /// Its horizons, in steps.
    fn horizons(&self) -> Vec<usize>;
    /// Curves per history; `None` where it has no answer.
    fn predict(&mut self, asked: &Asking) -> Result<Vec<Option<Curves>>, ModelError>;
}

impl Predictor for Model {
    fn made_by(&self) -> (String, String) {
        (self.id().to_owned(), self.version().to_owned())
    }

    fn context(&self) -> usize {
        Self::context(self)
    }

    fn horizons(&self) -> Vec<usize> {
        Self::horizons(self).to_vec()
    }

    fn predict(&mut self, asked: &Asking) -> Result<Vec<Option<Curves>>, ModelError> {
        Self::predict(self, asked)
    }
}

/// The model, or why there is none.
pub(crate) type Loaded = Result<Box<dyn Predictor>, ModelError>;

/// Steps of history that forecasting wants.
pub(crate) fn context(loaded: &Loaded) -> usize {
    loaded.as_ref().map_or(CONTEXT, |model| model.context())
}

/// A forecast of one series.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) model: ModelRef,
    pub(crate) horizons: Vec<usize>,
    pub(crate) curves: Vec<QuantileCurve>,
}

/// Forecasts of all histories; `None` where nothing is known.
pub(crate) fn predict(model: &Mutex<Loaded>, asked: &Asking) -> Vec<Option<Answer>> {
    // A run that panicked left the session as it was: the next run may succeed.
    let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
    let model = match &mut *model {
        Ok(model) => model,
        Err(error) => return fall_back(asked, &error.to_string()),
    };
    let curves = match model.predict(asked) {
        Ok(curves) if curves.len() == asked.len() => curves,
        Ok(curves) => {
            let (given, wanted) = (curves.len(), asked.len());
            return fall_back(asked, &format!("model: {given} answers to {wanted} series"));
        }
        Err(error) => return fall_back(asked, &error.to_string()),
    };
    let (id, version) = model.made_by();
    let made_by = ModelRef {
        id,
        version,
        fallback: None,
    };
    let horizons = model.horizons();
    let answer = |(place, curves): (usize, Option<_>)| match curves {
        Some(curves) => Some(Answer {
            model: made_by.clone(),
            horizons: horizons.clone(),
            curves,
        }),
        None => one(asked, place, "model: no finite answer to this series"),
    };
    curves.into_iter().enumerate().map(answer).collect()
}

/// The fallback's forecasts, with the reason for which the model did not answer.
pub(crate) fn fall_back(asked: &Asking, reason: &str) -> Vec<Option<Answer>> {
    (0..asked.len())
        .map(|place| one(asked, place, reason))
        .collect()
}

fn one(asked: &Asking, place: usize, reason: &str) -> Option<Answer> {
    let history = asked.known(place).history.iter().copied().map(f64::from);
    Some(Answer {
        model: ModelRef {
            id: "conformal-naive".to_owned(),
            version: "1".to_owned(),
            fallback: Some(reason.to_owned()),
        },
        horizons: HORIZONS.to_vec(),
        curves: fallback::forecast(&history.collect::<Vec<_>>(), &HORIZONS)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every second series, or nothing at all.
    struct Moody(Result<(), ModelError>);

    impl Predictor for Moody {
        fn made_by(&self) -> (String, String) {
            ("moody".to_owned(), "1".to_owned())
        }
        fn context(&self) -> usize {
            4
        }
        fn horizons(&self) -> Vec<usize> {
            vec![1]
        }
        fn predict(&mut self, asked: &Asking) -> Result<Vec<Option<Curves>>, ModelError> {
            self.0.clone()?;
            let curve = QuantileCurve::certain(5.0).unwrap();
            let one = |i| (i % 2 == 0).then(|| vec![curve]);
            Ok((0..asked.len()).map(one).collect())
        }
    }

    fn ask(mood: Result<(), ModelError>) -> Vec<Option<Answer>> {
        let model: Mutex<Loaded> = Mutex::new(Ok(Box::new(Moody(mood))));
        let mut asked = Asking::default();
        for value in [1.0, 2.0, 3.0, f32::NAN] {
            asked.push(&[value; 4], &[], None);
        }
        predict(&model, &asked)
    }

    #[test]
    fn a_series_the_model_has_no_answer_to_gets_a_flagged_fallback_and_the_others_the_model() {
        let answers = ask(Ok(()));
        assert_eq!(answers[0].as_ref().unwrap().model.fallback, None);
        let second = answers[1].as_ref().unwrap();
        assert!(
            second
                .model
                .fallback
                .as_ref()
                .unwrap()
                .contains("no finite answer")
        );
        assert!((second.curves[0].median() - 2.0).abs() < 1e-9);
        assert!(answers[3].is_none(), "nothing known, nothing forecast");
    }

    #[test]
    fn a_model_that_fails_while_running_is_replaced_and_the_reason_is_told() {
        for answer in ask(Err(ModelError::Runtime("out of memory".to_owned())))
            .iter()
            .take(3)
        {
            let made_by = &answer.as_ref().unwrap().model;
            assert_eq!(made_by.id, "conformal-naive");
            assert!(made_by.fallback.as_ref().unwrap().contains("out of memory"));
        }
    }
}
