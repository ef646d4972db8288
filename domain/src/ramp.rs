//! In which steps traffic moves to the shadow.
//!
//! A [`RampPolicy`] is what people write down; a [`RampPlan`] is what it comes to: stages that rise
//! to everything. Under a harm budget the weight inside a stage is computed, and the stage's own
//! weight is where it leads to; see `migrator`'s `judge::throttle`.

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::units::{BasisPoints, Timestamp};

/// One stage of a ramp: a weight, and how long it must hold at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The shadow's share in basis points.
    pub shadow: BasisPoints,
    /// Least time at this weight before the judge may advance, in milliseconds.
    pub hold_ms: u64,
}

/// How much harm a shadow may do before one can react. It bounds the weight inside a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HarmBudget {
    /// Bad requests beyond the original's that are accepted per time of reaction.
    pub requests: u32,
    /// Time from a bad request to a lower weight everywhere, in milliseconds: report, look and
    /// propagation.
    pub reaction_ms: u64,
}

impl Default for HarmBudget {
    fn default() -> Self {
        Self {
            requests: 3,
            reaction_ms: 1_500,
        }
    }
}

/// A time of the day in which no ramp goes on; what is harmful is still rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HoldWindow {
    /// First minute of the day (UTC), from 0.
    pub from_minute: u32,
    /// First minute after it; before `from_minute`: on the next day.
    pub to_minute: u32,
}

impl HoldWindow {
    /// Whether a time is inside.
    pub const fn holds(self, at: Timestamp) -> bool {
        let minute = at.0 / 60_000 % 1_440;
        let (from, to) = (self.from_minute as u64, self.to_minute as u64);
        if from <= to {
            from <= minute && minute < to
        } else {
            from <= minute || minute < to
        }
    }
}

/// A ramp in people's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "policy", rename_all = "snake_case", deny_unknown_fields)]
pub enum RampPolicy {
    /// The stages as they are written down.
    Steps {
        /// The stages.
        stages: Vec<Stage>,
        /// Bounds the weight inside the stages.
        #[serde(default)]
        budget: Option<HarmBudget>,
        /// When the ramp does not go on.
        #[serde(default)]
        hold_windows: Vec<HoldWindow>,
    },
    /// Every stage the same amount more.
    Linear {
        /// The first weight, and how much each stage adds, in basis points.
        step: u32,
        /// Least time of a stage, in milliseconds.
        hold_ms: u64,
        /// Least time beside a twentieth of the traffic on the original, in milliseconds.
        #[serde(default)]
        soak_ms: u64,
        /// When the ramp does not go on.
        #[serde(default)]
        hold_windows: Vec<HoldWindow>,
    },
    /// Every stage a multiple of the one before.
    Exponential {
        /// The first weight, in basis points.
        from: u32,
        /// How many times the one before.
        factor: u32,
        /// Least time of a stage, in milliseconds.
        hold_ms: u64,
        /// Least time beside a twentieth of the traffic on the original, in milliseconds.
        #[serde(default)]
        soak_ms: u64,
        /// When the ramp does not go on.
        #[serde(default)]
        hold_windows: Vec<HoldWindow>,
    },
    /// Computed from how much harm may be done: up to a fifth, where a regression is found at the
    /// least cost; half, once the shadow is shown to be no worse; all but a twentieth; all.
    Budget {
        /// Bad requests beyond the original's that are accepted per time of reaction.
        #[serde(default = "usual_requests")]
        requests: u32,
        /// Time from a bad request to a lower weight everywhere, in milliseconds.
        #[serde(default = "usual_reaction")]
        reaction_ms: u64,
        /// Least time beside a twentieth of the traffic on the original, in milliseconds.
        #[serde(default = "usual_soak")]
        soak_ms: u64,
        /// When the ramp does not go on.
        #[serde(default)]
        hold_windows: Vec<HoldWindow>,
    },
}

const fn usual_soak() -> u64 {
    300_000
}

fn usual_requests() -> u32 {
    HarmBudget::default().requests
}

fn usual_reaction() -> u64 {
    HarmBudget::default().reaction_ms
}

/// The stages in which traffic moves to the shadow. They rise and end at 10 000.
///
/// ```
/// use foreshadow_domain::{BasisPoints, RampPlan, Stage};
/// let stage = |shadow| Stage { shadow: BasisPoints::new(shadow).unwrap(), hold_ms: 1_000 };
/// assert!(RampPlan::new(vec![stage(100), stage(5_000), stage(10_000)]).is_ok());
/// assert!(RampPlan::new(vec![stage(5_000), stage(100), stage(10_000)]).is_err());
/// ```
///
/// ```compile_fail
/// // The stages are private: a ramp that falls cannot be built.
/// let ramp = foreshadow_domain::RampPlan { stages: Vec::new() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "RampForm", into = "RampForm")]
pub struct RampPlan {
    stages: Vec<Stage>,
    budget: Option<HarmBudget>,
    hold_windows: Vec<HoldWindow>,
}

