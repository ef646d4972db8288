//! The fence: no act of an older epoch once a newer one has come.
//!
//! # What is where
//! ```text
//! <root>/epoch[-lease]         the highest epoch seen of a lease: on disk before anything is done in its name
//! <root>/epoch[-lease].lock    held for moments, around reads and writes of it
//! <root>/epoch[-lease].acts    held shared for as long as an act lasts, alone by who takes over
//! <root>/epoch[-lease].drained the highest epoch whose predecessors' acts are over
//! ```
//! # Flow
//! ```text
//! act:  note the epoch if it is newer ─▶ hold "acts" shared ─▶ is it still the newest? ─▶ act ─▶ let go
//! take-over: note the epoch ─▶ hold "acts" alone: what older epochs had begun is over ─▶ "drained"
//! ```
//! # Guarantees
//! The epoch is looked at while "acts" is held, and "acts" is let go after the act. So an act of an
//! older epoch ends before the newer one is let in, or is refused; there is no moment between check
//! and act in which a leader can be overtaken. The files decide, under the kernel's locks: several
//! processes may share a root.
//!
//! # Failure paths
//! - *A leader that stands still in the middle of an act* (SIGSTOP, starved) can be woken at any
//!   time and go on with it. Who takes over waits for [`PATIENCE`], and then ends that process: the
//!   lease was over long before, and nothing else keeps the act from happening later.
//! - *A leader that dies* lets go: the kernel sees to that.
//! - *A damaged epoch file* lets nobody in: guessing could let a stale leader in.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::Epoch;
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use store::LeaseName;

use super::proc::ProcessId;
use super::{failed, transient};
use crate::driver::{DriverError, OpContext};

/// How long a leader that was overtaken may take to end what it had begun.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// How often a lock is tried.
const GLANCE: Duration = Duration::from_millis(5);

/// The lease whose files have no suffix: that of a fleet with one shard.
const USUAL: &str = "migrator/default";

/// Refuses stale leaders.
#[derive(Debug)]
pub(super) struct Fence {
    root: PathBuf,
}

/// The right to act. Clones share it; it ends with the last one.
#[derive(Debug, Clone)]
pub(super) struct Act {
    _acts: Arc<File>,
}

/// The files of one lease.
struct Files {
    epoch: PathBuf,
    lock: PathBuf,
    acts: PathBuf,
    drained: PathBuf,
}

impl Fence {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    fn files(&self, lease: &LeaseName) -> Files {
        let mut name = "epoch".to_owned();
        if lease.0 != USUAL {
            // Names of leases have slashes; two that look alike stay apart.
            let hash = blake3::hash(lease.0.as_bytes()).to_hex();
            let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
            let text: String = lease.0.chars().map(plain).take(40).collect();
            name = format!("epoch-{text}-{}", &hash[..8]);
        }
        Files {
            epoch: self.root.join(&name),
            lock: self.root.join(format!("{name}.lock")),
            acts: self.root.join(format!("{name}.acts")),
            drained: self.root.join(format!("{name}.drained")),
        }
    }

    /// Admits an operation: older epochs are refused from now on, and this one's may act for as long
    /// as the answer is kept.
    pub(super) async fn enter(
        &self,
        operation: &'static str,
        ctx: &OpContext,
    ) -> Result<Act, DriverError> {
        let deadline = Instant::now() + ctx.deadline;
        let act = self
            .admit(operation, &ctx.lease, ctx.epoch, deadline)
            .await?;
        stop_point(operation);
        Ok(act)
    }

    /// Whether no process acts under any lease. Who opens the root while another works on it must
    /// leave to that one what it has begun.
    pub(super) fn nobody_acts(&self) -> bool {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut acts = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "acts"));
        acts.all(|path| {
            let alone = FlockOperation::NonBlockingLockExclusive;
            open(&path).is_ok_and(|file| flock(&file, alone).is_ok())
        })
    }

    /// Starts are one at a time, also of several processes: two that begin together on an empty
    /// store would start every instance twice.
    pub(super) async fn start_alone(
        &self,
        operation: &'static str,
        limit: Duration,
    ) -> Result<File, DriverError> {
        let path = self.root.join("starts.lock");
        let subject = path.display().to_string();
        let io = |error: io::Error| failed(operation, subject.clone(), error);
        let file = open(&path).map_err(io)?;
        let deadline = Instant::now() + limit;
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() >= deadline {
                let by = held_by(&file);
                let reason = format!("{by} has been starting an instance for {limit:?}");
                return Err(transient(operation, subject, reason));
            }
            tokio::time::sleep(GLANCE).await;
        }
        Ok(file)
    }

    /// As [`Fence::enter`]; without the act it is the take-over.
    pub(super) async fn admit(
        &self,
        operation: &'static str,
        lease: &LeaseName,
        ours: Epoch,
        deadline: Instant,
    ) -> Result<Act, DriverError> {
        let files = self.files(lease);
        files.note(operation, ours, deadline).await?;
        files.drain(operation, ours, deadline).await?;
        let acts = files
            .hold(
                &files.acts,
                operation,
                FlockOperation::NonBlockingLockShared,
                deadline,
            )
            .await?;
        // While it is held nobody can take over; so this answer stays true.
        files.refuse_stale(operation, ours, deadline).await?;
        Ok(Act {
            _acts: Arc::new(acts),
        })
    }
}

