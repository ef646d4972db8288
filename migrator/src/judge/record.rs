//! The record of a ramp: everything that came in and what followed from it, so that anybody can do
//! it again.

use domain::RampPlan;
use domain::migration::JudgeScope;
use serde::{Deserialize, Serialize};

use super::pilot::{Answer, Look, Pilot};
use super::state::Past;
use crate::settings::JudgeSettings;

/// One line of the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum RampLine {
    /// The ramp begins.
    Began {
        /// In which stages.
        plan: RampPlan,
        /// What was counted before.
        past: Box<Past>,
        /// Requests a second before; 0 if that is not known.
        rate: f64,
        /// The judge's settings.
        settings: JudgeSettings,
    },
    /// A stage begins.
    Entered {
        /// What is judged from here on.
        scope: JudgeScope,
        /// Time since the ramp began.
        at_ms: u64,
    },
    /// The settings are others from here on.
    Settings {
        /// The judge's settings.
        settings: JudgeSettings,
    },
    /// A look.
    Looked {
        /// What it brought.
        look: Box<Look>,
        /// What followed.
        answer: Answer,
        /// The evidence after it, as the bits of `ln E`.
        ln_bits: u64,
    },
}

/// What a replay found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Looks that were done again.
    pub looks: usize,
    /// Those whose answer or evidence came out differently, by the number of their line from 1.
    pub differ: Vec<usize>,
    /// Those that answered something else than to wait, by line, and what.
    pub decisions: Vec<(usize, String)>,
}

/// Does a ramp again from its record.
///
/// # Errors
/// What is wrong with the record, and in which line.
pub fn replay(lines: &[RampLine]) -> Result<Replay, String> {
    let mut found = Replay::default();
    let mut running: Option<(Pilot, JudgeSettings)> = None;
    for (number, line) in (1..).zip(lines) {
        let before = || format!("line {number}: nothing has begun before it");
        match line {
            RampLine::Began {
                plan,
                past,
                rate,
                settings,
            } => {
                let past = past.as_ref().clone();
                let pilot = Pilot::begin(plan.clone(), past, *rate, settings);
                let pilot = pilot.map_err(|reason| format!("line {number}: {reason}"))?;
                running = Some((pilot, *settings));
            }
            RampLine::Settings { settings } => {
                running.as_mut().ok_or_else(before)?.1 = *settings;
            }
            RampLine::Entered { scope, at_ms } => {
                let (pilot, settings) = running.as_mut().ok_or_else(before)?;
                pilot.enter(*scope, *at_ms, settings);
            }
            RampLine::Looked {
                look,
                answer,
                ln_bits,
            } => {
                let (pilot, settings) = running.as_mut().ok_or_else(before)?;
                let now = pilot.look(look, settings);
                found.looks += 1;
                if now != *answer || pilot.ln_bits() != *ln_bits {
                    found.differ.push(number);
                }
                if let Some(words) = decided(&now) {
                    found.decisions.push((number, words));
                }
            }
        }
    }
    if found.looks == 0 {
        return Err("the record holds no look".to_owned());
    }
    Ok(found)
}

fn decided(answer: &Answer) -> Option<String> {
    use domain::migration::Verdict;
    match &answer.verdict {
        Verdict::Rollback { reason } => Some(format!("roll back: {reason}")),
        Verdict::Promote { reason } => Some(format!("advance: {reason}")),
        Verdict::Hold { .. } | Verdict::Inconclusive { .. } => None,
    }
}
