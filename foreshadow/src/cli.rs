//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use domain::{HostId, InstanceId, MigrationId, NodeId, Policy};

use crate::access::Access;
use crate::announce::AnnounceOptions;
use crate::certs::CertsOptions;
use crate::forecasting::{BacktestOptions, ForecastOptions, ModelsOptions};
use crate::push::PushOptions;
use crate::simulate::SimulateOptions;
use crate::workload::WorkloadOptions;

/// Moves instances before contention hurts them.
///
/// Exit codes: 0 done; 1 it failed while running; 2 wrong usage; 64 the configuration or an
/// option's value is wrong; 69 something needed is missing or in use.
#[derive(Debug, Parser)]
#[command(name = "foreshadow", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all of it on this machine: a contention foreseen, an instance moved, nothing lost.
    Demo(DemoOptions),
    /// Run the control plane (store, forecaster, xDS server, migrator, web page).
    Serve(ServeOptions),
    /// Run the data-plane proxy.
    Proxy(ProxyOptions),
    /// Show what a running control plane sees and does.
    Status(ClientOptions),
    /// Show the latest decision; with --dry-run what would be decided now.
    Plan(PlanOptions),
    /// Decide again from the evidence that was kept, and compare.
    ReplayPlan(ReplayPlanOptions),
    /// Keep new instances off a host.
    Isolate(IsolateOptions),
    /// Take a claim on a host back; it takes instances again when the last is gone.
    DeIsolate(ReleaseOptions),
    /// Keep new instances off a host and move those on it away; `de-isolate` stops that.
    Evacuate(IsolateOptions),
    /// Show why a migration was made and what happened in it.
    Explain(ExplainOptions),
    /// Move an instance to another host now.
    Move(MoveOptions),
    /// Undo a migration that is under way.
    Abort(MigrationOptions),
    /// Answer a parked migration: try again what failed.
    Retry(MigrationOptions),
    /// Answer a parked migration: undo everything.
    Rollback(MigrationOptions),
    /// Keep a ramp's weight; harm is still rolled back.
    Pause(SteerOptions),
    /// Keep a ramp's weight whatever happens; harm is told, not rolled back.
    Freeze(SteerOptions),
    /// Let a paused or frozen ramp go on.
    Resume(SteerOptions),
    /// Advance a ramp to its next stage now, unless harm is shown.
    Step(SteerOptions),
    /// Advance every stage of a ramp at once, unless harm is shown. Needs a reason.
    Promote(SteerOptions),
    /// Do a ramp's decisions again from their record: exit code 1 if one comes out differently.
    Replay(ReplayOptions),
    /// Show what a ramp policy would do, on simulated traffic, before it is used.
    SimulateRamp(SimulateRampOptions),
    /// Show what belongs to no migration and no instance, and why; with `--yes` remove it.
    Gc(GcOptions),
    /// Forecast the series of a file, with bands and what came.
    Forecast(ForecastOptions),
    /// Test the forecasts on a file of your own, beside simple methods.
    Backtest(BacktestOptions),
    /// List, check, promote and roll back forecast models.
    Models(ModelsOptions),
    /// Push demand from a file or from Prometheus: the forecasts know the past then.
    Push(PushOptions),
    /// Announce load that is known to come: scheduled jobs, events, expected users.
    Announce(AnnounceOptions),
    /// Play traces against the planner and the rules of its peers, in virtual time.
    Simulate(SimulateOptions),
    /// Issue, list and rotate the certificates of data planes and operators.
    Certs(CertsOptions),
    /// Print the JSON Schema of the configuration file.
    Schema,
    /// Run the bundled stateful HTTP workload (the demo starts these).
    #[command(hide = true)]
    Workload(WorkloadOptions),
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// A policy by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyName {
    /// Never move anything.
    None,
    /// Move once demand exceeds the limit.
    Reactive,
    /// Move when demand is forecast to exceed it.
    Predictive,
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::None => Self::None,
            PolicyName::Reactive => Self::Reactive,
            PolicyName::Predictive => Self::Predictive,
        }
    }
}

