//! Small helpers that spell protocol buffers.

use api::envoy::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address,
    config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
};
use api::envoy::google::protobuf::{Any, Duration, UInt32Value};

/// A message inside an `Any`.
pub(super) fn pack<M: prost::Message + prost::Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// A number as a message of its own.
pub(super) const fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}

/// A duration; longer than the type can hold is as long as it can.
pub(super) fn millis(value: u64) -> Duration {
    let seconds = i64::try_from(value / 1_000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(value % 1_000 * 1_000_000).unwrap_or(0);
    Duration { seconds, nanos }
}

/// "From the aggregated stream".
pub(super) fn over_ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

/// A TCP address.
pub(super) fn address(socket: std::net::SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: socket.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(socket.port()))),
            ..SocketAddress::default()
        })),
    }
}
