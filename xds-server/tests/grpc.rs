//! gRPC clients without a proxy, as clients of the control plane: Python's (the C core, which C++,
//! Ruby and PHP use too) and Node's.
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
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use common::world::{Scene, bp};
use domain::{Endpoint, WeightSplit};
use foreshadow_xds_server::{XdsConfig, XdsServer};
use store::{MemoryStore, SharedStore, SystemClock};

/// A program that calls a service, and the service's two replicas.
struct Client {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

fn venv() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv")
}

fn script(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.join("tests/clients").join(name)
}

fn python() -> Command {
    let python = venv().join("bin/python");
    let check = Command::new(&python).args(["-c", "import grpc"]).status();
    assert!(
        check.is_ok_and(|status| status.success()),
        "no grpcio in .venv; deploy/setup brings it"
    );
    let mut command = Command::new(python);
    command.arg(script("grpc_client.py"));
    command
}

fn node() -> Command {
    let own = venv().join("bin/node");
    let program = if own.exists() { own } else { "node".into() };
    let modules = venv().join("grpc-js/node_modules");
    assert!(
        modules.join("@grpc/grpc-js-xds").exists(),
        "no grpc-js-xds in .venv; deploy/setup brings it, and Node"
    );
    let mut command = Command::new(program);
    command
        .arg(script("grpc_client.js"))
        .env("NODE_PATH", modules);
    command
}

impl Client {
    fn start(mut command: Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
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

impl Drop for Client {
    fn drop(&mut self) {
        // The process that was started here, by its own handle.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn at(port: u16) -> Endpoint {
    Endpoint(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// What is applied is in force at once: no call goes by the weights before.
async fn follows_the_weights(command: Command) {
    let mut client = Client::start(command);
    let ports = client.numbers();
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
    assert_eq!(client.call(server.local_addr(), 50), [50, 0, 0]);
    // Five standard deviations to either side.
    for (weight, least, most) in [
        (0, 0, 0),
        (2_500, 77, 173),
        (5_000, 194, 306),
        (10_000, 500, 500),
    ] {
        let split = bp(weight);
        scene = scene.migrate_to(1, shadow, split, false);
        scene.save(&store).await;
        scene.applied(&store, 1).await;
        let answered = client.call(server.local_addr(), 500);
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
    assert_eq!(client.call(server.local_addr(), 50), [0, 50, 0]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_in_python_follows_the_weights_and_no_call_fails() {
    follows_the_weights(python()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_on_node_follows_the_weights_and_no_call_fails() {
    follows_the_weights(node()).await;
}
