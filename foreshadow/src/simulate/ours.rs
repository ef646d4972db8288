//! The production planner in the simulation: the fleet as a [`World`], and [`migrator::plan`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use domain::forecast::InstanceForecast;
use domain::migration::Limits;
use domain::{
    Capacity, ConsistencyClass, Endpoint, Epoch, Expected, Hooks, Host, HostId, IdError, Instance,
    InstanceSpec, InstanceState, Migration, MigrationId, Move, Placement, PlanId, Reading,
    Readings, Replica, Resource, Resources, ServiceId, Timestamp,
};
use migrator::Settings;
use migrator::detect::Memory;
use migrator::plan;
use migrator::world::{Left, World};

use super::fleet::Fleet;

/// Readings that are kept per instance.
const KEPT: usize = 4;

/// The production planner.
pub struct Ours {
    world: World,
    settings: Settings,
    memory: Memory,
    hosts: Vec<HostId>,
    /// Time that deciding took.
    pub took: Vec<Duration>,
    /// Time from each decision to the contention that it was made against, in milliseconds.
    pub leads: Vec<u64>,
    /// What was decided last.
    pub said: String,
}

impl Ours {
    /// A planner that knows the fleet.
    ///
    /// # Errors
    /// A name that cannot be one.
    pub fn new(fleet: &Fleet<'_>, settings: Settings) -> Result<Self, IdError> {
        let mut world = World::default();
        let mut hosts = Vec::new();
        for number in 0..fleet.hosts() {
            let id = HostId::new(format!("host-{number:04}"))?;
            let of = |resource: Resource| {
                let capacity = fleet.capacity[resource as usize];
                capacity.is_finite().then_some(capacity)
            };
            let host = Host {
                id: id.clone(),
                capacity: Capacity {
                    cpu: of(Resource::Cpu),
                    memory: of(Resource::Memory),
                    net_rx: of(Resource::NetRx),
                    net_tx: of(Resource::NetTx),
                },
                cpus: Vec::new(),
                labels: BTreeMap::new(),
                isolation: None,
            };
            world.hosts.insert(id.clone(), host);
            hosts.push(id);
        }
        let service = ServiceId::new("simulated")?;
        for (row, id) in fleet.workload.ids.iter().enumerate() {
            let spec = InstanceSpec {
                id: id.clone(),
                service: service.clone(),
                argv: Vec::new(),
                env: BTreeMap::new(),
                health_path: String::new(),
                hooks: Hooks::default(),
                class: ConsistencyClass::Stateless,
                priority: fleet.workload.priority[row],
                anti_affinity: Vec::new(),
                memory_bytes: fleet.workload.memory[row],
                movable: true,
                placement: Placement::default(),
            };
            let instance = Instance {
                spec,
                replica: Replica {
                    host: hosts[fleet.host_of[row]].clone(),
                    endpoint: Endpoint(([127, 0, 0, 1], 1).into()),
                    handle: String::new(),
                    tag: String::new(),
                },
                state: InstanceState::Running,
                placed_at: Timestamp(0),
            };
            world.instances.insert(id.clone(), instance);
            let readings = Readings {
                instance: id.clone(),
                readings: Vec::new(),
            };
            world.readings.insert(id.clone(), readings);
        }
        Ok(Self {
            world,
            settings,
            memory: Memory::default(),
            hosts,
            took: Vec::new(),
            leads: Vec::new(),
            said: String::new(),
        })
    }

    /// What past forecasts have taught.
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What the planner wants moved at the beginning of a step.
    ///
    /// # Errors
    /// A name that cannot be one.
    pub fn decide(
        &mut self,
        fleet: &Fleet<'_>,
        step: usize,
        forecasts: &[InstanceForecast],
    ) -> Result<Vec<(usize, usize)>, IdError> {
        self.look(fleet, step, forecasts)?;
        let began = Instant::now();
        let decision = plan::decide(&self.world, &self.settings, &mut self.memory);
        self.took.push(began.elapsed());
        self.said.clone_from(&decision.summary);
        let mut moves = Vec::new();
        for intent in &decision.moves {
            let of_host = decision.contention.iter().filter(|c| c.host == intent.from);
            self.leads.extend(of_host.map(|found| found.ahead_ms).min());
            let row = fleet.workload.ids.binary_search(&intent.instance);
            let to = self.hosts.binary_search(&intent.target);
            if let (Ok(row), Ok(to)) = (row, to) {
                moves.push((row, to));
            }
        }
        Ok(moves)
    }

    fn look(
        &mut self,
        fleet: &Fleet<'_>,
        step: usize,
        forecasts: &[InstanceForecast],
    ) -> Result<(), IdError> {
        let world = &mut self.world;
        world.at = fleet.now();
        for (row, id) in fleet.workload.ids.iter().enumerate() {
            if let Some(instance) = world.instances.get_mut(id) {
                instance
                    .replica
                    .host
                    .clone_from(&self.hosts[fleet.host_of[row]]);
                instance.placed_at = Timestamp(fleet.placed_ms[row]);
            }
            let (Some(readings), Some(last)) = (world.readings.get_mut(id), step.checked_sub(1))
            else {
                continue;
            };
            let mut demand = Resources::default();
            for &resource in &fleet.workload.resources {
                *demand.get_mut(resource) = Some(fleet.workload.at(row, resource, last));
            }
            readings.readings.push(Reading {
                at: world.at,
                demand,
            });
            if readings.readings.len() > KEPT {
                readings.readings.remove(0);
            }
        }
        for forecast in forecasts {
            if let Some(known) = world.forecasts.get_mut(&forecast.instance) {
                known.clone_from(forecast);
            } else {
                let id = forecast.instance.clone();
                world.forecasts.insert(id, forecast.clone());
            }
        }
        world.durations = fleet.durations.iter().rev().take(200).copied().collect();
        world.left = fleet
            .left
            .iter()
            .map(|(&row, left)| {
                let left = left.iter().map(|&(at, host)| Left {
                    host: self.hosts[host].clone(),
                    at: Timestamp(at),
                });
                (fleet.workload.ids[row].clone(), left.collect())
            })
            .collect();
        let migrations = self.migrations(fleet)?;
        self.world.migrations = migrations;
        Ok(())
    }

    fn migrations(&self, fleet: &Fleet<'_>) -> Result<Vec<Migration>, IdError> {
        let mut migrations = Vec::new();
        for moving in &fleet.moving {
            let id = &fleet.workload.ids[moving.row];
            let Some(instance) = self.world.instances.get(id) else {
                continue;
            };
            let intent = Move {
                instance: id.clone(),
                from: self.hosts[moving.from].clone(),
                target: self.hosts[moving.to].clone(),
                ramp: self.settings.ramp.clone(),
                reserve: Resources::default(),
                score: 0.0,
                reasons: Vec::new(),
                expected: Expected::default(),
            };
            migrations.push(Migration::new(
                MigrationId::new(format!("m-{}-{}", moving.began_ms, moving.row))?,
                PlanId::new("p")?,
                instance,
                &intent,
                Limits::default(),
                Epoch(0),
                Timestamp(moving.began_ms),
            ));
        }
        Ok(migrations)
    }
}
