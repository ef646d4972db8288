//! All series, each with its calibration: what the service knows.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use domain::{Forecast, HorizonForecast, InstanceId, QuantileCurve, Readings, Resource, Timestamp};

use crate::announced::{Announced, Grid, Job};
use crate::calibrate::{Calibration, Interval};
use crate::drift::Cusum;
use crate::history::{Counters, KEPT, Series};
use crate::model::Asking;
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
    Observe,
    /// Curves are drawn wider or narrower, so that 80 % of truths fall inside 80 % intervals.
    #[default]
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
    /// Share of them inside the 95 % interval.
    pub inside_outer: f64,
    /// The widening factor that calibration has come to.
    pub factor: f64,
}

/// Forecasts of a series that have stopped coming true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Whose demand.
    pub instance: InstanceId,
    /// Of which resource.
    pub resource: Resource,
    /// When it was noticed.
    pub at: Timestamp,
}

/// Most drifts that are remembered until somebody takes them.
const MAX_DRIFTS: usize = 1_024;
/// Forecasts per horizon that wait for their truth. At far horizons not every forecast is
/// followed up: memory per series stays small, and neighbours teach nearly the same.
const FOLLOWED: u64 = 4;

#[derive(Debug, Default)]
struct AtHorizon {
    calibration: Calibration,
    /// Intervals whose truth is not known yet, by step.
    open: VecDeque<(u64, Interval)>,
}

#[derive(Debug)]
struct Entry {
    series: Series,
    /// By horizon in steps, rising.
    horizons: Vec<(usize, AtHorizon)>,
    /// The newest step when the last forecast was made.
    forecast_at: Option<u64>,
    /// Of the nearest horizon.
    drift: Cusum,
}

/// What all series of a resource have in common at a horizon.
type Groups = BTreeMap<(Resource, usize), Calibration>;

/// All series.
#[derive(Debug)]
pub(crate) struct Book {
    step_ms: u64,
    calibrating: Calibrating,
    entries: BTreeMap<SeriesKey, Entry>,
    groups: Groups,
    jobs: BTreeMap<String, Job>,
    drifts: VecDeque<Drift>,
    /// Readings for which there was no room.
    no_room: u64,
}

