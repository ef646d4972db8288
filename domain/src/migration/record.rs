//! The record of a migration, its events and its effects.

use serde::{Deserialize, Serialize};

use crate::ids::{HostId, InstanceId, MigrationId, PlanId, ServiceId};
use crate::inventory::{ConsistencyClass, Endpoint, Instance, Replica};
use crate::plan::Move;
use crate::routing::{Hold, ZeroTraffic};
use crate::units::{Epoch, Resources, Timestamp};
use crate::weight::{RampPlan, WeightSplit};

/// Where a migration stands. See the module's picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Phase {
    /// Accepted; capacity on the target is being reserved.
    Planned,
    /// Capacity is held.
    HostReserved,
    /// Room for the shadow is being made.
    ShadowCreating,
    /// State is copied while the original runs.
    Syncing,
    /// The last delta is taken and the shadow started.
    Forking,
    /// The shadow gets an identity of its own.
    Reidentifying,
    /// The shadow is checked.
    Verifying,
    /// Safe requests are copied to the shadow; its answers are dropped.
    Mirroring,
    /// Traffic moves, one stage at a time.
    Ramping {
        /// Index of the stage, from 0.
        stage: usize,
    },
    /// The shadow has all traffic; the original waits.
    Soaking,
    /// Single writers only: everything flips at once, while writes are held.
    CutOver,
    /// The original's last requests end.
    Draining,
    /// The point of no return is recorded.
    Committed,
    /// The original is destroyed and what was temporary is removed.
    Terminating,
    /// Finished.
    Done,
    /// What was done is being undone.
    RollingBack,
    /// Everything is as before.
    RolledBack,
    /// A person must decide; see [`Migration::question`].
    Parked,
}

impl Phase {
    /// Whether nothing more will happen by itself.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Done | Self::RolledBack | Self::Parked => true,
            Self::Planned
            | Self::HostReserved
            | Self::ShadowCreating
            | Self::Syncing
            | Self::Forking
            | Self::Reidentifying
            | Self::Verifying
            | Self::Mirroring
            | Self::Ramping { .. }
            | Self::Soaking
            | Self::CutOver
            | Self::Draining
            | Self::Committed
            | Self::Terminating
            | Self::RollingBack => false,
        }
    }

    /// Whether nothing is left to be done by anybody: what is parked still holds what it holds.
    pub const fn is_over(self) -> bool {
        self.is_final() && !matches!(self, Self::Parked)
    }

    /// The name shown to people and used in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::HostReserved => "host reserved",
            Self::ShadowCreating => "shadow creating",
            Self::Syncing => "syncing",
            Self::Forking => "forking",
            Self::Reidentifying => "re-identifying",
            Self::Verifying => "verifying",
            Self::Mirroring => "mirroring",
            Self::Ramping { .. } => "ramping",
            Self::Soaking => "soaking",
            Self::CutOver => "cut-over",
            Self::Draining => "draining",
            Self::Committed => "committed",
            Self::Terminating => "terminating",
            Self::Done => "done",
            Self::RollingBack => "rolling back",
            Self::RolledBack => "rolled back",
            Self::Parked => "parked",
        }
    }
}

/// When a phase was entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// The phase.
    pub phase: Phase,
    /// When.
    pub at: Timestamp,
}

/// Bounds of a migration's patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The sync ends when no more than this many bytes are behind.
    pub lag_bytes: u64,
    /// The sync also ends after this many rounds: what is left is copied at rest.
    pub sync_rounds: u32,
    /// How often one effect is tried.
    pub attempts: u32,
    /// Longest time that a single writer's writes may be held for the cut-over, in milliseconds;
    /// beyond, everything is undone.
    #[serde(skip_serializing_if = "is_usual_freeze")]
    pub freeze_ms: u64,
}

/// A writer that takes no writes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// The epoch under which the next writer may write.
    pub writer: u64,
    /// Where its writes end. Taken after it was frozen.
    pub position: u64,
}

/// See [`Limits::freeze_ms`].
const USUAL_FREEZE_MS: u64 = 2_000;

/// What is as usual is not written, so that a build from before single writers were moved reads it.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
const fn is_usual_freeze(freeze_ms: &u64) -> bool {
    *freeze_ms == USUAL_FREEZE_MS
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lag_bytes: 512 * 1024,
            sync_rounds: 8,
            attempts: 3,
            freeze_ms: USUAL_FREEZE_MS,
        }
    }
}

/// Number of an operation within its migration. With the migration's id it is the idempotency key
/// of the effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId(pub u64);

/// The effect whose outcome is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its operation.
    pub op: OpId,
    /// What it does.
    pub kind: EffectKind,
    /// How often it was begun.
    pub attempts: u32,
    /// When it was first begun.
    pub since: Timestamp,
}

/// What only a person can answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The question, with what led to it.
    pub text: String,
    /// The phase it arose in.
    pub phase: Phase,
}

