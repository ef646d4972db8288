//! `foreshadow simulate`: policies side by side on traces, in virtual time.
//!
//! # Flow
//! ```text
//! traces ─▶ workload ─▶ forecasts (ONNX, once a step for all) ─┐
//!                          ▼                                   ▼
//!   every load × seed × policy: look ─▶ decide (migrator::plan, or a peer's rule) ─▶ fleet
//!                                                                                    ▼
//!                                              table, JSON, HTML report, promises
//! ```
//! The production planner is called as production calls it, on a [`migrator::world::World`]. Hosts
//! are equal and their number is given; their processors are such that the mean load is the one
//! asked for. Nothing before `warm_up` steps counts: it is the history that all begin with.

pub mod fleet;
pub mod foresight;
pub mod ours;
pub mod peers;
mod report;
mod table;
pub mod workload;

use std::fs::File;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use domain::forecast::InstanceForecast;
use domain::{Policy, Resource};
use migrator::belief::Bin;
use migrator::{Planning, Settings};

use crate::cli::Output;
use crate::error::Failure;
use fleet::{Fleet, Totals, first_hosts};
use foresight::Foresight;
use ours::Ours;
use peers::Rule;
use workload::Workload;

/// How full a host's memory and network are on average, where the trace has them.
const MEMORY_LOAD: f64 = 0.75;
const NETWORK_LOAD: f64 = 0.5;
/// Steps that the oracle sees ahead: half an hour.
const ORACLE_STEPS: usize = 6;
/// What a migration takes beside the copy, in milliseconds: mirroring, soaking and draining as in
/// the migrator's defaults; the ramp's holds come on top.
const BESIDE_MS: u64 = 16_000;

/// Options of `simulate`.
#[derive(Debug, Clone, clap::Args)]
pub struct SimulateOptions {
    /// Traces (CSV: instance,step,cpu,memory,net_rx,net_tx), each a run of its own.
    #[arg(long = "trace", required = true, num_args = 1..)]
    pub traces: Vec<PathBuf>,
    /// Mean load of the hosts' processors.
    #[arg(long = "load", num_args = 1.., default_values_t = [0.65, 0.75])]
    pub loads: Vec<f64>,
    /// Seeds: each gives other first hosts.
    #[arg(long, default_value_t = 3)]
    pub seeds: u64,
    /// Policies by name; all if left out. Also: predictive, oracle.
    #[arg(long = "policy", num_args = 1..)]
    pub policies: Vec<String>,
    /// Instances per host.
    #[arg(long, default_value_t = 25)]
    pub per_host: usize,
    /// Steps that are history only.
    #[arg(long, default_value_t = 24)]
    pub warm_up: usize,
    /// Last step to play; the trace's end if left out.
    #[arg(long)]
    pub until: Option<usize>,
    /// Length of a step, in milliseconds.
    #[arg(long, default_value_t = 300_000)]
    pub step_ms: u64,
    /// Settings of the migrator (YAML) over those of the simulation.
    #[arg(long)]
    pub settings: Option<PathBuf>,
    /// Folder of the forecast model; the shipped one if left out.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Folder where forecasts are kept for the next run.
    #[arg(long)]
    pub cache: Option<PathBuf>,
    /// Where to write an HTML report.
    #[arg(long)]
    pub report: Option<PathBuf>,
    /// Print promises with targets at the end.
    #[arg(long)]
    pub promises: bool,
    /// How the results are printed.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// A policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Arm {
    Peer(Rule),
    Predictive,
    Oracle,
}

impl Arm {
    fn all() -> Vec<Self> {
        let mut all: Vec<Self> = Rule::ALL.into_iter().map(Self::Peer).collect();
        all.extend([Self::Predictive, Self::Oracle]);
        all
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Peer(rule) => rule.name(),
            Self::Predictive => "predictive",
            Self::Oracle => "oracle",
        }
    }

    fn needs_forecasts(self) -> bool {
        match self {
            Self::Predictive | Self::Peer(Rule::MeanForecast) => true,
            Self::Peer(_) | Self::Oracle => false,
        }
    }
}

/// What one run came to.
#[derive(Debug, Clone)]
struct Run {
    trace: String,
    load: f64,
    seed: u64,
    arm: Arm,
    hosts: usize,
    totals: Totals,
    bins: Vec<Bin>,
    leads: Vec<u64>,
    took: Vec<Duration>,
    heat: Vec<Vec<f32>>,
    log: Vec<fleet::Moving>,
    band: Vec<report::Band>,
}

struct Player<'a> {
    arm: Arm,
    load: f64,
    seed: u64,
    fleet: Fleet<'a>,
    planner: Option<Ours>,
    band: Vec<report::Band>,
}

