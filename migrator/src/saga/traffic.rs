//! What the data planes have applied and counted.

use std::time::Duration;

use domain::migration::{JudgeScope, Verdict};
use domain::routing::side_cluster;
use domain::{
    Migration, NodeId, NodeTraffic, Pairs, Routing, RoutingState, RoutingStatus, Side, Timestamp,
    Traffic,
};
use store::{Key, Kind};

use super::Context;
use super::effects::EffectError;
use crate::judge::{Evidence, Increment, JudgeState, Ledger, Past, Task};
use crate::pairs::{self, Finding, PairLedger};

/// How often the store is asked while waiting. The records are in memory.
const POLL: Duration = Duration::from_millis(50);
/// The same while writes are held.
const GLANCE: Duration = Duration::from_millis(2);

/// Waits until every data plane has applied a routing.
pub(super) async fn applied(
    context: &Context,
    routing: &Routing,
) -> Result<RoutingStatus, EffectError> {
    let key = Key::new(Kind::RoutingStatus, routing.service.as_str());
    let holding = routing
        .migration
        .as_ref()
        .is_some_and(|to| !to.hold.is_off());
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
        tokio::time::sleep(if holding { GLANCE } else { POLL }).await;
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

/// A node that is known not to be able to hold requests.
pub(super) async fn cannot_hold(
    context: &Context,
    migration: &Migration,
) -> Result<Option<NodeId>, EffectError> {
    let nodes = nodes(context, migration).await?;
    let told = traffic(context, migration).await?.map(|t| t.nodes);
    let holds = |node: &NodeId| {
        let state = told.as_ref().and_then(|nodes| nodes.get(node));
        state.is_some_and(|state| state.holds)
    };
    Ok(nodes.into_iter().find(|node| !holds(node)))
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

/// Follows both sides of a migration from the start of a stage. The evidence lives here and in
/// what is shown of it: a restart of the control plane begins that of the running stage anew.
pub(super) struct Watcher {
    began: Timestamp,
    ledger: Ledger,
    state: JudgeState,
    /// While requests are copied: what both sides answered to them.
    pairs: Option<PairLedger>,
}

impl Watcher {
    pub(super) async fn begin(
        context: &Context,
        migration: &Migration,
        scope: JudgeScope,
    ) -> Result<Self, EffectError> {
        let name = |side| side_cluster(&migration.service, &migration.instance, side);
        let start = traffic(context, migration).await?;
        // The service's own cluster holds what was answered before the instance was split off.
        let total = |cluster: &str| start.as_ref().map(|t| t.cluster(cluster));
        let past = Past {
            baseline: total(migration.service.as_str()).unwrap_or_default(),
            original: total(&name(Side::Original)).unwrap_or_default(),
        };
        let task = task(migration, scope);
        let state =
            JudgeState::begin(task, past, &context.settings.judge).map_err(EffectError::Refused)?;
        Ok(Self {
            began: context.clock.now(),
            ledger: Ledger::begin(name(Side::Original), name(Side::Shadow), start.as_ref()),
            state,
            pairs: (scope == JudgeScope::Mirror)
                .then(|| PairLedger::begin(name(Side::Shadow), start.as_ref())),
        })
    }

    /// Takes in what was reported since the last look.
    pub(super) async fn look(
        &mut self,
        context: &Context,
        migration: &Migration,
    ) -> Result<(Verdict, Evidence), EffectError> {
        let settings = &context.settings.judge;
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
        let age_ms = now.since(oldest);
        let elapsed_ms = now.since(self.began);
        let finding = self.pairs.as_mut().map(|pairs| {
            let none = Pairs::default();
            let seen = traffic.as_ref().map_or(&none, |t| pairs.take(t));
            pairs::judge(seen, elapsed_ms, &context.settings.pairs)
        });
        let more = traffic.map_or_else(Increment::default, |t| self.ledger.take(&t));
        self.state.feed(elapsed_ms, &more, settings);
        let verdict = self.state.verdict(age_ms, settings);
        Ok((with_pairs(verdict, finding), self.state.evidence(age_ms)))
    }
}

/// The judge's verdict on the copies, and what comparing them found: a proof rolls back, and while
/// pairs are missing the ramp does not begin.
fn with_pairs(verdict: Verdict, finding: Option<Finding>) -> Verdict {
    match (verdict, finding) {
        (_, Some(Finding::Proven(reason))) => Verdict::Rollback { reason },
        (Verdict::Promote { .. }, Some(Finding::Wait(reason))) => Verdict::Hold { reason },
        (Verdict::Promote { reason }, Some(Finding::Fine(pairs))) => Verdict::Promote {
            reason: format!("{reason}; {pairs}"),
        },
        (verdict, None | Some(Finding::Wait(_) | Finding::Fine(_))) => verdict,
    }
}

/// What is judged under a scope.
fn task(migration: &Migration, scope: JudgeScope) -> Task {
    let stages = migration.ramp.stages();
    let index = match scope {
        JudgeScope::Mirror => 0,
        JudgeScope::Stage { stage } => stage,
        JudgeScope::Soak => stages.len().saturating_sub(1),
    };
    let stage = migration.ramp.stage(index);
    Task {
        scope,
        shadow_share: stage.map_or(0, |stage| stage.shadow.get()),
        hold_ms: stage.map_or(0, |stage| stage.hold_ms),
        // Every stage, and the copies before the first.
        of: stages.len() + 1,
    }
}
