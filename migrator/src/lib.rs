//! Deciding what moves where and when, and moving it.
//!
//! - [`world`]: what a decision rests on, read from the store as one value.
//! - [`detect`]: contention, seen or predicted. [`plan`]: candidates, targets, scores, reasons.
//!   Both are pure: same world, same decision.
//! - [`judge`]: whether a shadow is no worse than its original. Pure.
//! - [`saga`]: carries out the effects of `domain::migration::step`, intent logged first.
//! - [`simulate`]: ramps over simulated traffic, by the same judge.
//! - [`driver`]: what makes, copies, checks and destroys instances.
//! - [`service`]: the running migrator: leadership, readings, decisions, migrations.

pub mod detect;
pub mod driver;
pub mod judge;
mod orders;
pub mod plan;
pub mod saga;
mod sampler;
pub mod service;
pub mod settings;
pub mod simulate;
pub mod world;

pub use orders::{Answer, OrderError};
pub use service::{Migrator, MigratorError};
pub use settings::{AtDeadline, JudgeSettings, Settings};
