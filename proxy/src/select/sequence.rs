//! The sequence in which requests take turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many requests have had their turn. Shared between the tables that replace each other, so
/// that frequent changes of weights do not start the same sequence again and again.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<AtomicU64>);

/// Visits every point of `0..total` exactly once in `total` turns, and spreads any few consecutive
/// turns evenly: multiples, modulo the total, of the number next to `total / golden ratio` that
/// has no factor in common with it.
#[derive(Debug)]
pub struct Sequence {
    turn: Turn,
    step: u64,
    total: u64,
}

impl Sequence {
    /// The sequence over `0..total`; `total` must be below 2^32 (weights are checked for that when
    /// they are read).
    pub fn new(total: u64, turn: Turn) -> Self {
        Self {
            turn,
            step: step(total),
            total,
        }
    }

    /// The next point; 0 if there is none to choose from.
    pub fn next_point(&self) -> u64 {
        let turn = self.turn.0.fetch_add(1, Ordering::Relaxed);
        let Some(turn) = turn.checked_rem(self.total) else {
            return 0;
        };
        (turn * self.step) % self.total
    }

    /// The turn, for a sequence that continues this one.
    pub fn turn(&self) -> Turn {
        self.turn.clone()
    }
}

fn step(total: u64) -> u64 {
    // 1 / golden ratio, in parts of 10^9: the product stays below 2^62.
    let near = total.saturating_mul(618_033_989) / 1_000_000_000;
    let coprime = |&step: &u64| step > 0 && greatest_common_divisor(step, total) == 1;
    (0..total)
        .flat_map(|distance| [near.saturating_sub(distance), near + distance])
        .find(coprime)
        .unwrap_or(1)
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
