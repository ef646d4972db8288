//! A service that lives on the target host, watched while a shadow grows beside it.
//!
//! Its own requests are its service-level objective: what it failed, and how slow it was, before the
//! ramp. While it fails more than that by the judge's margin, or too many of its requests are far
//! slower, the shadow gets no higher weight. Nothing is decided by this: the alarm is the one that
//! lowers weights ([`super::alarm`]), it ends when the trouble does, and it is said in words.

use domain::Traffic;
use serde::{Deserialize, Serialize};

use super::alarm::{Alarm, Trouble};
use super::factor::Tally;
use super::ledger::Ledger;
use super::stream::Bad;
use super::yardstick::Yardstick;
use crate::settings::JudgeSettings;

/// A neighbour's service. It can be put into words (serde) and taken up again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    cluster: String,
    ledger: Ledger,
    watched: Vec<Watched>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Watched {
    bad: Bad,
    limit: super::mixture::Exact,
    alarm: Alarm,
}

impl Neighbour {
    /// Begins with what its cluster has counted so far; that is what it is held against.
    pub fn begin(cluster: &str, start: Option<&Traffic>, settings: &JudgeSettings) -> Self {
        let before = start
            .map(|start| start.cluster(cluster))
            .unwrap_or_default();
        let yardstick = Yardstick::new(&before, settings);
        let errors = yardstick.errors;
        let failed = errors
            .limit(settings.error_margin)
            .map(|at| (errors.bad, at));
        let slow = yardstick
            .far
            .and_then(|edge| Some((edge.bad, edge.limit(settings.far_share)?)));
        let watched = failed.into_iter().chain(slow).map(|(bad, limit)| Watched {
            bad,
            limit: super::mixture::Exact(limit),
            alarm: Alarm::new(),
        });
        Self {
            cluster: cluster.to_owned(),
            // Only one cluster of it is watched; the other has no name that could be.
            ledger: Ledger::begin(String::new(), cluster.to_owned(), start),
            watched: watched.collect(),
        }
    }

    /// Takes in what was counted since, and says in which way it is worse than before, if it is.
    pub fn look(&mut self, traffic: &Traffic) -> Option<String> {
        let more = self.ledger.take(traffic).shadow;
        let mut words = None;
        for watched in &mut self.watched {
            let tally = Tally {
                shadow: watched.bad.all(&more),
                shadow_bad: watched.bad.bad(&more),
                ..Tally::default()
            };
            watched.alarm.look(&tally, watched.limit.0, 0.0);
            if watched.alarm.trouble() != Trouble::None && words.is_none() {
                let percent = 100.0 * watched.alarm.share();
                words = Some(format!(
                    "service {} is worse than before the ramp: {percent:.1} % of its requests {}",
                    self.cluster,
                    watched.bad.did()
                ));
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domain::{Counts, NodeId, NodeTraffic, ServiceId, Timestamp};

    use super::*;

    fn traffic(good: u64, failed: u64, slow: u64) -> Traffic {
        let mut counts = Counts {
            success: good + slow,
            error: failed,
            ..Counts::default()
        };
        (0..good + failed).for_each(|_| counts.latency.record(5_000));
        (0..slow).for_each(|_| counts.latency.record(900_000));
        let node = NodeTraffic {
            session: 1,
            clusters: BTreeMap::from([("cart".to_owned(), counts)]),
            ..NodeTraffic::default()
        };
        Traffic {
            service: ServiceId::new("cart").unwrap(),
            at: Timestamp::default(),
            nodes: BTreeMap::from([(NodeId::new("n").unwrap(), node)]),
        }
    }

    #[test]
    fn a_neighbour_that_fails_or_crawls_is_named_and_is_forgiven_when_that_is_over() {
        for ill in [traffic(1_080, 25, 0), traffic(1_020, 5, 80)] {
            let start = traffic(1_000, 5, 0);
            let mut neighbour = Neighbour::begin("cart", Some(&start), &JudgeSettings::default());
            assert_eq!(neighbour.look(&traffic(1_010, 5, 0)), None);
            let words = neighbour.look(&ill).unwrap();
            assert!(words.contains("service cart is worse"), "{words}");
            let mut counts = ill.cluster("cart");
            let mut looks = 0;
            loop {
                counts.success += 200;
                (0..200).for_each(|_| counts.latency.record(5_000));
                let mut later = ill.clone();
                let node = later.nodes.values_mut().next().unwrap();
                node.clusters.insert("cart".to_owned(), counts.clone());
                if neighbour.look(&later).is_none() {
                    break;
                }
                looks += 1;
                assert!(looks < 60);
            }
        }
    }

    #[test]
    fn a_neighbour_that_is_as_ever_or_silent_holds_nothing() {
        let start = traffic(10_000, 50, 100);
        let mut neighbour = Neighbour::begin("cart", Some(&start), &JudgeSettings::default());
        for look in 1..200 {
            let now = traffic(10_000 + look * 50, 50 + look / 4, 100 + look / 2);
            assert_eq!(neighbour.look(&now), None, "{look}");
        }
        let silent = Neighbour::begin("other", None, &JudgeSettings::default()).look(&start);
        assert_eq!(silent, None);
    }

    #[test]
    fn it_goes_on_where_it_was_stored() {
        let start = traffic(1_000, 5, 0);
        let mut one = Neighbour::begin("cart", Some(&start), &JudgeSettings::default());
        let text = serde_json::to_string(&one).unwrap();
        let mut other: Neighbour = serde_json::from_str(&text).unwrap();
        let now = traffic(1_080, 25, 0);
        assert_eq!(one.look(&now), other.look(&now));
        assert_eq!(one, other);
    }
}
