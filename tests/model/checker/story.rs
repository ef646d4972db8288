//! A run of the model, told.

use std::fmt::Write as _;

use stateright::{Checker, Path};

use super::Explored;
use super::action::Action;
use super::state::State;

/// How a run came out.
pub(crate) struct Told {
    /// Broken invariants, each with the way to it.
    pub(crate) broken: Vec<(&'static str, String)>,
    /// What was reached.
    pub(crate) reached: Vec<&'static str>,
    /// What was not reached.
    pub(crate) missed: Vec<&'static str>,
}

/// What a checker that has ended found.
pub(crate) fn tell(checker: &impl Checker<Explored>) -> Told {
    let found = checker.discoveries();
    let mut told = Told {
        broken: Vec::new(),
        reached: Vec::new(),
        missed: Vec::new(),
    };
    for property in super::properties::all() {
        let name = property.name;
        let invariant = property.expectation.discovery_is_failure();
        match found.get(name) {
            Some(path) if invariant => told.broken.push((name, format!("{name}\n{}", way(path)))),
            Some(_) => told.reached.push(name),
            None if !invariant => told.missed.push(name),
            None => {}
        }
    }
    told
}

/// One line per step: where the record stood, what happened, and which effect it was about.
fn way(path: &Path<State, Action>) -> String {
    let mut text = String::new();
    for (number, (state, action)) in path.clone().into_vec().into_iter().enumerate() {
        let phase = state.phase().name();
        let Some(action) = action else {
            let _ = writeln!(text, "{number:>4}  {phase}: {state:#?}");
            continue;
        };
        let about = subject(&state, action);
        let _ = writeln!(text, "{number:>4}  {phase:<16} {action:?} {about}");
    }
    text
}

fn subject(state: &State, action: Action) -> String {
    let coordinator = match action {
        Action::Save(index)
        | Action::Work(index, _)
        | Action::WorkEarly(index)
        | Action::Send(index)
        | Action::Applied(index)
        | Action::LetGo(index)
        | Action::GiveUp(index, _)
        | Action::Judged(index, _)
        | Action::Abort(index)
        | Action::Crash(index) => index,
        Action::Acquire(_)
        | Action::Arrive
        | Action::Contradict(_)
        | Action::Answer(..)
        | Action::LateReply(_)
        | Action::Apply(_)
        | Action::Acknowledge(_)
        | Action::Lose(_)
        | Action::ComeBack(_)
        | Action::Begin(..)
        | Action::End(..)
        | Action::Write(..) => return String::new(),
    };
    let coord = state.coords.get(coordinator);
    coord.map_or_else(String::new, |coord| match (action, coord.eff) {
        (Action::Save(_), _) => format!("[epoch {}: {:?}]", coord.epoch, coord.doing),
        (_, Some(eff)) => format!("[epoch {}: {eff:?}]", coord.epoch),
        (_, None) => format!("[epoch {}]", coord.epoch),
    })
}
