//! What a stream can be told: what is published, and the node's own listener.

use std::sync::Arc;

use crate::resources::{Resource, ResourceType};
use crate::stream::published::Published;

/// What a stream can be told.
#[derive(Clone, Copy)]
pub(in crate::stream) struct View<'a> {
    pub(in crate::stream) published: &'a Published,
    pub(in crate::stream) listener: Option<&'a Arc<Resource>>,
}

impl<'a> View<'a> {
    pub(super) fn get(self, kind: ResourceType, name: &str) -> Option<&'a Arc<Resource>> {
        match kind {
            ResourceType::Cluster => self.published.clusters.get(name),
            ResourceType::Endpoint => self.published.endpoints.get(name),
            ResourceType::Listener => self.listener.filter(|listener| *listener.name == *name),
            ResourceType::Route => {
                Some(&self.published.routes).filter(|routes| *routes.name == *name)
            }
        }
    }

    pub(super) fn names(self, kind: ResourceType) -> Vec<Arc<str>> {
        match kind {
            ResourceType::Cluster => self.published.clusters.keys().cloned().collect(),
            ResourceType::Endpoint => self.published.endpoints.keys().cloned().collect(),
            ResourceType::Listener => self
                .listener
                .iter()
                .map(|listener| Arc::clone(&listener.name))
                .collect(),
            ResourceType::Route => vec![Arc::clone(&self.published.routes.name)],
        }
    }
}
