//! A scripted control plane: delta ADS and LRS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
    aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    },
};
use api::envoy::envoy::service::load_stats::v3::{
    LoadStatsRequest, LoadStatsResponse,
    load_reporting_service_server::{LoadReportingService, LoadReportingServiceServer},
};
use api::envoy::google::protobuf::{Any, Duration as WireDuration};
use domain::{Counts, LatencyHistogram, Pairs};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::message::{self, Service};

pub const KINDS: [&str; 3] = [api::xds::CLUSTER, api::xds::ENDPOINT, api::xds::ROUTE];

#[derive(Default)]
pub struct World {
    version: u64,
    resources: BTreeMap<(String, String), Resource>,
    /// Endpoints are not given out while this is set.
    pub withhold_endpoints: bool,
    pub requests: Vec<DeltaDiscoveryRequest>,
    pub nacks: Vec<(String, String)>,
    /// Versions of the last acknowledged response, by type.
    pub acknowledged: BTreeMap<String, u64>,
    pub loads: BTreeMap<String, Counts>,
    pub issued: BTreeMap<String, u64>,
    pub reports: u64,
    pub pairs: BTreeMap<String, Pairs>,
}

impl World {
    fn set<M: Message>(&mut self, kind: &str, name: &str, message: &M) {
        self.version += 1;
        let any = Any {
            type_url: kind.to_owned(),
            value: message.encode_to_vec(),
        };
        self.set_any(kind, name, any);
    }

    fn set_any(&mut self, kind: &str, name: &str, any: Any) {
        let resource = Resource {
            name: name.to_owned(),
            version: self.version.to_string(),
            resource: Some(any),
            ..Resource::default()
        };
        self.resources
            .insert((kind.to_owned(), name.to_owned()), resource);
    }
}

#[derive(Clone)]
pub struct Control {
    pub address: SocketAddr,
    world: Arc<Mutex<World>>,
    changed: Arc<watch::Sender<u64>>,
    stop: CancellationToken,
}

impl Control {
    pub async fn start() -> Self {
        Self::serve(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::default()).await
    }

    /// The same control plane again, at the same address, after [`Control::stop`].
    pub async fn restart(&self) -> Self {
        Self::serve(self.address, Arc::clone(&self.world)).await
    }

    async fn serve(address: SocketAddr, world: Arc<Mutex<World>>) -> Self {
        let mut listener = tokio::net::TcpListener::bind(address).await;
        for _ in 0..200 {
            if listener.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            listener = tokio::net::TcpListener::bind(address).await;
        }
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        let control = Self {
            address,
            world,
            changed: Arc::new(watch::channel(0).0),
            stop: CancellationToken::new(),
        };
        let stop = control.stop.clone();
        let server = tonic::transport::Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(control.clone()))
            .add_service(LoadReportingServiceServer::new(control.clone()))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
                stop.cancelled().await;
            });
        tokio::spawn(server);
        control
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn push(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub fn cluster(&self, name: &str, addresses: &[SocketAddr]) {
        {
            let mut world = self.world();
            world.set(api::xds::CLUSTER, name, &message::cluster(name));
            world.set(
                api::xds::ENDPOINT,
                name,
                &message::endpoints(name, addresses),
            );
        }
        self.push();
    }

    pub fn endpoints(&self, name: &str, assignment: &ClusterLoadAssignment) {
        self.world().set(api::xds::ENDPOINT, name, assignment);
        self.push();
    }

    /// Gives the version that its acknowledgement will name.
    pub fn routes(&self, services: &[Service]) -> u64 {
        self.route_message(&message::routes(services))
    }

    pub fn route_message<M: Message>(&self, message: &M) -> u64 {
        let version = {
            let mut world = self.world();
            world.set(api::xds::ROUTE, api::xds::ROUTE_CONFIG, message);
            world.version
        };
        self.push();
        version
    }

    pub fn remove(&self, cluster: &str) -> u64 {
        let version = {
            let mut world = self.world();
            world.version += 1;
            for kind in [api::xds::CLUSTER, api::xds::ENDPOINT] {
                world
                    .resources
                    .remove(&(kind.to_owned(), cluster.to_owned()));
            }
            world.version
        };
        self.push();
        version
    }

    pub async fn acknowledged(&self, kind: &str, version: u64) {
        super::until(
            &format!("version {version} of {kind} is acknowledged"),
            || async {
                self.world()
                    .acknowledged
                    .get(kind)
                    .is_some_and(|&newest| newest >= version)
            },
        )
        .await;
    }

    /// What paired answers of a shadow's cluster said, as reported in all.
    pub fn pairs_of(&self, cluster: &str) -> Pairs {
        self.world().pairs.get(cluster).cloned().unwrap_or_default()
    }

    /// Successes, errors, latencies of a cluster, as reported in all.
    pub fn load_of(&self, cluster: &str) -> Counts {
        self.world().loads.get(cluster).cloned().unwrap_or_default()
    }
}

type Out<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// What one client has been told.
#[derive(Default)]
struct Told {
    wildcard: bool,
    names: BTreeMap<String, Vec<String>>,
    versions: BTreeMap<(String, String), String>,
    in_flight: BTreeMap<String, (String, u64)>,
    nonce: u64,
}

