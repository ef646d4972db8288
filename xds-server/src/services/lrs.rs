//! The load reporting service.

use std::pin::Pin;
use std::time::Duration;

use api::envoy::envoy::config::endpoint::v3::ClusterStats;
use api::envoy::envoy::service::load_stats::v3::{
    LoadStatsRequest, LoadStatsResponse, load_reporting_service_server::LoadReportingService,
};
use api::envoy::google::protobuf::Duration as WireDuration;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Shared;
use crate::telemetry::Session;
use crate::tls::Peer;

/// The service.
pub(crate) struct Lrs(pub(crate) Shared);

type Out = mpsc::Sender<Result<LoadStatsResponse, Status>>;

/// While an instance is under migration and more than this many requests of it come in one report,
/// whoever judges it is told twice as often, down to [`OFTEN`]; with fewer than [`LITTLE`] half as
/// often again.
const MUCH: u64 = 100;
/// See [`MUCH`].
const LITTLE: u64 = 20;
/// The shortest time between reports that is asked for.
const OFTEN: Duration = Duration::from_millis(60);

/// How often to ask for reports after one with so many requests.
fn interval(asked: Duration, usual: Duration, requests: u64) -> Duration {
    let often = OFTEN.min(usual);
    match requests {
        MUCH.. => (asked / 2).max(often),
        LITTLE.. => asked,
        _ => (asked * 2).min(usual),
    }
}

/// Requests to the clusters of instances under migration in one report.
fn migrating(stats: &[ClusterStats]) -> u64 {
    let temporary = stats
        .iter()
        .filter(|stats| stats.cluster_name.contains('~'));
    let localities = temporary.flat_map(|stats| &stats.upstream_locality_stats);
    localities.fold(0, |sum, locality| {
        sum.saturating_add(locality.total_successful_requests)
            .saturating_add(locality.total_error_requests)
    })
}

impl Lrs {
    fn wishes(interval: Duration) -> LoadStatsResponse {
        LoadStatsResponse {
            clusters: Vec::new(),
            send_all_clusters: true,
            load_reporting_interval: Some(WireDuration {
                seconds: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(interval.subsec_nanos()).unwrap_or(0),
            }),
            report_endpoint_granularity: false,
        }
    }
}

async fn read(
    shared: &Shared,
    peer: &Peer,
    mut reports: tonic::Streaming<LoadStatsRequest>,
    usual: Duration,
    out: &Out,
) {
    let Ok(Some(first)) = reports.message().await else {
        return;
    };
    let node = match peer.node(first.node.as_ref()) {
        Ok(node) => node,
        Err(status) => {
            tracing::warn!(reason = status.message(), "load reports refused");
            shared.metrics.refused_streams.add(1);
            // The channel is empty: there is room.
            let _ = out.try_send(Err(status));
            return;
        }
    };
    let session = Session::new(shared.clock.now(), shared.number());
    let agent = first.node.as_ref().map(|node| &*node.user_agent_name);
    let holds = agent == Some(api::xds::PROXY_AGENT);
    shared.telemetry.begin(&node, session);
    if holds {
        shared.telemetry.can_hold(&node);
    }
    if out.send(Ok(Lrs::wishes(usual))).await.is_err() {
        return;
    }
    let mut asked = usual;
    loop {
        let message = tokio::select! {
            biased;
            () = out.closed() => return,
            message = reports.message() => message,
        };
        let Ok(Some(report)) = message else { return };
        shared.metrics.load_reports.add(1);
        shared
            .telemetry
            .load(&node, session, &report.cluster_stats, shared.clock.now());
        let wanted = interval(asked, usual, migrating(&report.cluster_stats));
        // One that does not read its answers is asked again at its next report.
        if wanted != asked && out.try_send(Ok(Lrs::wishes(wanted))).is_ok() {
            asked = wanted;
        }
    }
}

#[tonic::async_trait]
impl LoadReportingService for Lrs {
    type StreamLoadStatsStream =
        Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

    async fn stream_load_stats(
        &self,
        request: tonic::Request<tonic::Streaming<LoadStatsRequest>>,
    ) -> Result<tonic::Response<Self::StreamLoadStatsStream>, Status> {
        let peer = Peer::of(request.extensions());
        let slot = self.0.telemetry_slot()?;
        let (out, inbox) = mpsc::channel(1);
        let (shared, usual) = (self.0.clone(), self.0.report_interval);
        self.0.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => {}
                () = read(&shared, &peer, request.into_inner(), usual, &out) => {}
            }
            drop(slot);
        });
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(inbox))))
    }
}

#[cfg(test)]
mod tests {
    use api::envoy::envoy::config::endpoint::v3::UpstreamLocalityStats;

    use super::*;

    #[test]
    fn whoever_has_much_to_report_of_a_migration_is_asked_more_often_until_that_is_over() {
        let usual = Duration::from_millis(250);
        let mut asked = usual;
        for expected in [125, 62, 60, 60] {
            asked = interval(asked, usual, 5_000);
            assert_eq!(asked.as_millis(), expected);
        }
        assert_eq!(interval(asked, usual, 50), asked);
        for expected in [120, 240, 250, 250] {
            asked = interval(asked, usual, 0);
            assert_eq!(asked.as_millis(), expected);
        }
        let short = Duration::from_millis(50);
        assert_eq!(interval(short, short, 5_000), short);
    }

    #[test]
    fn only_clusters_of_a_migration_count() {
        let stats = |name: &str, good, bad| ClusterStats {
            cluster_name: name.to_owned(),
            upstream_locality_stats: vec![UpstreamLocalityStats {
                total_successful_requests: good,
                total_error_requests: bad,
                ..UpstreamLocalityStats::default()
            }],
            ..ClusterStats::default()
        };
        let all = [
            stats("shop", 900, 9),
            stats("shop~i~shadow", 7, 2),
            stats("shop~i~original", 5, 0),
        ];
        assert_eq!(migrating(&all), 14);
    }
}
