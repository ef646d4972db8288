//! What the demo runs: two hosts, six instances, and a real trace.

use std::collections::BTreeMap;
use std::path::Path;

use domain::migration::Limits;
use domain::{
    BasisPoints, Capacity, Host, HostId, InstanceId, InstanceSpec, Policy, Priority, RampPlan,
    Service, ServiceId, Stage,
};
use migrator::{AtDeadline, JudgeSettings, Settings};

use crate::cli::BadShadow;
use crate::config::{Config, Placed};
use crate::error::Failure;
use crate::ingest::settings::IngestSettings;
use crate::storage::StoreChoice;

/// The trace, from real VMs; `deploy/demo/trace.json` says which.
const TRACE: &str = include_str!("../../../deploy/demo/trace.csv");
/// Steps of history in the trace.
const HISTORY_STEPS: usize = 2_016;
/// Steps that the demo plays.
const LIVE_STEPS: usize = 115;
/// Millicores that a host gives.
const HOST_CPU: f64 = 600.0;
/// Share of it that may be used.
const UTILISATION: f64 = 0.8;
/// CPU time of one request, in microseconds.
pub const WORK_US: u64 = 4_000;
/// Instances and the host they start on.
const INSTANCES: [(&str, &str); 6] = [
    ("a1", "host-a"),
    ("a2", "host-a"),
    ("a3", "host-a"),
    ("b1", "host-b"),
    ("b2", "host-b"),
    ("b3", "host-b"),
];
/// Length of a step in the demo, in milliseconds; in the trace it is five minutes.
pub const STEP_MS: u64 = 1_000;

/// Demand per instance in millicores, one value per step.
#[derive(Debug, Clone)]
pub struct Scenario {
    demand: BTreeMap<InstanceId, Vec<Option<f64>>>,
}

impl Scenario {
    /// Reads the bundled trace.
    ///
    /// # Errors
    /// [`Failure::Config`] naming line and field.
    pub fn bundled() -> Result<Self, Failure> {
        Self::parse(TRACE)
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        let mut demand: BTreeMap<InstanceId, Vec<Option<f64>>> = BTreeMap::new();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        for (line, record) in (2_u64..).zip(reader.records()) {
            let bad = |field: &str, value: &str| {
                Failure::Config(format!("trace, line {line}: {field} is {value:?}"))
            };
            let record =
                record.map_err(Failure::failed(&format!("read the trace, line {line}")))?;
            let (name, value) = (record.get(0).unwrap_or(""), record.get(2).unwrap_or(""));
            let id = InstanceId::new(name).map_err(|_| bad("instance", name))?;
            let value = if value.is_empty() {
                None
            } else {
                let number: f64 = value.parse().map_err(|_| bad("cpu", value))?;
                if !number.is_finite() || number < 0.0 {
                    return Err(bad("cpu", value));
                }
                Some(number)
            };
            demand.entry(id).or_default().push(value);
        }
        for (name, _) in INSTANCES {
            let steps = demand
                .iter()
                .find(|(id, _)| id.as_str() == name)
                .map_or(0, |d| d.1.len());
            if steps <= HISTORY_STEPS {
                return Err(Failure::Config(format!(
                    "trace: instance {name} has {steps} steps; more than {HISTORY_STEPS} are needed"
                )));
            }
        }
        Ok(Self { demand })
    }

    /// What was before the demo begins.
    pub fn known(&self) -> Vec<(InstanceId, Vec<Option<f64>>)> {
        let history = |values: &Vec<Option<f64>>| {
            values
                .iter()
                .take(HISTORY_STEPS)
                .copied()
                .collect::<Vec<_>>()
        };
        self.demand
            .iter()
            .map(|(id, values)| (id.clone(), history(values)))
            .collect()
    }

    /// Live demand of an instance, a value per step; a gap repeats the value before it.
    pub fn live(&self, instance: &str) -> Vec<f64> {
        let values = self.demand.iter().find(|(id, _)| id.as_str() == instance);
        let mut last = 0.0;
        values
            .into_iter()
            .flat_map(|(_, values)| values.iter().skip(HISTORY_STEPS).take(LIVE_STEPS))
            .map(|value| {
                last = value.unwrap_or(last);
                last
            })
            .collect()
    }