/// `foreshadow simulate`.
///
/// # Errors
/// [`Failure::Config`] for a wrong option, trace or setting; [`Failure::Unavailable`] without
/// model.
pub fn run(options: &SimulateOptions) -> Result<ExitCode, Failure> {
    let arms = arms(&options.policies)?;
    let settings = settings(options)?;
    for load in &options.loads {
        if !(*load > 0.0 && *load < 2.0) {
            return Err(Failure::Config(format!(
                "--load is {load}; allowed is above 0 and below 2"
            )));
        }
    }
    if options.per_host == 0 || options.seeds == 0 || options.warm_up == 0 {
        return Err(Failure::Config(
            "--per-host, --seeds and --warm-up are at least 1".to_owned(),
        ));
    }
    let mut foresight = if arms.iter().any(|arm| arm.needs_forecasts()) {
        Some(Foresight::new(
            options.model.as_ref(),
            options.cache.clone(),
        )?)
    } else {
        None
    };
    let began = Instant::now();
    let mut runs = Vec::new();
    for path in &options.traces {
        let name = path
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let file = File::open(path)
            .map_err(|error| Failure::Config(format!("--trace {}: {error}", path.display())))?;
        let workload = Workload::read(&name, file, options.step_ms)?;
        runs.extend(play(
            options,
            &workload,
            &arms,
            &settings,
            foresight.as_mut(),
        )?);
    }
    if let Some(path) = &options.report {
        let html = report::html(&runs, options.step_ms, options.warm_up);
        std::fs::write(path, html)
            .map_err(Failure::unavailable(&format!("write {}", path.display())))?;
    }
    match options.output {
        Output::Json => println!("{}", table::json(&runs)),
        Output::Text => {
            if let Some(foresight) = &foresight {
                println!("forecasts: {}", foresight.made_by());
            }
            print!("{}", table::text(&runs));
            println!(
                "{} runs in {:.0} s",
                runs.len(),
                began.elapsed().as_secs_f64()
            );
        }
    }
    if options.promises {
        print!("{}", table::promises(&runs));
    }
    Ok(ExitCode::SUCCESS)
}

fn arms(names: &[String]) -> Result<Vec<Arm>, Failure> {
    let all = Arm::all();
    if names.is_empty() {
        return Ok(all);
    }
    names
        .iter()
        .map(|name| {
            let found = all.iter().find(|arm| arm.name() == name);
            found.copied().ok_or_else(|| {
                let known: Vec<&str> = all.iter().map(|arm| arm.name()).collect();
                Failure::Config(format!(
                    "--policy is {name:?}; allowed is {}",
                    known.join(", ")
                ))
            })
        })
        .collect()
}

