//! How traffic is divided between the original and the shadow, and in which steps.

use serde::{Deserialize, Serialize};

use crate::units::BasisPoints;

/// The division of one instance's traffic between its original and its shadow.
///
/// Only the shadow's share is stored; the original's is derived, so the sum cannot be wrong.
///
/// ```compile_fail
/// // There is no way to give both sides a share.
/// let split = foreshadow_domain::WeightSplit { shadow: 6_000, original: 6_000 };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WeightSplit {
    shadow: BasisPoints,
}

impl WeightSplit {
    /// All traffic to the original.
    pub const ORIGINAL: Self = Self {
        shadow: BasisPoints::ZERO,
    };
    /// All traffic to the shadow.
    pub const SHADOW: Self = Self {
        shadow: BasisPoints::ALL,
    };

    /// A split that gives the shadow this share.
    pub const fn shadow_share(shadow: BasisPoints) -> Self {
        Self { shadow }
    }

    /// The shadow's share.
    pub const fn shadow(self) -> BasisPoints {
        self.shadow
    }

    /// The original's share.
    pub const fn original(self) -> BasisPoints {
        self.shadow.rest()
    }
}

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
#[serde(try_from = "Vec<Stage>", into = "Vec<Stage>")]
pub struct RampPlan {
    stages: Vec<Stage>,
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
}

/// Most stages a ramp may have.
pub const MAX_STAGES: usize = 1_000;

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
            Some(_) => Ok(Self { stages }),
        }
    }

    /// 1 % → 5 % → 25 % → 50 % → all, each held for at least `hold_ms`.
    pub fn standard(hold_ms: u64) -> Self {
        let shares = [
            BasisPoints::PERCENT,
            BasisPoints::PERCENT.times(5),
            BasisPoints::PERCENT.times(25),
            BasisPoints::PERCENT.times(50),
            BasisPoints::ALL,
        ];
        Self {
            stages: shares
                .into_iter()
                .map(|shadow| Stage { shadow, hold_ms })
                .collect(),
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

    /// Least time the whole ramp takes, in milliseconds.
    pub fn least_duration_ms(&self) -> u64 {
        self.stages
            .iter()
            .fold(0, |sum, stage| sum.saturating_add(stage.hold_ms))
    }
}

impl TryFrom<Vec<Stage>> for RampPlan {
    type Error = RampError;
    fn try_from(stages: Vec<Stage>) -> Result<Self, RampError> {
        Self::new(stages)
    }
}

impl From<RampPlan> for Vec<Stage> {
    fn from(ramp: RampPlan) -> Self {
        ramp.stages
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
        assert!(serde_json::from_str::<RampPlan>("[]").is_err());
    }

    #[test]
    fn the_standard_ramp_is_a_ramp() {
        let standard = RampPlan::standard(1);
        assert_eq!(RampPlan::new(standard.stages().to_vec()), Ok(standard));
    }

    proptest! {
        #[test]
        fn both_sides_of_a_split_always_make_the_whole(shadow in 0_u32..=10_000) {
            let split = WeightSplit::shadow_share(BasisPoints::new(shadow).unwrap());
            prop_assert_eq!(split.shadow().get() + split.original().get(), 10_000);
        }

        #[test]
        fn every_accepted_ramp_rises_to_the_whole(weights in prop::collection::vec(0_u32..=10_000, 0..12)) {
            if let Ok(ramp) = RampPlan::new(weights.into_iter().map(stage).collect()) {
                prop_assert!(ramp.stages().windows(2).all(|w| w[0].shadow < w[1].shadow));
                prop_assert_eq!(ramp.stages().last().unwrap().shadow, BasisPoints::ALL);
            }
        }
    }
}
