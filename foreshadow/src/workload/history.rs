//! Digests at the last positions, so that two replicas can be compared at one of them although
//! both go on.

use std::collections::VecDeque;

/// How many positions are remembered.
pub(super) const KEPT: usize = 8_192;

/// Digests by position, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    digests: VecDeque<(u64, [u8; 32])>,
}

impl History {
    /// Remembers the digest at a position.
    pub(super) fn push(&mut self, position: u64, digest: [u8; 32]) {
        if self.digests.len() >= KEPT {
            self.digests.pop_front();
        }
        self.digests.push_back((position, digest));
    }

    /// Forgets all: what follows does not join on.
    pub(super) fn clear(&mut self) {
        self.digests.clear();
    }

    /// The digest at exactly this position.
    pub(super) fn at(&self, position: u64) -> Option<[u8; 32]> {
        let index = self
            .digests
            .binary_search_by_key(&position, |(at, _)| *at)
            .ok()?;
        self.digests.get(index).map(|(_, digest)| *digest)
    }

    /// The newest.
    pub(super) fn last(&self) -> Option<(u64, [u8; 32])> {
        self.digests.back().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_found_while_it_is_remembered() {
        let mut history = History::default();
        for number in 0..KEPT as u64 + 10 {
            history.push(number * 3, [1; 32]);
        }
        assert_eq!(history.at(9), None);
        assert_eq!(history.at(300), Some([1; 32]));
        assert_eq!(history.at(301), None);
    }
}
