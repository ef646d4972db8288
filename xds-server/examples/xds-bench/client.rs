//! Clients: as many delta streams as asked for, each on a connection of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::envoy::envoy::config::core::v3::Node;
use api::envoy::envoy::config::endpoint::v3::{ClusterStats, UpstreamLocalityStats};
use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use api::envoy::envoy::service::load_stats::v3::{
    LoadStatsRequest, load_reporting_service_client::LoadReportingServiceClient,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::server::SERVICE;

/// Clients that connect at once.
const CONNECTING: usize = 64;
/// For how long load reports are sent.
const REPORTING: Duration = Duration::from_secs(5);
/// Largest response.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

enum News {
    /// A client has everything; so many resources were sent to it that it had already.
    Ready(u64),
    /// A client has received the changed routes.
    Push(f64),
}

/// What one client has, over all its streams.
#[derive(Default)]
struct Known {
    versions: HashMap<String, HashMap<String, String>>,
}

/// Prints times as one line.
pub(crate) fn print(times: &[f64]) {
    let words: Vec<String> = times.iter().map(|at| format!("{at:.0}")).collect();
    println!("{}", words.join(" "));
}

pub(crate) async fn run(streams: usize, port: u16) {
    let (news, mut all) = mpsc::channel(streams);
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    for number in 0..streams {
        let (news, connecting) = (news.clone(), Arc::clone(&connecting));
        tokio::spawn(async move {
            let mut known = Known::default();
            loop {
                let permit = Arc::clone(&connecting).acquire_owned().await.unwrap();
                let mut permit = Some(permit);
                follow(number, port, &mut known, &news, &mut permit).await;
                drop(permit);
                // As proxies do: between half and all of a quarter of a second.
                let spread = u64::try_from(number * 7_919 % 125).unwrap();
                tokio::time::sleep(Duration::from_millis(125 + spread)).await;
            }
        });
    }
    let (mut ready, mut resent, mut first) = (0, 0, true);
    let mut times = Vec::new();
    while let Some(event) = all.recv().await {
        match event {
            News::Ready(again) => {
                ready += 1;
                resent += again;
            }
            News::Push(at) => times.push(at),
        }
        if ready == streams {
            if first {
                println!("ready");
            } else {
                println!("back {resent}");
            }
            (ready, resent, first) = (0, 0, false);
        }
        if times.len() == streams {
            print(&std::mem::take(&mut times));
        }
    }
}

fn request(kind: &str, names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.to_owned(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    }
}

/// One stream from its beginning to its end.
async fn follow(
    number: usize,
    port: u16,
    known: &mut Known,
    news: &mpsc::Sender<News>,
    permit: &mut Option<tokio::sync::OwnedSemaphorePermit>,
) -> Option<()> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).ok()?;
    let mut client = AggregatedDiscoveryServiceClient::new(endpoint.connect().await.ok()?)
        .max_decoding_message_size(MAX_MESSAGE);
    let (out, stream) = mpsc::channel(8);
    let routes = api::xds::service_route_config(SERVICE);
    let is_back = !known.versions.is_empty();
    let mut first = request(api::xds::CLUSTER, vec!["*".to_owned()]);
    first.node = Some(Node {
        id: format!("node-{number}"),
        ..Node::default()
    });
    let endpoints = |known: &Known| {
        let clusters = known.versions.get(api::xds::CLUSTER);
        clusters
            .map(|known| known.keys().cloned().collect())
            .unwrap_or_default()
    };
    let mut requests = vec![first];
    if is_back {
        requests.push(request(api::xds::ENDPOINT, endpoints(known)));
        requests.push(request(api::xds::ROUTE, vec![routes.clone()]));
    }
    for mut request in requests {
        if let Some(versions) = known.versions.get(&request.type_url) {
            request.initial_resource_versions.clone_from(versions);
        }
        out.send(request).await.ok()?;
    }
    let mut responses = client
        .delta_aggregated_resources(ReceiverStream::new(stream))
        .await
        .ok()?
        .into_inner();
    let mut again = 0;
    let mut is_ready = false;
    if is_back {
        *permit = None;
        // What is not sent within a moment is not sent at all; whatever is, counts.
        let quiet = Duration::from_millis(500);
        while let Ok(message) = tokio::time::timeout(quiet, responses.message()).await {
            let response = message.ok()??;
            again += take_in(known, &response);
            out.send(acknowledgement(&response)).await.ok()?;
        }
        is_ready = true;
        news.send(News::Ready(again)).await.ok()?;
    }
    loop {
        let response = responses.message().await.ok()??;
        let is_routes = response.type_url == api::xds::ROUTE;
        take_in(known, &response);
        out.send(acknowledgement(&response)).await.ok()?;
        if is_ready && is_routes {
            news.send(News::Push(crate::report::now_us())).await.ok()?;
        } else if response.type_url == api::xds::CLUSTER && !is_ready {
            out.send(request(api::xds::ENDPOINT, endpoints(known)))
                .await
                .ok()?;
        } else if response.type_url == api::xds::ENDPOINT && !is_ready {
            out.send(request(api::xds::ROUTE, vec![routes.clone()]))
                .await
                .ok()?;
        } else if is_routes {
            is_ready = true;
            *permit = None;
            news.send(News::Ready(again)).await.ok()?;
        }
    }
}

fn acknowledgement(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: response.nonce.clone(),
        ..request(&response.type_url, Vec::new())
    }
}

/// Keeps the versions. How many of them were known already.
fn take_in(known: &mut Known, response: &DeltaDiscoveryResponse) -> u64 {
    let versions = known.versions.entry(response.type_url.clone()).or_default();
    for name in &response.removed_resources {
        versions.remove(name);
    }
    let resources = response.resources.iter();
    let old = resources.filter(|resource| {
        let before = versions.insert(resource.name.clone(), resource.version.clone());
        before.as_ref() == Some(&resource.version)
    });
    u64::try_from(old.count()).unwrap()
}

/// Load reports, as fast as they are taken.
pub(crate) async fn report(streams: usize, port: u16) {
    let sent = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut tasks = Vec::new();
    for number in 0..streams {
        let sent = Arc::clone(&sent);
        tasks.push(tokio::spawn(async move {
            let endpoint = format!("http://127.0.0.1:{port}");
            let mut client = LoadReportingServiceClient::connect(endpoint).await.unwrap();
            let (out, stream) = mpsc::channel(4);
            let hello = LoadStatsRequest {
                node: Some(Node {
                    id: format!("node-{number}"),
                    ..Node::default()
                }),
                ..LoadStatsRequest::default()
            };
            out.send(hello).await.unwrap();
            let stream = ReceiverStream::new(stream);
            let mut wishes = client.stream_load_stats(stream).await.unwrap().into_inner();
            wishes.message().await.unwrap();
            while began.elapsed() < REPORTING {
                let cluster = |side: &str| ClusterStats {
                    cluster_name: format!("{SERVICE}~{SERVICE}-1~{side}"),
                    upstream_locality_stats: vec![UpstreamLocalityStats {
                        total_successful_requests: 10,
                        ..UpstreamLocalityStats::default()
                    }],
                    ..ClusterStats::default()
                };
                let report = LoadStatsRequest {
                    node: None,
                    cluster_stats: vec![cluster("original"), cluster("shadow")],
                };
                out.send(report).await.unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{} {seconds}", sent.load(Ordering::Relaxed));
    // The server is measured while the streams are still there.
    tokio::time::sleep(Duration::from_secs(1)).await;
}
