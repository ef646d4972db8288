//! The xDS client: delta ADS from the control plane.
//!
//! # Flow
//! Clusters are asked for by wildcard, endpoints by the names that the clusters give, the one
//! route configuration by its name. [`Ledger`] decides, without waiting or talking, what is
//! accepted and what is answered; the client carries messages and time to it and puts the table
//! that results in force.
//!
//! # Guarantees
//! - An acknowledgement means "in force": clusters are acknowledged when their endpoints are here
//!   (or did not come within [`WARMING`]), routes when the table with them is in force.
//! - What is refused changes nothing; an empty route configuration in place of one that serves is
//!   refused.
//! - A cluster that is taken away while routes in force name it serves on until they let go.

mod backoff;
pub(crate) mod client;
mod dial;
#[cfg(test)]
pub(crate) mod fixtures;
mod ledger;
#[cfg(test)]
mod tests;

pub(crate) use backoff::backoff;
pub(crate) use dial::dial;
pub use ledger::{Ledger, Step, WARMING};

use api::envoy::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use domain::NodeId;

/// Who we are, to the control plane.
pub(crate) fn node(id: &NodeId) -> Node {
    Node {
        id: id.to_string(),
        cluster: "foreshadow-proxy".to_owned(),
        user_agent_name: "foreshadow-proxy".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(
            env!("CARGO_PKG_VERSION").to_owned(),
        )),
        ..Node::default()
    }
}
