//! Demand in and forecasts out of a running control plane: JSON, Prometheus, OpenTelemetry, gRPC.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use api::forecasting::{
    GetForecastRequest, InstanceForecast, PushReply, PushRequest, Quantity, Sample,
    WatchForecastsRequest, path,
};
use api::telemetry::{otlp, prometheus};
use domain::NodeId;
use foreshadow::client;
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use xds_server::authority::LocalAuthority;

use crate::ONE_AT_A_TIME;
use crate::lab::{block_on, until};
use crate::wire::Serve;

/// Step of the forecasts: short, so that the next one is soon.
const STEP_MS: u64 = 200;

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

fn serve(more: &str) -> Serve {
    let more = format!("step_ms: {STEP_MS}\n{more}");
    Serve::start(tempfile::tempdir().unwrap(), &more)
}

async fn ready(page: SocketAddr) {
    until("it serves", async || {
        client::get(page, "/readyz").await.ok()
    })
    .await;
}

/// Posts bytes under these headers; gives the status and the answer.
async fn post(page: SocketAddr, path: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(page).await.unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {page}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer[end + 4..].to_vec())
}

async fn scraped(page: SocketAddr, path: &str) -> String {
    let body = client::get(page, path).await.unwrap();
    String::from_utf8_lossy(&body).into_owned()
}

