//! One function per effect.

use std::time::Duration;

use domain::migration::{EffectKind, Frozen, JudgeScope, Outcome, RouteTo, Undo, What, table};
use domain::routing::{DrainDeadline, service_cluster, side_cluster};
use domain::{
    ConsistencyClass, Effect, Hold, Instance, InstanceState, Migration, MigrationRouting, Phase,
    Routing, Service, Side, WeightSplit, ZeroTraffic,
};
use store::{Expect, Generation, Key, Kind, StoreError, Transaction, Typed};

use super::ramp::{self, Ramp};
use super::{Context, Progress};
use super::{traffic, way_back};
use crate::driver::{DriverError, OpContext, Opened};
use crate::room::{self, RoomError};

/// Why an effect failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum EffectError {
    /// The driver's words.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The store's words.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that will not change by repeating.
    #[error("{0}")]
    Refused(String),
    /// Something that may be different next time.
    #[error("{0}")]
    NotYet(String),
}

impl EffectError {
    fn may_retry(&self) -> bool {
        match self {
            Self::Driver(error) => error.may_retry(),
            Self::Store(_) | Self::NotYet(_) => true,
            Self::Refused(_) => false,
        }
    }
}

/// Carries an effect out and says how it came out.
///
/// `generation` is that of the record which names the effect.
pub(super) async fn carry_out(
    context: &Context,
    migration: &Migration,
    generation: Generation,
    effect: &Effect,
) -> What {
    let row = table::row(&effect.kind);
    let in_hurry = migration.phase == Phase::CutOver;
    if !in_hurry {
        // While writes wait, nothing is written that only people read.
        progress(context, migration, row.name, row.reason.to_owned(), None).await;
    }
    let work = dispatch(context, migration, generation, effect);
    // The hold has a budget; the release is past it.
    let released = matches!(&effect.kind, EffectKind::Route(to) if to.hold == Hold::Off);
    let budget = (in_hurry && !released).then(|| {
        let held = context.clock.now().since(migration.entered_at());
        migration.limits.freeze_ms.saturating_sub(held).max(50)
    });
    let deadline = row
        .deadline_ms
        .map(|limit| limit.min(budget.unwrap_or(limit)));
    let result = match deadline {
        None => work.await,
        Some(limit) => match tokio::time::timeout(Duration::from_millis(limit), work).await {
            Ok(result) => result,
            Err(_) => Err(EffectError::NotYet(format!("not done within {limit} ms"))),
        },
    };
    match result {
        Ok(outcome) => What::Succeeded {
            op: effect.op,
            outcome,
        },
        Err(error) => What::Failed {
            op: effect.op,
            error: error.to_string(),
            may_retry: error.may_retry(),
        },
    }
}

