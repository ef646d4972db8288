//! A whole system of real processes: the control plane (`foreshadow serve`), Envoy, the proxy, six
//! instances on two hosts, and load through both data planes that never stops.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;

use domain::{BasisPoints, MigrationId, NodeId, Phase, Policy, RampPlan, RoutingState, Stage};
use foreshadow::client;
use foreshadow::config::Config;
use foreshadow::demo::planes::{Plane, find_envoy, free_port};
use foreshadow::demo::scenario::Scenario;
use foreshadow::http::Begun;
use foreshadow::load::{LoadGenerator, LoadReport, LoadSettings};
pub(crate) use foreshadow::status::MigrationStatus as Newest;
use foreshadow::status::MigrationStatus;
use foreshadow::status::Status;
pub(crate) use foreshadow_tests::block_on;
use foreshadow_tests::{binary, processes, serve, start_redis};
use migrator::driver::process::{ProcessConfig, ProcessDriver};
use migrator::{AtDeadline, JudgeSettings};
use tempfile::TempDir;
use xds_server::authority::LocalAuthority;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_mins(1);
/// Requests a second and data plane to the instance that moves.
pub(crate) const RATE: u32 = 60;
/// The instance that moves.
pub(crate) const MOVED: &str = "a1";

/// Waits until something is so.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    foreshadow_tests::until(PATIENCE, what, look).await
}

pub(crate) struct Lab {
    folder: TempDir,
    config: Config,
    serve: Option<Child>,
    planes: Vec<Plane>,
    load: LoadGenerator,
    redis: Option<Redis>,
}

/// A Redis of the lab's own; it ends with it.
struct Redis(Child);

