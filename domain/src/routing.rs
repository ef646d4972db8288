//! What the migrator asks of the data planes, and what they have applied.
//!
//! The migrator writes a [`Routing`] per service; the control plane turns it into clusters,
//! endpoints and routes, pushes them make-before-break, and writes back a [`RoutingStatus`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, MigrationId, NodeId, ServiceId};
use crate::inventory::Endpoint;
use crate::traffic::Side;
use crate::units::{Epoch, Timestamp};
use crate::weight::WeightSplit;

/// How a service's traffic shall flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// The service.
    pub service: ServiceId,
    /// Grows with every change; what was applied is said in terms of it.
    pub revision: u64,
    /// Who asked for it.
    pub epoch: Epoch,
    /// The instance that is split between two replicas, if one is under migration.
    pub migration: Option<MigrationRouting>,
}

/// The instance under migration and its split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationRouting {
    /// The migration.
    pub migration: MigrationId,
    /// The instance; it leaves the service's shared cluster for two clusters of its own.
    pub instance: InstanceId,
    /// Where the original answers.
    pub original: Endpoint,
    /// Where the shadow answers.
    pub shadow: Endpoint,
    /// The split of this instance's share.
    pub split: WeightSplit,
    /// Whether safe requests to the original are copied to the shadow (answers are dropped).
    pub mirror: bool,
    /// Whether requests that change something wait in the data planes.
    #[serde(default, skip_serializing_if = "Hold::is_off")]
    pub hold: Hold,
}

/// Whether requests that change something wait in the data planes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// They go where the split says.
    #[default]
    Off,
    /// They wait, in bounded number and time; those that only read go on.
    Writes,
}

impl Hold {
    /// Whether nothing waits.
    pub const fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }
}

/// Name of the cluster of a service.
pub fn service_cluster(service: &ServiceId) -> String {
    service.to_string()
}

/// Name of the temporary cluster of one side of an instance under migration: `S~i~original` and
/// `S~i~shadow`. `~` cannot occur in an identifier, so names never collide.
pub fn side_cluster(service: &ServiceId, instance: &InstanceId, side: Side) -> String {
    format!("{service}~{instance}~{}", side.name())
}

/// Id of what one control plane says of a service: several may serve the same one. A control plane
/// without a name is the only one. `~` cannot occur in an identifier.
pub fn word_id(service: &ServiceId, server: &str) -> String {
    if server.is_empty() {
        service.to_string()
    } else {
        format!("{service}~{server}")
    }
}

/// How far one node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodeProgress {
    /// Has acknowledged everything of the revision.
    Applied,
    /// Has not acknowledged these resource types yet.
    Waiting {
        /// Short names of the types, as "CDS".
        types: Vec<String>,
    },
    /// Has lost its connection, and goes on with what it had.
    Away,
    /// Has refused a resource.
    Rejected {
        /// Short name of the type.
        resource_type: String,
        /// The node's own words.
        reason: String,
    },
}

/// How far a routing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoutingState {
    /// Being pushed, or not acknowledged by everybody yet.
    Pending,
    /// Every known node is connected and has acknowledged all of it, and what it replaced is gone.
    Applied,
    /// A node has refused it; the last good one stays in force.
    Rejected,
}

/// What the data planes have applied of a service's routing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingStatus {
    /// The service.
    pub service: ServiceId,
    /// The newest revision the control plane works on.
    pub revision: u64,
    /// How far it is.
    pub state: RoutingState,
    /// Per known node, connected or away.
    pub nodes: BTreeMap<NodeId, NodeProgress>,
    /// When this was written.
    pub at: Timestamp,
}

/// A node that the control plane has met and not given up, so that the next one waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownNode {
    /// Its name.
    pub node: NodeId,
    /// When a control plane last said that it is connected.
    pub since: Timestamp,
}

impl RoutingStatus {
    /// What several control planes say together: each node as the one says that it is connected to.
    /// `known` are the nodes that anybody still waits for; a control plane that has gone may have
    /// left word of others.
    pub fn merge(words: Vec<Self>, known: &BTreeSet<NodeId>) -> Option<Self> {
        if words.len() < 2 {
            return words.into_iter().next();
        }
        let mut nodes: BTreeMap<NodeId, (u64, NodeProgress)> = BTreeMap::new();
        for word in &words {
            for (node, progress) in word.nodes.iter().filter(|(node, _)| known.contains(*node)) {
                let rank = |revision: u64, progress: &NodeProgress| {
                    (*progress != NodeProgress::Away, revision)
                };
                let before = nodes.get(node).map(|(revision, p)| rank(*revision, p));
                if before.is_none_or(|before| before < rank(word.revision, progress)) {
                    nodes.insert(node.clone(), (word.revision, progress.clone()));
                }
            }
        }
        let newest = words.iter().map(|word| word.revision).max().unwrap_or(0);
        let behind = nodes.values().map(|(revision, _)| *revision).min();
        let refused = |(_, p): &(u64, NodeProgress)| matches!(p, NodeProgress::Rejected { .. });
        let state = if nodes.values().any(refused) {
            RoutingState::Rejected
        } else if nodes.values().all(|(_, p)| *p == NodeProgress::Applied) {
            RoutingState::Applied
        } else {
            RoutingState::Pending
        };
        let at = words.iter().map(|word| word.at).max()?;
        let service = words.into_iter().next()?.service;
        Some(Self {
            service,
            revision: behind.unwrap_or(newest),
            state,
            nodes: nodes.into_iter().map(|(n, (_, p))| (n, p)).collect(),
            at,
        })
    }

    /// Whether every known node has applied `revision` or a later one.
    pub fn has_applied(&self, revision: u64) -> bool {
        self.state == RoutingState::Applied && self.revision >= revision
    }
}

