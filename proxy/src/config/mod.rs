//! Configuration: discovery resources in, an immutable [`RoutingTable`] out.
//!
//! # Flow
//! [`parse`] turns one protocol buffer into one plain value, or says why it cannot be followed;
//! [`Resources`] is the set of values that have been accepted; [`RoutingTable::link`] resolves the
//! names between them into the form that requests use.
//!
//! # Failure paths
//! A field that would change where a request goes and that is not understood is a [`Refusal`]: the
//! resource is refused as a whole and the table in force stays. Nothing is guessed.

mod domains;
pub mod parse;
mod resources;
mod spec;
mod table;
#[cfg(test)]
mod tests;

pub use domains::DomainMap;
pub use resources::{Held, Kind, Resources};
pub(crate) use resources::{
    cluster as read_cluster, endpoints as read_endpoints, routes as read_routes,
};
pub use spec::{
    Assignment, ClusterSpec, EndpointSpec, HashHeader, HoldSpec, HostSpec, MirrorSpec, RouteSpec,
    RoutesSpec, TargetSpec,
};
pub use table::{Cluster, Endpoint, EndpointSet, Mirror, Route, RoutingTable, Target, VirtualHost};

/// Why a resource is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {reason}")]
pub struct Refusal {
    /// The resource, and the part of it.
    pub object: String,
    /// What is wrong, and what is allowed.
    pub reason: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            object: object.into(),
            reason: reason.into(),
        }
    }
}
