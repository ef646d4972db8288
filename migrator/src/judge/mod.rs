//! Whether a shadow is no worse than its original.
//!
//! Sequential tests that stay valid however often one looks: with every epoch e-values multiply
//! (`factor` has the formulas and their proofs), and a ramp of a shadow that is within its margins
//! is rolled back with a probability of at most `alpha` in all. Pure: counts in, verdict out.
//!
//! # What counts as harm
//! - **Failures**: worse than the live original by ratio and margin, *and* worse than before the
//!   contention by the margin. A dependency that fails for both is no reason to go back.
//! - **Slowness**, at the edges next to the quantiles 0.5, 0.9 and 0.99 from before the contention,
//!   and **stalls**, beyond the quantile 0.999: again worse than the live original *and* than
//!   before. A machine that slows both down at once is no reason to go back either, and a shadow
//!   may be slower than a lucky original while it is as fast as that was before.
//! - **Far slowness**: too many requests beyond `far_factor` times the frozen quantile 0.9 (and
//!   20 ms), whatever the original does. The original is moved because it is, or will be, sick; it
//!   does not excuse a shadow that nobody would want.
//! - Without a baseline (fewer than 20 requests) the original alone counts.
//!
//! # With all traffic
//! There is no original to compare with then, and nobody can tell trouble of the shadow's own from
//! trouble that the original would have had too. So nothing is decided: an alarm ([`Trouble`])
//! gives the original its share back within a look (`throttle`), and who is ill shows beside it.
//!
//! # Guarantee
//! The nulls are: the shadow is within its margins of the original throughout, or of the frozen
//! share throughout, for each stream; and not far slower. One portfolio of bets runs over the whole
//! ramp, whatever its weights, stages and looks, and is stored with it: `alpha` bounds the
//! probability that a ramp is rolled back in a null. Outcomes are taken to be independent within an
//! epoch; a burst in one epoch is capped, so that it takes three bad epochs to decide. The early
//! stop for a shadow whose first five requests at a stage all fail, while the original's do not, is
//! outside of this count.
//!
//! Where sessions keep to their side the requests of one are not independent: a bad client fails all
//! of its own. The unit is the session then, by the first request that a side has of it (which
//! request that is does not depend on how it ends, so that the counts are binomial over sessions),
//! if data planes count sessions; our proxy does. Alarms look at requests all the same: they only
//! lower a weight, and old sessions that begin to fail are not seen by first requests.
//!
//! # Promotion
//! The absence of harm is no proof. Where a stage asks for it, it takes an e-value of 1/`beta`
//! against "worse by more than the proof's margin", for failures and for slowness at the quantile
//! 0.9, from this stage's requests alone: what was shown at another weight was shown of another
//! load. Without any latency only failures are judged.

mod alarm;
mod explain;
mod factor;
mod ledger;
mod mixture;
mod neighbour;
mod pilot;
mod record;
mod state;
mod stream;
mod throttle;
mod verdict;
mod yardstick;

#[cfg(test)]
mod flight;
#[cfg(test)]
mod ramps;
#[cfg(test)]
mod tests;

pub use alarm::Trouble;
pub use explain::{Evidence, Flips, ProofEvidence, StreamEvidence};
pub use ledger::{Increment, Ledger, Sides};
pub use neighbour::Neighbour;
pub use pilot::{Answer, Look, Pilot, Steering};
pub use record::{RampLine, Replay, replay};
pub use state::{JudgeState, Past, Task};
