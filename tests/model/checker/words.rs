//! Small copies of the domain's words: what an effect, a routing and an event are for the model.

use domain::migration::{EffectKind, JudgeScope, RouteTo, Undo};
use domain::{Hold, WeightSplit};

/// Where an instance's traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// The usual routing; the instance's replica is the original.
    Before,
    /// The usual routing; the instance's replica is what was the shadow.
    After,
    /// Split between both.
    Split {
        /// The shadow's share.
        shadow: WeightSplit,
        /// Whether requests are copied to it.
        mirror: bool,
        /// Whether writes wait.
        hold: Hold,
    },
}

impl Way {
    /// All to the original, over the temporary clusters.
    pub(crate) const ORIGINAL: Self = Self::Split {
        shadow: WeightSplit::ORIGINAL,
        mirror: false,
        hold: Hold::Off,
    };
    /// All to the shadow, over the temporary clusters.
    pub(crate) const SHADOW: Self = Self::Split {
        shadow: WeightSplit::SHADOW,
        mirror: false,
        hold: Hold::Off,
    };

    /// The same while writes wait.
    pub(crate) fn held(self) -> Self {
        match self {
            Self::Before | Self::After => self,
            Self::Split { shadow, mirror, .. } => Self::Split {
                shadow,
                mirror,
                hold: Hold::Writes,
            },
        }
    }

    /// Whether the original gets requests.
    pub(crate) fn feeds_original(self) -> bool {
        match self {
            Self::Before => true,
            Self::After => false,
            Self::Split { shadow, .. } => shadow.original().get() > 0,
        }
    }

    /// Whether writes go on.
    pub(crate) fn lets_writes_pass(self) -> bool {
        match self {
            Self::Before | Self::After => true,
            Self::Split { hold, .. } => hold == Hold::Off,
        }
    }

    /// Whether the shadow gets requests. Copies of requests do not count: their answers are
    /// dropped.
    pub(crate) fn feeds_shadow(self) -> bool {
        match self {
            Self::Before => false,
            Self::After => true,
            Self::Split { shadow, .. } => shadow.shadow().get() > 0,
        }
    }
}

/// What the judge looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// Copied requests.
    Mirror,
    /// A stage.
    Stage(u8),
    /// All traffic.
    Soak,
}

/// An effect. The proof inside `Terminate` is the record's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Eff {
    /// Hold capacity.
    Reserve,
    /// Make room.
    Prepare,
    /// Copy what changed.
    Sync,
    /// Start the shadow.
    Fork,
    /// Give it an identity.
    Reidentify,
    /// Check it.
    Verify,
    /// Publish a split.
    Route(Way),
    /// Compare both sides.
    Judge(Scope),
    /// Let the original refuse writes.
    Freeze,
    /// Let the shadow reach where they end.
    CatchUp,
    /// Let the shadow take writes.
    Open,
    /// Wait for the original's last requests.
    Drain,
    /// Make the shadow the instance's replica.
    Adopt,
    /// Destroy the original.
    Terminate,
    /// Give the reservation back.
    Release,
    /// Take something back.
    Undo(Undo),
}

impl Eff {
    /// The small copy.
    pub(crate) fn of(kind: &EffectKind) -> Self {
        match kind {
            EffectKind::Reserve => Self::Reserve,
            EffectKind::PrepareShadow => Self::Prepare,
            EffectKind::SyncRound => Self::Sync,
            EffectKind::Fork => Self::Fork,
            EffectKind::Reidentify => Self::Reidentify,
            EffectKind::Verify => Self::Verify,
            EffectKind::Route(RouteTo {
                split,
                mirror,
                hold,
            }) => Self::Route(Way::Split {
                shadow: *split,
                mirror: *mirror,
                hold: *hold,
            }),
            EffectKind::FreezeWrites => Self::Freeze,
            EffectKind::CatchUp => Self::CatchUp,
            EffectKind::OpenWrites => Self::Open,
            EffectKind::Judge(JudgeScope::Mirror) => Self::Judge(Scope::Mirror),
            EffectKind::Judge(JudgeScope::Stage { stage }) => {
                Self::Judge(Scope::Stage(super::record::small(*stage)))
            }
            EffectKind::Judge(JudgeScope::Soak) => Self::Judge(Scope::Soak),
            EffectKind::AwaitDrain => Self::Drain,
            EffectKind::Adopt => Self::Adopt,
            EffectKind::Terminate { .. } => Self::Terminate,
            EffectKind::Release => Self::Release,
            EffectKind::Undo(undo) => Self::Undo(*undo),
        }
    }

    /// Who carries it out.
    pub(crate) fn place(self) -> Place {
        match self {
            Self::Prepare
            | Self::Sync
            | Self::Fork
            | Self::Reidentify
            | Self::Verify
            | Self::Freeze
            | Self::CatchUp
            | Self::Open
            | Self::Terminate
            | Self::Undo(Undo::DestroyShadow | Undo::WritesBack | Undo::Reopen) => Place::Driver,
            Self::Reserve | Self::Release | Self::Undo(Undo::ReleaseReservation) => Place::Store,
            Self::Route(_)
            | Self::Drain
            | Self::Adopt
            | Self::Undo(
                Undo::ShiftBack | Undo::RestoreRouting | Undo::HoldWrites | Undo::FlipBack,
            ) => Place::Proxies,
            Self::Judge(_) => Place::Judge,
        }
    }
}

/// Who carries an effect out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The driver.
    Driver,
    /// The store alone.
    Store,
    /// The store, and then the proxies.
    Proxies,
    /// Nobody; it is looked at.
    Judge,
}

/// A verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Said {
    /// The shadow is no worse.
    Promote,
    /// It is worse.
    Rollback,
    /// Not decided.
    Hold,
}

/// A proof of zero traffic, as far as it can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Proof {
    /// The routing that proves it.
    pub(crate) revision: u8,
    /// Whether requests were let go.
    pub(crate) forced: bool,
}

/// How an effect came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    /// Done.
    Done,
    /// Room is made.
    Prepared,
    /// Copied; `near` when little is left.
    Synced {
        /// Whether the lag is under the limit.
        near: bool,
    },
    /// The shadow runs.
    Forked,
    /// The judge has spoken.
    Judged(Said),
    /// The original refuses writes.
    Frozen,
    /// Nothing reaches the original.
    Drained(Proof),
}

/// An event for `step()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ev {
    /// Begin.
    Start,
    /// The operation is done.
    Ok {
        /// Which.
        op: u8,
        /// How.
        told: Told,
    },
    /// It failed.
    Failed {
        /// Which.
        op: u8,
        /// Whether it may be repeated.
        retry: bool,
    },
    /// Undo it.
    Abort,
    /// A leader takes over.
    TakenOver {
        /// Its epoch.
        epoch: u8,
    },
    /// The world contradicts the record.
    Contradiction,
    /// A person says: again. The leader takes the record over first.
    Retry {
        /// Its epoch.
        epoch: u8,
    },
    /// A person says: undo. The leader takes the record over first.
    RollBack {
        /// Its epoch.
        epoch: u8,
    },
}
