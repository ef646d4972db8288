//! The listener of a node that asks for one. It depends on the node alone: a change would close
//! every connection, so nothing that a ramp does can touch it.

use std::net::SocketAddr;

use api::envoy::envoy::config::accesslog::v3::{AccessLog, access_log};
use api::envoy::envoy::config::core::v3::{
    ApiVersion, GrpcService, Http1ProtocolOptions, Node,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
};
use api::envoy::envoy::config::listener::v3::{ApiListener, Filter, FilterChain, Listener, filter};
use api::envoy::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig,
};
use api::envoy::envoy::extensions::filters::http::router::v3::Router;
use api::envoy::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::CodecType,
    http_connection_manager::RouteSpecifier, http_filter,
};
use api::envoy::google::protobuf::value::Kind;

use super::named::Resource;
use super::pack::{address, millis, over_ads, pack};
use super::route::CONTROL_CLUSTER;

/// How long access logs are gathered at the node.
const LOG_FLUSH_MS: u64 = 250;
/// How long a stream without a byte may live.
const STREAM_IDLE_MS: u64 = 300_000;
/// How long a closed connection waits for the client to read the rest.
const DELAYED_CLOSE_MS: u64 = 1_000;

/// Where a node's listener shall listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl ListenAddress {
    /// What the node's metadata asks for; `None` when it asks for no listener.
    ///
    /// # Errors
    /// A text, naming the key and the value, when it is not an address.
    pub fn of_node(node: &Node) -> Result<Option<Self>, String> {
        let key = api::xds::LISTEN_METADATA;
        let Some(value) = node
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.fields.get(key))
        else {
            return Ok(None);
        };
        let Some(Kind::StringValue(text)) = &value.kind else {
            return Err(format!(
                "node metadata {key}: use a text as \"127.0.0.1:10000\""
            ));
        };
        match text.parse() {
            Ok(socket) => Ok(Some(Self(socket))),
            Err(_) => Err(format!(
                "node metadata {key} {:?} is no address: use IP and port, as \"127.0.0.1:10000\"",
                text.chars().take(80).collect::<String>()
            )),
        }
    }
}

/// The listener.
pub fn ingress(listen: ListenAddress) -> Resource {
    let listener = Listener {
        name: api::xds::LISTENER_NAME.to_owned(),
        address: Some(address(listen.0)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(pack(&connection_manager()))),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    };
    Resource::encode(api::xds::LISTENER_NAME, &listener)
}

/// The listener of a client without a proxy (gRPC): named as its target, with the routes of that
/// service alone.
pub fn api_listener(target: &str, service: &str) -> Resource {
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(over_ads()),
            route_config_name: api::xds::service_route_config(service),
        })),
        http_filters: vec![router()],
        ..HttpConnectionManager::default()
    };
    let listener = Listener {
        name: target.to_owned(),
        api_listener: Some(ApiListener {
            api_listener: Some(pack(&manager)),
        }),
        ..Listener::default()
    };
    Resource::encode(target, &listener)
}

fn router() -> HttpFilter {
    HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(
            &Router::default(),
        ))),
        ..HttpFilter::default()
    }
}

fn connection_manager() -> HttpConnectionManager {
    HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        stat_prefix: "ingress".to_owned(),
        http_protocol_options: Some(Http1ProtocolOptions::default()),
        stream_idle_timeout: Some(millis(STREAM_IDLE_MS)),
        delayed_close_timeout: Some(millis(DELAYED_CLOSE_MS)),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(over_ads()),
            route_config_name: api::xds::ROUTE_CONFIG.to_owned(),
        })),
        http_filters: vec![router()],
        access_log: vec![access_log()],
        ..HttpConnectionManager::default()
    }
}

/// Latencies come by the access log: load reports have none.
fn access_log() -> AccessLog {
    let config = HttpGrpcAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig {
            log_name: "foreshadow".to_owned(),
            grpc_service: Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                    cluster_name: CONTROL_CLUSTER.to_owned(),
                    ..EnvoyGrpc::default()
                })),
                ..GrpcService::default()
            }),
            transport_api_version: ApiVersion::V3.into(),
            buffer_flush_interval: Some(millis(LOG_FLUSH_MS)),
            ..CommonGrpcAccessLogConfig::default()
        }),
        ..HttpGrpcAccessLogConfig::default()
    };
    AccessLog {
        name: "envoy.access_loggers.http_grpc".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(pack(&config))),
        ..AccessLog::default()
    }
}
