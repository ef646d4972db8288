//! Readings of every running instance, taken from the driver and published for the forecaster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::{Instance, InstanceId, Reading, Readings, Resource};
use store::{Clock, Expect, Key, Kind, SharedStore, Transaction};
use tokio_util::sync::CancellationToken;

use crate::driver::Driver;
use crate::service::MigratorError;
use crate::world::World;

/// What the readings are taken from, and where they go.
pub(crate) struct Sampler {
    pub(crate) store: SharedStore,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cancel: CancellationToken,
}

/// Takes readings of every running instance and publishes them.
pub(crate) async fn run(shared: Sampler, period: Duration) {
    let mut rings: BTreeMap<InstanceId, Vec<Reading>> = BTreeMap::new();
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shared.cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = sample(&shared, &mut rings).await {
            tracing::warn!(%error, "readings were not published");
        }
    }
}

async fn sample(
    shared: &Sampler,
    rings: &mut BTreeMap<InstanceId, Vec<Reading>>,
) -> Result<(), MigratorError> {
    let world = World::read(&*shared.store, shared.clock.now()).await?;
    for instance in world.instances.values() {
        let Some(reading) = reading(shared, &world, instance).await else {
            continue;
        };
        let ring = rings.entry(instance.spec.id.clone()).or_default();
        ring.push(reading);
        if ring.len() > Readings::KEPT {
            ring.remove(0);
        }
        let readings = Readings {
            instance: instance.spec.id.clone(),
            readings: ring.clone(),
        };
        let key = Key::new(Kind::Readings, instance.spec.id.as_str());
        let put = Transaction::new().put(key, Expect::Any, &readings)?;
        shared.store.commit(put).await?;
    }
    Ok(())
}

/// An instance's demand: what its replicas use together while it is under migration.
async fn reading(shared: &Sampler, world: &World, instance: &Instance) -> Option<Reading> {
    let mut sum = read(shared, &instance.replica).await?;
    let shadow = world
        .migrations
        .iter()
        .find(|migration| migration.instance == instance.spec.id)
        .and_then(|migration| migration.shadow.as_ref())
        .filter(|shadow| **shadow != instance.replica);
    if let Some(shadow) = shadow
        && let Some(more) = read(shared, shadow).await
    {
        let cpu = sum.demand.get_mut(Resource::Cpu);
        *cpu = match (*cpu, *more.demand.get(Resource::Cpu)) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
    }
    Some(sum)
}

async fn read(shared: &Sampler, replica: &domain::Replica) -> Option<Reading> {
    match shared.driver.reading(replica).await {
        Ok(reading) => reading,
        Err(error) => {
            tracing::debug!(%error, tag = %replica.tag, "no reading");
            None
        }
    }
}
