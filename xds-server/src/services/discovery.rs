//! The discovery services: the aggregated one, and one per type. All are the same service under
//! other names; it is written out here because responses are sent as bytes that streams share.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::envoy::envoy::config::core::v3::Node;
use api::envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use api::envoy::google::protobuf::value::Kind as Value;
use api::envoy::google::rpc::Status as RpcStatus;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request as GrpcRequest, Response as GrpcResponse, Status, Streaming};

use super::{MAX_MESSAGE, Shared};
use crate::gate::StreamId;
use crate::hub::Command;
use crate::outbox::{Inbox, Outbox, outbox};
use crate::resources::{ListenAddress, ResourceType, ingress};
use crate::stream::{Protocol, Request, Stream};
use crate::tls::Peer;
use crate::wire::{DiscoveryCodec, Readable};

/// Shortest and longest time to live that a node may ask for.
const TTL: std::ops::RangeInclusive<u32> = 3..=86_400;

/// A name under which resources are served.
pub(crate) trait Flavour: Clone + Send + Sync + 'static {
    /// The gRPC service.
    const NAME: &'static str;
    /// The method of the state-of-the-world form.
    const WORLD: &'static str;
    /// The method of the delta form.
    const DELTA: &'static str;
    /// The one type that is served; all when none.
    const KIND: Option<ResourceType>;
}

macro_rules! flavour {
    ($(#[$doc:meta])* $name:ident, $service:literal, $world:literal, $delta:literal, $kind:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub(crate) struct $name;

        impl Flavour for $name {
            const NAME: &'static str = $service;
            const WORLD: &'static str = concat!("/", $service, "/", $world);
            const DELTA: &'static str = concat!("/", $service, "/", $delta);
            const KIND: Option<ResourceType> = $kind;
        }
    };
}

flavour!(
    /// ADS.
    Aggregated,
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "StreamAggregatedResources",
    "DeltaAggregatedResources",
    None
);
flavour!(
    /// CDS.
    Clusters,
    "envoy.service.cluster.v3.ClusterDiscoveryService",
    "StreamClusters",
    "DeltaClusters",
    Some(ResourceType::Cluster)
);
flavour!(
    /// EDS.
    Endpoints,
    "envoy.service.endpoint.v3.EndpointDiscoveryService",
    "StreamEndpoints",
    "DeltaEndpoints",
    Some(ResourceType::Endpoint)
);
flavour!(
    /// LDS.
    Listeners,
    "envoy.service.listener.v3.ListenerDiscoveryService",
    "StreamListeners",
    "DeltaListeners",
    Some(ResourceType::Listener)
);
flavour!(
    /// RDS.
    Routes,
    "envoy.service.route.v3.RouteDiscoveryService",
    "StreamRoutes",
    "DeltaRoutes",
    Some(ResourceType::Route)
);
flavour!(
    /// SDS.
    Secrets,
    "envoy.service.secret.v3.SecretDiscoveryService",
    "StreamSecrets",
    "DeltaSecrets",
    Some(ResourceType::Secret)
);

/// The service under one of its names.
#[derive(Clone)]
pub(crate) struct Discovery<F> {
    shared: Shared,
    flavour: PhantomData<F>,
}

impl<F: Flavour> Discovery<F> {
    pub(crate) const fn new(shared: Shared) -> Self {
        Self {
            shared,
            flavour: PhantomData,
        }
    }

    fn answer<I: Incoming>(
        &self,
        request: http::Request<Body>,
    ) -> BoxFuture<http::Response<Body>, Infallible> {
        let method = Method {
            shared: self.shared.clone(),
            kind: F::KIND,
            request: PhantomData::<I>,
        };
        Box::pin(async move {
            let mut grpc = Grpc::new(DiscoveryCodec::<I>::default())
                .apply_max_message_size_config(Some(MAX_MESSAGE), None);
            Ok(grpc.streaming(method, request).await)
        })
    }
}

impl<F: Flavour> NamedService for Discovery<F> {
    const NAME: &'static str = F::NAME;
}

impl<F: Flavour> Service<http::Request<Body>> for Discovery<F> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if path == F::WORLD {
            self.answer::<DiscoveryRequest>(request)
        } else if path == F::DELTA {
            self.answer::<DeltaDiscoveryRequest>(request)
        } else {
            Box::pin(async { Ok(Status::unimplemented("use a streaming method").into_http()) })
        }
    }
}

struct Method<I> {
    shared: Shared,
    kind: Option<ResourceType>,
    request: PhantomData<I>,
}

