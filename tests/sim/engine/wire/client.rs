//! A proxy's end of the connection: discovery and load reports over HTTP/2, opened anew whenever
//! they are lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::envoy::envoy::config::endpoint::v3::{
    ClusterStats, EndpointLoadMetricStats, UpstreamLocalityStats,
};
use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DiscoveryRequest,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use api::envoy::envoy::service::load_stats::v3::{
    LoadStatsRequest, load_reporting_service_client::LoadReportingServiceClient,
};
use domain::{Counts, NodeId};
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use xds_server::gate::StreamId;
use xds_server::resources::ResourceType;
use xds_server::stream::{Protocol, Request};

use super::super::clock::millis;
use super::super::faults::Fault;
use super::super::proxy::Message;
use super::super::rng::Rng;
use super::super::world::World;
use super::{link, words};

/// How often a proxy reports its load.
pub(crate) const REPORTS: Duration = Duration::from_millis(150);
/// A control plane that died without a word is noticed within the sum of these.
const KEEPALIVE: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long opening the streams may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Requests that wait to be sent.
const WAITING: usize = 256;

#[derive(Debug)]
enum Ads {
    Delta(mpsc::Sender<DeltaDiscoveryRequest>),
    World(mpsc::Sender<DiscoveryRequest>),
}

/// A proxy's open streams.
#[derive(Debug)]
pub(crate) struct Lines {
    ads: Ads,
    loads: mpsc::Sender<LoadStatsRequest>,
    /// What was reported last.
    reported: BTreeMap<String, Counts>,
}

impl Lines {
    /// Sends what a proxy says. What does not fit is as lost as the stream, which is full.
    pub(crate) fn say(&mut self, node: &NodeId, kind: ResourceType, request: Request) {
        match (&self.ads, request) {
            (
                Ads::Delta(line),
                Request::Delta {
                    subscribe,
                    unsubscribe,
                    initial,
                    nonce,
                    error: _,
                },
            ) => {
                let names = (subscribe, unsubscribe);
                let _ = line.try_send(words::delta_request(node, kind, names, initial, nonce));
            }
            (
                Ads::World(line),
                Request::World {
                    names,
                    version,
                    nonce,
                    error: _,
                },
            ) => {
                let _ = line.try_send(words::world_request(node, kind, names, version, nonce));
            }
            (Ads::Delta(_) | Ads::World(_), _) => {}
        }
    }

    /// Reports what a proxy has counted since the last time.
    pub(crate) fn report(&mut self, node: &NodeId, counts: &BTreeMap<String, Counts>) {
        let mut stats = Vec::new();
        for (name, now) in counts {
            let before = self.reported.entry(name.clone()).or_default();
            stats.push(since(name, now, before));
            before.clone_from(now);
        }
        let report = LoadStatsRequest {
            node: Some(words::node(node)),
            cluster_stats: stats,
        };
        let _ = self.loads.try_send(report);
    }
}

fn since(name: &str, now: &Counts, before: &Counts) -> ClusterStats {
    let latency = now.latency.since(&before.latency);
    let counted = latency.counts().iter().enumerate();
    let metrics = counted.filter(|(_, count)| **count > 0);
    let locality = UpstreamLocalityStats {
        total_successful_requests: now.success.saturating_sub(before.success),
        total_error_requests: now.error.saturating_sub(before.error),
        total_requests_in_progress: now.in_progress,
        load_metric_stats: metrics
            .map(|(bucket, count)| EndpointLoadMetricStats {
                metric_name: api::latency::bucket_metric(bucket),
                num_requests_finished_with_metric: *count,
                total_metric_value: 0.0,
            })
            .collect(),
        ..UpstreamLocalityStats::default()
    };
    ClusterStats {
        cluster_name: name.to_owned(),
        upstream_locality_stats: vec![locality],
        ..ClusterStats::default()
    }
}

/// Keeps a proxy connected for ever.
pub(super) async fn run(world: Arc<World>, index: usize, seed: u64) {
    let mut rng = Rng::new(seed, 310 + index as u64);
    let mut pause = 0;
    loop {
        sleep(Duration::from_millis(pause)).await;
        pause = rng.between(50, 1_500);
        let Some(end) = link::dial(&world, index, &mut rng).await else {
            pause = 50;
            continue;
        };
        let protocol = world.state().proxies[index].protocol;
        let Ok(Some(channel)) = timeout(PATIENCE, connect(end)).await else {
            continue;
        };
        match protocol {
            Protocol::Delta => delta(&world, index, channel, &mut rng).await,
            Protocol::StateOfTheWorld => sotw(&world, index, channel, &mut rng).await,
        }
        let mut state = world.state();
        state.net.lines.remove(&index);
        state.net.cut(index);
        if state.proxies[index].lose_stream().is_some() {
            let node = state.proxies[index].node.clone();
            state
                .history
                .say(&format!("network  {node} has lost its stream"));
        }
    }
}

