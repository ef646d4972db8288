//! Rows from Prometheus' query API.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::client;
use crate::error::Failure;
use crate::ingest::samples::Row;

use super::{PushOptions, empty, place};

/// Asks for what the options say.
///
/// # Errors
/// [`Failure`] naming the option or Prometheus' own words.
pub(super) async fn ask(options: &PushOptions) -> Result<Vec<Row>, Failure> {
    let (Some(url), Some(query), Some(label), Some(quantity)) = (
        &options.prometheus,
        &options.query,
        &options.label,
        &options.quantity,
    ) else {
        return Err(Failure::Config(
            "--prometheus needs --query, --label and --quantity".into(),
        ));
    };
    if !options.factor.is_finite() || options.factor <= 0.0 {
        let factor = options.factor;
        let words = format!("--factor is {factor}; allowed is a number above 0");
        return Err(Failure::Config(words));
    }
    let (address, base) = address(url).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(Failure::failed("read the clock"))?.as_secs();
    let path = format!(
        "{base}/api/v1/query_range?query={}&start={}&end={now}&step={}",
        escaped(query),
        now.saturating_sub(options.hours * 3_600),
        options.step_s
    );
    let body = client::get(address, &path).await?;
    let answer: Answer =
        serde_json::from_slice(&body).map_err(Failure::failed("read Prometheus' answer"))?;
    rows(answer, label, quantity, options.factor).map_err(Failure::Config)
}

/// Where it is, and the path before its API.
async fn address(url: &str) -> Result<(SocketAddr, String), Failure> {
    let wrong = || {
        Failure::Config(format!(
            "--prometheus is {url:?}; allowed is http://host:port, in plain text"
        ))
    };
    let uri: hyper::Uri = url.parse().map_err(|_| wrong())?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong());
    }
    let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(80);
    let mut found = tokio::net::lookup_host((host, port))
        .await
        .map_err(Failure::unavailable(&format!("find {host}")))?;
    let address = found.next().ok_or_else(wrong)?;
    Ok((address, uri.path().trim_end_matches('/').to_owned()))
}

/// A text within a query.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[derive(Debug, Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Vec<Series>,
}

#[derive(Debug, Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

/// Rows of an answer. What is no number is a gap.
fn rows(answer: Answer, label: &str, quantity: &str, factor: f64) -> Result<Vec<Row>, String> {
    let Data {
        result_type,
        result,
    } = answer.data;
    if result_type != "matrix" {
        return Err(format!(
            "the query gives a {result_type}; allowed is one that gives series over time"
        ));
    }
    let mut rows = Vec::new();
    let mut seen: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for series in result {
        let named = series.metric.get(label).cloned();
        let name = named.ok_or_else(|| {
            format!(
                "--label is {label:?}; allowed is a label of every series, as of {:?}",
                series.metric
            )
        })?;
        if let Some(other) = seen.insert(name.clone(), series.metric.clone()) {
            return Err(format!(
                "the query gives two series for {name}: {other:?} and {:?}; add them up, as in \
                 sum by ({label}) (…)",
                series.metric
            ));
        }
        for (at_s, text) in series.values {
            let value = text.parse::<f64>().map(|value| value * factor);
            let Some(value) = value.ok().filter(|value| value.is_finite()) else {
                continue;
            };
            let Some(at_ms) = millis(at_s) else { continue };
            let mut row = empty(name.clone(), at_ms);
            if let Some(place) = place(&mut row, quantity) {
                *place = Some(value);
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is checked to fit before"
)]
fn millis(at_s: f64) -> Option<u64> {
    let at = (at_s * 1_000.0).round();
    (0.0..=1e15).contains(&at).then_some(at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(result_type: &str, result: &str) -> Result<Vec<Row>, String> {
        let text = format!(
            r#"{{"status":"success","data":{{"resultType":"{result_type}","result":[{result}]}}}}"#
        );
        rows(serde_json::from_str(&text).unwrap(), "pod", "cpu", 1_000.0)
    }

    #[test]
    fn series_become_rows_and_what_is_no_number_a_gap() {
        let series = r#"{"metric":{"pod":"a1"},"values":[[1764000000.25,"0.5"],[1764000300,"NaN"],[1764000600,"+Inf"],[1764000900,"1"]]}"#;
        let found: Vec<_> = read("matrix", series)
            .unwrap()
            .iter()
            .map(|row| (row.at_ms, row.cpu))
            .collect();
        assert_eq!(
            found,
            [
                (1_764_000_000_250, Some(500.0)),
                (1_764_000_900_000, Some(1_000.0))
            ]
        );
    }

    #[test]
    fn answers_that_name_no_instance_or_one_twice_are_refused_in_words() {
        let one = r#"{"metric":{"pod":"a1","cpu":"0"},"values":[]}"#;
        let two = r#"{"metric":{"pod":"a1","cpu":"1"},"values":[]}"#;
        let twice = read("matrix", &format!("{one},{two}")).unwrap_err();
        assert!(
            twice.contains("two series for a1") && twice.contains("sum by (pod)"),
            "{twice}"
        );
        let none = read("matrix", r#"{"metric":{},"values":[]}"#).unwrap_err();
        assert!(none.contains("--label is \"pod\""), "{none}");
        let scalar = read("vector", "").unwrap_err();
        assert!(scalar.contains("gives a vector"), "{scalar}");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_and_a_query_is_escaped() {
        for url in ["127.0.0.1:9090", "https://127.0.0.1:9090", "nonsense", ""] {
            let error = address(url).await.unwrap_err().to_string();
            assert!(
                error.contains(&format!("--prometheus is {url:?}")),
                "{error}"
            );
        }
        let (found, base) = address("http://127.0.0.1:9090/prom/").await.unwrap();
        assert_eq!((found.port(), base.as_str()), (9_090, "/prom"));
        assert_eq!(
            escaped("rate(x{a=\"b\"}[5m])"),
            "rate%28x%7Ba%3D%22b%22%7D%5B5m%5D%29"
        );
    }
}
