//! Everything that a person wants to see at a glance, as one value.

use std::collections::BTreeMap;

use domain::routing::side_cluster;
use domain::{
    Counts, Decision, HostId, Migration, Phase, Plan, Reservation, Resource, RoutingStatus, Side,
    Timestamp,
};
use migrator::Settings;
use migrator::detect::{exceedance, host_demand, limit};
use migrator::saga::Progress;
use migrator::world::World;
use serde::{Deserialize, Serialize};
use store::{Key, Kind, Store, StoreError, words};

/// The system at a glance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// When.
    pub at: Timestamp,
    /// Hosts with demand, forecast and capacity.
    pub hosts: Vec<HostStatus>,
    /// Migrations, newest first.
    pub migrations: Vec<MigrationStatus>,
    /// The latest decision.
    pub decision: Option<Decision>,
    /// Plans, newest first.
    pub plans: Vec<Plan>,
    /// Capacity held for migrations.
    pub reservations: Vec<Reservation>,
    /// How far the data planes are, per service.
    pub routing: Vec<RoutingStatus>,
    /// What is wrong, by name; nothing when the control plane is ready.
    #[serde(default)]
    pub troubles: BTreeMap<String, String>,
}

/// A host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub id: HostId,
    /// Millicores it gives.
    pub capacity: f64,
    /// Millicores that may be used.
    pub limit: f64,
    /// Millicores in use.
    pub demand: f64,
    /// Demand before now, oldest first: time and millicores.
    pub past: Vec<(Timestamp, f64)>,
    /// Its instances with their millicores.
    pub instances: Vec<(String, f64)>,
    /// Demand ahead.
    pub forecast: Vec<Band>,
    /// What made the forecasts.
    pub model: Option<String>,
}

/// Demand of a host at one time ahead.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Band {
    /// Milliseconds ahead.
    pub ahead_ms: u64,
    /// Lower end of the 80 % interval.
    pub low: f64,
    /// Mean.
    pub mean: f64,
    /// Upper end of the 80 % interval.
    pub high: f64,
    /// Probability of exceeding the limit.
    pub risk: f64,
}

/// A migration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MigrationStatus {
    /// The record.
    pub migration: Migration,
    /// Its phase's name.
    pub phase: String,
    /// The shadow's share, in basis points.
    pub shadow_bp: u32,
    /// What is being done.
    pub progress: Option<Progress>,
    /// Both sides' traffic since the split began.
    pub sides: BTreeMap<String, SideStatus>,
}

/// Traffic of one side.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct SideStatus {
    /// Requests that ended.
    pub requests: u64,
    /// Of these, failed.
    pub errors: u64,
    /// Median latency in milliseconds.
    pub p50_ms: Option<f64>,
    /// 99th percentile in milliseconds.
    pub p99_ms: Option<f64>,
}

impl From<&Counts> for SideStatus {
    fn from(counts: &Counts) -> Self {
        let ms = |level| counts.latency.quantile_us(level).map(|us| us / 1_000.0);
        Self {
            requests: counts.ended(),
            errors: counts.error,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        }
    }
}

/// Reads the status from the store.
///
/// # Errors
/// The store's.
pub async fn read(
    store: &dyn Store,
    settings: &Settings,
    at: Timestamp,
) -> Result<Status, StoreError> {
    let world = World::read(store, at).await?;
    let mut migrations = Vec::new();
    for record in store.list(Kind::Migration).await? {
        migrations.push(migration(store, record.parse()?.value).await?);
    }
    migrations.sort_by_key(|m| std::cmp::Reverse(m.migration.started_at()));
    let mut plans = Vec::new();
    for record in store.list(Kind::Plan).await? {
        plans.push(record.parse::<Plan>()?.value);
    }
    plans.sort_by_key(|plan| std::cmp::Reverse(plan.decision.at));
    let mut routing = Vec::new();
    for service in &world.services {
        routing.extend(words::routing_status(store, &service.id).await?);
    }
    let latest = store.get(&Key::new(Kind::Decision, "latest")).await?;
    Ok(Status {
        at,
        hosts: world
            .hosts
            .keys()
            .map(|id| host(&world, settings, id))
            .collect(),
        migrations,
        decision: latest
            .map(|record| record.parse())
            .transpose()?
            .map(|d| d.value),
        plans,
        reservations: world.reservations,
        routing,
        troubles: BTreeMap::new(),
    })
}