impl Book {
    pub(crate) fn new(step_ms: u64, calibrating: Calibrating) -> Self {
        Self {
            step_ms,
            calibrating,
            entries: BTreeMap::new(),
            groups: Groups::new(),
            jobs: BTreeMap::new(),
            drifts: VecDeque::new(),
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
            horizons: Vec::new(),
            forecast_at: None,
            drift: Cusum::default(),
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

    /// Takes in an announcement, in place of one of the same name.
    pub(crate) fn announce(&mut self, job: Job) {
        self.jobs.insert(job.announcement().id.to_string(), job);
    }

    /// Withdraws an announcement.
    pub(crate) fn withdraw(&mut self, id: &str) {
        self.jobs.remove(id);
    }

    /// What is announced for a series, of whose history this is the newest part.
    fn announced(&self, key: &SeriesKey, series: &Series, history: &[f32]) -> Option<Announced> {
        let named = |job: &&Job| job.announcement().instances.contains(&key.0);
        let mut jobs = self.jobs.values().filter(named).peekable();
        jobs.peek()?;
        let grid = Grid {
            step_ms: self.step_ms,
            newest_ms: series.newest_ms()?,
        };
        Announced::new(jobs, key.1, grid, history, DAY)
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
        entry
            .into_iter()
            .flat_map(|entry| &entry.horizons)
            .filter_map(|(steps, at)| coverage(*steps, &at.calibration))
            .collect()
    }

    /// How well the forecasts of all series of each resource came true, by horizon.
    pub(crate) fn group_coverage(&self) -> Vec<(Resource, Coverage)> {
        self.groups
            .iter()
            .filter_map(|((resource, steps), c)| Some((*resource, coverage(*steps, c)?)))
            .collect()
    }

    /// What has drifted since this was asked before.
    pub(crate) fn take_drifts(&mut self) -> Vec<Drift> {
        self.drifts.drain(..).collect()
    }

    /// Adds the next series after `after`, about `count` and whole instances, to what is asked; gives their keys.
    pub(crate) fn ask(
        &self,
        after: Option<&SeriesKey>,
        count: usize,
        context: usize,
        asking: &mut Asking,
    ) -> Vec<SeriesKey> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut keys = Vec::with_capacity(count);
        let (mut history, mut activity) = (Vec::new(), Vec::new());
        for (key, entry) in self.entries.range((from, Bound::Unbounded)) {
            // All resources of an instance are one record: they stay together.
            if keys.len() >= count && keys.last().is_some_and(|last: &SeriesKey| last.0 != key.0) {
                break;
            }
            if entry.series.last().is_none() {
                continue;
            }
            history.clear();
            entry.series.copy_newest(context, &mut history);
            if let Some(announced) = self.announced(key, &entry.series, &history) {
                announced.strip(&mut history);
            }
            activity.clear();
            self.copy_activity(key, entry, &mut activity);
            asking.push(&history, &activity, None);
            keys.push(key.clone());
        }
        keys
    }

    /// What the users of a series' instance do, as far as its network shows it: the trainer's
    /// stand-in for requests and sessions. Only when it is as fresh as the series itself.
    fn copy_activity(&self, key: &SeriesKey, entry: &Entry, to: &mut Vec<f32>) {
        let companion = match key.1 {
            Resource::Cpu | Resource::Memory | Resource::NetTx => Resource::NetRx,
            Resource::NetRx => Resource::Cpu,
        };
        let Some(other) = self.entries.get(&(key.0.clone(), companion)) else {
            return;
        };
        if other.series.newest_step() == entry.series.newest_step() {
            other.series.copy_newest(DAY, to);
        }
    }

    /// Adds what is announced to the model's curves.
    fn put_announced(&self, key: &SeriesKey, answer: &mut Answer) {
        let Some(entry) = self.entries.get(key).filter(|_| !self.jobs.is_empty()) else {
            return;
        };
        let mut history = Vec::new();
        entry.series.copy_newest(KEPT, &mut history);
        if let Some(announced) = self.announced(key, &entry.series, &history) {
            for (&steps, curve) in answer.horizons.iter().zip(&mut answer.curves) {
                *curve = announced.add(curve, steps);
            }
        }
    }

    /// The forecast to publish of an answer; `None` when the series is no more.
    pub(crate) fn publish(
        &mut self,
        key: &SeriesKey,
        mut answer: Answer,
        now: Timestamp,
    ) -> Option<Forecast> {
        self.put_announced(key, &mut answer);
        let entry = self.entries.get_mut(key)?;
        let newest = entry.series.newest_ms()?;
        let samples = entry.series.samples();
        if entry.settle(key.1, &mut self.groups) {
            tracing::warn!(instance = %key.0, resource = %key.1, "its forecasts have drifted");
            if self.drifts.len() == MAX_DRIFTS {
                self.drifts.pop_front();
            }
            self.drifts.push_back(Drift {
                instance: key.0.clone(),
                resource: key.1,
                at: now,
            });
        }
        let groups = (self.calibrating == Calibrating::Adapt).then_some(&self.groups);
        let curves = entry.calibrated(&answer, key.1, groups);
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

fn coverage(steps: usize, calibration: &Calibration) -> Option<Coverage> {
    Some(Coverage {
        steps,
        seen: calibration.seen(),
        inside: calibration.coverage()?,
        inside_outer: calibration.coverage_outer()?,
        factor: calibration.factor(),
    })
}

impl Entry {
    /// Compares what was forecast with what has come true; the newest step is still in the making.
    /// Gives whether the nearest forecasts have drifted.
    fn settle(&mut self, resource: Resource, groups: &mut Groups) -> bool {
        let Some(newest) = self.series.newest_step() else {
            return false;
        };
        let mut drifted = false;
        for (place, (steps, at)) in self.horizons.iter_mut().enumerate() {
            while at.open.front().is_some_and(|(step, _)| *step < newest) {
                let Some((step, interval)) = at.open.pop_front() else {
                    break;
                };
                // A gap teaches nothing.
                let truth = self.series.value_at(step).unwrap_or(f64::NAN);
                let group = groups.entry((resource, *steps)).or_default();
                group.learn_group(&interval, truth);
                if let (Some(inside), 0) = (at.calibration.learn(&interval, truth), place) {
                    drifted |= self.drift.learn(!inside);
                }
            }
        }
        drifted
    }

    /// Curves as they are published, remembered until their truth is known: once per step.
    fn calibrated(
        &mut self,
        answer: &Answer,
        resource: Resource,
        groups: Option<&Groups>,
    ) -> Vec<(usize, QuantileCurve)> {
        let newest = self.series.newest_step();
        let fresh = newest.filter(|_| newest != self.forecast_at);
        self.forecast_at = newest;
        let one = |(&steps, curve): (&usize, &QuantileCurve)| {
            let at = self.at(steps);
            let curve = match groups {
                None => *curve,
                Some(groups) => {
                    let group = groups.get(&(resource, steps)).copied().unwrap_or_default();
                    group.widening().and(at.calibration.widening()).apply(curve)
                }
            };
            let every = (steps as u64).div_ceil(FOLLOWED);
            if let Some(newest) = fresh.filter(|newest| newest.is_multiple_of(every)) {
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

    fn at(&mut self, steps: usize) -> &mut AtHorizon {
        let place = match self.horizons.binary_search_by_key(&steps, |(s, _)| *s) {
            Ok(place) => place,
            Err(place) => {
                self.horizons.insert(place, (steps, AtHorizon::default()));
                place
            }
        };
        &mut self.horizons[place].1
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
        let mut asking = Asking::default();
        assert_eq!(book.ask(None, 9, 2, &mut asking).len(), 1);
        assert_eq!(asking.known(0).history, [15.0, 5.0]);
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
    fn the_group_learns_from_every_series_of_its_resource() {
        let (book, _) = run(Calibrating::Observe, 10);
        let groups = book.group_coverage();
        let seen: Vec<_> = groups.iter().map(|(r, c)| (*r, c.steps, c.seen)).collect();
        assert_eq!(seen, [(Resource::Cpu, 1, 8), (Resource::Cpu, 3, 6)]);
    }

    #[test]
    fn forecasts_that_never_come_true_are_a_drift_that_is_told_once() {
        let (mut book, _) = run(Calibrating::Observe, 16);
        let drifts = book.take_drifts();
        assert_eq!(drifts.len(), 1, "{drifts:?}");
        assert_eq!(drifts[0].instance, instance());
        assert_eq!(book.take_drifts(), []);
    }

    #[test]
    fn series_are_asked_about_in_pieces_each_once() {
        let mut book = Book::new(1_000, Calibrating::Observe);
        for name in ["a", "b", "c"] {
            let mut one = readings(&[(1_000, 10.0)]);
            one.instance = InstanceId::new(name).unwrap();
            book.take_in(&one, Timestamp(9_000));
        }
        let mut asking = Asking::default();
        let first = book.ask(None, 2, 8, &mut asking);
        let second = book.ask(first.last(), 2, 8, &mut asking);
        let names: Vec<_> = first.iter().chain(&second).map(|k| k.0.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(asking.len(), 3);
    }

    #[test]
    fn an_instance_that_is_gone_is_forgotten() {
        let (mut book, _) = run(Calibrating::Observe, 3);
        book.forget("a1");
        assert_eq!(book.ask(None, 9, 1, &mut Asking::default()), []);
        assert!(
            book.publish(&(instance(), Resource::Cpu), narrow(), Timestamp(1))
                .is_none()
        );
    }
}
