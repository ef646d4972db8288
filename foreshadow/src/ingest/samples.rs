//! Samples as JSON: what may be meant, and what becomes of it.

use std::fmt;
use std::fmt::Write as _;
use std::ops::AddAssign;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use domain::{InstanceId, Timestamp};
use forecaster::intake::{Quantity, Sample, Source, Taken};
use serde::{Deserialize, Serialize};
use store::{Expect, Key, Kind, Transaction};

use crate::http::Api;

/// Most samples in one request.
pub const MOST: usize = 10_000;
/// Times that can be meant: from 2001 to 2286. Seconds and microseconds lie outside.
const TIMES: std::ops::RangeInclusive<u64> = 1_000_000_000_000..=9_999_999_999_999;

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// One to ten thousand of them.
    pub samples: Vec<Row>,
}

/// What was measured of an instance at one time; what is left out was not measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Whose.
    pub instance: String,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// Millicores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<f64>,
    /// Bytes received per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_rx: Option<f64>,
    /// Bytes sent per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_tx: Option<f64>,
    /// What users do: requests per second, sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<f64>,
}

/// An answer: what became of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pushed {
    /// In the history.
    pub taken: u64,
    /// Of a time that was known.
    pub duplicates: u64,
    /// Older than the newest.
    pub late: u64,
    /// Later than now and a step.
    pub future: u64,
    /// Of series that a driver reads.
    pub owned: u64,
    /// Of new series, when there are too many.
    pub no_room: u64,
}

impl From<Taken> for Pushed {
    fn from(taken: Taken) -> Self {
        Self {
            taken: taken.taken,
            duplicates: taken.duplicates,
            late: taken.late,
            future: taken.future,
            owned: taken.owned,
            no_room: taken.no_room,
        }
    }
}

impl AddAssign for Pushed {
    fn add_assign(&mut self, more: Self) {
        self.taken += more.taken;
        self.duplicates += more.duplicates;
        self.late += more.late;
        self.future += more.future;
        self.owned += more.owned;
        self.no_room += more.no_room;
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    field: String,
    value: String,
    allowed: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            value,
            allowed,
        } = self;
        write!(f, "{field} is {value}; allowed is {allowed}")
    }
}

/// Checks that a request has some samples and not too many.
///
/// # Errors
/// [`Wrong`].
pub fn count(samples: usize) -> Result<(), Wrong> {
    if (1..=MOST).contains(&samples) {
        return Ok(());
    }
    Err(Wrong {
        field: "samples".to_owned(),
        value: format!("a list of {samples}"),
        allowed: format!("1 to {MOST} of them"),
    })
}

/// A value that can be meant.
///
/// # Errors
/// [`Wrong`], naming the sample's number and the field.
pub fn sample(
    index: usize,
    instance: &str,
    at_ms: u64,
    quantity: Quantity,
    value: f64,
) -> Result<Sample, Wrong> {
    let wrong = |field: &str, value: String, allowed: String| Wrong {
        field: format!("samples[{index}].{field}"),
        value,
        allowed,
    };
    let instance = InstanceId::new(instance).map_err(|error| {
        let shown: String = instance.chars().take(80).collect();
        wrong("instance", format!("{shown:?}"), error.to_string())
    })?;
    if !TIMES.contains(&at_ms) {
        let unit = match at_ms {
            0..=99_999_999_999 => ", and these look like seconds",
            100_000_000_000..=9_999_999_999_999 => "",
            10_000_000_000_000.. => ", and these look like microseconds or finer",
        };
        let (from, to) = (TIMES.start(), TIMES.end());
        let allowed = format!("{from} to {to}: milliseconds since the epoch{unit}");
        return Err(wrong("at_ms", at_ms.to_string(), allowed));
    }
    if !(0.0..=quantity.most()).contains(&value) {
        let allowed = format!("0 to {:e}", quantity.most());
        return Err(wrong(quantity.name(), value.to_string(), allowed));
    }
    Ok(Sample {
        instance,
        quantity,
        at: Timestamp(at_ms),
        value,
    })
}

/// The samples of a row.
fn of_row(index: usize, row: &Row) -> impl Iterator<Item = Result<Sample, Wrong>> {
    let values = [row.cpu, row.memory, row.net_rx, row.net_tx, row.activity];
    let values = Quantity::ALL.into_iter().zip(values);
    values.filter_map(move |(quantity, value)| {
        let value = value?;
        Some(sample(index, &row.instance, row.at_ms, quantity, value))
    })
}

/// Checks a row; one in which nothing was measured is fine here.
///
/// # Errors
/// [`Wrong`], naming the row's number and the field.
pub fn check_row(index: usize, row: &Row) -> Result<(), Wrong> {
    of_row(index, row).try_for_each(|found| found.map(drop))
}

fn samples(push: &Push) -> Result<Vec<Sample>, Wrong> {
    count(push.samples.len())?;
    let mut found = Vec::with_capacity(push.samples.len());
    for (index, row) in push.samples.iter().enumerate() {
        let before = found.len();
        for sample in of_row(index, row) {
            found.push(sample?);
        }
        if found.len() == before {
            return Err(Wrong {
                field: format!("samples[{index}]"),
                value: "without a value".to_owned(),
                allowed: "at least one of cpu, memory, net_rx, net_tx and activity".to_owned(),
            });
        }
    }
    Ok(found)
}

