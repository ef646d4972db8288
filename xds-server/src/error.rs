//! What can keep the control plane from starting.

use std::net::SocketAddr;

use store::StoreError;

/// What can keep the control plane from starting.
#[derive(Debug, thiserror::Error)]
pub enum XdsError {
    /// The address cannot be listened on, usually because another process does.
    #[error(
        "control plane cannot listen on {address}: {source}; stop what uses it, or set another xds listen address"
    )]
    Bind {
        /// The address as configured.
        address: SocketAddr,
        /// The system's words.
        source: std::io::Error,
    },
    /// A setting is out of range.
    #[error("control plane setting {field} is {value}; allowed is {allowed}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A certificate or key cannot be used.
    #[error("control plane cannot use {path}: {reason}")]
    Certificate {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It has stopped.
    #[error("control plane: it has stopped")]
    Stopped,
    /// What shall be published cannot be read. Starting without it would take the routes away
    /// from every node that connects.
    #[error("control plane cannot read what to publish: {0}")]
    Store(#[from] StoreError),
}
