//! What must hold in every state, and what must be reached so that this says something.

use domain::{ConsistencyClass, Phase};
use stateright::Property;

use super::Explored;
use super::config::Config;
use super::state::{Doing, Mark, State};
use super::words::{Ev, Way};

/// I1.
pub(crate) const SERVED: &str = "I1 a replica is alive and may be given traffic";
/// I2.
pub(crate) const WEIGHT: &str = "I2 weight goes only to what is alive and, if a shadow, verified";
/// I3.
pub(crate) const DRAINED: &str = "I3 the original goes only when nothing reaches it";
/// I4, at the resources.
pub(crate) const FENCED: &str = "I4 nothing is done for an epoch that is over";
/// I4, at the leader.
pub(crate) const OWN_EPOCH: &str = "I4 an effect carries the epoch of the leader that works on it";
/// I5.
pub(crate) const FORWARD: &str = "I5 no proxy goes back to an older routing";
/// I6.
pub(crate) const RESERVED: &str = "I6 capacity is held while a shadow exists";
/// I7.
pub(crate) const CLEAN: &str = "I7 at rest nothing is left behind";
/// I7, for the shadow.
pub(crate) const ONE_SHADOW: &str = "I7 there is never a second shadow";
/// I9.
pub(crate) const RESTORED: &str = "I9 a roll-back restores the routing from before";
/// I10.
pub(crate) const LOGGED: &str = "I10 the record names an effect before it can be seen";
/// I11.
pub(crate) const ONE_WRITER: &str = "I11 a single writer is never two";
/// What was acknowledged.
pub(crate) const NOTHING_LOST: &str = "who takes writes has all that were acknowledged";
/// What is read.
pub(crate) const FRESH: &str = "who is read from has all that were acknowledged";
/// The point of no return.
pub(crate) const NO_WAY_BACK: &str = "what was terminated is never rolled back";
/// Executor and `step()` agree.
pub(crate) const AGREED: &str = "step() refuses no event that the executor sends";
/// Late replies.
pub(crate) const ANSWERED_ONCE: &str = "a late reply changes nothing";

/// An invariant, and what breaks it. It speaks once, as [`reached`]: the first way to it, a
/// shortest one in a breadth-first search by one thread, is the one that is kept.
macro_rules! broken {
    ($index:expr, $name:expr, $breaks:expr) => {
        Property::always($name, |model: &Explored, state: &State| {
            let breaks: fn(&Config, &State) -> bool = $breaks;
            !model.first_time($index, || breaks(&model.config, state))
        })
    };
}

/// Something that must be reached. It speaks once: the checker writes a path down each time.
macro_rules! reached {
    ($index:expr, $name:expr, $condition:expr) => {
        Property::sometimes($name, |model: &Explored, state: &State| {
            let condition: fn(&State) -> bool = $condition;
            model.first_time(INVARIANTS + $index, || condition(state))
        })
    };
}

/// How many invariants there are.
const INVARIANTS: usize = 17;

/// How many properties there are.
pub(crate) const PROPERTIES: usize = INVARIANTS + 38;

/// All of them.
pub(crate) fn all() -> Vec<Property<Explored>> {
    let mut all = always();
    all.extend(sometimes());
    all
}

