//! Where processes are killed or made to stand still: every step, on the way forward and back,
//! before its effect, after it, and after its outcome is in the log.

/// Steps on the way forward, in their order; some come several times.
pub(crate) const FORWARD: [&str; 18] = [
    "reserve",
    "prepare shadow",
    "sync round",
    "fork",
    "re-identify",
    "verify",
    "route#1",
    "judge#1",
    "route#2",
    "judge#2",
    "route#3",
    "judge#3",
    "route#4",
    "judge#4",
    "await drain",
    "adopt",
    "terminate",
    "release",
];

/// Steps on the way back.
pub(crate) const BACK: [&str; 4] = [
    "shift back",
    "restore routing",
    "destroy shadow",
    "release reservation",
];

pub(crate) const MOMENTS: [&str; 3] = ["before effect", "after effect", "after log"];

/// A place in a migration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) step: &'static str,
    pub(crate) moment: &'static str,
}

impl Place {
    /// Whether it is only reached by a migration that is undone.
    pub(crate) fn is_back(&self) -> bool {
        BACK.contains(&self.step)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.step, self.moment)
    }
}

/// All places, forward before back.
pub(crate) fn all() -> Vec<Place> {
    let steps = FORWARD.iter().chain(&BACK);
    steps
        .flat_map(|&step| MOMENTS.map(|moment| Place { step, moment }))
        .collect()
}

/// Places without end: all of them in an order of the seed's, and again in another one.
pub(crate) struct Places {
    random: u64,
    left: Vec<Place>,
    wanted: fn(&Place) -> bool,
}

impl Places {
    /// Only those that are `wanted`.
    pub(crate) fn new(seed: u64, wanted: fn(&Place) -> bool) -> Self {
        Self {
            random: seed | 1,
            left: Vec::new(),
            wanted,
        }
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // xorshift64*: which place comes when needs no better one.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let high = self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap_or(0) % bound.max(1)
    }

    pub(crate) fn next(&mut self) -> Place {
        if self.left.is_empty() {
            self.left = all();
            self.left.retain(self.wanted);
            assert!(!self.left.is_empty(), "no place is wanted");
        }
        let index = self.below(self.left.len());
        self.left.swap_remove(index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_place_comes_once_before_one_comes_again() {
        let mut places = Places::new(7, |_| true);
        let count = all().len();
        let first: BTreeSet<_> = (0..count).map(|_| places.next()).collect();
        assert_eq!(first.len(), count);
        let again: BTreeSet<_> = (0..count).map(|_| places.next()).collect();
        assert_eq!(again, first);
    }
}
