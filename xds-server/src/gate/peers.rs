//! What other control planes on the same store say.
//!
//! A node is connected to one of them. The others know it as one that is away, and must not wait for
//! it in vain: who it is connected to says how far it is. But it may come over at any moment with the
//! routes that it has there, so nothing that these name is taken away here before the other one says
//! that the node has the newer ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{NodeId, NodeProgress, RoutingStatus, ServiceId};

use crate::resources::ResourceType;

/// What another control plane says of a service: of the nodes that are connected to it, whether they
/// have the routes of the revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerWord {
    /// The revision that it works on.
    pub revision: u64,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, bool>,
}

impl PeerWord {
    /// What its record says.
    pub fn of(status: &RoutingStatus) -> Self {
        let nodes = status.nodes.iter().filter_map(|(node, progress)| {
            let has_routes = match progress {
                NodeProgress::Applied => true,
                NodeProgress::Waiting { types } => !types
                    .iter()
                    .any(|kind| kind == ResourceType::Route.short_name()),
                NodeProgress::Rejected { .. } => false,
                NodeProgress::Away => return None,
            };
            Some((node.clone(), has_routes))
        });
        Self {
            revision: status.revision,
            nodes: nodes.collect(),
        }
    }
}

#[derive(Debug)]
struct Heard {
    word: PeerWord,
    /// How many words had been heard before.
    after: u64,
}

/// What has been heard.
#[derive(Debug, Default)]
pub(super) struct Peers {
    words: BTreeMap<ServiceId, BTreeMap<Arc<str>, Heard>>,
    /// Nodes that some control plane is connected to, with the ticks until that is too long ago.
    met: BTreeMap<NodeId, u32>,
    count: u64,
    /// Nodes that have joined here, with the count at that time: what was heard of them before may be
    /// the last word of a control plane that has died.
    joined: BTreeMap<NodeId, u64>,
}

impl Peers {
    pub(super) fn hear(&mut self, service: &ServiceId, server: &str, word: Option<PeerWord>) {
        self.count += 1;
        let words = self.words.entry(service.clone()).or_default();
        match word {
            Some(word) => {
                let after = self.count;
                words.insert(Arc::from(server), Heard { word, after });
            }
            None => {
                words.remove(server);
            }
        }
        if words.is_empty() {
            self.words.remove(service);
        }
    }

    /// Nothing that was heard counts any more: all of it is about to be said again.
    pub(super) fn forget_all(&mut self) {
        self.words.clear();
        self.met.clear();
    }

    /// Some control plane has met a node. Whether that is news.
    pub(super) fn met(&mut self, node: NodeId, ticks: u32) -> bool {
        if ticks == 0 {
            self.met.remove(&node).is_some()
        } else {
            self.met.insert(node, ticks).is_none()
        }
    }

    /// A node has joined here.
    pub(super) fn joined(&mut self, node: &NodeId) {
        if !self.words.is_empty() {
            self.joined.insert(node.clone(), self.count);
        }
    }

    /// A tick has passed. Whether a node has not been met for too long.
    pub(super) fn tick(&mut self) -> bool {
        let before = self.met.len();
        self.met.retain(|_, left| {
            *left = left.saturating_sub(1);
            *left > 0
        });
        let met = &self.met;
        self.joined.retain(|node, _| met.contains_key(node));
        self.met.len() != before
    }

    fn counts(&self, node: &NodeId, heard: &Heard) -> bool {
        self.met.contains_key(node)
            && self
                .joined
                .get(node)
                .is_none_or(|count| heard.after > *count)
    }

    fn of<'a>(&'a self, service: &ServiceId) -> impl Iterator<Item = (&'a NodeId, u64, bool)> {
        let words = self
            .words
            .get(service)
            .into_iter()
            .flat_map(BTreeMap::values);
        words.flat_map(move |heard| {
            let revision = heard.word.revision;
            let nodes = heard.word.nodes.iter();
            nodes
                .filter(|(node, _)| self.counts(node, heard))
                .map(move |(node, has_routes)| (node, revision, *has_routes))
        })
    }

    /// Whether a node is connected to another control plane.
    pub(super) fn has(&self, service: &ServiceId, node: &NodeId) -> bool {
        self.words.contains_key(service) && self.of(service).any(|(other, ..)| other == node)
    }

    /// Whether a node that is connected to another control plane has the routes of a revision there.
    pub(super) fn has_routes(&self, service: &ServiceId, node: &NodeId, revision: u64) -> bool {
        self.words.contains_key(service)
            && self
                .of(service)
                .any(|(other, at, has)| other == node && has && at >= revision)
    }

    /// Nodes of other control planes that lack the routes of a revision.
    pub(super) fn lacking<'a>(
        &'a self,
        service: &'a ServiceId,
        revision: u64,
    ) -> impl Iterator<Item = &'a NodeId> {
        self.of(service)
            .filter(move |(node, ..)| !self.has_routes(service, node, revision))
            .map(|(node, ..)| node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (ServiceId, NodeId) {
        (ServiceId::new("shop").unwrap(), NodeId::new("n").unwrap())
    }

    fn word(revision: u64, has_routes: bool) -> PeerWord {
        let nodes = BTreeMap::from([(ids().1, has_routes)]);
        PeerWord { revision, nodes }
    }

    #[test]
    fn the_last_word_of_a_control_plane_that_died_does_not_count_once_its_node_has_come_over() {
        let (service, node) = ids();
        let mut peers = Peers::default();
        peers.hear(&service, "other", Some(word(3, true)));
        assert!(!peers.has(&service, &node), "nobody has met it lately");
        peers.met(node.clone(), 5);
        assert!(peers.has_routes(&service, &node, 3));
        assert!(!peers.has_routes(&service, &node, 4));
        assert_eq!(peers.lacking(&service, 4).count(), 1);
        peers.joined(&node);
        assert!(!peers.has(&service, &node));
        // It goes back, and the other one says so.
        peers.hear(&service, "other", Some(word(4, false)));
        assert!(peers.has(&service, &node) && !peers.has_routes(&service, &node, 4));
        for _ in 0..5 {
            peers.tick();
        }
        assert!(!peers.has(&service, &node));
    }

    #[test]
    fn a_node_that_waits_for_others_has_the_routes_and_one_that_waits_for_routes_does_not() {
        let waits = |kind: &str| NodeProgress::Waiting {
            types: vec![kind.to_owned()],
        };
        let node = |name: &str| NodeId::new(name).unwrap();
        let status = RoutingStatus {
            service: ids().0,
            revision: 7,
            state: domain::RoutingState::Pending,
            nodes: BTreeMap::from([
                (node("a"), waits("CDS")),
                (node("b"), waits("RDS")),
                (node("c"), NodeProgress::Away),
            ]),
            at: domain::Timestamp(0),
        };
        let word = PeerWord::of(&status);
        let known: Vec<(&str, bool)> = word
            .nodes
            .iter()
            .map(|(n, has)| (n.as_str(), *has))
            .collect();
        assert_eq!(known, [("a", true), ("b", false)]);
    }
}
