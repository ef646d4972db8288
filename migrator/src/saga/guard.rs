//! Whether the target host can take a higher weight, and bears the one there is.
//!
//! - **Extrapolation**: at a small weight the shadow idles, and its latency proves nothing about the
//!   next weight. What the instance uses is known, and taken to be shared as its requests are; what
//!   its neighbours use is measured. The next weight is allowed only if the sum, with two standard
//!   errors, stays under the limit.
//! - **Pressure**: not while something on the host has waited for a processor for more than
//!   `pressure_limit` of the last ten seconds (PSI), where the driver can say so. A host that cannot
//!   say is not held against.
//! - **Neighbours**: not while a service that lives on the host is worse than before the ramp, by its
//!   own requests.
//!
//! A guard only holds; what is harmful is the judge's to decide.

use std::collections::{BTreeMap, BTreeSet};

use domain::routing::service_cluster;
use domain::{BasisPoints, Migration, Resource, ServiceId};
use store::words;

use super::Context;
use super::effects::EffectError;
use crate::judge::Neighbour;
use crate::world::World;

/// The neighbours' services, as they were when the ramp began.
pub(super) type Neighbours = BTreeMap<ServiceId, Neighbour>;

/// Why the shadow should not get more than it has, if that is so.
pub(super) async fn against_more(
    context: &Context,
    migration: &Migration,
    weight: u32,
    neighbours: &mut Neighbours,
) -> Result<Option<String>, EffectError> {
    if weight >= u32::from(BasisPoints::ALL) {
        return Ok(None);
    }
    // A record that is damaged, somebody else's perhaps, is no fault of the shadow.
    let world = match World::read(&*context.store, context.clock.now()).await {
        Ok(world) => world,
        Err(error) => {
            return Ok(Some(format!(
                "the store cannot say who is beside it: {error}"
            )));
        }
    };
    let worse = worse(context, &world, migration, neighbours).await?;
    let next = weight.saturating_mul(2).clamp(100, 10_000);
    let limit = context.settings.utilisation_limit;
    if let Some(reason) = too_much(&world, migration, next, limit) {
        return Ok(Some(reason));
    }
    if let Some(host) = world.hosts.get(&migration.target) {
        // A driver that cannot say holds nothing up.
        let pressure = context.driver.pressure(host).await.unwrap_or(None);
        if let Some(reason) =
            too_tight(&migration.target, pressure, context.settings.pressure_limit)
        {
            return Ok(Some(reason));
        }
    }
    Ok(worse)
}

/// Which neighbour is worse than before, if one is. A service that comes to the host later is
/// watched from then on.
async fn worse(
    context: &Context,
    world: &World,
    migration: &Migration,
    neighbours: &mut Neighbours,
) -> Result<Option<String>, EffectError> {
    let mut first = None;
    for service in services_beside(world, migration) {
        let traffic = words::traffic(&*context.store, &service).await?;
        let settings = &context.settings.judge;
        if let Some(neighbour) = neighbours.get_mut(&service) {
            let words = traffic.and_then(|traffic| neighbour.look(&traffic));
            first = first.or(words);
        } else {
            let cluster = service_cluster(&service);
            let begun = Neighbour::begin(&cluster, traffic.as_ref(), settings);
            neighbours.insert(service, begun);
        }
    }
    let target = &migration.target;
    Ok(first.map(|words| format!("on host {target} {words}")))
}

/// The services that have instances on the target host, besides the one that comes.
fn services_beside(world: &World, migration: &Migration) -> BTreeSet<ServiceId> {
    let beside = world.on_host(&migration.target);
    let others = beside.filter(|neighbour| neighbour.spec.id != migration.instance);
    others.map(|other| other.spec.service.clone()).collect()
}

/// What is wrong with the host's pressure, if it is known.
fn too_tight(host: &domain::HostId, pressure: Option<f64>, limit: f64) -> Option<String> {
    let pressure = pressure.filter(|pressure| pressure.is_finite() && *pressure > limit)?;
    Some(format!(
        "on host {host} something waited for a processor for {:.0} % of the last ten seconds ({:.0} % allowed)",
        100.0 * pressure,
        100.0 * limit
    ))
}

/// What is wrong with giving the shadow `weight` basis points.
fn too_much(world: &World, migration: &Migration, weight: u32, limit: f64) -> Option<String> {
    let target = &migration.target;
    let capacity = world.hosts.get(target)?.capacity.cpu?;
    let (mut mean, mut variance) = (0.0, 0.0);
    for neighbour in world.on_host(target) {
        if neighbour.spec.id != migration.instance {
            let (use_of, spread) = lately(world, &neighbour.spec.id)?;
            mean += use_of;
            variance += spread;
        }
    }
    // A reading of an instance under migration is of both its sides.
    let (own, spread) = lately(world, &migration.instance)?;
    let share = f64::from(weight) / 10_000.0;
    mean += own * share;
    variance += spread * share * share;
    let high = mean + 2.0 * variance.sqrt();
    (high > limit * capacity).then(|| {
        format!(
            "host {target} would be at {:.0} of {:.0} millicores ({:.0} allowed) at {weight} basis points",
            high,
            capacity,
            limit * capacity
        )
    })
}

/// Mean of an instance's last readings, and the variance of that mean.
fn lately(world: &World, instance: &domain::InstanceId) -> Option<(f64, f64)> {
    let readings = &world.readings.get(instance)?.readings;
    let newest: Vec<f64> = readings
        .iter()
        .rev()
        .take(5)
        .filter_map(|reading| *reading.demand.get(Resource::Cpu))
        .collect();
    if newest.is_empty() {
        return None;
    }
    let n = newest.len() as f64;
    let mean = newest.iter().sum::<f64>() / n;
    let squares: f64 = newest.iter().map(|x| (x - mean).powi(2)).sum();
    Some((mean, squares / n / n))
}

#[cfg(test)]
mod tests {
    use domain::HostId;

    use super::*;

    #[test]
    fn pressure_above_the_limit_holds_and_a_host_that_cannot_say_does_not() {
        let host = HostId::new("b").unwrap();
        let words = too_tight(&host, Some(0.71), 0.6).unwrap();
        assert!(
            words.contains("host b") && words.contains("71 %"),
            "{words}"
        );
        assert_eq!(too_tight(&host, Some(0.59), 0.6), None);
        assert_eq!(too_tight(&host, None, 0.6), None);
        assert_eq!(too_tight(&host, Some(f64::NAN), 0.6), None);
    }
}