async fn dispatch(
    context: &Context,
    migration: &Migration,
    generation: Generation,
    effect: &Effect,
) -> Result<Outcome, EffectError> {
    let driver = &context.driver;
    let row = table::row(&effect.kind);
    let op = OpContext {
        migration: migration.id.clone(),
        op: format!("{}/{}", migration.id, effect.op.0),
        lease: context.lease.name.clone(),
        epoch: effect.epoch,
        deadline: Duration::from_millis(row.deadline_ms.unwrap_or(60_000)),
    };
    match &effect.kind {
        EffectKind::Reserve => reserve(context, migration, generation).await,
        EffectKind::PrepareShadow => {
            let (instance, target) = subjects(context, migration).await?;
            Ok(Outcome::Prepared(
                driver.prepare_shadow(&op, &instance, &target).await?,
            ))
        }
        EffectKind::SyncRound => {
            let instance = instance(context, migration).await?.value;
            let report = driver.sync_round(&op, &instance).await?;
            let note = format!(
                "copied {} of {} bytes in {:?}, {} behind",
                report.copied_bytes, report.total_bytes, report.took, report.lag_bytes
            );
            progress(context, migration, "sync round", note, None).await;
            Ok(Outcome::Synced {
                lag_bytes: report.lag_bytes,
            })
        }
        EffectKind::Fork => {
            let (instance, target) = subjects(context, migration).await?;
            let forked = driver.fork(&op, &instance, &target).await?;
            tracing::info!(migration = %migration.id, paused = ?forked.paused, "forked");
            Ok(Outcome::Forked(forked.replica))
        }
        EffectKind::Reidentify => {
            let instance = instance(context, migration).await?.value;
            driver
                .reidentify(&op, &instance, shadow(migration)?)
                .await?;
            Ok(Outcome::Done)
        }
        EffectKind::Verify => {
            let instance = instance(context, migration).await?.value;
            let verified = driver.verify(&op, &instance, shadow(migration)?).await?;
            progress(
                context,
                migration,
                "verify",
                verified.checks.join("; "),
                None,
            )
            .await;
            Ok(Outcome::Done)
        }
        EffectKind::Route(to) => {
            if to.hold == Hold::Writes {
                may_hold(context, migration).await?;
            }
            let split = ramp::split(context, migration, *to).await?;
            route(context, migration, Some(RouteTo { split, ..*to })).await?;
            Ok(Outcome::Done)
        }
        EffectKind::FreezeWrites => {
            let frozen = driver.freeze_writes(&op, &migration.original).await?;
            Ok(Outcome::Frozen(frozen))
        }
        EffectKind::CatchUp => {
            let (original, shadow) = (&migration.original, shadow(migration)?);
            driver
                .catch_up(&op, original, shadow, frozen(migration)?)
                .await?;
            Ok(Outcome::Done)
        }
        EffectKind::OpenWrites => {
            let writer = frozen(migration)?.writer;
            driver.open_writes(&op, shadow(migration)?, writer).await?;
            Ok(Outcome::Done)
        }
        EffectKind::Undo(Undo::WritesBack) => {
            let opened = if migration.opened {
                Opened::Perhaps
            } else {
                Opened::Never
            };
            let shadow = migration.shadow.as_ref();
            let original = &migration.original;
            let back = driver.writes_back(&op, original, shadow, opened).await?;
            Ok(Outcome::Frozen(back))
        }
        EffectKind::Undo(Undo::Reopen) => {
            let writer = frozen(migration)?.writer;
            driver.open_writes(&op, &migration.original, writer).await?;
            Ok(Outcome::Done)
        }
        EffectKind::Undo(undo @ (Undo::HoldWrites | Undo::FlipBack)) => {
            hold_again(context, migration, *undo).await?;
            Ok(Outcome::Done)
        }
        // On the heap: the ramp's evidence is large, and every effect's future is as large as the largest.
        EffectKind::Judge(scope) => Box::pin(judge(context, migration, *scope)).await,
        EffectKind::AwaitDrain => await_drain(context, migration).await,
        EffectKind::Adopt => {
            adopt(context, migration).await?;
            Ok(Outcome::Done)
        }
        EffectKind::Terminate { proof } => {
            driver.terminate(&op, &migration.original, proof).await?;
            Ok(Outcome::Done)
        }
        EffectKind::Release | EffectKind::Undo(Undo::ReleaseReservation) => {
            let key = Key::new(Kind::Reservation, migration.id.as_str());
            let release = Transaction::new()
                .fenced(&context.lease)
                .delete(key, Expect::Any);
            context.store.commit(release).await?;
            Ok(Outcome::Done)
        }
        EffectKind::Undo(Undo::DestroyShadow) => {
            driver.destroy_shadow(&op).await?;
            Ok(Outcome::Done)
        }
        EffectKind::Undo(Undo::RestoreRouting) => {
            route(context, migration, None).await?;
            Ok(Outcome::Done)
        }
        EffectKind::Undo(Undo::ShiftBack) => {
            shift_back(context, migration).await?;
            Ok(Outcome::Done)
        }
    }
}