/// A migration, whole. It is stored after every [`super::step`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migration {
    /// Its name; also the shadow's tag.
    pub id: MigrationId,
    /// The plan it carries out.
    pub plan: PlanId,
    /// The instance.
    pub instance: InstanceId,
    /// Its service.
    pub service: ServiceId,
    /// What may be done to it.
    pub class: ConsistencyClass,
    /// The replica it moves away from.
    pub original: Replica,
    /// The host it moves to.
    pub target: HostId,
    /// In which steps its traffic moves.
    pub ramp: RampPlan,
    /// What is reserved on the target.
    pub reserve: Resources<f64>,
    /// Bounds of its patience.
    pub limits: Limits,
    /// The leadership that last drove it.
    pub epoch: Epoch,
    /// Where it stands.
    pub phase: Phase,
    /// The effect whose outcome is not known yet.
    pub pending: Option<Pending>,
    /// What must be undone, newest last.
    pub undo: Vec<Undo>,
    /// Number of the next operation.
    pub next_op: u64,
    /// Rounds of sync so far.
    pub sync_rounds: u32,
    /// Where the shadow will answer, once that is known.
    pub shadow_endpoint: Option<Endpoint>,
    /// The shadow, once it runs.
    pub shadow: Option<Replica>,
    /// Whether the shadow has passed verification.
    pub verified: bool,
    /// Single writers only: where the original's writes end, once it is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
    /// Single writers only: whether the shadow may have been opened for writes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opened: bool,
    /// Proof that the original has no traffic.
    pub proof: Option<ZeroTraffic>,
    /// Why it rolls back.
    pub failure: Option<String>,
    /// What a person must decide, while parked.
    pub question: Option<Question>,
    /// Phases so far, oldest first.
    pub history: Vec<Entered>,
}

impl Migration {
    /// A migration that has not begun.
    pub fn new(
        id: MigrationId,
        plan: PlanId,
        instance: &Instance,
        intent: &Move,
        limits: Limits,
        epoch: Epoch,
        at: Timestamp,
    ) -> Self {
        Self {
            id,
            plan,
            instance: instance.spec.id.clone(),
            service: instance.spec.service.clone(),
            class: instance.spec.class,
            original: instance.replica.clone(),
            target: intent.target.clone(),
            ramp: intent.ramp.clone(),
            reserve: intent.reserve,
            limits,
            epoch,
            phase: Phase::Planned,
            pending: None,
            undo: Vec::new(),
            next_op: 1,
            sync_rounds: 0,
            shadow_endpoint: None,
            shadow: None,
            verified: false,
            frozen: None,
            opened: false,
            proof: None,
            failure: None,
            question: None,
            history: vec![Entered {
                phase: Phase::Planned,
                at,
            }],
        }
    }

    /// When it began.
    pub fn started_at(&self) -> Timestamp {
        self.history
            .first()
            .map_or(Timestamp(0), |entered| entered.at)
    }

    /// When it entered its present phase.
    pub fn entered_at(&self) -> Timestamp {
        self.history
            .last()
            .map_or(Timestamp(0), |entered| entered.at)
    }

    /// The split that is in force or on its way.
    pub fn split(&self) -> WeightSplit {
        match self.phase {
            Phase::Ramping { stage } => self
                .ramp
                .stage(stage)
                .map_or(WeightSplit::ORIGINAL, |stage| {
                    WeightSplit::shadow_share(stage.shadow)
                }),
            Phase::CutOver if self.opened => WeightSplit::SHADOW,
            Phase::Soaking
            | Phase::Draining
            | Phase::Committed
            | Phase::Terminating
            | Phase::Done => WeightSplit::SHADOW,
            Phase::Planned
            | Phase::HostReserved
            | Phase::ShadowCreating
            | Phase::Syncing
            | Phase::Forking
            | Phase::Reidentifying
            | Phase::Verifying
            | Phase::Mirroring
            | Phase::CutOver
            | Phase::RollingBack
            | Phase::RolledBack
            | Phase::Parked => WeightSplit::ORIGINAL,
        }
    }
}

/// Where a routing effect sends the instance's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteTo {
    /// The split.
    pub split: WeightSplit,
    /// Whether safe requests are copied to the shadow as well.
    pub mirror: bool,
    /// Whether requests that change something wait.
    #[serde(default, skip_serializing_if = "Hold::is_off")]
    pub hold: Hold,
}

/// What the judge looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scope", rename_all = "snake_case")]
pub enum JudgeScope {
    /// Copied requests.
    Mirror,
    /// A stage of the ramp.
    Stage {
        /// Its index, from 0.
        stage: usize,
    },
    /// The shadow with all traffic.
    Soak,
}

