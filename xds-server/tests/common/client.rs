//! A raw discovery client that says exactly what a test wants it to.

use std::net::SocketAddr;
use std::time::Duration;

use api::envoy::envoy::config::core::v3::Node;
use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use api::envoy::google::rpc::Status as RpcStatus;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// How long nothing must come to count as silence.
const SILENCE: Duration = Duration::from_millis(400);

pub fn node(id: &str) -> Node {
    Node {
        id: id.to_owned(),
        ..Node::default()
    }
}

pub fn refused(reason: &str) -> RpcStatus {
    RpcStatus {
        code: 3,
        message: reason.to_owned(),
        details: Vec::new(),
    }
}

pub struct Client<Q, R> {
    requests: mpsc::Sender<Q>,
    responses: tonic::Streaming<R>,
}

pub type Delta = Client<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
pub type World = Client<DiscoveryRequest, DiscoveryResponse>;

impl Delta {
    pub async fn connect(server: SocketAddr) -> Self {
        let mut client = service(server).await;
        let (requests, stream) = mpsc::channel(16);
        let stream = ReceiverStream::new(stream);
        let responses = client
            .delta_aggregated_resources(stream)
            .await
            .unwrap()
            .into_inner();
        Self {
            requests,
            responses,
        }
    }

    pub async fn ack(&self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub async fn nack(&self, response: &DeltaDiscoveryResponse, reason: &str) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(refused(reason)),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub async fn subscribe(&self, id: &str, type_url: &str, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            node: Some(node(id)),
            type_url: type_url.to_owned(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }
}

impl World {
    pub async fn connect(server: SocketAddr) -> Self {
        let mut client = service(server).await;
        let (requests, stream) = mpsc::channel(16);
        let stream = ReceiverStream::new(stream);
        let responses = client
            .stream_aggregated_resources(stream)
            .await
            .unwrap()
            .into_inner();
        Self {
            requests,
            responses,
        }
    }
}

impl<Q, R> Client<Q, R> {
    pub async fn send(&self, request: Q) {
        self.requests.send(request).await.unwrap();
    }

    pub async fn try_next(&mut self) -> Result<Option<R>, Status> {
        tokio::time::timeout(super::LIMIT, self.responses.message())
            .await
            .expect("no response")
    }

    pub async fn next(&mut self) -> R {
        self.try_next().await.unwrap().expect("the stream ended")
    }

    /// Nothing comes for a while.
    pub async fn silence(&mut self) {
        if let Ok(message) = tokio::time::timeout(SILENCE, self.responses.message()).await {
            panic!(
                "unexpected message: {}",
                message.map_or("error", |_| "a response")
            );
        }
    }
}

async fn service(
    server: SocketAddr,
) -> AggregatedDiscoveryServiceClient<tonic::transport::Channel> {
    AggregatedDiscoveryServiceClient::connect(format!("http://{server}"))
        .await
        .unwrap()
}
