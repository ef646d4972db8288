//! Prometheus remote write 1.0 and OpenTelemetry metrics: unpacking with bounds, then the sieve.

use std::io::Read as _;

use api::telemetry::otlp::{
    self, ExportMetricsServiceRequest, ExportMetricsServiceResponse, KeyValue, Metric,
    NumberDataPoint, PartialSuccess,
};
use api::telemetry::prometheus::{TimeSeries, WriteRequest};
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use forecaster::intake::{Point, Sample, Sieve, Sieved, Source, Taken};
use prost::Message;

use crate::http::Api;

/// Most that a request may be when it is unpacked.
const MAX_UNPACKED: usize = 32 * 1024 * 1024;
const PROTOBUF: &str = "application/x-protobuf";

/// What is wrong with a request, for whoever sent it.
#[derive(Debug)]
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

fn bad(words: impl Into<String>) -> Refused {
    Refused(StatusCode::BAD_REQUEST, words.into())
}

fn other(words: impl Into<String>) -> Refused {
    Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, words.into())
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .trim()
}

/// A request's body, unpacked as its headers say. Prometheus says snappy in any case.
fn unpack(headers: &HeaderMap, body: &[u8], allowed: &[&str]) -> Result<Vec<u8>, Refused> {
    let kind = header(headers, &CONTENT_TYPE);
    if !kind.starts_with(PROTOBUF) || kind.contains("write.v2") {
        return Err(other(format!(
            "Content-Type is {kind:?}; allowed is {PROTOBUF} (of Prometheus, remote write 1.0)"
        )));
    }
    let encoding = header(headers, &CONTENT_ENCODING);
    if !allowed.contains(&encoding) {
        return Err(other(format!(
            "Content-Encoding is {encoding:?}; allowed is one of {allowed:?}"
        )));
    }
    let large = || {
        let words = format!("the body unpacks to more than {MAX_UNPACKED} bytes");
        Refused(StatusCode::PAYLOAD_TOO_LARGE, words)
    };
    match encoding {
        "snappy" => {
            let length = snap::raw::decompress_len(body)
                .map_err(|error| bad(format!("the body is not snappy: {error}")))?;
            if length > MAX_UNPACKED {
                return Err(large());
            }
            snap::raw::Decoder::new()
                .decompress_vec(body)
                .map_err(|error| bad(format!("the body is not snappy: {error}")))
        }
        "gzip" => {
            let mut unpacked = Vec::new();
            let most = MAX_UNPACKED as u64 + 1;
            flate2::read::MultiGzDecoder::new(body)
                .take(most)
                .read_to_end(&mut unpacked)
                .map_err(|error| bad(format!("the body is not gzip: {error}")))?;
            if unpacked.len() > MAX_UNPACKED {
                return Err(large());
            }
            Ok(unpacked)
        }
        _ => Ok(body.to_vec()),
    }
}

fn decode<T: Message + Default>(bytes: &[u8]) -> Result<T, Refused> {
    T::decode(bytes).map_err(|error| bad(format!("the body is no {PROTOBUF}: {error}")))
}

/// Whether anything can be taken in, and a place to unpack it.
fn enter(api: &Api) -> Result<tokio::sync::OwnedSemaphorePermit, Refused> {
    if api.ingest.is_closed() {
        return Err(Refused(
            StatusCode::NOT_FOUND,
            "nothing is taken in here: ingest.series in the configuration is empty".to_owned(),
        ));
    }
    let room = std::sync::Arc::clone(&api.ingest.room).try_acquire_owned();
    room.map_err(|_| {
        let words = "too many requests at once: send it again";
        Refused(StatusCode::SERVICE_UNAVAILABLE, words.to_owned())
    })
}

type Body = Result<Bytes, BytesRejection>;

/// `POST /api/v1/write`.
pub(super) async fn remote_write(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let take = || {
        let _room = enter(&api)?;
        let body = body.map_err(|error| Refused(error.status(), error.body_text()))?;
        let request: WriteRequest = decode(&unpack(&headers, &body, &["snappy"])?)?;
        let now_ms = api.ingest.intake.now().0;
        api.ingest.take(Source::RemoteWrite, |sieve, to| {
            sift_all(&request.timeseries, now_ms, sieve, to)
        });
        Ok(StatusCode::NO_CONTENT)
    };
    take().map_or_else(Refused::into_response, StatusCode::into_response)
}

