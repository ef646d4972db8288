//! Commands that ask a running control plane.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use migrator::explain::Evidence;

use crate::access::Access;
use crate::cli::{
    ClientOptions, ExplainOptions, IsolateOptions, MigrationOptions, MoveOptions, Output,
    PlanOptions, ReleaseOptions, ReplayPlanOptions,
};
use crate::error::Failure;
use crate::http::{Begun, Isolate, Isolated, Order, Release};
use crate::status::{MigrationStatus, Status};

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A control plane that is asked, and how.
#[derive(Debug, Clone)]
pub struct Target {
    address: SocketAddr,
    access: Access,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            access: Access::default(),
        }
    }
}

impl From<&ClientOptions> for Target {
    fn from(options: &ClientOptions) -> Self {
        Self {
            address: options.server,
            access: options.access.clone(),
        }
    }
}

/// Asks for a path.
///
/// # Errors
/// [`Failure::Unavailable`] when nobody answers, [`Failure::Failed`] with the server's words when
/// it refuses, [`Failure::Config`] when a certificate or token cannot be used.
pub async fn get(server: impl Into<Target>, path: &str) -> Result<Bytes, Failure> {
    send(server.into(), Method::GET, path, Bytes::new()).await
}

/// Posts JSON to a path.
///
/// # Errors
/// As [`get`].
pub async fn post(server: impl Into<Target>, path: &str, body: Bytes) -> Result<Bytes, Failure> {
    send(server.into(), Method::POST, path, body).await
}

/// Deletes a path.
///
/// # Errors
/// As [`get`].
pub async fn delete(server: impl Into<Target>, path: &str) -> Result<Bytes, Failure> {
    send(server.into(), Method::DELETE, path, Bytes::new()).await
}

async fn send(target: Target, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
    let Target { address, access } = target;
    let scheme = if access.is_secured() { "https" } else { "http" };
    let doing = format!("ask {scheme}://{address}{path}");
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(Failure::failed(&doing))?;
    if let Some(token) = access.token()? {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
            Failure::Config("the token has characters that no header may have".to_owned())
        })?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(address));
    let stream = connecting
        .await
        .map_err(Failure::unavailable(&doing))?
        .map_err(Failure::unavailable(&doing))?;
    let reply = match access.connector(address)? {
        None => talk(stream, request).await,
        Some((connector, name)) => match connector.connect(name, stream).await {
            Ok(stream) => talk(stream, request).await,
            Err(error) => return Err(Failure::unavailable(&doing)(error)),
        },
    };
    let reply = reply.map_err(Failure::unavailable(&doing))?;
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

/// Sends a request over a connection of its own.
async fn talk<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer's body; what breaks it, the request or the body tells.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender.send_request(request).await
}

async fn ask(options: &ClientOptions) -> Result<Status, Failure> {
    let body = get(options, "/api/status").await?;
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
        for (name, words) in &status.troubles {
            let _ = writeln!(text, "trouble: {name}: {words}");
        }
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
        for (node, progress) in crate::health::nodes(&status.routing) {
            let _ = writeln!(text, "proxy {node}: {}", standing(&progress));
        }
        if let Some(decision) = &status.decision {
            let _ = writeln!(text, "decision: {}", decision.summary);
        }
        text
    })
}

fn standing(progress: &domain::NodeProgress) -> String {
    use domain::NodeProgress::{Applied, Away, Rejected, Waiting};
    match progress {
        Applied => "has applied everything".to_owned(),
        Waiting { types } => format!("has not acknowledged {} yet", types.join(", ")),
        Away => "is away, and goes on with what it had".to_owned(),
        Rejected {
            resource_type,
            reason,
        } => format!("refuses {resource_type}: {reason}"),
    }
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
        let body = get(&client, "/api/plan").await?;
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
    let body = get(&options.client, &path).await?;
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
    let answer = post(client, path, body.into()).await?;
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
        serde_json::from_slice(&get(&options.client, &path).await?)
            .map_err(Failure::failed("read the log"))?;
    let judged = crate::ramp::explained(&options.client, &found.migration.id).await?;
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
    let answer = post(&options.client, "/api/moves", body.into()).await?;
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
    post(&options.client, &path, Bytes::new()).await?;
    let told = serde_json::json!({"migration": id, "told": word});
    print(options.client.output, &told, || {
        format!("migration {id}: {word} is under way")
    })
}
