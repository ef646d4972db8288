//! Control planes of real processes on one Redis, and instances on two hosts. No data plane and no
//! load: a migration stands in its ramp until it is told otherwise, which is what these tests need.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use domain::{BasisPoints, Migration, MigrationId, Phase, Policy, RampPlan, Stage};
use foreshadow::client;
use foreshadow::config::Config;
use foreshadow::demo::scenario::Scenario;
use foreshadow::http::Begun;
use foreshadow::status::Status;
pub(crate) use foreshadow_tests::block_on;
use foreshadow_tests::{binary, start_redis};
use migrator::JudgeSettings;
use migrator::driver::Driver as _;
use migrator::driver::process::{ProcessConfig, ProcessDriver};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest wait for anything: machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(90);
/// The leases of these tests.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// Waits until something is so.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    foreshadow_tests::until(PATIENCE, what, look).await
}

/// A port that was free a moment ago; no two calls of a process give the same.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 500).unwrap() * 4;
    (0..2_000)
        .map(|_| 30_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 2_500)
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("a free port")
}

/// A process that ends with its owner.
pub(crate) struct Owned(Child);

impl Owned {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().unwrap()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A Redis with a folder of its own.
pub(crate) struct Redis {
    folder: PathBuf,
    pub(crate) port: u16,
    more: Vec<String>,
    pub(crate) process: Option<Owned>,
}

impl Redis {
    pub(crate) async fn start(folder: &Path, more: &[&str]) -> Self {
        let mut redis = Self {
            folder: folder.to_owned(),
            port: free_port(),
            more: more.iter().map(|&word| word.to_owned()).collect(),
            process: None,
        };
        redis.again().await;
        redis
    }

    /// Starts it on what it has kept.
    pub(crate) async fn again(&mut self) {
        let more: Vec<_> = self.more.iter().map(String::as_str).collect();
        let child = start_redis(&self.folder, self.port, &more);
        self.process = Some(Owned(child));
        until("Redis answers", async || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        })
        .await;
    }

    /// Runs a command as somebody with all rights.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(words)
            .output()
            .expect("redis-cli is there: run deploy/setup");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Who holds a lease, and in which epoch.
    pub(crate) fn lease(&self, name: &str) -> Option<(String, u64)> {
        let text = self.command(&["HGET", "{foreshadow}:leases", name]);
        let mut parts = text.trim().split('|').skip(1);
        let epoch = parts.next()?.parse().ok()?;
        let holder = parts.nth(1)?.to_owned();
        (!holder.is_empty()).then_some((holder, epoch))
    }
}

/// One control plane.
pub(crate) struct Plane {
    pub(crate) config: Config,
    file: PathBuf,
    pub(crate) process: Option<Owned>,
    /// The network namespace in which it runs, if not that of the tests.
    pub(crate) namespace: Option<String>,
}

impl Plane {
    /// The name under which it holds leases.
    pub(crate) fn holder(&self) -> String {
        let process = self.process.as_ref().expect("it runs");
        format!("migrator-{}", process.0.id())
    }

    pub(crate) async fn start(&mut self) {
        self.spawn();
        until("the control plane answers", async || {
            client::get(self.config.page, "/healthz").await.ok()
        })
        .await;
    }

    /// The program, where this control plane lives.
    fn program(&self) -> Command {
        let Some(namespace) = &self.namespace else {
            return Command::new(binary());
        };
        // Not `ip netns exec`: that hides the control groups.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}"));
        command.arg(binary());
        command
    }

    pub(crate) fn spawn(&mut self) {
        std::fs::create_dir_all(&self.config.data).unwrap();
        std::fs::write(
            &self.file,
            serde_json::to_string_pretty(&self.config).unwrap(),
        )
        .unwrap();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.file.with_extension("log"))
            .unwrap();
        let child = self
            .program()
            .args(["serve", "--config"])
            .arg(&self.file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(Owned(child));
    }

