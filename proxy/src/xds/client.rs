//! Carries messages between the control plane and the [`Ledger`], and puts tables in force.

use std::sync::Arc;
use std::time::Duration;

use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{Ledger, Step, backoff, dial, node};
use crate::last_good;
use crate::state::Shared;

/// Largest response accepted.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Requests on the way to the transport.
const OUTBOX: usize = 64;
/// A stream that lasted so long was a good one: the next failure is the first again.
const GOOD_STREAM: Duration = Duration::from_secs(5);

/// Follows the control plane until `stop`. Accepted resources are in force, and on disk, before
/// they are acknowledged.
pub(crate) async fn run(shared: Arc<Shared>, mut ledger: Ledger, stop: CancellationToken) {
    let mut failures = 0;
    loop {
        let began = tokio::time::Instant::now();
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = stream(&shared, &mut ledger) => ended,
        };
        shared.set_connected(false);
        if began.elapsed() >= GOOD_STREAM {
            failures = 0;
        }
        let wait = backoff(failures, rand::random());
        tracing::warn!(
            control_plane = %shared.config.control_plane, reason = ended, ?wait,
            "no stream to the control plane; what is in force serves on"
        );
        failures = failures.saturating_add(1);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// One stream, from its beginning to its end. Gives why it ended.
async fn stream(shared: &Shared, ledger: &mut Ledger) -> String {
    let (outbox, requests) = mpsc::channel::<DeltaDiscoveryRequest>(OUTBOX);
    for (index, mut request) in ledger.begin().into_iter().enumerate() {
        if index == 0 {
            request.node = Some(node(&shared.config.node_id));
        }
        // The channel is empty and larger than the three first requests.
        if outbox.try_send(request).is_err() {
            return "the first requests do not fit".to_owned();
        }
    }
    let connected = match dial(&shared.config).await {
        Ok(connected) => connected,
        Err(reason) => return reason,
    };
    let mut client = AggregatedDiscoveryServiceClient::new(connected)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let opened = client
        .delta_aggregated_resources(ReceiverStream::new(requests))
        .await;
    let mut responses = match opened {
        Ok(response) => response.into_inner(),
        Err(status) => return chain(&status),
    };
    shared.set_connected(true);
    tracing::info!(control_plane = %shared.config.control_plane, "following the control plane");
    loop {
        let step = match next(shared, ledger, &mut responses).await {
            Ok(step) => step,
            Err(reason) => return reason,
        };
        for (kind, refusal) in &step.refused {
            tracing::warn!(kind = api::xds::short_name(kind.url()), %refusal, "refused");
        }
        if step.changed {
            shared.put_in_force(ledger.resources());
            last_good::keep(shared.config.last_good.as_deref(), ledger.resources()).await;
        }
        for request in step.requests {
            if outbox.send(request).await.is_err() {
                return "the stream does not take requests any more".to_owned();
            }
        }
    }
}

async fn next(
    shared: &Shared,
    ledger: &mut Ledger,
    responses: &mut tonic::Streaming<DeltaDiscoveryResponse>,
) -> Result<Step, String> {
    let due = ledger.deadline_ms();
    let wait = async {
        match due {
            None => std::future::pending().await,
            Some(due) => {
                let left = due.saturating_sub(shared.now_ms());
                tokio::time::sleep(Duration::from_millis(left)).await;
            }
        }
    };
    tokio::select! {
        biased;
        message = responses.message() => match message {
            Ok(Some(response)) => Ok(ledger.response(response, shared.now_ms())),
            Ok(None) => Err("the control plane ended the stream".to_owned()),
            Err(status) => Err(chain(&status)),
        },
        () = wait => Ok(ledger.tick(shared.now_ms())),
    }
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
