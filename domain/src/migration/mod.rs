//! The migration: a saga of steps through phases, as one pure transition function.
//!
//! # Flow
//! ```text
//! Planned ─▶ HostReserved ─▶ ShadowCreating ─▶ Syncing ─▶ Forking ─▶ Reidentifying ─▶ Verifying
//!                                                                                        │
//!  Done ◀─ Terminating ◀─ Committed ◀─ Draining ◀─ Soaking ◀─ Ramping{stage} ◀─ Mirroring ◀┘
//!            └──── only forward ───┘ └───────── any of these and all before ────────────┐
//!                                              RolledBack ◀─ RollingBack ◀──────────────┘
//! Parked: from anywhere, when only a person can decide.
//! ```
//! A single writer (S3) has no ramp: two sides that serve at once would show stale reads. After
//! `Mirroring` everything flips at once, and can be taken back from the soak as it was flipped:
//! ```text
//! Mirroring ─▶ CutOver: hold writes ─▶ freeze the original, note its position ─▶ shadow catches up,
//!              checksum, the original follows ─▶ flip, all acknowledged ─▶ open the shadow ─▶ release
//!                                                                        └─▶ Soaking ─▶ Draining ─▶ …
//! ```
//!
//! # How it is driven
//! [`step`] takes the record and an [`Event`], and gives the new record and the [`Effect`]s to
//! carry out. The caller stores the new record (its `pending` effect is the logged *intent*)
//! before it carries the effect out, and reports the outcome as the next event. A record always
//! has at most one pending effect, so after a crash [`What::TakenOver`] says exactly what to do
//! again; effects are idempotent by their operation id.
//!
//! # The steps
//! [`table`] lists, per phase, the effect, its undo, its class, and why it stands where it does.
//!
//! # Failure paths
//! A failed effect is repeated while it may be; then everything done is undone in reverse order
//! (before the commit), or the migration is parked (after it, and when an undo fails). What was
//! pushed on the undo stack was pushed *before* the effect began, so a half-done effect is undone
//! as well.

mod record;
mod standing;
pub mod table;
mod transition;

#[cfg(test)]
mod tests;

pub use record::{
    Effect, EffectKind, Entered, Event, Frozen, Illegal, JudgeScope, Limits, Migration, OpId,
    Outcome, Pending, Phase, Question, RouteTo, Undo, Verdict, What,
};
pub use standing::{Final, Reversible, Standing};
pub use transition::step;
