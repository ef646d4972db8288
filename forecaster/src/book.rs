//! All series, each with its calibration: what the service knows.

use std::collections::{BTreeMap, VecDeque};

use domain::{Forecast, HorizonForecast, InstanceId, QuantileCurve, Readings, Resource, Timestamp};

use crate::calibrate::{Calibration, Interval};
use crate::history::{Counters, Series};
use crate::predict::Answer;
use crate::snapshot::Named;

/// Fewer samples than a day of five-minute steps: the instance's habits are not known.
const DAY: usize = 288;
/// Most series that are kept: 100 000 instances with all their resources.
const MAX_SERIES: usize = 400_000;

/// What happens with what calibration has learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Calibrating {
    /// Coverage is watched; curves are published as the model gave them.
    #[default]
    Observe,
    /// Curves are drawn wider or narrower, so that 80 % of truths fall inside 80 % intervals.
    Adapt,
}

/// Name of a series.
pub(crate) type SeriesKey = (InstanceId, Resource);

/// How well the forecasts of a series come true at one horizon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coverage {
    /// The horizon, in steps.
    pub steps: usize,
    /// Truths compared.
    pub seen: u64,
    /// Share of them inside the 80 % interval.
    pub inside: f64,
    /// The widening factor that calibration has come to.
    pub factor: f64,
}

#[derive(Debug, Default)]
struct AtHorizon {
    calibration: Calibration,
    /// Intervals whose truth is not known yet, by step.
    open: VecDeque<(u64, Interval)>,
}

#[derive(Debug)]
struct Entry {
    series: Series,
    horizons: BTreeMap<usize, AtHorizon>,
    /// The newest step when the last forecast was made.
    forecast_at: Option<u64>,
}

/// All series.
#[derive(Debug)]
pub(crate) struct Book {
    step_ms: u64,
    calibrating: Calibrating,
    entries: BTreeMap<SeriesKey, Entry>,
    /// Readings for which there was no room.
    no_room: u64,
}

impl Book {
    pub(crate) fn new(step_ms: u64, calibrating: Calibrating) -> Self {
        Self {
            step_ms,
            calibrating,
            entries: BTreeMap::new(),
            no_room: 0,
        }
    }

    fn entry(&mut self, key: SeriesKey) -> Option<&mut Entry> {
        if self.entries.len() >= MAX_SERIES && !self.entries.contains_key(&key) {
            self.no_room += 1;
            if self.no_room.is_power_of_two() {
                tracing::warn!(instance = %key.0, resource = %key.1, limit = MAX_SERIES,
                    "too many series: readings are left out");
            }
            return None;
        }
        let step_ms = self.step_ms;
        Some(self.entries.entry(key).or_insert_with(|| Entry {
            series: Series::new(step_ms),
            horizons: BTreeMap::new(),
            forecast_at: None,
        }))
    }

    /// Takes in readings; what was seen before is passed over, because readings are published
    /// together with those before them.
    pub(crate) fn take_in(&mut self, readings: &Readings, now: Timestamp) {
        for resource in Resource::ALL {
            let key = (readings.instance.clone(), resource);
            let seen = self
                .entries
                .get(&key)
                .and_then(|entry| entry.series.newest_at_ms());
            let news = readings
                .readings
                .iter()
                .filter(|reading| seen.is_none_or(|seen| reading.at.0 > seen))
                .filter_map(|reading| Some((reading.at.0, (*reading.demand.get(resource))?)));
            let news: Vec<_> = news.collect();
            if news.is_empty() {
                continue;
            }
            let Some(entry) = self.entry(key) else { return };
            for (at, value) in news {
                entry.series.push(at, value, now.0);
            }
        }
    }

    /// Forgets an instance that is no more.
    pub(crate) fn forget(&mut self, instance: &str) {
        self.entries
            .retain(|(known, _), _| known.as_str() != instance);
    }

