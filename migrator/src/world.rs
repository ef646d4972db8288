//! What a decision rests on: the store's records as one value.

use std::collections::BTreeMap;

use domain::forecast::InstanceForecast;
use domain::{
    Host, HostId, Instance, InstanceId, InstanceState, Migration, Phase, Readings, Reservation,
    Resource, Service, Timestamp,
};
use serde::de::DeserializeOwned;
use store::{Kind, Store, StoreError};

/// The world at one instant.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// When it was read.
    pub at: Timestamp,
    /// Hosts by id.
    pub hosts: BTreeMap<HostId, Host>,
    /// Services.
    pub services: Vec<Service>,
    /// Instances by id.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// Forecasts by instance.
    pub forecasts: BTreeMap<InstanceId, InstanceForecast>,
    /// Newest readings by instance.
    pub readings: BTreeMap<InstanceId, Readings>,
    /// Capacity held.
    pub reservations: Vec<Reservation>,
    /// Migrations that are not over.
    pub migrations: Vec<Migration>,
    /// When an instance's last migration was rolled back, if it ever was.
    pub rolled_back: BTreeMap<InstanceId, Timestamp>,
}

impl World {
    /// Reads the world.
    pub async fn read(store: &dyn Store, at: Timestamp) -> Result<Self, StoreError> {
        let hosts: Vec<Host> = all(store, Kind::Host).await?;
        let instances: Vec<Instance> = all(store, Kind::Instance).await?;
        let forecasts: Vec<InstanceForecast> = all(store, Kind::Forecast).await?;
        let readings: Vec<Readings> = all(store, Kind::Readings).await?;
        let mut migrations: Vec<Migration> = all(store, Kind::Migration).await?;
        let mut rolled_back = BTreeMap::new();
        for ended in migrations.iter().filter(|m| m.phase == Phase::RolledBack) {
            let at = rolled_back
                .entry(ended.instance.clone())
                .or_insert(Timestamp(0));
            *at = ended.entered_at().max(*at);
        }
        migrations.retain(|migration| !migration.phase.is_final());
        Ok(Self {
            at,
            hosts: hosts
                .into_iter()
                .map(|host| (host.id.clone(), host))
                .collect(),
            services: all(store, Kind::Service).await?,
            instances: instances
                .into_iter()
                .map(|i| (i.spec.id.clone(), i))
                .collect(),
            forecasts: forecasts
                .into_iter()
                .map(|f| (f.instance.clone(), f))
                .collect(),
            readings: readings
                .into_iter()
                .map(|r| (r.instance.clone(), r))
                .collect(),
            reservations: all(store, Kind::Reservation).await?,
            migrations,
            rolled_back,
        })
    }

    /// Running instances on a host.
    pub fn on_host<'a>(&'a self, host: &'a HostId) -> impl Iterator<Item = &'a Instance> {
        self.instances.values().filter(move |instance| {
            instance.replica.host == *host && instance.state == InstanceState::Running
        })
    }

    /// Whether an instance is under migration.
    pub fn is_migrating(&self, instance: &InstanceId) -> bool {
        self.migrations
            .iter()
            .any(|migration| migration.instance == *instance)
    }

    /// An instance's present demand: the mean of its last three readings.
    pub fn present_demand(&self, instance: &InstanceId, resource: Resource) -> Option<f64> {
        let readings = &self.readings.get(instance)?.readings;
        let newest: Vec<f64> = readings
            .iter()
            .rev()
            .take(3)
            .filter_map(|reading| *reading.demand.get(resource))
            .collect();
        (!newest.is_empty()).then(|| newest.iter().sum::<f64>() / newest.len() as f64)
    }

    /// Mean and variance of an instance's demand `ahead_ms` from now; certain and as now where
    /// there is no forecast.
    pub fn demand(&self, instance: &InstanceId, resource: Resource, ahead_ms: u64) -> (f64, f64) {
        let forecast = self.forecasts.get(instance).and_then(|f| f.of(resource));
        let horizon = forecast.and_then(|f| {
            // Horizons count from when the forecast was made.
            f.nearest(ahead_ms.saturating_add(self.at.since(f.issued_at)))
        });
        match horizon {
            Some(horizon) => (horizon.demand.mean(), horizon.demand.variance()),
            None => (self.present_demand(instance, resource).unwrap_or(0.0), 0.0),
        }
    }
}

async fn all<T: DeserializeOwned>(store: &dyn Store, kind: Kind) -> Result<Vec<T>, StoreError> {
    let records = store.list(kind).await?;
    records
        .iter()
        .map(|record| Ok(record.parse()?.value))
        .collect()
}
