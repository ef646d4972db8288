//! Which cluster and which endpoint a request goes to.
//!
//! # Rules
//! - A cluster with weight 0 is never chosen, not even when all others fail.
//! - Requests take turns in a [`Sequence`] that gives every cluster its exact share; when a header
//!   chooses instead ([`sticky_key`]), the same value always chooses the same cluster, and raising the
//!   weight of a later cluster takes no value away from it.
//! - After a connection that could not be made, another endpoint of the same cluster is tried
//!   once, then another cluster; at most [`MAX_RETRIES`] times in all.
//! - An endpoint that could not be connected to of late ([`Suspicion`]) is passed over while there
//!   are others.

mod pick;
mod sequence;
mod sticky;
mod suspicion;
#[cfg(test)]
mod tests;

pub use pick::{MAX_RETRIES, Picked, Selection};
pub use sequence::{Sequence, Turn};
pub use sticky::sticky_key;
pub use suspicion::Suspicion;

/// Index of the entry whose cumulative weight is the first above `point` modulo the total; `None`
/// if all weights are 0.
pub fn by_weight(weights: impl Iterator<Item = u64> + Clone, point: u64) -> Option<usize> {
    let total: u64 = weights.clone().sum();
    let point = point.checked_rem(total)?;
    let mut below = 0;
    for (index, weight) in weights.enumerate() {
        below += weight;
        if point < below {
            return Some(index);
        }
    }
    None
}
