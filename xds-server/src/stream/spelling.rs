//! How a client spells the names that it asks for: inside, a resource has its plain name; outside, the
//! one by which the client asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::message::{Request, Response};
use crate::resources::xdstp::{plain_name, renamed};
use crate::resources::{ResourceType, Version};

/// Names that the client spells as URLs, by type and plain name.
#[derive(Debug, Default)]
pub(super) struct Spelling(BTreeMap<(ResourceType, Arc<str>), Arc<str>>);

impl Spelling {
    /// Makes the names of a request plain.
    pub(super) fn read(&mut self, kind: ResourceType, request: &mut Request) {
        match request {
            Request::World { names, .. } => {
                if !self.0.is_empty() {
                    self.0.retain(|(of, _), _| *of != kind);
                }
                self.learn(kind, names);
            }
            Request::Delta {
                subscribe,
                unsubscribe,
                initial,
                ..
            } => {
                self.learn(kind, subscribe);
                for name in unsubscribe {
                    if let Some(plain) = plain_name(kind, name) {
                        self.0.remove(&(kind, Arc::from(&*plain)));
                        *name = plain;
                    }
                }
                for (name, _) in initial {
                    if let Some(plain) = plain_name(kind, name) {
                        *name = plain;
                    }
                }
            }
        }
    }

    fn learn(&mut self, kind: ResourceType, names: &mut [String]) {
        for name in names {
            if let Some(plain) = plain_name(kind, name) {
                let spelled = std::mem::replace(name, plain);
                self.0
                    .insert((kind, Arc::from(&**name)), Arc::from(spelled));
            } else if !self.0.is_empty() {
                // It is asked for by its plain name now.
                self.0.remove(&(kind, Arc::from(&**name)));
            }
        }
    }

    /// Gives the resources of a response the names by which the client asked for them.
    pub(super) fn write(&self, response: &mut Response) {
        if self.0.is_empty() {
            return;
        }
        let kind = response.kind;
        let mut differs = false;
        for resource in &mut response.resources {
            if let Some(name) = self.0.get(&(kind, Arc::clone(&resource.name))) {
                *resource = renamed(kind, resource, name);
                differs = true;
            }
        }
        for name in &mut response.removed {
            if let Some(spelled) = self.0.get(&(kind, Arc::clone(name))) {
                *name = Arc::clone(spelled);
            }
        }
        if differs {
            let parts = response.resources.iter();
            response.version = Version::of_all(parts.map(|part| (&*part.name, part.version)));
        }
    }
}
