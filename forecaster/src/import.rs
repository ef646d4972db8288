//! Known history from a CSV trace: `instance,step,cpu,memory,net_rx,net_tx`.
//!
//! The columns after `step` may come in any order, and any of them may be missing. An empty field
//! or `NaN` is a gap, and so is a step that is skipped. Everything else that is no demand is an
//! error that names line and field; nothing of a faulty trace is used.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use domain::{InstanceId, Resource};

/// Steps that are held of a series: two weeks of five minutes.
pub const HELD: usize = 4_032;
/// Longest line.
const MAX_LINE: u64 = 4_096;
/// Most series in one trace.
const MAX_SERIES: usize = 400_000;

/// What a negative value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Negative {
    /// A fault of the trace.
    #[default]
    Refuse,
    /// "Not measured", as some exporters write it.
    Gap,
}

/// Values per instance and resource, one a step, oldest first, all series of an instance equally
/// long. At most the newest [`HELD`] steps are held.
pub type Trace = BTreeMap<(InstanceId, Resource), Vec<Option<f64>>>;

/// What is wrong with a trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("trace, line {line}: {field} is {value:?}; allowed is {allowed}")]
pub struct ImportError {
    /// The line, from 1.
    pub line: u64,
    /// The field's name.
    pub field: String,
    /// What was found.
    pub value: String,
    /// What would be allowed.
    pub allowed: &'static str,
}

fn fault(line: u64, field: &str, value: &str, allowed: &'static str) -> ImportError {
    ImportError {
        line,
        field: field.to_owned(),
        // A binary file has no lines; nobody wants all of it in a log.
        value: value.chars().take(80).collect(),
        allowed,
    }
}

/// Reads a trace.
///
/// # Errors
/// [`ImportError`] for the first fault.
pub fn read_trace(from: impl Read, negative: Negative) -> Result<Trace, ImportError> {
    let mut lines = Lines {
        from: BufReader::new(from),
        number: 0,
        text: Vec::new(),
    };
    let header = lines.next()?.map_or("", |(_, text)| text);
    let columns = columns(header)?;
    let mut reading = Reading {
        columns: &columns,
        negative,
        trace: Trace::new(),
        at: BTreeMap::new(),
    };
    while let Some((line, text)) = lines.next()? {
        if !text.is_empty() {
            reading.row(line, text)?;
        }
    }
    Ok(reading.trace)
}

/// Lines with their numbers, of bounded length.
struct Lines<R> {
    from: BufReader<R>,
    number: u64,
    text: Vec<u8>,
}

impl<R: Read> Lines<R> {
    fn next(&mut self) -> Result<Option<(u64, &str)>, ImportError> {
        self.number += 1;
        self.text.clear();
        let read = (&mut self.from)
            .take(MAX_LINE)
            .read_until(b'\n', &mut self.text);
        let whole = match read {
            Ok(0) => return Ok(None),
            Ok(_) => self.text.ends_with(b"\n") || (self.text.len() as u64) < MAX_LINE,
            Err(error) => {
                let reason = error.to_string();
                return Err(fault(self.number, "line", &reason, "a readable file"));
            }
        };
        match std::str::from_utf8(&self.text) {
            Ok(text) if whole => Ok(Some((self.number, text.trim()))),
            Ok(text) => Err(fault(self.number, "line", text, "less than 4096 bytes")),
            Err(error) => Err(fault(self.number, "line", &error.to_string(), "UTF-8")),
        }
    }
}

/// The resource of each column after `instance` and `step`.
fn columns(header: &str) -> Result<Vec<Resource>, ImportError> {
    const ALLOWED: &str = "instance,step, then some of cpu,memory,net_rx,net_tx, each once";
    let wrong = || fault(1, "header", header, ALLOWED);
    let mut fields = header.split(',').map(str::trim);
    if fields.next() != Some("instance") || fields.next() != Some("step") {
        return Err(wrong());
    }
    let mut found = Vec::new();
    for name in fields {
        let resource = Resource::ALL.into_iter().find(|r| r.name() == name);
        match resource {
            Some(resource) if !found.contains(&resource) => found.push(resource),
            Some(_) | None => return Err(wrong()),
        }
    }
    if found.is_empty() {
        return Err(wrong());
    }
    Ok(found)
}

struct Reading<'a> {
    columns: &'a [Resource],
    negative: Negative,
    trace: Trace,
    /// The newest step of each instance.
    at: BTreeMap<InstanceId, u64>,
}

