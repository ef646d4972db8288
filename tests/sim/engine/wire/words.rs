//! The proxies' words as protobuf, and back.

use api::envoy::envoy::config::cluster::v3::Cluster;
use api::envoy::envoy::config::core::v3::Node;
use api::envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use api::envoy::envoy::config::route::v3::RouteConfiguration;
use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use domain::NodeId;
use prost::Message as _;
use xds_server::resources::ResourceType;
use xds_server::stream::Request;

use super::super::proxy::{Item, Message};

pub(super) fn node(id: &NodeId) -> Node {
    Node {
        id: id.to_string(),
        ..Node::default()
    }
}

pub(super) fn world_request(
    id: &NodeId,
    kind: ResourceType,
    names: Vec<String>,
    version: String,
    nonce: String,
) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: version,
        node: Some(node(id)),
        resource_names: names,
        type_url: kind.url().to_owned(),
        response_nonce: nonce,
        ..DiscoveryRequest::default()
    }
}

pub(super) fn delta_request(
    id: &NodeId,
    kind: ResourceType,
    (subscribe, unsubscribe): (Vec<String>, Vec<String>),
    initial: Vec<(String, String)>,
    nonce: String,
) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node(id)),
        type_url: kind.url().to_owned(),
        resource_names_subscribe: subscribe,
        resource_names_unsubscribe: unsubscribe,
        initial_resource_versions: initial.into_iter().collect(),
        response_nonce: nonce,
        ..DeltaDiscoveryRequest::default()
    }
}

/// What a proxy says, for a reader.
pub(super) fn in_short(request: &Request) -> String {
    match request {
        Request::World { names, nonce, .. } => format!("{} ({nonce})", names.join(" ")),
        Request::Delta {
            subscribe,
            unsubscribe,
            initial,
            nonce,
            ..
        } => {
            let (more, less) = (subscribe.join(" "), unsubscribe.join(" "));
            format!("+ {more} - {less}, has {} ({nonce})", initial.len())
        }
    }
}

pub(super) fn of_delta(response: DeltaDiscoveryResponse) -> Option<Message> {
    let items = response.resources.into_iter().filter_map(|resource| {
        Some(Item {
            name: resource.name,
            version: resource.version,
            value: resource.resource?.value,
        })
    });
    Some(Message {
        kind: ResourceType::of_url(&response.type_url)?,
        nonce: response.nonce,
        items: items.collect(),
        removed: response.removed_resources,
    })
}

pub(super) fn of_world(response: DiscoveryResponse) -> Option<Message> {
    let kind = ResourceType::of_url(&response.type_url)?;
    let version = response.version_info;
    let items = response.resources.into_iter().filter_map(|any| {
        Some(Item {
            name: name_of(kind, &any.value)?,
            version: version.clone(),
            value: any.value,
        })
    });
    Some(Message {
        kind,
        nonce: response.nonce,
        items: items.collect(),
        removed: Vec::new(),
    })
}

/// In this form a resource's name stands in itself only.
fn name_of(kind: ResourceType, value: &[u8]) -> Option<String> {
    match kind {
        ResourceType::Cluster => Some(Cluster::decode(value).ok()?.name),
        ResourceType::Endpoint => Some(ClusterLoadAssignment::decode(value).ok()?.cluster_name),
        ResourceType::Route => Some(RouteConfiguration::decode(value).ok()?.name),
        ResourceType::Listener | ResourceType::Secret => None,
    }
}
