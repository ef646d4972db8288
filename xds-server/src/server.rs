//! Puts the parts together and keeps them running.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::envoy::envoy::service::accesslog::v3::access_log_service_server::AccessLogServiceServer;
use api::envoy::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use api::envoy::envoy::service::load_stats::v3::load_reporting_service_server::LoadReportingServiceServer;
use domain::{KnownNode, NodeId};
use store::{Clock, Kind, SharedStore, StoreError};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::config::XdsConfig;
use crate::edge::{Board, Nodes, Watcher, World, Writer};
use crate::error::XdsError;
use crate::gate::Gate;
use crate::hub::{Hub, INBOX};
use crate::services::{Ads, Als, Lrs, MAX_MESSAGE, Shared};
use crate::telemetry::SharedTelemetry;

/// How long the end of connections and tasks is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// A client that died without a word is noticed within the sum of these.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A running control plane. Dropping it without [`XdsServer::shutdown`] stops it too, but does not
/// wait for it.
#[derive(Debug)]
pub struct XdsServer {
    address: SocketAddr,
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
        let world = World::load(&store).await?;
        let patience = u32::try_from(config.node_patience.as_secs()).unwrap_or(u32::MAX);
        let mut gate = Gate::new(patience);
        for node in known_nodes(&store).await? {
            gate.expect(node);
        }
        gate.set_inputs(&world.inputs());

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
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
            commands,
            telemetry,
            clock,
            stop.clone(),
            tasks.clone(),
        );
        let server = Self {
            address,
            stop: stop.clone(),
            tasks,
        };
        server.supervise("hub", Hub::new(gate, board).run(inbox, stop.clone()));
        server.supervise("watcher", watcher.run(world, stop.clone()));
        server.supervise("writer", writer.run(stop.clone()));
        server.supervise("grpc", serve(listener, shared, stop));
        tracing::info!(%address, "control plane serves");
        Ok(server)
    }

    /// Where it serves.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Resolves when it stops, on request or because a part of it failed.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
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

async fn serve(listener: TcpListener, shared: Shared, stop: CancellationToken) {
    let ads = AggregatedDiscoveryServiceServer::new(Ads(shared.clone()))
        .max_decoding_message_size(MAX_MESSAGE);
    let lrs =
        LoadReportingServiceServer::new(Lrs(shared.clone())).max_decoding_message_size(MAX_MESSAGE);
    let als = AccessLogServiceServer::new(Als(shared)).max_decoding_message_size(MAX_MESSAGE);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(ads)
        .add_service(lrs)
        .add_service(als)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
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
