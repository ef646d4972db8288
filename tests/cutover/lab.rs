//! Real cut-overs: the real control plane, the real proxy, two hosts, a single writer as a process,
//! and clients that write and read all the time and keep what they saw.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::{BasisPoints, ConsistencyClass, MigrationId, NodeId, Phase, Policy, RampPlan, Stage};
use foreshadow::client;
use foreshadow::config::Config;
use foreshadow::demo::planes::{Plane, free_port};
use foreshadow::demo::scenario::Scenario;
use foreshadow::http::Begun;
use foreshadow::status::{MigrationStatus, Status};
use foreshadow_tests::{binary, serve};
use migrator::driver::process::{ProcessConfig, ProcessDriver};
use migrator::{JudgeSettings, pairs::PairSettings};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use xds_server::authority::LocalAuthority;

use super::history::{Did, Op};

const PATIENCE: Duration = Duration::from_mins(1);
const INSTANCE: &str = "a1";
const SERVICE: &str = "svc-a1";
/// Clients; each works on one of the keys: even ones are registers, odd ones counters.
const CLIENTS: u64 = 8;
const KEYS: u64 = 4;

/// Waits until something is so.
async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    foreshadow_tests::until(PATIENCE, what, look).await
}

/// Labs are alone: the ports of one that restarts its control plane are not another's.
pub(crate) fn turn() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What the clients share.
struct Watch {
    began: Instant,
    stop: AtomicBool,
    value: AtomicU64,
    /// Writes that were acknowledged.
    written: AtomicU64,
    history: Mutex<Vec<Op>>,
    failed: Mutex<Vec<String>>,
    /// Longest that a write took, in microseconds, since it was last taken.
    longest: AtomicU64,
}

impl Watch {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }
}

pub(crate) struct Lab {
    folder: TempDir,
    config: Config,
    serve: Option<Child>,
    proxy: Option<Plane>,
    watch: Arc<Watch>,
    clients: Vec<JoinHandle<()>>,
}

