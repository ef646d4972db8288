//! What others than drivers say.

use domain::{InstanceId, Resource, Timestamp};

use super::{Book, DAY, Voice};
use crate::history::{KEPT, Series};
use crate::intake::{Quantity, Sample, Taken};

/// Most instances of which it is kept what their users do.
const MAX_ACTIVITY: usize = 100_000;

impl Book {
    /// Takes in what somebody else than a driver says.
    pub(crate) fn push(&mut self, sample: &Sample, now: Timestamp) -> Taken {
        let refused = Taken {
            refused: 1,
            ..Taken::default()
        };
        if !(0.0..=sample.quantity.most()).contains(&sample.value) {
            return refused;
        }
        let no_room = Taken {
            no_room: 1,
            ..Taken::default()
        };
        let series = match sample.quantity {
            Quantity::Demand(resource) => match self.entry((sample.instance.clone(), resource)) {
                Some(entry) if entry.voice == Voice::Driver => {
                    return Taken {
                        owned: 1,
                        ..Taken::default()
                    };
                }
                Some(entry) => {
                    entry.voice = Voice::Others;
                    &mut entry.series
                }
                None => return no_room,
            },
            Quantity::Activity => {
                let known = self.activity.contains_key(&sample.instance);
                if !known && self.activity.len() >= MAX_ACTIVITY {
                    return no_room;
                }
                let fresh = || Series::keeping(DAY, self.step_ms);
                let entry = self.activity.entry(sample.instance.clone());
                entry.or_insert_with(fresh)
            }
        };
        let before = series.counters();
        series.push(sample.at.0, sample.value, now.0);
        Taken::of(before, series.counters())
    }

    /// Forgets what was pushed of an instance; gives whether anything was known.
    pub(crate) fn forget_pushed(&mut self, instance: &InstanceId) -> bool {
        let before = self.entries.len();
        self.entries
            .retain(|(known, _), entry| known != instance || entry.voice == Voice::Driver);
        self.activity.remove(instance).is_some() || self.entries.len() < before
    }

    /// Forgets what nobody has told for as long as the history reaches; gives the instances of
    /// which nothing is known any more.
    pub(crate) fn expire(&mut self, now: Timestamp) -> Vec<InstanceId> {
        let reach = self.step_ms.saturating_mul(KEPT as u64 + 1);
        let silent = |series: &Series| {
            let newest = series.newest_at_ms().unwrap_or(0);
            now.0.saturating_sub(newest) >= reach
        };
        self.activity.retain(|_, series| !silent(series));
        let mut gone: Vec<InstanceId> = Vec::new();
        self.entries.retain(|(instance, _), entry| {
            let keep = entry.voice == Voice::Driver || !silent(&entry.series);
            if !keep && gone.last() != Some(instance) {
                gone.push(instance.clone());
            }
            keep
        });
        let known = |instance: &InstanceId| {
            let keys = Resource::ALL.map(|resource| (instance.clone(), resource));
            keys.iter().any(|key| self.entries.contains_key(key))
        };
        gone.retain(|instance| !known(instance));
        gone
    }

    /// What is known of an instance: when a step began, and the value of each resource in it.
    pub(crate) fn history(&self, instance: &InstanceId) -> Vec<(u64, [Option<f64>; 4])> {
        let of = |resource| self.entries.get(&(instance.clone(), resource));
        let series = Resource::ALL.map(|resource| of(resource).map(|entry| &entry.series));
        let known = || series.iter().flatten();
        let reach = |series: &Series| {
            let newest = series.newest_step()?;
            Some((newest + 1).saturating_sub(series.values().len() as u64))
        };
        let Some(first) = known().filter_map(|one| reach(one)).min() else {
            return Vec::new();
        };
        let last = known().filter_map(|one| one.newest_step()).max();
        let last = last
            .unwrap_or(first)
            .min(first.saturating_add(2 * KEPT as u64));
        let at = |step: u64| {
            let values = series.map(|one| one.and_then(|series| series.value_at(step)));
            (step.saturating_mul(self.step_ms), values)
        };
        let rows = (first..=last).map(at);
        rows.filter(|(_, values)| values.iter().any(Option::is_some))
            .collect()
    }
}