impl Told {
    fn request(&mut self, control: &Control, request: &DeltaDiscoveryRequest) {
        let kind = request.type_url.clone();
        for (name, version) in &request.initial_resource_versions {
            self.versions
                .insert((kind.clone(), name.clone()), version.clone());
        }
        for name in &request.resource_names_subscribe {
            if name == "*" {
                self.wildcard = true;
            } else {
                self.names
                    .entry(kind.clone())
                    .or_default()
                    .push(name.clone());
            }
        }
        for name in &request.resource_names_unsubscribe {
            self.names
                .entry(kind.clone())
                .or_default()
                .retain(|known| known != name);
            self.versions.remove(&(kind.clone(), name.clone()));
        }
        let mut world = control.world();
        if let Some((kind, version)) = self.in_flight.remove(&request.response_nonce) {
            match &request.error_detail {
                None => {
                    world.acknowledged.insert(kind, version);
                }
                Some(error) => world.nacks.push((kind, error.message.clone())),
            }
        }
        world.requests.push(request.clone());
    }

    fn response(&mut self, control: &Control, kind: &str) -> Option<DeltaDiscoveryResponse> {
        let world = control.world();
        if kind == api::xds::ENDPOINT && world.withhold_endpoints {
            return None;
        }
        let follows = |name: &String| {
            (kind == api::xds::CLUSTER && self.wildcard)
                || self
                    .names
                    .get(kind)
                    .is_some_and(|names| names.contains(name))
        };
        let mut response = DeltaDiscoveryResponse {
            type_url: kind.to_owned(),
            ..Default::default()
        };
        for ((_, name), resource) in world.resources.iter().filter(|((of, _), _)| of == kind) {
            let key = (kind.to_owned(), name.clone());
            if follows(name) && self.versions.get(&key) != Some(&resource.version) {
                self.versions.insert(key, resource.version.clone());
                response.resources.push(resource.clone());
            }
        }
        if kind == api::xds::CLUSTER {
            let gone: Vec<_> = self
                .versions
                .keys()
                .filter(|key| key.0 == kind && !world.resources.contains_key(*key))
                .cloned()
                .collect();
            for key in gone {
                self.versions.remove(&key);
                response.removed_resources.push(key.1);
            }
        }
        if response.resources.is_empty() && response.removed_resources.is_empty() {
            return None;
        }
        self.nonce += 1;
        response.nonce = format!("n{}", self.nonce);
        self.in_flight
            .insert(response.nonce.clone(), (kind.to_owned(), world.version));
        Some(response)
    }
}

async fn discover(
    control: Control,
    mut incoming: Streaming<DeltaDiscoveryRequest>,
    out: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    let mut told = Told::default();
    let mut changed = control.changed.subscribe();
    loop {
        for kind in KINDS {
            while let Some(response) = told.response(&control, kind) {
                if out.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            biased;
            () = control.stop.cancelled() => return,
            message = incoming.message() => match message {
                Ok(Some(request)) => told.request(&control, &request),
                _ => return,
            },
            _ = changed.changed() => {}
        }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Control {
    type StreamAggregatedResourcesStream = Out<DiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    type DeltaAggregatedResourcesStream = Out<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (out, inbox) = mpsc::channel(16);
        tokio::spawn(discover(self.clone(), request.into_inner(), out));
        Ok(Response::new(Box::pin(ReceiverStream::new(inbox))))
    }
}

#[tonic::async_trait]
impl LoadReportingService for Control {
    type StreamLoadStatsStream = Out<LoadStatsResponse>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let (out, inbox) = mpsc::channel(1);
        let control = self.clone();
        tokio::spawn(async move {
            let mut incoming = request.into_inner();
            let wish = LoadStatsResponse {
                send_all_clusters: true,
                load_reporting_interval: Some(WireDuration {
                    seconds: 0,
                    nanos: 100_000_000,
                }),
                ..LoadStatsResponse::default()
            };
            out.send(Ok(wish)).await.unwrap();
            loop {
                let message = tokio::select! {
                    biased;
                    () = control.stop.cancelled() => return,
                    message = incoming.message() => message,
                };
                let Ok(Some(report)) = message else { return };
                control.take(&report);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(inbox))))
    }
}

impl Control {
    fn take(&self, report: &LoadStatsRequest) {
        let mut world = self.world();
        world.reports += 1;
        for cluster in &report.cluster_stats {
            for locality in &cluster.upstream_locality_stats {
                let mut latency = LatencyHistogram::default();
                for metric in &locality.load_metric_stats {
                    let count = metric.num_requests_finished_with_metric;
                    if let Some(bucket) = api::latency::bucket_of(&metric.metric_name) {
                        latency.add(bucket, count);
                        continue;
                    }
                    let pairs = world.pairs.entry(cluster.cluster_name.clone());
                    let known = api::pairs::add(pairs.or_default(), &metric.metric_name, count)
                        || api::sessions::add(&mut Counts::default(), &metric.metric_name, count);
                    assert!(known, "{} is not understood", metric.metric_name);
                }
                let counts = Counts {
                    success: locality.total_successful_requests,
                    error: locality.total_error_requests,
                    in_progress: 0,
                    latency,
                };
                let name = cluster.cluster_name.clone();
                *world.issued.entry(name.clone()).or_default() += locality.total_issued_requests;
                let sum = world.loads.entry(name).or_default();
                sum.merge(&counts);
                sum.in_progress = locality.total_requests_in_progress;
            }
        }
    }
}
