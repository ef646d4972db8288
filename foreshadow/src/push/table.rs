//! Rows from a CSV file.

use std::path::Path;

use crate::error::Failure;
use crate::ingest::samples::{self, Row};

use super::{empty, place};

/// Most rows of one file: they are put in order of time in memory.
const MOST_ROWS: usize = 5_000_000;

/// Reads a file.
///
/// # Errors
/// [`Failure::Config`] naming line, field, value and what is allowed.
pub(super) fn read(path: &Path) -> Result<Vec<Row>, Failure> {
    let file = std::fs::File::open(path)
        .map_err(Failure::unavailable(&format!("read {}", path.display())))?;
    let rows = parse(std::io::BufReader::new(file));
    rows.map_err(|reason| Failure::Config(format!("{}: {reason}", path.display())))
}

fn parse(from: impl std::io::Read) -> Result<Vec<Row>, String> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(from);
    let header = reader.headers().map_err(|error| error.to_string())?.clone();
    let names: Vec<&str> = header.iter().collect();
    let mut known = empty(String::new(), 0);
    let strange = names
        .iter()
        .skip(2)
        .find(|name| place(&mut known, name).is_none());
    if names.len() < 3 || names[..2] != ["instance", "at_ms"] || strange.is_some() {
        return Err(format!(
            "line 1: header is {:?}; allowed is instance,at_ms and some of cpu, memory, net_rx, \
             net_tx and activity",
            names.join(",")
        ));
    }
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader
        .read_record(&mut record)
        .map_err(|error| error.to_string())?
    {
        if rows.len() == MOST_ROWS {
            return Err(format!(
                "it has more than {MOST_ROWS} rows; allowed are as many"
            ));
        }
        rows.extend(row(&record, &names)?);
    }
    Ok(rows)
}

/// A row; nothing when nothing in it was measured.
fn row(record: &csv::StringRecord, names: &[&str]) -> Result<Option<Row>, String> {
    let line = record.position().map_or(0, csv::Position::line);
    let wrong = |field: &str, value: &str, allowed: &str| {
        let value: String = value.chars().take(80).collect();
        format!("line {line}: {field} is {value:?}; allowed is {allowed}")
    };
    let at = record[1].parse::<u64>();
    let at = at.map_err(|_| wrong("at_ms", &record[1], "milliseconds since the epoch"))?;
    let mut row = empty(record[0].to_owned(), at);
    let mut measured = false;
    for (name, text) in names.iter().zip(record).skip(2) {
        if text.is_empty() || text.eq_ignore_ascii_case("nan") {
            continue;
        }
        let value = text.parse::<f64>();
        let value = value.map_err(|_| wrong(name, text, "a number, or nothing"))?;
        if let Some(place) = place(&mut row, name) {
            *place = Some(value);
            measured = true;
        }
    }
    samples::check_row(0, &row).map_err(|error| {
        let words = error.to_string();
        format!("line {line}: {}", words.trim_start_matches("samples[0]."))
    })?;
    Ok(measured.then_some(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_764_000_000_000;

    #[test]
    fn fields_that_are_empty_were_not_measured() {
        let text = format!("instance,at_ms,memory,cpu\na,{AT},,5\nb,{AT},7,NaN\nc,{AT},,\n");
        let rows = parse(text.as_bytes()).unwrap();
        let found: Vec<_> = rows
            .iter()
            .map(|row| (row.instance.as_str(), row.cpu, row.memory))
            .collect();
        assert_eq!(found, [("a", Some(5.0), None), ("b", None, Some(7.0))]);
    }

    #[test]
    fn what_is_wrong_is_named_by_line_field_and_value() {
        for (text, words) in [
            ("instance,step,cpu\n", "line 1: header is"),
            ("instance,at_ms,gpu\n", "line 1: header is"),
            ("instance,at_ms,cpu\na,x,5\n", "line 2: at_ms is \"x\""),
            (
                "instance,at_ms,cpu\na,1764000000,5\n",
                "line 2: at_ms is 1764000000",
            ),
            (
                "instance,at_ms,cpu\na,1764000000000,y\n",
                "line 2: cpu is \"y\"",
            ),
            (
                "instance,at_ms,cpu\na,1764000000000,-5\n",
                "line 2: cpu is -5",
            ),
            (
                "instance,at_ms,cpu\na,1764000000000,inf\n",
                "line 2: cpu is inf",
            ),
            (
                "instance,at_ms,cpu\n\"a b\",1764000000000,5\n",
                "line 2: instance is \"a b\"",
            ),
            ("instance,at_ms,cpu\na,1764000000000\n", "line: 2"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
