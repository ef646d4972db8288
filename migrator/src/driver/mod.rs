//! Drivers: what makes, copies, checks and destroys instances on hosts.
//!
//! # Contract
//! - Every call that changes something carries an [`OpContext`]. Repeating a call with the same
//!   operation id has the same outcome as making it once, also after a crash of the caller.
//! - An epoch below the highest one seen of the same lease is refused with
//!   [`DriverError::Fenced`]. The check and the act are one piece: once [`Driver::claim`] of a newer
//!   epoch has returned, nothing of an older one is under way or comes to pass.
//! - After a call whose outcome is unknown, [`Driver::find_by_tag`] says what exists.
//! - The pause of the original in [`Driver::fork`] is bounded by the driver itself: whoever dies,
//!   the original goes on.

use std::time::Duration;

use domain::migration::Frozen;
use domain::{
    Endpoint, Epoch, Host, HostId, Instance, InstanceId, InstanceSpec, MigrationId, Reading,
    Replica, Side, ZeroTraffic,
};
use store::LeaseName;

pub mod process;

/// What every changing call carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpContext {
    /// The migration on whose behalf; its text is also the shadow's tag.
    pub migration: MigrationId,
    /// Identity of the operation; the same for every repetition.
    pub op: String,
    /// The lease of the caller's leadership; epochs of different leases say nothing to each other.
    pub lease: LeaseName,
    /// The caller's leadership.
    pub epoch: Epoch,
    /// How long the call may take.
    pub deadline: Duration,
}

/// What a driver can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Copies state while the original runs.
    pub incremental_sync: bool,
    /// Limits what a host's instances may use together.
    pub enforces_capacity: bool,
    /// Can keep the original in step with the shadow's writes after the switch.
    pub reverse_sync: bool,
    /// Longest pause of the original that a fork may cause.
    pub pause_budget: Duration,
}

/// One round of copying state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncReport {
    /// Bytes of state.
    pub total_bytes: u64,
    /// Bytes that had changed since the last round and were copied in this one.
    pub copied_bytes: u64,
    /// Bytes of changed blocks that were seen again while copying: what the next round has to do.
    pub lag_bytes: u64,
    /// How long the round took.
    pub took: Duration,
}

/// A shadow that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forked {
    /// The shadow.
    pub replica: Replica,
    /// How long the original was at rest.
    pub paused: Duration,
    /// Bytes of the last delta.
    pub copied_bytes: u64,
    /// BLAKE3 over the copied state, hex; equal on both sides at the instant of the fork.
    pub digest: String,
}

/// What verification found. Every line is a check that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The checks, in words.
    pub checks: Vec<String>,
}

/// Whether a shadow may have taken writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It was never told to.
    Never,
    /// It was told to, or is being told.
    Perhaps,
}

/// Something that a driver keeps, whether or not anything runs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its tag.
    pub tag: String,
    /// What it was made as.
    pub side: Option<Side>,
    /// The instance it is a replica of, if that can be read.
    pub instance: Option<InstanceId>,
    /// The host it is on, if that can be read.
    pub host: Option<HostId>,
    /// The replica, if it runs.
    pub running: Option<Replica>,
    /// What there is, in words: process, directory, port, control groups.
    pub parts: Vec<String>,
}

/// What can go wrong in a driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// A newer leader has used this driver.
    #[error("{operation}: epoch {ours} is stale, the driver has seen {seen}")]
    Fenced {
        /// What was asked.
        operation: &'static str,
        /// The caller's epoch.
        ours: Epoch,
        /// The highest epoch seen.
        seen: Epoch,
    },
    /// It failed and will fail again.
    #[error("{operation} {subject}: {reason}")]
    Failed {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        subject: String,
        /// Why.
        reason: String,
    },
    /// It failed, or its outcome is unknown; the same call may be repeated.
    #[error("{operation} {subject}: {reason} (may be repeated)")]
    Transient {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        subject: String,
        /// Why.
        reason: String,
    },
}

impl DriverError {
    /// Whether the same call may be repeated.
    pub const fn may_retry(&self) -> bool {
        match self {
            Self::Transient { .. } => true,
            Self::Failed { .. } | Self::Fenced { .. } => false,
        }
    }
}

fn no_single_writer(ctx: &OpContext, operation: &'static str, replica: &Replica) -> DriverError {
    DriverError::Failed {
        operation,
        subject: replica.tag.clone(),
        reason: format!(
            "this driver cannot cut single writers over (migration {})",
            ctx.migration
        ),
    }
}

