//! The service, as a code generator would write it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::{Body as HttpBody, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::{GetForecastRequest, InstanceForecast, PushReply, PushRequest, WatchForecastsRequest};

/// The service's name.
pub const NAME: &str = "foreshadow.v1.Forecasting";
/// Largest request, in bytes: ten thousand samples with long names.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// The path of a method.
pub fn path(method: &str) -> String {
    format!("/{NAME}/{method}")
}

/// What serves it.
pub trait Forecasting: Send + Sync + 'static {
    /// What a watch sends.
    type Watching: Stream<Item = Result<InstanceForecast, Status>> + Send + 'static;

    /// Takes samples in.
    fn push(&self, request: PushRequest) -> Result<PushReply, Status>;

    /// The forecasts of an instance.
    fn get(
        &self,
        request: GetForecastRequest,
    ) -> impl Future<Output = Result<InstanceForecast, Status>> + Send;

    /// Forecasts from now on.
    fn watch(&self, request: WatchForecastsRequest) -> Result<Self::Watching, Status>;
}

/// The service over HTTP/2.
#[derive(Debug)]
pub struct ForecastingServer<T>(Arc<T>);

impl<T> Clone for ForecastingServer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Forecasting> ForecastingServer<T> {
    /// Serves what is given.
    pub fn new(inner: T) -> Self {
        Self(Arc::new(inner))
    }
}

impl<T> NamedService for ForecastingServer<T> {
    const NAME: &'static str = NAME;
}

struct Push<T>(Arc<T>);

impl<T: Forecasting> UnaryService<PushRequest> for Push<T> {
    type Response = PushReply;
    type Future = BoxFuture<Response<PushReply>, Status>;

    fn call(&mut self, request: Request<PushRequest>) -> Self::Future {
        let done = self.0.push(request.into_inner());
        Box::pin(async move { done.map(Response::new) })
    }
}

struct Get<T>(Arc<T>);

impl<T: Forecasting> UnaryService<GetForecastRequest> for Get<T> {
    type Response = InstanceForecast;
    type Future = BoxFuture<Response<InstanceForecast>, Status>;

    fn call(&mut self, request: Request<GetForecastRequest>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.get(request.into_inner()).await.map(Response::new) })
    }
}

struct Watch<T>(Arc<T>);

impl<T: Forecasting> ServerStreamingService<WatchForecastsRequest> for Watch<T> {
    type Response = InstanceForecast;
    type ResponseStream = T::Watching;
    type Future = BoxFuture<Response<T::Watching>, Status>;

    fn call(&mut self, request: Request<WatchForecastsRequest>) -> Self::Future {
        let begun = self.0.watch(request.into_inner());
        Box::pin(async move { begun.map(Response::new) })
    }
}

fn grpc<Out, In>() -> Grpc<ProstCodec<Out, In>>
where
    Out: prost::Message + Send + 'static,
    In: prost::Message + Default + Send + 'static,
{
    Grpc::new(ProstCodec::default()).apply_max_message_size_config(Some(MAX_MESSAGE), None)
}

impl<T, B> Service<http::Request<B>> for ForecastingServer<T>
where
    T: Forecasting,
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        match method {
            "Push" => Box::pin(async move { Ok(grpc().unary(Push(inner), request).await) }),
            "GetForecast" => Box::pin(async move { Ok(grpc().unary(Get(inner), request).await) }),
            "WatchForecasts" => {
                Box::pin(async move { Ok(grpc().server_streaming(Watch(inner), request).await) })
            }
            _ => Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) }),
        }
    }
}
