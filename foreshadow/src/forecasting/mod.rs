//! `foreshadow forecast`, `backtest` and `models`: the forecaster on the user's own data, without a
//! control plane.

mod input;
mod models;
mod options;
mod picture;
mod png;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use domain::{QUANTILE_LEVELS, QuantileCurve};
use forecaster::backtest::{self, Plan, Row, Subject};
use forecaster::{Asking, Model, ModelError};
use serde::Serialize;

pub use models::run as models;
pub use options::{BacktestOptions, ForecastOptions, ModelsOptions, Shown, TierName};

use crate::error::Failure;

fn load(folder: Option<&Path>, tier: TierName) -> Result<Model, Failure> {
    let loaded = match (folder, tier) {
        (Some(folder), _) => Model::load(folder, None),
        (None, TierName::Full) => Model::shipped(None),
        (None, TierName::Small) => Model::shipped_small(None),
    };
    loaded.map_err(|error| match error {
        ModelError::Runtime(_) => Failure::Unavailable(error.to_string()),
        ModelError::Read { .. }
        | ModelError::Manifest { .. }
        | ModelError::Hash { .. }
        | ModelError::Answer(_) => Failure::Config(error.to_string()),
    })
}

/// One forecast, as it is printed.
#[derive(Debug, Serialize)]
struct Forecast {
    series: String,
    model: String,
    version: String,
    /// Step of the newest value that was known.
    origin: usize,
    horizons: Vec<Horizon>,
}

#[derive(Debug, Serialize)]
struct Horizon {
    ahead: usize,
    quantiles: [f64; 13],
    truth: Option<f64>,
}

