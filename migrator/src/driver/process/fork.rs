//! Making a shadow: room, rounds of copying, and the fork.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use domain::{Endpoint, Host, Instance, Side};

use super::copy::{self, Copied, CopyError, Reading};
use super::fence::Act;
use super::manifest::Manifest;
use super::pause::{Pause, RestEnd};
use super::record::{ForkNote, Phase, Record};
use super::tags::TagGuard;
use super::{ProcessDriver, failed, hooks, transient};
use crate::driver::{DriverError, Forked, OpContext, SyncReport};

/// Tells a copy to stop when whoever waits for it is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One round in a blocking thread, which keeps the tag until it has really ended.
struct Round {
    operation: &'static str,
    source: std::path::PathBuf,
    target: std::path::PathBuf,
    saved: std::path::PathBuf,
    reading: Reading,
    stop: Arc<AtomicBool>,
    tag: TagGuard,
    /// Who takes over waits for the copy, whoever still waits for its result.
    _act: Act,
}

/// What came of it.
struct RoundDone {
    copied: Copied,
    lag_bytes: u64,
    digest: String,
    tag: TagGuard,
}

impl Round {
    fn run(self) -> Result<RoundDone, CopyError> {
        let io = |error: io::Error| CopyError::Io {
            path: self.saved.clone(),
            error,
        };
        // Without a saved manifest nobody knows what is there (an earlier round was cut off, or
        // the shadow has run): look.
        let mut manifest = match Manifest::load(&self.saved) {
            Some(manifest) => manifest,
            None => copy::scan(&self.target, &self.stop)?,
        };
        Manifest::forget(&self.saved).map_err(io)?;
        let copied = copy::round(
            &self.source,
            &self.target,
            &mut manifest,
            self.reading,
            &self.stop,
        )?;
        // At rest nothing changes, and every millisecond is the client's.
        let lag_bytes = match self.reading {
            Reading::TrustStamps => copy::lag(&self.source, &manifest, &self.stop)?,
            Reading::Everything => 0,
        };
        if self.stop.load(Ordering::SeqCst) {
            return Err(CopyError::Stopped);
        }
        manifest.save(&self.saved).map_err(io)?;
        Ok(RoundDone {
            copied,
            lag_bytes,
            digest: manifest.digest(),
            tag: self.tag,
        })
    }
}

fn copy_error(operation: &'static str, tag: &str, error: &CopyError) -> DriverError {
    match error {
        CopyError::Refused { .. } => failed(operation, tag, error),
        CopyError::Io { .. } | CopyError::Stopped => transient(operation, tag, error),
    }
}

impl ProcessDriver {
    pub(super) async fn prepare(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        target: &Host,
    ) -> Result<Endpoint, DriverError> {
        const OPERATION: &str = "prepare shadow";
        let tag = ctx.migration.as_str();
        let _one = self.tags.lock(OPERATION, tag, ctx.deadline).await?;
        let io = |error: io::Error| transient(OPERATION, tag, error);
        if let Some(record) = self.folders.load(tag).map_err(io)? {
            if record.side == Side::Original || record.spec.id != instance.spec.id {
                let reason = format!("the tag belongs to instance {}", record.spec.id);
                return Err(failed(OPERATION, tag, reason));
            }
            if record.host.id == target.id {
                return Ok(record.endpoint());
            }
            self.remove_groups(tag, Some(record.host.id.as_str())).await;
        }
        let mut record = Record::new(tag, Side::Shadow, &instance.spec, target);
        self.cgroups.prepare(target, tag).map_err(|error| {
            failed(
                OPERATION,
                tag,
                format!("limits of host {}: {error}", target.id),
            )
        })?;
        self.ports
            .reserve(&self.folders, &mut record)
            .await
            .map_err(io)?;
        Ok(record.endpoint())
    }

    /// The shadow's record; there must be one.
    fn shadow_record(&self, operation: &'static str, tag: &str) -> Result<Record, DriverError> {
        match self.folders.load(tag) {
            Ok(Some(record)) if record.side == Side::Shadow => Ok(record),
            Ok(Some(_)) => Err(failed(operation, tag, "this is an original")),
            Ok(None) => Err(failed(operation, tag, "the shadow was not prepared")),
            Err(error) => Err(transient(operation, tag, error)),
        }
    }

