//! What the clusters did, counted exactly and reported to the control plane.
//!
//! # Rules
//! - Every request is counted once: as a success or an error of the cluster that the weights chose
//!   for it first. If that cluster could not be reached and another one answered, the error is the
//!   first one's and the answer is not counted again: a side must not look better because the
//!   other one helped it out. Attempts are counted apart, as issued requests.
//! - An answer of 500 and above, a timeout and a broken connection are errors.
//! - A client that goes away before an answer began is neither success nor error.
//! - Latency is measured from the request's header to the end of the answer, for every request
//!   that is counted as success or error.
//! - In progress means: sent or being sent to that cluster now, first or later.
//! - Where a header chooses, the first request that a cluster has of every session is counted once
//!   more, as a session.

mod counters;
pub(crate) mod lrs;
mod registry;
mod sessions;
mod tally;

pub use counters::{Counters, InProgress, Outcome, Snapshot};
pub use registry::Registry;
pub use tally::Tally;
