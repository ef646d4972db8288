//! What a workload is told at the start.

use std::path::PathBuf;

use super::fault::Fault;

/// Options of the bundled workload.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct WorkloadOptions {
    /// Port to answer on (loopback; 0 takes any).
    #[arg(long)]
    pub port: u16,
    /// Directory for the instance's own state.
    #[arg(long)]
    pub state: PathBuf,
    /// The journal that all instances of the service share. Without it the instance is a single
    /// writer, with a journal of its own.
    #[arg(long)]
    pub journal: Option<PathBuf>,
    /// Name of the instance, told in the `x-instance` header.
    #[arg(long, default_value = "instance")]
    pub instance: String,
    /// Processor time of a request, in microseconds.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub work_us: u64,
    /// Number of files that the state is spread over.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub shards: u16,
    /// Size of each of these files, in KiB.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shard_kib: u16,
    /// `original` or `shadow`: told in the `x-replica` header.
    #[arg(long, env = "FORESHADOW_ROLE", default_value = "original")]
    pub role: String,
    /// What goes wrong while this is a shadow, for tests.
    #[arg(long, env = "FORESHADOW_FAULT", value_enum)]
    pub fault: Option<Fault>,
    /// Share of requests that fail with `--fault errors`.
    #[arg(long, env = "FORESHADOW_FAULT_SHARE", default_value_t = 0.5)]
    pub fault_share: f64,
    /// Requests after which `--fault dead` strikes at once; it strikes 2 s after the first anyway.
    #[arg(long, env = "FORESHADOW_FAULT_AFTER", default_value_t = u64::MAX)]
    pub fault_after: u64,
}
