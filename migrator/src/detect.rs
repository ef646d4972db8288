//! Contention, seen or predicted.
//!
//! A host is in contention when P(Σ demand > limit × capacity) exceeds the accepted risk at some
//! time in [lead, lead + window], in k of the last n looks. The sum's distribution comes from the
//! forecasts' moments: means and variances add (independent residuals), which is far less
//! pessimistic than adding upper quantiles; the normal approximation is fair for a sum.

use std::collections::{BTreeMap, VecDeque};

use domain::{Contention, HostId, InstanceId, Policy, Resource, Timestamp};

use crate::settings::Settings;
use crate::world::World;

/// What earlier looks found: the last n per host and resource.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    looks: BTreeMap<(HostId, Resource), VecDeque<bool>>,
}

/// Resources that a driver measures today.
const WATCHED: [Resource; 2] = [Resource::Cpu, Resource::Memory];

/// Number of points at which the window is looked at.
const POINTS: u64 = 12;

/// Probability that a normal variable exceeds `limit`.
///
/// The error function is approximated by Abramowitz & Stegun, Handbook of Mathematical Functions,
/// 7.1.26 (absolute error below 1.5e-7).
pub fn exceedance(mean: f64, variance: f64, limit: f64) -> f64 {
    if variance <= f64::EPSILON {
        return if mean > limit { 1.0 } else { 0.0 };
    }
    let z = (limit - mean) / (2.0 * variance).sqrt();
    let t = 1.0 / (1.0 + 0.327_591_1 * z.abs());
    let series = t
        * (0.254_829_592
            + t * (-0.284_496_736
                + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = series * (-z * z).exp() / 2.0;
    if z >= 0.0 { tail } else { 1.0 - tail }
}

/// Points in time that matter for a decision now, in milliseconds ahead.
pub fn points(settings: &Settings) -> impl Iterator<Item = u64> {
    let (lead, window) = (settings.lead_ms, settings.window_ms);
    (0..=POINTS).map(move |point| lead + window * point / POINTS)
}

/// Mean and variance of the demand on a host, with `without` gone and `with` added.
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
    Some(capacity * settings.utilisation_limit)
}

/// Looks at every host; gives the contention that is confirmed.
pub fn detect(world: &World, settings: &Settings, memory: &mut Memory) -> Vec<Contention> {
    let mut confirmed = Vec::new();
    for host in world.hosts.keys() {
        for resource in WATCHED {
            let found = look(world, host, resource, settings);
            let looks = memory.looks.entry((host.clone(), resource)).or_default();
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
    host: &HostId,
    resource: Resource,
    settings: &Settings,
) -> Option<Contention> {
    let limit = limit(world, host, resource, settings)?;
    let contention = |ahead_ms, probability, expected_demand| Contention {
        host: host.clone(),
        resource,
        detected_at: world.at,
        ahead_ms,
        probability,
        accepted_risk: settings.accepted_risk,
        expected_demand,
        limit,
        ticks: 0,
        of_ticks: settings.of_ticks,
    };
    match settings.policy {
        Policy::None => None,
        Policy::Reactive => {
            let now: f64 = world
                .on_host(host)
                .filter(|instance| !world.is_migrating(&instance.spec.id))
                .filter_map(|instance| world.present_demand(&instance.spec.id, resource))
                .sum();
            (now > limit).then(|| contention(0, 1.0, now))
        }
        Policy::Predictive => points(settings)
            .map(|ahead| {
                let (mean, variance) = host_demand(world, host, resource, ahead, None, None);
                (ahead, exceedance(mean, variance, limit), mean)
            })
            .find(|(_, probability, _)| *probability > settings.accepted_risk)
            .map(|(ahead, probability, mean)| contention(ahead, probability, mean)),
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
}
