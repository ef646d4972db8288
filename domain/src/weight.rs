//! How traffic is divided between the original and the shadow.

use serde::{Deserialize, Serialize};

pub use crate::ramp::{RampError, RampPlan, Stage};
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_sides_of_a_split_always_make_the_whole(shadow in 0_u32..=10_000) {
            let split = WeightSplit::shadow_share(BasisPoints::new(shadow).unwrap());
            prop_assert_eq!(split.shadow().get() + split.original().get(), 10_000);
        }
    }
}
