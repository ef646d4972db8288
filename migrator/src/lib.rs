//! Deciding what moves where and when, and moving it.
//!
//! - [`world`]: what a decision rests on, read from the store as one value.
//! - [`pool`]: hosts and instances as numbers; [`belief`]: how far forecasts can be trusted.
//! - [`detect`]: contention, seen or predicted. [`select`]: which instances may move. [`place`]:
//!   which hosts may take them. [`search`]: the best moves. [`plan`]: the decision, with reasons.
//!   [`ledger`]: what moves promised and what they brought. All pure: same world, same decision.
//! - [`judge`]: whether a shadow is no worse than its original. Pure.
//! - [`pairs`]: whether what both sides answered to copied requests proves that they differ. Pure.
//! - [`saga`]: carries out the effects of `domain::migration::step`, intent logged first.
//! - [`simulate`]: ramps over simulated traffic, by the same judge.
//! - [`driver`]: what makes, copies, checks and destroys instances.
//! - [`room`]: what fits on a host, and how many migrations at a time, as writes that contend.
//! - [`service`]: the running migrator: leadership ([`shards`], [`tenure`]), readings, decisions,
//!   migrations; [`recovery`]: record against world at a take-over; [`gc`]: what belongs to nothing.

pub mod belief;
pub mod detect;
pub mod driver;
pub mod events;
pub mod explain;
pub mod gc;
mod health;
pub mod judge;
pub mod ledger;
mod normal;
mod orders;
pub mod pairs;
pub mod place;
pub mod plan;
pub mod pool;
pub mod recovery;
pub mod room;
pub mod saga;
mod sampler;
pub mod search;
pub mod select;
pub mod service;
pub mod settings;
pub mod shards;
pub mod simulate;
pub mod tenure;
pub mod world;

pub use orders::{Answer, OrderError};
pub use service::{Migrator, MigratorError};
pub use settings::{AtDeadline, JudgeSettings, Planning, Settings};
