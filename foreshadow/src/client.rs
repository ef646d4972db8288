//! Commands that ask a running control plane.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use migrator::explain::Evidence;

use crate::cli::{
    ClientOptions, ExplainOptions, IsolateOptions, MigrationOptions, MoveOptions, Output,
    PlanOptions, ReleaseOptions, ReplayPlanOptions,
};
use crate::error::Failure;
use crate::http::{Begun, Isolate, Isolated, Order, Release};
use crate::status::{MigrationStatus, Status};

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Asks for a path.
///
/// # Errors
/// [`Failure::Unavailable`] when nobody answers, [`Failure::Failed`] with the server's words when
/// it refuses.
pub async fn get(server: SocketAddr, path: &str) -> Result<Bytes, Failure> {
    send(server, Method::GET, path, Bytes::new()).await
}

/// Posts JSON to a path.
///
/// # Errors
/// As [`get`].
pub async fn post(server: SocketAddr, path: &str, body: Bytes) -> Result<Bytes, Failure> {
    send(server, Method::POST, path, body).await
}

/// Deletes a path.
///
/// # Errors
/// As [`get`].
pub async fn delete(server: SocketAddr, path: &str) -> Result<Bytes, Failure> {
    send(server, Method::DELETE, path, Bytes::new()).await
}

