//! Names and conventions of our xDS: what server, proxy and bootstraps must agree on.

/// Type URL of clusters.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Type URL of endpoints.
pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Type URL of listeners.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Type URL of routes.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// Type URL of secrets.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Type URL of a resource in its wrapper, which carries a time to live.
pub const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// Name of the route configuration of all services.
pub const ROUTE_CONFIG: &str = "foreshadow";
/// Name of the listener that a node with [`LISTEN_METADATA`] gets.
pub const LISTENER_NAME: &str = "ingress";
/// Key of the node's metadata that says where its listener shall listen, as "127.0.0.1:10000".
pub const LISTEN_METADATA: &str = "foreshadow.listen";
/// Key of the node's metadata that asks for resources with a time to live, in seconds as a text.
pub const TTL_METADATA: &str = "foreshadow.ttl";

/// Name of the route configuration of one service, for clients that call few of them.
pub fn service_route_config(service: &str) -> String {
    format!("{ROUTE_CONFIG}/{service}")
}

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
        SECRET => "SDS",
        _ => "xDS",
    }
}