/// The value of a metric with all its labels.
async fn metric(page: SocketAddr, name: &str) -> Option<f64> {
    let text = scraped(page, "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

async fn forecast(page: SocketAddr, instance: &str) -> serde_json::Value {
    until(&format!("{instance} is forecast"), async || {
        let body = client::get(page, "/api/forecasts").await.ok()?;
        let known: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let mut known = known.as_array()?.iter();
        known.find(|one| one["instance"] == instance).cloned()
    })
    .await
}

#[test]
fn samples_that_are_pushed_become_forecasts_and_bad_ones_are_refused_by_the_field() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let serve = serve("");
        let page = serve.page;
        ready(page).await;
        let begin = now_ms() - 20 * STEP_MS;
        let rows: Vec<String> = (0..20_u64)
            .map(|i| {
                let at = begin + i * STEP_MS;
                format!(r#"{{"instance":"vm-1","at_ms":{at},"cpu":250,"net_rx":{i},"activity":9}}"#)
            })
            .collect();
        let body = format!(r#"{{"samples":[{}]}}"#, rows.join(","));
        let answer = client::post(page, "/api/samples", body.clone().into())
            .await
            .unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["taken"], 60, "{answer}");
        // The same again: late or repeated, and counted as such.
        let again = client::post(page, "/api/samples", body.into())
            .await
            .unwrap();
        let again: serde_json::Value = serde_json::from_slice(&again).unwrap();
        assert_eq!(again["taken"], 0, "{again}");
        assert_eq!(
            (&again["late"], &again["duplicates"]),
            (&57.into(), &3.into())
        );
        let found = forecast(page, "vm-1").await;
        let resources: Vec<_> = found["forecasts"].as_array().unwrap().iter().collect();
        assert_eq!(resources.len(), 2, "{found:#}");
        assert_eq!(resources[0]["last"], 250.0);
        let name = r#"foreshadow_ingest_samples_total{source="http",outcome="late"}"#;
        assert_eq!(metric(page, name).await, Some(57.0));
        let shown = scraped(page, "/metrics/forecasts?instances=vm-1").await;
        let demand = r#"foreshadow_forecast_demand{instance="vm-1",resource="cpu",ahead_s="0.2","#;
        assert!(shown.contains(demand), "{shown}");

        for (body, words) in [
            (r#"{"samples":[]}"#, "samples is a list of 0"),
            (
                r#"{"samples":[{"instance":"vm","at_ms":17,"cpu":1}]}"#,
                "look like seconds",
            ),
            (
                r#"{"samples":[{"instance":"vm","at_ms":1764000000000,"cpu":-1}]}"#,
                "cpu is -1",
            ),
            (
                r#"{"samples":[{"instance":"vm","at_ms":1764000000000,"gpu":1}]}"#,
                "gpu",
            ),
            ("[", "JSON"),
        ] {
            let (status, answer) = post(
                page,
                "/api/samples",
                "Content-Type: application/json\r\n",
                body.as_bytes(),
            )
            .await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(
                (400..500).contains(&status) && answer.contains(words),
                "{status} {answer}"
            );
        }
        let large = vec![b' '; 2 * 1024 * 1024 + 1];
        let (status, _) = post(
            page,
            "/api/samples",
            "Content-Type: application/json\r\n",
            &large,
        )
        .await;
        assert_eq!(status, 413);
        // Metrics of others are taken in by rules only, and there are none.
        for path in ["/api/v1/write", "/v1/metrics"] {
            let (status, answer) = post(page, path, "", b"").await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(
                status == 404 && answer.contains("ingest.series"),
                "{status} {answer}"
            );
        }
        let gone = client::delete(page, "/api/samples/vm-1").await.unwrap();
        assert!(String::from_utf8_lossy(&gone).contains("vm-1 is forgotten"));
        assert!(client::delete(page, "/api/samples/vm-1").await.is_err());
    });
}

#[test]
fn history_is_pushed_from_a_file_and_from_prometheus_and_given_back() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let serve = serve("");
        let page = serve.page;
        ready(page).await;
        let begin = (now_ms() - 60_000).next_multiple_of(STEP_MS);
        // Newest first: the command puts them in order.
        let rows: Vec<String> = (0..50)
            .rev()
            .map(|i| format!("db-1,{},{},\n", begin + i * STEP_MS, 100 + i))
            .collect();
        let file = serve.folder.path().join("history.csv");
        let header = "instance,at_ms,cpu,memory\n";
        std::fs::write(&file, format!("{header}{}", rows.concat())).unwrap();
        let push = |arguments: &[&str]| {
            let output = serve.cli(&[&["push"], arguments].concat());
            let words = [&output.stdout[..], &output.stderr[..]].concat();
            (
                output.status.code(),
                String::from_utf8_lossy(&words).into_owned(),
            )
        };
        let path = file.to_string_lossy().into_owned();
        let (code, words) = push(&[&path]);
        assert_eq!(code, Some(0), "{words}");
        assert!(words.contains("50 rows: 50 values taken in"), "{words}");
        let back = scraped(page, "/api/samples/db-1").await;
        let lines: Vec<&str> = back.lines().collect();
        assert_eq!(lines.len(), 51, "{back}");
        assert_eq!(lines[1], format!("db-1,{begin},100,,,"));
        // What it gave back it takes again, under another name.
        std::fs::write(&file, back.replace("db-1", "db-2")).unwrap();
        assert_eq!(push(&[&path]).0, Some(0));
        let again = scraped(page, "/api/samples/db-2").await;
        assert_eq!(again.replace("db-2", "db-1"), back);
        std::fs::write(&file, format!("{header}db-1,{begin},-3,\n")).unwrap();
        let (code, words) = push(&[&path]);
        assert!(
            code == Some(64) && words.contains("line 2: cpu is -3"),
            "{words}"
        );

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4_096];
            let read = stream.read(&mut asked).await.unwrap();
            let at = (now_ms() - 5_000) / 1_000;
            let body = format!(
                r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{"pod":"web-1"}},"values":[[{at},"0.25"],[{},"0.5"]]}}]}}}}"#,
                at + 1
            );
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..read]).into_owned()
        });
        let (code, words) = tokio::task::block_in_place(|| {
            push(&[
                "--prometheus",
                &url,
                "--query",
                "rate(cpu[5m])",
                "--label",
                "pod",
                "--quantity",
                "cpu",
                "--factor",
                "1000",
                "--hours",
                "1",
            ])
        });
        assert!(
            code == Some(0) && words.contains("2 values taken in"),
            "{words}"
        );
        let asked = answering.await.unwrap();
        assert!(asked.starts_with("GET /api/v1/query_range?query=rate%28cpu%5B5m%5D%29&start="));
        let found = forecast(page, "web-1").await;
        assert_eq!(found["forecasts"][0]["last"], 500.0);
    });
}