impl Redis {
    fn start(folder: &Path, port: u16) -> Self {
        Self(start_redis(folder, port, &[]))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Lab {
    /// Starts everything, and load on `a1` and `b1` through both data planes.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        Self::start_as(folder, config, None).await
    }

    /// The same with a Redis for the state.
    pub(crate) async fn start_on_redis() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        let port = next_port(config.xds);
        let redis = Redis::start(folder.path(), port);
        until("redis answers", async || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        let choice = serde_json::json!({"redis": {"address": format!("127.0.0.1:{port}")}});
        config.store = serde_json::from_value(choice).unwrap();
        Self::start_as(folder, config, Some(redis)).await
    }

    async fn start_as(folder: TempDir, config: Config, redis: Option<Redis>) -> Self {
        let text = serde_json::to_string_pretty(&config).unwrap();
        std::fs::write(folder.path().join("config.yaml"), text).unwrap();
        let serve = serve(folder.path(), None);
        ready(config.page).await;
        let envoy = find_envoy(None).expect("Envoy is there: run deploy/setup");
        // The authority that the control plane has made in its data folder signs for them.
        let authority = LocalAuthority::open(config.data.join("tls")).unwrap();
        let identity = |name: &str| Some(authority.node(&NodeId::new(name).unwrap()).unwrap());
        let planes = vec![
            Plane::envoy_as(&envoy, config.xds, folder.path(), identity("envoy"))
                .await
                .unwrap(),
            Plane::proxy_as(&binary(), config.xds, folder.path(), identity("proxy"))
                .await
                .unwrap(),
        ];
        let load = load(&planes);
        Self {
            folder,
            config,
            serve: Some(serve),
            planes,
            load,
            redis,
        }
    }

    /// Kills Redis as a power cut would, and starts it again on what it kept.
    pub(crate) fn restart_redis(&mut self) {
        let foreshadow::storage::StoreChoice::Redis(choice) = &self.config.store else {
            panic!("this lab has no Redis");
        };
        let port = choice.address.rsplit_once(':').unwrap().1.parse().unwrap();
        drop(self.redis.take());
        self.redis = Some(Redis::start(self.folder.path(), port));
    }

    /// Redis stands still: connections stay open, nothing is answered.
    pub(crate) fn signal_redis(&self, signal: rustix::process::Signal) {
        let redis = self.redis.as_ref().expect("this lab has a Redis");
        let pid = rustix::process::Pid::from_child(&redis.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) const fn page(&self) -> SocketAddr {
        self.config.page
    }

    pub(crate) fn data(&self) -> &Path {
        &self.config.data
    }

    /// Runs the command line against the control plane.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .args(arguments)
            .args(["--server", &self.page().to_string()])
            .output()
            .unwrap()
    }

    pub(crate) async fn status(&self) -> Option<Status> {
        let body = client::get(self.page(), "/api/status").await.ok()?;
        Some(serde_json::from_slice(&body).unwrap())
    }

    /// The host that the moved instance is on.
    pub(crate) async fn host(&self) -> String {
        let status = self.status().await.expect("the control plane answers");
        let on = |host: &&foreshadow::status::HostStatus| {
            host.instances.iter().any(|(name, _)| name == MOVED)
        };
        status.hosts.iter().find(on).unwrap().id.to_string()
    }

    /// Orders the moved instance to the other host. `None` when the control plane dies meanwhile.
    pub(crate) async fn order(&self) -> Option<MigrationId> {
        let target = match self.host().await.as_str() {
            "host-a" => "host-b",
            _ => "host-a",
        };
        let body = format!(r#"{{"instance":"{MOVED}","target":"{target}"}}"#);
        let answer = until("somebody leads", async || {
            match client::post(self.page(), "/api/moves", body.clone().into()).await {
                Ok(answer) => Some(Some(answer)),
                Err(error) if error.to_string().contains("not leading") => None,
                Err(_) => Some(None),
            }
        });
        let begun: Begun = serde_json::from_slice(&answer.await?).unwrap();
        Some(begun.migration)
    }

    pub(crate) async fn abort(&self, migration: &MigrationId) {
        let path = format!("/api/migrations/{migration}/abort");
        client::post(self.page(), &path, Vec::new().into())
            .await
            .unwrap();
    }

    /// Waits until the newest migration is as wanted.
    pub(crate) async fn newest(
        &self,
        what: &str,
        wanted: impl Fn(&MigrationStatus) -> bool,
    ) -> MigrationStatus {
        until(what, async || {
            let status = self.status().await?;
            status.migrations.into_iter().next().filter(&wanted)
        })
        .await
    }

    /// Kills the control plane, as a power cut would.
    pub(crate) fn kill(&mut self) {
        let mut serve = self.serve.take().unwrap();
        serve.kill().unwrap();
        serve.wait().unwrap();
    }

    /// Waits until the control plane has died by itself.
    pub(crate) async fn dies(&mut self, what: &str) {
        let serve = self.serve.as_mut().unwrap();
        let status = until(what, async || serve.try_wait().unwrap()).await;
        assert_eq!(status.code(), None, "{what}: it ended with {status}");
        self.serve = None;
    }

    /// Starts the control plane again; it dies at `crash_at`, if that is given.
    pub(crate) async fn restart(&mut self, crash_at: Option<&str>) {
        if let Some(serve) = self.serve.take() {
            stop(serve);
        }
        self.serve = Some(serve(self.folder.path(), crash_at));
        ready(self.page()).await;
    }

    pub(crate) fn sent(&self) -> u64 {
        self.load.snapshot().total().sent
    }

    /// Checks that no request has failed so far.
    pub(crate) fn lost_nothing(&self, after: &str) {
        let failures = self.load.snapshot().failures;
        assert!(
            failures.is_empty(),
            "{after}: {failures:#?}\n{}",
            self.last_words()
        );
    }

    /// The ends of the logs, for a test that fails.
    fn last_words(&self) -> String {
        let mut words = String::new();
        for name in ["serve.log", "proxy.log", "envoy.log"] {
            let log = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            let _ = writeln!(words, "--- {name}\n{}", last.join("\n"));
        }
        words
    }

    /// Checks that nothing of a migration is left: reservations, routes, clusters, processes,
    /// folders.
    pub(crate) async fn is_at_rest(&self, after: &str) {
        until(&format!("everything at rest after {after}"), async || {
            let status = self.status().await?;
            let applied = |r: &domain::RoutingStatus| r.state == RoutingState::Applied;
            let clusters = client::get(self.planes[0].admin, "/clusters").await.ok()?;
            let calm = status.reservations.is_empty()
                && status.routing.iter().all(applied)
                && !String::from_utf8_lossy(&clusters).contains('~');
            calm.then_some(())
        })
        .await;
        let replicas = self.config.data.join("instances/replicas");
        let folders: Vec<_> = std::fs::read_dir(replicas)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(folders.len(), 6, "after {after}: {folders:?}");
        let running = instances(&self.config.data.to_string_lossy());
        assert_eq!(running.len(), 6, "after {after}: {running:#?}");
    }

    /// Ends everything; gives what the clients saw.
    pub(crate) async fn end(mut self) -> LoadReport {
        let report = std::mem::replace(&mut self.load, idle()).stop().await;
        for plane in std::mem::take(&mut self.planes) {
            plane.stop().await;
        }
        if let Some(serve) = self.serve.take() {
            stop(serve);
        }
        sweep(&self.config.data).await;
        report
    }
}

impl Drop for Lab {
    /// A test that fails leaves no process behind either.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
        }
        if let Some(mut serve) = self.serve.take() {
            let _ = serve.kill();
            let _ = serve.wait();
            let data = self.config.data.clone();
            let sweeping = std::thread::spawn(move || block_on(sweep(&data)));
            let _ = sweeping.join();
        }
    }
}