/// Proof that nothing reaches the original any more: every known node acknowledged a routing
/// without weight for it, and nothing is in progress there. Only [`ZeroTraffic::prove`] makes one,
/// and destroying an original takes one.
///
/// ```compile_fail
/// // It cannot be made up.
/// let proof = foreshadow_domain::ZeroTraffic { revision: 1, forced: false };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZeroTraffic {
    revision: u64,
    forced: bool,
}

impl ZeroTraffic {
    /// A proof, if `status` shows that `routing` (which must give the original nothing) is applied
    /// everywhere, and `in_progress` requests on the original are 0, or the drain deadline has
    /// passed and the policy lets go of what is left.
    pub fn prove(
        routing: &Routing,
        status: &RoutingStatus,
        in_progress: u64,
        deadline: DrainDeadline,
    ) -> Option<Self> {
        let split = routing.migration.as_ref()?.split;
        let applied = split == WeightSplit::SHADOW && status.has_applied(routing.revision);
        let forced = in_progress > 0;
        let drained = !forced || deadline == DrainDeadline::Passed;
        (applied && drained).then_some(Self {
            revision: routing.revision,
            forced,
        })
    }

    /// The revision whose acknowledgements prove it.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether requests were still in progress when the drain deadline passed.
    pub const fn forced(&self) -> bool {
        self.forced
    }
}

/// Whether requests may still be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainDeadline {
    /// There is time left.
    Ahead,
    /// The time is over; the policy lets go of what is left.
    Passed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BasisPoints;

    fn routing(shadow: u32) -> Routing {
        let endpoint = |port| Endpoint(([127, 0, 0, 1], port).into());
        Routing {
            service: ServiceId::new("s").unwrap(),
            revision: 7,
            epoch: Epoch(1),
            migration: Some(MigrationRouting {
                migration: MigrationId::new("m").unwrap(),
                instance: InstanceId::new("i").unwrap(),
                original: endpoint(1),
                shadow: endpoint(2),
                split: WeightSplit::shadow_share(BasisPoints::new(shadow).unwrap()),
                mirror: false,
                hold: Hold::Off,
            }),
        }
    }

    fn status(revision: u64, state: RoutingState) -> RoutingStatus {
        RoutingStatus {
            service: ServiceId::new("s").unwrap(),
            revision,
            state,
            nodes: BTreeMap::new(),
            at: Timestamp(0),
        }
    }

    #[test]
    fn words_of_two_control_planes_are_merged_node_by_node() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let word = |revision, nodes: &[(&str, NodeProgress)]| RoutingStatus {
            nodes: nodes
                .iter()
                .map(|(name, progress)| (node(name), progress.clone()))
                .collect(),
            ..status(revision, RoutingState::Pending)
        };
        let known = BTreeSet::from([node("one"), node("two")]);
        let merge = |words: Vec<RoutingStatus>| RoutingStatus::merge(words, &known).unwrap();
        let (applied, away) = (NodeProgress::Applied, NodeProgress::Away);
        // Each knows the other's node as one that is away.
        let first = word(7, &[("one", applied.clone()), ("two", away.clone())]);
        let second = word(7, &[("two", applied.clone()), ("one", away.clone())]);
        assert!(merge(vec![first.clone(), second.clone()]).has_applied(7));
        // One that is behind, or has gone with a node, holds the whole.
        let old = word(6, &[("two", applied.clone())]);
        let merged = merge(vec![first.clone(), old.clone()]);
        assert!(
            !merged.has_applied(7) && merged.has_applied(6),
            "{merged:?}"
        );
        let waits = NodeProgress::Waiting {
            types: vec!["RDS".to_owned()],
        };
        let busy = word(7, &[("two", waits)]);
        assert_eq!(
            merge(vec![first.clone(), busy, old]).state,
            RoutingState::Pending
        );
        let nobody = word(7, &[("one", away.clone()), ("two", away)]);
        assert_eq!(
            merge(vec![nobody.clone(), nobody]).state,
            RoutingState::Pending
        );
        let refuses = NodeProgress::Rejected {
            resource_type: "RDS".to_owned(),
            reason: "no".to_owned(),
        };
        let refused = merge(vec![first.clone(), word(7, &[("two", refuses)])]);
        assert_eq!(refused.state, RoutingState::Rejected);
        // What a control plane that has gone says of a node that nobody knows holds nothing.
        let stranger = word(3, &[("gone", applied)]);
        assert!(merge(vec![first, second, stranger]).has_applied(7));
        // One alone is believed as it is.
        let alone = status(7, RoutingState::Applied);
        assert_eq!(
            RoutingStatus::merge(vec![alone.clone()], &BTreeSet::new()),
            Some(alone)
        );
    }

    #[test]
    fn zero_traffic_needs_weight_acknowledgement_and_silence() {
        let applied = status(7, RoutingState::Applied);
        let prove = |weight, status: &RoutingStatus, busy, deadline| {
            ZeroTraffic::prove(&routing(weight), status, busy, deadline)
        };
        assert!(prove(10_000, &applied, 0, DrainDeadline::Ahead).is_some());
        assert!(prove(9_999, &applied, 0, DrainDeadline::Ahead).is_none());
        assert!(prove(10_000, &applied, 1, DrainDeadline::Ahead).is_none());
        assert!(prove(10_000, &applied, 1, DrainDeadline::Passed).is_some_and(|p| p.forced()));
        let early = status(6, RoutingState::Applied);
        assert!(prove(10_000, &early, 0, DrainDeadline::Ahead).is_none());
        let pending = status(7, RoutingState::Pending);
        assert!(prove(10_000, &pending, 0, DrainDeadline::Passed).is_none());
    }
}
