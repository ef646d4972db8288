//! A real `redis-server`: own folder, own socket, killed with its owner.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use foreshadow_store::{Address, Opening, RedisOptions, RedisStore, StoreError};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisConnectionInfo, RedisError};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::UnixStream;

/// How long anything may take that must happen. Machines that run tests are busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The time limit of a store that is not told otherwise.
pub(crate) const LIMIT: Duration = Duration::from_millis(500);

/// Waits until `probe` gives something.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for something that comes by itself.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// A port of the thousand from here on that was free a moment ago. Below 30 000, so that no outgoing
/// connection takes it, and room is left for the port of a cluster's bus. No two calls give the
/// same, and other processes begin elsewhere.
pub(crate) fn free_port(from: u16) -> u16 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    (0..1_000)
        .map(|_| {
            let call = CALLS.fetch_add(1, Ordering::Relaxed);
            let offset = (std::process::id().wrapping_mul(37) + call) % 1_000;
            from + u16::try_from(offset).unwrap()
        })
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("a free port")
}

/// The server, and what is needed to start it again.
pub(crate) struct Server {
    folder: TempDir,
    args: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts one that keeps what it acknowledges.
    pub(crate) async fn durable() -> Self {
        Self::with(&["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    /// Starts one with these arguments.
    pub(crate) async fn with(args: &[&str]) -> Self {
        let base = ["--port", "0", "--save", ""];
        Self::launch(tempfile::tempdir().unwrap(), &[&base[..], args].concat()).await
    }

    /// Starts a sentinel with these lines of configuration.
    pub(crate) async fn sentinel(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        let port = free_port(25_000);
        std::fs::write(&file, format!("bind 127.0.0.1\nport {port}\n{lines}")).unwrap();
        let file = file.display().to_string();
        Self::launch(folder, &[&file, "--sentinel"]).await
    }

    async fn launch(folder: TempDir, args: &[&str]) -> Self {
        let mut server = Self {
            folder,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            child: None,
        };
        server.start().await;
        server
    }

    /// Starts it (again), and waits until it has loaded its file.
    pub(crate) async fn start(&mut self) {
        let socket = self.socket();
        let spawned = Command::new("redis-server")
            .args(&self.args)
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("redis-server is not installed: run deploy/setup, which says how")
            }
            Err(error) => panic!("redis-server does not start: {error}"),
        };
        // Owned before anything can fail, so that it never outlives the test.
        let child = self.child.insert(child);
        eventually("redis-server answers", async || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("redis-server {:?} ended: {status}", &self.args);
            }
            let answer: Result<String, _> = command(&socket, &["PING"]).await;
            match answer {
                Ok(_) => Some(()),
                // It is there, and wants a password.
                Err(error) if error.code() == Some("NOAUTH") => Some(()),
                Err(_) => None,
            }
        })
        .await;
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub(crate) fn address(&self) -> Address {
        Address::Unix(self.socket())
    }

    /// Opens the store that every test means unless it says otherwise.
    pub(crate) async fn store(&self) -> RedisStore {
        self.open(options()).await.unwrap()
    }

    pub(crate) async fn open(&self, options: RedisOptions) -> Result<RedisStore, StoreError> {
        RedisStore::open(self.address(), options).await
    }

    /// A connection of its own, to be used as it is.
    #[allow(dead_code, reason = "the measurement uses it")]
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let login = RedisConnectionInfo::default();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
        let made = MultiplexedConnection::new_with_config(&login, stream, config).await;
        let (connection, driver) = made.unwrap();
        tokio::spawn(driver);
        connection
    }

    /// Sends a command as another client, without a name.
    pub(crate) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        command(&self.socket(), words).await.unwrap()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// It hangs: connections stay open, nothing is answered.
    pub(crate) fn hang(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Options of most tests: made where it is absent, quick to come back, and patient, since many
/// tests share the machine. A test of the time limit sets [`LIMIT`].
pub(crate) fn options() -> RedisOptions {
    RedisOptions::new(Opening::CreateIfAbsent)
        .prefix("t")
        .timeout(Duration::from_secs(20))
        .keepalive(Duration::from_millis(100))
        .longest_pause(Duration::from_millis(50))
}

/// Sends one command over its own connection.
pub(crate) async fn command<T: FromRedisValue>(
    socket: &Path,
    words: &[&str],
) -> Result<T, RedisError> {
    let stream = UnixStream::connect(socket).await?;
    let login = RedisConnectionInfo::default();
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
    let (mut connection, driver) =
        MultiplexedConnection::new_with_config(&login, stream, config).await?;
    let driver = tokio::spawn(driver);
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    let answer = command.query_async(&mut connection).await;
    driver.abort();
    answer
}

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
