//! What is explored: the size of the world, and at most one planted bug.

use domain::ConsistencyClass;

/// How often each thing that nobody controls may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Budget {
    /// Leaderships: each is a lease with a higher epoch. The one before may go on as a zombie.
    pub(crate) leases: u8,
    /// Crashes of a coordinator, at any point.
    pub(crate) crashes: u8,
    /// Effects that fail, are reported as failed though they were done, or pass their deadline.
    pub(crate) faults: u8,
    /// Calls of driver or store that are carried out after their caller has given up, or never.
    pub(crate) late: u8,
    /// An operator who undoes a running migration.
    pub(crate) aborts: u8,
    /// Contradictions found between the world and the record.
    pub(crate) contradictions: u8,
    /// A person's answers to a parked migration.
    pub(crate) answers: u8,
    /// Verdicts against the shadow.
    pub(crate) rollbacks: u8,
    /// Verdicts that decide nothing.
    pub(crate) holds: u8,
    /// Proxies that lose the control plane (and go on with what they have).
    pub(crate) losses: u8,
    /// Writes of clients, to a single writer.
    pub(crate) writes: u8,
}

/// A bug in the executor, in what it relies on, or in `step()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Planted {
    /// The store takes writes of an epoch that is over.
    NoStoreFence,
    /// The effect is carried out before the record that names it is saved.
    EffectBeforeIntent,
    /// The first proxy's acknowledgement is taken for all.
    OneAckIsAll,
    /// Nobody waits for the original's last requests.
    DrainNotAwaited,
    /// A failure after the commit is answered by undoing.
    UndoAfterCommit,
    /// The reservation is given back before the shadow is destroyed.
    ReleaseBeforeDestroy,
    /// A new leader takes the pending effect for done.
    TakeOverAssumesSuccess,
    /// The shadow gets weight without having been verified.
    VerifySkipped,
    /// A proxy without connection is taken for one that has applied everything.
    AbsentCountsAsApplied,
    /// A roll-back leaves the routing as it is.
    RoutingNotRestored,
    /// A repeated fork makes another shadow.
    ForkUnguarded,
    /// A parked migration goes on under the epoch in which it was parked.
    AnswerUnderOldEpoch,
    /// A proxy that returns has forgotten what it acknowledged.
    ProxyForgets,
    /// An answer counts for the pending operation, whichever operation it names.
    LateReplyTaken,
    /// The executor lets an abort interrupt what was committed.
    AbortAfterCommit,
    /// The position that the shadow must reach is noted before the original refuses writes.
    PositionBeforeFreeze,
    /// A shadow that was told to refuse writes is opened by a call from before.
    NoWriterFence,
    /// The original is not given what the shadow took.
    NoReverseSync,
}

/// One world to explore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Config {
    /// What may happen, how often.
    pub(crate) budget: Budget,
    /// Stages of the ramp, the last one (all traffic) included.
    pub(crate) stages: u8,
    /// Tries per effect.
    pub(crate) attempts: u8,
    /// Most rounds of sync.
    pub(crate) rounds: u8,
    /// The instance's class.
    pub(crate) class: ConsistencyClass,
    /// Whether single requests are followed. Without them a drain is never awaited.
    pub(crate) requests: bool,
    /// Whether the driver refuses an epoch below the highest it has seen.
    pub(crate) driver_fence: bool,
    /// Whether the driver refuses an operation below the last it has carried out.
    pub(crate) driver_order: bool,
    /// Whether the store refuses a write whose record has moved on since it was sent.
    pub(crate) store_order: bool,
    /// The planted bug.
    pub(crate) planted: Option<Planted>,
}

impl Config {
    /// Whether this bug is planted.
    pub(crate) fn has(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }

    /// A small world without faults; tests add what they are about.
    pub(crate) fn calm() -> Self {
        Self {
            budget: Budget {
                leases: 1,
                ..Budget::default()
            },
            stages: 2,
            attempts: 2,
            rounds: 1,
            class: ConsistencyClass::Stateless,
            requests: true,
            driver_fence: true,
            driver_order: true,
            store_order: true,
            planted: None,
        }
    }
}