    /// The names of the instances.
    pub fn instances() -> impl Iterator<Item = &'static str> {
        INSTANCES.into_iter().map(|(name, _)| name)
    }

    /// First live step, in seconds, from which the demand that began on a host stays above the
    /// limit for five of the next eight steps.
    pub fn contended_from(&self) -> Option<usize> {
        let sum = self.sum("host-a");
        let above = |step: usize| sum.get(step).is_some_and(|&v| v > HOST_CPU * UTILISATION);
        (0..sum.len()).find(|&s| above(s) && (s..s + 8).filter(|&t| above(t)).count() >= 5)
    }

    fn sum(&self, host: &str) -> Vec<f64> {
        let mut sum = Vec::new();
        for (name, _) in INSTANCES.into_iter().filter(|(_, on)| *on == host) {
            for (step, value) in self.live(name).into_iter().enumerate() {
                if sum.len() <= step {
                    sum.push(0.0);
                }
                sum[step] += value;
            }
        }
        sum
    }

    /// The configuration of the demo's control plane.
    ///
    /// # Errors
    /// [`Failure`] when this program's own path is unknown.
    pub fn config(
        &self,
        data: &Path,
        policy: Policy,
        bad: Option<BadShadow>,
        page: std::net::SocketAddr,
    ) -> Result<Config, Failure> {
        let program = std::env::current_exe().map_err(Failure::failed("find this program"))?;
        let journal = data.join("journal");
        let id = Failure::failed::<domain::IdError>("name the demo's parts");
        let mut hosts = Vec::new();
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for (number, name) in ["host-a", "host-b"].into_iter().enumerate() {
            hosts.push(Host {
                id: HostId::new(name).map_err(&id)?,
                capacity: Capacity {
                    cpu: Some(HOST_CPU),
                    memory: Some(2.0 * 1024.0 * 1024.0 * 1024.0),
                    ..Capacity::default()
                },
                cpus: if processors > number {
                    vec![number]
                } else {
                    Vec::new()
                },
                labels: BTreeMap::new(),
                isolation: None,
            });
        }
        let (mut services, mut instances) = (Vec::new(), Vec::new());
        for (name, host) in INSTANCES {
            let service = ServiceId::new(format!("svc-{name}")).map_err(&id)?;
            services.push(Service {
                id: service.clone(),
                domains: Vec::new(),
                sticky_header: None,
                timeout_ms: 15_000,
            });
            let mut spec = instance(name, service, &program, &journal)?;
            if let Some(bad) = bad {
                spec.env
                    .insert("FORESHADOW_FAULT".to_owned(), bad.fault().to_owned());
            }
            instances.push(Placed {
                host: HostId::new(host).map_err(&id)?,
                spec,
            });
        }
        Ok(Config {
            replicas: None,
            data: data.to_owned(),
            store: StoreChoice::Embedded,
            xds: ([127, 0, 0, 1], 0).into(),
            page,
            step_ms: STEP_MS,
            report_ms: 250,
            xds_admin: None,
            security: crate::security::Security::default(),
            insecure_remote: false,
            webhooks: Vec::new(),
            ingest: IngestSettings::default(),
            calendar: None,
            hosts,
            services,
            instances,
            migrator: settings(policy),
        })
    }
}

fn instance(
    name: &str,
    service: ServiceId,
    program: &Path,
    journal: &Path,
) -> Result<InstanceSpec, Failure> {
    let argv = [
        program.display().to_string(),
        "workload".to_owned(),
        "--port={port}".to_owned(),
        "--state={state}".to_owned(),
        format!("--journal={}", journal.display()),
        format!("--work-us={WORK_US}"),
        "--instance={instance}".to_owned(),
    ];
    let hook = |name: &str| Some(format!("/foreshadow/{name}"));
    Ok(InstanceSpec {
        id: InstanceId::new(name).map_err(Failure::failed("name an instance"))?,
        service,
        argv: argv.to_vec(),
        env: BTreeMap::new(),
        health_path: "/healthz".to_owned(),
        hooks: domain::Hooks {
            quiesce: hook("quiesce"),
            resume: hook("resume"),
            state: hook("state"),
            reidentify: hook("reidentify"),
            writer: None,
        },
        class: domain::ConsistencyClass::SharedState,
        priority: if name.ends_with('2') {
            Priority::Low
        } else {
            Priority::Normal
        },
        anti_affinity: Vec::new(),
        memory_bytes: 96 * 1024 * 1024,
        movable: true,
        placement: domain::Placement::default(),
    })
}

fn settings(policy: Policy) -> Settings {
    let stages = [1_000, 2_500, 5_000, 10_000]
        .into_iter()
        .filter_map(|share| BasisPoints::new(share).ok())
        .map(|shadow| Stage {
            shadow,
            hold_ms: 2_000,
        })
        .collect();
    Settings {
        policy,
        tick_ms: 1_000,
        lead_ms: 16_000,
        window_ms: 24_000,
        utilisation_limit: UTILISATION,
        accepted_risk: 0.5,
        confirm_ticks: 4,
        of_ticks: 5,
        cool_down_ms: 300_000,
        retry_ms: 15_000,
        max_migrations: 1,
        ramp: RampPlan::new(stages).unwrap_or_else(|_| RampPlan::standard(2_000)),
        limits: Limits::default(),
        // As quick as the stages.
        pairs: migrator::pairs::PairSettings {
            min_pairs: 10,
            wait_ms: 2_000,
            // Six instances share a laptop's processors.
            slow_ratio: 2.0,
            ..migrator::pairs::PairSettings::default()
        },
        judge: JudgeSettings {
            // An instance whose demand is about to rise has few requests yet: at 10 % of five a second,
            // fifteen take longer than there is. The later stages ask for proof.
            min_requests: 5,
            mirror_ms: 3_000,
            deadline_ms: 45_000,
            // A stage lasts seconds here, and six instances share a laptop's processors.
            epoch_ms: 250,
            error_margin: 0.005,
            slow_ratio: 2.0,
            slow_margin: 0.15,
            stall_margin: 0.15,
            at_deadline: AtDeadline::RollBack,
            prove_error_margin: 0.1,
            prove_slow_margin: 0.5,
            ..JudgeSettings::default()
        },
        planning: migrator::Planning::default(),
        drain_deadline_ms: 10_000,
        lease_ms: 5_000,
        ..Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_trace_has_a_contention_that_begins_after_half_a_minute() {
        let scenario = Scenario::bundled().unwrap();
        let from = scenario.contended_from().unwrap();
        assert!((30..=90).contains(&from), "{from}");
    }

    #[test]
    fn a_trace_with_a_negative_or_unreadable_value_is_refused_with_its_line() {
        for bad in ["-1", "x", "inf"] {
            let text = format!("instance,step,cpu\na1,0,1\na1,1,{bad}\n");
            let error = Scenario::parse(&text).unwrap_err().to_string();
            assert!(error.contains("line 3") && error.contains("cpu"), "{error}");
        }
    }
}
