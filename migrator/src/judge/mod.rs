//! Whether a shadow is no worse than its original.
//!
//! Sequential tests that stay valid however often one looks: with every epoch e-values multiply
//! (`factor` has the formulas and their proofs), and a ramp of a shadow that is within its margins
//! is rolled back with a probability of at most `alpha` in all. Pure: counts in, verdict out.
//!
//! # What counts as harm
//! - **Failures**: worse than the live original by ratio and margin, *and* worse than before the
//!   contention by the margin. A dependency that fails for both is no reason to go back.
//! - **Slowness**, at the edges next to the quantiles 0.5, 0.9 and 0.99 from before the contention:
//!   again worse than the live original *and* than before. A machine that slows both down at once
//!   is no reason to go back either, and a shadow may be slower than a lucky original while it is
//!   as fast as that was before.
//! - **Far slowness**: too many requests beyond `far_factor` times the frozen quantile 0.9 (and
//!   20 ms), whatever the original does. The original is moved because it is, or will be, sick; it
//!   does not excuse a shadow that nobody would want.
//! - With **all traffic** on the shadow there is no original to compare with. The frozen shares
//!   alone count, the worse of those before the contention and of the original's during the ramp,
//!   with margins that are `alone_factor` times as wide. Trouble that only begins then, and that
//!   the original would have had too, cannot be told from the shadow's own.
//! - Without a baseline (fewer than 20 requests) the original alone counts.
//!
//! # Guarantee
//! The nulls are: the shadow is within its margins of the original throughout, or of the frozen
//! share throughout, for each stream; and not far slower. `alpha` is shared evenly by the stages of
//! a ramp and the copies before it. Outcomes are taken to be independent within an epoch; a burst
//! in one epoch is capped, so that it takes three bad epochs to decide. The early stop for a shadow
//! whose first five requests all fail is outside of this count. A restart of the control plane
//! begins the evidence of the running stage anew: that is valid for that look, and one more look
//! for the ramp.
//!
//! # Promotion
//! The absence of harm is no proof. Below `prove_from` a stage asks for `min_requests`; from there
//! on for an e-value of 1/`beta` against "worse by more than the proof's margin", for failures and
//! for slowness at the quantile 0.9. Without any latency only failures are judged.

mod alarm;
mod explain;
mod factor;
mod ledger;
mod mixture;
mod pilot;
mod record;
mod state;
mod stream;
mod throttle;
mod verdict;
mod yardstick;

#[cfg(test)]
mod ramps;
#[cfg(test)]
mod tests;

pub use alarm::Trouble;
pub use explain::{Evidence, ProofEvidence, StreamEvidence};
pub use ledger::{Increment, Ledger};
pub use pilot::{Answer, Look, Pilot, Steering};
pub use record::{RampLine, Replay, replay};
pub use state::{JudgeState, Past, Task};