    /// Starts it although it will not come up: its exit code and last words.
    pub(crate) async fn refuses(&mut self) -> (Option<i32>, String) {
        let log = self.file.with_extension("log");
        let _ = std::fs::remove_file(&log);
        self.spawn();
        let process = self.process.as_mut().unwrap();
        let status = until("it ends by itself", async || process.ended()).await;
        self.process = None;
        let words = std::fs::read_to_string(log).unwrap();
        (status.code(), words)
    }

    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        self.program()
            .args(arguments)
            .args(["--server", &self.config.page.to_string()])
            .output()
            .unwrap()
    }

    pub(crate) async fn status(&self) -> Option<Status> {
        let body = client::get(self.config.page, "/api/status").await.ok()?;
        Some(serde_json::from_slice(&body).unwrap())
    }

    /// What is wrong, in its own words; empty when it is ready.
    pub(crate) async fn troubles(&self) -> String {
        match client::get(self.config.page, "/readyz").await {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    /// Waits until it says that this is wrong.
    pub(crate) async fn is_red(&self, words: &str) -> String {
        until(&format!("readiness is red: {words}"), async || {
            let troubles = self.troubles().await;
            troubles.contains(words).then_some(troubles)
        })
        .await
    }

    pub(crate) async fn is_ready(&self) {
        let mut last = String::new();
        let limit = Instant::now() + PATIENCE;
        while Instant::now() < limit {
            last = self.troubles().await;
            if last.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it is never ready: {last}");
    }

    /// Orders a move; waits until somebody leads.
    pub(crate) async fn order(&self, instance: &str, target: &str) -> MigrationId {
        let body = format!(r#"{{"instance":"{instance}","target":"{target}"}}"#);
        let answer = until("somebody leads", async || {
            let sent = client::post(self.config.page, "/api/moves", body.clone().into()).await;
            match sent {
                Ok(answer) => Some(answer),
                Err(error) if error.to_string().contains("not leading") => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await;
        let begun: Begun = serde_json::from_slice(&answer).unwrap();
        begun.migration
    }

    /// Waits until a migration is as wanted.
    pub(crate) async fn sees(
        &self,
        what: &str,
        id: &MigrationId,
        wanted: impl Fn(&Migration) -> bool,
    ) -> Migration {
        until(what, async || {
            let status = self.status().await?;
            let mut all = status.migrations.into_iter().map(|m| m.migration);
            all.find(|m| m.id == *id).filter(&wanted)
        })
        .await
    }
}

/// It has been split off, and waits for requests that never come.
pub(crate) fn waits(migration: &Migration) -> bool {
    matches!(migration.phase, Phase::Mirroring | Phase::Ramping { .. })
}

/// Everything.
pub(crate) struct Lab {
    pub(crate) folder: TempDir,
    pub(crate) redis: Redis,
    pub(crate) planes: Vec<Plane>,
}

impl Lab {
    /// A Redis, and control planes that share it and the instances; none runs yet.
    pub(crate) async fn new(planes: usize, change: impl Fn(&mut Config)) -> Self {
        Self::on(&[], planes, change).await
    }

    /// The same, on a Redis that is told more.
    pub(crate) async fn on(redis: &[&str], planes: usize, change: impl Fn(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let redis = Redis::start(folder.path(), redis).await;
        let planes = (0..planes)
            .map(|number| {
                let mut config = config(folder.path(), number, redis.port);
                change(&mut config);
                Plane {
                    file: folder.path().join(format!("serve-{number}.yaml")),
                    config,
                    process: None,
                    namespace: None,
                }
            })
            .collect();
        Self {
            folder,
            redis,
            planes,
        }
    }

    /// The same, and all run.
    pub(crate) async fn started(planes: usize, change: impl Fn(&mut Config)) -> Self {
        let mut lab = Self::new(planes, change).await;
        for plane in &mut lab.planes {
            plane.start().await;
        }
        lab
    }

    /// The control plane that holds the lease, once one does.
    pub(crate) async fn leader(&self) -> usize {
        until("somebody leads", async || {
            let (holder, _) = self.redis.lease("migrator/default")?;
            self.planes
                .iter()
                .position(|plane| plane.process.is_some() && plane.holder() == holder)
        })
        .await
    }

    /// What the driver keeps, by tag, and whether it runs.
    pub(crate) async fn kept(&self) -> Vec<(String, bool)> {
        let driver = ProcessDriver::open(ProcessConfig::new(self.replicas())).unwrap();
        let list = driver.list().await.unwrap();
        list.into_iter()
            .map(|found| (found.tag, found.running.is_some()))
            .collect()
    }

    pub(crate) fn replicas(&self) -> PathBuf {
        self.folder.path().join("replicas")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for plane in &self.planes {
                let log = std::fs::read_to_string(plane.file.with_extension("log"));
                let log = log.unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(40)..];
                eprintln!("--- {}\n{}", plane.file.display(), last.join("\n"));
            }
        }
        self.planes.clear();
        let replicas = self.replicas();
        let sweeping = std::thread::spawn(move || {
            block_on(async {
                let driver = ProcessDriver::open(ProcessConfig::new(replicas)).unwrap();
                driver.cleanup_all().await.unwrap();
            });
        });
        let _ = sweeping.join();
    }
}

/// Two instances of the demo on two hosts; nothing moves by itself.
fn config(folder: &Path, number: usize, redis: u16) -> Config {
    let page = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let data = folder.join(format!("data-{number}"));
    let scenario = Scenario::bundled().unwrap();
    let mut config = scenario.config(&data, Policy::None, None, page).unwrap();
    config.replicas = Some(folder.join("replicas"));
    config.xds = SocketAddr::from(([127, 0, 0, 1], free_port()));
    config.step_ms = 1_000;
    let choice = serde_json::json!({"redis": {"address": format!("127.0.0.1:{redis}")}});
    config.store = serde_json::from_value(choice).unwrap();
    config
        .instances
        .retain(|placed| ["a1", "b1"].contains(&placed.spec.id.as_str()));
    for placed in &mut config.instances {
        placed.spec.argv[0] = binary().to_string_lossy().into_owned();
    }
    let stages = [1_000, 10_000].map(|share| Stage {
        shadow: BasisPoints::new(share).unwrap(),
        hold_ms: 300,
    });
    let settings = &mut config.migrator;
    settings.tick_ms = 500;
    settings.lease_ms = u64::try_from(LEASE.as_millis()).unwrap();
    settings.cool_down_ms = 0;
    settings.retry_ms = 0;
    settings.drain_deadline_ms = 2_000;
    settings.ramp = RampPlan::new(stages.to_vec()).unwrap();
    settings.judge = JudgeSettings {
        mirror_ms: 300,
        ..JudgeSettings::default()
    };
    config
}
