//! Whether the target host can take a higher weight.
//!
//! At a small weight the shadow idles, and its latency proves nothing about the next weight. What
//! the instance uses is known, and taken to be shared as its requests are; what its neighbours use
//! is measured. The next weight is allowed only if the sum, with two standard errors, stays under
//! the limit.

use domain::{BasisPoints, Migration, Resource};

use super::Context;
use super::effects::EffectError;
use crate::world::World;

/// Why the shadow should not get more than it has, if that is so.
pub(super) async fn against_more(
    context: &Context,
    migration: &Migration,
    weight: u32,
) -> Result<Option<String>, EffectError> {
    if weight >= u32::from(BasisPoints::ALL) {
        return Ok(None);
    }
    let world = World::read(&*context.store, context.clock.now()).await?;
    let next = weight.saturating_mul(2).clamp(100, 10_000);
    Ok(too_much(
        &world,
        migration,
        next,
        context.settings.utilisation_limit,
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
