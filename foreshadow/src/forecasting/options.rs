//! Options of the commands.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// How something is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Shown {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// As a picture.
    Png,
}

/// Which of the shipped models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum TierName {
    /// The more exact one.
    #[default]
    Full,
    /// The faster one.
    Small,
}

/// Options of `forecast`.
#[derive(Debug, Clone, Args)]
pub struct ForecastOptions {
    /// CSV: a name, `step`, then columns of values; an empty field or NaN is a gap.
    pub file: PathBuf,
    /// Only this series, as `name/column`.
    #[arg(long)]
    pub series: Option<String>,
    /// Forecast as if only the steps before this one were known, and show what came.
    #[arg(long)]
    pub at: Option<usize>,
    /// Steps ahead (at most a day of five-minute steps).
    #[arg(long, default_value_t = 72, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=288))]
    pub ahead: usize,
    /// Folder of a model, in place of a shipped one.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Which shipped model.
    #[arg(long, value_enum, default_value = "full")]
    pub tier: TierName,
    /// Negative values mean "not measured".
    #[arg(long)]
    pub negative_is_gap: bool,
    /// How it is shown.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Shown,
    /// Where a picture is written; by default to the standard output.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Options of `backtest`.
#[derive(Debug, Clone, Args)]
pub struct BacktestOptions {
    /// CSV: a name, `step`, then columns of values; an empty field or NaN is a gap.
    pub file: PathBuf,
    /// First origin, from which calibration learns; by default the first that is scored.
    #[arg(long)]
    pub from: Option<usize>,
    /// First origin that is scored; by default after three quarters of the longest series.
    #[arg(long)]
    pub score_from: Option<usize>,
    /// Steps between origins.
    #[arg(long, default_value_t = 12, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub stride: usize,
    /// Score every n-th origin.
    #[arg(long, default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub score_every: usize,
    /// Most origins that are scored.
    #[arg(long, default_value_t = 1_000)]
    pub origins: usize,
    /// Steps ahead.
    #[arg(long, default_value_t = 72, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=288))]
    pub ahead: usize,
    /// Folder of a model, in place of a shipped one.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Which shipped model.
    #[arg(long, value_enum, default_value = "full")]
    pub tier: TierName,
    /// Negative values mean "not measured".
    #[arg(long)]
    pub negative_is_gap: bool,
    /// No progress.
    #[arg(long)]
    pub quiet: bool,
    /// How it is shown; the picture shows how honest the quantiles are.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Shown,
    /// Where a picture is written; by default to the standard output.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Options of `models`.
#[derive(Debug, Clone, Args)]
pub struct ModelsOptions {
    /// The registry: a folder with a folder per version.
    #[arg(long, env = "FORESHADOW_MODEL_DIR")]
    pub registry: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: ModelsCommand,
}

/// What to do with models.
#[derive(Debug, Clone, Subcommand)]
pub enum ModelsCommand {
    /// All versions, and which one is in use.
    List,
    /// One version's manifest, after checking the model against it.
    Show {
        /// Its folder's name.
        name: String,
    },
    /// Use a version; running forecasters take it up at their next forecast.
    Promote {
        /// Its folder's name.
        name: String,
    },
    /// Try a version beside the one in use, on what comes; it is used if it is not worse.
    Try {
        /// Its folder's name.
        name: String,
    },
    /// How the latest trial stands, or what came of it.
    Trial,
    /// Use the version before again.
    Rollback,
}
