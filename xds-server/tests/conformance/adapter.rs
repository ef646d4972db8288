//! The adapter: a small gRPC service by which a conformance suite, ours or another, sets what the
//! control plane publishes. Its calls mean what those of the public xds-test-harness of ii mean.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::envoy::google::protobuf::Any;
use foreshadow_xds_server::XdsServer;
use foreshadow_xds_server::resources::{Resource, ResourceType};
use prost::{Message as _, encoding};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Names of one type: all that shall be published of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Names {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(string, repeated, tag = "2")]
    pub names: Vec<String>,
}

/// One resource.
#[derive(Clone, PartialEq, prost::Message)]
pub struct One {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(string, tag = "2")]
    pub name: String,
    /// Another version has other content.
    #[prost(string, tag = "3")]
    pub version: String,
}

/// What a call does. `SetState` and `ClearState` are for a type as a whole, the others for a resource.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Call {
    #[prost(message, optional, tag = "1")]
    pub names: Option<Names>,
    #[prost(message, optional, tag = "2")]
    pub one: Option<One>,
    #[prost(string, tag = "3")]
    pub version: String,
}

/// Done.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Done {}

const METHODS: [&str; 5] = [
    "SetState",
    "ClearState",
    "AddResource",
    "UpdateResource",
    "RemoveResource",
];

/// The name first, then fields that no message has and every reader skips: content of that version.
fn body(kind: ResourceType, name: &str, version: &str) -> Resource {
    let mut value = Vec::new();
    encoding::string::encode(1, &name.to_owned(), &mut value);
    encoding::string::encode(15_000, &version.to_owned(), &mut value);
    Resource::encoded(name, kind.url(), value)
}

/// What every type has in common.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// The name in a resource of any type.
pub fn name_of(any: &Any) -> String {
    let named = Named::decode(any.value.as_slice());
    named.expect("a resource with a name").name
}

struct State {
    server: XdsServer,
    published: Vec<(ResourceType, String)>,
}

impl State {
    async fn put(
        &mut self,
        one: (ResourceType, &str),
        version: Option<&str>,
    ) -> Result<(), Status> {
        let (kind, name) = one;
        let resource = version.map(|version| body(kind, name, version));
        self.published
            .retain(|(of, known)| (*of, known.as_str()) != (kind, name));
        if resource.is_some() {
            self.published.push((kind, name.to_owned()));
        }
        let stopped = |_| Status::unavailable("the control plane has stopped");
        self.server
            .put_extra(kind, name, resource)
            .await
            .map_err(stopped)
    }

    async fn clear(&mut self, only: Option<ResourceType>) -> Result<(), Status> {
        let gone = |(kind, _): &&(ResourceType, String)| only.is_none_or(|only| only == *kind);
        let gone: Vec<_> = self.published.iter().filter(gone).cloned().collect();
        for (kind, name) in gone {
            self.put((kind, &name), None).await?;
        }
        Ok(())
    }

    async fn serve(&mut self, method: &str, call: Call) -> Result<(), Status> {
        let kind = |url: &str| {
            let unknown = || Status::invalid_argument(format!("type_url {url:?} is not served"));
            ResourceType::of_url(url).ok_or_else(unknown)
        };
        match (method, call) {
            (
                "SetState",
                Call {
                    names: Some(names),
                    version,
                    ..
                },
            ) => {
                let kind = kind(&names.type_url)?;
                self.clear(Some(kind)).await?;
                for name in &names.names {
                    self.put((kind, name), Some(&version)).await?;
                }
                Ok(())
            }
            ("ClearState", _) => self.clear(None).await,
            ("AddResource" | "UpdateResource", Call { one: Some(one), .. }) => {
                let kind = kind(&one.type_url)?;
                self.put((kind, &one.name), Some(&one.version)).await
            }
            ("RemoveResource", Call { one: Some(one), .. }) => {
                self.put((kind(&one.type_url)?, &one.name), None).await
            }
            (method, _) => Err(Status::invalid_argument(format!(
                "{method}: a field is missing"
            ))),
        }
    }
}

/// The service.
#[derive(Clone)]
struct Adapter(Arc<Mutex<State>>);

struct Method(Adapter, &'static str);

impl UnaryService<Call> for Method {
    type Response = Done;
    type Future = BoxFuture<Response<Done>, Status>;

    fn call(&mut self, request: Request<Call>) -> Self::Future {
        let (adapter, method) = (self.0.clone(), self.1);
        Box::pin(async move {
            let mut state = adapter.0.lock().await;
            state.serve(method, request.into_inner()).await?;
            Ok(Response::new(Done {}))
        })
    }
}

impl NamedService for Adapter {
    const NAME: &'static str = "adapter.Adapter";
}

impl Service<http::Request<Body>> for Adapter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let name = path.rsplit('/').next().unwrap_or_default();
        let Some(method) = METHODS.into_iter().find(|method| *method == name) else {
            return Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) });
        };
        let method = Method(self.clone(), method);
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Done, Call>::default());
            Ok(grpc.unary(method, request).await)
        })
    }
}

/// Serves the adapter of a control plane until the runtime ends.
pub async fn open(server: XdsServer) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let adapter = Adapter(Arc::new(Mutex::new(State {
        server,
        published: Vec::new(),
    })));
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(adapter)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    address
}

/// Who drives it.
#[derive(Clone)]
pub struct Driver(tonic::client::Grpc<tonic::transport::Channel>);

impl Driver {
    pub async fn connect(adapter: SocketAddr) -> Self {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{adapter}"));
        let channel = endpoint
            .expect("an address")
            .connect()
            .await
            .expect("the adapter");
        Self(tonic::client::Grpc::new(channel))
    }

    pub async fn call(&mut self, method: &str, call: Call) -> Result<(), Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = format!("/adapter.Adapter/{method}")
            .parse()
            .expect("a path");
        let codec = ProstCodec::<Call, Done>::default();
        self.0
            .unary(Request::new(call), path, codec)
            .await
            .map(|_| ())
    }
}