    pub(crate) fn preload(&mut self, key: SeriesKey, values: &[Option<f64>], last_at: Timestamp) {
        if let Some(entry) = self.entry(key) {
            entry.series.preload(values, last_at.0);
        }
    }

    /// Takes over restored series; those of another step length are refused and counted.
    pub(crate) fn restore(&mut self, named: Vec<Named>) -> usize {
        let mut refused = 0;
        for (key, series) in named {
            if series.step_ms() != self.step_ms {
                refused += 1;
            } else if let Some(entry) = self.entry(key) {
                entry.series = series;
            }
        }
        refused
    }

    pub(crate) fn series(&self) -> impl Iterator<Item = (&SeriesKey, &Series)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.series))
    }

    pub(crate) fn counters(&self, instance: &InstanceId, resource: Resource) -> Option<Counters> {
        let entry = self.entries.get(&(instance.clone(), resource))?;
        Some(entry.series.counters())
    }

    pub(crate) fn coverage(&self, instance: &InstanceId, resource: Resource) -> Vec<Coverage> {
        let entry = self.entries.get(&(instance.clone(), resource));
        let of = |(&steps, at): (&usize, &AtHorizon)| {
            Some(Coverage {
                steps,
                seen: at.calibration.seen(),
                inside: at.calibration.coverage()?,
                factor: at.calibration.factor(),
            })
        };
        entry
            .into_iter()
            .flat_map(|entry| entry.horizons.iter().filter_map(of))
            .collect()
    }

    /// The histories to forecast from.
    pub(crate) fn histories(&self, context: usize) -> (Vec<SeriesKey>, Vec<Vec<f64>>) {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.series.last().is_some())
            .map(|(key, entry)| (key.clone(), entry.series.context(context)))
            .unzip()
    }

    /// The forecast to publish of an answer; `None` when the series is no more.
    pub(crate) fn publish(
        &mut self,
        key: &SeriesKey,
        answer: Answer,
        now: Timestamp,
    ) -> Option<Forecast> {
        let entry = self.entries.get_mut(key)?;
        let newest = entry.series.newest_ms()?;
        let samples = entry.series.samples();
        entry.settle();
        let curves = entry.calibrated(&answer, self.calibrating);
        let step_ms = self.step_ms;
        Some(Forecast {
            instance: key.0.clone(),
            resource: key.1,
            issued_at: Timestamp(newest.min(now.0)),
            data_age_ms: now.0.saturating_sub(newest),
            samples: u32::try_from(samples).unwrap_or(u32::MAX),
            cold_start: samples < DAY,
            model: answer.model,
            last: entry.series.last(),
            horizons: curves
                .into_iter()
                .map(|(steps, demand)| HorizonForecast {
                    ahead_ms: (steps as u64).saturating_mul(step_ms),
                    demand,
                })
                .collect(),
        })
    }
}

impl Entry {
    /// Compares what was forecast with what has come true; the newest step is still in the making.
    fn settle(&mut self) {
        let Some(newest) = self.series.newest_step() else {
            return;
        };
        for at in self.horizons.values_mut() {
            while at.open.front().is_some_and(|(step, _)| *step < newest) {
                if let Some((step, interval)) = at.open.pop_front() {
                    // A gap teaches nothing.
                    let truth = self.series.value_at(step).unwrap_or(f64::NAN);
                    at.calibration.learn(interval, truth);
                }
            }
        }
    }

