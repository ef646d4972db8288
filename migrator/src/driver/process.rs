//! The process driver: an instance is a child process on a "host" that is a share of this machine.
//!
//! # What is where
//! ```text
//! <root>/epoch…                      the highest epoch seen per lease: the fence ([`fence`])
//! <root>/replicas/<tag>/replica.json who runs there: pid, start time, port, spec, phase
//! <root>/replicas/<tag>/state/       the replica's state directory
//! <root>/replicas/<tag>/manifest     block hashes of what was copied (shadows, while syncing)
//! <root>/replicas/<tag>/log          what the process prints
//! ```
//! An original's tag is its instance's id, a shadow's tag is its migration's id, and a shadow that
//! has become the instance keeps its tag. The files are the truth: nothing that matters is only in
//! memory, so a driver that is opened anew adopts what its predecessor started.
//!
//! # Flow
//! [`start`](crate::driver::Driver::start): port → `replica.json` → limits → spawn → healthy.
//! A migration: `prepare_shadow` (directory, port) → `sync_round`… (changed blocks only) → `fork`
//! (rest, last delta, go on, spawn from the copy, healthy) → `reidentify` → `verify` → and, after
//! the ramp, `terminate` of the original; or `destroy_shadow` at any time.
//!
//! # Ownership
//! One operation at a time per tag ([`tags`]). Processes run in a process group of their own with
//! no tie to the driver: its death does not touch them. They are known by process id *and* start
//! time *and* boot, so a recycled process id is never signalled ([`proc`]).
//!
//! # Failure paths
//! - The caller is dropped or the copy hangs: a guard task lets the original go on within the
//!   pause budget, and a watchdog process does the same when the whole driver dies ([`pause`]).
//! - The driver dies between two files: `replica.json` is written before what it announces, so the
//!   repetition finds it. A manifest is removed before the copy changes and written after.
//! - A start that fails leaves no directory, no port and no control group.

mod cgroup;
mod config;
mod copy;
mod end;
mod fence;
mod fork;
mod hooks;
mod launch;
mod listing;
mod manifest;
mod pause;
mod ports;
mod proc;
mod record;
mod tags;
mod usage;
mod verify;
mod writer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::{Endpoint, Epoch, Host, Instance, InstanceSpec, Reading, Replica, ZeroTraffic};
use store::LeaseName;

pub use config::{CgroupPolicy, ProcessConfig};

use crate::driver::{
    Capabilities, Driver, DriverError, Forked, Found, OpContext, Opened, SyncReport, Verified,
};
use cgroup::Cgroups;
use domain::migration::Frozen;
use fence::Fence;
use ports::Ports;
use record::{Folders, Phase};
use tags::Tags;
use usage::Sample;

/// How long a take-over may wait for what an earlier leader has begun.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);

/// Runs instances as child processes. See the module's documentation.
#[derive(Debug)]
pub struct ProcessDriver {
    config: ProcessConfig,
    folders: Folders,
    fence: Fence,
    ports: Ports,
    cgroups: Cgroups,
    tags: Tags,
    samples: Mutex<HashMap<String, Sample>>,
}

/// What failed and will fail again.
fn failed(
    operation: &'static str,
    subject: impl Into<String>,
    reason: impl std::fmt::Display,
) -> DriverError {
    DriverError::Failed {
        operation,
        subject: subject.into(),
        reason: reason.to_string(),
    }
}

/// What may be repeated.
fn transient(
    operation: &'static str,
    subject: impl Into<String>,
    reason: impl std::fmt::Display,
) -> DriverError {
    DriverError::Transient {
        operation,
        subject: subject.into(),
        reason: reason.to_string(),
    }
}

impl ProcessDriver {
    /// Opens the driver over its root folder and adopts what runs there: an original that was at
    /// rest when the last driver died goes on.
    ///
    /// # Errors
    /// [`DriverError::Failed`] when the root cannot be made or written, or the configuration makes
    /// no sense.
    pub fn open(config: ProcessConfig) -> Result<Arc<Self>, DriverError> {
        const OPERATION: &str = "open driver at";
        config.check()?;
        let subject = config.root.display().to_string();
        std::fs::create_dir_all(config.root.join("replicas"))
            .map_err(|error| failed(OPERATION, subject.clone(), error))?;
        // Processes are given absolute paths, whatever the driver's working directory becomes.
        let root = std::fs::canonicalize(&config.root)
            .map_err(|error| failed(OPERATION, subject, error))?;
        let folders = Folders::new(&root);
        let hash = blake3::hash(root.as_os_str().as_encoded_bytes());
        let driver = Self {
            fence: Fence::new(&root),
            ports: Ports::new(config.ports.clone(), hash.as_bytes(), &root),
            cgroups: Cgroups::detect(config.cgroups, &hash.to_hex()[..8]),
            folders,
            tags: Tags::default(),
            samples: Mutex::default(),
            config,
        };
        if driver.fence.nobody_acts() {
            driver.wake_all();
        }
        Ok(Arc::new(driver))
    }