/// The invariants; each line says what breaks it.
fn always() -> Vec<Property<Explored>> {
    vec![
        broken!(0, SERVED, |_, s| !served(s)),
        broken!(1, WEIGHT, |_, s| !weight(s)),
        broken!(2, DRAINED, |_, s| s.marks.has(Mark::TerminatedTooEarly)),
        broken!(3, FENCED, |_, s| s.marks.has(Mark::StaleEffect)),
        broken!(4, OWN_EPOCH, |_, s| !own_epoch(s)),
        broken!(5, FORWARD, |_, s| s.marks.has(Mark::WentBack)),
        broken!(6, RESERVED, |_, s| !reserved(s)),
        broken!(7, CLEAN, |_, s| !clean(s)),
        broken!(8, ONE_SHADOW, |_, s| s.machines.shadows > 1),
        broken!(9, RESTORED, |_, s| !restored(s)),
        broken!(10, LOGGED, |_, s| s.marks.has(Mark::Unlogged)),
        broken!(11, ONE_WRITER, |c, s| {
            let single = c.class == ConsistencyClass::SingleWriter;
            single && s.machines.writers.original && s.machines.writers.shadow
        }),
        broken!(12, NO_WAY_BACK, |_, s| {
            let back = matches!(s.phase(), Phase::RollingBack | Phase::RolledBack);
            back && !s.machines.original
        }),
        broken!(13, AGREED, |_, s| any(s, |doing| doing == Doing::Stuck)),
        broken!(14, ANSWERED_ONCE, |_, s| s
            .marks
            .has(Mark::LateReplyCounted)),
        broken!(15, NOTHING_LOST, |_, s| {
            let writers = &s.machines.writers;
            let shadow = writers.shadow && writers.shadow_has < writers.original_wrote;
            shadow || writers.original && writers.original_has < writers.shadow_wrote
        }),
        broken!(16, FRESH, |_, s| {
            let writers = &s.machines.writers;
            let original = s.machines.original && writers.original_has < writers.shadow_wrote;
            let shadow = s.machines.shadows > 0 && writers.shadow_has < writers.original_wrote;
            original && s.original_is_fed() || shadow && s.shadow_is_fed()
        }),
    ]
}

fn served(state: &State) -> bool {
    let machines = &state.machines;
    machines.original || machines.shadows > 0 && machines.verified
}

fn weight(state: &State) -> bool {
    let machines = &state.machines;
    let shadow = machines.shadows > 0 && machines.verified;
    state.proxies.iter().all(|proxy| {
        (machines.original || !proxy.way.feeds_original()) && (shadow || !proxy.way.feeds_shadow())
    })
}

/// Only of the present leader: a zombie's is refused, which I4 says of the resources.
fn own_epoch(state: &State) -> bool {
    state.coords.iter().all(|coord| {
        let leads = coord.doing == Doing::Work && coord.fresh && coord.epoch == state.store.epoch;
        !leads || state.store.rec.epoch == coord.epoch
    })
}

fn reserved(state: &State) -> bool {
    let machines = &state.machines;
    let shadow = machines.room || machines.shadows > 0;
    !shadow || state.store.reserved || state.store.adopted
}

fn clean(state: &State) -> bool {
    let machines = &state.machines;
    let store = &state.store;
    match state.phase() {
        Phase::RolledBack => {
            let nothing = !store.reserved && !machines.room && machines.shadows == 0;
            nothing && machines.original && !state.shadow_is_fed()
        }
        Phase::Done => {
            let moved = !machines.original && machines.shadows == 1;
            moved && !store.reserved && store.adopted && store.way == Way::After
        }
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
        | Phase::Committed
        | Phase::Terminating
        | Phase::RollingBack
        | Phase::Parked => true,
    }
}

fn restored(state: &State) -> bool {
    let before = |way| way == Way::Before;
    state.phase() != Phase::RolledBack
        || before(state.store.way) && state.proxies.iter().all(|proxy| before(proxy.way))
}

/// A numbered place in the order of phases; stages of the ramp share one.
fn number(phase: Phase) -> usize {
    match phase {
        Phase::Planned => 0,
        Phase::HostReserved => 1,
        Phase::ShadowCreating => 2,
        Phase::Syncing => 3,
        Phase::Forking => 4,
        Phase::Reidentifying => 5,
        Phase::Verifying => 6,
        Phase::Mirroring => 7,
        Phase::Ramping { .. } => 8,
        Phase::Soaking => 9,
        Phase::CutOver => 10,
        Phase::Draining => 11,
        Phase::Committed => 12,
        Phase::Terminating => 13,
        Phase::Done => 14,
        Phase::RollingBack => 15,
        Phase::RolledBack => 16,
        Phase::Parked => 17,
    }
}

fn at<const N: usize>(state: &State) -> bool {
    number(state.phase()) == N
}

fn any(state: &State, is: impl Fn(Doing) -> bool) -> bool {
    state.coords.iter().any(|coord| is(coord.doing))
}

