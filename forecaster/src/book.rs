//! All series, each with its calibration: what the service knows.

mod pushed;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use domain::{Forecast, HorizonForecast, InstanceId, QuantileCurve, Readings, Resource, Timestamp};

use crate::announced::{Announced, Grid, Job};
use crate::calendar::Calendar;
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

/// Who speaks for a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voice {
    /// Nobody since the restart.
    Unknown,
    /// A driver, and nobody beside it.
    Driver,
    /// Whoever pushes samples.
    Others,
}

#[derive(Debug)]
struct Entry {
    series: Series,
    voice: Voice,
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
    calendar: Option<Calendar>,
    entries: BTreeMap<SeriesKey, Entry>,
    /// What the users of instances do, where somebody tells.
    activity: BTreeMap<InstanceId, Series>,
    groups: Groups,
    jobs: BTreeMap<String, Job>,
    drifts: VecDeque<Drift>,
    drifted: u64,
    /// Readings for which there was no room.
    no_room: u64,
}

impl Book {
    pub(crate) fn new(step_ms: u64, calibrating: Calibrating) -> Self {
        Self {
            step_ms,
            calibrating,
            calendar: None,
            entries: BTreeMap::new(),
            activity: BTreeMap::new(),
            groups: Groups::new(),
            jobs: BTreeMap::new(),
            drifts: VecDeque::new(),
            drifted: 0,
            no_room: 0,
        }
    }

    /// Tells the local time to the model.
    pub(crate) fn keep_calendar(&mut self, calendar: Option<Calendar>) {
        self.calendar = calendar;
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
            voice: Voice::Unknown,
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
            entry.voice = Voice::Driver;
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
            .retain(|(known, _), entry| known.as_str() != instance || entry.voice == Voice::Others);
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

    /// Length of a step in milliseconds.
    pub(crate) const fn step_ms(&self) -> u64 {
        self.step_ms
    }

    /// The newest step of any series.
    pub(crate) fn newest(&self) -> Option<u64> {
        let steps = self
            .entries
            .values()
            .map(|entry| entry.series.newest_step());
        steps.flatten().max()
    }

    /// The newest step of a series.
    pub(crate) fn newest_step(&self, key: &SeriesKey) -> Option<u64> {
        self.entries.get(key)?.series.newest_step()
    }

    /// What came at a step.
    pub(crate) fn value_at(&self, key: &SeriesKey, step: u64) -> Option<f64> {
        self.entries.get(key)?.series.value_at(step)
    }

    /// How many drifts there were.
    pub(crate) const fn drifted(&self) -> u64 {
        self.drifted
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
            let local_s = self
                .calendar
                .as_ref()
                .and_then(|calendar| calendar.local_s(entry.series.newest_ms()?));
            asking.push(&history, &activity, local_s);
            keys.push(key.clone());
        }
        keys
    }

    /// What the users of a series' instance do: as somebody tells, or as far as its network shows
    /// it, which is the trainer's stand-in. Only when it is as fresh as the series itself.
    fn copy_activity(&self, key: &SeriesKey, entry: &Entry, to: &mut Vec<f32>) {
        let newest = entry.series.newest_step();
        let told = self.activity.get(&key.0);
        if let Some(told) = told.filter(|told| told.newest_step() == newest) {
            told.copy_newest(DAY, to);
            return;
        }
        let companion = match key.1 {
            Resource::Cpu | Resource::Memory | Resource::NetTx => Resource::NetRx,
            Resource::NetRx => Resource::Cpu,
        };
        let Some(other) = self.entries.get(&(key.0.clone(), companion)) else {
            return;
        };
        if other.series.newest_step() == newest {
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
            self.drifted += 1;
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
mod tests;