/// A ramp as it is written: the stages, or a policy.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
enum RampForm {
    Stages(Vec<Stage>),
    Policy(RampPolicy),
}

// Not derived: an untagged enum would hide what is wrong with a form.
impl<'de> Deserialize<'de> for RampForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> de::Visitor<'de> for Form {
            type Value = RampForm;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of stages, or a policy (steps, linear, exponential, budget)")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<RampForm, A::Error> {
                let list = de::value::SeqAccessDeserializer::new(list);
                Vec::deserialize(list).map(RampForm::Stages)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RampForm, A::Error> {
                let map = de::value::MapAccessDeserializer::new(map);
                RampPolicy::deserialize(map).map(RampForm::Policy)
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// Why a list of stages is no ramp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RampError {
    /// No stage at all.
    #[error("ramp: no stages; give at least one, the last at 10000 basis points")]
    Empty,
    /// Too many stages to be meant.
    #[error("ramp: {0} stages; at most {MAX_STAGES} are allowed")]
    TooMany(usize),
    /// A stage does not rise above the one before.
    #[error("ramp: stage {index} has weight {weight}, which must be above the {before} before it")]
    NotRising {
        /// Index of the stage, from 0.
        index: usize,
        /// Its weight in basis points.
        weight: u32,
        /// The weight it must exceed.
        before: u32,
    },
    /// The last stage leaves traffic on the original.
    #[error("ramp: the last stage has weight {0}; it must be 10000")]
    NotComplete(u32),
    /// A number that makes no ramp.
    #[error("ramp: {field} is {value}; allowed is {allowed}")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// Most stages a ramp may have.
pub const MAX_STAGES: usize = 1_000;

/// Where a regression is found at the least cost: beyond it an error says less, because what the
/// original would have done is known less well.
const EXPLORE: BasisPoints = BasisPoints::PERCENT.times(20);
const HALF: BasisPoints = BasisPoints::PERCENT.times(50);
const NEARLY_ALL: BasisPoints = BasisPoints::PERCENT.times(95);

impl RampPlan {
    /// A ramp from its stages.
    ///
    /// # Errors
    /// [`RampError`] when the weights do not rise from above 0 to exactly 10 000.
    pub fn new(stages: Vec<Stage>) -> Result<Self, RampError> {
        if stages.len() > MAX_STAGES {
            return Err(RampError::TooMany(stages.len()));
        }
        let mut before = 0;
        for (index, stage) in stages.iter().enumerate() {
            let weight = stage.shadow.get();
            if weight <= before {
                return Err(RampError::NotRising {
                    index,
                    weight,
                    before,
                });
            }
            before = weight;
        }
        match stages.last() {
            None => Err(RampError::Empty),
            Some(last) if last.shadow != BasisPoints::ALL => {
                Err(RampError::NotComplete(last.shadow.get()))
            }
            Some(_) => Ok(Self {
                stages,
                budget: None,
                hold_windows: Vec::new(),
            }),
        }
    }

    /// 1 % → 5 % → 25 % → 50 % → all, each held for at least `hold_ms`.
    pub fn standard(hold_ms: u64) -> Self {
        let shares = [
            BasisPoints::PERCENT,
            BasisPoints::PERCENT.times(5),
            BasisPoints::PERCENT.times(25),
            HALF,
            BasisPoints::ALL,
        ];
        Self::rising(&shares.map(|shadow| Stage { shadow, hold_ms }))
    }

    /// The ramp that is computed from a harm budget, with a soak of `soak_ms`.
    pub fn budgeted(budget: HarmBudget, soak_ms: u64) -> Self {
        let stage = |shadow, hold_ms| Stage { shadow, hold_ms };
        let stages = [
            stage(EXPLORE, 10_000),
            stage(HALF, 10_000),
            stage(NEARLY_ALL, soak_ms),
            stage(BasisPoints::ALL, 10_000),
        ];
        Self {
            budget: Some(budget),
            ..Self::rising(&stages)
        }
    }

    fn rising(stages: &[Stage]) -> Self {
        Self {
            stages: stages.to_vec(),
            budget: None,
            hold_windows: Vec::new(),
        }
    }

    /// The same without stages: everything at once, held for as long as the last stage, in no hold
    /// window.
    #[must_use]
    pub fn at_once(&self) -> Self {
        let hold_ms = self.stages.last().map_or(0, |stage| stage.hold_ms);
        let all = Stage {
            shadow: BasisPoints::ALL,
            hold_ms,
        };
        Self {
            hold_windows: self.hold_windows.clone(),
            ..Self::rising(&[all])
        }
    }

    /// The stages in order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The stage at `index`, if there is one.
    pub fn stage(&self, index: usize) -> Option<Stage> {
        self.stages.get(index).copied()
    }

    /// What bounds the weight inside the stages, if it is computed.
    pub const fn budget(&self) -> Option<HarmBudget> {
        self.budget
    }

    /// Whether the ramp may go on at this time of the day.
    pub fn may_go_on(&self, at: Timestamp) -> bool {
        !self.hold_windows.iter().any(|window| window.holds(at))
    }

    /// Least time the whole ramp takes, in milliseconds.
    pub fn least_duration_ms(&self) -> u64 {
        self.stages
            .iter()
            .fold(0, |sum, stage| sum.saturating_add(stage.hold_ms))
    }
}

/// The weights, then all but a twentieth for the soak, then all.
fn soaked(weights: impl Iterator<Item = u32>, hold_ms: u64, soak_ms: u64) -> Vec<Stage> {
    let stage = |shadow, hold_ms| Stage { shadow, hold_ms };
    let mut stages: Vec<Stage> = weights
        .filter_map(|weight| BasisPoints::new(weight).ok())
        .take_while(|weight| *weight < NEARLY_ALL)
        .take(MAX_STAGES)
        .map(|weight| stage(weight, hold_ms))
        .collect();
    if soak_ms > 0 {
        stages.push(stage(NEARLY_ALL, soak_ms));
    }
    stages.push(stage(BasisPoints::ALL, hold_ms));
    stages
}

fn within(
    field: &'static str,
    value: u64,
    (least, most): (u64, u64),
    allowed: &'static str,
) -> Result<(), RampError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(RampError::OutOfRange {
        field,
        value,
        allowed,
    })
}