/// What a migration does to the world. Each is idempotent by its operation id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", content = "with", rename_all = "snake_case")]
pub enum EffectKind {
    /// Hold capacity on the target.
    Reserve,
    /// Make room for the shadow.
    PrepareShadow,
    /// Copy what changed.
    SyncRound,
    /// Take the last delta and start the shadow.
    Fork,
    /// Give the shadow an identity of its own.
    Reidentify,
    /// Check the shadow.
    Verify,
    /// Publish a split and wait until every data plane has it.
    Route(RouteTo),
    /// Watch both sides until there is a verdict.
    Judge(JudgeScope),
    /// Let the original refuse writes, and note where they end.
    FreezeWrites,
    /// Let the shadow reach that position, compare both there, and let the original follow it.
    CatchUp,
    /// Let the shadow take writes.
    OpenWrites,
    /// Wait until nothing reaches the original any more.
    AwaitDrain,
    /// Make the shadow the instance's replica, and its routing the usual one.
    Adopt,
    /// Destroy the original. It takes the proof that nothing reaches it.
    ///
    /// ```compile_fail
    /// // No proof, no termination.
    /// let effect = foreshadow_domain::EffectKind::Terminate;
    /// ```
    Terminate {
        /// The proof.
        proof: ZeroTraffic,
    },
    /// Give the reservation back.
    Release,
    /// Undo an earlier effect.
    Undo(Undo),
}

/// What takes an effect back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// Give the reservation back.
    ReleaseReservation,
    /// Destroy whatever exists of the shadow.
    DestroyShadow,
    /// Publish the routing from before, and wait until every data plane has it.
    RestoreRouting,
    /// Give the original all traffic, and wait until the shadow's last requests have ended.
    ShiftBack,
    /// Hold writes, wherever they go.
    HoldWrites,
    /// Let the shadow refuse writes, and let the original reach where they end.
    WritesBack,
    /// Give the original all reads, while writes are held.
    FlipBack,
    /// Let the original take writes again.
    Reopen,
}

/// An effect to carry out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Its operation.
    pub op: OpId,
    /// The leadership under which it is carried out.
    pub epoch: Epoch,
    /// What it does.
    pub kind: EffectKind,
}

/// What the judge found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The shadow is worse.
    Rollback {
        /// In which way.
        reason: String,
    },
    /// Not to be decided now.
    Hold {
        /// Why not.
        reason: String,
    },
    /// The shadow is no worse.
    Promote {
        /// What shows it.
        reason: String,
    },
    /// Not to be decided with what there is.
    Inconclusive {
        /// What is missing.
        reason: String,
    },
}

/// How an effect came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; there is nothing to tell.
    Done,
    /// The shadow will answer here.
    Prepared(Endpoint),
    /// A round of sync is over, and this many bytes are behind.
    Synced {
        /// Bytes behind.
        lag_bytes: u64,
    },
    /// The shadow runs.
    Forked(Replica),
    /// The judge has spoken.
    Judged(Verdict),
    /// The original takes no writes any more.
    Frozen(Frozen),
    /// Nothing reaches the original any more.
    Drained(ZeroTraffic),
}

/// Something that happened, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The migration shall begin.
    Start,
    /// An effect is done.
    Succeeded {
        /// Which.
        op: OpId,
        /// How it came out.
        outcome: Outcome,
    },
    /// An effect failed.
    Failed {
        /// Which.
        op: OpId,
        /// Why.
        error: String,
        /// Whether it may be repeated.
        may_retry: bool,
    },
    /// Somebody wants it undone.
    Abort {
        /// Why.
        reason: String,
    },
    /// A leader has taken the migration over, perhaps after a crash.
    TakenOver {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The world contradicts the record; a person must look.
    Contradiction {
        /// What was found.
        question: String,
    },
    /// A person's answer while parked: try again what failed.
    RetryParked,
    /// A person's answer while parked: undo everything.
    RollBackParked,
}

/// An event that must not happen in this state. The record stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// The event makes no sense in this phase.
    #[error("migration {migration}: {event} is not possible while {phase}")]
    InPhase {
        /// The migration.
        migration: MigrationId,
        /// What was to happen.
        event: &'static str,
        /// The phase's name.
        phase: &'static str,
    },
    /// The outcome of an operation that is not pending.
    #[error("migration {migration}: operation {op} is not the pending one")]
    StaleOp {
        /// The migration.
        migration: MigrationId,
        /// The operation.
        op: u64,
    },
    /// The outcome does not belong to the pending effect.
    #[error("migration {migration}: outcome {outcome} does not answer {effect}")]
    WrongOutcome {
        /// The migration.
        migration: MigrationId,
        /// The outcome's name.
        outcome: &'static str,
        /// The pending effect's name.
        effect: &'static str,
    },
    /// A leader with an old epoch.
    #[error("migration {migration}: epoch {ours} is stale, the record is at {current}")]
    StaleEpoch {
        /// The migration.
        migration: MigrationId,
        /// The event's epoch.
        ours: Epoch,
        /// The record's epoch.
        current: Epoch,
    },
}
