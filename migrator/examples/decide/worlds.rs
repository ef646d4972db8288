//! Worlds to plan in.

use std::collections::BTreeMap;

use domain::forecast::InstanceForecast;
use domain::{
    Capacity, ConsistencyClass, Endpoint, Forecast, Hooks, HorizonForecast, Host, HostId, Instance,
    InstanceId, InstanceSpec, InstanceState, ModelRef, Placement, Priority, QUANTILE_LEVELS,
    QuantileCurve, Replica, Resource, ServiceId, Timestamp,
};
use foreshadow_migrator::world::World;

/// Horizons of every forecast, in steps of five minutes.
const HORIZONS: [u64; 12] = [1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72];
const STEP_MS: u64 = 300_000;
const GIB: f64 = 1_073_741_824.0;

/// How much is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// Four resources with spread.
    Forecast,
    /// One resource, to the digit; memory is only reserved.
    Certain,
}

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn curve(mean: f64, spread: f64) -> QuantileCurve {
    let values = QUANTILE_LEVELS.map(|level| mean * (1.0 + spread * (2.0 * level - 1.0)));
    QuantileCurve::rearranged(values).expect("finite")
}

pub(crate) fn world(
    hosts: usize,
    instances: usize,
    load: f64,
    seed: u64,
    certainty: Certainty,
) -> World {
    let mut dice = Dice(seed.wrapping_mul(0x1234_5677).wrapping_add(99));
    let mut world = World {
        at: Timestamp(1_000_000_000),
        ..World::default()
    };
    let per_host = instances as f64 / hosts as f64;
    let given = 300.0 * per_host / load;
    let names: Vec<HostId> = (0..hosts)
        .map(|n| HostId::new(format!("host-{n:05}")).expect("a name"))
        .collect();
    let watched = certainty == Certainty::Forecast;
    for id in &names {
        world.hosts.insert(
            id.clone(),
            Host {
                id: id.clone(),
                capacity: Capacity {
                    cpu: Some(given),
                    memory: Some(if watched { 2.0 } else { 4.0 } * per_host * 2.5 * GIB),
                    net_rx: watched.then_some(given * 2.0),
                    net_tx: watched.then_some(given * 2.0),
                },
                cpus: Vec::new(),
                labels: BTreeMap::new(),
                isolation: None,
            },
        );
    }
    for number in 0..instances {
        let id = InstanceId::new(format!("i-{number:06}")).expect("a name");
        // Exponential demand with mean 300, and an even number of instances per host.
        let mean = (-300.0 * (1.0 - dice.next()).ln()).clamp(5.0, given * 0.5);
        let gib = 0.5 + 4.0 * dice.next();
        let host = &names[number % hosts];
        let endpoint = Endpoint(([127, 0, 0, 1], 1).into());
        let instance = Instance {
            spec: InstanceSpec {
                id: id.clone(),
                service: ServiceId::new("bench").expect("a name"),
                argv: Vec::new(),
                env: BTreeMap::new(),
                health_path: String::new(),
                hooks: Hooks::default(),
                class: ConsistencyClass::Stateless,
                priority: Priority::Normal,
                anti_affinity: Vec::new(),
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "some bytes"
                )]
                memory_bytes: (gib * GIB) as u64,
                movable: true,
                placement: Placement::default(),
            },
            replica: Replica {
                host: host.clone(),
                endpoint,
                handle: String::new(),
                tag: String::new(),
            },
            state: InstanceState::Running,
            placed_at: Timestamp(0),
        };
        let drift = 0.4 * (dice.next() - 0.5);
        let of = |resource: Resource, mean: f64, spread: f64| Forecast {
            instance: id.clone(),
            resource,
            issued_at: world.at,
            data_age_ms: 0,
            samples: 2_016,
            cold_start: false,
            model: ModelRef {
                id: "bench".to_owned(),
                version: "1".to_owned(),
                fallback: None,
            },
            last: Some(mean),
            horizons: HORIZONS
                .iter()
                .map(|&h| {
                    let later = mean * (1.0 + drift * h as f64 / 72.0);
                    HorizonForecast {
                        ahead_ms: h * STEP_MS,
                        demand: curve(later, spread),
                    }
                })
                .collect(),
        };
        let forecasts = match certainty {
            Certainty::Forecast => vec![
                of(Resource::Cpu, mean, 0.6),
                of(Resource::Memory, gib * GIB * 0.6, 0.05),
                of(Resource::NetRx, mean, 0.8),
                of(Resource::NetTx, mean * 0.9, 0.8),
            ],
            Certainty::Certain => {
                let mut forecast = of(Resource::Cpu, mean, 0.0);
                for horizon in &mut forecast.horizons {
                    horizon.demand = curve(mean, 0.0);
                }
                vec![forecast]
            }
        };
        world.forecasts.insert(
            id.clone(),
            InstanceForecast {
                instance: id.clone(),
                forecasts,
            },
        );
        world.instances.insert(id, instance);
    }
    world
}