/// In which way the shadow is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BadShadow {
    /// Half of its answers are 500.
    Errors,
    /// Each answer takes 150 ms longer.
    Slow,
    /// It dies after some requests.
    Dead,
}

impl BadShadow {
    /// The workload's name for it.
    pub const fn fault(self) -> &'static str {
        match self {
            Self::Errors => "errors",
            Self::Slow => "slow",
            Self::Dead => "dead",
        }
    }
}

/// Options of the demo.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// What makes an instance move.
    #[arg(long, value_enum, default_value = "predictive")]
    pub policy: PolicyName,
    /// Run all three policies on the same trace and seed, and print one table.
    #[arg(long)]
    pub compare: bool,
    /// Make the shadow bad, to see the roll-back.
    #[arg(long, value_enum)]
    pub bad_shadow: Option<BadShadow>,
    /// Seed of the arrivals.
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Stop as soon as a migration has ended, for checks: the exit code says whether a request
    /// was lost or nothing moved.
    #[arg(long)]
    pub short: bool,
    /// Where the live page is served; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8088")]
    pub page: SocketAddr,
    /// Envoy's binary.
    #[arg(long, env = "FORESHADOW_ENVOY")]
    pub envoy: Option<PathBuf>,
    /// How the closing table is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// Options of `serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeOptions {
    /// The configuration file (YAML).
    #[arg(long, short)]
    pub config: PathBuf,
    /// Serve xDS in plain text and believe every node, for development; as `xds_plaintext` in the
    /// configuration.
    #[arg(long, env = "FORESHADOW_INSECURE_PLAINTEXT")]
    pub insecure_plaintext: bool,
}

/// Options of `proxy`.
#[derive(Debug, Clone, clap::Args)]
pub struct ProxyOptions {
    /// Its identity towards the control plane.
    #[arg(long, default_value = "proxy")]
    pub node: NodeId,
    /// Where it listens for clients.
    #[arg(long, default_value = "127.0.0.1:10080")]
    pub listen: SocketAddr,
    /// Where the control plane answers.
    #[arg(long, default_value = "127.0.0.1:18000")]
    pub control_plane: SocketAddr,
    /// Where it answers questions about itself.
    #[arg(long)]
    pub admin: Option<SocketAddr>,
    /// Where the last good configuration is kept.
    #[arg(long)]
    pub last_good: Option<PathBuf>,
    /// A folder with NODE.crt, NODE.key and authority.crt, as `foreshadow certs issue` makes it.
    #[arg(long, required_unless_present_any = ["certificate", "insecure_plaintext"])]
    pub identity: Option<PathBuf>,
    /// Its certificate chain (PEM), instead of `--identity`.
    #[arg(long, conflicts_with = "identity", requires_all = ["key", "authority"])]
    pub certificate: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, requires = "certificate")]
    pub key: Option<PathBuf>,
    /// The authorities that the control plane is checked against (PEM).
    #[arg(long, requires = "certificate")]
    pub authority: Option<PathBuf>,
    /// The name that the control plane's certificate must carry.
    #[arg(long, default_value = xds_server::authority::SERVER_NAME)]
    pub server_name: String,
    /// Follow the control plane in plain text, for development: on this machine only.
    #[arg(long, conflicts_with_all = ["identity", "certificate"])]
    pub insecure_plaintext: bool,
    /// Follow it in plain text from another machine too.
    #[arg(long, requires = "insecure_plaintext")]
    pub insecure_remote: bool,
}

/// Options of commands that ask a running control plane.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientOptions {
    /// Where the control plane's web page is served.
    #[arg(long, default_value = "127.0.0.1:8088")]
    pub server: SocketAddr,
    /// How it is asked.
    #[command(flatten)]
    pub access: Access,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// Options of `plan`.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanOptions {
    /// Decide in the world as it is now, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Where to ask.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Options of `replay-plan`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayPlanOptions {
    /// The plan; the latest decision if left out.
    #[arg(default_value = "latest")]
    pub plan: String,
    /// Where to ask.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Options of `isolate` and `evacuate`.
