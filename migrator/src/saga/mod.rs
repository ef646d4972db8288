//! Carrying out a migration.
//!
//! # Flow
//! ```text
//!  record ──▶ effect ──▶ driver / store / data planes ──▶ outcome ──▶ step() ──▶ commit ──▶ record
//!                (intent is in the record already)                       (fenced, with log entry)
//! ```
//! # Ownership
//! This module is the only writer of `Kind::Migration`, `Kind::Reservation`, `Kind::Routing` and
//! (after the first start) `Kind::Instance`; every write is fenced by the migrator's lease.
//!
//! # Failure paths
//! A failed effect becomes an event; `step` decides. When the store refuses a write the saga
//! stops: whoever leads then takes it over from the record. A crash anywhere leaves a record whose
//! pending effect is carried out again.

mod crash;
mod effects;
mod guard;
pub mod ramp;
#[cfg(test)]
pub(crate) mod tests;
mod traffic;
mod way_back;

use std::sync::Arc;

use domain::migration::{EffectKind, Event, Standing, What};
use domain::{Effect, Migration, MigrationId, Phase, step};
use serde::{Deserialize, Serialize};
use store::{
    Clock, Expect, Generation, Key, Kind, Lease, LogName, SharedStore, StoreError, Transaction,
};
use tokio::sync::watch;

use crash::Moment;
pub(crate) use traffic::published;

use crate::driver::Driver;
use crate::settings::Settings;
use crate::tenure::Tenure;

/// What a saga works with.
#[derive(Clone)]
pub struct Context {
    /// The store.
    pub store: SharedStore,
    /// The driver.
    pub driver: Arc<dyn Driver>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The leadership; renewed leases keep their epoch.
    pub lease: Lease,
    /// How long the leadership is sure.
    pub tenure: Tenure,
    /// Settings.
    pub settings: Settings,
}

/// What is shown of a running step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The migration.
    pub migration: MigrationId,
    /// The step's name.
    pub step: String,
    /// What it is about, in words.
    pub note: String,
    /// The judge's evidence, while it looks.
    pub evidence: Option<crate::judge::Evidence>,
}

/// One line of a migration's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub at: domain::Timestamp,
    /// What happened, in words.
    pub event: String,
    /// Phase afterwards.
    pub phase: domain::Phase,
    /// What is done next.
    pub next: Vec<String>,
}

/// Name of a migration's log.
pub fn log_name(migration: &MigrationId) -> LogName {
    LogName(format!("migration/{migration}"))
}

/// Stores a new migration; it has no effect yet.
pub async fn create(context: &Context, migration: &Migration) -> Result<Generation, StoreError> {
    let key = Key::new(Kind::Migration, migration.id.as_str());
    let transaction =
        Transaction::new()
            .fenced(&context.lease)
            .put(key, Expect::Absent, migration)?;
    let committed = context.store.commit(transaction).await?;
    Ok(committed
        .generations
        .first()
        .copied()
        .flatten()
        .unwrap_or(Generation(1)))
}

/// Drives a migration to its end (or until it parks).
///
/// `abort` may hold a reason to undo it; it is looked at between steps and inside those that wait.
///
/// # Errors
/// [`StoreError`] when the record cannot be written: leadership is lost, or the store is away.
pub async fn run(
    context: &Context,
    mut migration: Migration,
    mut generation: Generation,
    first: What,
    mut abort: watch::Receiver<Option<String>>,
) -> Result<Migration, StoreError> {
    let mut what = first;
    let mut done = None;
    loop {
        let at = context.clock.now();
        let described = describe(&what);
        let (next, effects) = match step(&migration, Event { at, what }) {
            Ok(done) => done,
            Err(illegal) => {
                tracing::warn!(migration = %migration.id, %illegal, "event refused");
                return Ok(migration);
            }
        };
        generation = save(context, &next, generation, at, described, &effects).await?;
        tracing::info!(migration = %next.id, phase = next.phase.name(), "step");
        migration = next;
        if let Some(step) = done {
            crash::point(step, Moment::AfterLog);
        }
        let Some(effect) = effects.into_iter().next() else {
            return Ok(migration);
        };
        let asked = abort.borrow().clone();
        if let Some(reason) = asked.filter(|_| may_abort(&migration)) {
            // The effect has not begun; its undo, if it has one, stands in the record.
            what = What::Abort { reason };
            done = None;
            continue;
        }
        // In doubt nothing begins; whoever leads then goes on from the record.
        context.tenure.sure().await;
        let step = domain::migration::table::row(&effect.kind).name;
        crash::point(step, Moment::BeforeEffect);
        what = carry_out(context, &migration, generation, &effect, &mut abort).await;
        crash::point(step, Moment::AfterEffect);
        done = Some(step);
    }
}

