//! Paired answers: a copied request is answered by both sides, and the answers are compared.
//!
//! # Flow
//! ```text
//!  client ── request ──▶ original ── answer ──▶ client        first round: the client's own answer,
//!               └─ copy ▶ shadow ── answer ─┐   (kept too)     and the shadow's to the copy
//!                                           ▼
//!  then both once more, at the same moment ─▶ compare          second round: also for the latency
//! ```
//! [`Answer`] reduces an answer to named parts (status, a list of headers, the body by its type);
//! [`Noise`] knows which parts the original itself does not repeat; [`said`] makes of the rounds a
//! word for or against the shadow; [`Book`] adds it up until it is reported.
//!
//! # Guarantees
//! - Only requests that change nothing are copied, only without a body, and what the copies answer
//!   reaches nobody.
//! - The client's answer is looked at while it passes and never held.
//! - At most [`crate::mirror::MAX_COPIES`] requests are compared at once, [`LARGEST_BODY`] bytes of
//!   an answer are kept, and [`Pace`] limits how many more requests the original gets.
//!
//! # What proves what
//! Exchange the two sides within any round. If the shadow is exactly like the original, nothing can
//! tell, so whatever the four answers are, "the shadow stands alone" is exactly as likely as "the
//! original stands alone" ([`said`] keeps to that, see there). What is left out as noise is settled
//! before a request is compared, by what came before it. Hence a fair coin, and the migrator can
//! bet against it (`migrator::pairs`).
//!
//! # Caveats
//! A part that the original does not repeat (a time, a number of the request) cannot be compared by
//! equality and is left out. An answer that is too large, has no end, or has an encoding that is not
//! known is counted as not comparable; it is never taken for a difference.

mod answer;
mod body;
mod book;
mod noise;
mod run;
mod said;
#[cfg(test)]
mod tests;

pub(crate) use answer::{Answer, Capture, Raw};
pub(crate) use book::Book;
pub(crate) use noise::Noise;
pub(crate) use run::{Ask, Compare, Pace, Pairing};
pub(crate) use said::{Said, said};

/// Largest answer that is compared, in bytes; encoded or not.
pub(crate) const LARGEST_BODY: usize = 128 * 1024;