async fn send(
    server: SocketAddr,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, Failure> {
    let doing = format!("ask http://{server}{path}");
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{server}{path}"))
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(Failure::failed(&doing))?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let reply = client
        .request(request)
        .await
        .map_err(Failure::unavailable(&doing))?;
    let status = reply.status();
    let body = Limited::new(reply.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(Failure::failed(&doing))?.to_bytes();
    let words = || String::from_utf8_lossy(&body).into_owned();
    if status.is_success() {
        Ok(body)
    } else if status == StatusCode::SERVICE_UNAVAILABLE {
        Err(Failure::Unavailable(words()))
    } else {
        Err(Failure::Failed(words()))
    }
}

async fn ask(options: &ClientOptions) -> Result<Status, Failure> {
    let body = get(options.server, "/api/status").await?;
    serde_json::from_slice(&body).map_err(Failure::failed("read the status"))
}

/// Prints a value as JSON or as text.
///
/// # Errors
/// [`Failure::Failed`] when it has no JSON form.
pub(crate) fn print<T: serde::Serialize>(
    output: Output,
    value: &T,
    text: impl FnOnce() -> String,
) -> Result<ExitCode, Failure> {
    match output {
        Output::Json => {
            let json = serde_json::to_string_pretty(value);
            println!("{}", json.map_err(Failure::failed("print JSON"))?);
        }
        Output::Text => println!("{}", text().trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

/// `foreshadow status`.
///
/// # Errors
/// As [`get`].
pub async fn status(options: ClientOptions) -> Result<ExitCode, Failure> {
    let status = ask(&options).await?;
    print(options.output, &status, || {
        let mut text = String::new();
        for host in &status.hosts {
            let peak = host
                .forecast
                .iter()
                .map(|band| band.risk)
                .fold(0.0, f64::max);
            let _ = writeln!(
                text,
                "host {}: {:.0} of {:.0} millicores (limit {:.0}), highest risk ahead {:.0} %, {} instances",
                host.id,
                host.demand,
                host.capacity,
                host.limit,
                peak * 100.0,
                host.instances.len()
            );
        }
        for migration in &status.migrations {
            let _ = writeln!(text, "{}", line(migration));
        }
        if let Some(decision) = &status.decision {
            let _ = writeln!(text, "decision: {}", decision.summary);
        }
        text
    })
}

fn line(status: &MigrationStatus) -> String {
    let migration = &status.migration;
    let mut text = format!(
        "migration {}: {} from {} to {}, {}",
        migration.id, migration.instance, migration.original.host, migration.target, status.phase
    );
    if let Some(failure) = &migration.failure {
        let _ = write!(text, " ({failure})");
    }
    if let Some(question) = &migration.question {
        let _ = write!(text, " ({})", question.text);
    }
    text
}

/// `foreshadow plan`.
///
/// # Errors
/// As [`get`].
pub async fn plan(options: PlanOptions) -> Result<ExitCode, Failure> {
    let client = options.client;
    let decision = if options.dry_run {
        let body = get(client.server, "/api/plan").await?;
        Some(serde_json::from_slice(&body).map_err(Failure::failed("read the plan"))?)
    } else {
        ask(&client).await?.decision
    };
    print(client.output, &decision, || match &decision {
        None => "no decision yet".to_owned(),
        Some(decision) => describe(decision),
    })
}

/// `foreshadow replay-plan`.
///
/// # Errors
/// As [`get`]; [`Failure::Failed`] when the answer is another one.
pub async fn replay_plan(options: ReplayPlanOptions) -> Result<ExitCode, Failure> {
    let path = format!("/api/evidence/{}", options.plan);
    let body = get(options.client.server, &path).await?;
    // JSON is YAML, and this reader keeps every digit of a number; the usual one of JSON does not.
    let evidence: Evidence = serde_saphyr::from_str(&String::from_utf8_lossy(&body))
        .map_err(Failure::failed("read the evidence"))?;
    let again = evidence.replay();
    if again != evidence.decision {
        return Err(Failure::Failed(format!(
            "decided again it is another: then {:?}, now {:?}",
            evidence.decision.summary, again.summary
        )));
    }
    print(options.client.output, &again, || {
        format!("identical\n{}", describe(&again))
    })
}

/// `foreshadow isolate` and `evacuate`.
///
/// # Errors
/// As [`get`]; the server's words when that is not possible.
pub async fn isolate(options: IsolateOptions, drain: bool) -> Result<ExitCode, Failure> {
    let asked = Isolate {
        owner: options.owner,
        reason: options.reason,
        lease_s: options.lease_s,
        drain,
    };
    let body = serde_json::to_vec(&asked).map_err(Failure::failed("write the order"))?;
    let path = format!("/api/hosts/{}/isolate", options.host);
    isolated(&options.client, &path, body).await
}

/// `foreshadow de-isolate`.
///
/// # Errors
/// As [`isolate`].
pub async fn release(options: ReleaseOptions) -> Result<ExitCode, Failure> {
    let asked = Release {
        owner: options.owner,
    };
    let body = serde_json::to_vec(&asked).map_err(Failure::failed("write the order"))?;
    let path = format!("/api/hosts/{}/release", options.host);
    isolated(&options.client, &path, body).await
}

async fn isolated(client: &ClientOptions, path: &str, body: Vec<u8>) -> Result<ExitCode, Failure> {
    let answer = post(client.server, path, body.into()).await?;
    let now: Isolated = serde_json::from_slice(&answer).map_err(Failure::failed("read JSON"))?;
    print(client.output, &now, || {
        let word = if now.isolated {
            "takes no new instances"
        } else {
            "takes instances again"
        };
        format!("host {} {word}", now.host)
    })
}

/// A decision in words.
pub fn describe(decision: &domain::Decision) -> String {
    let mut text = format!("{}\n", decision.summary);
    for contention in &decision.contention {
        let _ = writeln!(
            text,
            "  {} on {}: {:.0} % likely to exceed {:.0} in {:.0} s (expected {:.0}), seen in {} of {} looks",
            contention.resource,
            contention.host,
            contention.probability * 100.0,
            contention.limit,
            contention.ahead_ms as f64 / 1_000.0,
            contention.expected_demand,
            contention.ticks,
            contention.of_ticks
        );
    }
    for chosen in &decision.moves {
        let _ = writeln!(
            text,
            "  move {} from {} to {}, score {:.1}",
            chosen.instance, chosen.from, chosen.target, chosen.score
        );
        for reason in &chosen.reasons {
            let _ = writeln!(text, "    {reason}");
        }
    }
    for other in &decision.alternatives {
        let target = other.target.as_ref().map_or("-", |target| target.as_str());
        let score = other
            .score
            .map_or("-".to_owned(), |score| format!("{score:.1}"));
        let _ = writeln!(
            text,
            "  not {} to {target} (score {score}): {}",
            other.instance, other.reason
        );
    }
    text
}

/// `foreshadow explain`.
///
/// # Errors
/// As [`get`]; [`Failure::Config`] for a migration that is not known.
pub async fn explain(options: ExplainOptions) -> Result<ExitCode, Failure> {
    let status = ask(&options.client).await?;
    let found = match &options.migration {
        None => status.migrations.first(),
        Some(id) => status
            .migrations
            .iter()
            .find(|known| known.migration.id == *id),
    };
    let Some(found) = found else {
        let name = options
            .migration
            .map_or("any".to_owned(), |id| id.to_string());
        return Err(Failure::Config(format!("migration {name} is unknown")));
    };
    let plan = status
        .plans
        .iter()
        .find(|plan| plan.id == found.migration.plan);
    let path = format!("/api/migrations/{}/log", found.migration.id);
    let log: Vec<migrator::saga::LogLine> =
        serde_json::from_slice(&get(options.client.server, &path).await?)
            .map_err(Failure::failed("read the log"))?;
    let judged = crate::ramp::explained(options.client.server, &found.migration.id).await?;
    print(
        options.client.output,
        &serde_json::json!({"migration": found, "plan": plan, "log": log, "judge": judged}),
        || {
            let mut text = format!("{}\n", line(found));
            if let Some(plan) = plan {
                let _ = writeln!(text, "plan {}: {}", plan.id, describe(&plan.decision));
            }
            let start = found.migration.started_at();
            for entry in &log {
                let _ = writeln!(
                    text,
                    "  {:>7.2} s  {:<14} {} → {}",
                    entry.at.since(start) as f64 / 1_000.0,
                    entry.phase.name(),
                    entry.event,
                    entry.next.join(", ")
                );
            }
            if let Some(judged) = &judged {
                text.push_str(&judged.words());
            }
            text
        },
    )
}

/// `foreshadow move`.
///
/// # Errors
/// As [`get`]; the server's words when something stands against it.
pub async fn order(options: MoveOptions) -> Result<ExitCode, Failure> {
    let order = Order {
        instance: options.instance,
        target: options.to,
    };
    let body = serde_json::to_vec(&order).map_err(Failure::failed("write the order"))?;
    let answer = post(options.client.server, "/api/moves", body.into()).await?;
    let begun: Begun = serde_json::from_slice(&answer).map_err(Failure::failed("read JSON"))?;
    print(options.client.output, &begun, || {
        format!("migration {} has begun", begun.migration)
    })
}

/// `foreshadow abort`, `retry` and `rollback`: tells the control plane one word about a migration.
///
/// # Errors
/// As [`get`]; the server's words when that is not possible now.
pub async fn tell(options: MigrationOptions, word: &str) -> Result<ExitCode, Failure> {
    let id = &options.migration;
    let path = format!("/api/migrations/{id}/{word}");
    post(options.client.server, &path, Bytes::new()).await?;
    let told = serde_json::json!({"migration": id, "told": word});
    print(options.client.output, &told, || {
        format!("migration {id}: {word} is under way")
    })
}