/// Makes, copies, checks and destroys instances. See the module's contract.
#[async_trait::async_trait]
pub trait Driver: Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Starts an instance that runs nowhere, and waits until it is healthy.
    async fn start(&self, spec: &InstanceSpec, host: &Host) -> Result<Replica, DriverError>;

    /// Makes room for a shadow on the target: state directory, port, limits. Gives the address
    /// at which the shadow will answer.
    async fn prepare_shadow(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        target: &Host,
    ) -> Result<Endpoint, DriverError>;

    /// Copies what has changed in the original's state since the last round.
    async fn sync_round(
        &self,
        ctx: &OpContext,
        instance: &Instance,
    ) -> Result<SyncReport, DriverError>;

    /// Brings the original to rest, copies the last delta, lets the original go on, starts the
    /// shadow from the copy and waits until it is healthy.
    async fn fork(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        target: &Host,
    ) -> Result<Forked, DriverError>;

    /// Gives the shadow an identity and random seed of its own.
    async fn reidentify(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        shadow: &Replica,
    ) -> Result<(), DriverError>;

    /// Checks the shadow: identity, health, and equal state at the same position.
    async fn verify(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        shadow: &Replica,
    ) -> Result<Verified, DriverError>;

    /// Single writers: lets the original refuse writes, durably, waits for those under way, and
    /// *then* takes the position. Again: the same answer.
    async fn freeze_writes(
        &self,
        ctx: &OpContext,
        original: &Replica,
    ) -> Result<Frozen, DriverError> {
        Err(no_single_writer(ctx, "freeze writes", original))
    }

    /// Single writers: waits until the shadow has reached the original's position, checks that both
    /// have the same state there, and lets the original follow the shadow from now on.
    async fn catch_up(
        &self,
        ctx: &OpContext,
        original: &Replica,
        shadow: &Replica,
        frozen: Frozen,
    ) -> Result<(), DriverError> {
        let _ = (shadow, frozen);
        Err(no_single_writer(ctx, "catch up", original))
    }

    /// Single writers: lets a replica take writes under this epoch. Refused if it has been told to
    /// refuse a later one.
    async fn open_writes(
        &self,
        ctx: &OpContext,
        replica: &Replica,
        writer: u64,
    ) -> Result<(), DriverError> {
        let _ = writer;
        Err(no_single_writer(ctx, "open writes", replica))
    }

    /// Single writers: lets the shadow refuse writes under any epoch that it may have been given,
    /// and waits until the original has what the shadow took. Gives the epoch under which the
    /// original may write again.
    async fn writes_back(
        &self,
        ctx: &OpContext,
        original: &Replica,
        shadow: Option<&Replica>,
        opened: Opened,
    ) -> Result<Frozen, DriverError> {
        let _ = (shadow, opened);
        Err(no_single_writer(ctx, "take writes back", original))
    }

    /// Destroys the original. Takes the proof that nothing reaches it.
    async fn terminate(
        &self,
        ctx: &OpContext,
        original: &Replica,
        proof: &ZeroTraffic,
    ) -> Result<(), DriverError>;

    /// Destroys whatever exists of this migration's shadow: process, directory, port.
    async fn destroy_shadow(&self, ctx: &OpContext) -> Result<(), DriverError>;

    /// The replica with this tag, if it runs.
    async fn find_by_tag(&self, tag: &str) -> Result<Option<Replica>, DriverError>;

    /// Takes the resources over for a new leader, before it acts: older epochs of its lease are
    /// refused from here on, and what they had begun is over when this returns.
    async fn claim(&self, lease: &LeaseName, epoch: Epoch) -> Result<(), DriverError> {
        let _every_call_is_checked = (lease, epoch);
        Ok(())
    }

    /// Everything that this driver keeps.
    async fn list(&self) -> Result<Vec<Found>, DriverError> {
        Err(DriverError::Failed {
            operation: "list",
            subject: "replicas".to_owned(),
            reason: "this driver cannot".to_owned(),
        })
    }

    /// Destroys whatever exists under a tag, also a replica that was an original once. Only for
    /// what belongs to nothing; the caller has made sure of that.
    async fn collect(&self, ctx: &OpContext, tag: &str) -> Result<(), DriverError> {
        Err(DriverError::Failed {
            operation: "collect",
            subject: format!("{tag} for {}", ctx.op),
            reason: "this driver cannot".to_owned(),
        })
    }

    /// Stops a replica outside any migration (end of the demo, operator's wish).
    async fn stop(&self, replica: &Replica) -> Result<(), DriverError>;

    /// The share of the last ten seconds in which something on a host waited for a processor (PSI);
    /// `None` where that is not known.
    async fn pressure(&self, host: &Host) -> Result<Option<f64>, DriverError> {
        let _not_known = host;
        Ok(None)
    }

    /// What a replica uses now, as the difference to the last call for it; `None` for the first.
    async fn reading(&self, replica: &Replica) -> Result<Option<Reading>, DriverError>;
}
