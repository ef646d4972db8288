//! The load reporting service.

use std::pin::Pin;

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

impl Lrs {
    fn wishes(&self) -> LoadStatsResponse {
        let interval = self.0.report_interval;
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
    wishes: LoadStatsResponse,
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
    shared.telemetry.begin(&node, session);
    if out.send(Ok(wishes)).await.is_err() {
        return;
    }
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
        let (shared, wishes) = (self.0.clone(), self.wishes());
        self.0.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => {}
                () = read(&shared, &peer, request.into_inner(), wishes, &out) => {}
            }
            drop(slot);
        });
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(inbox))))
    }
}