#[derive(Debug, Clone, clap::Args)]
pub struct IsolateOptions {
    /// The host.
    pub host: HostId,
    /// Who wants it.
    #[arg(long, default_value = "operator")]
    pub owner: String,
    /// Why.
    #[arg(long)]
    pub reason: String,
    /// After how many seconds an alarm is due.
    #[arg(long)]
    pub lease_s: Option<u64>,
    /// Where to ask.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Options of `de-isolate`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReleaseOptions {
    /// The host.
    pub host: HostId,
    /// Whose claim it is.
    #[arg(long, default_value = "operator")]
    pub owner: String,
    /// Where to ask.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Options of `explain`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExplainOptions {
    /// The migration; the newest if left out.
    pub migration: Option<MigrationId>,
    /// Where to ask.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Options of `move`.
#[derive(Debug, Clone, clap::Args)]
pub struct MoveOptions {
    /// The instance.
    pub instance: InstanceId,
    /// The host it shall go to.
    #[arg(long)]
    pub to: HostId,
    /// Where to ask.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Options of `abort`, `retry` and `rollback`.
#[derive(Debug, Clone, clap::Args)]
pub struct MigrationOptions {
    /// The migration.
    pub migration: MigrationId,
    /// Where to ask.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Options of `pause`, `freeze`, `resume`, `step` and `promote`.
#[derive(Debug, Clone, clap::Args)]
pub struct SteerOptions {
    /// The migration.
    pub migration: MigrationId,
    /// Why; it stands in the migration's log.
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Where to ask.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Options of `gc`.
#[derive(Debug, Clone, clap::Args)]
pub struct GcOptions {
    /// Only show what would be removed; this is the default.
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Remove it, unless the store looks as if it had lost something.
    #[arg(long)]
    pub yes: bool,
    /// Remove also what the store does not know: you have compared the store with the world.
    #[arg(long, requires = "yes")]
    pub include_unknown: bool,
    /// Where to ask.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Options of `replay`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayOptions {
    /// The migration; left out with `--file`.
    #[arg(required_unless_present = "file")]
    pub migration: Option<MigrationId>,
    /// A record in a file, as `foreshadow replay MIGRATION --record` prints it.
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Print the record instead, one line of JSON per look.
    #[arg(long)]
    pub record: bool,
    /// Where to ask.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// A kind of ramp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RampName {
    /// Computed from a harm budget.
    Budget,
    /// Every stage a tenth more, a minute each.
    Linear,
    /// Every stage twice the one before from 1 % on, half a minute each.
    Exponential,
    /// 1, 5, 25, 50, 100 %, ten seconds each at least.
    Steps,
}

/// Options of `simulate-ramp`.
#[derive(Debug, Clone, clap::Args)]
pub struct SimulateRampOptions {
    /// The ramp.
    #[arg(long, value_enum, default_value = "budget")]
    pub policy: RampName,
    /// A configuration file, for its ramp and its judge's settings.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Requests a second of the instance.
    #[arg(long, default_value_t = 50.0)]
    pub rps: f64,
    /// Share of requests that fail in health.
    #[arg(long, default_value_t = 0.001)]
    pub baseline: f64,
    /// How many times as often the bad shadow fails.
    #[arg(long, default_value_t = 10.0)]
    pub errors: f64,
    /// How many times as long the bad shadow takes.
    #[arg(long, default_value_t = 1.0)]
    pub slower: f64,
    /// Ramps to simulate, of a good and of a bad shadow.
    #[arg(long, default_value_t = 200)]
    pub ramps: u32,
    /// Seed of the traffic.
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn every_command_can_be_parsed() {
        super::Cli::command().debug_assert();
    }
}
