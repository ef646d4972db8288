//! Forecasts of every instance's demand, as quantiles per horizon.
//!
//! # Flow
//! ```text
//! store: Readings ─▶ history (ring per series) ─▶ model (ONNX, batched) ─▶ store: Forecast
//!                                                   └─ absent or broken ─▶ fallback, flagged
//! ```
//! # Ownership
//! The history belongs to the service's task; `Kind::Forecast` is written here and nowhere else.
//!
//! # Failure paths
//! A model that cannot be loaded or fails while running is replaced by the fallback, and every
//! forecast says so; publishing never stops.

pub mod fallback;
pub mod history;
pub mod model;
mod service;

pub use model::{Model, ModelError};
pub use service::{Forecaster, ForecasterConfig, ForecasterError};