    /// Curves as they are published, remembered until their truth is known: once per step.
    fn calibrated(
        &mut self,
        answer: &Answer,
        calibrating: Calibrating,
    ) -> Vec<(usize, QuantileCurve)> {
        let newest = self.series.newest_step();
        let fresh = newest != self.forecast_at;
        self.forecast_at = newest;
        let one = |(&steps, curve): (&usize, &QuantileCurve)| {
            let at = self.horizons.entry(steps).or_default();
            let curve = match calibrating {
                Calibrating::Observe => *curve,
                Calibrating::Adapt => at.calibration.apply(curve),
            };
            if let Some(newest) = newest.filter(|_| fresh) {
                let step = newest.saturating_add(steps as u64);
                at.open.push_back((step, Interval::of(&curve)));
            }
            (steps, curve)
        };
        answer
            .horizons
            .iter()
            .zip(&answer.curves)
            .map(one)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use domain::{ModelRef, QUANTILE_LEVELS, Reading, Resources};

    use super::*;

    fn instance() -> InstanceId {
        InstanceId::new("a1").unwrap()
    }

    fn readings(samples: &[(u64, f64)]) -> Readings {
        let reading = |&(at, cpu): &(u64, f64)| Reading {
            at: Timestamp(at),
            demand: Resources {
                cpu: Some(cpu),
                ..Resources::default()
            },
        };
        Readings {
            instance: instance(),
            readings: samples.iter().map(reading).collect(),
        }
    }

    fn narrow() -> Answer {
        let values = QUANTILE_LEVELS.map(|level| 100.0 + level);
        Answer {
            model: ModelRef {
                id: "test".to_owned(),
                version: "1".to_owned(),
                fallback: None,
            },
            horizons: vec![1, 3],
            curves: vec![QuantileCurve::new(values).unwrap(); 2],
        }
    }

    fn run(calibrating: Calibrating, steps: u64) -> (Book, Forecast) {
        let mut book = Book::new(1_000, calibrating);
        let key = (instance(), Resource::Cpu);
        let mut last = None;
        for step in 1..=steps {
            let now = Timestamp(step * 1_000);
            // Always outside the curves' interval.
            book.take_in(&readings(&[(step * 1_000, 300.0)]), now);
            last = book.publish(&key, narrow(), now);
        }
        (book, last.unwrap())
    }

    #[test]
    fn readings_published_again_are_counted_once_and_a_step_takes_all_its_samples_in() {
        let mut book = Book::new(1_000, Calibrating::Observe);
        book.take_in(&readings(&[(1_000, 10.0)]), Timestamp(9_000));
        book.take_in(&readings(&[(1_000, 10.0), (1_500, 20.0)]), Timestamp(9_000));
        book.take_in(&readings(&[(1_500, 20.0), (2_000, 5.0)]), Timestamp(9_000));
        let (_, histories) = book.histories(2);
        assert_eq!(histories, [[15.0, 5.0]]);
        let counters = book.counters(&instance(), Resource::Cpu).unwrap();
        assert_eq!(
            (counters.merged, counters.duplicates, counters.late),
            (1, 0, 0)
        );
    }

    #[test]
    fn coverage_is_learnt_per_horizon_from_what_came_true() {
        let (book, _) = run(Calibrating::Observe, 10);
        let coverage = book.coverage(&instance(), Resource::Cpu);
        // Ten steps, of which the newest is open: nine less the horizon.
        let seen: Vec<_> = coverage.iter().map(|c| (c.steps, c.seen)).collect();
        assert_eq!(seen, [(1, 8), (3, 6)]);
        assert!(coverage.iter().all(|c| c.inside == 0.0 && c.factor > 1.0));
    }

    #[test]
    fn curves_are_widened_only_when_asked() {
        let width = |calibrating| {
            let (_, forecast) = run(calibrating, 40);
            let curve = forecast.horizons[0].demand;
            curve.at(0.9) - curve.at(0.1)
        };
        assert!((width(Calibrating::Observe) - 0.8).abs() < 1e-9);
        assert!(width(Calibrating::Adapt) > 1.0);
    }

    #[test]
    fn an_instance_that_is_gone_is_forgotten() {
        let (mut book, _) = run(Calibrating::Observe, 3);
        book.forget("a1");
        assert_eq!(book.histories(1).0, []);
        assert!(
            book.publish(&(instance(), Resource::Cpu), narrow(), Timestamp(1))
                .is_none()
        );
    }
}
