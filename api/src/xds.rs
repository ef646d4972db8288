//! Names and conventions of our xDS: what server, proxy and bootstraps must agree on.

/// Type URL of clusters.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Type URL of endpoints.
pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Type URL of listeners.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Type URL of routes.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// Name of the one route configuration.
pub const ROUTE_CONFIG: &str = "foreshadow";
/// Name of the listener that a node with [`LISTEN_METADATA`] gets.
pub const LISTENER_NAME: &str = "ingress";
/// Key of the node's metadata that says where its listener shall listen, as "127.0.0.1:10000".
pub const LISTEN_METADATA: &str = "foreshadow.listen";

/// Key of a route's metadata, in Envoy's `filter_metadata`, for what our proxy alone understands.
pub const ROUTE_METADATA: &str = "foreshadow";
/// Field of [`ROUTE_METADATA`]: requests of this route wait. A list of two numbers: how many at
/// most, and for how many milliseconds. One field, because the order of several is not kept.
pub const HOLD: &str = "hold";
/// Name by which our proxy, which can hold requests, introduces itself.
pub const PROXY_AGENT: &str = "foreshadow-proxy";

/// Name of the cluster of the original whose shadow's cluster this is (see
/// [`domain::routing::side_cluster`]).
pub fn original_of(shadow: &str) -> Option<String> {
    let stem = shadow.strip_suffix(domain::Side::Shadow.name())?;
    let stem = stem.strip_suffix('~')?;
    Some(format!("{stem}~{}", domain::Side::Original.name()))
}

/// Short name of a resource type, for people.
pub fn short_name(type_url: &str) -> &'static str {
    match type_url {
        CLUSTER => "CDS",
        ENDPOINT => "EDS",
        LISTENER => "LDS",
        ROUTE => "RDS",
        _ => "xDS",
    }
}
