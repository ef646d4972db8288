use api::telemetry::otlp::{AnyValue, Gauge, Number, Resource, ResourceMetrics, ScopeMetrics, Sum};
use api::telemetry::prometheus::{Label, Sample as Written};
use axum::http::HeaderValue;
use forecaster::intake::{Quantity, Rule, Rules};

use super::*;

const NOW_MS: u64 = 1_000_000;

fn headers(encoding: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    headers
}

fn sieve(counter: bool) -> Sieve {
    let rule = Rule {
        metric: "cpu".to_owned(),
        instance: "pod".to_owned(),
        quantity: Quantity::Demand(domain::Resource::Cpu),
        counter,
        factor: 1.0,
        labels: [].into(),
    };
    Sieve::new(Rules::new(vec![rule]).unwrap(), 300_000)
}

fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

#[test]
fn bombs_and_what_is_not_what_it_says_are_refused_by_name() {
    let all = ["snappy", "gzip", ""];
    // Snappy tells its length first: nothing is unpacked of this one.
    let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0];
    let refused = unpack(&headers("snappy"), &bomb, &all).unwrap_err();
    assert_eq!(refused.0, StatusCode::PAYLOAD_TOO_LARGE);
    let zeros = vec![0; MAX_UNPACKED + 1];
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &zeros).unwrap();
    let packed = packed.finish().unwrap();
    let refused = unpack(&headers("gzip"), &packed, &all).unwrap_err();
    assert_eq!(refused.0, StatusCode::PAYLOAD_TOO_LARGE);
    for (encoding, body, words) in [
        ("snappy", &b"\x05no"[..], "not snappy"),
        ("gzip", b"nothing", "not gzip"),
        ("br", b"", "Content-Encoding is \"br\""),
    ] {
        let refused = unpack(&headers(encoding), body, &all).unwrap_err();
        assert!(refused.1.contains(words), "{}", refused.1);
    }
    let mut second = headers("snappy");
    let kind = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
    second.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    let refused = unpack(&second, &snappy(b""), &all).unwrap_err();
    assert_eq!(refused.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let garbage = decode::<WriteRequest>(b"\x0a\xff").unwrap_err();
    assert!(garbage.1.contains(PROTOBUF), "{}", garbage.1);
}

#[test]
fn series_of_prometheus_become_samples() {
    let label = |name: &str, value: &str| Label {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let written = |timestamp, value| Written { value, timestamp };
    let request = WriteRequest {
        timeseries: vec![TimeSeries {
            labels: vec![label("__name__", "cpu"), label("pod", "a1")],
            samples: vec![
                written(10_000, 1.0),
                written(20_000, 2.0),
                written(30_000, f64::from_bits(0x7ff0_0000_0000_0002)),
                written(-5, 3.0),
            ],
        }],
    };
    let packed = snappy(&request.encode_to_vec());
    let bytes = unpack(&headers("snappy"), &packed, &["snappy"]).unwrap();
    let request: WriteRequest = decode(&bytes).unwrap();
    let mut found = Vec::new();
    let sieved = sift_all(&request.timeseries, NOW_MS, &mut sieve(false), &mut found);
    let values: Vec<_> = found.iter().map(|s| (s.at.0, s.value)).collect();
    // A time before the epoch is as late as can be: the history leaves it out.
    assert_eq!(values, [(10_000, 1.0), (20_000, 2.0), (0, 3.0)]);
    assert_eq!(sieved.ended, 1);
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            string_value: Some(value.to_owned()),
        }),
    }
}

fn exported(metric: Metric) -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes: vec![attribute("pod", "a1")],
            }),
            scope_metrics: vec![ScopeMetrics {
                metrics: vec![metric],
            }],
        }],
    }
}

fn point(at_s: u64, since_s: u64, value: Number) -> NumberDataPoint {
    NumberDataPoint {
        start_time_unix_nano: since_s * 1_000_000_000,
        time_unix_nano: at_s * 1_000_000_000,
        attributes: Vec::new(),
        flags: 0,
        value: Some(value),
    }
}

fn sifted(metric: Metric, counter: bool) -> (Vec<(u64, f64)>, Sieved) {
    let bytes = exported(metric).encode_to_vec();
    let request = decode(&bytes).unwrap();
    let mut found = Vec::new();
    let sieved = sift_otlp(&request, NOW_MS, &mut sieve(counter), &mut found);
    (found.iter().map(|s| (s.at.0, s.value)).collect(), sieved)
}

#[test]
fn gauges_deltas_and_cumulative_sums_of_opentelemetry_become_samples() {
    let mut silent = point(30, 0, Number::Double(9.0));
    silent.flags = otlp::NO_VALUE;
    let gauge = Metric {
        name: "cpu".to_owned(),
        gauge: Some(Gauge {
            data_points: vec![
                point(10, 0, Number::Double(1.5)),
                point(20, 0, Number::Int(2)),
                silent,
            ],
        }),
        sum: None,
    };
    let (found, sieved) = sifted(gauge, false);
    assert_eq!(found, [(10_000, 1.5), (20_000, 2.0)]);
    assert_eq!(sieved.ended, 1);
    let sum = |temporality, data_points| Metric {
        name: "cpu".to_owned(),
        gauge: None,
        sum: Some(Sum {
            data_points,
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
    };
    let delta = sum(otlp::DELTA, vec![point(10, 5, Number::Double(10.0))]);
    assert_eq!(sifted(delta, true).0, [(10_000, 2.0)]);
    let cumulative = sum(
        2,
        vec![
            point(10, 1, Number::Int(10)),
            point(20, 1, Number::Int(30)),
            // It began anew and has counted beyond where it was.
            point(30, 21, Number::Int(90)),
        ],
    );
    let (found, sieved) = sifted(cumulative, true);
    assert_eq!(found, [(20_000, 2.0)]);
    assert_eq!((sieved.firsts, sieved.resets), (1, 1));
}

#[test]
fn what_is_left_out_is_told_to_the_exporter() {
    let sieved = Sieved {
        unknown: 7,
        ambiguous: 2,
        ..Sieved::default()
    };
    let taken = Taken {
        taken: 5,
        late: 1,
        ..Taken::default()
    };
    let told = left_out(sieved, taken).unwrap();
    assert_eq!(told.rejected_data_points, 3);
    assert_eq!(told.error_message, "ambiguous: 2, late: 1");
    assert_eq!(left_out(Sieved::default(), Taken::default()), None);
}