/// Forecasts the series of a file.
///
/// # Errors
/// [`Failure`] naming file, line and field, or what the model says.
pub fn forecast(options: &ForecastOptions) -> Result<ExitCode, Failure> {
    let subjects = input::read(&options.file, options.negative_is_gap)?;
    let chosen: Vec<&Subject> = subjects
        .iter()
        .filter(|subject| {
            options
                .series
                .as_ref()
                .is_none_or(|name| subject.name == *name)
        })
        .collect();
    if chosen.is_empty() {
        let names: Vec<_> = subjects.iter().take(8).map(|s| s.name.as_str()).collect();
        return Err(Failure::Config(format!(
            "--series is {:?}; allowed are the file's, as {}",
            options.series.as_deref().unwrap_or_default(),
            names.join(", ")
        )));
    }
    let mut model = load(options.model.as_deref(), options.tier)?;
    let horizons: Vec<usize> = (1..=options.ahead).collect();
    let mut asking = Asking::default();
    let origin = |subject: &Subject| {
        options
            .at
            .unwrap_or(subject.values.len())
            .min(subject.values.len())
    };
    for subject in &chosen {
        let known = origin(subject);
        let activity = subject.activity.get(..known).unwrap_or_default();
        asking.push(&subject.values[..known], activity, None);
    }
    let answers = model
        .predict_at(&asking, &horizons)
        .map_err(Failure::failed("forecast"))?;
    let mut forecasts = Vec::new();
    for (subject, curves) in chosen.iter().zip(answers) {
        let Some(curves) = curves else {
            eprintln!("{}: nothing is known of it before the origin", subject.name);
            continue;
        };
        forecasts.push(put_together(subject, origin(subject), &curves, &model));
    }
    match options.output {
        Shown::Json => print_json(&forecasts)?,
        Shown::Table => print!("{}", table(&forecasts)),
        Shown::Png => {
            let (Some(forecast), Some(subject)) = (forecasts.first(), chosen.first()) else {
                return Err(Failure::Failed("there is nothing to draw".to_owned()));
            };
            let known = &subject.values[..origin(subject)];
            let drawn = picture::forecast(known, &forecast.horizons);
            save(&drawn, options.out.as_deref())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn put_together(
    subject: &Subject,
    origin: usize,
    curves: &[QuantileCurve],
    model: &Model,
) -> Forecast {
    let horizon = |(place, curve): (usize, &QuantileCurve)| {
        let truth = subject.values.get(origin + place).copied();
        Horizon {
            ahead: place + 1,
            quantiles: *curve.values(),
            truth: truth.filter(|v| v.is_finite()).map(f64::from),
        }
    };
    Forecast {
        series: subject.name.clone(),
        model: model.id().to_owned(),
        version: model.version().to_owned(),
        origin,
        horizons: curves.iter().enumerate().map(horizon).collect(),
    }
}

fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed("print as JSON"))?;
    println!("{text}");
    Ok(())
}

fn table(forecasts: &[Forecast]) -> String {
    let mut text = String::new();
    let columns = [1, 2, 6, 10, 11];
    for forecast in forecasts {
        let _ = write!(
            text,
            "{} after step {}, by {} {}\n{:>6}",
            forecast.series, forecast.origin, forecast.model, forecast.version, "ahead"
        );
        for column in columns {
            let _ = write!(text, " {:>12}", format!("q{}", QUANTILE_LEVELS[column]));
        }
        let _ = writeln!(text, " {:>12}", "truth");
        for horizon in &forecast.horizons {
            let _ = write!(text, "{:>6}", horizon.ahead);
            for column in columns {
                let _ = write!(text, " {:>12.3}", horizon.quantiles[column]);
            }
            let truth = horizon.truth.map_or("-".to_owned(), |v| format!("{v:.3}"));
            let _ = writeln!(text, " {truth:>12}");
        }
    }
    text
}

fn save(picture: &[u8], path: Option<&Path>) -> Result<(), Failure> {
    match path {
        Some(path) => std::fs::write(path, picture)
            .map_err(Failure::failed(&format!("write {}", path.display()))),
        None => std::io::stdout()
            .write_all(picture)
            .map_err(Failure::failed("write the picture")),
    }
}

/// Tests the model on the series of a file, beside the seasonal naive and the last value.
///
/// # Errors
/// [`Failure`] naming file, line and field, or what the model says.
pub fn backtest(options: &BacktestOptions) -> Result<ExitCode, Failure> {
    let subjects = input::read(&options.file, options.negative_is_gap)?;
    let longest = subjects.iter().map(|s| s.values.len()).max().unwrap_or(0);
    let score_from = options.score_from.unwrap_or(longest * 3 / 4);
    let plan = Plan {
        from: options.from.unwrap_or(score_from),
        stride: options.stride,
        score_from,
        score_every: options.score_every,
        origins: options.origins,
        ahead: options.ahead,
    };
    if plan.from > plan.score_from || plan.score_from + plan.ahead > longest {
        return Err(Failure::Config(format!(
            "--from {}, --score-from {} and --ahead {} do not fit into the longest series' {longest} steps",
            plan.from, plan.score_from, plan.ahead
        )));
    }
    let mut model = load(options.model.as_deref(), options.tier)?;
    let quiet = options.quiet;
    let progress = |done: usize, all: usize| {
        if !quiet && (done.is_multiple_of(10) || done == all) {
            eprint!("\r{done} of {all} origins");
            if done == all {
                eprintln!();
            }
        }
    };
    let rows = backtest::run(&subjects, &plan, &mut model, progress)
        .map_err(Failure::failed("forecast"))?;
    match options.output {
        Shown::Json => print_json(&rows)?,
        Shown::Table => print!("{}", scores(&rows)),
        Shown::Png => save(&picture::reliability(&rows), options.out.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn scores(rows: &[Row]) -> String {
    let mut text = format!(
        "{:>6} {:<26} {:>8} {:>8} {:>8} {:>8} {:>8}\n",
        "steps", "method", "WQL", "relCRPS", "MASE", "in 80 %", "in 95 %"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:>6} {:<26} {:>8.3} {:>8.3} {:>8.3} {:>8.1} {:>8.1}",
            row.steps,
            row.method,
            row.wql,
            row.rel_crps,
            row.mase,
            100.0 * row.coverage_80,
            100.0 * row.coverage_95
        );
    }
    text
}