impl Lab {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        write_config(folder.path(), &config);
        let serve = serve(folder.path(), None);
        ready(config.page).await;
        // The authority that the control plane has made in its data folder signs for it.
        let authority = LocalAuthority::open(config.data.join("tls")).unwrap();
        let identity = authority.node(&NodeId::new("proxy").unwrap()).unwrap();
        let proxy = Plane::proxy_as(&binary(), config.xds, folder.path(), Some(identity))
            .await
            .unwrap();
        let watch = Arc::new(Watch {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            value: AtomicU64::new(1),
            written: AtomicU64::new(0),
            history: Mutex::default(),
            failed: Mutex::default(),
            longest: AtomicU64::new(0),
        });
        let clients = (0..CLIENTS)
            .map(|number| tokio::spawn(client_loop(Arc::clone(&watch), proxy.listen, number)))
            .collect();
        Self {
            folder,
            config,
            serve: Some(serve),
            proxy: Some(proxy),
            watch,
            clients,
        }
    }

    /// Waits for so many more writes of all clients.
    pub(crate) async fn has_written(&self, more: u64) {
        let written = || self.watch.written.load(Ordering::SeqCst);
        let wanted = written() + more;
        until("writes come through", async || {
            (written() >= wanted).then_some(())
        })
        .await;
    }

    async fn status(&self) -> Option<Status> {
        let body = client::get(self.config.page, "/api/status").await.ok()?;
        serde_json::from_slice(&body).ok()
    }

    /// Moves the writer to the other host. Gives how the migration ended, and the longest time that
    /// a write took meanwhile.
    pub(crate) async fn cut_over(&mut self, crash_at: Option<&str>) -> (MigrationStatus, Duration) {
        if crash_at.is_some() {
            self.restart(crash_at).await;
        }
        self.watch.longest.store(0, Ordering::SeqCst);
        let id = self.begin().await;
        self.end_of(&id, crash_at).await
    }

    /// Moves the writer, and changes its mind when the shadow has taken writes.
    pub(crate) async fn cut_over_and_abort(&mut self) -> MigrationStatus {
        let id = self.begin().await;
        until("the soak", async || {
            let soaks = |one: &MigrationStatus| one.migration.phase == Phase::Soaking;
            self.migration(&id).await.filter(soaks)
        })
        .await;
        self.has_written(21).await;
        let path = format!("/api/migrations/{id}/abort");
        client::post(self.config.page, &path, Vec::new().into())
            .await
            .unwrap();
        self.end_of(&id, None).await.0
    }

    /// Another configuration, and a control plane that starts with it.
    pub(crate) async fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        write_config(self.folder.path(), &self.config);
        self.restart(None).await;
    }

    /// The host that the writer is on by the records.
    pub(crate) async fn host(&self) -> String {
        let status = until("somebody answers", async || self.status().await).await;
        let on = |host: &&foreshadow::status::HostStatus| {
            host.instances.iter().any(|(name, _)| name == INSTANCE)
        };
        status.hosts.iter().find(on).unwrap().id.to_string()
    }

    async fn migration(&self, id: &MigrationId) -> Option<MigrationStatus> {
        let status = self.status().await?;
        let mut all = status.migrations.into_iter();
        all.find(|one| one.migration.id == *id)
    }

    /// Orders a move to the other host.
    async fn begin(&self) -> MigrationId {
        let at = self.host().await;
        let target = if at == "host-a" { "host-b" } else { "host-a" };
        let body = format!(r#"{{"instance":"{INSTANCE}","target":"{target}"}}"#);
        let page = self.config.page;
        let answer = until("somebody leads", async || {
            client::post(page, "/api/moves", body.clone().into())
                .await
                .ok()
        })
        .await;
        serde_json::from_slice::<Begun>(&answer).unwrap().migration
    }

    async fn end_of(
        &mut self,
        id: &MigrationId,
        crash_at: Option<&str>,
    ) -> (MigrationStatus, Duration) {
        let limit = Instant::now() + PATIENCE;
        loop {
            if crash_at.is_some() && self.serve.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.restart(None).await;
            }
            let is_final = |one: &MigrationStatus| one.migration.phase.is_final();
            if let Some(ended) = self.migration(id).await.filter(is_final) {
                let longest = self.watch.longest.swap(0, Ordering::SeqCst);
                return (ended, Duration::from_micros(longest));
            }
            assert!(Instant::now() < limit, "no end: {}", self.last_words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn restart(&mut self, crash_at: Option<&str>) {
        if let Some(mut serve) = self.serve.take() {
            let _ = serve.kill();
            serve.wait().unwrap();
        }
        self.serve = Some(serve(self.folder.path(), crash_at));
        ready(self.config.page).await;
    }

    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Ends everything. Gives what clients saw, and what was not answered as it should be.
    pub(crate) async fn end(mut self) -> (Vec<Op>, Vec<String>) {
        self.watch.stop.store(true, Ordering::SeqCst);
        for client in std::mem::take(&mut self.clients) {
            client.await.unwrap();
        }
        if let Some(proxy) = self.proxy.take() {
            proxy.stop().await;
        }
        self.sweep().await;
        let history = std::mem::take(&mut *self.watch.history.lock().unwrap());
        let failed = std::mem::take(&mut *self.watch.failed.lock().unwrap());
        (history, failed)
    }

    async fn sweep(&mut self) {
        if let Some(mut serve) = self.serve.take() {
            let _ = serve.kill();
            let _ = serve.wait();
        }
        let driver = ProcessConfig::new(self.config.data.join("instances"));
        ProcessDriver::open(driver)
            .unwrap()
            .cleanup_all()
            .await
            .unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.watch.stop.store(true, Ordering::SeqCst);
        if let Some(mut serve) = self.serve.take() {
            let _ = serve.kill();
            let _ = serve.wait();
            let data = self.config.data.clone();
            let sweeping = std::thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(async {
                    let driver = ProcessConfig::new(data.join("instances"));
                    let _ = ProcessDriver::open(driver).unwrap().cleanup_all().await;
                });
            });
            let _ = sweeping.join();
        }
    }
}

/// The migration is over and everything is on the other host.
pub(crate) fn is_done(status: &MigrationStatus) -> bool {
    status.migration.phase == Phase::Done
}

