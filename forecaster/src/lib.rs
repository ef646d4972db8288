//! Forecasts of every instance's demand, as quantiles per horizon.
//!
//! # Flow
//! ```text
//! store: Readings ─▶ history (ring per series) ─▶ model (ONNX, batched) ─▶ calibration ─▶ store: Forecast
//!  intake, trace ─▶     │  ▲                        └─ absent or broken ─▶ fallback, flagged
//!                       ▼  │ restart
//!                     snapshot
//! ```
//! # Ownership
//! The history belongs to the service's task; `Kind::Forecast` is written here and nowhere else,
//! and so is the snapshot's folder.
//!
//! # Failure paths
//! A model that cannot be loaded or fails while running is replaced by the fallback, and every
//! forecast says so; publishing never stops. A damaged snapshot is refused with a warning: the
//! history begins anew. A faulty trace is refused as a whole, naming line and field.

pub mod announced;
pub mod backtest;
mod book;
pub mod calendar;
pub mod calibrate;
pub mod cron;
pub mod drift;
pub mod fallback;
pub mod features;
pub mod history;
pub mod import;
mod insight;
pub mod intake;
pub mod model;
mod predict;
pub mod registry;
mod service;
mod shadow;
pub mod snapshot;
pub mod trial;

pub use book::{Calibrating, Coverage, Drift};
pub use import::{ImportError, Negative, Trace, read_trace};
pub use insight::Insight;
pub use model::{Asking, Model, ModelError};
pub use service::{Forecaster, ForecasterConfig, ForecasterError, TRAINED_MS};
