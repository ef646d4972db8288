//! Before or after the point of no return, as types: what was committed cannot be rolled back
//! because the method does not exist.

use crate::migration::record::{Migration, Phase};

/// Which side of the commit a migration is on.
#[derive(Debug)]
pub enum Standing<'a> {
    /// Before: everything can be undone.
    Reversible(Reversible<'a>),
    /// After: only forward.
    Final(Final<'a>),
}

/// A migration that can still be undone.
#[derive(Debug)]
pub struct Reversible<'a>(pub(super) &'a mut Migration);

/// A migration that has been committed (or is over).
///
/// ```compile_fail
/// // What was committed has no way back.
/// fn back(migration: foreshadow_domain::migration::Final<'_>) {
///     migration.roll_back("changed my mind");
/// }
/// ```
#[derive(Debug)]
pub struct Final<'a>(pub(super) &'a mut Migration);

impl Migration {
    /// Which side of the commit it is on. A parked migration stands where it was parked.
    pub fn standing(&mut self) -> Standing<'_> {
        let phase = match (&self.question, self.phase) {
            (Some(question), Phase::Parked) => question.phase,
            (_, phase) => phase,
        };
        match phase {
            Phase::Planned
            | Phase::HostReserved
            | Phase::ShadowCreating
            | Phase::Syncing
            | Phase::Forking
            | Phase::Reidentifying
            | Phase::Verifying
            | Phase::Mirroring
            | Phase::Ramping { .. }
            | Phase::Soaking
            | Phase::CutOver
            | Phase::Draining
            | Phase::RollingBack => Standing::Reversible(Reversible(self)),
            Phase::Committed
            | Phase::Terminating
            | Phase::Done
            | Phase::RolledBack
            | Phase::Parked => Standing::Final(Final(self)),
        }
    }
}

impl Reversible<'_> {
    /// Begins to undo everything. The next effect is the newest entry of the undo stack.
    pub fn roll_back(self, reason: impl Into<String>) {
        let migration = self.0;
        // The first reason is the cause; what fails later follows from it.
        migration.failure.get_or_insert(reason.into());
        migration.pending = None;
        migration.question = None;
        migration.proof = None;
        migration.phase = Phase::RollingBack;
    }
}

impl Final<'_> {
    /// The migration.
    pub fn get(&self) -> &Migration {
        self.0
    }
}
