//! The bootstrap of an Envoy that takes its configuration from this control plane.

use std::fmt::Write as _;
use std::net::SocketAddr;

use domain::NodeId;

use crate::authority::{AUTHORITY_SECRET, NODE_SECRET, NodeFiles, SERVER_NAME};
use crate::resources::CONTROL_CLUSTER;
pub use crate::stream::Protocol;

const fn api_type(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Delta => "DELTA_GRPC",
        Protocol::StateOfTheWorld => "GRPC",
    }
}

/// What distinguishes one Envoy from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// Its identity.
    pub node: NodeId,
    /// Where it serves the services' clients; `None` when its listeners are its own matter.
    pub listen: Option<SocketAddr>,
    /// Where its own administration listens.
    pub admin: SocketAddr,
    /// Where the control plane is.
    pub control_plane: SocketAddr,
    /// How it talks to the control plane.
    pub protocol: Protocol,
    /// By what it proves itself to the control plane; plain text when nothing.
    pub identity: Option<NodeFiles>,
}

/// The bootstrap as YAML.
pub fn envoy(bootstrap: &Bootstrap) -> String {
    let Bootstrap {
        node,
        listen,
        admin,
        control_plane,
        protocol,
        identity,
    } = bootstrap;
    let mut metadata = String::new();
    if let Some(listen) = listen {
        let key = api::xds::LISTEN_METADATA;
        // Writing to a text cannot fail.
        let _ = write!(metadata, "\n  metadata:\n    {key}: \"{listen}\"");
    }
    let secured = identity.as_ref().map_or_else(String::new, transport);
    let api_type = api_type(*protocol);
    let (admin_host, admin_port) = (admin.ip(), admin.port());
    let (host, port) = (control_plane.ip(), control_plane.port());
    format!(
        r#"# Envoy bootstrap of node {node}: everything else comes from the control plane.
node:
  id: "{node}"
  cluster: foreshadow{metadata}
admin:
  address:
    socket_address: {{ address: "{admin_host}", port_value: {admin_port} }}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
      - envoy_grpc: {{ cluster_name: {CONTROL_CLUSTER} }}
  cds_config:
    resource_api_version: V3
    ads: {{}}
  lds_config:
    resource_api_version: V3
    ads: {{}}
cluster_manager:
  # Counts per cluster, for the judge of a ramp.
  load_stats_config:
    api_type: GRPC
    transport_api_version: V3
    grpc_services:
      - envoy_grpc: {{ cluster_name: {CONTROL_CLUSTER} }}
layered_runtime:
  layers:
    - name: foreshadow
      static_layer:
        # Without it the last results of a cluster that falls silent are never reported.
        envoy.reloadable_features.report_load_for_non_zero_stats: true
static_resources:
  clusters:
    - name: {CONTROL_CLUSTER}
      type: STATIC
      connect_timeout: 1s{secured}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            http2_protocol_options:
              # A control plane that died without a word is noticed, and reconnected to.
              connection_keepalive: {{ interval: 10s, timeout: 5s }}
      load_assignment:
        cluster_name: {CONTROL_CLUSTER}
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {{ address: "{host}", port_value: {port} }}
"#
    )
}

/// Mutual TLS towards the control plane. Envoy's own default would stop at TLS 1.2. Certificates come
/// as secrets from files, which Envoy reads again when they are replaced.
fn transport(files: &NodeFiles) -> String {
    let (node, authority) = (files.node_secret(), files.authority_secret());
    let folder = node.parent().unwrap_or(std::path::Path::new("/"));
    let [folder, node, authority] = [folder, &node, &authority].map(|path| path.display());
    format!(
        r#"
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: {SERVER_NAME}
          common_tls_context:
            alpn_protocols: [h2]
            tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
            tls_certificate_sds_secret_configs:
              - name: {NODE_SECRET}
                sds_config:
                  resource_api_version: V3
                  path_config_source: {{ path: "{node}", watched_directory: {{ path: "{folder}" }} }}
            validation_context_sds_secret_config:
              name: {AUTHORITY_SECRET}
              sds_config:
                resource_api_version: V3
                path_config_source: {{ path: "{authority}", watched_directory: {{ path: "{folder}" }} }}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(protocol: Protocol, listen: Option<SocketAddr>) -> String {
        envoy(&Bootstrap {
            node: NodeId::new("edge-1").unwrap(),
            listen,
            admin: ([127, 0, 0, 1], 9_901).into(),
            control_plane: ([127, 0, 0, 1], 18_000).into(),
            protocol,
            identity: None,
        })
    }

    #[test]
    fn the_protocol_and_the_listener_are_what_was_asked() {
        let delta = of(Protocol::Delta, Some(([127, 0, 0, 1], 10_000).into()));
        assert!(delta.contains("api_type: DELTA_GRPC"), "{delta}");
        assert!(
            delta.contains("foreshadow.listen: \"127.0.0.1:10000\""),
            "{delta}"
        );
        let world = of(Protocol::StateOfTheWorld, None);
        assert!(
            !world.contains("DELTA_GRPC") && !world.contains("metadata:"),
            "{world}"
        );
    }
}
