//! What is wrong at present, by name: what `/readyz` and `foreshadow status` say.
//!
//! The migrator names what it met itself (leases, records, the driver). Here is what shows in the
//! store and in the parts of this process: a store that is away, a forecaster that has fallen silent,
//! data planes that are away or refuse.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use domain::forecast::InstanceForecast;
use domain::{NodeId, NodeProgress, Readings, RoutingStatus, Service, Timestamp};
use serde::de::DeserializeOwned;
use store::{Kind, SharedStore, StoreError, words};

/// Troubles by name.
pub type Troubles = BTreeMap<String, String>;

/// Shortest silence that is a trouble, in milliseconds.
const SHORTEST: u64 = 30_000;
/// Steps of silence that are one.
const STEPS: u64 = 5;
/// Most nodes that are named.
const MAX_NAMED: usize = 8;

/// A part of this process, and how to tell whether it runs.
pub type Part = (&'static str, Arc<dyn Fn() -> bool + Send + Sync>);

/// A part of this process, by its name and how to tell whether it runs.
pub fn part(name: &'static str, runs: impl Fn() -> bool + Send + Sync + 'static) -> Part {
    (name, Arc::new(runs))
}

/// The parts of this process.
#[derive(Clone)]
pub struct Vitals {
    /// When it began.
    pub began: Timestamp,
    /// Length of a step in milliseconds.
    pub step_ms: u64,
    /// The parts that must run.
    pub parts: Vec<Part>,
}

/// What is seen at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// When the newest forecast was made, if there is one.
    forecast: Option<Timestamp>,
    /// When the newest reading was taken, if there is one.
    reading: Option<Timestamp>,
    routing: Vec<RoutingStatus>,
}

impl Vitals {
    /// Adds what is wrong to `troubles`.
    pub async fn look(&self, store: &SharedStore, now: Timestamp, troubles: &mut Troubles) {
        for (name, runs) in &self.parts {
            if !runs() {
                let words = "it has stopped; the log says why. Restart this control plane";
                troubles.insert((*name).to_owned(), words.to_owned());
            }
        }
        match Seen::read(store).await {
            Ok(seen) => troubles.extend(self.judge(&seen, now)),
            Err(error) => {
                troubles.insert("store".to_owned(), error.to_string());
            }
        }
    }

    fn judge(&self, seen: &Seen, now: Timestamp) -> Troubles {
        let mut troubles = Troubles::new();
        let patience = SHORTEST.max(self.step_ms.saturating_mul(STEPS));
        let mut silent = |name: &str, what: &str, newest: Option<Timestamp>| {
            // What an earlier process left may be older than this one.
            let newest = newest.map(|at| at.max(self.began));
            let age = newest.map_or(0, |at| now.since(at));
            if age > patience {
                let words = format!(
                    "the newest {what} is {} s old; one is due every {} s",
                    age / 1_000,
                    self.step_ms.div_ceil(1_000)
                );
                troubles.insert(name.to_owned(), words);
            }
        };
        silent("forecaster", "forecast", seen.forecast);
        silent("readings", "reading", seen.reading);
        if let Some(words) = planes(&seen.routing) {
            troubles.insert("proxies".to_owned(), words);
        }
        troubles
    }
}

impl Seen {
    async fn read(store: &SharedStore) -> Result<Self, StoreError> {
        let forecasts = all::<InstanceForecast>(store, Kind::Forecast).await?;
        let readings = all::<Readings>(store, Kind::Readings).await?;
        let mut routing = Vec::new();
        for service in all::<Service>(store, Kind::Service).await? {
            routing.extend(words::routing_status(&**store, &service.id).await?);
        }
        Ok(Self {
            forecast: forecasts
                .iter()
                .flat_map(|one| &one.forecasts)
                .map(|forecast| forecast.issued_at)
                .max(),
            reading: readings
                .iter()
                .filter_map(|one| one.readings.last())
                .map(|reading| reading.at)
                .max(),
            routing,
        })
    }
}

/// The records of a kind; one that is damaged is another's trouble.
async fn all<T: DeserializeOwned>(store: &SharedStore, kind: Kind) -> Result<Vec<T>, StoreError> {
    let records = store.list(kind).await?;
    let sound = records.iter().filter_map(|record| record.parse::<T>().ok());
    Ok(sound.map(|record| record.value).collect())
}

