//! From totals per node to what was added on both sides since the last look.

use std::collections::BTreeMap;

use domain::{Counts, LatencyHistogram, NodeId, Traffic};
use serde::{Deserialize, Serialize};

/// What was counted on both sides since the last look.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Increment {
    /// On the original.
    pub original: Counts,
    /// On the shadow.
    pub shadow: Counts,
    /// First requests of sessions, where the service is sticky and data planes count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Box<Sides>>,
    /// What could not be counted, in words. There is no verdict for the shadow on such a look.
    pub trouble: Option<String>,
}

/// Counts of both sides.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sides {
    /// On the original.
    pub original: Counts,
    /// On the shadow.
    pub shadow: Counts,
}

impl Sides {
    /// Adds others.
    pub(super) fn add(&mut self, original: &Counts, shadow: &Counts) {
        self.original.merge(original);
        self.shadow.merge(shadow);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    session: u64,
    #[serde(default)]
    reports: u64,
    original: Counts,
    shadow: Counts,
    #[serde(default)]
    sessions: Sides,
}

/// The totals of every node at the last look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    original: String,
    shadow: String,
    nodes: BTreeMap<NodeId, Seen>,
}

impl Ledger {
    /// Begins with what has been counted already; it is not part of any increment.
    pub fn begin(original: String, shadow: String, start: Option<&Traffic>) -> Self {
        let mut ledger = Self {
            original,
            shadow,
            nodes: BTreeMap::new(),
        };
        if let Some(start) = start {
            let _ = ledger.take(start);
        }
        ledger
    }

    /// What was added since the last call. Totals begin anew with a node's session. Totals that
    /// went back within one session are refused: what is between them is unknown.
    pub fn take(&mut self, traffic: &Traffic) -> Increment {
        let (mut sum, mut sessions) = (Increment::default(), Sides::default());
        for (node, state) in &traffic.nodes {
            let of = |counts: &BTreeMap<String, Counts>, cluster| {
                counts.get(cluster).cloned().unwrap_or_default()
            };
            let now = Seen {
                session: state.session,
                reports: state.reports,
                original: of(&state.clusters, &self.original),
                shadow: of(&state.clusters, &self.shadow),
                sessions: Sides {
                    original: of(&state.sessions, &self.original),
                    shadow: of(&state.sessions, &self.shadow),
                },
            };
            let before = self.nodes.get(node).filter(|b| b.session == now.session);
            match before {
                // An older word than the one that was seen: all of it is counted.
                Some(before) if now.reports < before.reports => continue,
                None => {
                    sum.original.merge(&now.original);
                    sum.shadow.merge(&now.shadow);
                    sessions.add(&now.sessions.original, &now.sessions.shadow);
                }
                Some(before)
                    if fell(&now.original, &before.original)
                        || fell(&now.shadow, &before.shadow)
                        || fell(&now.sessions.original, &before.sessions.original)
                        || fell(&now.sessions.shadow, &before.sessions.shadow) =>
                {
                    sum.trouble = Some(format!("the counts of node {node} went back"));
                }
                Some(before) => {
                    sum.original.merge(&now.original.since(&before.original));
                    sum.shadow.merge(&now.shadow.since(&before.shadow));
                    let (now, before) = (&now.sessions, &before.sessions);
                    let original = now.original.since(&before.original);
                    sessions.add(&original, &now.shadow.since(&before.shadow));
                }
            }
            self.nodes.insert(node.clone(), now);
        }
        sum.sessions = (sessions != Sides::default()).then(|| Box::new(sessions));
        sum
    }
}

fn fell(now: &Counts, before: &Counts) -> bool {
    let less = |now: &LatencyHistogram, before: &LatencyHistogram| {
        let mut pairs = now.counts().iter().zip(before.counts());
        pairs.any(|(now, before)| now < before)
    };
    now.success < before.success || now.error < before.error || less(&now.latency, &before.latency)
}

#[cfg(test)]
mod tests {
    use domain::{NodeTraffic, ServiceId, Timestamp};

    use super::*;

    fn traffic(session: u64, success: u64, error: u64) -> Traffic {
        let counts = Counts {
            success,
            error,
            ..Counts::default()
        };
        let node = NodeTraffic {
            session,
            clusters: BTreeMap::from([("s".to_owned(), counts)]),
            ..NodeTraffic::default()
        };
        Traffic {
            service: ServiceId::new("svc").unwrap(),
            at: Timestamp::default(),
            nodes: BTreeMap::from([(NodeId::new("n").unwrap(), node)]),
        }
    }

    fn begin(start: &Traffic) -> Ledger {
        Ledger::begin("o".to_owned(), "s".to_owned(), Some(start))
    }

    #[test]
    fn what_was_counted_before_the_stage_is_left_out() {
        let mut ledger = begin(&traffic(1, 100, 50));
        let more = ledger.take(&traffic(1, 103, 51));
        assert_eq!((more.shadow.success, more.shadow.error), (3, 1));
        assert_eq!(ledger.take(&traffic(1, 103, 51)), Increment::default());
    }

    #[test]
    fn a_new_session_begins_at_zero() {
        let mut ledger = begin(&traffic(1, 100, 50));
        let more = ledger.take(&traffic(2, 4, 1));
        assert_eq!((more.shadow.success, more.shadow.error), (4, 1));
        assert_eq!(more.trouble, None);
    }

    #[test]
    fn counts_that_go_back_are_refused_and_named() {
        let mut ledger = begin(&traffic(1, 100, 50));
        let more = ledger.take(&traffic(1, 120, 2));
        assert_eq!(more.shadow, Counts::default());
        assert!(more.trouble.unwrap().contains("node n went back"));
        assert_eq!(ledger.take(&traffic(1, 121, 2)).shadow.success, 1);
    }

    #[test]
    fn sessions_are_told_apart_from_requests_and_begin_anew_with_a_node() {
        let with = |session, requests, sessions| {
            let mut traffic = traffic(session, requests, 0);
            let counts = Counts {
                success: sessions,
                ..Counts::default()
            };
            for node in traffic.nodes.values_mut() {
                node.sessions = BTreeMap::from([("s".to_owned(), counts.clone())]);
            }
            traffic
        };
        let mut ledger = begin(&with(1, 100, 10));
        let told = |more: Increment| (more.shadow.success, more.sessions.map(|s| s.shadow.success));
        assert_eq!(told(ledger.take(&with(1, 150, 12))), (50, Some(2)));
        assert_eq!(told(ledger.take(&with(1, 160, 12))), (10, None));
        assert_eq!(told(ledger.take(&with(2, 4, 3))), (4, Some(3)));
        let back = ledger.take(&with(2, 9, 1));
        assert!(
            back.trouble.is_some() && back.sessions.is_none(),
            "{back:?}"
        );
    }

    #[test]
    fn reports_that_come_twice_or_out_of_order_are_counted_once() {
        let report = |number, success| {
            let mut traffic = traffic(1, success, 0);
            for node in traffic.nodes.values_mut() {
                node.reports = number;
            }
            traffic
        };
        let mut ledger = begin(&report(5, 100));
        assert_eq!(ledger.take(&report(7, 120)).shadow.success, 20);
        assert_eq!(ledger.take(&report(7, 120)), Increment::default());
        assert_eq!(ledger.take(&report(6, 110)), Increment::default());
        assert_eq!(ledger.take(&report(8, 125)).shadow.success, 5);
    }
}