    pub(super) async fn sync(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        act: Act,
    ) -> Result<SyncReport, DriverError> {
        const OPERATION: &str = "sync";
        let began = Instant::now();
        let tag = ctx.migration.as_str();
        let guard = self.tags.lock(OPERATION, tag, ctx.deadline).await?;
        let record = self.shadow_record(OPERATION, tag)?;
        if record.alive().is_some() {
            return Err(failed(
                OPERATION,
                tag,
                "the shadow runs already: it owns its state now",
            ));
        }
        let stop = StopOnDrop(Arc::default());
        let round = self.round(
            OPERATION,
            tag,
            instance,
            Reading::TrustStamps,
            &stop.0,
            (guard, act),
        );
        let done = within(OPERATION, tag, ctx.deadline, run_round(round, tag)).await?;
        Ok(SyncReport {
            total_bytes: done.copied.total_bytes,
            copied_bytes: done.copied.copied_bytes,
            lag_bytes: done.lag_bytes,
            took: began.elapsed(),
        })
    }

    fn round(
        &self,
        operation: &'static str,
        tag: &str,
        instance: &Instance,
        reading: Reading,
        stop: &Arc<AtomicBool>,
        (guard, act): (TagGuard, Act),
    ) -> Round {
        Round {
            operation,
            source: self.folders.state(&instance.replica.tag),
            target: self.folders.state(tag),
            saved: self.folders.manifest(tag),
            reading,
            stop: Arc::clone(stop),
            tag: guard,
            _act: act,
        }
    }

    pub(super) async fn fork_shadow(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        target: &Host,
        act: Act,
    ) -> Result<Forked, DriverError> {
        const OPERATION: &str = "fork";
        let tag = ctx.migration.as_str();
        within(
            OPERATION,
            tag,
            ctx.deadline,
            self.fork_steps(OPERATION, ctx, instance, target, act),
        )
        .await
    }

    async fn fork_steps(
        &self,
        operation: &'static str,
        ctx: &OpContext,
        instance: &Instance,
        target: &Host,
        act: Act,
    ) -> Result<Forked, DriverError> {
        let tag = ctx.migration.as_str();
        let original_guard = self
            .tags
            .lock(operation, &instance.replica.tag, ctx.deadline)
            .await?;
        let guard = self.tags.lock(operation, tag, ctx.deadline).await?;
        let mut record = self.shadow_record(operation, tag)?;
        if let Some(forked) = already_forked(ctx, &record).await {
            return Ok(forked);
        }
        if let Some(process) = record.alive() {
            self.kill(process, Duration::ZERO).await;
        }
        self.kill_marked(tag).await;

        let (note, _guard) = self
            .copy_at_rest(operation, ctx, instance, original_guard, (guard, &act))
            .await?;
        let io = |error: io::Error| transient(operation, tag, error);
        // From here on the shadow changes its directory: what was copied there is history.
        Manifest::forget(&self.folders.manifest(tag)).map_err(io)?;
        record.host = target.clone();
        record.fork = Some(note.clone());
        let replica = self.bring_up(operation, &mut record).await?;
        Ok(forked(replica, note))
    }