/// `POST /api/samples`.
pub(super) async fn push(
    State(api): State<Api>,
    push: Result<Json<Push>, JsonRejection>,
) -> Response {
    let bad = |words: String| (StatusCode::BAD_REQUEST, words).into_response();
    let Json(push) = match push {
        Ok(push) => push,
        Err(error) => return (error.status(), error.body_text()).into_response(),
    };
    match samples(&push) {
        Ok(found) => {
            let taken = api.ingest.intake.push(Source::Http, found);
            Json(Pushed::from(taken)).into_response()
        }
        Err(wrong) => bad(wrong.to_string()),
    }
}

/// `GET /api/samples/{instance}`: its history as CSV, as `foreshadow push` reads it.
pub(super) async fn known(State(api): State<Api>, Path(instance): Path<String>) -> Response {
    let instance = match InstanceId::new(instance) {
        Ok(instance) => instance,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let history = api.insight.history(&instance);
    if history.is_empty() {
        let words = format!("nothing is known of {instance}");
        return (StatusCode::NOT_FOUND, words).into_response();
    }
    ([(CONTENT_TYPE, "text/csv")], csv(&instance, &history)).into_response()
}

/// A history as CSV; what is not known is empty.
fn csv(instance: &InstanceId, history: &[(u64, [Option<f64>; 4])]) -> String {
    let mut text = "instance,at_ms,cpu,memory,net_rx,net_tx\n".to_owned();
    for (at_ms, values) in history {
        // Writing to a text cannot fail.
        let _ = write!(text, "{instance},{at_ms}");
        for value in values {
            let _ = match value {
                Some(value) => write!(text, ",{value}"),
                None => write!(text, ","),
            };
        }
        text.push('\n');
    }
    text
}

/// `DELETE /api/samples/{instance}`.
pub(super) async fn forget(State(api): State<Api>, Path(instance): Path<String>) -> Response {
    let instance = match InstanceId::new(instance) {
        Ok(instance) => instance,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    if !api.ingest.intake.forget(&instance) {
        let words = format!("nothing that was pushed is known of {instance}");
        return (StatusCode::NOT_FOUND, words).into_response();
    }
    let key = Key::new(Kind::Forecast, instance.as_str());
    let gone = Transaction::new().delete(key, Expect::Any);
    match api.store.commit(gone).await {
        Ok(_) => format!("{instance} is forgotten").into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_764_000_000_000;

    fn read(text: &str) -> Result<Vec<Sample>, String> {
        let push: Push = serde_json::from_str(text).map_err(|error| error.to_string())?;
        samples(&push).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn a_row_is_a_sample_for_everything_that_was_measured() {
        let text =
            format!(r#"{{"samples":[{{"instance":"vm","at_ms":{AT},"cpu":250,"activity":3.5}}]}}"#);
        let found = read(&text).unwrap();
        let values: Vec<_> = found.iter().map(|s| (s.quantity.name(), s.value)).collect();
        assert_eq!(values, [("cpu", 250.0), ("activity", 3.5)]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_number_field_and_value() {
        let good = format!(r#"{{"instance":"vm","at_ms":{AT},"cpu":1}}"#);
        for (row, words) in [
            (
                r#"{"instance":"a b","at_ms":0,"cpu":1}"#.to_owned(),
                "samples[1].instance is \"a b\"",
            ),
            (
                r#"{"instance":"vm","at_ms":1764000000,"cpu":1}"#.to_owned(),
                "look like seconds",
            ),
            (
                r#"{"instance":"vm","at_ms":1764000000000000,"cpu":1}"#.to_owned(),
                "microseconds",
            ),
            (
                format!(r#"{{"instance":"vm","at_ms":{AT},"cpu":-1}}"#),
                "samples[1].cpu is -1",
            ),
            (
                format!(r#"{{"instance":"vm","at_ms":{AT},"cpu":1e10}}"#),
                "allowed is 0 to 1e9",
            ),
            (
                format!(r#"{{"instance":"vm","at_ms":{AT},"memory":1e300}}"#),
                "samples[1].memory",
            ),
            (
                format!(r#"{{"instance":"vm","at_ms":{AT}}}"#),
                "at least one of cpu",
            ),
            (
                format!(r#"{{"instance":"vm","at_ms":{AT},"cpu":NaN}}"#),
                "expected value",
            ),
            (
                format!(r#"{{"instance":"vm","at_ms":{AT},"cpus":1}}"#),
                "unknown field `cpus`",
            ),
            (
                format!(r#"{{"instance":"vm","at_ms":-5,"cpu":{AT}}}"#),
                "-5",
            ),
        ] {
            let error = read(&format!(r#"{{"samples":[{good},{row}]}}"#)).unwrap_err();
            assert!(error.contains(words), "{row}: {error}");
        }
        assert!(
            read(r#"{"samples":[]}"#)
                .unwrap_err()
                .contains("a list of 0")
        );
        let many = vec![good.as_str(); MOST + 1].join(",");
        let error = read(&format!(r#"{{"samples":[{many}]}}"#)).unwrap_err();
        assert!(error.contains("1 to 10000"), "{error}");
        // What no JSON can say, gRPC can.
        for value in [f64::NAN, f64::INFINITY, -0.1] {
            let error = sample(7, "vm", AT, Quantity::Activity, value).unwrap_err();
            assert!(error.to_string().contains("samples[7].activity"), "{error}");
        }
    }
}