/// How each node is, the worst first: what it refuses, that it is away, or that it is well.
pub fn nodes(routing: &[RoutingStatus]) -> BTreeMap<NodeId, NodeProgress> {
    let rank = |progress: &NodeProgress| match progress {
        NodeProgress::Applied => 0,
        NodeProgress::Waiting { .. } => 1,
        NodeProgress::Away => 2,
        NodeProgress::Rejected { .. } => 3,
    };
    let mut nodes: BTreeMap<NodeId, NodeProgress> = BTreeMap::new();
    for (node, progress) in routing.iter().flat_map(|status| &status.nodes) {
        let known = nodes.get(node).map_or(-1, rank);
        if rank(progress) > known {
            nodes.insert(node.clone(), progress.clone());
        }
    }
    nodes
}

fn planes(routing: &[RoutingStatus]) -> Option<String> {
    let mut words: Vec<String> = Vec::new();
    for (node, progress) in nodes(routing) {
        match progress {
            NodeProgress::Applied | NodeProgress::Waiting { .. } => {}
            NodeProgress::Away => words.push(format!("{node} is away")),
            NodeProgress::Rejected {
                resource_type,
                reason,
            } => words.push(format!("{node} refuses {resource_type}: {reason}")),
        }
    }
    let more = words.len().saturating_sub(MAX_NAMED);
    words.truncate(MAX_NAMED);
    let mut text = words.join("; ");
    if more > 0 {
        let _ = write!(text, "; and {more} more");
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{RoutingState, ServiceId};

    fn vitals() -> Vitals {
        Vitals {
            began: Timestamp(1_000_000),
            step_ms: 10_000,
            parts: Vec::new(),
        }
    }

    fn routing(nodes: &[(&str, NodeProgress)]) -> RoutingStatus {
        let named = |(name, progress): &(&str, NodeProgress)| {
            (NodeId::new(*name).unwrap(), progress.clone())
        };
        RoutingStatus {
            service: ServiceId::new("shop").unwrap(),
            revision: 1,
            state: RoutingState::Pending,
            nodes: nodes.iter().map(named).collect(),
            at: Timestamp(1),
        }
    }

    #[test]
    fn a_forecaster_that_has_fallen_silent_is_named_with_the_age() {
        let seen = Seen {
            forecast: Some(Timestamp(1_050_000)),
            reading: Some(Timestamp(1_100_000)),
            routing: Vec::new(),
        };
        assert_eq!(vitals().judge(&seen, Timestamp(1_100_000)), Troubles::new());
        let late = vitals().judge(&seen, Timestamp(1_100_001));
        assert!(late["forecaster"].contains("50 s old"), "{late:?}");
        assert!(!late.contains_key("readings"), "{late:?}");
        // What was left by an earlier process has time until this one has had its turn.
        let old = Seen {
            forecast: Some(Timestamp(5)),
            ..Seen::default()
        };
        assert_eq!(vitals().judge(&old, Timestamp(1_050_000)), Troubles::new());
        assert_eq!(vitals().judge(&old, Timestamp(1_050_001)).len(), 1);
    }

    #[test]
    fn data_planes_that_are_away_or_refuse_are_named_with_their_words() {
        let refused = NodeProgress::Rejected {
            resource_type: "RDS".to_owned(),
            reason: "duplicate domain".to_owned(),
        };
        let seen = Seen {
            routing: vec![
                routing(&[("a", NodeProgress::Applied), ("b", NodeProgress::Away)]),
                routing(&[("a", refused), ("b", NodeProgress::Applied)]),
            ],
            ..Seen::default()
        };
        let troubles = vitals().judge(&seen, Timestamp(1_000_000));
        assert_eq!(
            troubles["proxies"],
            "a refuses RDS: duplicate domain; b is away"
        );
        let well = Seen {
            routing: vec![routing(&[("a", NodeProgress::Applied)])],
            ..Seen::default()
        };
        assert_eq!(vitals().judge(&well, Timestamp(1_000_000)), Troubles::new());
    }

    #[tokio::test]
    async fn a_part_that_has_stopped_is_named() {
        let mut vitals = vitals();
        vitals.parts = vec![part("forecaster", || true), part("xds-server", || false)];
        let store: SharedStore = Arc::new(store::MemoryStore::default());
        let mut troubles = Troubles::new();
        vitals
            .look(&store, Timestamp(1_000_000), &mut troubles)
            .await;
        assert_eq!(troubles.keys().collect::<Vec<_>>(), ["xds-server"]);
    }
}
