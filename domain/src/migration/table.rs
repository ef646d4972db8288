//! The steps of a migration as a table: one row per effect, with its undo and the reason why it
//! stands where it stands.

use crate::migration::record::{EffectKind, Undo};

/// How an effect may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Doing it twice is doing it once.
    Repeatable,
    /// Whether it was done can be seen; look before repeating.
    Observable,
    /// It must not be done twice; the driver guards it by the operation id.
    OneShotGuarded,
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The effect's name.
    pub name: &'static str,
    /// What is pushed on the undo stack before the effect begins, first one first.
    pub undo: &'static [Undo],
    /// How it may be repeated.
    pub class: Class,
    /// How long one attempt may take, in milliseconds; what waits for people or traffic has none.
    pub deadline_ms: Option<u64>,
    /// Why it stands here.
    pub reason: &'static str,
}

/// The row of an effect.
pub const fn row(kind: &EffectKind) -> Row {
    match kind {
        EffectKind::Reserve => Row {
            name: "reserve",
            undo: &[Undo::ReleaseReservation],
            class: Class::Repeatable,
            deadline_ms: Some(5_000),
            reason: "first, so that two plans never overcommit the target",
        },
        EffectKind::PrepareShadow => Row {
            name: "prepare shadow",
            undo: &[Undo::DestroyShadow],
            class: Class::Observable,
            deadline_ms: Some(15_000),
            reason: "needs the reservation; from here on something exists that must be destroyed",
        },
        EffectKind::SyncRound => Row {
            name: "sync round",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(120_000),
            reason: "while the original runs, so that the pause of the fork is short",
        },
        EffectKind::Fork => Row {
            name: "fork",
            undo: &[],
            class: Class::OneShotGuarded,
            deadline_ms: Some(30_000),
            reason: "after the lag is small; the driver bounds the pause and resumes by itself",
        },
        EffectKind::Reidentify => Row {
            name: "re-identify",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(10_000),
            reason: "before the first byte of traffic: clones share identity and random state",
        },
        EffectKind::Verify => Row {
            name: "verify",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(30_000),
            reason: "no weight above 0 for a shadow that was not verified",
        },
        EffectKind::Route(_) => Row {
            name: "route",
            undo: &[Undo::RestoreRouting, Undo::ShiftBack],
            class: Class::Repeatable,
            deadline_ms: Some(30_000),
            reason: "the judge must not look before every data plane has the split",
        },
        EffectKind::Judge(_) => Row {
            name: "judge",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: None,
            reason: "no stage is left without a verdict",
        },
        EffectKind::FreezeWrites => Row {
            name: "freeze writes",
            undo: &[
                Undo::Reopen,
                Undo::FlipBack,
                Undo::WritesBack,
                Undo::HoldWrites,
            ],
            class: Class::Repeatable,
            deadline_ms: Some(1_000),
            reason: "after every data plane holds writes, so that none is turned away; the position is taken after it, so that none is behind it",
        },
        EffectKind::CatchUp => Row {
            name: "catch up",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(1_000),
            reason: "before anybody reads from the shadow; the way back is attached before the first new write",
        },
        EffectKind::OpenWrites => Row {
            name: "open writes",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(1_000),
            reason: "after the original refuses writes for good and every data plane reads from the shadow: never two writers, never a stale read",
        },
        EffectKind::AwaitDrain => Row {
            name: "await drain",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: None,
            reason: "last step that can be taken back; its outcome is the proof for the commit",
        },
        EffectKind::Adopt => Row {
            name: "adopt",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(30_000),
            reason: "after the commit and before the original goes: records and routes name the shadow first",
        },
        EffectKind::Terminate { .. } => Row {
            name: "terminate",
            undo: &[],
            class: Class::Observable,
            deadline_ms: Some(30_000),
            reason: "after no record and no route names the original any more",
        },
        EffectKind::Release => Row {
            name: "release",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(5_000),
            reason: "last: the double running is over",
        },
        EffectKind::Undo(undo) => undo_row(*undo),
    }
}

const fn undo_row(undo: Undo) -> Row {
    match undo {
        Undo::HoldWrites => Row {
            name: "hold writes",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(30_000),
            reason: "first: no write is turned away while the sides change",
        },
        Undo::WritesBack => Row {
            name: "writes back",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(10_000),
            reason: "the shadow refuses writes before the original takes any, and the original needs all that the shadow took",
        },
        Undo::FlipBack => Row {
            name: "flip back",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(30_000),
            reason: "nobody reads from the shadow when the original takes the first write",
        },
        Undo::Reopen => Row {
            name: "reopen",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(10_000),
            reason: "after the shadow refuses writes for good; the hold ends with what comes next",
        },
        Undo::ShiftBack => Row {
            name: "shift back",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(60_000),
            reason: "then traffic leaves the shadow, and its last requests end",
        },
        Undo::RestoreRouting => Row {
            name: "restore routing",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(30_000),
            reason: "no route names the shadow when it is destroyed",
        },
        Undo::DestroyShadow => Row {
            name: "destroy shadow",
            undo: &[],
            class: Class::Observable,
            deadline_ms: Some(30_000),
            reason: "its capacity is still held, so nothing else can be placed into it",
        },
        Undo::ReleaseReservation => Row {
            name: "release reservation",
            undo: &[],
            class: Class::Repeatable,
            deadline_ms: Some(5_000),
            reason: "last: the shadow is gone",
        },
    }
}