/// The migrator's settings for the simulation, with the file's over them.
fn settings(options: &SimulateOptions) -> Result<Settings, Failure> {
    let base = Settings {
        policy: Policy::Predictive,
        tick_ms: options.step_ms,
        lead_ms: options.step_ms / 2,
        window_ms: 3 * 3_600_000,
        // Contention here is a demand above what the host has, not above a limit below that.
        utilisation_limit: 1.0,
        accepted_risk: 0.02,
        confirm_ticks: 1,
        of_ticks: 1,
        cool_down_ms: 3_600_000,
        max_migrations: 32,
        // Tuned on PlanetLab 20110303, 20110306 and 20110322 for that risk (decision 0020).
        planning: Planning {
            price: 0.005,
            doubt: 0.1,
            target_share: 1.0,
            crowded_risk: 4.0,
            ..Planning::default()
        },
        ..Settings::default()
    };
    let Some(path) = &options.settings else {
        return Ok(base);
    };
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Config(format!("--settings {}: {error}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let over: serde_json::Value = serde_saphyr::from_str(&text).map_err(|error| failed(&error))?;
    let mut value = serde_json::to_value(&base).map_err(|error| failed(&error))?;
    merge(&mut value, over);
    let settings: Settings = serde_json::from_value(value).map_err(|error| failed(&error))?;
    settings.validate().map_err(|error| failed(&error))?;
    Ok(settings)
}

fn merge(into: &mut serde_json::Value, over: serde_json::Value) {
    if let (Some(known), serde_json::Value::Object(fields)) = (into.as_object_mut(), &over) {
        for (name, value) in fields {
            match known.get_mut(name) {
                Some(place) => merge(place, value.clone()),
                None => {
                    known.insert(name.clone(), value.clone());
                }
            }
        }
    } else {
        *into = over;
    }
}

/// What a host gives, so that the loads are as asked.
fn capacity(
    workload: &Workload,
    hosts: usize,
    steps: std::ops::Range<usize>,
    load: f64,
) -> [f64; 4] {
    Resource::ALL.map(|resource| {
        if !workload.resources.contains(&resource) {
            return f64::INFINITY;
        }
        let mut sum = 0.0;
        for row in 0..workload.ids.len() {
            let series = workload.series(row, resource, steps.clone());
            sum += series.iter().map(|&value| f64::from(value)).sum::<f64>();
        }
        let mean = sum / steps.len().max(1) as f64 / hosts as f64;
        let load = match resource {
            Resource::Cpu => load,
            Resource::Memory => MEMORY_LOAD,
            Resource::NetRx | Resource::NetTx => NETWORK_LOAD,
        };
        (mean / load).max(1e-9)
    })
}

fn play(
    options: &SimulateOptions,
    workload: &Workload,
    arms: &[Arm],
    settings: &Settings,
    mut foresight: Option<&mut Foresight>,
) -> Result<Vec<Run>, Failure> {
    let until = options.until.unwrap_or(workload.steps).min(workload.steps);
    if options.warm_up >= until {
        return Err(Failure::Config(format!(
            "{}: {until} steps; more than --warm-up ({}) are needed",
            workload.name, options.warm_up
        )));
    }
    let hosts = (workload.ids.len() / options.per_host).max(2);
    let holds: u64 = settings
        .ramp
        .stages()
        .iter()
        .map(|stage| stage.hold_ms)
        .sum();
    let mut players = Vec::new();
    for &load in &options.loads {
        let capacity = capacity(workload, hosts, options.warm_up..until, load);
        for seed in 1..=options.seeds {
            let first = first_hosts(workload, hosts, options.warm_up, seed);
            for &arm in arms {
                let fleet = Fleet::new(
                    workload,
                    capacity,
                    hosts,
                    first.clone(),
                    options.warm_up,
                    seed,
                    holds + BESIDE_MS,
                );
                let planner = planner(arm, &fleet, settings, workload)?;
                players.push(Player {
                    arm,
                    load,
                    seed,
                    fleet,
                    planner,
                    band: Vec::new(),
                });
            }
        }
    }
    let shown = std::io::stderr().is_terminal();
    for step in options.warm_up..until {
        if shown {
            eprint!(
                "\r{}: step {step} of {until}, {} runs ",
                workload.name,
                players.len()
            );
        }
        let forecasts = match &mut foresight {
            Some(foresight) => foresight.at(workload, step)?,
            None => Vec::new(),
        };
        let truth = if arms.contains(&Arm::Oracle) {
            foresight::truth(workload, step, ORACLE_STEPS)
        } else {
            Vec::new()
        };
        for player in &mut players {
            player.step(step, &forecasts, &truth)?;
        }
    }
    if shown {
        eprintln!();
    }
    Ok(players
        .into_iter()
        .map(|player| player.end(workload, hosts))
        .collect())
}

fn planner(
    arm: Arm,
    fleet: &Fleet<'_>,
    settings: &Settings,
    workload: &Workload,
) -> Result<Option<Ours>, Failure> {
    let settings = match arm {
        Arm::Peer(_) => return Ok(None),
        Arm::Predictive => settings.clone(),
        Arm::Oracle => Settings {
            window_ms: ORACLE_STEPS as u64 * workload.step_ms,
            ..settings.clone()
        },
    };
    Ours::new(fleet, settings)
        .map(Some)
        .map_err(Failure::failed("name the simulated hosts"))
}

impl Player<'_> {
    fn step(
        &mut self,
        step: usize,
        forecasts: &[InstanceForecast],
        truth: &[InstanceForecast],
    ) -> Result<(), Failure> {
        let named = Failure::failed::<domain::IdError>("name the simulated moves");
        let moves = match (self.arm, &mut self.planner) {
            (Arm::Peer(rule), _) => rule.decide(&self.fleet, step, forecasts),
            (Arm::Oracle, Some(planner)) => {
                planner.decide(&self.fleet, step, truth).map_err(named)?
            }
            (Arm::Predictive, Some(planner)) => {
                let moves = planner
                    .decide(&self.fleet, step, forecasts)
                    .map_err(named)?;
                if self.seed == 1 {
                    self.band.push(report::band(&self.fleet, step, forecasts));
                }
                moves
            }
            (Arm::Oracle | Arm::Predictive, None) => Vec::new(),
        };
        for (row, to) in moves {
            self.fleet.begin(row, to);
        }
        self.fleet.play(step);
        Ok(())
    }

    fn end(self, workload: &Workload, hosts: usize) -> Run {
        let (bins, leads, took) = match self.planner {
            Some(planner) => (
                planner.memory().belief.reliability().to_vec(),
                planner.leads,
                planner.took,
            ),
            None => (Vec::new(), Vec::new(), Vec::new()),
        };
        Run {
            trace: workload.name.clone(),
            load: self.load,
            seed: self.seed,
            arm: self.arm,
            hosts,
            totals: self.fleet.totals,
            bins,
            leads,
            took,
            heat: self.fleet.heat,
            log: self.fleet.log,
            band: self.band,
        }
    }
}
