//! What the data planes have applied and counted.

use std::time::Duration;

use domain::{Migration, NodeId, NodeTraffic, Routing, RoutingState, RoutingStatus, Traffic};
use store::words;

use super::Context;
use super::effects::EffectError;

/// How often the store is asked while waiting. The records are in memory.
const POLL: Duration = Duration::from_millis(50);
/// The same while writes are held.
const GLANCE: Duration = Duration::from_millis(2);

/// Waits until every data plane has applied a routing.
pub(super) async fn applied(
    context: &Context,
    routing: &Routing,
) -> Result<RoutingStatus, EffectError> {
    let holding = routing
        .migration
        .as_ref()
        .is_some_and(|to| !to.hold.is_off());
    loop {
        if let Some(status) = words::routing_status(&*context.store, &routing.service).await? {
            if status.has_applied(routing.revision) {
                return Ok(status);
            }
            if status.revision >= routing.revision && status.state == RoutingState::Rejected {
                let reasons = format!("{:?}", status.nodes);
                return Err(EffectError::Refused(format!(
                    "a data plane refused it: {reasons}"
                )));
            }
        }
        tokio::time::sleep(if holding { GLANCE } else { POLL }).await;
    }
}

/// The newest revision that data planes have been given, if any.
pub(crate) async fn published(
    context: &Context,
    service: &domain::ServiceId,
) -> Result<Option<u64>, store::StoreError> {
    let status = words::routing_status(&*context.store, service).await?;
    Ok(status.map(|status| status.revision))
}

/// What has been counted.
pub(super) async fn traffic(
    context: &Context,
    migration: &Migration,
) -> Result<Option<Traffic>, EffectError> {
    Ok(words::traffic(&*context.store, &migration.service).await?)
}

/// Requests in progress on a cluster.
pub(super) async fn in_progress(
    context: &Context,
    migration: &Migration,
    cluster: &str,
) -> Result<u64, EffectError> {
    Ok(traffic(context, migration)
        .await?
        .map_or(0, |t| t.cluster(cluster).in_progress))
}

/// Waits until every node that the control plane knows has said, in two reports that arrived after
/// now, that nothing is in progress on a cluster. Two, because the first may have been under way
/// already. A node that says nothing is waited for: silence is no proof.
pub(super) async fn quiet(
    context: &Context,
    migration: &Migration,
    cluster: &str,
) -> Result<(), EffectError> {
    let begin = traffic(context, migration).await?.map(|t| t.nodes);
    loop {
        let nodes = nodes(context, migration).await?;
        let now = traffic(context, migration).await?.map(|t| t.nodes);
        let (begin, now) = (begin.as_ref(), now.as_ref());
        if nodes.iter().all(|node| {
            let before = begin.and_then(|nodes| nodes.get(node));
            let state = now.and_then(|nodes| nodes.get(node));
            state.is_some_and(|state| is_quiet(before, state, cluster))
        }) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn is_quiet(before: Option<&NodeTraffic>, now: &NodeTraffic, cluster: &str) -> bool {
    let fresh = match before {
        Some(before) if before.session == now.session => now.reports >= before.reports + 2,
        Some(_) | None => now.reports >= 2,
    };
    let counts = now.clusters.get(cluster);
    fresh && counts.is_none_or(|counts| counts.in_progress == 0)
}

/// A node that cannot hold requests. One that has just come says what it can with its first
/// report, which is waited for.
pub(super) async fn cannot_hold(
    context: &Context,
    migration: &Migration,
) -> Result<Option<NodeId>, EffectError> {
    loop {
        let known = nodes(context, migration).await?;
        let told = traffic(context, migration).await?;
        let told = told.map(|traffic| traffic.nodes).unwrap_or_default();
        if known.iter().all(|node| told.contains_key(node)) {
            let holds = |node: &NodeId| told.get(node).is_some_and(|state| state.holds);
            return Ok(known.into_iter().find(|node| !holds(node)));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The nodes that the control plane knows.
pub(super) async fn nodes(
    context: &Context,
    migration: &Migration,
) -> Result<Vec<NodeId>, EffectError> {
    let status = status(context, migration).await?;
    Ok(status.map_or_else(Vec::new, |status| status.nodes.into_keys().collect()))
}

/// How far the data planes are.
pub(super) async fn status(
    context: &Context,
    migration: &Migration,
) -> Result<Option<RoutingStatus>, EffectError> {
    Ok(words::routing_status(&*context.store, &migration.service).await?)
}