fn label(name: &str, value: &str) -> prometheus::Label {
    prometheus::Label {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

#[test]
fn prometheus_and_opentelemetry_are_taken_in_by_rules_and_counters_that_begin_anew_are_no_drop() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let rules = "ingest:\n  series:\n\
            \x20 - {metric: cpu_seconds_total, instance: pod, quantity: cpu, counter: true, factor: 1000, labels: {container: app}}\n\
            \x20 - {metric: memory.usage, instance: host.name, quantity: memory}\n";
        let serve = serve(rules);
        let page = serve.page;
        ready(page).await;
        let begin = now_ms() - 8_000;
        let values = [
            10.0,
            10.5,
            11.0,
            0.25,
            0.75,
            1.25,
            f64::from_bits(0x7ff0_0000_0000_0002),
        ];
        let sample = |(i, &value): (usize, &f64)| prometheus::Sample {
            value,
            timestamp: i64::try_from(begin + 1_000 * i as u64).unwrap(),
        };
        let series = |container: &str| prometheus::TimeSeries {
            labels: vec![
                label("__name__", "cpu_seconds_total"),
                label("container", container),
                label("pod", "web-0"),
            ],
            samples: values.iter().enumerate().map(sample).collect(),
        };
        let request = prometheus::WriteRequest {
            timeseries: vec![series("app"), series("sidecar")],
        };
        let packed = snap::raw::Encoder::new()
            .compress_vec(&request.encode_to_vec())
            .unwrap();
        let headers = "Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n\
                       X-Prometheus-Remote-Write-Version: 0.1.0\r\n";
        let (status, answer) = post(page, "/api/v1/write", headers, &packed).await;
        assert_eq!(status, 204, "{}", String::from_utf8_lossy(&answer));
        let found = forecast(page, "web-0").await;
        // Half a core, always: the counter's new beginning is no drop.
        assert_eq!(found["forecasts"][0]["last"], 500.0, "{found:#}");
        let of = |outcome: &str| {
            format!(
                r#"foreshadow_ingest_series_total{{source="remote_write",outcome="{outcome}"}}"#
            )
        };
        for (outcome, count) in [
            ("unknown", 1.0),
            ("reset", 1.0),
            ("first", 1.0),
            ("ended", 1.0),
        ] {
            assert_eq!(metric(page, &of(outcome)).await, Some(count), "{outcome}");
        }
        let (status, answer) =
            post(page, "/api/v1/write", headers, b"\xff\xff\xff\xff\x0f\0").await;
        assert_eq!(status, 413, "{}", String::from_utf8_lossy(&answer));

        let request = otlp::ExportMetricsServiceRequest {
            resource_metrics: vec![otlp::ResourceMetrics {
                resource: Some(otlp::Resource {
                    attributes: vec![otlp::KeyValue {
                        key: "host.name".to_owned(),
                        value: Some(otlp::AnyValue {
                            string_value: Some("db-0".to_owned()),
                        }),
                    }],
                }),
                scope_metrics: vec![otlp::ScopeMetrics {
                    metrics: vec![otlp::Metric {
                        name: "memory.usage".to_owned(),
                        gauge: Some(otlp::Gauge {
                            data_points: vec![otlp::NumberDataPoint {
                                start_time_unix_nano: 0,
                                time_unix_nano: now_ms() * 1_000_000,
                                attributes: Vec::new(),
                                flags: 0,
                                value: Some(otlp::Number::Int(1_048_576)),
                            }],
                        }),
                        sum: None,
                    }],
                }],
            }],
        };
        let headers = "Content-Type: application/x-protobuf\r\n";
        let (status, answer) = post(page, "/v1/metrics", headers, &request.encode_to_vec()).await;
        assert_eq!((status, answer.len()), (200, 0), "nothing is left out");
        let found = forecast(page, "db-0").await;
        assert_eq!(found["forecasts"][0]["resource"], "memory");
        assert_eq!(found["forecasts"][0]["last"], 1_048_576.0);
        let (status, _) = post(
            page,
            "/v1/metrics",
            "Content-Type: application/json\r\n",
            b"{}",
        )
        .await;
        assert_eq!(status, 415);
    });
}

/// A gRPC client.
struct Client(Grpc<Channel>);

impl Client {
    async fn unary<In, Out>(&mut self, method: &str, request: In) -> Result<Out, Status>
    where
        In: Message + 'static,
        Out: Message + Default + 'static,
    {
        self.0.ready().await.unwrap();
        let path = PathAndQuery::try_from(path(method)).unwrap();
        let codec = ProstCodec::<In, Out>::default();
        let answer = self.0.unary(Request::new(request), path, codec).await?;
        Ok(answer.into_inner())
    }

    async fn watch(&mut self, instance: &str) -> tonic::Streaming<InstanceForecast> {
        self.0.ready().await.unwrap();
        let path = PathAndQuery::try_from(path("WatchForecasts")).unwrap();
        let codec = ProstCodec::<WatchForecastsRequest, InstanceForecast>::default();
        let request = WatchForecastsRequest {
            instances: vec![instance.to_owned()],
        };
        let answer = self
            .0
            .server_streaming(Request::new(request), path, codec)
            .await;
        answer.unwrap().into_inner()
    }
}

