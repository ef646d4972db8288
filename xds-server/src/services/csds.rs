//! The client status discovery service: how far every node is with every resource.

use std::pin::Pin;

use api::envoy::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use api::envoy::envoy::config::core::v3::Node;
use api::envoy::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
    client_config::GenericXdsConfig,
    client_status_discovery_service_server::ClientStatusDiscoveryService,
};
use api::envoy::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use domain::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use crate::hub::Command;
use crate::inspect::{Inspection, Progress, ResourceStatus};
use crate::tls::Peer;

/// The service.
pub(crate) struct Csds(pub(crate) Shared);

/// The nodes that a request means: all, or those of these names.
fn asked(request: &ClientStatusRequest) -> Result<Option<NodeId>, Status> {
    let names = request.node_matchers.iter().filter_map(|matcher| {
        match matcher.node_id.as_ref()?.match_pattern.as_ref()? {
            MatchPattern::Exact(name) => Some(name.as_str()),
            MatchPattern::Prefix(_)
            | MatchPattern::Suffix(_)
            | MatchPattern::SafeRegex(_)
            | MatchPattern::Contains(_)
            | MatchPattern::Custom(_) => None,
        }
    });
    let names: Vec<&str> = names.collect();
    match (request.node_matchers.as_slice(), names.as_slice()) {
        ([], _) => Ok(None),
        ([_], [name]) => NodeId::new(*name)
            .map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string())),
        _ => Err(Status::invalid_argument(
            "node_matchers: use none, or one with an exact node_id",
        )),
    }
}

async fn answer(
    shared: &Shared,
    peer: &Peer,
    request: &ClientStatusRequest,
) -> Result<ClientStatusResponse, Status> {
    let node = asked(request)?;
    if !peer.may_inspect(node.as_ref()) {
        return Err(Status::permission_denied(
            "status: only of the node in the client's certificate, or with the name \"operator\" in it",
        ));
    }
    let (sender, receiver) = oneshot::channel();
    let unavailable = || Status::unavailable("the control plane is stopping");
    shared
        .hub
        .send(Command::Inspect(node, sender))
        .await
        .map_err(|_| unavailable())?;
    let inspection = receiver.await.map_err(|_| unavailable())?;
    Ok(response(inspection))
}

fn response(inspection: Inspection) -> ClientStatusResponse {
    let config = inspection
        .nodes
        .into_iter()
        .map(|(node, resources)| ClientConfig {
            node: Some(Node {
                id: node.to_string(),
                ..Node::default()
            }),
            generic_xds_configs: resources.into_iter().map(generic).collect(),
            ..ClientConfig::default()
        });
    ClientStatusResponse {
        config: config.collect(),
    }
}

fn generic(resource: ResourceStatus) -> GenericXdsConfig {
    let (config, client) = match resource.status {
        Progress::Synced => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        Progress::Stale => (ConfigStatus::Stale, ClientResourceStatus::Requested),
        Progress::NotSent => (ConfigStatus::NotSent, ClientResourceStatus::Requested),
        Progress::Error => (ConfigStatus::Error, ClientResourceStatus::Nacked),
    };
    GenericXdsConfig {
        type_url: resource.of.url().to_owned(),
        name: resource.name,
        version_info: resource.version.clone(),
        config_status: config.into(),
        client_status: client.into(),
        error_state: resource.reason.map(|reason| UpdateFailureState {
            details: reason,
            version_info: resource.version,
            ..UpdateFailureState::default()
        }),
        ..GenericXdsConfig::default()
    }
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for Csds {
    type StreamClientStatusStream =
        Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let peer = Peer::of(request.extensions());
        let slot = self.0.telemetry_slot()?;
        let (out, inbox) = mpsc::channel(1);
        let shared = self.0.clone();
        self.0.tasks.spawn(async move {
            let mut requests = request.into_inner();
            let serving = async {
                while let Ok(Some(request)) = requests.message().await {
                    let answer = answer(&shared, &peer, &request).await;
                    let is_end = answer.is_err();
                    if out.send(answer).await.is_err() || is_end {
                        return;
                    }
                }
            };
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => {}
                () = serving => {}
            }
            drop(slot);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(inbox))))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        let peer = Peer::of(request.extensions());
        answer(&self.0, &peer, request.get_ref())
            .await
            .map(Response::new)
    }
}