impl Files {
    fn io(&self, operation: &'static str) -> impl Fn(io::Error) -> DriverError {
        let subject = self.epoch.display().to_string();
        move |error| failed(operation, subject.clone(), error)
    }

    /// Remembers an epoch that is newer than what was seen; refuses one that is older.
    async fn note(
        &self,
        operation: &'static str,
        ours: Epoch,
        deadline: Instant,
    ) -> Result<(), DriverError> {
        let io = self.io(operation);
        let alone = FlockOperation::NonBlockingLockExclusive;
        let _moment = self.hold(&self.lock, operation, alone, deadline).await?;
        let seen = read(&self.epoch).map_err(&io)?;
        if ours > seen {
            write(&self.epoch, ours).map_err(&io)?;
        }
        fenced(operation, ours, seen)
    }

    async fn refuse_stale(
        &self,
        operation: &'static str,
        ours: Epoch,
        deadline: Instant,
    ) -> Result<(), DriverError> {
        let io = self.io(operation);
        let alone = FlockOperation::NonBlockingLockExclusive;
        let _moment = self.hold(&self.lock, operation, alone, deadline).await?;
        fenced(operation, ours, read(&self.epoch).map_err(&io)?)
    }

    /// Waits until nothing that an older epoch had begun is under way.
    async fn drain(
        &self,
        operation: &'static str,
        ours: Epoch,
        deadline: Instant,
    ) -> Result<(), DriverError> {
        let io = self.io(operation);
        if read(&self.drained).map_err(&io)? >= ours {
            return Ok(());
        }
        let alone = FlockOperation::NonBlockingLockExclusive;
        let acts = self.hold(&self.acts, operation, alone, deadline).await?;
        if read(&self.drained).map_err(&io)? < ours {
            write(&self.drained, ours).map_err(&io)?;
        }
        drop(acts);
        Ok(())
    }

    /// Holds one of the files. Whoever has it and stands still is ended, for a moment's lock, too.
    async fn hold(
        &self,
        path: &Path,
        operation: &'static str,
        how: FlockOperation,
        deadline: Instant,
    ) -> Result<File, DriverError> {
        let io = self.io(operation);
        let file = open(path).map_err(&io)?;
        let began = Instant::now();
        let mut ended = false;
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io(error.into())),
            }
            let now = Instant::now();
            let alone = how == FlockOperation::NonBlockingLockExclusive;
            if alone && !ended && now.duration_since(began) >= PATIENCE {
                end_holders(&file).map_err(&io)?;
                ended = true;
            }
            if now >= deadline {
                let reason = "what an earlier leader began still runs";
                return Err(transient(operation, path.display().to_string(), reason));
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}

fn fenced(operation: &'static str, ours: Epoch, seen: Epoch) -> Result<(), DriverError> {
    if ours < seen {
        return Err(DriverError::Fenced {
            operation,
            ours,
            seen,
        });
    }
    Ok(())
}

/// Ends other processes that hold this file: they were overtaken in the middle of an act.
fn end_holders(file: &File) -> io::Result<()> {
    let inode = file.metadata()?.ino();
    let own = i32::try_from(std::process::id()).ok();
    let table = fs::read_to_string("/proc/locks")?;
    for pid in holders(&table, inode).filter(|pid| Some(*pid) != own) {
        let Some(process) = ProcessId::of(pid) else {
            continue;
        };
        tracing::error!(
            process = process.handle(),
            "an earlier leader stands still in the middle of an act; it is ended"
        );
        process.signal(Signal::KILL);
    }
    Ok(())
}

/// Processes that hold a lock of a whole file, by the file's inode. Who only waits has an arrow.
fn holders(table: &str, inode: u64) -> impl Iterator<Item = i32> {
    table.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = fields.as_slice() else {
            return None;
        };
        let theirs: u64 = place.rsplit(':').next()?.parse().ok()?;
        (theirs == inode).then(|| pid.parse().ok()).flatten()
    })
}

