//! What the cross-component tests share: the real binary, and what it reports.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use foreshadow::demo::planes::Plane;
use foreshadow::load::{After, LoadGenerator, LoadSettings, RateCurve, StreamSpec};

/// The `foreshadow` binary that was built beside this test.
///
/// # Panics
/// When it is not there: `make test` builds it first.
#[expect(
    clippy::panic,
    reason = "a test harness says what is missing by failing"
)]
pub fn binary() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    // target/debug/deps/<test> → target/debug/foreshadow
    let found = here
        .ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join("foreshadow"))
        .find(|file| file.is_file());
    match found {
        Some(file) => file,
        None => panic!(
            "no foreshadow binary beside {}: run `make test`",
            here.display()
        ),
    }
}

/// Looks every few milliseconds until something is so.
///
/// # Panics
/// When it is not so within `patience`.
pub async fn until<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let limit = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < limit, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Command lines of running processes that name something.
///
/// # Panics
/// When `/proc` cannot be read.
#[expect(
    clippy::expect_used,
    reason = "a test harness says what is missing by failing"
)]
pub fn processes(named: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    entries
        .flatten()
        .map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default())
        .map(|command| String::from_utf8_lossy(&command).replace('\0', " "))
        .filter(|command| command.contains(named))
        .collect()
}

/// Runs asynchronous work to its end, on two threads.
///
/// # Panics
/// When no runtime can be built.
#[expect(
    clippy::expect_used,
    reason = "a test harness says what is missing by failing"
)]
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// Starts a Redis on loopback that keeps what it acknowledges in `folder`. `more` is handed on to
/// it and may contradict what is set here.
///
/// # Panics
/// When `redis-server` is not installed.
#[expect(
    clippy::expect_used,
    reason = "a test harness says what is missing by failing"
)]
pub fn start_redis(folder: &Path, port: u16, more: &[&str]) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        .args(["--save", ""])
        .args(more)
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is there: run deploy/setup")
}

/// Steady load through every data plane: `path` of each instance, at so many requests a second.
/// Streams are named `<plane>/<instance>`.
///
/// # Panics
/// When a rate is not one.
#[expect(
    clippy::expect_used,
    reason = "a test harness says what is wrong by failing"
)]
pub fn load(planes: &[Plane], path: &str, rates: &[(&str, f64)]) -> LoadGenerator {
    let mut streams = Vec::new();
    for plane in planes {
        for &(name, rate) in rates {
            let curve = RateCurve::new(vec![rate], Duration::from_secs(1), After::KeepLast);
            streams.push(StreamSpec::get(
                format!("{}/{name}", plane.name),
                plane.listen,
                format!("svc-{name}"),
                path,
                curve.expect("a rate"),
            ));
        }
    }
    LoadGenerator::start(LoadSettings::default(), "all", streams).expect("a load generator")
}

/// Starts a control plane on `config.yaml` of a folder, with its log beside that; it ends itself at
/// `crash_at`, a step and its moment, if there is one.
///
/// # Panics
/// When it cannot be started.
#[expect(
    clippy::expect_used,
    reason = "a test harness says what is missing by failing"
)]
pub fn serve(folder: &Path, crash_at: Option<&str>) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("serve.log"))
        .expect("a log");
    let mut command = Command::new(binary());
    command
        .args(["serve", "--config"])
        .arg(folder.join("config.yaml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    if let Some(crash_at) = crash_at {
        command.env("FORESHADOW_CRASH_AT", crash_at);
    }
    command.spawn().expect("the binary starts")
}
