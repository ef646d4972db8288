//! Contention, seen or predicted.
//!
//! A host is in contention when P(Σ demand > limit × capacity) exceeds the accepted risk at some
//! time in [lead, lead + window], in k of the last n looks, for any resource it has a limit for.
//! The lead is the 95 % quantile of how long migrations take here, once enough were measured. The
//! probability is that of [`crate::belief`]: means and variances add, with what the instances have
//! in common, and the tail is the one that was observed. The fuller the fleet, the more risk is
//! accepted: where there is no room, moving only spreads the trouble.

use std::collections::{BTreeMap, VecDeque};

use domain::{Contention, HostId, InstanceId, Policy, Resource, Timestamp};
use serde::{Deserialize, Serialize};

use crate::belief::Belief;
use crate::ledger::Ledger;
use crate::pool::Pool;
use crate::settings::Settings;
use crate::world::World;

/// What is kept from look to look.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    looks: BTreeMap<HostId, BTreeMap<Resource, VecDeque<bool>>>,
    /// What past forecasts have taught.
    pub belief: Belief,
    /// What past moves have brought.
    pub ledger: Ledger,
}

/// Number of points at which [`host_demand`] is usually asked.
const SHOWN: u64 = 12;

/// Probability that a normal variable exceeds `limit`.
pub fn exceedance(mean: f64, variance: f64, limit: f64) -> f64 {
    if variance <= f64::EPSILON {
        return if mean > limit { 1.0 } else { 0.0 };
    }
    crate::normal::survival((limit - mean) / variance.sqrt())
}

/// Points in time that matter for a decision now, in milliseconds ahead.
pub fn points(settings: &Settings) -> impl Iterator<Item = u64> {
    let (lead, window) = (settings.lead_ms, settings.window_ms);
    (0..=SHOWN).map(move |point| lead + window * point / SHOWN)
}

/// Mean and variance of the demand on a host, with `without` gone and `with` added: for showing,
/// without what was learnt from past forecasts.
pub fn host_demand(
    world: &World,
    host: &HostId,
    resource: Resource,
    ahead_ms: u64,
    without: Option<&InstanceId>,
    with: Option<&InstanceId>,
) -> (f64, f64) {
    let leaving = |id: &InstanceId| {
        world
            .migrations
            .iter()
            .any(|m| m.instance == *id && m.target != *host)
    };
    let arriving = world
        .migrations
        .iter()
        .filter(|migration| migration.target == *host)
        .map(|migration| &migration.instance);
    world
        .on_host(host)
        .map(|instance| &instance.spec.id)
        .filter(|id| Some(*id) != without && !leaving(id))
        .chain(arriving)
        .chain(with)
        .map(|id| world.demand(id, resource, ahead_ms))
        .fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// The limit of a host's resource, if it is watched.
pub fn limit(world: &World, host: &HostId, resource: Resource, settings: &Settings) -> Option<f64> {
    let capacity = (*world.hosts.get(host)?.capacity.get(resource))?;
    (capacity.is_finite() && capacity > 0.0).then_some(capacity * settings.utilisation_limit)
}

/// The risk that is accepted at a load of the fleet.
pub fn accepted_risk(settings: &Settings, load: f64) -> f64 {
    let crowded = ((load - 0.6) / 0.3).clamp(0.0, 1.0);
    let factor = 1.0 + (settings.planning.crowded_risk - 1.0) * crowded;
    (settings.accepted_risk * factor).min(1.0)
}

/// Looks at every host; gives the contention that is confirmed.
pub fn detect(
    world: &World,
    pool: &Pool<'_>,
    settings: &Settings,
    memory: &mut Memory,
) -> Vec<Contention> {
    let risk = accepted_risk(settings, pool.load());
    let mut confirmed = Vec::new();
    memory
        .looks
        .retain(|host, _| world.hosts.contains_key(host));
    for (index, row) in pool.hosts().iter().enumerate() {
        for resource in Resource::ALL {
            if row.limit(resource).is_none() {
                continue;
            }
            let found = look(world, pool, index, resource, risk, settings, &memory.belief);
            let of_host = memory.looks.entry(row.host.id.clone()).or_default();
            let looks = of_host.entry(resource).or_default();
            looks.push_back(found.is_some());
            while looks.len() > settings.of_ticks.max(1) as usize {
                looks.pop_front();
            }
            let ticks = u32::try_from(looks.iter().filter(|&&hit| hit).count()).unwrap_or(u32::MAX);
            if let Some(mut contention) = found.filter(|_| ticks >= settings.confirm_ticks) {
                contention.ticks = ticks;
                confirmed.push(contention);
            }
        }
    }
    confirmed
}

fn look(
    world: &World,
    pool: &Pool<'_>,
    host: usize,
    resource: Resource,
    risk: f64,
    settings: &Settings,
    belief: &Belief,
) -> Option<Contention> {
    let row = &pool.hosts()[host];
    let limit = row.limit(resource)?;
    let contention = |ahead_ms, probability, expected_demand| Contention {
        host: row.host.id.clone(),
        resource,
        detected_at: world.at,
        ahead_ms,
        probability,
        accepted_risk: risk,
        expected_demand,
        limit,
        ticks: 0,
        of_ticks: settings.of_ticks,
    };
    match settings.policy {
        Policy::None => None,
        Policy::Reactive => {
            let now: f64 = pool
                .running_on(host)
                .filter_map(|row| world.present_demand(pool.id(row), resource))
                .sum();
            (now > limit).then(|| contention(0, 1.0, now))
        }
        Policy::Predictive => {
            let (point, probability) = pool.look(belief, host, resource, risk)?;
            let expected = pool.expected(host, resource, point);
            Some(contention(pool.ahead(point), probability, expected))
        }
    }
}

/// When a contention begins.
pub fn begins_at(contention: &Contention) -> Timestamp {
    contention.detected_at.plus(contention.ahead_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceedance_is_the_normal_tail() {
        assert!((exceedance(0.0, 1.0, 1.644_853_6) - 0.05).abs() < 1e-5);
        assert!((exceedance(0.0, 1.0, -1.644_853_6) - 0.95).abs() < 1e-5);
        assert!((exceedance(5.0, 4.0, 5.0) - 0.5).abs() < 1e-6);
        assert!((exceedance(2.0, 0.0, 1.0) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_fuller_fleet_accepts_more_risk_and_never_more_than_all() {
        let settings = Settings {
            accepted_risk: 0.1,
            ..Settings::default()
        };
        assert!((accepted_risk(&settings, 0.5) - 0.1).abs() < 1e-12);
        assert!(accepted_risk(&settings, 0.75) > accepted_risk(&settings, 0.65));
        let settings = Settings {
            accepted_risk: 0.9,
            ..settings
        };
        assert!((accepted_risk(&settings, 2.0) - 1.0).abs() < 1e-12);
    }
}
