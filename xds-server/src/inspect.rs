//! How far every node is with every resource: what CSDS and the administration show.

use std::collections::BTreeMap;

use domain::NodeId;
use serde::Serialize;

use crate::gate::Gate;
use crate::resources::ResourceType;
use crate::stream::Stream;

/// Most resources that one inspection names.
const MAX_RESOURCES: usize = 200_000;

/// How far a node is with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Progress {
    /// It has acknowledged what is published.
    Synced,
    /// It has something else, or has not answered yet.
    Stale,
    /// It has not been told.
    NotSent,
    /// It refuses it.
    Error,
}

/// One resource at one node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ResourceStatus {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    #[serde(skip)]
    pub(crate) of: ResourceType,
    pub(crate) name: String,
    /// The version that is published for the node.
    pub(crate) version: String,
    pub(crate) status: Progress,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Whether only some nodes see this version so far.
    pub(crate) held: bool,
}

/// All nodes.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Inspection {
    pub(crate) nodes: BTreeMap<NodeId, Vec<ResourceStatus>>,
    /// Whether some were left out.
    pub(crate) shortened: bool,
}

/// Looks at all nodes, or at one.
pub(crate) fn inspect(gate: &Gate, only: Option<&NodeId>) -> Inspection {
    let mut inspection = Inspection::default();
    let mut count = 0;
    for (_, stream) in gate.all_streams() {
        if only.is_some_and(|only| *only != stream.node) {
            continue;
        }
        let node = inspection.nodes.entry(stream.node.clone()).or_default();
        for kind in ResourceType::ALL {
            if !stream.wants(kind) {
                continue;
            }
            for name in stream.following(kind, gate.published()) {
                if count >= MAX_RESOURCES {
                    inspection.shortened = true;
                    return inspection;
                }
                count += 1;
                node.push(status(gate, stream, kind, &name));
            }
        }
    }
    inspection
}

fn status(gate: &Gate, stream: &Stream, kind: ResourceType, name: &str) -> ResourceStatus {
    let published = gate.published();
    let current = stream
        .current(kind, name, published)
        .map(|resource| resource.version);
    let reason = current.and_then(|version| stream.refusal(kind, name, version));
    let status = if reason.is_some() {
        Progress::Error
    } else if current.is_some() && stream.acknowledged(kind, name) == current {
        Progress::Synced
    } else if stream.told(kind, name).is_none() {
        Progress::NotSent
    } else {
        Progress::Stale
    };
    ResourceStatus {
        kind: kind.short_name(),
        of: kind,
        name: name.to_owned(),
        version: current
            .map(|version| version.to_string())
            .unwrap_or_default(),
        status,
        reason: reason.map(ToOwned::to_owned),
        held: published.held(kind, name).is_some(),
    }
}
