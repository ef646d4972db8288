//! How a service's traffic is divided between its clusters.

use domain::WeightSplit;

/// The whole.
const TOTAL: u64 = 10_000;

/// Weights of the clusters of a service during a migration. They sum to exactly 10 000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// The service's shared cluster: the other instances.
    pub others: u32,
    /// The original.
    pub original: u32,
    /// The shadow.
    pub shadow: u32,
}

impl Weights {
    /// Sum of all.
    pub const fn total(self) -> u32 {
        self.others + self.original + self.shadow
    }
}

/// Divides by the largest remainder: the instance under migration has one share beside `others`
/// equal ones, and its share is divided by `split`. A side with a share of 0 never gets weight.
pub fn split(others: usize, split: WeightSplit) -> Weights {
    let others = u64::try_from(others)
        .unwrap_or(u64::MAX)
        .min(u64::from(u32::MAX));
    let sharing = others + 1;
    let exact = [
        TOTAL * others,
        u64::from(split.original().get()),
        u64::from(split.shadow().get()),
    ];
    let mut floors = exact.map(|share| share / sharing);
    let mut by_remainder = [0, 1, 2];
    by_remainder.sort_by_key(|&index: &usize| (std::cmp::Reverse(exact[index] % sharing), index));
    let missing = TOTAL - floors.iter().sum::<u64>();
    for index in by_remainder
        .into_iter()
        .take(usize::try_from(missing).unwrap_or(0))
    {
        floors[index] += 1;
    }
    let [others, original, shadow] = floors.map(|weight| u32::try_from(weight).unwrap_or(0));
    Weights {
        others,
        original,
        shadow,
    }
}

#[cfg(test)]
mod tests {
    use domain::BasisPoints;
    use proptest::prelude::*;

    use super::*;

    fn of(others: usize, shadow: u32) -> Weights {
        split(
            others,
            WeightSplit::shadow_share(BasisPoints::new(shadow).unwrap()),
        )
    }

    #[test]
    fn a_lone_instance_is_split_as_asked_and_three_share_by_the_largest_remainder() {
        assert_eq!(
            of(0, 100),
            Weights {
                others: 0,
                original: 9_900,
                shadow: 100
            }
        );
        assert_eq!(
            of(1, 5_000),
            Weights {
                others: 5_000,
                original: 2_500,
                shadow: 2_500
            }
        );
        assert_eq!(
            of(2, 0),
            Weights {
                others: 6_667,
                original: 3_333,
                shadow: 0
            }
        );
    }

    proptest! {
        #[test]
        fn weights_make_the_whole_and_a_side_without_share_gets_none(
            others in 0_usize..30_000, shadow in 0_u32..=10_000,
        ) {
            let weights = of(others, shadow);
            prop_assert_eq!(weights.total(), 10_000);
            prop_assert!(shadow != 0 || weights.shadow == 0);
            prop_assert!(shadow != 10_000 || weights.original == 0);
            prop_assert!(others != 0 || weights.others == 0);
        }
    }
}
