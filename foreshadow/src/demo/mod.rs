//! The demo: all of Foreshadow on one machine, on a real trace.
//!
//! # Flow
//! ```text
//! trace ─▶ history ─▶ forecaster          load ─▶ Envoy ─┐
//!    └──▶ rates ──────────────────────────▶ load ─▶ proxy ─┴▶ six real instances on two hosts
//! control plane: foresees, plans, shadows, shifts, terminates      table at the end
//! ```
//! # Ownership
//! One temporary folder holds everything; every process started is stopped, and the folder
//! removed, on every way out (end, failure, Ctrl-C).

pub mod planes;
pub mod report;
pub mod scenario;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use domain::{NodeId, Phase, Policy};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::cli::{DemoOptions, Output, PolicyName};
use crate::control::ControlPlane;
use crate::error::Failure;
use crate::load::{After, Arrivals, LoadGenerator, LoadSettings, RateCurve, StreamSpec};
use crate::status::{self, Status};
use planes::Plane;
use report::Report;
use scenario::Scenario;

/// Runs the demo.
///
/// # Errors
/// [`Failure`] of whatever could not start or broke.
pub async fn run(options: DemoOptions) -> Result<ExitCode, Failure> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        if crate::asked_to_stop().await.is_ok() {
            eprintln!("\nstopping: every process, file and port of the demo goes");
            // The receivers are gone only when the demo is over.
            let _ = stop.send(true);
        }
        // Keeps the channel open for good.
        std::future::pending::<()>().await;
    });
    let policies = if options.compare {
        vec![
            PolicyName::None,
            PolicyName::Reactive,
            PolicyName::Predictive,
        ]
    } else {
        vec![options.policy]
    };
    let mut reports = Vec::new();
    for policy in policies {
        let report = one(&options, policy.into(), stopped.clone()).await?;
        if *stopped.borrow() {
            return Ok(ExitCode::from(130));
        }
        if options.output == Output::Text {
            println!("{}", report.text());
        }
        reports.push(report);
    }
    if options.output == Output::Json {
        let json = serde_json::to_string_pretty(&reports);
        println!("{}", json.map_err(Failure::failed("print JSON"))?);
    } else if options.compare {
        println!("{}", report::comparison(&reports));
    }
    verdict(&options, &reports)
}

