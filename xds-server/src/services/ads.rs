//! The aggregated discovery service.

use std::pin::Pin;
use std::sync::Arc;

use api::envoy::envoy::config::core::v3::Node;
use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    Resource as WireResource, aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use api::envoy::google::rpc::Status as RpcStatus;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream as Streaming, StreamExt as _};
use tonic::Status;

use super::Shared;
use crate::gate::StreamId;
use crate::hub::{Command, OUTBOX, Outbox, node_id};
use crate::resources::{ListenAddress, ResourceType, ingress};
use crate::stream::{Protocol, Request, Response, Stream};

/// The service.
pub(crate) struct Ads(pub(crate) Shared);

/// A wire message that carries a request.
trait Incoming: Send + 'static {
    const PROTOCOL: Protocol;
    fn node(&self) -> Option<&Node>;
    fn type_url(&self) -> &str;
    fn into_request(self) -> Request;
}

impl Incoming for DiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn into_request(self) -> Request {
        Request::World {
            names: self.resource_names,
            version: self.version_info,
            nonce: self.response_nonce,
            error: self.error_detail.map(reason),
        }
    }
}

impl Incoming for DeltaDiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Delta;

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn into_request(self) -> Request {
        let mut initial: Vec<_> = self.initial_resource_versions.into_iter().collect();
        initial.sort_unstable();
        Request::Delta {
            subscribe: self.resource_names_subscribe,
            unsubscribe: self.resource_names_unsubscribe,
            initial,
            nonce: self.response_nonce,
            error: self.error_detail.map(reason),
        }
    }
}

fn reason(status: RpcStatus) -> String {
    if status.message.is_empty() {
        format!("code {}", status.code)
    } else {
        status.message
    }
}

fn world(response: Response) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: response.version.to_string(),
        resources: response
            .resources
            .iter()
            .map(|resource| resource.any.clone())
            .collect(),
        type_url: response.kind.url().to_owned(),
        nonce: response.nonce,
        ..DiscoveryResponse::default()
    }
}

fn delta(response: Response) -> DeltaDiscoveryResponse {
    let resources = response.resources.iter().map(|resource| WireResource {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        resource: Some(resource.any.clone()),
        ..WireResource::default()
    });
    DeltaDiscoveryResponse {
        system_version_info: response.version.to_string(),
        resources: resources.collect(),
        type_url: response.kind.url().to_owned(),
        removed_resources: response.removed.iter().map(ToString::to_string).collect(),
        nonce: response.nonce,
        ..DeltaDiscoveryResponse::default()
    }
}

type Out<M> = Pin<Box<dyn Streaming<Item = Result<M, Status>> + Send>>;

impl Ads {
    fn open<I: Incoming>(
        &self,
        incoming: tonic::Streaming<I>,
    ) -> Result<ReceiverStream<Result<Response, Status>>, Status> {
        let slot = self.0.discovery_slot()?;
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let shared = self.0.clone();
        let id = StreamId(shared.number());
        self.0.tasks.spawn(async move {
            let known = tokio::select! {
                biased;
                () = shared.stop.cancelled() => false,
                known = read(&shared, id, incoming, &outbox) => known,
            };
            if known && shared.hub.send(Command::Disconnect(id)).await.is_err() {
                tracing::debug!(stream = id.0, "the hub is gone before the stream");
            }
            drop(slot);
        });
        Ok(ReceiverStream::new(inbox))
    }
}

/// Reads until the end. Gives whether the hub knows the stream.
async fn read<I: Incoming>(
    shared: &Shared,
    id: StreamId,
    mut incoming: tonic::Streaming<I>,
    outbox: &Outbox,
) -> bool {
    let Ok(Some(first)) = incoming.message().await else {
        return false;
    };
    let stream = match begin(&first) {
        Ok(stream) => stream,
        Err(status) => {
            tracing::warn!(stream = id.0, reason = status.message(), "stream refused");
            // The channel is empty: there is room.
            let _ = outbox.try_send(Err(status));
            return false;
        }
    };
    let connect = Command::Connect(id, Box::new(stream), outbox.clone());
    if shared.hub.send(connect).await.is_err() {
        return false;
    }
    let mut next = Some(first);
    while let Some(message) = next.take() {
        // A type that is not served is left without an answer, as the protocol asks.
        if let Some(kind) = ResourceType::of_url(message.type_url()) {
            let request = Box::new(message.into_request());
            if shared
                .hub
                .send(Command::Request(id, kind, request))
                .await
                .is_err()
            {
                return true;
            }
        }
        next = tokio::select! {
            biased;
            // The client is gone, or the hub has closed the stream.
            () = outbox.closed() => None,
            message = incoming.message() => message.ok().flatten(),
        };
    }
    true
}

fn begin<I: Incoming>(first: &I) -> Result<Stream, Status> {
    let node = node_id(first.node())?;
    let listen = first.node().map_or(Ok(None), ListenAddress::of_node);
    let listen = listen.map_err(Status::invalid_argument)?;
    let listener = listen.map(|address| Arc::new(ingress(address)));
    Ok(Stream::new(node, I::PROTOCOL, listener))
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Out<DiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<tonic::Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        let responses = self
            .open(request.into_inner())?
            .map(|response| response.map(world));
        Ok(tonic::Response::new(Box::pin(responses)))
    }

    type DeltaAggregatedResourcesStream = Out<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<tonic::Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let responses = self
            .open(request.into_inner())?
            .map(|response| response.map(delta));
        Ok(tonic::Response::new(Box::pin(responses)))
    }
}
