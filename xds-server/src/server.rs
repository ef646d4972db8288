//! Puts the parts together and keeps them running.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::envoy::envoy::service::accesslog::v3::access_log_service_server::AccessLogServiceServer;
use api::envoy::envoy::service::load_stats::v3::load_reporting_service_server::LoadReportingServiceServer;
use api::envoy::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use domain::{KnownNode, NodeId};
use store::{Clock, Kind, SharedStore, StoreError};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use crate::admin::Admin;
use crate::config::XdsConfig;
use crate::edge::{Board, Nodes, PeerWatcher, SecretFolder, Watcher, World, Writer};
use crate::error::XdsError;
use crate::events::Events;
use crate::gate::Gate;
use crate::hub::{Command, Hub, INBOX};
use crate::metrics::Metrics;
use crate::resources::{Resource, ResourceType};
use crate::services::{
    Aggregated, Als, Clusters, Csds, Discovery, Endpoints, Listeners, Lrs, MAX_MESSAGE, Routes,
    Secrets, Shared,
};
use crate::telemetry::SharedTelemetry;
use crate::tls::{Connection, Door};

/// How long the end of connections and tasks is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// A client that died without a word is noticed within the sum of these.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a client may send before they are read: its messages are small.
const WINDOW: u32 = 256 * 1024;
/// Streams on one connection: a node has a handful.
const STREAMS_PER_CONNECTION: u32 = 128;
/// Bytes of a request's headers.
const MAX_HEADERS: u32 = 16 * 1024;