async fn connect(end: DuplexStream) -> Option<Channel> {
    let end = Mutex::new(Some(TokioIo::new(end)));
    let dial = tower::service_fn(move |_: http::Uri| {
        let end = end.lock().unwrap_or_else(PoisonError::into_inner).take();
        // One connection: who needs another one opens everything anew.
        std::future::ready(end.ok_or_else(|| std::io::Error::other("it is gone")))
    });
    Endpoint::from_static("http://plane")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(dial)
        .await
        .ok()
}

/// The streams are open: the proxy says what it has.
fn opened(world: &World, index: usize, ads: Ads, loads: mpsc::Sender<LoadStatsRequest>) {
    let mut state = world.state();
    state.net.streams += 1;
    let id = StreamId(state.net.streams);
    let node = state.proxies[index].node.clone();
    let mut lines = Lines {
        ads,
        loads,
        reported: BTreeMap::new(),
    };
    lines.report(&node, &BTreeMap::new());
    state.net.lines.insert(index, lines);
    state.proxies[index].begin(id);
    state.history.say(&format!("network  {node} has a stream"));
}

async fn report(
    channel: Channel,
    reports: mpsc::Receiver<LoadStatsRequest>,
) -> Result<(), tonic::Status> {
    let mut service = LoadReportingServiceClient::new(channel);
    let reports = ReceiverStream::new(reports);
    let mut wishes = service.stream_load_stats(reports).await?.into_inner();
    while wishes.message().await?.is_some() {}
    Ok(())
}

async fn delta(world: &Arc<World>, index: usize, channel: Channel, rng: &mut Rng) {
    let (line, requests) = mpsc::channel(WAITING);
    let (loads, reports) = mpsc::channel(WAITING);
    let mut service = AggregatedDiscoveryServiceClient::new(channel.clone());
    let reporting = tokio::spawn(report(channel, reports));
    // The first request goes with the stream.
    opened(world, index, Ads::Delta(line), loads);
    let stream = service.delta_aggregated_resources(ReceiverStream::new(requests));
    if let Ok(Ok(answer)) = timeout(PATIENCE, stream).await {
        let mut responses = answer.into_inner();
        while let Ok(Some(response)) = responses.message().await {
            hear(world, index, words::of_delta(response), rng);
        }
    }
    reporting.abort();
}

async fn sotw(world: &Arc<World>, index: usize, channel: Channel, rng: &mut Rng) {
    let (line, requests) = mpsc::channel(WAITING);
    let (loads, reports) = mpsc::channel(WAITING);
    let mut service = AggregatedDiscoveryServiceClient::new(channel.clone());
    let reporting = tokio::spawn(report(channel, reports));
    opened(world, index, Ads::World(line), loads);
    let stream = service.stream_aggregated_resources(ReceiverStream::new(requests));
    if let Ok(Ok(answer)) = timeout(PATIENCE, stream).await {
        let mut responses = answer.into_inner();
        while let Ok(Some(response)) = responses.message().await {
            hear(world, index, words::of_world(response), rng);
        }
    }
    reporting.abort();
}

fn in_words(message: &Message) -> String {
    let names: Vec<&str> = message
        .items
        .iter()
        .map(|item| item.name.as_str())
        .collect();
    let (kind, removed) = (message.kind.short_name(), &message.removed);
    format!(
        "{kind} {} - {} ({})",
        names.join(" "),
        removed.join(" "),
        message.nonce
    )
}

fn hear(world: &World, index: usize, message: Option<Message>, rng: &mut Rng) {
    let now = millis(world.began);
    let mut state = world.state();
    let delay = if state.is(Fault::ProxySlow(index)) {
        rng.between(300, 2_500)
    } else {
        rng.between(1, 20)
    };
    match message {
        Some(message) => {
            let node = state.proxies[index].node.clone();
            let told = in_words(&message);
            state
                .history
                .say(&format!("wire     {node} is told {told}"));
            state.proxies[index].receive(now + delay, message);
        }
        None => state.violate("the control plane sent a type that nobody knows".to_owned()),
    }
}
