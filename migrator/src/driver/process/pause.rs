//! Holding an original at rest, never longer than the budget.
//!
//! ```text
//! note "quiescing" → rest (hook, or SIGSTOP) → … copy … → go on → note "running"
//! ```
//! The whole belongs to a task of its own: whoever asked may be dropped, and the copy may hang.
//! When the driver itself dies, the hook's own deadline lets the original go on, or, for SIGSTOP,
//! a watchdog process; and the next driver finds the note.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::hooks::{self, HookError};
use super::proc::ProcessId;
use super::record::{Folders, Phase, Record};
use super::tags::TagGuard;

/// Time for the resume hook.
const RESUME_LIMIT: Duration = Duration::from_millis(500);

/// How a rest went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    /// How long the original was at rest.
    pub(super) lasted: Duration,
    /// Whether it ended because it was asked to, and not because the budget was used up.
    pub(super) ended: RestEnd,
}

/// Why a rest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestEnd {
    /// The copy was complete.
    Asked,
    /// The budget was used up.
    BudgetUsedUp,
}

/// An original at rest. Dropping it lets the original go on.
#[derive(Debug)]
pub(super) struct Pause {
    release: DropGuard,
    over: CancellationToken,
    task: JoinHandle<Rest>,
}

/// What the guard task owns.
struct Hold {
    folders: Folders,
    record: Record,
    process: ProcessId,
    budget: Duration,
    /// Nobody else works on the original until it goes on.
    _tag: TagGuard,
}

impl Pause {
    /// Brings the original to rest. `stop` is set when the budget is used up, before the original
    /// goes on, so that nobody mistakes what is read afterwards for a copy at rest.
    pub(super) async fn begin(
        folders: &Folders,
        record: &Record,
        budget: Duration,
        tag: TagGuard,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, HookError> {
        let Some(process) = record.alive().cloned() else {
            return Err("the original does not run".to_owned());
        };
        let (folders, record) = (folders.clone(), record.clone());
        let hold = Hold {
            folders,
            record,
            process,
            budget,
            _tag: tag,
        };
        let (release, over) = (CancellationToken::new(), CancellationToken::new());
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(hold.run(release.clone(), over.clone(), ready, stop));
        let this = Self {
            release: release.drop_guard(),
            over,
            task,
        };
        match is_ready.await {
            Ok(Ok(())) => Ok(this),
            Ok(Err(error)) => Err(error),
            Err(_) => Err("the task that holds the original at rest has died".to_owned()),
        }
    }

    /// Completes when the budget is used up.
    pub(super) async fn used_up(&self) {
        self.over.cancelled().await;
    }

    /// Lets the original go on, and says how long it was at rest.
    pub(super) async fn end(self) -> Result<Rest, HookError> {
        drop(self.release);
        self.task.await.map_err(|error| error.to_string())
    }
}

impl Drop for Hold {
    /// The runtime may end before the task does.
    fn drop(&mut self) {
        self.process.signal(Signal::CONT);
    }
}

impl Hold {
    async fn run(
        mut self,
        release: CancellationToken,
        over: CancellationToken,
        ready: oneshot::Sender<Result<(), HookError>>,
        stop: Arc<AtomicBool>,
    ) -> Rest {
        let began = Instant::now();
        let deadline = tokio::time::sleep(self.budget);
        tokio::pin!(deadline);
        self.note(Phase::Quiescing);
        let mut watchdog = self.watchdog();
        let rests = self.rest().await;
        let failed = rests.is_err();
        let _caller_gone = ready.send(rests);
        let ended = tokio::select! {
            biased;
            () = release.cancelled() => RestEnd::Asked,
            () = &mut deadline, if !failed => RestEnd::BudgetUsedUp,
        };
        if ended == RestEnd::BudgetUsedUp {
            stop.store(true, Ordering::SeqCst);
            over.cancel();
            tracing::warn!(
                replica = self.record.tag,
                budget_ms = u64::try_from(self.budget.as_millis()).unwrap_or(u64::MAX),
                "the pause budget is used up; the original goes on"
            );
        }
        go_on(&self.record, &self.process).await;
        let lasted = began.elapsed();
        self.note(Phase::Running);
        if let Some(watchdog) = &mut watchdog {
            let _ended = watchdog.kill().await;
        }
        Rest { lasted, ended }
    }

    fn note(&mut self, phase: Phase) {
        self.record.phase = phase;
        if let Err(error) = self.folders.save(&self.record) {
            tracing::warn!(replica = self.record.tag, %error, "could not note its phase");
        }
    }

    /// A process that outlives the driver and lets a stopped original go on.
    fn watchdog(&self) -> Option<Child> {
        if self.record.spec.hooks.quiesce.is_some() {
            return None;
        }
        let seconds = format!("{:.3}", self.budget.as_secs_f64());
        let child = Command::new("sh")
            .args(["-c", r#"sleep "$1"; kill -CONT "$2""#, "sh"])
            .args([seconds, self.process.pid.to_string()])
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(false)
            .spawn();
        child
            .inspect_err(|error| tracing::warn!(%error, "no watchdog for the stopped original"))
            .ok()
    }

    async fn rest(&self) -> Result<(), HookError> {
        if let Some(path) = &self.record.spec.hooks.quiesce {
            let path = hooks::with_query(path, &format!("deadline_ms={}", self.budget.as_millis()));
            return hooks::post(self.record.endpoint(), &path, None, self.budget).await;
        }
        if !self.process.signal(Signal::STOP) {
            return Err("the original has just ended".to_owned());
        }
        if self.process.at_rest_within(self.budget).await {
            Ok(())
        } else {
            Err("the original did not come to rest".to_owned())
        }
    }
}

/// Lets an original go on, by whatever it may be held.
async fn go_on(record: &Record, process: &ProcessId) {
    process.signal(Signal::CONT);
    if let Some(path) = &record.spec.hooks.resume
        && let Err(error) = hooks::post(record.endpoint(), path, None, RESUME_LIMIT).await
    {
        tracing::warn!(
            replica = record.tag,
            error,
            "resume failed; its own deadline will do it"
        );
    }
}

/// Lets an original go on that a dead driver left at rest. The hook is called in the background.
pub(super) fn wake(record: &Record) {
    let Some(process) = record.alive().cloned() else {
        return;
    };
    process.signal(Signal::CONT);
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let record = record.clone();
        runtime.spawn(async move { go_on(&record, &process).await });
    }
}
