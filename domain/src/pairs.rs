//! What paired answers said: a copied request is answered by both sides of an instance under
//! migration, and the answers are compared.
//!
//! Only counts: whether they prove anything is for whoever reads them to say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Width of a step of [`Pairs::ratios`], as a natural logarithm: about 4 %.
pub const RATIO_STEP: f64 = 0.04;
/// Steps in each direction; the outermost are open.
pub const RATIO_STEPS: i8 = 25;

/// What paired answers said.
///
/// Per compared request the original is asked twice and the shadow is asked twice. If only one of
/// them contradicts itself or the other, the request speaks against that side. Were the shadow
/// exactly like the original, either side would be as likely.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pairs {
    /// Requests whose answers were compared.
    pub compared: u64,
    /// Differences in which the shadow stood alone.
    pub against_shadow: u64,
    /// Differences in which the original stood alone.
    pub against_original: u64,
    /// Requests whose answers cannot be compared, by reason.
    pub incomparable: BTreeMap<String, u64>,
    /// Parts of the answers that spoke against the shadow.
    pub fields: BTreeMap<String, u64>,
    /// Parts that differ between two answers of the original, and are left out therefore.
    pub noisy: BTreeMap<String, u64>,
    /// How much slower the shadow was than the original with the same request at the same time, in
    /// steps of [`RATIO_STEP`] of the ratio's logarithm.
    pub ratios: BTreeMap<i8, u64>,
}

impl Pairs {
    /// The step of [`Self::ratios`] for the latencies of a pair, in microseconds. A tenth of a
    /// millisecond is added to both, so that what nobody can feel weighs nothing. Exchanging both
    /// sides changes the sign and nothing else.
    pub fn ratio_step(original_us: u64, shadow_us: u64) -> i8 {
        let padded = |micros: u64| micros as f64 + 100.0;
        let steps = (padded(shadow_us) / padded(original_us)).ln() / RATIO_STEP;
        let limit = f64::from(RATIO_STEPS);
        let steps = steps.round().clamp(-limit, limit);
        (-RATIO_STEPS..=RATIO_STEPS)
            .find(|&step| f64::from(step) >= steps)
            .unwrap_or(0)
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Requests that could not be compared.
    pub fn left_out(&self) -> u64 {
        self.incomparable
            .values()
            .fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// Adds what another node saw.
    pub fn merge(&mut self, other: &Self) {
        let add = |mine: &mut u64, theirs: u64| *mine = mine.saturating_add(theirs);
        add(&mut self.compared, other.compared);
        add(&mut self.against_shadow, other.against_shadow);
        add(&mut self.against_original, other.against_original);
        merge(&mut self.incomparable, &other.incomparable);
        merge(&mut self.fields, &other.fields);
        merge(&mut self.noisy, &other.noisy);
        merge(&mut self.ratios, &other.ratios);
    }

    /// What was counted since `earlier`; 0 where a count fell.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            compared: self.compared.saturating_sub(earlier.compared),
            against_shadow: self.against_shadow.saturating_sub(earlier.against_shadow),
            against_original: self
                .against_original
                .saturating_sub(earlier.against_original),
            incomparable: since(&self.incomparable, &earlier.incomparable),
            fields: since(&self.fields, &earlier.fields),
            noisy: since(&self.noisy, &earlier.noisy),
            ratios: since(&self.ratios, &earlier.ratios),
        }
    }
}

fn merge<K: Ord + Clone>(mine: &mut BTreeMap<K, u64>, theirs: &BTreeMap<K, u64>) {
    for (key, count) in theirs {
        let sum = mine.entry(key.clone()).or_default();
        *sum = sum.saturating_add(*count);
    }
}

fn since<K: Ord + Clone>(now: &BTreeMap<K, u64>, before: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let news = now.iter().map(|(key, count)| {
        let old = before.get(key).copied().unwrap_or_default();
        (key.clone(), count.saturating_sub(old))
    });
    news.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exchanging_both_sides_only_changes_the_sign(one in 0_u64..60_000_000, two in 0_u64..60_000_000) {
            prop_assert_eq!(Pairs::ratio_step(one, two), -Pairs::ratio_step(two, one));
        }
    }

    #[test]
    fn a_fifth_slower_is_four_or_five_steps_and_nothing_is_lost_between_merge_and_since() {
        assert!((4..=5).contains(&Pairs::ratio_step(10_000, 12_000)));
        assert_eq!(Pairs::ratio_step(10_000, 10_000), 0);
        assert_eq!(Pairs::ratio_step(1, 30_000_000), RATIO_STEPS);
        let one = Pairs {
            compared: 3,
            ratios: BTreeMap::from([(-2, 1), (4, 2)]),
            fields: BTreeMap::from([("status".to_owned(), 1)]),
            ..Pairs::default()
        };
        let mut both = one.clone();
        both.merge(&one);
        assert_eq!(both.since(&one), one);
        assert!(one.since(&one).is_empty());
    }
}
