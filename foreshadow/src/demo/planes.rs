//! The data planes of the demo: a real Envoy and our proxy, each a process of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use domain::NodeId;
use tokio::process::{Child, Command};
use xds_server::authority::NodeFiles;
use xds_server::bootstrap::{self, Bootstrap, Protocol};

use crate::client;
use crate::error::Failure;

/// A data plane that runs.
pub struct Plane {
    /// Its name, for the table.
    pub name: &'static str,
    /// Where it listens for clients.
    pub listen: SocketAddr,
    /// Where it answers questions about itself.
    pub admin: SocketAddr,
    child: Child,
}

/// How long a data plane may take to become ready.
const READY: Duration = Duration::from_secs(30);

/// A port that nobody uses now, below those the kernel gives to outgoing connections.
///
/// # Errors
/// [`Failure::Unavailable`] when all are taken.
pub fn free_port() -> Result<SocketAddr, Failure> {
    let start = 10_000 + (std::process::id() % 8_000) as u16;
    for port in (start..32_000).chain(10_000..start) {
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok((Ipv4Addr::LOCALHOST, port).into());
        }
    }
    Err(Failure::Unavailable("no free port below 32000".to_owned()))
}

/// Where Envoy may be: as told, in the checkout's environment, or on the path.
pub fn find_envoy(told: Option<&PathBuf>) -> Option<PathBuf> {
    if let Some(told) = told {
        return told.is_file().then(|| told.clone());
    }
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/envoy");
    let local = PathBuf::from(".venv/bin/envoy");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("envoy"));
    [local, checkout]
        .into_iter()
        .chain(on_path)
        .find(|file| file.is_file())
}

impl Plane {
    /// Starts Envoy, in plain text, and waits until it is ready.
    ///
    /// # Errors
    /// [`Failure`] when it cannot start or does not become ready; it does not run then.
    pub async fn envoy(binary: &Path, xds: SocketAddr, folder: &Path) -> Result<Self, Failure> {
        Self::envoy_as(binary, xds, folder, None).await
    }

    /// Starts Envoy as a node that proves itself by these files, or in plain text.
    ///
    /// # Errors
    /// As [`Plane::envoy`].
    pub async fn envoy_as(
        binary: &Path,
        xds: SocketAddr,
        folder: &Path,
        identity: Option<NodeFiles>,
    ) -> Result<Self, Failure> {
        let listen = free_port()?;
        let admin = next_free(listen)?;
        let node = NodeId::new("envoy").map_err(Failure::failed("name Envoy"))?;
        let text = bootstrap::envoy(&Bootstrap {
            node,
            listen: Some(listen),
            admin,
            control_plane: xds,
            protocol: Protocol::Delta,
            identity,
        });
        let file = folder.join("envoy.yaml");
        std::fs::write(&file, text).map_err(Failure::failed("write Envoy's bootstrap"))?;
        let log = std::fs::File::create(folder.join("envoy.log"))
            .map_err(Failure::failed("write Envoy's log"))?;
        let child = Command::new(binary)
            .arg("-c")
            .arg(&file)
            .args(["--concurrency", "1", "--log-level", "warning"])
            .args(["--base-id", &(std::process::id() % 30_000).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(Failure::unavailable("start Envoy"))?;
        let plane = Self {
            name: "envoy",
            listen,
            admin,
            child,
        };
        plane.ready(&folder.join("envoy.log")).await
    }

    /// Starts our proxy (`program proxy`), in plain text, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Plane::envoy`].
    pub async fn proxy(program: &Path, xds: SocketAddr, folder: &Path) -> Result<Self, Failure> {
        Self::proxy_as(program, xds, folder, None).await
    }

    /// Starts our proxy as a node that proves itself by these files, or in plain text.
    ///
    /// # Errors
    /// As [`Plane::envoy`].
    pub async fn proxy_as(
        program: &Path,
        xds: SocketAddr,
        folder: &Path,
        identity: Option<NodeFiles>,
    ) -> Result<Self, Failure> {
        let listen = free_port()?;
        let admin = next_free(listen)?;
        let log = std::fs::File::create(folder.join("proxy.log"))
            .map_err(Failure::failed("write the proxy's log"))?;
        let mut command = Command::new(program);
        match &identity {
            None => command.args(["proxy", "--insecure-plaintext"]),
            Some(files) => command
                .args(["proxy", "--certificate"])
                .arg(&files.certificate)
                .arg("--key")
                .arg(&files.key)
                .arg("--authority")
                .arg(&files.authority),
        };
        let child = command
            .args(["--node", "proxy"])
            .args([
                "--listen",
                &listen.to_string(),
                "--control-plane",
                &xds.to_string(),
            ])
            .args(["--admin", &admin.to_string()])
            .arg("--last-good")
            .arg(folder.join("last-good"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(Failure::unavailable("start the proxy"))?;
        let plane = Self {
            name: "proxy",
            listen,
            admin,
            child,
        };
        plane.ready(&folder.join("proxy.log")).await
    }

    async fn ready(mut self, log: &Path) -> Result<Self, Failure> {
        let limit = Instant::now() + READY;
        loop {
            if client::get(self.admin, "/ready").await.is_ok() {
                return Ok(self);
            }
            let ended = self
                .child
                .try_wait()
                .map_err(Failure::failed("watch a data plane"))?;
            if ended.is_some() || Instant::now() > limit {
                let words = std::fs::read_to_string(log).unwrap_or_default();
                let last: Vec<_> = words.lines().rev().take(5).collect();
                return Err(Failure::Unavailable(format!(
                    "{} did not become ready: {}",
                    self.name,
                    last.join(" | ")
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops it.
    pub async fn stop(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, plane = self.name, "could not be stopped");
        }
    }
}

/// A second free port, another than the first.
fn next_free(first: SocketAddr) -> Result<SocketAddr, Failure> {
    for port in first.port() + 1..32_700 {
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok((Ipv4Addr::LOCALHOST, port).into());
        }
    }
    Err(Failure::Unavailable("no free port below 32700".to_owned()))
}