/// A new leader's first event, while the record stands there.
fn taken_over<const N: usize>(state: &State) -> bool {
    let fresh = |doing| matches!(doing, Doing::Got(Ev::TakenOver { .. }));
    at::<N>(state) && state.store.epoch > 1 && any(state, fresh)
}

/// An operator's abort, while the record stands there.
fn aborted<const N: usize>(state: &State) -> bool {
    at::<N>(state) && any(state, |doing| doing == Doing::Got(Ev::Abort))
}

/// An operator's answer, on its way.
fn answered(state: &State, is: impl Fn(Ev) -> bool) -> bool {
    any(state, |doing| matches!(doing, Doing::Got(ev) if is(ev)))
}

/// What must be reached. A shadow's host is reserved and its making begun in one step, so no
/// record ever rests at "host reserved"; only a single writer is cut over.
fn sometimes() -> Vec<Property<Explored>> {
    vec![
        reached!(0, "done", at::<14>),
        reached!(1, "rolled back", at::<16>),
        reached!(2, "parked", at::<17>),
        reached!(3, "taken over while planned", taken_over::<0>),
        reached!(4, "taken over while the shadow is created", taken_over::<2>),
        reached!(5, "taken over while syncing", taken_over::<3>),
        reached!(6, "taken over while forking", taken_over::<4>),
        reached!(7, "taken over while re-identifying", taken_over::<5>),
        reached!(8, "taken over while verifying", taken_over::<6>),
        reached!(9, "taken over while mirroring", taken_over::<7>),
        reached!(10, "taken over while ramping", taken_over::<8>),
        reached!(11, "taken over while soaking", taken_over::<9>),
        reached!(12, "taken over while draining", taken_over::<11>),
        reached!(13, "taken over when committed", taken_over::<12>),
        reached!(14, "taken over while terminating", taken_over::<13>),
        reached!(15, "taken over while rolling back", taken_over::<15>),
        reached!(16, "aborted while planned", aborted::<0>),
        reached!(17, "aborted while the shadow is created", aborted::<2>),
        reached!(18, "aborted while syncing", aborted::<3>),
        reached!(19, "aborted while forking", aborted::<4>),
        reached!(20, "aborted while re-identifying", aborted::<5>),
        reached!(21, "aborted while verifying", aborted::<6>),
        reached!(22, "aborted while mirroring", aborted::<7>),
        reached!(23, "aborted while ramping", aborted::<8>),
        reached!(24, "aborted while soaking", aborted::<9>),
        reached!(25, "aborted while draining", aborted::<11>),
        reached!(26, "a zombie was refused", |s| {
            any(s, |doing| doing == Doing::Refused)
        }),
        reached!(27, "a drain was forced", |s| {
            s.store.rec.proof.is_some_and(|proof| proof.forced)
        }),
        reached!(28, "a drain was waited for", |s| {
            s.store.rec.proof.is_some_and(|proof| !proof.forced)
        }),
        reached!(29, "a parked migration was retried", |s| {
            answered(s, |ev| matches!(ev, Ev::Retry { .. }))
        }),
        reached!(30, "a parked migration was rolled back", |s| {
            answered(s, |ev| matches!(ev, Ev::RollBack { .. }))
        }),
        reached!(31, "a proxy is away while the original goes", |s| {
            !s.machines.original && s.proxies.iter().any(|proxy| !proxy.connected)
        }),
        reached!(32, "a call is late when all is over", |s| {
            s.late.is_some() && s.store.rec.is_at_rest()
        }),
        reached!(33, "two coordinators work at once", |s| {
            s.coords.iter().all(|coord| coord.doing == Doing::Work)
        }),
        reached!(34, "a cut-over is taken over", taken_over::<10>),
        reached!(35, "a cut-over is aborted", aborted::<10>),
        reached!(36, "the shadow of a single writer took a write", |s| {
            s.machines.writers.shadow_wrote > 0
        }),
        reached!(37, "a write that the shadow took came back", |s| {
            let writers = &s.machines.writers;
            writers.original && writers.original_has > 0
        }),
    ]
}