fn host(world: &World, settings: &Settings, id: &HostId) -> HostStatus {
    let limit = limit(world, id, Resource::Cpu, settings).unwrap_or(0.0);
    let instances: Vec<_> = world
        .on_host(id)
        .map(|instance| {
            let demand = world
                .present_demand(&instance.spec.id, Resource::Cpu)
                .unwrap_or(0.0);
            (instance.spec.id.to_string(), demand)
        })
        .collect();
    let step = (settings.lead_ms + settings.window_ms) / 24;
    let forecast = (1..=24)
        .map(|point| {
            let ahead_ms = point * step;
            let (mean, variance) = host_demand(world, id, Resource::Cpu, ahead_ms, None, None);
            let spread = 1.2816 * variance.sqrt();
            Band {
                ahead_ms,
                low: (mean - spread).max(0.0),
                mean,
                high: mean + spread,
                risk: exceedance(mean, variance, limit),
            }
        })
        .collect();
    let model = world
        .on_host(id)
        .find_map(|instance| world.forecasts.get(&instance.spec.id)?.of(Resource::Cpu))
        .map(|f| match &f.model.fallback {
            Some(reason) => format!("{} {} (fallback: {reason})", f.model.id, f.model.version),
            None => format!("{} {}", f.model.id, f.model.version),
        });
    HostStatus {
        id: id.clone(),
        capacity: world
            .hosts
            .get(id)
            .and_then(|host| host.capacity.cpu)
            .unwrap_or(0.0),
        limit,
        demand: instances.iter().map(|(_, demand)| demand).sum(),
        past: past(world, id),
        instances,
        forecast,
        model,
    }
}

/// What the instances that are on a host now have used together. Instances are read one after
/// another, so their readings are matched by their place in the row, newest with newest.
fn past(world: &World, id: &HostId) -> Vec<(Timestamp, f64)> {
    let mut sums: Vec<(Timestamp, f64)> = Vec::new();
    for instance in world.on_host(id) {
        let Some(readings) = world.readings.get(&instance.spec.id) else {
            continue;
        };
        for (age, reading) in readings.readings.iter().rev().enumerate() {
            let cpu = reading.demand.get(Resource::Cpu).unwrap_or(0.0);
            match sums.get_mut(age) {
                Some(sum) => sum.1 += cpu,
                None => sums.push((reading.at, cpu)),
            }
        }
    }
    sums.reverse();
    sums
}

/// A phase as people read it.
pub fn phase_name(phase: Phase) -> String {
    if let Phase::Ramping { stage } = phase {
        format!("ramping, stage {}", stage + 1)
    } else {
        phase.name().to_owned()
    }
}

async fn migration(store: &dyn Store, migration: Migration) -> Result<MigrationStatus, StoreError> {
    let traffic = words::traffic(store, &migration.service).await?;
    let progress = store
        .get(&Key::new(Kind::Progress, migration.id.as_str()))
        .await?;
    let sides = [Side::Original, Side::Shadow]
        .into_iter()
        .map(|side| {
            let name = side_cluster(&migration.service, &migration.instance, side);
            let counts = traffic
                .as_ref()
                .map(|t| t.cluster(&name))
                .unwrap_or_default();
            (side.name().to_owned(), SideStatus::from(&counts))
        })
        .collect();
    let phase = phase_name(migration.phase);
    Ok(MigrationStatus {
        phase,
        shadow_bp: migration.split().shadow().get(),
        progress: progress
            .map(|record| record.parse())
            .transpose()?
            .map(|p| p.value),
        sides,
        migration,
    })
}