/// Tells people what is being done. Losing it loses nothing.
async fn progress(
    context: &Context,
    migration: &Migration,
    step: &str,
    note: String,
    evidence: Option<crate::judge::Evidence>,
) {
    let progress = Progress {
        migration: migration.id.clone(),
        step: step.to_owned(),
        note,
        evidence,
    };
    let key = Key::new(Kind::Progress, migration.id.as_str());
    if let Ok(put) = Transaction::new().put(key, Expect::Any, &progress)
        && let Err(error) = context.store.commit(put).await
    {
        tracing::debug!(%error, "progress was not stored");
    }
}

fn shadow(migration: &Migration) -> Result<&domain::Replica, EffectError> {
    migration
        .shadow
        .as_ref()
        .ok_or_else(|| EffectError::Refused("the record names no shadow".to_owned()))
}

async fn instance(
    context: &Context,
    migration: &Migration,
) -> Result<Typed<Instance>, EffectError> {
    let key = Key::new(Kind::Instance, migration.instance.as_str());
    match context.store.get(&key).await? {
        Some(record) => Ok(record.parse()?),
        None => Err(EffectError::Refused(format!(
            "instance {} is unknown",
            migration.instance
        ))),
    }
}

async fn subjects(
    context: &Context,
    migration: &Migration,
) -> Result<(Instance, domain::Host), EffectError> {
    let key = Key::new(Kind::Host, migration.target.as_str());
    match context.store.get(&key).await? {
        Some(record) => Ok((
            instance(context, migration).await?.value,
            record.parse()?.value,
        )),
        None => Err(EffectError::Refused(format!(
            "host {} is unknown",
            migration.target
        ))),
    }
}

/// Holds capacity on the target, unless others hold too much of it.
async fn reserve(
    context: &Context,
    migration: &Migration,
    generation: Generation,
) -> Result<Outcome, EffectError> {
    if migration.class == ConsistencyClass::SingleWriter {
        let instance = instance(context, migration).await?.value;
        may_cut_over(context, migration, &instance).await?;
    }
    let reserved = room::reserve(&*context.store, &context.lease, migration, generation).await;
    match reserved {
        Ok(()) => Ok(Outcome::Done),
        Err(RoomError::Store(error)) => Err(error.into()),
        Err(RoomError::Refused(reason)) => Err(EffectError::Refused(reason)),
    }
}

pub(super) const fn plain(split: WeightSplit) -> RouteTo {
    RouteTo {
        split,
        mirror: false,
        hold: Hold::Off,
    }
}

fn frozen(migration: &Migration) -> Result<Frozen, EffectError> {
    migration
        .frozen
        .ok_or_else(|| EffectError::Refused("the record knows of no frozen writer".to_owned()))
}

/// Whether a single writer can be cut over at all: better said now than after all the copying.
async fn may_cut_over(
    context: &Context,
    migration: &Migration,
    instance: &Instance,
) -> Result<(), EffectError> {
    if !context.driver.capabilities().reverse_sync {
        let reason = "the driver cannot keep the original in step with a shadow that writes (S3)";
        return Err(EffectError::Refused(reason.to_owned()));
    }
    let hooks = &instance.spec.hooks;
    if hooks.writer.is_none() || hooks.state.is_none() {
        return Err(EffectError::Refused(format!(
            "instance {} is a single writer (S3) without the hooks writer and state: its writing cannot be handed over",
            migration.instance
        )));
    }
    may_hold(context, migration).await
}

/// Whether every data plane can hold requests. Through one that cannot, writes would be turned
/// away while the writer is frozen.
async fn may_hold(context: &Context, migration: &Migration) -> Result<(), EffectError> {
    match traffic::cannot_hold(context, migration).await? {
        None => Ok(()),
        Some(node) => Err(EffectError::Refused(format!(
            "node {node} cannot hold writes: a single writer (S3) is cut over only behind foreshadow's own proxy"
        ))),
    }
}

