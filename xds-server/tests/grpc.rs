//! gRPC clients without a proxy, as clients of the control plane.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use common::world::{Scene, bp};
use domain::{Endpoint, WeightSplit};
use foreshadow_xds_server::{XdsConfig, XdsServer};
use store::{MemoryStore, SharedStore, SystemClock};

struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    fn start() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = folder.join("../.venv/bin/python");
        let check = Command::new(&python).args(["-c", "import grpc"]).status();
        assert!(
            check.is_ok_and(|status| status.success()),
            "no grpcio in .venv; deploy/setup brings it"
        );
        let mut child = Command::new(python)
            .arg(folder.join("tests/clients/grpc_client.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            input,
            output,
        }
    }

    fn numbers(&mut self) -> Vec<u16> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect()
    }

    /// Calls the service. How often the original and the shadow answered, and how many failed.
    fn call(&mut self, server: SocketAddr, count: u16) -> Vec<u16> {
        writeln!(self.input, "{} {count}", server.port()).unwrap();
        self.numbers()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // The process that was started here, by its own handle.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn at(port: u16) -> Endpoint {
    Endpoint(SocketAddr::from(([127, 0, 0, 1], port)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_without_a_proxy_follows_the_weights_and_no_call_fails() {
    let mut python = Python::start();
    let ports = python.numbers();
    let (original, shadow) = (at(ports[0]), at(ports[1]));
    let store: SharedStore = Arc::new(MemoryStore::new());
    let mut scene = Scene::new("shop", 0).instance(1, original);
    scene.save(&store).await;
    let config = XdsConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..XdsConfig::default()
    };
    let server = XdsServer::start(config, Arc::clone(&store), Arc::new(SystemClock))
        .await
        .unwrap();
    assert_eq!(python.call(server.local_addr(), 50), [50, 0, 0]);
    for (weight, least, most) in [(2_500, 90, 170), (5_000, 200, 300), (10_000, 500, 500)] {
        let split = bp(weight);
        scene = scene.migrate_to(1, shadow, split, false);
        scene.save(&store).await;
        scene.applied(&store, 1).await;
        let answered = python.call(server.local_addr(), 500);
        assert_eq!(answered[2], 0, "{answered:?} at {weight}");
        assert!(
            (least..=most).contains(&answered[1]),
            "{answered:?} at {weight}"
        );
    }
    assert_eq!(bp(10_000), WeightSplit::SHADOW);
    scene = scene.commit(1);
    scene.save(&store).await;
    scene.applied(&store, 1).await;
    assert_eq!(python.call(server.local_addr(), 50), [0, 50, 0]);
    server.shutdown().await;
}