impl Reading<'_> {
    fn row(&mut self, line: u64, text: &str) -> Result<(), ImportError> {
        let fields: Vec<_> = text.split(',').map(str::trim).collect();
        if fields.len() != self.columns.len() + 2 {
            let found = fields.len().to_string();
            return Err(fault(
                line,
                "number of fields",
                &found,
                "that of the header",
            ));
        }
        let field = |index: usize| fields.get(index).copied().unwrap_or("");
        let instance = InstanceId::new(field(0))
            .map_err(|_| fault(line, "instance", field(0), "an instance's name"))?;
        let step: u64 = field(1)
            .parse()
            .map_err(|_| fault(line, "step", field(1), "a whole number of at least 0"))?;
        let skipped = self.skipped(line, &instance, step)?;
        for (index, &resource) in self.columns.iter().enumerate() {
            let value = self.value(line, resource, field(index + 2))?;
            let key = (instance.clone(), resource);
            if self.trace.len() >= MAX_SERIES && !self.trace.contains_key(&key) {
                return Err(fault(line, "instance", field(0), "at most 400000 series"));
            }
            let values = self.trace.entry(key).or_default();
            values.extend(std::iter::repeat_n(None, skipped));
            values.push(value);
            if values.len() > 2 * HELD {
                values.drain(..values.len() - HELD);
            }
        }
        self.at.insert(instance, step);
        Ok(())
    }

    /// Steps left out before this one.
    fn skipped(&self, line: u64, instance: &InstanceId, step: u64) -> Result<usize, ImportError> {
        let Some(&before) = self.at.get(instance) else {
            return Ok(0);
        };
        match step.checked_sub(before) {
            None | Some(0) => Err(fault(
                line,
                "step",
                &step.to_string(),
                "more than the instance's step before",
            )),
            Some(ahead) => Ok(usize::try_from(ahead - 1).unwrap_or(HELD).min(HELD)),
        }
    }

    fn value(&self, line: u64, resource: Resource, text: &str) -> Result<Option<f64>, ImportError> {
        const ALLOWED: &str = "a finite number of at least 0, or nothing for a gap";
        if text.is_empty() || text.eq_ignore_ascii_case("nan") {
            return Ok(None);
        }
        let wrong = || fault(line, resource.name(), text, ALLOWED);
        let value: f64 = text.parse().map_err(|_| wrong())?;
        if !value.is_finite() {
            return Err(wrong());
        }
        match self.negative {
            Negative::Refuse if value < 0.0 => Err(wrong()),
            Negative::Gap if value < 0.0 => Ok(None),
            Negative::Refuse | Negative::Gap => Ok(Some(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Trace, ImportError> {
        read_trace(text.as_bytes(), Negative::Refuse)
    }

    fn values(trace: &Trace, name: &str, resource: Resource) -> Vec<Option<f64>> {
        trace[&(InstanceId::new(name).unwrap(), resource)].clone()
    }

    #[test]
    fn empty_fields_nan_and_skipped_steps_are_gaps() {
        let text = "instance,step,memory,cpu\na,0,1,5\nb,7,,2\na,1,nan,\na,4,3,6\n";
        let trace = read(text).unwrap();
        assert_eq!(
            values(&trace, "a", Resource::Cpu),
            [Some(5.0), None, None, None, Some(6.0)]
        );
        assert_eq!(
            values(&trace, "a", Resource::Memory),
            [Some(1.0), None, None, None, Some(3.0)]
        );
        assert_eq!(values(&trace, "b", Resource::Memory), [None]);
    }

    #[test]
    fn a_negative_value_names_line_and_field_unless_it_means_a_gap() {
        let text = "instance,step,cpu\na,0,1\na,1,-3\n";
        let error = read(text).unwrap_err();
        assert_eq!(
            error.to_string(),
            "trace, line 3: cpu is \"-3\"; allowed is a finite number of at least 0, or nothing \
             for a gap"
        );
        let trace = read_trace(text.as_bytes(), Negative::Gap).unwrap();
        assert_eq!(values(&trace, "a", Resource::Cpu), [Some(1.0), None]);
    }

    #[test]
    fn every_fault_names_its_line_and_field() {
        for (text, line, field) in [
            ("", 1, "header"),
            ("instance,step\n", 1, "header"),
            ("instance,step,cpu,cpu\n", 1, "header"),
            ("instance,step,disk\n", 1, "header"),
            ("instance,step,cpu\na,0\n", 2, "number of fields"),
            ("instance,step,cpu\nA b,0,1\n", 2, "instance"),
            ("instance,step,cpu\na,-1,1\n", 2, "step"),
            ("instance,step,cpu\na,1,1\na,1,1\n", 3, "step"),
            ("instance,step,cpu\na,1,1\n\na,2,x\n", 4, "cpu"),
            ("instance,step,cpu\na,1,inf\n", 2, "cpu"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(
                (error.line, error.field.as_str()),
                (line, field),
                "{text:?}: {error}"
            );
        }
        let error = read_trace(
            &b"instance,step,cpu\na,0,1\na,1,\xff\n"[..],
            Negative::Refuse,
        );
        assert_eq!(error.unwrap_err().line, 3);
        let endless = [b"instance,step,cpu\n", "9".repeat(100_000).as_bytes()].concat();
        assert_eq!(
            read_trace(&endless[..], Negative::Refuse).unwrap_err().line,
            2
        );
    }

    #[test]
    fn a_gap_of_any_length_costs_no_more_than_the_ring() {
        let trace = read("instance,step,cpu\na,0,1\na,18446744073709551615,2\n").unwrap();
        assert_eq!(values(&trace, "a", Resource::Cpu).len(), HELD + 2);
    }
}
