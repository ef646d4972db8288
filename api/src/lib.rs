//! The contracts between the parts: what goes over a wire or stands in a file.
//!
//! - [`envoy`]: Envoy's own protocol buffers (crate `envoy-types`, named here and nowhere else).
//! - [`xds`]: names and conventions of our xDS.
//! - [`forecasting`]: our own gRPC: samples in, forecasts out.
//! - [`latency`]: how latency histograms travel inside load reports.
//! - [`pairs`]: how the counts of paired answers do.
//! - [`sessions`]: how the counts of sessions do.
//! - [`telemetry`]: what Prometheus and OpenTelemetry send.

pub mod forecasting;
pub mod latency;
pub mod pairs;
pub mod sessions;
pub mod telemetry;
pub mod xds;

/// Envoy's protocol buffers and gRPC services.
pub use envoy_types::pb as envoy;
