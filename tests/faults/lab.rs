//! A whole system of real processes under constant load: one control plane or two, Redis or the
//! embedded store, a real Envoy, the proxy, six instances on two hosts, and a link that can be
//! made bad between every two of them.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use domain::{BasisPoints, MigrationId, Phase, Policy, RampPlan, RoutingState, Stage};
use foreshadow::client;
use foreshadow::config::Config;
use foreshadow::demo::planes::{Plane, find_envoy};
use foreshadow::demo::scenario::Scenario;
use foreshadow::http::Begun;
use foreshadow::load::LoadGenerator;
use foreshadow::status::{MigrationStatus, Status};
pub(crate) use foreshadow_tests::block_on;
use foreshadow_tests::{binary, processes, start_redis};
use migrator::JudgeSettings;
use migrator::driver::process::{ProcessConfig, ProcessDriver};
use store::{
    Address, Change, Kind, Opening, Persistence, RedisOptions, RedisStore, Store as _, Watch,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::control::Control;
use crate::history::{History, What};
use crate::link::Link;

/// The instance that moves.
pub(crate) const MOVED: &str = "a1";
/// How long leadership lasts without renewal, in milliseconds.
pub(crate) const LEASE_MS: u64 = 1_000;
/// Instances in all.
const INSTANCES: usize = 6;
/// Longest wait for a single answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Where state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A file of the one control plane.
    Embedded,
    /// A real Redis.
    Redis,
}

/// How a lab is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SetUp {
    pub(crate) backing: Backing,
    /// Control planes that run at the same time (Redis only).
    pub(crate) controls: usize,
    /// Requests a second, over both data planes.
    pub(crate) rate: u32,
}

