//! What a stream can be told: what is published and visible to its node, the node's own listener,
//! and clusters that are gone but that the client still routes to.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::NodeId;

use crate::resources::{Resource, ResourceType};
use crate::stream::published::Published;

/// What a stream can be told.
#[derive(Clone, Copy)]
pub(in crate::stream) struct View<'a> {
    pub(in crate::stream) published: &'a Published,
    pub(in crate::stream) node: &'a NodeId,
    pub(in crate::stream) listener: Option<&'a Arc<Resource>>,
    /// Clusters that are gone, kept for a client that came back until it has the new routes.
    pub(in crate::stream) kept: &'a BTreeMap<Arc<str>, Arc<Resource>>,
}

impl<'a> View<'a> {
    pub(in crate::stream) fn get(
        self,
        kind: ResourceType,
        name: &str,
    ) -> Option<&'a Arc<Resource>> {
        match kind {
            ResourceType::Listener => self
                .listener
                .filter(|listener| *listener.name == *name)
                .or_else(|| self.published.visible(kind, name, self.node)),
            ResourceType::Secret if !may_have_secret(self.node, name) => None,
            ResourceType::Cluster => self
                .published
                .visible(kind, name, self.node)
                .or_else(|| self.kept.get(name)),
            ResourceType::Endpoint | ResourceType::Route | ResourceType::Secret => {
                self.published.visible(kind, name, self.node)
            }
        }
    }

    /// Names of all that a client gets which asks for everything of a type.
    pub(in crate::stream) fn names(self, kind: ResourceType) -> Vec<Arc<str>> {
        let visible = |name: &&Arc<str>| {
            !self.published.holds_any(kind)
                || self.published.visible(kind, name, self.node).is_some()
        };
        let published = self.published.map(kind).keys().filter(visible).cloned();
        match kind {
            ResourceType::Cluster => {
                let is_back =
                    |name: &&Arc<str>| self.published.visible(kind, name, self.node).is_some();
                let kept = self.kept.keys().filter(|name| !is_back(name)).cloned();
                published.chain(kept).collect()
            }
            ResourceType::Listener => {
                let own = self.listener.map(|listener| Arc::clone(&listener.name));
                published.chain(own).collect()
            }
            ResourceType::Route => {
                let all = Arc::clone(&self.published.routes.name);
                published.chain(std::iter::once(all)).collect()
            }
            ResourceType::Secret => published
                .filter(|name| may_have_secret(self.node, name))
                .collect(),
            ResourceType::Endpoint => published.collect(),
        }
    }

    /// The name as it is stored already, so that streams share it.
    pub(super) fn intern(self, kind: ResourceType, name: &str) -> Arc<str> {
        let known = self.published.map(kind).get_key_value(name);
        known.map_or_else(|| Arc::from(name), |(name, _)| Arc::clone(name))
    }

    /// Generation of the routes that the node sees.
    pub(super) fn generation(self) -> u64 {
        self.published.generation_for(self.node)
    }
}

/// Whether a node may have a secret: authorities are for everybody, certificates and keys only for
/// the node of that name.
pub(in crate::stream) fn may_have_secret(node: &NodeId, name: &str) -> bool {
    name.strip_suffix(".ca").is_some()
        || name == node.as_str()
        || name
            .strip_prefix(node.as_str())
            .is_some_and(|rest| rest.starts_with('/'))
}