async fn client_loop(watch: Arc<Watch>, proxy: SocketAddr, number: u64) {
    let key = number % KEYS;
    let counts = key % 2 == 1;
    let path = if counts { "counters" } else { "items" };
    let mut stream = None;
    let mut turn = number;
    while !watch.stop.load(Ordering::SeqCst) {
        turn += 1;
        let write = turn.is_multiple_of(2);
        let value = watch.value.fetch_add(1, Ordering::SeqCst) + 1;
        let request = if write {
            let body = if counts {
                "1".to_owned()
            } else {
                value.to_string()
            };
            let length = body.len();
            format!(
                "POST /{path}/k{key} HTTP/1.1\r\nhost: {SERVICE}\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        } else {
            format!("GET /{path}/k{key}?cost=0 HTTP/1.1\r\nhost: {SERVICE}\r\n\r\n")
        };
        let changed = if counts {
            Did::Added
        } else {
            Did::Wrote(value)
        };
        let saw = |number| {
            if counts {
                Did::Counted(number)
            } else {
                Did::Read(number)
            }
        };
        let begun = watch.now();
        let answer = exchange(&mut stream, proxy, request.as_bytes()).await;
        let ended = watch.now();
        let note = |did, ended| {
            let op = Op {
                key,
                did,
                begun,
                ended,
            };
            watch.history.lock().unwrap().push(op);
        };
        match (&answer, write) {
            (Ok((200, _)), true) => {
                watch.longest.fetch_max(ended - begun, Ordering::SeqCst);
                watch.written.fetch_add(1, Ordering::SeqCst);
                note(changed, Some(ended));
            }
            (Ok((200, body)), false) => {
                let body: serde_json::Value = serde_json::from_slice(body).unwrap();
                let seen = body["value"].as_str().unwrap().parse().unwrap();
                note(saw(seen), Some(ended));
            }
            (Ok((404, _)), false) => note(saw(0), Some(ended)),
            (Ok((status, body)), _) => {
                let text = String::from_utf8_lossy(body).trim().to_owned();
                watch
                    .failed
                    .lock()
                    .unwrap()
                    .push(format!("{status}: {text}"));
                // What says that nothing was done was not done.
                if write && !text.contains("nothing was done") && !text.contains("held") {
                    note(changed, None);
                }
            }
            (Err(error), _) => {
                watch.failed.lock().unwrap().push(error.clone());
                stream = None;
                if write {
                    note(changed, None);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One request on a connection that is kept.
async fn exchange(
    stream: &mut Option<TcpStream>,
    to: SocketAddr,
    request: &[u8],
) -> Result<(u16, Vec<u8>), String> {
    let text = |error: std::io::Error| error.to_string();
    if stream.is_none() {
        let fresh = TcpStream::connect(to).await.map_err(text)?;
        fresh.set_nodelay(true).map_err(text)?;
        *stream = Some(fresh);
    }
    let open = stream.as_mut().unwrap();
    open.write_all(request).await.map_err(text)?;
    let mut buffer = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let read = open.read(&mut chunk).await.map_err(text)?;
        if read == 0 {
            return Err("the connection was closed".to_owned());
        }
        buffer.extend_from_slice(&chunk[..read]);
        let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let lines = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let status = lines.split(' ').nth(1).and_then(|word| word.parse().ok());
        let length = lines
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|length| length.trim().parse::<usize>().ok())
            .unwrap_or(0);
        if buffer.len() < head + 4 + length {
            continue;
        }
        if lines.contains("connection: close") {
            *stream = None;
        }
        let body = buffer[head + 4..head + 4 + length].to_vec();
        return Ok((status.ok_or("no status")?, body));
    }
}

fn write_config(folder: &Path, config: &Config) {
    let text = serde_json::to_string_pretty(config).unwrap();
    std::fs::write(folder.join("config.yaml"), text).unwrap();
}

async fn ready(page: SocketAddr) {
    until("the control plane answers", async || {
        client::get(page, "/healthz").await.ok()
    })
    .await;
}

/// Two hosts and one single writer; nothing moves by itself, and everything is quick.
fn config(folder: &Path) -> Config {
    let page = free_port().unwrap();
    let data: PathBuf = folder.join("data");
    let scenario = Scenario::bundled().unwrap();
    let mut config = scenario.config(&data, Policy::None, None, page).unwrap();
    let next = (page.port() + 1..32_700)
        .find(|&port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok())
        .unwrap();
    config.xds = SocketAddr::from(([127, 0, 0, 1], next));
    config.report_ms = 100;
    config.step_ms = 500;
    config
        .services
        .retain(|service| service.id.as_str() == SERVICE);
    config
        .instances
        .retain(|placed| placed.spec.id.as_str() == INSTANCE);
    let spec = &mut config.instances[0].spec;
    spec.class = ConsistencyClass::SingleWriter;
    spec.hooks.writer = Some("/foreshadow/writer".to_owned());
    spec.argv[0] = binary().to_string_lossy().into_owned();
    spec.argv
        .retain(|argument| !argument.starts_with("--journal="));
    for argument in &mut spec.argv {
        if argument.starts_with("--work-us=") {
            "--work-us=200".clone_into(argument);
        }
    }
    let settings = &mut config.migrator;
    settings.tick_ms = 200;
    settings.lease_ms = 1_000;
    settings.cool_down_ms = 0;
    settings.drain_deadline_ms = 5_000;
    settings.limits.freeze_ms = 10_000;
    let all = Stage {
        shadow: BasisPoints::ALL,
        hold_ms: 300,
    };
    settings.ramp = RampPlan::new(vec![all]).unwrap();
    settings.judge = JudgeSettings {
        min_requests: 5,
        mirror_ms: 500,
        deadline_ms: 30_000,
        // Several suites share two processors: this is not about slowness.
        slow_margin: 0.9,
        far_share: 0.95,
        prove_slow_margin: 1.0,
        prove_error_margin: 0.5,
        epoch_ms: 100,
        ..JudgeSettings::default()
    };
    settings.pairs = PairSettings {
        min_pairs: 5,
        // Slowness of a shared machine, again.
        slow_ratio: 10.0,
        ..PairSettings::default()
    };
    config
}