fn sift_all(series: &[TimeSeries], now_ms: u64, sieve: &mut Sieve, to: &mut Vec<Sample>) -> Sieved {
    let mut sieved = Sieved::default();
    for one in series {
        let mut metric = "";
        let mut labels = Vec::with_capacity(one.labels.len());
        for label in &one.labels {
            if label.name == "__name__" {
                metric = &label.value;
            } else {
                labels.push((label.name.as_str(), label.value.as_str()));
            }
        }
        let point = |sample: &api::telemetry::prometheus::Sample| Point {
            at_ms: u64::try_from(sample.timestamp).unwrap_or(0),
            value: sample.value,
            since_ms: 0,
            delta: false,
        };
        let points: Vec<Point> = one.samples.iter().map(point).collect();
        sieved += sieve.take(metric, &labels, &points, now_ms, to);
    }
    sieved
}

/// `POST /v1/metrics`.
pub(super) async fn otlp(State(api): State<Api>, headers: HeaderMap, body: Body) -> Response {
    let take = || {
        let _room = enter(&api)?;
        let body = body.map_err(|error| Refused(error.status(), error.body_text()))?;
        let request: ExportMetricsServiceRequest =
            decode(&unpack(&headers, &body, &["", "identity", "gzip"])?)?;
        let now_ms = api.ingest.intake.now().0;
        let (sieved, taken) = api.ingest.take(Source::Otlp, |sieve, to| {
            sift_otlp(&request, now_ms, sieve, to)
        });
        let answer = ExportMetricsServiceResponse {
            partial_success: left_out(sieved, taken),
        };
        Ok(([(CONTENT_TYPE, PROTOBUF)], answer.encode_to_vec()))
    };
    take().map_or_else(Refused::into_response, IntoResponse::into_response)
}

/// What was meant for here and is not in the history, in words.
fn left_out(sieved: Sieved, taken: Taken) -> Option<PartialSuccess> {
    let sieved = sieved.outcomes();
    let taken = taken.outcomes();
    let told = sieved.iter().chain(&taken).filter(|(name, count)| {
        *count > 0 && !matches!(*name, "taken" | "unknown" | "ended" | "first" | "reset")
    });
    let words: Vec<String> = told
        .clone()
        .map(|(name, n)| format!("{name}: {n}"))
        .collect();
    let rejected: u64 = told.map(|(_, count)| count).sum();
    (rejected > 0).then(|| PartialSuccess {
        rejected_data_points: i64::try_from(rejected).unwrap_or(i64::MAX),
        error_message: words.join(", "),
    })
}

fn sift_otlp(
    request: &ExportMetricsServiceRequest,
    now_ms: u64,
    sieve: &mut Sieve,
    to: &mut Vec<Sample>,
) -> Sieved {
    let mut sieved = Sieved::default();
    for described in &request.resource_metrics {
        let resource = described.resource.as_ref();
        let common = resource.map_or(&[][..], |resource| resource.attributes.as_slice());
        let scopes = described.scope_metrics.iter();
        for metric in scopes.flat_map(|scope| &scope.metrics) {
            sieved += sift_metric(metric, common, now_ms, sieve, to);
        }
    }
    sieved
}

fn sift_metric(
    metric: &Metric,
    common: &[KeyValue],
    now_ms: u64,
    sieve: &mut Sieve,
    to: &mut Vec<Sample>,
) -> Sieved {
    let mut sieved = Sieved::default();
    let gauge = metric.gauge.iter().flat_map(|gauge| &gauge.data_points);
    let gauge = gauge.map(|point| (point, false));
    let sum = metric.sum.iter().flat_map(|sum| {
        let delta = sum.aggregation_temporality == otlp::DELTA;
        sum.data_points.iter().map(move |point| (point, delta))
    });
    for (point, delta) in gauge.chain(sum) {
        // What the point itself says comes before what its resource says.
        let attributes = point.attributes.iter().chain(common);
        let labels: Vec<(&str, &str)> = attributes.filter_map(text).collect();
        sieved += sieve.take(&metric.name, &labels, &[read(point, delta)], now_ms, to);
    }
    sieved
}

fn text(attribute: &KeyValue) -> Option<(&str, &str)> {
    let value = attribute.value.as_ref()?.string_value.as_deref()?;
    Some((attribute.key.as_str(), value))
}

fn read(point: &NumberDataPoint, delta: bool) -> Point {
    let value = match point.value {
        Some(otlp::Number::Double(value)) if point.flags & otlp::NO_VALUE == 0 => value,
        Some(otlp::Number::Int(value)) if point.flags & otlp::NO_VALUE == 0 => value as f64,
        Some(_) | None => f64::NAN,
    };
    Point {
        at_ms: point.time_unix_nano / 1_000_000,
        value,
        since_ms: point.start_time_unix_nano / 1_000_000,
        delta,
    }
}

#[cfg(test)]
mod tests;