/// Holds writes on the way back: first wherever traffic goes now, then at the original.
async fn hold_again(
    context: &Context,
    migration: &Migration,
    undo: Undo,
) -> Result<(), EffectError> {
    let current = current_routing(context, migration).await?;
    let Some(now) = current.and_then(|current| current.value.migration) else {
        return Ok(());
    };
    let split = if undo == Undo::FlipBack {
        WeightSplit::ORIGINAL
    } else {
        now.split
    };
    let to = RouteTo {
        split,
        mirror: false,
        hold: Hold::Writes,
    };
    route(context, migration, Some(to)).await?;
    Ok(())
}

/// The routing that a split means for this migration; `None` means the usual one.
fn wanted(
    migration: &Migration,
    to: Option<RouteTo>,
) -> Result<Option<MigrationRouting>, EffectError> {
    let Some(RouteTo {
        split,
        mirror,
        hold,
    }) = to
    else {
        return Ok(None);
    };
    if split != WeightSplit::ORIGINAL && !migration.verified {
        return Err(EffectError::Refused(
            "no weight for a shadow that was not verified".to_owned(),
        ));
    }
    let endpoint = migration
        .shadow_endpoint
        .ok_or_else(|| EffectError::Refused("the record names no shadow".to_owned()))?;
    Ok(Some(MigrationRouting {
        migration: migration.id.clone(),
        instance: migration.instance.clone(),
        original: migration.original.endpoint,
        shadow: endpoint,
        split,
        mirror,
        hold,
    }))
}

pub(super) async fn current_routing(
    context: &Context,
    migration: &Migration,
) -> Result<Option<Typed<Routing>>, EffectError> {
    let key = Key::new(Kind::Routing, migration.service.as_str());
    Ok(context
        .store
        .get(&key)
        .await?
        .map(|record| record.parse())
        .transpose()?)
}

/// Adds a new routing to a transaction, unless it is in force already. Gives its revision.
fn put_routing(
    context: &Context,
    migration: &Migration,
    current: Option<&Typed<Routing>>,
    wanted: Option<MigrationRouting>,
    transaction: Transaction,
) -> Result<(Routing, Transaction), EffectError> {
    if let Some(current) = current.filter(|current| current.value.migration == wanted) {
        return Ok((current.value.clone(), transaction));
    }
    let routing = Routing {
        service: migration.service.clone(),
        revision: current.map_or(0, |current| current.value.revision) + 1,
        epoch: context.lease.epoch,
        migration: wanted,
    };
    let expect = current.map_or(Expect::Absent, |current| {
        Expect::Generation(current.generation)
    });
    let key = Key::new(Kind::Routing, migration.service.as_str());
    let transaction = transaction.put(key, expect, &routing)?;
    Ok((routing, transaction))
}

/// Publishes a split and waits until every data plane has it.
async fn route(
    context: &Context,
    migration: &Migration,
    to: Option<RouteTo>,
) -> Result<Routing, EffectError> {
    let routing = publish(context, migration, to).await?;
    traffic::applied(context, &routing).await?;
    Ok(routing)
}

/// Publishes a split.
pub(super) async fn publish(
    context: &Context,
    migration: &Migration,
    to: Option<RouteTo>,
) -> Result<Routing, EffectError> {
    let wanted = wanted(migration, to)?;
    let current = current_routing(context, migration).await?;
    let empty = Transaction::new().fenced(&context.lease);
    let (routing, put) = put_routing(context, migration, current.as_ref(), wanted, empty)?;
    if !put.writes.is_empty() {
        context.store.commit(put).await?;
    }
    Ok(routing)
}

async fn shift_back(context: &Context, migration: &Migration) -> Result<(), EffectError> {
    if migration.shadow_endpoint.is_none() || current_routing(context, migration).await?.is_none() {
        return Ok(());
    }
    // A single writer goes back at once, as it came: both sides never serve at a time.
    if ramp::may_be_shared(migration.class) {
        way_back::ease(context, migration).await?;
    }
    route(context, migration, Some(plain(WeightSplit::ORIGINAL))).await?;
    let cluster = side_cluster(&migration.service, &migration.instance, Side::Shadow);
    let limit = Duration::from_millis(context.settings.drain_deadline_ms);
    match tokio::time::timeout(limit, traffic::quiet(context, migration, &cluster)).await {
        // A store that does not answer says nothing about requests.
        Ok(quiet) => quiet,
        // What is left when the time is over was lost by the shadow, not by taking it away.
        Err(_) => Ok(()),
    }
}