/// A running control plane. Dropping it without [`XdsServer::shutdown`] stops it too, but does not
/// wait for it.
#[derive(Debug)]
pub struct XdsServer {
    address: SocketAddr,
    admin: Option<SocketAddr>,
    hub: mpsc::Sender<Command>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl XdsServer {
    /// Listens, reads what shall be published, and begins to serve.
    ///
    /// # Errors
    /// [`XdsError`] when a setting is out of range, the address is taken, or the store cannot be
    /// read.
    pub async fn start(
        config: XdsConfig,
        store: SharedStore,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, XdsError> {
        config.validate()?;
        let bind = |source| XdsError::Bind {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;

        let (commands, inbox) = mpsc::channel(INBOX);
        let telemetry = SharedTelemetry::default();
        let watcher = Watcher::new(&store, commands.clone(), telemetry.clone(), config.debounce);
        let peers = (!config.name.is_empty()).then(|| {
            let (clock, name) = (Arc::clone(&clock), config.name.clone());
            PeerWatcher::new(&store, clock, commands.clone(), name, config.node_patience)
        });
        let world = World::load(&store).await?;
        let patience = u32::try_from(config.node_patience.as_secs()).unwrap_or(u32::MAX);
        let mut gate = Gate::new(patience);
        for node in known_nodes(&store).await? {
            gate.expect(node);
        }
        gate.set_inputs(&world.inputs());

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let metrics = Arc::<Metrics>::default();
        let events = Events::new(Arc::clone(&clock));
        let door = Door {
            listener,
            security: config.security.clone(),
            max_handshakes: config.max_handshakes,
            metrics: Arc::clone(&metrics),
        };
        let (incoming, accepting) = door.open(stop.clone())?;
        let admin = match config.admin {
            None => None,
            Some(address) => {
                let admin = Admin {
                    hub: commands.clone(),
                    metrics: Arc::clone(&metrics),
                    events: events.clone(),
                };
                Some(admin.open(address, stop.clone()).await?)
            }
        };
        let board = Board::default();
        let writer = Writer {
            store,
            clock: Arc::clone(&clock),
            board: board.clone(),
            telemetry: telemetry.clone(),
            interval: config.traffic_interval,
            server: config.name.clone(),
            patience: config.node_patience,
            nodes: Nodes::default(),
        };
        let shared = Shared::new(
            &config,
            commands.clone(),
            telemetry,
            clock,
            stop.clone(),
            tasks.clone(),
            Arc::clone(&metrics),
        );
        let server = Self {
            address,
            admin: admin.as_ref().map(|(address, _)| *address),
            hub: commands.clone(),
            stop: stop.clone(),
            tasks,
        };
        let hub = Hub::new(gate, board, metrics, events, watcher.seen());
        server.supervise("hub", hub.run(inbox, stop.clone()));
        server.supervise("door", accepting);
        if let Some((_, serving)) = admin {
            server.supervise("administration", serving);
        }
        if let Some(folder) = config.secrets {
            let secrets = SecretFolder::new(folder);
            server.supervise("secrets", secrets.run(commands, stop.clone()));
        }
        if let Some(peers) = peers {
            server.supervise("peers", peers.run(stop.clone()));
        }
        server.supervise("watcher", watcher.run(world, stop.clone()));
        server.supervise("writer", writer.run(stop.clone()));
        server.supervise("grpc", serve(incoming, shared, stop));
        tracing::info!(%address, "control plane serves");
        Ok(server)
    }

    /// Where it serves.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where the administration listens, if it does.
    pub const fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Publishes a resource to every node that wants it, beside those of the services; without
    /// one, takes it away. Not kept anywhere: for what an operator's tool puts in anew at every
    /// start, and for conformance suites.
    ///
    /// # Errors
    /// [`XdsError::Stopped`] when the control plane has stopped.
    pub async fn put_extra(
        &self,
        kind: ResourceType,
        name: &str,
        resource: Option<Resource>,
    ) -> Result<(), XdsError> {
        let command = Command::Extra(kind, Arc::from(name), resource.map(Arc::new));
        self.hub.send(command).await.map_err(|_| XdsError::Stopped)
    }

    /// Resolves when it stops, on request or because a part of it failed.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Tells whether it serves, for as long as anybody wants to know.
    pub fn pulse(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let stop = self.stop.clone();
        move || !stop.is_cancelled()
    }

    /// Stops serving and waits for the end. Data planes go on with what they have.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(PATIENCE * 2, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("control plane: tasks did not end in time");
        }
    }

    /// Runs a part. Its end before the server's end stops the whole: half a control plane would
    /// look alive and be none.
    fn supervise(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let handle = tokio::spawn(part);
        self.tasks.spawn(async move {
            let result = handle.await;
            if let Err(error) = result {
                tracing::error!(part = name, %error, "control plane: a part failed");
            } else if !stop.is_cancelled() {
                tracing::error!(part = name, "control plane: a part ended early");
            }
            stop.cancel();
        });
    }
}

impl Drop for XdsServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Nodes that were connected before: they may still route by what they got then.
async fn known_nodes(store: &SharedStore) -> Result<Vec<NodeId>, StoreError> {
    let records = store.list(Kind::Node).await?;
    let parsed = records
        .iter()
        .map(|record| Ok(record.parse::<KnownNode>()?.value.node));
    parsed.collect()
}

async fn serve(
    incoming: mpsc::Receiver<std::io::Result<Connection>>,
    shared: Shared,
    stop: CancellationToken,
) {
    let lrs =
        LoadReportingServiceServer::new(Lrs(shared.clone())).max_decoding_message_size(MAX_MESSAGE);
    let als =
        AccessLogServiceServer::new(Als(shared.clone())).max_decoding_message_size(MAX_MESSAGE);
    let csds = ClientStatusDiscoveryServiceServer::new(Csds(shared.clone()))
        .max_decoding_message_size(MAX_MESSAGE);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(Some(MAX_HEADERS))
        .add_service(Discovery::<Aggregated>::new(shared.clone()))
        .add_service(Discovery::<Clusters>::new(shared.clone()))
        .add_service(Discovery::<Endpoints>::new(shared.clone()))
        .add_service(Discovery::<Listeners>::new(shared.clone()))
        .add_service(Discovery::<Routes>::new(shared.clone()))
        .add_service(Discovery::<Secrets>::new(shared))
        .add_service(lrs)
        .add_service(als)
        .add_service(csds)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(incoming),
            stop.clone().cancelled_owned(),
        );
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        biased;
        result = serving => if let Err(error) = result {
            tracing::error!(%error, "control plane: serving failed");
        },
        () = too_long => tracing::warn!("control plane: connections did not end in time"),
    }
}