    /// The last delta with the original at rest, and the proof that both sides are equal.
    async fn copy_at_rest(
        &self,
        operation: &'static str,
        ctx: &OpContext,
        instance: &Instance,
        original_guard: TagGuard,
        (guard, act): (TagGuard, &Act),
    ) -> Result<(ForkNote, TagGuard), DriverError> {
        let tag = ctx.migration.as_str();
        let original = match self.folders.load(&instance.replica.tag) {
            Ok(Some(record)) => record,
            Ok(None) => {
                return Err(failed(
                    operation,
                    &instance.replica.tag,
                    "the original is unknown",
                ));
            }
            Err(error) => return Err(transient(operation, &instance.replica.tag, error)),
        };
        // One more round while it runs, so that the one at rest has the least to do.
        let stop = StopOnDrop(Arc::default());
        let round = self.round(
            operation,
            tag,
            instance,
            Reading::TrustStamps,
            &stop.0,
            (guard, act.clone()),
        );
        let warm = run_round(round, tag).await?;

        let budget = self.config.pause_budget;
        let pause = Pause::begin(
            &self.folders,
            &original,
            budget,
            original_guard,
            Arc::clone(&stop.0),
        )
        .await
        .map_err(|error| transient(operation, &original.tag, error))?;
        let round = self.round(
            operation,
            tag,
            instance,
            Reading::Everything,
            &stop.0,
            (warm.tag, act.clone()),
        );
        let copied = tokio::select! {
            biased;
            () = pause.used_up() => None,
            copied = run_round(round, tag) => Some(copied),
        };
        let rest = pause
            .end()
            .await
            .map_err(|error| transient(operation, &original.tag, error))?;
        let done = match (copied, rest.ended) {
            (Some(Ok(done)), RestEnd::Asked) => done,
            (Some(Err(error)), RestEnd::Asked) => return Err(error),
            (_, RestEnd::BudgetUsedUp) => {
                let budget = budget.as_millis();
                let reason = format!("the copy at rest did not end within {budget} ms");
                return Err(transient(operation, tag, reason));
            }
            (None, RestEnd::Asked) => return Err(transient(operation, tag, "nothing was copied")),
        };
        self.check_copy(operation, tag, &done.digest).await?;
        let note = ForkNote {
            op: ctx.op.clone(),
            paused_us: u64::try_from(rest.lasted.as_micros()).unwrap_or(u64::MAX),
            copied_bytes: done.copied.copied_bytes,
            digest: done.digest,
        };
        Ok((note, done.tag))
    }

    /// Reads the copy back. The original already runs again.
    async fn check_copy(
        &self,
        operation: &'static str,
        tag: &str,
        digest: &str,
    ) -> Result<(), DriverError> {
        let target = self.folders.state(tag);
        let stop = StopOnDrop(Arc::default());
        let flag = Arc::clone(&stop.0);
        let scanned = tokio::task::spawn_blocking(move || copy::scan(&target, &flag)).await;
        let theirs = match scanned {
            Ok(outcome) => outcome
                .map_err(|error| copy_error(operation, tag, &error))?
                .digest(),
            Err(error) => return Err(transient(operation, tag, error)),
        };
        if theirs == digest {
            return Ok(());
        }
        // The manifest was wrong about the target: without it the next attempt looks for itself.
        let forgotten = Manifest::forget(&self.folders.manifest(tag));
        let reason = format!("the copy reads {theirs}, the original read {digest}");
        Err(match forgotten {
            Ok(()) => transient(operation, tag, reason),
            Err(error) => failed(operation, tag, format!("{reason}; manifest: {error}")),
        })
    }
}

async fn run_round(round: Round, tag: &str) -> Result<RoundDone, DriverError> {
    let operation = round.operation;
    match tokio::task::spawn_blocking(move || round.run()).await {
        Ok(outcome) => outcome.map_err(|error| copy_error(operation, tag, &error)),
        Err(error) => Err(transient(operation, tag, error)),
    }
}

async fn within<T>(
    operation: &'static str,
    tag: &str,
    deadline: Duration,
    work: impl Future<Output = Result<T, DriverError>>,
) -> Result<T, DriverError> {
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or_else(|_| {
            let reason = format!("not done within {} ms", deadline.as_millis());
            Err(transient(operation, tag, reason))
        })
}

/// The answer of an earlier call with the same operation id, if its shadow lives and is healthy.
async fn already_forked(ctx: &OpContext, record: &Record) -> Option<Forked> {
    let note = record.fork.as_ref().filter(|note| note.op == ctx.op)?;
    let replica = record
        .running()
        .filter(|_| record.phase == Phase::Running)?;
    hooks::is_healthy(replica.endpoint, &record.spec.health_path)
        .await
        .then(|| forked(replica, note.clone()))
}

fn forked(replica: domain::Replica, note: ForkNote) -> Forked {
    Forked {
        replica,
        paused: Duration::from_micros(note.paused_us),
        copied_bytes: note.copied_bytes,
        digest: note.digest,
    }
}
