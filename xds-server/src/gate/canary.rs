//! What is new goes to one node first.
//!
//! A resource in a version that nobody has acknowledged yet is *held*: one node, the canary, sees
//! it, and everybody else once it has been acknowledged. A refusal then concerns one node, and
//! nobody else ever sees what was refused. The canary is the node that answered last. One that does
//! not answer is joined by another, and after [`MAX_CANARIES`] of them everybody gets it: a node
//! that is silent must not hold up the rest.
//!
//! What is urgent (less weight for a shadow, and whatever requests wait for) and what takes away is
//! never held.

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::NodeId;

use super::Gate;
use super::service::{Change, Changes};
use crate::resources::{ResourceType, Version};
use crate::stream::{Held, Stream};

/// Ticks until a canary that does not answer is joined by another.
const CANARY_TICKS: u32 = 2;
/// Nodes that are tried before everybody gets it.
const MAX_CANARIES: usize = 3;
/// Most versions that are remembered as good.
const MAX_PROVEN: usize = 20_000;

/// Versions that some node has acknowledged.
#[derive(Debug, Default)]
pub(super) struct Proven(BTreeSet<(ResourceType, Version)>);

impl Proven {
    fn add(&mut self, kind: ResourceType, version: Version) {
        if self.0.len() >= MAX_PROVEN {
            self.0.clear();
        }
        self.0.insert((kind, version));
    }

    fn has(&self, kind: ResourceType, version: Version) -> bool {
        self.0.contains(&(kind, version))
    }
}

impl Gate {
    /// Tells the streams of what changed, or only the canaries of it.
    pub(super) fn tell(&mut self, changes: &Changes) {
        for (kind, name, change) in changes.iter() {
            self.tell_of(kind, name, change);
        }
    }

    fn tell_of(&mut self, kind: ResourceType, name: &Arc<str>, change: &Change) {
        let version = self.published.get(kind, name).map(|now| now.version);
        let before = match self.published.held(kind, name) {
            Some(held) => held.previous.clone(),
            None => change.previous.clone(),
        };
        let was_held = self.published.release(kind, name);
        let generation = was_held
            .as_ref()
            .map_or(change.generation, |held| held.generation);
        let new = version.filter(|&version| {
            let changed = before.as_ref().map(|before| before.version) != Some(version);
            changed && !change.urgent && !self.proven.has(kind, version)
        });
        if let Some(version) = new
            && let Some(canary) = self.canary_for(kind, name, version)
        {
            let mut canaries = was_held.map(|held| held.canaries).unwrap_or_default();
            canaries.insert(canary);
            let held = Held {
                canaries: canaries.clone(),
                previous: before,
                generation,
                ticks: 0,
            };
            self.published.hold(kind, Arc::clone(name), held);
            self.notify(kind, name, |stream| canaries.contains(&stream.node));
        } else {
            self.notify(kind, name, |_| true);
        }
    }

    /// The node that shall have it first; `None` when there is nobody to spare.
    fn canary_for(&self, kind: ResourceType, name: &str, version: Version) -> Option<NodeId> {
        // The endpoints of a cluster go to the node that got the cluster.
        if kind == ResourceType::Endpoint
            && let Some(held) = self.published.held(ResourceType::Cluster, name)
        {
            return held.canaries.iter().next().cloned();
        }
        let fits = |stream: &Stream| {
            stream.follows(kind, name) && stream.refusal(kind, name, version).is_none()
        };
        let first = self.streams.values().find(|stream| fits(stream))?;
        let other = self
            .streams
            .values()
            .find(|stream| fits(stream) && stream.node != first.node);
        other?;
        let answered = self
            .answered_last
            .as_ref()
            .filter(|node| self.streams_of(node).any(fits));
        Some(answered.unwrap_or(&first.node).clone())
    }

    fn streams_of<'a>(&'a self, node: &NodeId) -> impl Iterator<Item = &'a Stream> + use<'a> {
        let ids = self.by_node.get(node).into_iter().flatten();
        ids.filter_map(|id| self.streams.get(id))
    }

    fn notify(&mut self, kind: ResourceType, name: &Arc<str>, who: impl Fn(&Stream) -> bool) {
        for (&id, stream) in &mut self.streams {
            if who(stream) && stream.changed(kind, name) {
                self.ready.insert(id);
            }
        }
    }

    /// Lets everybody see what a canary has acknowledged, and what nobody is left to try.
    pub(super) fn release_proven(&mut self) {
        let mut due = Vec::new();
        for (kind, name, held) in self.published.all_held() {
            let Some(now) = self.published.get(kind, name) else {
                due.push((kind, Arc::clone(name), None));
                continue;
            };
            let mut present = false;
            let acknowledged = held.canaries.iter().any(|node| {
                self.streams_of(node).any(|stream| {
                    present |= stream.follows(kind, name);
                    stream.acknowledged(kind, name) == Some(now.version)
                })
            });
            // The endpoints of a new cluster are asked for a moment later than the cluster.
            let waits = present
                || (kind == ResourceType::Endpoint
                    && self.published.held(ResourceType::Cluster, name).is_some());
            if acknowledged {
                due.push((kind, Arc::clone(name), Some(now.version)));
            } else if !waits {
                due.push((kind, Arc::clone(name), None));
            }
        }
        for (kind, name, proven) in due {
            let Some(held) = self.published.release(kind, &name) else {
                continue;
            };
            if let Some(version) = proven {
                self.proven.add(kind, version);
                self.notify(kind, &name, |stream| !held.canaries.contains(&stream.node));
                continue;
            }
            // Its canary is gone: another one.
            let change = Change {
                previous: held.previous,
                generation: held.generation,
                urgent: false,
            };
            self.tell_of(kind, &name, &change);
        }
    }

    /// A tick has passed: canaries that do not answer are joined by others.
    pub(super) fn tick_canaries(&mut self) {
        let mut late = Vec::new();
        for (kind, name, held) in self.published.all_held() {
            if held.ticks + 1 >= CANARY_TICKS {
                late.push((kind, Arc::clone(name), held.canaries.clone()));
            }
        }
        let all: Vec<_> = self
            .published
            .all_held()
            .map(|(kind, name, _)| (kind, Arc::clone(name)))
            .collect();
        for (kind, name) in all {
            if let Some(held) = self.published.held_mut(kind, &name) {
                held.ticks += 1;
            }
        }
        for (kind, name, canaries) in late {
            let next = self.streams.values().find(|stream| {
                !canaries.contains(&stream.node)
                    && (stream.follows(kind, &name)
                        || (kind == ResourceType::Endpoint
                            && stream.follows(ResourceType::Cluster, &name)))
                    && stream.is_idle(kind)
            });
            let next = next
                .map(|stream| stream.node.clone())
                .filter(|_| canaries.len() < MAX_CANARIES);
            if let Some(node) = next {
                if let Some(held) = self.published.held_mut(kind, &name) {
                    held.ticks = 0;
                    held.canaries.insert(node.clone());
                }
                self.notify(kind, &name, |stream| stream.node == node);
            } else {
                self.published.release(kind, &name);
                self.notify(kind, &name, |stream| !canaries.contains(&stream.node));
            }
        }
    }
}