fn read(file: &Path) -> io::Result<Epoch> {
    match fs::read_to_string(file) {
        Ok(text) => text.trim().parse().map(Epoch).map_err(|_| {
            // Guessing an epoch could let a stale leader in.
            io::Error::new(io::ErrorKind::InvalidData, "it does not hold a number")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Epoch(0)),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, epoch: Epoch) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    let mut file = File::create(&fresh)?;
    writeln!(file, "{epoch}")?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
}

/// Holds a lock file until dropped; short sections only. A holder that stands still is named when
/// the limit is over: it may be a leader in its right, so nobody ends it for this.
pub(super) async fn lock_file(path: &Path, limit: Duration) -> io::Result<File> {
    let file = open(path)?;
    let deadline = Instant::now() + limit;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= deadline {
            let name = path.display();
            let by = held_by(&file);
            let words = format!("{name} has been held by {by} for {limit:?}: does it stand still?");
            return Err(io::Error::new(io::ErrorKind::TimedOut, words));
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// Who holds a file, in words.
fn held_by(file: &File) -> String {
    let table = fs::read_to_string("/proc/locks").unwrap_or_default();
    let Ok(inode) = file.metadata().map(|data| data.ino()) else {
        return "somebody".to_owned();
    };
    let pids: Vec<_> = holders(&table, inode).map(|pid| pid.to_string()).collect();
    match pids.as_slice() {
        [] => "somebody".to_owned(),
        pids => format!("process {}", pids.join(", ")),
    }
}

/// Where a test lets this process stand still: between the check and the act.
#[cfg(not(debug_assertions))]
fn stop_point(_operation: &str) {}

/// Where a test lets this process stand still: between the check and the act.
/// `FORESHADOW_STOP_AT=destroy shadow` sends SIGSTOP to itself there.
#[cfg(debug_assertions)]
fn stop_point(operation: &str) {
    if std::env::var("FORESHADOW_STOP_AT").is_ok_and(|wanted| wanted == operation) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
        // The signal may reach another thread first; this one must not have acted by then.
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ctx(epoch: u64) -> OpContext {
        OpContext {
            migration: domain::MigrationId::new("m").unwrap(),
            op: "m/1".to_owned(),
            lease: LeaseName(USUAL.to_owned()),
            epoch: Epoch(epoch),
            deadline: Duration::from_secs(20),
        }
    }

    #[tokio::test]
    async fn a_stale_epoch_is_refused_also_by_another_driver_over_the_same_root() {
        let root = tempfile::tempdir().unwrap();
        drop(
            Fence::new(root.path())
                .enter("fork", &ctx(7))
                .await
                .unwrap(),
        );
        let other = Fence::new(root.path());
        let error = other.enter("fork", &ctx(6)).await.unwrap_err();
        assert_eq!(
            error,
            DriverError::Fenced {
                operation: "fork",
                ours: Epoch(6),
                seen: Epoch(7)
            }
        );
        other.enter("fork", &ctx(7)).await.unwrap();
    }

    #[tokio::test]
    async fn epochs_of_two_leases_say_nothing_to_each_other() {
        let root = tempfile::tempdir().unwrap();
        let fence = Fence::new(root.path());
        let _usual = fence.enter("fork", &ctx(7)).await.unwrap();
        let shard = OpContext {
            lease: LeaseName("migrator/1-of-2".to_owned()),
            ..ctx(2)
        };
        let _other = fence.enter("fork", &shard).await.unwrap();
        let stale = OpContext {
            epoch: Epoch(1),
            ..shard
        };
        assert!(fence.enter("fork", &stale).await.is_err());
    }

    #[tokio::test]
    async fn a_damaged_epoch_file_lets_nobody_in() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("epoch"), "x").unwrap();
        assert!(
            Fence::new(root.path())
                .enter("fork", &ctx(9))
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn who_takes_over_waits_for_what_an_older_epoch_has_begun() {
        let root = tempfile::tempdir().unwrap();
        let fence = Fence::new(root.path());
        let old = fence.enter("fork", &ctx(1)).await.unwrap();
        let beside = fence.enter("sync", &ctx(1)).await.unwrap();
        let patient = OpContext {
            deadline: Duration::from_millis(50),
            ..ctx(2)
        };
        let early = fence.enter("fork", &patient).await.unwrap_err();
        assert!(early.may_retry(), "{early}");
        let late = fence.enter("sync", &ctx(1)).await.unwrap_err();
        assert!(matches!(late, DriverError::Fenced { .. }), "{late}");
        drop((old, beside));
        fence.enter("fork", &ctx(2)).await.unwrap();
    }

    #[test]
    fn holders_are_those_who_hold_and_not_those_who_wait() {
        let table = "1: FLOCK  ADVISORY  READ 11 fe:01:77 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 12 fe:01:77 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 13 fe:01:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 14 fe:01:78 0 EOF\n";
        assert_eq!(holders(table, 77).collect::<Vec<_>>(), [11]);
    }
}
