//! The state of the explored world: everything that can make a difference, and nothing else.
//!
//! Generations of the record only grow and are only compared, so a coordinator's copy is either
//! [`Coord::fresh`] or stale for ever; the number itself is left out.

use domain::Phase;

use super::config::{Budget, Config};
use super::record::Rec;
use super::words::{Eff, Ev, Way};

/// The record of what must never happen; see [`Marks`] for how it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Mark {
    /// The original was destroyed while a proxy gave it weight, or requests were awaited.
    TerminatedTooEarly = 1,
    /// Something was carried out for an epoch that is over, where it could be seen.
    StaleEffect = 2,
    /// Something was carried out that the record did not name.
    Unlogged = 4,
    /// A proxy applied an older routing than before.
    WentBack = 8,
    /// A late reply changed the record.
    LateReplyCounted = 16,
}

/// Which of the [`Mark`]s were made so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Marks(u16);

impl Marks {
    pub(crate) fn make(&mut self, mark: Mark) {
        self.0 |= mark as u16;
    }

    pub(crate) fn has(self, mark: Mark) -> bool {
        self.0 & mark as u16 != 0
    }
}

/// The store: the lease, the record, the reservation, the routing, the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    /// Epoch of the newest lease; 0 before the first.
    pub(crate) epoch: u8,
    /// The migration's record.
    pub(crate) rec: Rec,
    /// Whether capacity is held.
    pub(crate) reserved: bool,
    /// Revision of the routing; 0 while there is no such record.
    pub(crate) revision: u8,
    /// The routing.
    pub(crate) way: Way,
    /// Whether the shadow is the instance's replica.
    pub(crate) adopted: bool,
}

/// What the driver has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Machines {
    /// Whether the original runs.
    pub(crate) original: bool,
    /// Whether there is room for a shadow: directory, port, limits.
    pub(crate) room: bool,
    /// How many shadows run.
    pub(crate) shadows: u8,
    /// Whether the shadow has an identity of its own.
    pub(crate) identity: bool,
    /// Whether the shadow that runs was checked.
    pub(crate) verified: bool,
    /// The operation that forked it.
    pub(crate) forked_by: u8,
    /// The highest epoch seen.
    pub(crate) seen_epoch: u8,
    /// The last operation that was carried out.
    pub(crate) last_op: u8,
    /// Who takes writes, of a single writer.
    pub(crate) writers: Writers,
}

/// Who takes writes, and who has those that were acknowledged. All of it stays as it is unless the
/// instance is a single writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Writers {
    /// Whether the original takes writes.
    pub(crate) original: bool,
    /// Whether the shadow does.
    pub(crate) shadow: bool,
    /// Whether the shadow refuses to be opened under the epoch of this cut-over.
    pub(crate) shadow_fenced: bool,
    /// Writes that the original has acknowledged since the shadow was made.
    pub(crate) original_wrote: u8,
    /// How many of them the shadow must have.
    pub(crate) position: u8,
    /// How many of them it has.
    pub(crate) shadow_has: u8,
    /// Writes that the shadow has acknowledged.
    pub(crate) shadow_wrote: u8,
    /// How many of them the original has.
    pub(crate) original_has: u8,
}

/// A proxy. It serves whether it is connected or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Proxy {
    /// Whether it has a stream to the control plane.
    pub(crate) connected: bool,
    /// Revision it has applied.
    pub(crate) revision: u8,
    /// The routing of that revision.
    pub(crate) way: Way,
    /// Whether it has acknowledged it.
    pub(crate) acked: bool,
    /// Whether a request is in progress on the original.
    pub(crate) on_original: bool,
    /// Whether a request is in progress on the shadow.
    pub(crate) on_shadow: bool,
}

/// What a coordinator is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Doing {
    /// Not running.
    Down,
    /// Running without a saga to drive.
    Idle,
    /// Stopped: the store refused its write.
    Refused,
    /// Stopped: `step()` refused its event. It must not come to this.
    Stuck,
    /// About to carry its effect out.
    Work,
    /// Has called the driver and hears nothing.
    Asked,
    /// Has published this revision and waits for the proxies.
    Wait(u8),
    /// Has an event to step and save.
    Got(Ev),
}

/// A coordinator: a migrator that may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Coord {
    /// What it does.
    pub(crate) doing: Doing,
    /// Its lease's epoch.
    pub(crate) epoch: u8,
    /// Whether its copy of the record is the stored one.
    pub(crate) fresh: bool,
    /// The effect it carries out.
    pub(crate) eff: Option<Eff>,
    /// That effect's operation.
    pub(crate) op: u8,
}

impl Coord {
    /// Not running.
    pub(crate) const DOWN: Self = Self {
        doing: Doing::Down,
        epoch: 0,
        fresh: false,
        eff: None,
        op: 0,
    };

    /// Has no saga to drive any more, but its lease.
    pub(crate) fn rest(&mut self) {
        *self = Self {
            doing: Doing::Idle,
            epoch: self.epoch,
            ..Self::DOWN
        };
    }

    /// Stops for this reason, and forgets.
    pub(crate) fn stop(&mut self, doing: Doing) {
        *self = Self {
            doing,
            ..Self::DOWN
        };
    }
}

/// A call to the driver whose caller may have given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    /// What it asks for.
    pub(crate) eff: Eff,
    /// Its operation.
    pub(crate) op: u8,
    /// The caller's epoch.
    pub(crate) epoch: u8,
}

/// Everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// The store.
    pub(crate) store: Store,
    /// The driver's world.
    pub(crate) machines: Machines,
    /// The proxies.
    pub(crate) proxies: [Proxy; 2],
    /// The coordinators.
    pub(crate) coords: [Coord; 2],
    /// A call on its way.
    pub(crate) late: Option<Call>,
    /// What may still happen.
    pub(crate) budget: Budget,
    /// What went wrong.
    pub(crate) marks: Marks,
}

impl State {
    /// A planned migration; nobody leads yet.
    pub(crate) fn first(config: &Config) -> Self {
        let proxy = Proxy {
            connected: true,
            revision: 0,
            way: Way::Before,
            acked: true,
            on_original: false,
            on_shadow: false,
        };
        Self {
            store: Store {
                epoch: 0,
                rec: Rec::planned(config),
                reserved: false,
                revision: 0,
                way: Way::Before,
                adopted: false,
            },
            machines: Machines {
                original: true,
                room: false,
                shadows: 0,
                identity: false,
                verified: false,
                forked_by: 0,
                seen_epoch: 0,
                last_op: 0,
                writers: Writers {
                    original: true,
                    shadow: false,
                    shadow_fenced: false,
                    original_wrote: 0,
                    position: 0,
                    shadow_has: 0,
                    shadow_wrote: 0,
                    original_has: 0,
                },
            },
            proxies: [proxy; 2],
            coords: [Coord::DOWN; 2],
            late: None,
            budget: config.budget,
            marks: Marks::default(),
        }
    }

    /// Where the record stands.
    pub(crate) fn phase(&self) -> Phase {
        self.store.rec.phase
    }

    /// Whether some proxy gives the original weight.
    pub(crate) fn original_is_fed(&self) -> bool {
        self.proxies.iter().any(|proxy| proxy.way.feeds_original())
    }

    /// Whether some proxy gives the shadow weight.
    pub(crate) fn shadow_is_fed(&self) -> bool {
        self.proxies.iter().any(|proxy| proxy.way.feeds_shadow())
    }
}