/// What the exit code says: nothing was lost, and what should have happened did.
fn verdict(options: &DemoOptions, reports: &[Report]) -> Result<ExitCode, Failure> {
    for report in reports {
        if report.sent < 500 {
            return Err(Failure::Failed(format!(
                "only {} requests flowed",
                report.sent
            )));
        }
        if report.failed > 0 && options.bad_shadow.is_none() {
            return Err(Failure::Failed(format!(
                "{} requests failed",
                report.failed
            )));
        }
        if report.policy == Policy::Predictive {
            let wanted = if options.bad_shadow.is_some() {
                "rolled back"
            } else {
                "done"
            };
            if !report
                .migrations
                .iter()
                .any(|migration| migration.outcome == wanted)
            {
                return Err(Failure::Failed(format!("no migration ended {wanted}")));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let name = format!("foreshadow-demo-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(Failure::unavailable("make the demo's folder"))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "could not be removed");
        }
    }
}

/// One run with one policy, cleaned up whatever happens.
async fn one(
    options: &DemoOptions,
    policy: Policy,
    stopped: watch::Receiver<bool>,
) -> Result<Report, Failure> {
    let folder = Folder::new()?;
    let scenario = Scenario::bundled()?;
    say(&format!(
        "Foreshadow demo, policy {policy:?}: starting two hosts and six instances"
    ));
    let config = scenario.config(folder.path(), policy, options.bad_shadow, options.page)?;
    let control = ControlPlane::start(&config, &scenario.known()).await;
    let control = match control {
        Ok(control) => control,
        Err(failure) => {
            sweep(folder.path()).await;
            return Err(failure);
        }
    };
    say(&format!("live page: http://{}", control.page));
    let result = with_planes(options, policy, &scenario, &control, folder.path(), stopped).await;
    let driver = std::sync::Arc::clone(&control.driver);
    control.shutdown().await;
    if let Err(error) = driver.cleanup_all().await {
        tracing::error!(%error, "instances could not be stopped");
    }
    result
}

/// Stops instances of a control plane that did not start.
async fn sweep(folder: &Path) {
    use migrator::driver::process::{ProcessConfig, ProcessDriver};
    if let Ok(driver) = ProcessDriver::open(ProcessConfig::new(folder.join("instances")))
        && let Err(error) = driver.cleanup_all().await
    {
        tracing::error!(%error, "instances could not be stopped");
    }
}

async fn with_planes(
    options: &DemoOptions,
    policy: Policy,
    scenario: &Scenario,
    control: &ControlPlane,
    folder: &Path,
    stopped: watch::Receiver<bool>,
) -> Result<Report, Failure> {
    let program = std::env::current_exe().map_err(Failure::failed("find this program"))?;
    let identity = |name: &str| {
        let node = NodeId::new(name).map_err(Failure::failed("name a data plane"))?;
        control.keyring.node(&node)
    };
    let proxy = Plane::proxy_as(&program, control.xds, folder, identity("proxy")?);
    let mut planes = vec![proxy.await?];
    match planes::find_envoy(options.envoy.as_ref()) {
        Some(binary) => {
            let envoy = Plane::envoy_as(&binary, control.xds, folder, identity("envoy")?);
            planes.push(envoy.await?);
        }
        None => say(
            "Envoy is missing (get it with deploy/setup, or name it with --envoy): going on with the proxy alone",
        ),
    }
    let result = drive(options, policy, scenario, control, &planes, stopped).await;
    for plane in planes {
        plane.stop().await;
    }
    result
}

/// The load of every instance, shared between the data planes.
fn streams(scenario: &Scenario, planes: &[Plane]) -> Result<Vec<StreamSpec>, Failure> {
    let mut streams = Vec::new();
    let step = Duration::from_millis(scenario::STEP_MS);
    for name in Scenario::instances() {
        let per_request = scenario::WORK_US as f64 / 1_000.0;
        let share = per_request * planes.len() as f64;
        let rates: Vec<f64> = scenario
            .live(name)
            .into_iter()
            .map(|cpu| cpu / share)
            .collect();
        let curve = RateCurve::new(rates, step, After::Stop)
            .map_err(Failure::failed("make load from the trace"))?;
        for plane in planes {
            let mut stream = StreamSpec::get(
                format!("{}/{name}", plane.name),
                plane.listen,
                format!("svc-{name}"),
                "/work",
                curve.clone(),
            );
            stream.arrivals = Arrivals::Jittered;
            streams.push(stream);
        }
    }
    Ok(streams)
}

async fn drive(
    options: &DemoOptions,
    policy: Policy,
    scenario: &Scenario,
    control: &ControlPlane,
    planes: &[Plane],
    mut stopped: watch::Receiver<bool>,
) -> Result<Report, Failure> {
    let contended = scenario.contended_from();
    let began = Instant::now();
    let making = LoadSettings {
        seed: options.seed,
        max_in_flight: 2_048,
        ..LoadSettings::default()
    };
    let load = LoadGenerator::start(making, "before", streams(scenario, planes)?)
        .map_err(Failure::failed("make load"))?;
    let mut watching = report::Watching::new(policy, contended);
    // Looked at closely while something moves, so that requests are counted to their stage.
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ticks = 0_u32;
    let settings = crate::demo::scenario_settings(scenario, policy)?;
    loop {
        tokio::select! {
            biased;
            _ = stopped.changed() => break,
            () = load.finished() => break,
            _ = tick.tick() => {}
        }
        ticks += 1;
        if !watching.is_moving() && !ticks.is_multiple_of(5) {
            continue;
        }
        let now = store::Clock::now(&store::SystemClock);
        let status = status::read(&*control.store, &settings, now)
            .await
            .map_err(Failure::failed("read the status"))?;
        let seconds = began.elapsed().as_secs_f64();
        for line in watching.look(&status, seconds) {
            say(&line);
        }
        load.set_phase(&watching.label());
        draw(&status, seconds);
        if options.short && over(&status, options) {
            break;
        }
    }
    let snapshot = load.stop().await;
    let now = store::Clock::now(&store::SystemClock);
    let status = status::read(&*control.store, &settings, now)
        .await
        .map_err(Failure::failed("read the status"))?;
    for line in watching.look(&status, began.elapsed().as_secs_f64()) {
        say(&line);
    }
    Ok(watching.report(&snapshot, &status))
}

fn scenario_settings(scenario: &Scenario, policy: Policy) -> Result<migrator::Settings, Failure> {
    let page = ([127, 0, 0, 1], 0).into();
    Ok(scenario
        .config(Path::new("."), policy, None, page)?
        .migrator)
}

/// Whether what was to be shown has been: a move, or the roll-back of a bad shadow. A good shadow
/// that was rolled back (on a busy machine) is tried again after its rest.
fn over(status: &Status, options: &DemoOptions) -> bool {
    let wanted = match options.bad_shadow {
        Some(_) => Phase::RolledBack,
        None => Phase::Done,
    };
    let ended = |m: &status::MigrationStatus| m.migration.phase == wanted;
    status.migrations.iter().any(ended)
}

/// A line on the terminal; everything but the table goes to the standard error.
fn say(line: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    eprintln!("{line}");
}

/// The line that is drawn over and over.
fn draw(status: &Status, seconds: f64) {
    let hosts: Vec<_> = status
        .hosts
        .iter()
        .map(|host| {
            let risk = host
                .forecast
                .iter()
                .map(|band| band.risk)
                .fold(0.0, f64::max);
            let filled = (host.demand / host.capacity.max(1.0) * 20.0)
                .clamp(0.0, 20.0)
                .round();
            let bar: String = (0..20)
                .map(|i| if f64::from(i) < filled { '#' } else { '.' })
                .collect();
            format!(
                "{} [{bar}] {:>3.0}/{:.0} risk {:>3.0}%",
                host.id,
                host.demand,
                host.limit,
                risk * 100.0
            )
        })
        .collect();
    if !std::io::stderr().is_terminal() {
        return;
    }
    eprint!("\r\x1b[K{seconds:>4.0} s  {}", hosts.join("  "));
    // Only for the eye: a terminal that is gone is no failure.
    let _ = std::io::stderr().flush();
}