/// Notes an event in the record without carrying out what follows from it.
///
/// # Errors
/// [`StoreError`] when the record cannot be written. An event that the record refuses changes
/// nothing.
pub async fn note(
    context: &Context,
    migration: Migration,
    generation: Generation,
    what: What,
) -> Result<(Migration, Generation), StoreError> {
    let at = context.clock.now();
    let described = describe(&what);
    let Ok((next, effects)) = step(&migration, Event { at, what }) else {
        return Ok((migration, generation));
    };
    let generation = save(context, &next, generation, at, described, &effects).await?;
    Ok((next, generation))
}

/// Carries an effect out; an abort ends it early where that leaves nothing under way.
///
/// What changes the world is waited for: a call that is dropped half-way may still arrive, after
/// its own undo. Waiting for verdicts, data planes and drains changes nothing, and the write of a
/// routing is bound to the generation that it replaces.
async fn carry_out(
    context: &Context,
    migration: &Migration,
    generation: Generation,
    effect: &Effect,
    abort: &mut watch::Receiver<Option<String>>,
) -> What {
    let work = effects::carry_out(context, migration, generation, effect);
    let waits = match effect.kind {
        EffectKind::Route(_) | EffectKind::Judge(_) | EffectKind::AwaitDrain => true,
        EffectKind::FreezeWrites
        | EffectKind::CatchUp
        | EffectKind::OpenWrites
        | EffectKind::Reserve
        | EffectKind::PrepareShadow
        | EffectKind::SyncRound
        | EffectKind::Fork
        | EffectKind::Reidentify
        | EffectKind::Verify
        | EffectKind::Adopt
        | EffectKind::Terminate { .. }
        | EffectKind::Release
        | EffectKind::Undo(_) => false,
    };
    if !waits || !may_abort(migration) {
        return work.await;
    }
    tokio::select! {
        biased;
        reason = aborted(abort) => What::Abort { reason },
        what = work => what,
    }
}

/// Whether an abort means something now.
fn may_abort(migration: &Migration) -> bool {
    let mut owned = migration.clone();
    migration.phase != Phase::RollingBack && matches!(owned.standing(), Standing::Reversible(_))
}

/// Waits for a reason to abort.
async fn aborted(abort: &mut watch::Receiver<Option<String>>) -> String {
    loop {
        let reason = abort.borrow_and_update().clone();
        if let Some(reason) = reason {
            return reason;
        }
        if abort.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn save(
    context: &Context,
    migration: &Migration,
    generation: Generation,
    at: domain::Timestamp,
    event: String,
    effects: &[Effect],
) -> Result<Generation, StoreError> {
    let next = effects
        .iter()
        .map(|effect| domain::migration::table::row(&effect.kind).name.to_owned())
        .collect();
    let line = LogLine {
        at,
        event,
        phase: migration.phase,
        next,
    };
    let key = Key::new(Kind::Migration, migration.id.as_str());
    let transaction = Transaction::new()
        .fenced(&context.lease)
        .put(key, Expect::Generation(generation), migration)?
        .append(log_name(&migration.id), &line)?;
    let committed = context.store.commit(transaction).await?;
    Ok(committed
        .generations
        .first()
        .copied()
        .flatten()
        .unwrap_or(generation))
}

fn describe(what: &What) -> String {
    match what {
        What::Start => "started".to_owned(),
        What::Succeeded { op, outcome } => format!("operation {} {}", op.0, outcome.name()),
        What::Failed { op, error, .. } => format!("operation {} failed: {error}", op.0),
        What::Abort { reason } => format!("aborted: {reason}"),
        What::TakenOver { epoch } => format!("taken over in epoch {epoch}"),
        What::Contradiction { question } => format!("contradiction: {question}"),
        What::RetryParked => "an operator chose to retry".to_owned(),
        What::RollBackParked => "an operator chose to roll back".to_owned(),
    }
}
