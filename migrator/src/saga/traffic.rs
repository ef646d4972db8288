//! What the data planes have applied and counted.

use std::time::Duration;

use domain::migration::JudgeScope;
use domain::routing::side_cluster;
use domain::{
    Counts, LatencyHistogram, Migration, NodeId, NodeTraffic, Routing, RoutingState, RoutingStatus,
    Side, Timestamp, Traffic,
};
use store::{Key, Kind};

use super::Context;
use super::effects::EffectError;
use crate::judge::Evidence;

/// How often the store is asked while waiting. The records are in memory.
const POLL: Duration = Duration::from_millis(50);

/// Waits until every data plane has applied a routing.
pub(super) async fn applied(
    context: &Context,
    routing: &Routing,
) -> Result<RoutingStatus, EffectError> {
    let key = Key::new(Kind::RoutingStatus, routing.service.as_str());
    loop {
        if let Some(record) = context.store.get(&key).await? {
            let status: RoutingStatus = record.parse()?.value;
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
        tokio::time::sleep(POLL).await;
    }
}

async fn traffic(context: &Context, migration: &Migration) -> Result<Option<Traffic>, EffectError> {
    let key = Key::new(Kind::Traffic, migration.service.as_str());
    Ok(context
        .store
        .get(&key)
        .await?
        .map(|record| record.parse())
        .transpose()?
        .map(|t| t.value))
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

/// The nodes that the control plane knows.
async fn nodes(context: &Context, migration: &Migration) -> Result<Vec<NodeId>, EffectError> {
    let key = Key::new(Kind::RoutingStatus, migration.service.as_str());
    let Some(record) = context.store.get(&key).await? else {
        return Ok(Vec::new());
    };
    let status: RoutingStatus = record.parse()?.value;
    Ok(status.nodes.into_keys().collect())
}

/// Follows both sides of a migration from the start of a stage.
pub(super) struct Watcher {
    scope: JudgeScope,
    hold_ms: u64,
    began: Timestamp,
    original: String,
    shadow: String,
    baseline: LatencyHistogram,
    start: Option<Traffic>,
}

impl Watcher {
    pub(super) async fn begin(
        context: &Context,
        migration: &Migration,
        scope: JudgeScope,
    ) -> Result<Self, EffectError> {
        let last = migration.ramp.stages().len().saturating_sub(1);
        let hold_ms = match scope {
            JudgeScope::Mirror => migration.ramp.stage(0).map_or(0, |stage| stage.hold_ms),
            JudgeScope::Stage { stage } => migration.ramp.stage(stage).map_or(0, |s| s.hold_ms),
            JudgeScope::Soak => migration.ramp.stage(last).map_or(0, |stage| stage.hold_ms),
        };
        let name = |side| side_cluster(&migration.service, &migration.instance, side);
        let start = traffic(context, migration).await?;
        // The service's own cluster holds what was answered before the instance was split off.
        let baseline = start
            .as_ref()
            .map(|t| t.cluster(migration.service.as_str()).latency)
            .unwrap_or_default();
        Ok(Self {
            scope,
            hold_ms,
            began: context.clock.now(),
            original: name(Side::Original),
            shadow: name(Side::Shadow),
            baseline,
            start,
        })
    }

    pub(super) async fn look(
        &mut self,
        context: &Context,
        migration: &Migration,
    ) -> Result<Evidence, EffectError> {
        let now = context.clock.now();
        let traffic = traffic(context, migration).await?;
        let reported = |node: &NodeId| {
            let state = traffic.as_ref().and_then(|t| t.nodes.get(node));
            state.map_or(self.began, |state| state.reported_at)
        };
        // The oldest word counts: a node that is silent may be seeing errors.
        let oldest = nodes(context, migration)
            .await?
            .iter()
            .map(reported)
            .min()
            .unwrap_or(self.began);
        Ok(Evidence {
            scope: self.scope,
            hold_ms: self.hold_ms,
            elapsed_ms: now.since(self.began),
            age_ms: now.since(oldest),
            original: self.since_start(traffic.as_ref(), &self.original),
            shadow: self.since_start(traffic.as_ref(), &self.shadow),
            baseline: self.baseline.clone(),
        })
    }

    /// Counts since the stage began, node by node: a node whose session is new began at zero.
    fn since_start(&self, now: Option<&Traffic>, cluster: &str) -> Counts {
        let mut sum = Counts::default();
        for (node, state) in now.iter().flat_map(|traffic| traffic.nodes.iter()) {
            let Some(counts) = state.clusters.get(cluster) else {
                continue;
            };
            let before = self
                .start
                .as_ref()
                .and_then(|start| start.nodes.get(node))
                .filter(|before| before.session == state.session)
                .and_then(|before| before.clusters.get(cluster));
            match before {
                Some(before) => sum.merge(&counts.since(before)),
                None => sum.merge(counts),
            }
        }
        sum
    }
}
