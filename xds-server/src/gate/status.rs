//! How far a service is, node by node.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use domain::{NodeId, NodeProgress, RoutingState};

use super::Report;
use super::service::ServiceState;
use crate::resources::ResourceType;
use crate::stream::{Published, Stream};

impl ServiceState {
    /// The report about the service. Settles it, and takes the effective wish for good, when
    /// every stream has acknowledged all of it and no node is away.
    pub(super) fn report<'a>(
        &mut self,
        streams: impl Iterator<Item = &'a Stream> + Clone,
        away: &BTreeSet<NodeId>,
        published: &Published,
    ) -> Report {
        let complete = self.is_complete();
        let mut nodes: BTreeMap<NodeId, NodeProgress> = BTreeMap::new();
        let connected = streams
            .clone()
            .filter(|stream| ResourceType::ALL.into_iter().any(|kind| stream.wants(kind)));
        for stream in connected {
            let progress = self.progress(stream, published, complete);
            match nodes.entry(stream.node.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(progress);
                }
                // A node with two streams is as far as the one that is behind.
                Entry::Occupied(mut entry) => {
                    if rank(&progress) > rank(entry.get()) {
                        entry.insert(progress);
                    }
                }
            }
        }
        for node in away {
            nodes.entry(node.clone()).or_insert(NodeProgress::Away);
        }
        // One that is back without its routes is not back yet.
        for (node, progress) in &mut nodes {
            if away.contains(node) && *progress == NodeProgress::Applied {
                *progress = NodeProgress::Away;
            }
        }
        let applied = complete && nodes.values().all(|p| *p == NodeProgress::Applied);
        self.settled = applied;
        if applied {
            self.retired.clear();
            if !nodes.is_empty() {
                self.last_good.clone_from(&self.effective);
            }
        }
        let mut report = self.verdict(nodes, applied);
        for stream in streams {
            // Shown, but no routing waits for it: a node without its listener has no traffic.
            if let Some(reason) = stream.last_refusal(ResourceType::Listener) {
                report.nodes.insert(
                    stream.node.clone(),
                    rejected(ResourceType::Listener, reason),
                );
            }
        }
        report
    }

    fn verdict(&self, mut nodes: BTreeMap<NodeId, NodeProgress>, applied: bool) -> Report {
        let revision = self.wanted.as_ref().map_or(0, |wish| wish.input.revision());
        let refused = |progress: &NodeProgress| matches!(progress, NodeProgress::Rejected { .. });
        if let Some(pin) = &self.pin {
            let waiting = NodeProgress::Waiting {
                types: vec![pin.kind.short_name().to_owned()],
            };
            for progress in nodes.values_mut().filter(|p| **p == NodeProgress::Applied) {
                // It runs the last good one, not the revision.
                progress.clone_from(&waiting);
            }
            nodes.insert(pin.node.clone(), rejected(pin.kind, &pin.reason));
        }
        let state = if self.pin.is_some() || nodes.values().any(refused) {
            RoutingState::Rejected
        } else if applied {
            RoutingState::Applied
        } else {
            RoutingState::Pending
        };
        Report {
            revision,
            state,
            nodes,
        }
    }

    pub(super) fn progress(
        &self,
        stream: &Stream,
        published: &Published,
        complete: bool,
    ) -> NodeProgress {
        if let Some(refused) = self.refused_by(stream, published) {
            return refused;
        }
        let mut types = self.missing(stream, published);
        if !complete {
            let effective = self
                .effective
                .as_ref()
                .map(|wish| &wish.resources.virtual_host);
            let is_routed = self.routed.as_ref() == effective;
            let routes = ResourceType::Route.short_name();
            if !is_routed && !types.iter().any(|kind| kind == routes) {
                // They wait for what is missing, here or elsewhere.
                types.push(routes.to_owned());
            } else if types.is_empty() {
                // The node has all that is published; the rest waits for others.
                types.push(ResourceType::Cluster.short_name().to_owned());
            }
        }
        if types.is_empty() {
            NodeProgress::Applied
        } else {
            NodeProgress::Waiting { types }
        }
    }

    /// What is published for the service and refused by the node.
    fn refused_by(&self, stream: &Stream, published: &Published) -> Option<NodeProgress> {
        let routes = (ResourceType::Route, &published.routes);
        let clusters = self.endpoints.keys().filter_map(|name| {
            published
                .clusters
                .get(name)
                .map(|resource| (ResourceType::Cluster, resource))
        });
        let endpoints = self.endpoints.keys().filter_map(|name| {
            published
                .endpoints
                .get(name)
                .map(|resource| (ResourceType::Endpoint, resource))
        });
        std::iter::once(routes)
            .chain(clusters)
            .chain(endpoints)
            .find_map(|(kind, resource)| {
                let reason = stream.refusal(kind, &resource.name, resource.version)?;
                Some(rejected(kind, reason))
            })
    }

    /// Types of which the node has not acknowledged everything.
    fn missing(&self, stream: &Stream, published: &Published) -> Vec<String> {
        let lacks_cluster = self.endpoints.keys().any(|name| {
            let wanted = published
                .clusters
                .get(name)
                .map(|resource| resource.version);
            stream.follows(ResourceType::Cluster, name)
                && stream.acknowledged(ResourceType::Cluster, name) != wanted
        });
        let keeps_cluster = self
            .retired
            .iter()
            .any(|name| stream.may_have(ResourceType::Cluster, name));
        let lacks_endpoints = self
            .endpoints
            .keys()
            .any(|name| !stream.has_endpoints_of(name, published));
        let lacks_routes = !self.has_routes(stream, published);
        [
            (ResourceType::Cluster, lacks_cluster || keeps_cluster),
            (ResourceType::Endpoint, lacks_endpoints),
            (ResourceType::Route, lacks_routes),
        ]
        .into_iter()
        .filter(|(_, lacks)| *lacks)
        .map(|(kind, _)| kind.short_name().to_owned())
        .collect()
    }
}

fn rejected(kind: ResourceType, reason: &str) -> NodeProgress {
    NodeProgress::Rejected {
        resource_type: kind.short_name().to_owned(),
        reason: reason.to_owned(),
    }
}

const fn rank(progress: &NodeProgress) -> u8 {
    match progress {
        NodeProgress::Applied => 0,
        NodeProgress::Waiting { .. } => 1,
        NodeProgress::Away => 2,
        NodeProgress::Rejected { .. } => 3,
    }
}
