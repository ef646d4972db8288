//! A client in each of the four variants: state of the world and delta, one stream for all types and
//! one for each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use api::envoy::envoy::config::core::v3::Node;
use api::envoy::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    Resource as WireResource,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use api::envoy::envoy::service::endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient;
use api::envoy::envoy::service::listener::v3::listener_discovery_service_client::ListenerDiscoveryServiceClient;
use api::envoy::envoy::service::route::v3::route_discovery_service_client::RouteDiscoveryServiceClient;
use api::envoy::google::protobuf::value::Kind as Value;
use api::envoy::google::protobuf::{Struct, Value as Wrapped};
use api::envoy::google::rpc::Status as RpcStatus;
use foreshadow_xds_server::resources::ResourceType;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::adapter::name_of;

/// Longest wait for a response.
const LIMIT: Duration = Duration::from_mins(1);
/// For how long nothing must come.
const SILENCE: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    pub is_delta: bool,
    pub is_aggregated: bool,
}

/// A response, whichever form it came in.
#[derive(Debug, Clone)]
pub struct Got {
    pub kind: ResourceType,
    pub nonce: String,
    pub version: String,
    /// Bodies by name; none in a heartbeat.
    pub resources: BTreeMap<String, Option<Vec<u8>>>,
    pub versions: BTreeMap<String, String>,
    pub removed: BTreeSet<String>,
    pub ttl: Option<i64>,
}

enum Lines {
    World(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>),
    Delta(
        mpsc::Sender<DeltaDiscoveryRequest>,
        Streaming<DeltaDiscoveryResponse>,
    ),
}

macro_rules! open {
    ($server:expr, $variant:expr, $client:ident, $world:ident, $delta:ident) => {{
        let url = format!("http://{}", $server);
        let mut client = $client::connect(url).await.expect("a connection");
        if $variant.is_delta {
            let (requests, stream) = mpsc::channel(64);
            let responses = client.$delta(ReceiverStream::new(stream)).await;
            Lines::Delta(requests, responses.expect("a stream").into_inner())
        } else {
            let (requests, stream) = mpsc::channel(64);
            let responses = client.$world(ReceiverStream::new(stream)).await;
            Lines::World(requests, responses.expect("a stream").into_inner())
        }
    }};
}

async fn lines(server: SocketAddr, variant: Variant, kind: ResourceType) -> Lines {
    if variant.is_aggregated {
        return open!(
            server,
            variant,
            AggregatedDiscoveryServiceClient,
            stream_aggregated_resources,
            delta_aggregated_resources
        );
    }
    match kind {
        ResourceType::Cluster => open!(
            server,
            variant,
            ClusterDiscoveryServiceClient,
            stream_clusters,
            delta_clusters
        ),
        ResourceType::Endpoint => open!(
            server,
            variant,
            EndpointDiscoveryServiceClient,
            stream_endpoints,
            delta_endpoints
        ),
        ResourceType::Listener => open!(
            server,
            variant,
            ListenerDiscoveryServiceClient,
            stream_listeners,
            delta_listeners
        ),
        ResourceType::Route => open!(
            server,
            variant,
            RouteDiscoveryServiceClient,
            stream_routes,
            delta_routes
        ),
        ResourceType::Secret => panic!("no scenario uses secrets"),
    }
}

/// What the client wants and has of a type.
#[derive(Default)]
struct Known {
    names: BTreeSet<String>,
    nonce: String,
    /// Of the whole, in the state-of-the-world form.
    version: String,
    versions: HashMap<String, String>,
    has_asked: bool,
}

pub struct Client {
    server: SocketAddr,
    variant: Variant,
    /// One for all types is kept under the first.
    open: HashMap<ResourceType, Lines>,
    known: HashMap<ResourceType, Known>,
    ttl: Option<u32>,
}

impl Client {
    pub fn new(server: SocketAddr, variant: Variant) -> Self {
        Self {
            server,
            variant,
            open: HashMap::new(),
            known: HashMap::new(),
            ttl: None,
        }
    }

    /// Asks for resources that live for so many seconds.
    pub const fn with_ttl(&mut self, seconds: u32) {
        self.ttl = Some(seconds);
    }

    /// Loses its streams, and begins anew with what it has.
    pub fn reconnect(&mut self) {
        self.open.clear();
        for known in self.known.values_mut() {
            known.nonce.clear();
            known.has_asked = false;
        }
    }

    fn node(&self) -> Node {
        let mut node = Node {
            id: "conformance".to_owned(),
            ..Node::default()
        };
        if let Some(ttl) = self.ttl {
            let value = Wrapped {
                kind: Some(Value::StringValue(ttl.to_string())),
            };
            let fields = [(api::xds::TTL_METADATA.to_owned(), value)].into();
            node.metadata = Some(Struct { fields });
        }
        node
    }

    async fn lines(&mut self, kind: ResourceType) -> &mut Lines {
        let key = if self.variant.is_aggregated {
            ResourceType::Cluster
        } else {
            kind
        };
        if !self.open.contains_key(&key) {
            let lines = lines(self.server, self.variant, kind).await;
            self.open.insert(key, lines);
        }
        self.open.get_mut(&key).expect("just opened")
    }

