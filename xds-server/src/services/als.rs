//! The access log service: latencies of Envoys, which load reports lack.

use api::envoy::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse, access_log_service_server::AccessLogService,
    stream_access_logs_message::LogEntries,
};
use tonic::Status;

use super::Shared;
use crate::telemetry::Session;
use crate::tls::Peer;

/// The service.
pub(crate) struct Als(pub(crate) Shared);

async fn read(
    shared: &Shared,
    peer: &Peer,
    mut logs: tonic::Streaming<StreamAccessLogsMessage>,
) -> Result<(), Status> {
    let Some(first) = logs.message().await? else {
        return Ok(());
    };
    let identifier = first.identifier.as_ref();
    let node = peer.node(identifier.and_then(|identifier| identifier.node.as_ref()))?;
    let session = Session::new(shared.clock.now(), shared.number());
    let mut next = Some(first);
    while let Some(message) = next {
        match message.log_entries {
            Some(LogEntries::HttpLogs(logs)) => {
                let count = u64::try_from(logs.log_entry.len()).unwrap_or(u64::MAX);
                shared.metrics.log_entries.add(count);
                shared
                    .telemetry
                    .log(&node, session, &logs.log_entry, shared.clock.now());
            }
            Some(LogEntries::TcpLogs(_)) | None => {}
        }
        next = logs.message().await?;
    }
    Ok(())
}

#[tonic::async_trait]
impl AccessLogService for Als {
    async fn stream_access_logs(
        &self,
        request: tonic::Request<tonic::Streaming<StreamAccessLogsMessage>>,
    ) -> Result<tonic::Response<StreamAccessLogsResponse>, Status> {
        let peer = Peer::of(request.extensions());
        let slot = self.0.telemetry_slot()?;
        tokio::select! {
            biased;
            () = self.0.stop.cancelled() => {}
            result = read(&self.0, &peer, request.into_inner()) => result?,
        }
        drop(slot);
        Ok(tonic::Response::new(StreamAccessLogsResponse {}))
    }
}