impl TryFrom<RampPolicy> for RampPlan {
    type Error = RampError;

    fn try_from(policy: RampPolicy) -> Result<Self, RampError> {
        let (stages, budget, hold_windows) = match policy {
            RampPolicy::Steps {
                stages,
                budget,
                hold_windows,
            } => (stages, budget, hold_windows),
            RampPolicy::Linear {
                step,
                hold_ms,
                soak_ms,
                hold_windows,
            } => {
                within(
                    "step",
                    step.into(),
                    (10, 10_000),
                    "10 to 10000 basis points",
                )?;
                let weights = (1..).map(|n: u32| n.saturating_mul(step));
                let weights = weights.take_while(|weight| *weight < 10_000);
                (soaked(weights, hold_ms, soak_ms), None, hold_windows)
            }
            RampPolicy::Exponential {
                from,
                factor,
                hold_ms,
                soak_ms,
                hold_windows,
            } => {
                within("from", from.into(), (1, 10_000), "1 to 10000 basis points")?;
                within("factor", factor.into(), (2, 100), "2 to 100")?;
                let next = |weight: &u32| Some(weight.saturating_mul(factor));
                let weights = std::iter::successors(Some(from), next);
                let weights = weights.take_while(|weight| *weight < 10_000);
                (soaked(weights, hold_ms, soak_ms), None, hold_windows)
            }
            RampPolicy::Budget {
                requests,
                reaction_ms,
                soak_ms,
                hold_windows,
            } => {
                let budget = HarmBudget {
                    requests,
                    reaction_ms,
                };
                let plan = Self::budgeted(budget, soak_ms);
                (plan.stages, plan.budget, hold_windows)
            }
        };
        if let Some(budget) = budget {
            within(
                "requests",
                budget.requests.into(),
                (1, 1_000_000),
                "1 to 1000000",
            )?;
            let range = (100, 600_000);
            within("reaction_ms", budget.reaction_ms, range, "100 to 600000")?;
        }
        for window in &hold_windows {
            let range = (0, 1_440);
            within("from_minute", window.from_minute.into(), range, "0 to 1440")?;
            within("to_minute", window.to_minute.into(), range, "0 to 1440")?;
        }
        Ok(Self {
            budget,
            hold_windows,
            ..Self::new(stages)?
        })
    }
}

impl TryFrom<RampForm> for RampPlan {
    type Error = RampError;

    fn try_from(form: RampForm) -> Result<Self, RampError> {
        match form {
            RampForm::Stages(stages) => Self::new(stages),
            RampForm::Policy(policy) => Self::try_from(policy),
        }
    }
}

