//! One ramp from the first copied request to the last verdict: judge, weight, and what people and
//! guards say. Pure; what comes in is what a record of the ramp holds, and a replay of it gives the
//! same answers bit for bit.

use domain::migration::{JudgeScope, Verdict};
use domain::{RampPlan, Timestamp};
use serde::{Deserialize, Serialize};

use super::alarm::Trouble;
use super::ledger::Increment;
use super::state::{JudgeState, Past, Task};
use super::throttle::{Bounds, Throttle};
use super::verdict;
use crate::settings::JudgeSettings;

/// From this weight on the original has too little left to be compared with in good time: what is
/// asked for is the absence of harm for as long as the stage lasts.
const SOAK: u32 = 9_000;

/// What people want of a ramp. See `foreshadow pause --help`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Steering {
    /// No stage is advanced and no weight raised; harm is still rolled back.
    pub paused: bool,
    /// Nothing is changed at all, harm is told and not rolled back.
    pub frozen: bool,
    /// How many times a person has advanced the ramp.
    pub steps: u32,
    /// Every stage is advanced unless harm is shown, and why.
    pub promote: Option<String>,
}

/// What a look brings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Time since the ramp began, in milliseconds.
    pub at_ms: u64,
    /// The time of the day.
    pub clock: Timestamp,
    /// What was counted since the last look.
    pub more: Increment,
    /// Age of the telemetry, in milliseconds.
    pub age_ms: u64,
    /// Whether every data plane has the weight that was asked for last.
    pub applied: bool,
    /// What people want.
    pub steering: Steering,
    /// Why a higher weight is not allowed now, if a guard says so.
    pub guard: Option<String>,
}

/// What follows from a look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The verdict on the stage.
    pub verdict: Verdict,
    /// The weight the shadow should have now, in basis points.
    pub weight: u32,
}

/// A ramp. It can be put into words (serde) and taken up again bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pilot {
    plan: RampPlan,
    judge: JudgeState,
    throttle: Throttle,
    steps: u32,
}

impl Pilot {
    /// Begins a ramp. `rate` is how many requests a second the instance
    /// has had; 0 if that is not known.
    ///
    /// # Errors
    /// The setting that is out of its range, in words.
    pub fn begin(
        plan: RampPlan,
        past: Past,
        rate: f64,
        settings: &JudgeSettings,
    ) -> Result<Self, String> {
        let task = task(&plan, JudgeScope::Mirror, settings);
        Ok(Self {
            judge: JudgeState::begin(task, past, settings)?,
            throttle: Throttle::new(rate),
            plan,
            steps: 0,
        })
    }

    /// Goes on to a stage.
    pub fn enter(&mut self, scope: JudgeScope, at_ms: u64, settings: &JudgeSettings) {
        let task = task(&self.plan, scope, settings);
        self.judge.enter(task, at_ms, settings);
        if scope != JudgeScope::Mirror {
            self.throttle.enter(task.shadow_share, self.plan.budget());
        }
    }

    /// The weight the shadow should have, in basis points; 0 before the first stage.
    pub const fn weight(&self) -> u32 {
        self.throttle.weight()
    }

    /// The weight with which a stage begins.
    pub fn weight_of(&self, scope: JudgeScope, settings: &JudgeSettings) -> u32 {
        let mut ahead = self.throttle.clone();
        let task = task(&self.plan, scope, settings);
        ahead.enter(task.shadow_share, self.plan.budget());
        ahead.weight()
    }

    /// The judge's evidence.
    pub const fn judge(&self) -> &JudgeState {
        &self.judge
    }

    /// The evidence, as the bits of `ln E`.
    pub const fn ln_bits(&self) -> u64 {
        self.judge.ln.0.to_bits()
    }

    /// Whether the shadow is known to do harm, or an alarm says that it alone is ill just now.
    pub fn harms(&self, settings: &JudgeSettings) -> bool {
        let proven = verdict::harm(&self.judge, settings).is_some();
        proven || self.judge.alarm().0 == Trouble::Shadow
    }

    /// The ramp.
    pub const fn plan(&self) -> &RampPlan {
        &self.plan
    }

