//! The control plane: turns what the migrator asks for into Envoy resources, brings them to every
//! data plane without a lost request, and says what has been applied and what it does.
//!
//! # Flow
//! ```text
//! store ── Service, Instance, Routing ──▶ edge::watcher ──▶ Inputs
//!                                                             │
//!   ADS streams ── requests, ACK, NACK ──▶ hub (one task) ──▶ Gate (pure) ──▶ responses
//!                                                             │
//! store ◀── RoutingStatus ── edge::writer ◀───────────────────┘
//! store ◀── Traffic ──────── edge::writer ◀── telemetry (LRS counts, ALS latencies)
//! people ◀── health, metrics, progress, refusals ── admin, CSDS
//! ```
//!
//! # Ownership
//! The [`gate::Gate`] alone decides what is published; it is pure and lives in the hub's task. The
//! records `RoutingStatus` and `Traffic` are written here and nowhere else.
//!
//! # Failure paths
//! A node that refuses a resource pins the service at fault to its last good input: the others go
//! on. A store that fails leaves what is published in force. A control plane that is gone leaves
//! the data planes with what they have.

mod admin;
pub mod authority;
pub mod bootstrap;
mod certificate;
mod config;
mod edge;
mod error;
mod events;
pub mod gate;
mod hub;
pub mod input;
mod inspect;
mod metrics;
mod outbox;
pub mod resources;
mod server;
mod services;
pub mod stream;
pub mod telemetry;
mod tls;
mod wire;

pub use config::XdsConfig;
pub use error::XdsError;
pub use server::XdsServer;
pub use tls::{Security, TlsFiles, names_of};
