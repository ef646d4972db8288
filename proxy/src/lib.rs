//! The reverse proxy: Pingora as data plane, our own control plane as its source of truth.
//!
//! # Flow
//! The xDS client accepts clusters, endpoints and routes ([`xds::Ledger`]), links them into an
//! immutable [`config::RoutingTable`] and swaps it in. Each request takes one table, chooses a
//! cluster by weight and an endpoint in it ([`select`]), and is counted ([`telemetry`]); what was
//! counted is reported to the control plane. Some requests are copied ([`mirror`]), and what both
//! sides of an instance under migration answer is compared ([`pairs`]).
//!
//! # Guarantees
//! - A request uses one table from its beginning to its end; replacing the table loses none.
//! - A configuration that is not understood changes nothing, and the last good one survives
//!   restarts of both the proxy and the control plane ([`last_good`]).
//! - A cluster with weight 0 gets nothing.
//! - Counts are exact.

mod admin;
pub mod config;
mod identity;
mod ingress;
pub mod last_good;
mod mirror;
mod pairs;
mod run;
pub mod select;
mod settings;
mod state;
pub mod telemetry;
pub mod xds;

pub use identity::Identity;
pub use run::{RunningProxy, run, spawn};
pub use settings::{ProxyConfig, ProxyError};
