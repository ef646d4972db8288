//! What a decision rests on: the store's records as one value.

use std::collections::BTreeMap;

use domain::forecast::InstanceForecast;
use domain::{
    Forecast, Host, HostId, Instance, InstanceId, InstanceState, Migration, Phase, Readings,
    Reservation, Resource, Service, Timestamp,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::{Kind, Store, StoreError};

use crate::pool::isolation::Claims;

/// A forecast that says to come from later than this after now comes from a wrong clock.
const AHEAD_OF_TIME_MS: u64 = 60_000;
/// Migrations that took this long ago are no measure of how long one takes now.
const DURATIONS: usize = 200;

/// An instance that has left a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The host.
    pub host: HostId,
    /// When.
    pub at: Timestamp,
}

/// The world at one instant.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
    /// Which hosts an instance has left lately, oldest first.
    #[serde(default)]
    pub left: BTreeMap<InstanceId, Vec<Left>>,
    /// How long the newest migrations took, in milliseconds.
    #[serde(default)]
    pub durations: Vec<u64>,
    /// Who isolates which host.
    #[serde(default)]
    pub claims: BTreeMap<HostId, Claims>,
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
        let mut done: Vec<&Migration> = migrations
            .iter()
            .filter(|migration| migration.phase == Phase::Done)
            .collect();
        done.sort_by_key(|migration| migration.entered_at());
        let durations = done
            .iter()
            .rev()
            .take(DURATIONS)
            .map(|ended| ended.entered_at().since(ended.started_at()))
            .collect();
        let mut left: BTreeMap<InstanceId, Vec<Left>> = BTreeMap::new();
        for ended in done {
            left.entry(ended.instance.clone()).or_default().push(Left {
                host: ended.original.host.clone(),
                at: ended.entered_at(),
            });
        }
        migrations.retain(|migration| !migration.phase.is_final());
        let claims: Vec<Claims> = all(store, Kind::Isolation).await?;
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
            left,
            durations,
            claims: claims
                .into_iter()
                .map(|claims| (claims.host.clone(), claims))
                .collect(),
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

    /// The reading that covers a time, if it is known.
    pub fn demand_at(&self, id: &InstanceId, resource: Resource, at: Timestamp) -> Option<f64> {
        let readings = &self.readings.get(id)?.readings;
        let index = readings.partition_point(|reading| reading.at < at);
        *readings.get(index)?.demand.get(resource)
    }

    /// How long a migration takes here: the 95 % quantile of those measured, or what was set while
    /// too few are.
    pub fn lead_ms(&self, otherwise: u64) -> u64 {
        const ENOUGH: usize = 20;
        if self.durations.len() < ENOUGH {
            return otherwise;
        }
        let mut sorted = self.durations.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() * 95).div_ceil(100) - 1]
    }

    /// The forecast of an instance that can be used: not from the future, and not all past.
    pub fn forecast(&self, instance: &InstanceId, resource: Resource) -> Option<&Forecast> {
        let forecast = self.forecasts.get(instance)?.of(resource)?;
        let last = forecast.horizons.last()?.ahead_ms;
        let fresh = self.at.since(forecast.issued_at) < last;
        let past = forecast.issued_at.since(self.at) <= AHEAD_OF_TIME_MS;
        (fresh && past).then_some(forecast)
    }

    /// Mean and variance of an instance's demand `ahead_ms` from now; certain and as now where
    /// there is no forecast.
    pub fn demand(&self, instance: &InstanceId, resource: Resource, ahead_ms: u64) -> (f64, f64) {
        match self.forecast(instance, resource) {
            Some(forecast) => {
                let age = self.at.since(forecast.issued_at);
                Moments::of(forecast).at(ahead_ms.saturating_add(age))
            }
            None => (self.present_demand(instance, resource).unwrap_or(0.0), 0.0),
        }
    }
}

/// Mean and variance per horizon of one forecast.
pub(crate) struct Moments(Vec<(u64, f64, f64)>);

impl Moments {
    pub(crate) fn of(forecast: &Forecast) -> Self {
        let mut moments: Vec<_> = forecast
            .horizons
            .iter()
            .map(|horizon| {
                let (mean, variance) = horizon.demand.moments();
                (horizon.ahead_ms, mean, variance)
            })
            .collect();
        moments.sort_by_key(|moment| moment.0);
        Self(moments)
    }

    /// Linear between the horizons, and constant outside.
    pub(crate) fn at(&self, ahead_ms: u64) -> (f64, f64) {
        let next = self.0.partition_point(|moment| moment.0 < ahead_ms);
        match (next.checked_sub(1).map(|i| self.0[i]), self.0.get(next)) {
            (None, Some(first)) => (first.1, first.2),
            (Some(last), None) => (last.1, last.2),
            (Some(before), Some(after)) => {
                let part = (ahead_ms - before.0) as f64 / (after.0 - before.0).max(1) as f64;
                let between = |from: f64, to: f64| from + (to - from) * part;
                (between(before.1, after.1), between(before.2, after.2))
            }
            (None, None) => (0.0, 0.0),
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