async fn judge(
    context: &Context,
    migration: &Migration,
    scope: JudgeScope,
) -> Result<Outcome, EffectError> {
    let verdict = Ramp::take_up(context, migration, scope)
        .await?
        .judge()
        .await?;
    tracing::info!(migration = %migration.id, ?scope, ?verdict, "verdict");
    Ok(Outcome::Judged(verdict))
}

async fn await_drain(context: &Context, migration: &Migration) -> Result<Outcome, EffectError> {
    let routing = route(context, migration, Some(plain(WeightSplit::SHADOW))).await?;
    let cluster = side_cluster(&migration.service, &migration.instance, Side::Original);
    let limit = Duration::from_millis(context.settings.drain_deadline_ms);
    let drained = async {
        traffic::quiet(context, migration, &cluster).await?;
        from_before_the_split(context, migration).await
    };
    let quiet = tokio::time::timeout(limit, drained).await;
    let (left, deadline) = match quiet {
        Ok(result) => {
            result?;
            (0, DrainDeadline::Ahead)
        }
        Err(_) => (
            traffic::in_progress(context, migration, &cluster).await?,
            DrainDeadline::Passed,
        ),
    };
    let status = traffic::applied(context, &routing).await?;
    ZeroTraffic::prove(&routing, &status, left, deadline)
        .map(Outcome::Drained)
        .ok_or_else(|| EffectError::NotYet(format!("{left} requests on the original")))
}

/// Waits for requests that reached the original before the split, through the service's own
/// cluster: until nothing is in progress there, or until the service's time limit has ended all
/// that began before.
async fn from_before_the_split(
    context: &Context,
    migration: &Migration,
) -> Result<(), EffectError> {
    let key = Key::new(Kind::Service, migration.service.as_str());
    let Some(record) = context.store.get(&key).await? else {
        return Err(EffectError::Refused(format!(
            "service {} is unknown",
            migration.service
        )));
    };
    let service = record.parse::<Service>()?.value;
    // By the time the ramp began, every data plane had the split.
    let split = migration
        .history
        .iter()
        .find(|entered| matches!(entered.phase, Phase::Ramping { .. } | Phase::Soaking))
        .map_or(context.clock.now(), |entered| entered.at);
    let passed = context.clock.now().since(split);
    let left = Duration::from_millis(service.timeout_ms.saturating_sub(passed));
    let cluster = service_cluster(&migration.service);
    let quiet = traffic::quiet(context, migration, &cluster);
    tokio::time::timeout(left, quiet).await.unwrap_or(Ok(()))
}

/// Makes the shadow the instance's replica and its routing the usual one, in one transaction.
async fn adopt(context: &Context, migration: &Migration) -> Result<(), EffectError> {
    let found = instance(context, migration).await?;
    let shadow = shadow(migration)?;
    let current = current_routing(context, migration).await?;
    let mut transaction = Transaction::new().fenced(&context.lease);
    if found.value.replica != *shadow {
        let adopted = Instance {
            replica: shadow.clone(),
            state: InstanceState::Running,
            placed_at: context.clock.now(),
            ..found.value
        };
        let key = Key::new(Kind::Instance, migration.instance.as_str());
        transaction = transaction.put(key, Expect::Generation(found.generation), &adopted)?;
    }
    let (routing, transaction) =
        put_routing(context, migration, current.as_ref(), None, transaction)?;
    if !transaction.writes.is_empty() {
        context.store.commit(transaction).await?;
    }
    traffic::applied(context, &routing).await?;
    Ok(())
}
