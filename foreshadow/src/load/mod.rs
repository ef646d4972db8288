//! Load: open-loop streams of requests, as independent clients make them.
//!
//! # Flow
//! A [`RateCurve`] and a seed make a [`schedule`] of send times (pure). One task per stream sends
//! each request at its time, whatever became of the earlier ones ([`generator`]), and a
//! [`LoadReport`] counts what came of it, per stream and phase ([`report`]).
//!
//! # Guarantees
//! - Latency counts from the *intended* send time: a service that stalls is not let off by a
//!   generator that waits for it.
//! - What is not sent because too many requests are in flight is counted as shed, never left out.
//! - The same seed makes the same schedule.

mod generator;
mod outcome;
mod report;
mod schedule;
mod stream;

pub use generator::{LoadError, LoadGenerator, LoadSettings};
pub use report::{Failure, Failures, LoadReport, PhaseReport, StreamReport};
pub use schedule::{After, Arrivals, RateCurve, RateError, Schedule};
pub use stream::{Keys, StreamSpec};