    /// Takes in a look and says what follows.
    pub fn look(&mut self, look: &Look, settings: &JudgeSettings) -> Answer {
        self.judge.feed(look.at_ms, &look.more, settings);
        self.throttle.count(look.at_ms, &look.more, &self.judge);
        let verdict = self.judge.verdict(look.age_ms, settings);
        let stage = self.judge.task;
        if stage.scope != JudgeScope::Mirror && !look.steering.frozen {
            let known = verdict::unknown(&self.judge, look.age_ms, settings).is_none();
            let steady =
                !look.steering.paused && look.guard.is_none() && self.plan.may_go_on(look.clock);
            let bounds = Bounds {
                stage: stage.shadow_share,
                budget: self
                    .plan
                    .budget()
                    .filter(|_| look.steering.promote.is_none()),
                may_raise: known && steady && look.applied,
                suspicious: verdict::suspicious(&self.judge, settings),
            };
            self.throttle.next(look.at_ms, bounds, &self.judge);
        }
        Answer {
            verdict: self.steered(verdict, look),
            weight: self.throttle.weight(),
        }
    }

    /// What people, guards and the weight itself make of the judge's verdict.
    fn steered(&mut self, verdict: Verdict, look: &Look) -> Verdict {
        let stage = self.judge.task;
        let steering = &look.steering;
        let hold = |reason: String| Verdict::Hold { reason };
        if let Verdict::Rollback { reason } = verdict {
            if steering.frozen {
                return hold(format!(
                    "frozen by a person; would be rolled back: {reason}"
                ));
            }
            return Verdict::Rollback { reason };
        }
        if steering.frozen {
            return hold("frozen by a person".to_owned());
        }
        if steering.steps > self.steps {
            self.steps = steering.steps;
            let reason = "a person has advanced the ramp".to_owned();
            return Verdict::Promote { reason };
        }
        if steering.paused {
            return hold("paused by a person".to_owned());
        }
        if let Some(why) = &steering.promote {
            let reason = format!("promoted by a person: {why}");
            return Verdict::Promote { reason };
        }
        let Verdict::Promote { reason } = verdict else {
            return verdict;
        };
        let (weight, wanted) = (self.throttle.weight(), stage.shadow_share);
        if stage.scope != JudgeScope::Mirror && weight < wanted {
            return hold(format!("at {weight} of {wanted} basis points"));
        }
        if let Some(guard) = &look.guard {
            return hold(guard.clone());
        }
        if !self.plan.may_go_on(look.clock) {
            return hold("in a hold window".to_owned());
        }
        Verdict::Promote { reason }
    }
}

/// What is judged under a scope.
fn task(plan: &RampPlan, scope: JudgeScope, settings: &JudgeSettings) -> Task {
    let index = match scope {
        JudgeScope::Mirror => 0,
        JudgeScope::Stage { stage } => stage,
        JudgeScope::Soak => plan.stages().len().saturating_sub(1),
    };
    let stage = plan.stage(index);
    let shadow_share = stage.map_or(0, |stage| stage.shadow.get());
    let hold_ms = stage.map_or(0, |stage| stage.hold_ms);
    // Where everything is given at once the stage is the last one, and its time that of a soak.
    let one = scope == JudgeScope::Mirror && plan.stages().len() == 1;
    let proving = plan.budget().is_some() || shadow_share >= settings.prove_from;
    Task {
        scope,
        shadow_share,
        hold_ms: if one {
            hold_ms.min(settings.mirror_ms)
        } else {
            hold_ms
        },
        prove: proving && scope != JudgeScope::Mirror && shadow_share < SOAK,
    }
}

#[cfg(test)]
mod tests {
    use domain::HarmBudget;

    use super::*;

    #[test]
    fn copies_for_a_single_writer_are_not_judged_for_as_long_as_its_soak() {
        let settings = JudgeSettings::default();
        let ramp = RampPlan::budgeted(HarmBudget::default(), 300_000);
        let soak = ramp.stages().last().unwrap().hold_ms;
        let held = |plan: &RampPlan, scope| task(plan, scope, &settings).hold_ms;
        let (mirror, stage) = (JudgeScope::Mirror, JudgeScope::Stage { stage: 0 });
        assert_eq!(held(&ramp.at_once(), mirror), settings.mirror_ms);
        assert_eq!(held(&ramp.at_once(), stage), soak);
        assert_eq!(held(&ramp, mirror), held(&ramp, stage));
    }
}
