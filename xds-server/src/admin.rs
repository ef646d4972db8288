//! The administration's own port: health, metrics, how far every node is, what happened. Nothing
//! can be changed here, and no resource's content is shown, so no secret either.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use domain::NodeId;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::XdsError;
use crate::events::Events;
use crate::hub::Command;
use crate::metrics::Metrics;

/// How long an answer from the hub may take: longer means that it is stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the pages are made from.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) hub: mpsc::Sender<Command>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: Events,
}

impl Admin {
    /// Listens. Gives the address and what serves it.
    pub(crate) async fn open(
        self,
        address: SocketAddr,
        stop: CancellationToken,
    ) -> Result<(SocketAddr, impl Future<Output = ()> + Send + 'static), XdsError> {
        let bind = |source| XdsError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let local = listener.local_addr().map_err(bind)?;
        let router = Router::new()
            .route("/healthz", get(|| async { "alive\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/config_dump", get(dump))
            .route("/events", get(events))
            .with_state(self);
        let serving = async move {
            let shutdown = stop.cancelled_owned();
            if let Err(error) = axum::serve(listener, router)
                .with_graceful_shutdown(shutdown)
                .await
            {
                tracing::error!(%error, "administration: serving failed");
            }
        };
        Ok((local, serving))
    }

    async fn inspection(&self, node: Option<NodeId>) -> Option<crate::inspect::Inspection> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.hub.send(Command::Inspect(node, answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(PATIENCE, asking).await.ok().flatten()
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    // A name that nobody has: only whether the hub answers counts.
    match admin.inspection(NodeId::new("0").ok()).await {
        Some(_) => "ready\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the hub does not answer\n").into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> String {
    admin.metrics.text()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    node: Option<NodeId>,
}

async fn dump(State(admin): State<Admin>, Query(which): Query<Which>) -> Response {
    match admin.inspection(which.node).await {
        Some(inspection) => Json(inspection).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the hub does not answer\n").into_response(),
    }
}

async fn events(State(admin): State<Admin>) -> Response {
    Json(admin.events.all()).into_response()
}