/// Command lines of the instances that run below a folder.
fn instances(folder: &str) -> Vec<String> {
    let mut found = processes(folder);
    found.retain(|command| command.contains(" workload "));
    found
}

async fn sweep(data: &Path) {
    let config = ProcessConfig::new(data.join("instances"));
    let driver = ProcessDriver::open(config).unwrap();
    driver.cleanup_all().await.unwrap();
}

fn stop(mut serve: Child) {
    let pid = rustix::process::Pid::from_child(&serve);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = serve.wait().unwrap();
    assert!(status.success(), "asked to stop, it ended with {status}");
}

async fn ready(page: SocketAddr) {
    until("the control plane answers", async || {
        client::get(page, "/healthz").await.ok()
    })
    .await;
}

/// The demo's hosts and instances, but nothing moves by itself, and everything is quick.
fn config(folder: &Path) -> Config {
    let page = free_port().unwrap();
    let data: PathBuf = folder.join("data");
    let scenario = Scenario::bundled().unwrap();
    let mut config = scenario.config(&data, Policy::None, None, page).unwrap();
    config.xds = SocketAddr::from(([127, 0, 0, 1], next_port(page)));
    config.report_ms = 100;
    config.step_ms = 500;
    for placed in &mut config.instances {
        placed.spec.argv[0] = binary().to_string_lossy().into_owned();
        for argument in &mut placed.spec.argv {
            if argument.starts_with("--work-us=") {
                "--work-us=500".clone_into(argument);
            }
        }
    }
    let stages = [1_000, 5_000, 10_000].map(|share| Stage {
        shadow: BasisPoints::new(share).unwrap(),
        hold_ms: 300,
    });
    let settings = &mut config.migrator;
    settings.tick_ms = 200;
    settings.lease_ms = 1_000;
    settings.cool_down_ms = 0;
    settings.drain_deadline_ms = 5_000;
    settings.ramp = RampPlan::new(stages.to_vec()).unwrap();
    settings.judge = JudgeSettings {
        min_requests: 5,
        mirror_ms: 500,
        deadline_ms: 30_000,
        // Several suites share two processors: these tests are about faults, not about slowness.
        slow_margin: 0.9,
        stall_margin: 0.9,
        at_deadline: AtDeadline::RollBack,
        far_share: 0.95,
        prove_slow_margin: 1.0,
        prove_error_margin: 0.5,
        epoch_ms: 100,
        ..JudgeSettings::default()
    };
    config
}

pub(crate) fn next_port(after: SocketAddr) -> u16 {
    (after.port() + 1..32_700)
        .find(|&port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok())
        .unwrap()
}

fn load(planes: &[Plane]) -> LoadGenerator {
    let rates = [(MOVED, f64::from(RATE)), ("b1", 5.0)];
    foreshadow_tests::load(planes, "/work", &rates)
}

fn idle() -> LoadGenerator {
    LoadGenerator::start(LoadSettings::default(), "none", Vec::new()).unwrap()
}

/// No request failed, and enough flowed through both data planes to mean something.
pub(crate) fn nothing_was_lost(report: &LoadReport, at_least: u64) {
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
    for (name, stream) in &report.streams {
        let total = stream.total();
        assert_eq!(
            (total.failed.total(), total.shed),
            (0, 0),
            "{name}: {total:#?}"
        );
        if name.ends_with(MOVED) {
            assert!(
                total.ok >= at_least,
                "only {} requests through {name}",
                total.ok
            );
        }
    }
}

/// The phase is final and not parked.
pub(crate) fn is_over(status: &MigrationStatus) -> bool {
    assert_ne!(status.migration.phase, Phase::Parked, "{status:#?}");
    status.migration.phase.is_final()
}
