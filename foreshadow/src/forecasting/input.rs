//! Series from a CSV file: a name, `step`, then one column per kind of value.
//!
//! Steps may come in any order of series, but rise within one. A step that is skipped is a gap; a
//! series is a name and a column: `vm-7/cpu`. Columns named `net_rx` or `requests` show what users
//! do, and help to forecast the others of the same name.

use std::collections::BTreeMap;
use std::path::Path;

use forecaster::backtest::Subject;

use crate::error::Failure;

/// Most steps of a series: ten million samples are 40 MB each.
const MAX_STEPS: usize = 10_000_000;
/// Most values in one file.
const MAX_VALUES: usize = 500_000_000;

/// Columns that show what users do, the better first.
const ACTIVITY: [&str; 4] = ["requests", "sessions", "net_rx", "net_rx_kbs"];

/// Reads a file.
///
/// # Errors
/// [`Failure::Config`] naming line, field, value and what is allowed.
pub(super) fn read(path: &Path, negative_is_gap: bool) -> Result<Vec<Subject>, Failure> {
    let at = |reason: String| Failure::Config(format!("{}: {reason}", path.display()));
    let file = std::fs::File::open(path)
        .map_err(Failure::unavailable(&format!("read {}", path.display())))?;
    parse(std::io::BufReader::new(file), negative_is_gap).map_err(at)
}

struct Table {
    columns: Vec<String>,
    /// Per name: the next step, and the values of every column.
    rows: BTreeMap<String, (usize, Vec<Vec<f32>>)>,
    values: usize,
}

fn parse(from: impl std::io::Read, negative_is_gap: bool) -> Result<Vec<Subject>, String> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(from);
    let header = reader.headers().map_err(|error| error.to_string())?;
    let mut columns: Vec<String> = header.iter().map(ToOwned::to_owned).collect();
    if columns.len() < 3 || columns[1] != "step" {
        return Err(format!(
            "line 1: header is {:?}; allowed is a name, step, then columns of values",
            columns.join(",")
        ));
    }
    let mut table = Table {
        columns: columns.split_off(2),
        rows: BTreeMap::new(),
        values: 0,
    };
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => table.take(&record, negative_is_gap)?,
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(table.subjects())
}

impl Table {
    fn take(&mut self, record: &csv::StringRecord, negative_is_gap: bool) -> Result<(), String> {
        let line = record.position().map_or(0, csv::Position::line);
        let wrong = |field: &str, value: &str, allowed: &str| {
            let value: String = value.chars().take(80).collect();
            Err(format!(
                "line {line}: {field} is {value:?}; allowed is {allowed}"
            ))
        };
        let (name, step) = (&record[0], &record[1]);
        if name.is_empty() || name.len() > 128 {
            return wrong("the name", name, "1 to 128 bytes");
        }
        let Ok(number) = step.parse::<usize>() else {
            return wrong("step", step, "a whole number from 0");
        };
        let width = self.columns.len();
        let (next, columns) = self
            .rows
            .entry(name.to_owned())
            .or_insert_with(|| (number, vec![Vec::new(); width]));
        if number < *next {
            return wrong(
                "step",
                step,
                "more than the step before: time does not go back",
            );
        }
        let gap = number - *next;
        let length = columns.first().map_or(0, Vec::len);
        if length + gap >= MAX_STEPS || self.values + gap * width > MAX_VALUES {
            return wrong("step", step, "a series of at most 10000000 steps");
        }
        self.values += (gap + 1) * width;
        *next = number + 1;
        for (place, column) in columns.iter_mut().enumerate() {
            column.resize(length + gap, f32::NAN);
            let text = record.get(place + 2).unwrap_or_default();
            let Some(value) = value(text, negative_is_gap) else {
                let allowed = "a number of at least 0, or nothing for a gap";
                return wrong(&self.columns[place], text, allowed);
            };
            column.push(value);
        }
        Ok(())
    }

    fn subjects(self) -> Vec<Subject> {
        let activity = ACTIVITY
            .iter()
            .find_map(|name| self.columns.iter().position(|column| column == name));
        let mut subjects = Vec::new();
        for (name, (_, columns)) in self.rows {
            let users = activity.map(|place| columns[place].clone());
            for (place, values) in columns.into_iter().enumerate() {
                let own = activity == Some(place);
                subjects.push(Subject {
                    name: format!("{name}/{}", self.columns[place]),
                    group: self.columns[place].clone(),
                    values,
                    activity: users.clone().filter(|_| !own).unwrap_or_default(),
                });
            }
        }
        subjects
    }
}

/// A value, `NaN` for a gap; `None` for what is neither.
fn value(text: &str, negative_is_gap: bool) -> Option<f32> {
    if text.is_empty() || text.eq_ignore_ascii_case("nan") {
        return Some(f32::NAN);
    }
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Some(value),
        Ok(value) if value < 0.0 && negative_is_gap => Some(f32::NAN),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Subject>, String> {
        parse(text.as_bytes(), false)
    }

    #[test]
    fn steps_that_are_missing_are_gaps_and_columns_are_series() {
        let found = read("vm,step,cpu,net_rx\na,5,1,2\na,7,3,\nb,0,9,8\n").unwrap();
        let names: Vec<_> = found.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["a/cpu", "a/net_rx", "b/cpu", "b/net_rx"]);
        assert_eq!(found[0].values.len(), 3);
        assert!(found[0].values[1].is_nan());
        assert_eq!(found[0].activity.len(), 3, "what the users of a do");
        assert_eq!(found[1].activity.len(), 0, "is not its own help");
    }

    #[test]
    fn what_is_no_series_is_refused_by_line_and_field() {
        for (text, wanted) in [
            ("vm,cpu\na,1\n", "header"),
            ("vm,step,cpu\na,1,2\na,1,2\n", "line 3: step"),
            ("vm,step,cpu\na,x,2\n", "line 2: step"),
            ("vm,step,cpu\na,1,-2\n", "line 2: cpu is \"-2\""),
            ("vm,step,cpu\na,1,inf\n", "line 2: cpu"),
            ("vm,step,cpu\n,1,1\n", "line 2: the name"),
            ("vm,step,cpu\na,1,1\na,99999999999,1\n", "10000000 steps"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted), "{text:?}: {error}");
        }
        assert!(parse("vm,step,cpu\na,1,-2\n".as_bytes(), true).is_ok());
    }
}