/// Looks every 20 ms until something is so; `None` when it is not within so many milliseconds.
pub(crate) async fn within<T>(
    limit_ms: u64,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let limit = Instant::now() + Duration::from_millis(limit_ms);
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() > limit {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) struct Lab {
    pub(crate) set_up: SetUp,
    pub(crate) history: History,
    pub(crate) controls: Vec<Control>,
    /// From each control plane to Redis.
    pub(crate) to_store: Vec<Link>,
    /// From Envoy and from the proxy to the control plane.
    pub(crate) to_control: Vec<Link>,
    pub(crate) redis: Option<Redis>,
    planes: Vec<Plane>,
    load: Option<LoadGenerator>,
    watchers: Vec<JoinHandle<()>>,
    watching: Arc<AtomicBool>,
    /// A disk of the lab's own, to be unmounted at the end.
    pub(crate) mounted: Option<PathBuf>,
    pub(crate) folder: TempDir,
}

/// A Redis of the lab's own; it ends with it.
pub(crate) struct Redis {
    child: Child,
    folder: PathBuf,
    pub(crate) port: u16,
}

impl Redis {
    fn start(folder: &Path, port: u16) -> Self {
        let more = [
            "--appendfsync",
            "everysec",
            "--maxmemory-policy",
            "noeviction",
        ];
        let child = start_redis(folder, port, &more);
        Self {
            child,
            folder: folder.to_owned(),
            port,
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Kills it as a power cut would, and starts it again on what it kept.
    pub(crate) fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        *self = Self::start(&self.folder.clone(), self.port);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Free ports, apart from those of instances and of other labs on this machine.
struct Ports(u16);

impl Ports {
    fn new() -> Self {
        Self(28_000 + u16::try_from(std::process::id() % 3_000).unwrap_or(0))
    }

    fn next(&mut self) -> SocketAddr {
        loop {
            self.0 = if self.0 < 32_000 { self.0 + 1 } else { 28_000 };
            let address = SocketAddr::from(([127, 0, 0, 1], self.0));
            if TcpListener::bind(address).is_ok() {
                return address;
            }
        }
    }
}

impl Lab {
    /// Starts everything; `history` is added to the file of that name.
    pub(crate) async fn start(set_up: SetUp, history: &Path) -> Self {
        Self::start_with(set_up, history, |_| {}).await
    }

    /// The same, with something done before the first process starts.
    pub(crate) async fn start_with(
        set_up: SetUp,
        history: &Path,
        prepare: impl FnOnce(&mut Self),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let history = History::create(history);
        let mut ports = Ports::new();
        std::fs::create_dir_all(folder.path().join("shared/instances")).unwrap();
        let mut redis = None;
        if set_up.backing == Backing::Redis {
            let started = Redis::start(folder.path(), ports.next().port());
            let port = started.port;
            let answers = async || std::net::TcpStream::connect(("127.0.0.1", port)).ok();
            within(30_000, answers).await.expect("redis answers");
            redis = Some(started);
        }
        let (mut controls, mut to_store) = (Vec::new(), Vec::new());
        for name in ["one", "two"].into_iter().take(set_up.controls) {
            let mut config = config(folder.path(), name, ports.next(), ports.next());
            if let Some(redis) = &redis {
                let target = SocketAddr::from(([127, 0, 0, 1], redis.port));
                let link = Link::open(ports.next(), vec![target]).await;
                let choice = serde_json::json!({"redis": {"address": link.address.to_string()}});
                config.store = serde_json::from_value(choice).unwrap();
                to_store.push(link);
            }
            controls.push(Control::new(name, folder.path(), &config, history.clone()));
        }
        let targets: Vec<_> = controls.iter().map(|control| control.xds).collect();
        let to_control = vec![
            Link::open(ports.next(), targets.clone()).await,
            Link::open(ports.next(), targets).await,
        ];
        let mut lab = Self {
            set_up,
            history,
            controls,
            to_store,
            to_control,
            redis,
            planes: Vec::new(),
            load: None,
            watchers: Vec::new(),
            watching: Arc::new(AtomicBool::new(true)),
            mounted: None,
            folder,
        };
        prepare(&mut lab);
        lab.run().await;
        lab
    }

    async fn run(&mut self) {
        for index in 0..self.controls.len() {
            self.controls[index].start();
            self.answers(index).await;
        }
        let envoy = find_envoy(None).expect("Envoy is there: run deploy/setup");
        let folder = self.folder.path();
        self.planes = vec![
            Plane::envoy(&envoy, self.to_control[0].address, folder)
                .await
                .unwrap(),
            Plane::proxy(&binary(), self.to_control[1].address, folder)
                .await
                .unwrap(),
        ];
        if self.set_up.backing == Backing::Redis {
            self.follow().await;
        }
        self.watch_replicas();
        self.load = Some(load(&self.planes, self.set_up.rate));
    }

    /// Waits until a control plane answers. One that ends by itself (its store did not answer, say)
    /// is started again, as whoever supervises it would.
    pub(crate) async fn answers(&mut self, index: usize) {
        let limit = Instant::now() + Duration::from_mins(1);
        let mut ended = 0;
        while Instant::now() < limit {
            let control = &mut self.controls[index];
            let asked = tokio::time::timeout(ANSWER, client::get(control.page, "/healthz")).await;
            if matches!(asked, Ok(Ok(_))) {
                control.answers();
                return;
            }
            if let Some(status) = control.gave_up() {
                ended += 1;
                let words = control.last_words();
                let what = format!("{} ended at its start with {status}: {words}", control.name);
                println!("{what}");
                self.history.trouble(&what, true);
                if ended > 3 {
                    self.history.wrong(what);
                    return;
                }
                control.start();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let control = &self.controls[index];
        let words = control.last_words();
        self.history
            .wrong(format!("{} does not answer: {words}", control.name));
    }

    /// Follows the records in the store, past the links.
    async fn follow(&mut self) {
        let store = Arc::new(self.open_store().await);
        for kind in [
            Kind::Migration,
            Kind::Routing,
            Kind::Reservation,
            Kind::Instance,
            Kind::RoutingStatus,
        ] {
            let (watch, history) = (store.watch(kind), self.history.clone());
            let store = Arc::clone(&store);
            self.watchers.push(tokio::spawn(async move {
                record(kind, watch, &store, &history).await;
            }));
        }
    }

    pub(crate) async fn open_store(&self) -> RedisStore {
        let redis = self.redis.as_ref().expect("this lab has a Redis");
        let address = Address::Tcp("127.0.0.1".to_owned(), redis.port);
        let options = RedisOptions::new(Opening::Existing).persistence(Persistence::MayForget);
        RedisStore::open(address, options).await.unwrap()
    }

    fn watch_replicas(&self) {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let (history, watching) = (self.history.clone(), Arc::clone(&self.watching));
        std::thread::spawn(move || {
            let mut before = None;
            while watching.load(Ordering::Relaxed) {
                let tags = living(&folder);
                if before.as_ref() != Some(&tags) {
                    history.add(What::Alive { tags: tags.clone() });
                    before = Some(tags);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }

    /// What a control plane that answers says; the first one that does.
    pub(crate) async fn status(&mut self) -> Option<Status> {
        for index in 0..self.controls.len() {
            let control = &self.controls[index];
            if !control.runs() || control.stands() {
                continue;
            }
            let asked = client::get(control.page, "/api/status");
            let Ok(Ok(body)) = tokio::time::timeout(ANSWER, asked).await else {
                continue;
            };
            self.controls[index].answers();
            return Some(serde_json::from_slice(&body).unwrap());
        }
        None
    }

    /// Posts to the control planes until one takes it. The words of the last one otherwise.
    async fn post(&self, path: &str, body: &str) -> Result<Vec<u8>, String> {
        let mut last = "nobody answers".to_owned();
        for control in &self.controls {
            if !control.runs() || control.stands() {
                continue;
            }
            let asked = client::post(control.page, path, body.to_owned().into());
            match tokio::time::timeout(ANSWER, asked).await {
                Ok(Ok(answer)) => return Ok(answer.to_vec()),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => "no answer in time".clone_into(&mut last),
            }
        }
        Err(last)
    }

    /// Orders the moved instance to the other host.
    pub(crate) async fn order(&self, status: &Status) -> Result<MigrationId, String> {
        let on = |host: &&foreshadow::status::HostStatus| {
            host.instances.iter().any(|(name, _)| name == MOVED)
        };
        let host = status.hosts.iter().find(on).map(|host| host.id.to_string());
        let target = match host.as_deref() {
            Some("host-a") => "host-b",
            Some(_) => "host-a",
            None => return Err(format!("{MOVED} is on no host")),
        };
        let body = format!(r#"{{"instance":"{MOVED}","target":"{target}"}}"#);
        let answer = self.post("/api/moves", &body).await?;
        let begun: Begun = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        self.asked(&begun.migration, "move");
        Ok(begun.migration)
    }

    /// Says one word about a migration: `abort`, `retry` or `rollback`.
    pub(crate) async fn tell(&self, migration: &MigrationId, word: &str) -> Result<(), String> {
        let path = format!("/api/migrations/{migration}/{word}");
        self.post(&path, "").await?;
        self.asked(migration, word);
        Ok(())
    }

    fn asked(&self, migration: &MigrationId, word: &str) {
        self.history.add(What::Asked {
            migration: migration.to_string(),
            word: word.to_owned(),
        });
    }

    /// Asks for a fault at a place of the saga; whoever comes there first has it.
    pub(crate) fn arm(&self, signal: &str, place: &str) {
        let fresh = self.folder.path().join("fault.new");
        std::fs::write(&fresh, format!("{signal} {place}")).unwrap();
        std::fs::rename(fresh, self.folder.path().join("fault")).unwrap();
    }

    /// Takes it back; `false` when somebody has come there.
    pub(crate) fn disarm(&self) -> bool {
        std::fs::remove_file(self.folder.path().join("fault")).is_ok()
    }

    /// What is left of the migrations that are over; nothing when all is at rest.
    pub(crate) async fn left_over(&self, status: &Status) -> Option<String> {
        if let Some(left) = status.reservations.first() {
            return Some(format!("the reservation of {}", left.migration));
        }
        for routing in &status.routing {
            if routing.state != RoutingState::Applied {
                return Some(format!("a routing that is not applied: {routing:?}"));
            }
        }
        let asked = client::get(self.planes[0].admin, "/clusters");
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(Ok(text)) if !String::from_utf8_lossy(&text).contains('~') => {}
            Ok(Ok(_)) => return Some("a temporary cluster in Envoy".to_owned()),
            Ok(Err(_)) | Err(_) => return Some("no word from Envoy".to_owned()),
        }
        let table = client::get(self.planes[1].admin, "/table").await;
        if !table.is_ok_and(|text| !String::from_utf8_lossy(&text).contains('~')) {
            return Some("a temporary cluster in the proxy".to_owned());
        }
        let folders = std::fs::read_dir(self.instances().join("replicas")).unwrap();
        let mut folders: Vec<_> = folders
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        folders.sort();
        let living = living(&self.folder.path().to_string_lossy());
        if folders.len() != INSTANCES || living != folders {
            return Some(format!("folders {folders:?}, processes {living:?}"));
        }
        None
    }

    /// What Envoy routes by, without times and versions.
    pub(crate) async fn routes(&self) -> Option<String> {
        let path = "/config_dump?resource=dynamic_route_configs";
        let body = client::get(self.planes[0].admin, path).await.ok()?;
        let mut value: serde_json::Value = serde_json::from_slice(&body).ok()?;
        strip(&mut value);
        Some(blake3::hash(value.to_string().as_bytes()).to_hex()[..16].to_owned())
    }

    pub(crate) fn instances(&self) -> PathBuf {
        self.folder.path().join("shared/instances")
    }

    /// Notes what the clients have seen so far, and gives the number of requests that failed.
    pub(crate) fn requests(&self) -> u64 {
        let Some(load) = &self.load else { return 0 };
        let report = load.snapshot();
        let total = report.total();
        self.history.add(What::Requests {
            sent: total.sent,
            ok: total.ok,
            failed: total.failed.total(),
            shed: total.shed,
        });
        total.failed.total()
    }

    /// Ends everything, and looks for what is left of it. Gives the failures as the clients saw
    /// them.
    pub(crate) async fn end(mut self) -> Vec<String> {
        let mut failures = Vec::new();
        if let Some(load) = self.load.take() {
            let report = load.stop().await;
            let total = report.total();
            self.history.add(What::Requests {
                sent: total.sent,
                ok: total.ok,
                failed: total.failed.total(),
                shed: total.shed,
            });
            failures = report.failures.iter().map(|f| format!("{f:?}")).collect();
        }
        if self.set_up.backing == Backing::Redis {
            self.count_logs().await;
        }
        for control in &mut self.controls {
            control.end().await;
        }
        for plane in std::mem::take(&mut self.planes) {
            plane.stop().await;
        }
        self.watchers.iter().for_each(JoinHandle::abort);
        self.watching.store(false, Ordering::Relaxed);
        sweep(&self.instances()).await;
        self.redis = None;
        self.unmount();
        crate::leaks::look(self.folder.path(), &self.instances(), &self.history).await;
        failures
    }

    fn unmount(&mut self) {
        if let Some(disk) = self.mounted.take() {
            let _ = Command::new("umount").arg(disk).status();
        }
    }

    /// How many lines each migration's log has.
    async fn count_logs(&self) {
        let store = self.open_store().await;
        for record in store.list(Kind::Migration).await.unwrap() {
            let Ok(id) = MigrationId::new(record.key.id.clone()) else {
                continue;
            };
            let name = migrator::saga::log_name(&id);
            let lines = store.read_log(&name, 0, 100_000).await.unwrap().len() as u64;
            self.history.add(What::Log {
                migration: id.to_string(),
                lines,
                generation: record.generation.0,
            });
        }
    }
}

impl Drop for Lab {
    /// A run that fails leaves no process behind either.
    fn drop(&mut self) {
        self.watching.store(false, Ordering::Relaxed);
        if self.load.is_some() {
            self.controls.clear();
            let instances = self.instances();
            let _ = std::thread::spawn(move || block_on(sweep(&instances))).join();
        }
        self.unmount();
    }
}

/// Ends every instance.
async fn sweep(instances: &Path) {
    let config = ProcessConfig::new(instances.to_owned());
    let driver = ProcessDriver::open(config).unwrap();
    driver.cleanup_all().await.unwrap();
}

/// Writes every change of a kind down.
async fn record(kind: Kind, mut watch: Watch, store: &RedisStore, history: &History) {
    let put = |record: &store::Record| What::Record {
        kind: kind.name().to_owned(),
        id: record.key.id.clone(),
        generation: record.generation.0,
        value: serde_json::from_slice(&record.value).ok(),
    };
    while let Some(change) = watch.next().await {
        match change {
            Change::Put(record) => history.add(put(&record)),
            Change::Deleted(key) => history.add(What::Record {
                kind: kind.name().to_owned(),
                id: key.id,
                generation: 0,
                value: None,
            }),
            Change::Missed => {
                history.add(What::Missed {
                    kind: kind.name().to_owned(),
                });
                for record in store.list(kind).await.unwrap_or_default() {
                    history.add(put(&record));
                }
            }
        }
    }
}

/// The tags of the instances that live below a folder, from the processes' command lines.
pub(crate) fn living(folder: &str) -> Vec<String> {
    let state = format!("--state={folder}/shared/instances/replicas/");
    let mut tags = Vec::new();
    for command in processes(&state) {
        let rest = command.split_once(&state).map_or("", |(_, rest)| rest);
        tags.push(rest.split('/').next().unwrap_or_default().to_owned());
    }
    tags.sort();
    tags
}

/// Takes times and versions out.
fn strip(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            for name in ["last_updated", "version_info"] {
                fields.remove(name);
            }
            fields.values_mut().for_each(strip);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The phase of the newest migration that is not over.
pub(crate) fn active(status: &Status) -> Option<&MigrationStatus> {
    let newest = status.migrations.first()?;
    (!newest.migration.phase.is_over()).then_some(newest)
}

/// Whether a migration can be undone by hand now.
pub(crate) const fn may_abort(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Verifying | Phase::Mirroring | Phase::Ramping { .. } | Phase::Soaking
    )
}

/// The demo's hosts and instances, but nothing moves by itself, hosts have room for the load, and
/// everything is quick.
fn config(folder: &Path, name: &str, page: SocketAddr, xds: SocketAddr) -> Config {
    let shared = folder.join("shared");
    let scenario = Scenario::bundled().unwrap();
    let mut config = scenario.config(&shared, Policy::None, None, page).unwrap();
    // State of its own; the instances are everybody's.
    config.data = folder.join(name);
    std::fs::create_dir_all(&config.data).unwrap();
    std::os::unix::fs::symlink(shared.join("instances"), config.data.join("instances")).unwrap();
    config.xds = xds;
    config.report_ms = 100;
    config.step_ms = 1_000;
    for host in &mut config.hosts {
        host.capacity.cpu = Some(64_000.0);
        host.cpus.clear();
    }
    for placed in &mut config.instances {
        placed.spec.argv[0] = binary().to_string_lossy().into_owned();
    }
    let stages = [1_000, 5_000, 10_000].map(|share| Stage {
        shadow: BasisPoints::new(share).unwrap(),
        hold_ms: 300,
    });
    let settings = &mut config.migrator;
    settings.tick_ms = 500;
    settings.lease_ms = LEASE_MS;
    settings.cool_down_ms = 0;
    settings.retry_ms = 0;
    settings.drain_deadline_ms = 5_000;
    settings.ramp = RampPlan::new(stages.to_vec()).unwrap();
    settings.judge = JudgeSettings {
        min_requests: 5,
        mirror_ms: 300,
        deadline_ms: 60_000,
        // These runs are about faults, on a machine that is busy: nothing is too slow.
        slow_margin: 0.9,
        far_share: 0.95,
        prove_slow_margin: 1.0,
        prove_error_margin: 0.5,
        epoch_ms: 100,
        ..JudgeSettings::default()
    };
    config
}

/// Load through both data planes, most of it to the instance that moves. The requests are small: it
/// is their number and what becomes of them that counts.
fn load(planes: &[Plane], rate: u32) -> LoadGenerator {
    let each = f64::from(rate) / planes.len() as f64;
    let rates = [(MOVED, each * 0.95), ("b1", each * 0.05)];
    foreshadow_tests::load(planes, "/work?cost=0", &rates)
}
