//! Which nodes there are, connected or not.
//!
//! A node that loses its stream goes on with the routes that it has: it may be partitioned from
//! us and still send requests to a replica that is about to be destroyed. So it counts as not
//! applied until it is back, or until it has been away for so long that it is taken for gone. The
//! names survive this process (see `edge`): otherwise a control plane that has just started would
//! know of nobody and call everything applied.

use std::collections::{BTreeMap, BTreeSet};

use domain::NodeId;

use crate::resources::ResourceType;
use crate::stream::Stream;

/// Types without which a node routes by what it had before.
const DECISIVE: [ResourceType; 2] = [ResourceType::Cluster, ResourceType::Route];

#[derive(Debug, Default)]
struct Known {
    /// Decisive types that it has asked for so far.
    wants: BTreeSet<ResourceType>,
    /// Ticks until it is forgotten; `None` while it is connected.
    left: Option<u32>,
}

/// The nodes that are known.
#[derive(Debug)]
pub(super) struct Roster {
    nodes: BTreeMap<NodeId, Known>,
    /// Those of them that are away.
    away: BTreeSet<NodeId>,
    patience: u32,
    /// Changes not taken yet: whether a node is known.
    news: BTreeMap<NodeId, bool>,
}

impl Roster {
    /// A roster that forgets a node `patience` ticks after it went away.
    pub(super) const fn new(patience: u32) -> Self {
        Self {
            nodes: BTreeMap::new(),
            away: BTreeSet::new(),
            patience,
            news: BTreeMap::new(),
        }
    }

    /// A node that was known before this process began.
    pub(super) fn expect(&mut self, node: NodeId) {
        let known = Known {
            wants: DECISIVE.into_iter().collect(),
            left: Some(self.patience),
        };
        self.away.insert(node.clone());
        self.nodes.insert(node, known);
    }

    /// Takes in what the streams of a node ask for now. Whether it is connected with that.
    pub(super) fn look<'a>(
        &mut self,
        node: &NodeId,
        streams: impl Iterator<Item = &'a Stream>,
    ) -> bool {
        let streams: Vec<_> = streams.collect();
        let wants = |kind: &ResourceType| streams.iter().any(|stream| stream.wants(*kind));
        let now: BTreeSet<_> = DECISIVE.into_iter().filter(wants).collect();
        if now.is_empty() && !self.nodes.contains_key(node) {
            return false;
        }
        let known = self.nodes.entry(node.clone()).or_insert_with(|| {
            self.news.insert(node.clone(), true);
            Known::default()
        });
        if now.is_superset(&known.wants) {
            known.wants = now;
            known.left = None;
            self.away.remove(node);
            return true;
        }
        if known.left.is_none() {
            known.left = Some(self.patience);
            self.away.insert(node.clone());
        }
        false
    }

    /// A tick has passed. Whether a node was forgotten.
    pub(super) fn tick(&mut self) -> bool {
        let before = self.nodes.len();
        self.nodes.retain(|node, known| {
            let Some(left) = &mut known.left else {
                return true;
            };
            *left = left.saturating_sub(1);
            if *left == 0 {
                tracing::warn!(%node, "away for too long: it is not waited for any more");
                self.news.insert(node.clone(), false);
                self.away.remove(node);
            }
            *left > 0
        });
        self.nodes.len() != before
    }

    /// Nodes that are away.
    pub(super) fn away(&self) -> BTreeSet<NodeId> {
        self.away.clone()
    }

    /// The same, without a copy.
    pub(super) fn all_away(&self) -> impl Iterator<Item = &NodeId> {
        self.away.iter()
    }

    /// Whether a node is away.
    pub(super) fn is_away(&self, node: &NodeId) -> bool {
        self.away.contains(node)
    }

    /// How many nodes are away.
    pub(super) fn count_away(&self) -> usize {
        self.away.len()
    }

    /// Whether a node is known.
    pub(super) fn knows(&self, node: &NodeId) -> bool {
        self.nodes.contains_key(node)
    }

    /// Nodes that became known (`true`) or were forgotten since the last call.
    pub(super) fn take_news(&mut self) -> BTreeMap<NodeId, bool> {
        std::mem::take(&mut self.news)
    }
}