#[test]
fn forecasts_are_asked_for_and_followed_by_grpc() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let serve = serve("");
        let page = serve.page;
        ready(page).await;
        let channel = Channel::from_shared(format!("http://{page}")).unwrap();
        let mut client = Client(Grpc::new(channel.connect().await.unwrap()));
        let get = |instance: &str| GetForecastRequest {
            instance: instance.to_owned(),
        };
        let none: Result<InstanceForecast, _> = client.unary("GetForecast", get("vm")).await;
        assert_eq!(none.unwrap_err().code(), Code::NotFound);
        let bad: Result<InstanceForecast, _> = client.unary("GetForecast", get("a b")).await;
        let bad = bad.unwrap_err();
        assert!(bad.message().contains("instance is \"a b\""), "{bad}");

        let mut watched = client.watch("vm").await;
        let sample = |value| Sample {
            instance: "vm".to_owned(),
            quantity: Quantity::Cpu.into(),
            at_ms: now_ms(),
            value,
        };
        let push = |value| PushRequest {
            samples: vec![sample(value)],
        };
        let bad: Result<PushReply, _> = client.unary("Push", push(f64::NAN)).await;
        let bad = bad.unwrap_err();
        assert_eq!(bad.code(), Code::InvalidArgument);
        assert!(bad.message().contains("samples[0].cpu is NaN"), "{bad}");
        let reply: PushReply = client.unary("Push", push(70.0)).await.unwrap();
        assert_eq!(reply.taken, 1);
        let first = watched.message().await.unwrap().unwrap();
        assert_eq!((first.instance.as_str(), first.gone), ("vm", false));
        assert_eq!(
            first.levels.len(),
            first.forecasts[0].horizons[0].quantiles.len()
        );
        assert_eq!(first.forecasts[0].last, Some(70.0));
        assert!(first.forecasts[0].cold_start);
        let got: InstanceForecast = client.unary("GetForecast", get("vm")).await.unwrap();
        assert_eq!(got.forecasts[0].quantity(), Quantity::Cpu);
        // A newer one comes by itself, and that it is gone is told.
        let reply: PushReply = client.unary("Push", push(90.0)).await.unwrap();
        assert_eq!(reply.taken, 1);
        loop {
            let next = watched.message().await.unwrap().unwrap();
            if next.forecasts[0].last.unwrap() > 70.0 {
                break;
            }
        }
        foreshadow::client::delete(page, "/api/samples/vm")
            .await
            .unwrap();
        while !watched.message().await.unwrap().unwrap().gone {}
    });
}

/// Asks for the forecast of `vm` with the gRPC library that most languages use.
fn python(page: SocketAddr, arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Command::new(root.join("../.venv/bin/python"))
        .arg(root.join("e2e/forecast_client.py"))
        .arg(page.to_string())
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn grpc_of_a_secured_page_takes_a_token_or_an_operators_certificate_and_nothing_else() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "correct-horse-battery").unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&token, private).unwrap();
        let security = format!(
            "security: {{token_file: {}, page: {{names: [127.0.0.1]}}}}\n",
            token.display()
        );
        let serve = Serve::start(folder, &security);
        until("it serves", async || {
            client::get(serve.admin, "/readyz").await.ok()
        })
        .await;
        let authority = LocalAuthority::open(serve.folder.path().join("data/tls")).unwrap();
        let file = |path: &PathBuf| path.to_string_lossy().into_owned();
        let ca = file(&authority.certificate());
        let operator = authority.node(&NodeId::new("operator").unwrap()).unwrap();
        let node = authority.node(&NodeId::new("edge").unwrap()).unwrap();
        let said = |arguments: &[&str]| {
            let output = python(serve.page, arguments);
            let words = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            words.trim().to_owned()
        };
        let (certificate, key) = (file(&operator.certificate), file(&operator.key));
        // Who may come in is told that there is no such forecast.
        until("the page answers", async || {
            let words = said(&["--ca", &ca, "--certificate", &certificate, "--key", &key]);
            (words == "NOT_FOUND").then_some(())
        })
        .await;
        let token = "correct-horse-battery";
        assert_eq!(said(&["--ca", &ca, "--token", token]), "NOT_FOUND");
        assert_eq!(said(&["--ca", &ca]), "UNAUTHENTICATED");
        let wrong = said(&["--ca", &ca, "--token", "incorrect-horse-battery"]);
        assert_eq!(wrong, "UNAUTHENTICATED");
        let (certificate, key) = (file(&node.certificate), file(&node.key));
        let words = said(&["--ca", &ca, "--certificate", &certificate, "--key", &key]);
        assert_eq!(words, "UNAUTHENTICATED", "a node is no operator");
        assert_eq!(said(&[]), "UNAVAILABLE", "plain text");
    });
}
