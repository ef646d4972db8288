//! Everything that may happen next.

use domain::ConsistencyClass;

use super::config::{Config, Planted};
use super::executor;
use super::proxies::{self, Side};
use super::state::{Doing, State};
use super::words::{Eff, Said};

/// How an effect goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Done, and told so.
    Good,
    /// Not done, and told so.
    NotDone {
        /// Whether it may be repeated.
        retry: bool,
    },
    /// Done, and told that it failed.
    DoneButFailed {
        /// Whether it may be repeated.
        retry: bool,
    },
}

/// A person's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Again.
    Retry,
    /// Undo everything.
    RollBack,
}

/// One thing that happens. The number is the coordinator's or the proxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// A coordinator takes the lease.
    Acquire(usize),
    /// A coordinator dies.
    Crash(usize),
    /// A coordinator steps and saves.
    Save(usize),
    /// A coordinator carries its effect out.
    Work(usize, Fate),
    /// A coordinator does so before it has saved (planted).
    WorkEarly(usize),
    /// A coordinator's call is on its way and unanswered.
    Send(usize),
    /// That call arrives.
    Arrive,
    /// The proxies have what a coordinator waits for.
    Applied(usize),
    /// The drain deadline passes.
    LetGo(usize),
    /// Any other deadline passes, or a proxy refuses the routing (which is not repeated).
    GiveUp(usize, bool),
    /// The judge speaks.
    Judged(usize, Said),
    /// An operator aborts.
    Abort(usize),
    /// A coordinator finds a contradiction.
    Contradict(usize),
    /// A person answers a parked migration.
    Answer(usize, Answer),
    /// An earlier answer comes again.
    LateReply(usize),
    /// A proxy applies what is published.
    Apply(usize),
    /// A proxy's acknowledgement is heard.
    Acknowledge(usize),
    /// A proxy loses the control plane.
    Lose(usize),
    /// It comes back.
    ComeBack(usize),
    /// A request begins.
    Begin(usize, Side),
    /// A request ends.
    End(usize, Side),
    /// A client writes to a single writer.
    Write(usize, Side),
}

const FATES: [Fate; 5] = [
    Fate::Good,
    Fate::NotDone { retry: true },
    Fate::NotDone { retry: false },
    Fate::DoneButFailed { retry: true },
    Fate::DoneButFailed { retry: false },
];

/// Lists what may happen in a state. What turns out to be impossible changes nothing.
pub(crate) fn list(config: &Config, state: &State, actions: &mut Vec<Action>) {
    for (index, coord) in state.coords.iter().enumerate() {
        of_coordinator(config, index, coord.doing, coord.eff, actions);
    }
    if state.late.is_some() {
        actions.push(Action::Arrive);
    }
    for (index, proxy) in state.proxies.iter().enumerate() {
        if proxy.connected {
            actions.extend([Action::Apply(index), Action::Acknowledge(index)]);
            actions.push(Action::Lose(index));
        } else {
            actions.push(Action::ComeBack(index));
        }
        if config.requests {
            for side in [Side::Original, Side::Shadow] {
                actions.extend([Action::Begin(index, side), Action::End(index, side)]);
            }
        }
        if config.class == ConsistencyClass::SingleWriter && state.budget.writes > 0 {
            for side in [Side::Original, Side::Shadow] {
                actions.push(Action::Write(index, side));
            }
        }
    }
}

fn of_coordinator(
    config: &Config,
    index: usize,
    doing: Doing,
    eff: Option<Eff>,
    actions: &mut Vec<Action>,
) {
    match doing {
        Doing::Stuck => return,
        Doing::Down | Doing::Refused | Doing::Idle => actions.push(Action::Acquire(index)),
        Doing::Work => {
            if matches!(eff, Some(Eff::Judge(_))) {
                let all = [Said::Promote, Said::Rollback, Said::Hold];
                actions.extend(all.map(|said| Action::Judged(index, said)));
            } else {
                actions.extend(FATES.map(|fate| Action::Work(index, fate)));
                actions.push(Action::Send(index));
            }
            actions.extend([Action::Contradict(index), Action::LateReply(index)]);
        }
        Doing::Asked => actions.push(Action::GiveUp(index, true)),
        Doing::Wait(_) => actions.extend([
            Action::Applied(index),
            Action::LetGo(index),
            Action::GiveUp(index, true),
            Action::GiveUp(index, false),
        ]),
        Doing::Got(_) => {
            actions.push(Action::Save(index));
            if config.has(Planted::EffectBeforeIntent) {
                actions.push(Action::WorkEarly(index));
            }
        }
    }
    match doing {
        Doing::Idle => {
            let all = [Answer::Retry, Answer::RollBack];
            actions.extend(all.map(|answer| Action::Answer(index, answer)));
        }
        Doing::Work | Doing::Asked | Doing::Wait(_) | Doing::Got(_) => {
            actions.extend([Action::Crash(index), Action::Abort(index)]);
        }
        Doing::Down | Doing::Refused | Doing::Stuck => {}
    }
}

/// Lets it happen; `None` when it cannot.
pub(crate) fn take(config: &Config, state: &mut State, action: Action) -> Option<()> {
    match action {
        Action::Acquire(index) => executor::acquire(state, index),
        Action::Crash(index) => executor::crash(state, index),
        Action::Save(index) => executor::save(config, state, index),
        Action::Work(index, fate) => executor::work(config, state, index, fate),
        Action::WorkEarly(index) => executor::work_early(config, state, index),
        Action::Send(index) => executor::send(state, index),
        Action::Arrive => executor::arrive(config, state),
        Action::Applied(index) => executor::applied(config, state, index),
        Action::LetGo(index) => executor::let_go(config, state, index),
        Action::GiveUp(index, retry) => executor::give_up(state, index, retry),
        Action::Judged(index, said) => executor::judged(state, index, said),
        Action::Abort(index) => executor::abort(config, state, index),
        Action::Contradict(index) => executor::contradict(state, index),
        Action::Answer(index, answer) => executor::answer(config, state, index, answer),
        Action::LateReply(index) => executor::late_reply(config, state, index),
        Action::Apply(index) => proxies::apply(state, index),
        Action::Acknowledge(index) => proxies::acknowledge(state, index),
        Action::Lose(index) => proxies::lose(state, index),
        Action::ComeBack(index) => proxies::come_back(config, state, index),
        Action::Begin(index, side) => proxies::begin(state, index, side),
        Action::End(index, side) => proxies::end(state, index, side),
        Action::Write(index, side) => proxies::write(state, index, side),
    }
}