    /// Lets every original go on that was at rest when the last driver died.
    fn wake_all(&self) {
        for mut record in self.folders.all() {
            if record.phase == Phase::Quiescing {
                tracing::warn!(
                    replica = record.tag,
                    "was at rest when the driver died; it goes on"
                );
                pause::wake(&record);
                record.phase = Phase::Running;
                if let Err(error) = self.folders.save(&record) {
                    tracing::warn!(replica = record.tag, %error, "could not note that it goes on");
                }
            }
        }
    }

    /// Stops every replica under the root and removes directories and control groups. The epoch
    /// stays: a stale leader remains stale.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    pub async fn cleanup_all(&self) -> Result<(), DriverError> {
        let tags = self.folders.tags();
        let ends = tags.iter().map(|tag| self.end_tag("clean up", tag, None));
        let outcomes = futures::future::join_all(ends).await;
        self.cgroups.remove_base();
        outcomes.into_iter().collect()
    }
}

#[async_trait::async_trait]
impl Driver for ProcessDriver {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            incremental_sync: true,
            enforces_capacity: self.cgroups.limits_cpu(),
            // By the replicas themselves: where they have the hooks.
            reverse_sync: true,
            pause_budget: self.config.pause_budget,
        }
    }

    async fn start(&self, spec: &InstanceSpec, host: &Host) -> Result<Replica, DriverError> {
        self.start_original(spec, host).await
    }

    async fn prepare_shadow(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        target: &Host,
    ) -> Result<Endpoint, DriverError> {
        let _act = self.fence.enter("prepare shadow", ctx).await?;
        self.prepare(ctx, instance, target).await
    }

    async fn sync_round(
        &self,
        ctx: &OpContext,
        instance: &Instance,
    ) -> Result<SyncReport, DriverError> {
        let act = self.fence.enter("sync", ctx).await?;
        self.sync(ctx, instance, act).await
    }

    async fn fork(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        target: &Host,
    ) -> Result<Forked, DriverError> {
        let act = self.fence.enter("fork", ctx).await?;
        self.fork_shadow(ctx, instance, target, act).await
    }

    async fn reidentify(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        shadow: &Replica,
    ) -> Result<(), DriverError> {
        let _act = self.fence.enter("re-identify", ctx).await?;
        self.give_identity(ctx, instance, shadow).await
    }

    async fn verify(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        shadow: &Replica,
    ) -> Result<Verified, DriverError> {
        let _act = self.fence.enter("verify", ctx).await?;
        self.check_shadow(ctx, instance, shadow).await
    }

    async fn freeze_writes(
        &self,
        ctx: &OpContext,
        original: &Replica,
    ) -> Result<Frozen, DriverError> {
        let _act = self.fence.enter("freeze writes", ctx).await?;
        self.freeze(ctx, original).await
    }

    async fn catch_up(
        &self,
        ctx: &OpContext,
        original: &Replica,
        shadow: &Replica,
        frozen: Frozen,
    ) -> Result<(), DriverError> {
        let _act = self.fence.enter("catch up", ctx).await?;
        self.reach(ctx, original, shadow, frozen).await
    }

    async fn open_writes(
        &self,
        ctx: &OpContext,
        replica: &Replica,
        writer: u64,
    ) -> Result<(), DriverError> {
        let _act = self.fence.enter("open writes", ctx).await?;
        self.open_writer(ctx, replica, writer).await
    }

    async fn writes_back(
        &self,
        ctx: &OpContext,
        original: &Replica,
        shadow: Option<&Replica>,
        opened: Opened,
    ) -> Result<Frozen, DriverError> {
        let _act = self.fence.enter("take writes back", ctx).await?;
        self.back(ctx, original, shadow, opened).await
    }

    async fn terminate(
        &self,
        ctx: &OpContext,
        original: &Replica,
        proof: &ZeroTraffic,
    ) -> Result<(), DriverError> {
        let _act = self.fence.enter("terminate", ctx).await?;
        self.terminate_original(ctx, original, proof).await
    }

    async fn destroy_shadow(&self, ctx: &OpContext) -> Result<(), DriverError> {
        let _act = self.fence.enter("destroy shadow", ctx).await?;
        self.destroy(ctx).await
    }

    async fn find_by_tag(&self, tag: &str) -> Result<Option<Replica>, DriverError> {
        let record = self
            .folders
            .load(tag)
            .map_err(|error| transient("find", tag, error))?;
        Ok(record.as_ref().and_then(record::Record::running))
    }

    async fn claim(&self, lease: &LeaseName, epoch: Epoch) -> Result<(), DriverError> {
        let deadline = Instant::now() + CLAIM_LIMIT;
        self.fence.admit("claim", lease, epoch, deadline).await?;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Found>, DriverError> {
        self.found().await
    }

    async fn collect(&self, ctx: &OpContext, tag: &str) -> Result<(), DriverError> {
        let _act = self.fence.enter("collect", ctx).await?;
        self.end_tag("collect", tag, None).await
    }

    async fn stop(&self, replica: &Replica) -> Result<(), DriverError> {
        self.end_tag("stop", &replica.tag, Some(replica)).await
    }

    async fn pressure(&self, host: &Host) -> Result<Option<f64>, DriverError> {
        Ok(self.cgroups.pressure(host))
    }

    async fn reading(&self, replica: &Replica) -> Result<Option<Reading>, DriverError> {
        self.measure(replica)
    }
}
