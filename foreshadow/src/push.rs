//! `foreshadow push`: history from a file or from Prometheus into a running control plane, oldest
//! first, so that its forecasts know the instances' habits from the beginning.

mod prometheus;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;

use crate::cli::ClientOptions;
use crate::client;
use crate::error::Failure;
use crate::ingest::samples::{MOST, Push, Pushed, Row};

/// Options of `push`.
#[derive(Debug, Clone, clap::Args)]
pub struct PushOptions {
    /// CSV with the columns instance, at_ms (milliseconds since the epoch) and some of cpu
    /// (millicores), memory, net_rx, net_tx (bytes, bytes a second) and activity; an empty field
    /// was not measured.
    #[arg(required_unless_present = "prometheus", conflicts_with = "prometheus")]
    pub file: Option<PathBuf>,
    /// Ask this Prometheus instead, as http://127.0.0.1:9090.
    #[arg(long, value_name = "URL", requires_all = ["query", "label", "quantity"])]
    pub prometheus: Option<String>,
    /// What it is asked: one series per instance.
    #[arg(long, requires = "prometheus")]
    pub query: Option<String>,
    /// The label that names the instance.
    #[arg(long, requires = "prometheus")]
    pub label: Option<String>,
    /// What it measures: cpu, memory, net_rx, net_tx or activity.
    #[arg(long, requires = "prometheus", value_parser = ["cpu", "memory", "net_rx", "net_tx", "activity"])]
    pub quantity: Option<String>,
    /// What values are multiplied by: 1000 makes millicores of cores.
    #[arg(long, default_value_t = 1.0, requires = "prometheus")]
    pub factor: f64,
    /// How far back it is asked, in hours.
    #[arg(long, default_value_t = 168, value_parser = clap::value_parser!(u64).range(1..=744))]
    pub hours: u64,
    /// Time between values, in seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub step_s: u64,
    /// Where to push.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Runs the command.
///
/// # Errors
/// [`Failure::Config`] naming what is wrong in the file before anything is pushed.
pub async fn run(options: PushOptions) -> Result<ExitCode, Failure> {
    let mut rows = match &options.file {
        Some(file) => table::read(file)?,
        None => prometheus::ask(&options).await?,
    };
    rows.sort_by_key(|row| row.at_ms);
    let mut total = Pushed::default();
    for samples in rows.chunks(MOST) {
        let push = Push {
            samples: samples.to_vec(),
        };
        let body = serde_json::to_vec(&push).map_err(Failure::failed("write JSON"))?;
        let said = client::post(&options.client, "/api/samples", Bytes::from(body)).await?;
        let said: Pushed =
            serde_json::from_slice(&said).map_err(Failure::failed("read the answer"))?;
        total += said;
    }
    println!("{}", in_words(rows.len(), total));
    Ok(ExitCode::SUCCESS)
}

fn in_words(rows: usize, total: Pushed) -> String {
    let left_out = [
        ("repeated", total.duplicates),
        ("older than what is known", total.late),
        ("later than now", total.future),
        ("read by a driver", total.owned),
        ("without room", total.no_room),
    ];
    let left_out = left_out.iter().filter(|(_, count)| *count > 0);
    let words: Vec<String> = left_out.map(|(why, n)| format!("{n} {why}")).collect();
    let taken = total.taken;
    match words.as_slice() {
        [] => format!("{rows} rows: {taken} values taken in"),
        some => format!(
            "{rows} rows: {taken} values taken in; left out: {}",
            some.join(", ")
        ),
    }
}

/// A row in which nothing was measured.
const fn empty(instance: String, at_ms: u64) -> Row {
    Row {
        instance,
        at_ms,
        cpu: None,
        memory: None,
        net_rx: None,
        net_tx: None,
        activity: None,
    }
}

/// The place of a quantity in a row, by its name.
fn place<'a>(row: &'a mut Row, quantity: &str) -> Option<&'a mut Option<f64>> {
    match quantity {
        "cpu" => Some(&mut row.cpu),
        "memory" => Some(&mut row.memory),
        "net_rx" => Some(&mut row.net_rx),
        "net_tx" => Some(&mut row.net_tx),
        "activity" => Some(&mut row.activity),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_said_with_the_reason() {
        let total = Pushed {
            taken: 5,
            late: 2,
            owned: 1,
            ..Pushed::default()
        };
        let words = in_words(8, total);
        assert_eq!(
            words,
            "8 rows: 5 values taken in; left out: 2 older than what is known, 1 read by a driver"
        );
    }
}