impl<I: Incoming> StreamingService<I> for Method<I> {
    type Response = crate::wire::Frame;
    type ResponseStream = Inbox;
    type Future = BoxFuture<GrpcResponse<Inbox>, Status>;

    fn call(&mut self, request: GrpcRequest<Streaming<I>>) -> Self::Future {
        let opened = open(&self.shared, self.kind, request);
        Box::pin(async { opened.map(GrpcResponse::new) })
    }
}

/// A wire message that carries a request.
pub(crate) trait Incoming: Readable {
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

fn open<I: Incoming>(
    shared: &Shared,
    kind: Option<ResourceType>,
    request: GrpcRequest<Streaming<I>>,
) -> Result<Inbox, Status> {
    let peer = Peer::of(request.extensions());
    let slot = shared.discovery_slot()?;
    let (out, inbox) = outbox();
    let shared = shared.clone();
    let id = StreamId(shared.number());
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let stop = shared.stop.clone();
        let reading = Box::pin(read(&shared, id, kind, &peer, request.into_inner(), &out));
        let known = tokio::select! {
            biased;
            () = stop.cancelled() => false,
            known = reading => known,
        };
        if known && shared.hub.send(Command::Disconnect(id)).await.is_err() {
            tracing::debug!(stream = id.0, "the hub is gone before the stream");
        }
        out.end(None);
        drop(slot);
    });
    Ok(inbox)
}

/// Reads until the end. Gives whether the hub knows the stream.
async fn read<I: Incoming>(
    shared: &Shared,
    id: StreamId,
    only: Option<ResourceType>,
    peer: &Peer,
    mut incoming: Streaming<I>,
    out: &Outbox,
) -> bool {
    let first = tokio::time::timeout(super::FIRST_MESSAGE, incoming.message()).await;
    let Ok(Ok(Some(first))) = first else {
        return false;
    };
    let stream = match begin(&first, peer) {
        Ok(stream) => stream,
        Err(status) => {
            tracing::warn!(stream = id.0, reason = status.message(), "stream refused");
            shared.metrics.refused_streams.add(1);
            out.end(Some(status));
            return false;
        }
    };
    let Some(wait) = shared.pace.turn(id.0) else {
        shared.metrics.refused_streams.add(1);
        out.end(Some(Status::unavailable(
            "too many streams begin at once: come back later",
        )));
        return false;
    };
    if !wait.is_zero() {
        shared.metrics.paced_streams.add(1);
        tokio::select! {
            biased;
            () = out.closed() => return false,
            () = tokio::time::sleep(wait) => {}
        }
    }
    let connect = Command::Connect(id, Box::new(stream), out.clone());
    if shared.hub.send(connect).await.is_err() {
        return false;
    }
    let mut next = Some(first);
    while let Some(message) = next.take() {
        // A type that is not served is left without an answer, as the protocol asks.
        let kind = match only {
            Some(only) if message.type_url().is_empty() => Some(only),
            Some(only) => ResourceType::of_url(message.type_url()).filter(|kind| *kind == only),
            None => ResourceType::of_url(message.type_url()),
        };
        if let Some(kind) = kind {
            let request = Command::Request(id, kind, Box::new(message.into_request()));
            if shared.hub.send(request).await.is_err() {
                return true;
            }
        }
        next = tokio::select! {
            biased;
            // The client is gone, or the hub has closed the stream.
            () = out.closed() => None,
            message = incoming.message() => message.ok().flatten(),
        };
    }
    true
}

fn begin<I: Incoming>(first: &I, peer: &Peer) -> Result<Stream, Status> {
    let node = peer.node(first.node())?;
    let listen = first.node().map_or(Ok(None), ListenAddress::of_node);
    let listen = listen.map_err(Status::invalid_argument)?;
    let ttl = ttl(first.node()).map_err(Status::invalid_argument)?;
    let listener = listen.map(|address| Arc::new(ingress(address)));
    Ok(Stream::new(node, I::PROTOCOL, listener).with_ttl(ttl))
}

fn ttl(node: Option<&Node>) -> Result<Option<u32>, String> {
    let key = api::xds::TTL_METADATA;
    let value = node
        .and_then(|node| node.metadata.as_ref())
        .and_then(|metadata| metadata.fields.get(key));
    let Some(value) = value else { return Ok(None) };
    let text = match &value.kind {
        Some(Value::StringValue(text)) => text.parse().ok(),
        Some(_) | None => None,
    };
    match text.filter(|seconds| TTL.contains(seconds)) {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(format!(
            "node metadata {key}: use a text of whole seconds from {} to {}",
            TTL.start(),
            TTL.end()
        )),
    }
}