impl From<RampPlan> for RampForm {
    fn from(ramp: RampPlan) -> Self {
        if ramp.budget.is_none() && ramp.hold_windows.is_empty() {
            return Self::Stages(ramp.stages);
        }
        Self::Policy(RampPolicy::Steps {
            stages: ramp.stages,
            budget: ramp.budget,
            hold_windows: ramp.hold_windows,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stage(shadow: u32) -> Stage {
        Stage {
            shadow: BasisPoints::new(shadow).unwrap(),
            hold_ms: 10,
        }
    }

    fn weights(plan: &RampPlan) -> Vec<u32> {
        plan.stages().iter().map(|s| s.shadow.get()).collect()
    }

    fn read(text: &str) -> Result<RampPlan, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_ramp_that_falls_stops_short_or_is_empty_is_refused() {
        let of = |weights: &[u32]| RampPlan::new(weights.iter().copied().map(stage).collect());
        assert_eq!(of(&[]), Err(RampError::Empty));
        assert_eq!(of(&[100, 5_000]), Err(RampError::NotComplete(5_000)));
        assert!(matches!(
            of(&[0, 10_000]),
            Err(RampError::NotRising { index: 0, .. })
        ));
        assert!(matches!(
            of(&[100, 100, 10_000]),
            Err(RampError::NotRising { index: 1, .. })
        ));
        assert!(read("[]").is_err());
    }

    #[test]
    fn the_standard_ramp_is_a_ramp() {
        let standard = RampPlan::standard(1);
        assert_eq!(RampPlan::new(standard.stages().to_vec()), Ok(standard));
    }

    #[test]
    fn every_policy_rises_to_everything() {
        let linear = read(r#"{"policy":"linear","step":2500,"hold_ms":9}"#).unwrap();
        assert_eq!(weights(&linear), [2_500, 5_000, 7_500, 10_000]);
        let text = r#"{"policy":"exponential","from":1,"factor":10,"hold_ms":9,"soak_ms":60}"#;
        let exponential = read(text).unwrap();
        assert_eq!(weights(&exponential), [1, 10, 100, 1_000, 9_500, 10_000]);
        assert_eq!(exponential.stage(4).unwrap().hold_ms, 60);
        let budget = read(r#"{"policy":"budget","requests":5,"soak_ms":60}"#).unwrap();
        assert_eq!(weights(&budget), [2_000, 5_000, 9_500, 10_000]);
        assert_eq!(budget.budget().unwrap().requests, 5);
        assert_eq!(budget.budget().unwrap().reaction_ms, 1_500);
    }

    #[test]
    fn what_makes_no_ramp_is_refused_by_name() {
        for (text, word) in [
            (r#"{"policy":"linear","step":0,"hold_ms":9}"#, "step is 0"),
            (
                r#"{"policy":"exponential","from":1,"factor":1,"hold_ms":9}"#,
                "factor is 1",
            ),
            (r#"{"policy":"budget","requests":0}"#, "requests is 0"),
            (r#"{"policy":"guess"}"#, "guess"),
            (r#"{"policy":"linear","step":9,"hold":9}"#, "hold"),
            (
                r#"{"policy":"steps","stages":[{"shadow":1,"hold_ms":1}]}"#,
                "10000",
            ),
            ("7", "list of stages"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_ramp_comes_back_as_it_was_written_down() {
        let text = r#"{"policy":"budget","hold_windows":[{"from_minute":540,"to_minute":600}]}"#;
        for plan in [read(text).unwrap(), RampPlan::standard(5)] {
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(read(&text).unwrap(), plan, "{text}");
        }
    }

    #[test]
    fn a_window_holds_also_over_midnight() {
        let minute = |minute: u64| Timestamp(minute * 60_000 + 3 * 86_400_000);
        let night = HoldWindow {
            from_minute: 1_380,
            to_minute: 60,
        };
        assert!(night.holds(minute(1_400)) && night.holds(minute(59)));
        assert!(!night.holds(minute(60)) && !night.holds(minute(700)));
    }

    proptest! {
        #[test]
        fn every_accepted_ramp_rises_to_the_whole(weights in prop::collection::vec(0_u32..=10_000, 0..12)) {
            if let Ok(ramp) = RampPlan::new(weights.into_iter().map(stage).collect()) {
                prop_assert!(ramp.stages().windows(2).all(|w| w[0].shadow < w[1].shadow));
                prop_assert_eq!(ramp.stages().last().unwrap().shadow, BasisPoints::ALL);
            }
        }
    }
}