    /// Says something of a type.
    pub async fn say(
        &mut self,
        kind: ResourceType,
        more: &[String],
        less: &[String],
        (nonce, error): (Option<&str>, Option<&str>),
    ) {
        let node = Some(self.node());
        let known = self.known.entry(kind).or_default();
        let first = !std::mem::replace(&mut known.has_asked, true);
        known.names.extend(more.iter().cloned());
        for name in less {
            known.names.remove(name);
        }
        let error_detail = error.map(|words| RpcStatus {
            code: 3,
            message: words.to_owned(),
            details: Vec::new(),
        });
        let (names, version) = (known.names.iter().cloned().collect(), known.version.clone());
        let last = known.nonce.clone();
        let initial = known.versions.clone();
        let type_url = kind.url().to_owned();
        let (more, less) = (more.to_vec(), less.to_vec());
        match self.lines(kind).await {
            Lines::World(requests, _) => {
                let request = DiscoveryRequest {
                    node,
                    type_url,
                    resource_names: names,
                    version_info: version,
                    response_nonce: nonce.map_or(last, ToOwned::to_owned),
                    error_detail,
                    ..DiscoveryRequest::default()
                };
                requests.send(request).await.expect("an open stream");
            }
            Lines::Delta(requests, _) => {
                let request = DeltaDiscoveryRequest {
                    node,
                    type_url,
                    // Back on a new stream it names all that it wants.
                    resource_names_subscribe: if first { names } else { more },
                    resource_names_unsubscribe: less,
                    initial_resource_versions: if first { initial } else { HashMap::new() },
                    response_nonce: nonce.unwrap_or_default().to_owned(),
                    error_detail,
                    ..DeltaDiscoveryRequest::default()
                };
                requests.send(request).await.expect("an open stream");
            }
        }
    }

    /// Acknowledges a response, or refuses it.
    pub async fn answer(&mut self, got: &Got, error: Option<&str>) {
        let known = self.known.entry(got.kind).or_default();
        known.nonce.clone_from(&got.nonce);
        if error.is_none() {
            known.version.clone_from(&got.version);
            for name in &got.removed {
                known.versions.remove(name);
            }
            known
                .versions
                .extend(got.versions.iter().map(|(n, v)| (n.clone(), v.clone())));
        }
        self.say(got.kind, &[], &[], (Some(&got.nonce), error))
            .await;
    }

    async fn message(&mut self, kind: ResourceType) -> Got {
        match self.lines(kind).await {
            Lines::World(_, responses) => {
                let response = responses.message().await.expect("no error");
                world(response.expect("an open stream"))
            }
            Lines::Delta(_, responses) => {
                let response = responses.message().await.expect("no error");
                delta(response.expect("an open stream"))
            }
        }
    }

    /// The next response of a type.
    pub async fn next(&mut self, kind: ResourceType) -> Got {
        let got = tokio::time::timeout(LIMIT, self.message(kind)).await;
        let got = got.unwrap_or_else(|_| panic!("no response within {LIMIT:?}"));
        assert_eq!(got.kind, kind, "{got:?}");
        got
    }

    /// Whether nothing comes for a while.
    pub async fn is_silent(&mut self, kind: ResourceType) -> Result<(), Got> {
        match tokio::time::timeout(SILENCE, self.message(kind)).await {
            Ok(got) => Err(got),
            Err(_) => Ok(()),
        }
    }
}

fn kind_of(url: &str) -> ResourceType {
    ResourceType::of_url(url).expect("a known type")
}

fn world(response: DiscoveryResponse) -> Got {
    let mut got = Got {
        kind: kind_of(&response.type_url),
        nonce: response.nonce,
        version: response.version_info,
        resources: BTreeMap::new(),
        versions: BTreeMap::new(),
        removed: BTreeSet::new(),
        ttl: None,
    };
    for any in response.resources {
        if any.type_url == api::xds::WRAPPER {
            let wrapped = WireResource::decode(any.value.as_slice()).expect("a wrapper");
            got.ttl = wrapped.ttl.map(|ttl| ttl.seconds);
            let body = wrapped.resource.map(|any| any.value);
            got.resources.insert(wrapped.name, body);
        } else {
            got.resources.insert(name_of(&any), Some(any.value));
        }
    }
    got
}

fn delta(response: DeltaDiscoveryResponse) -> Got {
    let mut got = Got {
        kind: kind_of(&response.type_url),
        nonce: response.nonce,
        version: response.system_version_info,
        resources: BTreeMap::new(),
        versions: BTreeMap::new(),
        removed: response.removed_resources.into_iter().collect(),
        ttl: None,
    };
    for resource in response.resources {
        got.ttl = resource.ttl.map(|ttl| ttl.seconds).or(got.ttl);
        got.versions.insert(resource.name.clone(), resource.version);
        let body = resource.resource.map(|any| any.value);
        got.resources.insert(resource.name, body);
    }
    got
}
