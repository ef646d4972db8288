//! Writes progress and traffic. Both are the newest state of a thing: what could not be written
//! in time is replaced, not queued.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::routing::word_id;
use domain::{KnownNode, NodeId, NodeProgress, RoutingStatus, ServiceId, Timestamp};
use store::{Clock, Expect, Key, Kind, SharedStore, StoreError, Transaction};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::gate::Report;
use crate::telemetry::SharedTelemetry;

/// How long to wait before the store is tried again after it failed.
const RETRY: Duration = Duration::from_millis(200);
/// How many times within the patience with a node its record is written anew while it is connected.
const REMINDERS: u32 = 4;
/// Most records in one transaction.
const CHUNK: usize = 64;

type Reports = BTreeMap<ServiceId, Option<Report>>;

/// The newest report per service that is not written yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    news: Arc<Mutex<News>>,
    posted: Arc<Notify>,
}

#[derive(Debug, Default)]
struct News {
    reports: Reports,
    /// Nodes that became known (`true`) or were forgotten.
    roster: BTreeMap<NodeId, bool>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, News> {
        // Maps of whole values: whatever interrupted their writer left them whole.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts reports over the older ones of the same services, and nodes that came or went.
    pub(crate) fn post(&self, reports: Reports, roster: BTreeMap<NodeId, bool>) {
        if !reports.is_empty() || !roster.is_empty() {
            let mut news = self.lock();
            news.reports.extend(reports);
            news.roster.extend(roster);
            drop(news);
            self.posted.notify_one();
        }
    }

    fn take(&self) -> News {
        std::mem::take(&mut *self.lock())
    }

    /// Puts back what could not be written, unless there is newer.
    fn put_back(&self, old: News) {
        let mut news = self.lock();
        for (id, report) in old.reports {
            news.reports.entry(id).or_insert(report);
        }
        for (node, known) in old.roster {
            news.roster.entry(node).or_insert(known);
        }
        drop(news);
        self.posted.notify_one();
    }
}

/// The writing task.
pub(crate) struct Writer {
    pub(crate) store: SharedStore,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) board: Board,
    pub(crate) telemetry: SharedTelemetry,
    pub(crate) interval: Duration,
    /// The control plane's name; empty when it is the only one.
    pub(crate) server: String,
    /// How long a node is waited for, by whichever control plane.
    pub(crate) patience: Duration,
    pub(crate) nodes: Nodes,
}

/// Nodes as this control plane sees them. Others may see more: a node that has left this one may be
/// connected to another, and only who has met nobody for the whole patience is taken for gone.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    connected: BTreeSet<NodeId>,
    /// Not connected here for so long that they can be forgotten, if nobody else meets them.
    missing: BTreeSet<NodeId>,
}

impl Nodes {
    fn take(&mut self, news: &News) {
        let reports = news.reports.values().flatten();
        for (node, progress) in reports.flat_map(|report| &report.nodes) {
            if *progress == NodeProgress::Away {
                self.connected.remove(node);
            } else {
                self.connected.insert(node.clone());
                self.missing.remove(node);
            }
        }
        for (node, known) in &news.roster {
            if *known {
                self.missing.remove(node);
            } else {
                self.connected.remove(node);
                self.missing.insert(node.clone());
            }
        }
    }
}

impl Writer {
    /// Writes until cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut remind = tokio::time::interval(self.patience / REMINDERS);
        remind.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.board.posted.notified() => self.write_news().await,
                _ = remind.tick() => self.remind().await,
                _ = tick.tick() => self.write_traffic().await,
            };
            if let Err(error) = result {
                tracing::error!(%error, "progress or traffic could not be written");
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }

    async fn write_news(&mut self) -> Result<(), StoreError> {
        let news = self.board.take();
        self.nodes.take(&news);
        let transaction = self.transaction(&news)?;
        if let Err(error) = self.store.commit(transaction).await {
            self.board.put_back(news);
            return Err(error);
        }
        Ok(())
    }

    /// Nodes and reports together: no report calls a routing applied by a node that the next
    /// control plane would not know of.
    fn transaction(&self, news: &News) -> Result<Transaction, StoreError> {
        let at = self.clock.now();
        let mut transaction = Transaction::new();
        for (node, known) in &news.roster {
            let key = Key::new(Kind::Node, node.as_str());
            let record = KnownNode {
                node: node.clone(),
                since: at,
            };
            // One that is not known any more is forgotten when nobody else has met it ([`Self::remind`]).
            if *known {
                transaction = transaction.put(key, Expect::Any, &record)?;
            }
        }
        if !self.server.is_empty() && !news.reports.is_empty() {
            // Whoever reads the reports finds out from here whose there are.
            let key = Key::new(Kind::Server, self.server.as_str());
            transaction = transaction.put(key, Expect::Any, &at)?;
        }
        for (service, report) in &news.reports {
            let key = Key::new(Kind::RoutingStatus, word_id(service, &self.server));
            transaction = match report {
                Some(report) => transaction.put(key, Expect::Any, &status(service, report, at))?,
                None => transaction.delete(key, Expect::Any).delete(
                    Key::new(Kind::Traffic, word_id(service, &self.server)),
                    Expect::Any,
                ),
            };
        }
        Ok(transaction)
    }

    /// Says anew of every node that it is connected, and forgets those that nobody has met for as
    /// long as the patience lasts.
    async fn remind(&mut self) -> Result<(), StoreError> {
        let at = self.clock.now();
        let mut transaction = Transaction::new();
        for node in &self.nodes.connected {
            let record = KnownNode {
                node: node.clone(),
                since: at,
            };
            let key = Key::new(Kind::Node, node.as_str());
            transaction = transaction.put(key, Expect::Any, &record)?;
        }
        let patience = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
        let mut gone = BTreeSet::new();
        for node in &self.nodes.missing {
            let key = Key::new(Kind::Node, node.as_str());
            let Some(record) = self.store.get(&key).await? else {
                gone.insert(node.clone());
                continue;
            };
            let met = record.parse::<KnownNode>()?.value.since;
            if at.since(met) >= patience {
                transaction = transaction.delete(key, Expect::Generation(record.generation));
                gone.insert(node.clone());
            }
        }
        if !transaction.writes.is_empty() {
            self.store.commit(transaction).await?;
        }
        self.nodes.missing.retain(|node| !gone.contains(node));
        Ok(())
    }

    async fn write_traffic(&self) -> Result<(), StoreError> {
        let traffic = self.telemetry.take(self.clock.now());
        for chunk in traffic.chunks(CHUNK) {
            let mut transaction = Transaction::new();
            for record in chunk {
                let key = Key::new(Kind::Traffic, word_id(&record.service, &self.server));
                transaction = transaction.put(key, Expect::Any, record)?;
            }
            // What is lost here comes again, cumulated, with the next report.
            self.store.commit(transaction).await?;
        }
        Ok(())
    }
}

fn status(service: &ServiceId, report: &Report, at: Timestamp) -> RoutingStatus {
    RoutingStatus {
        service: service.clone(),
        revision: report.revision,
        state: report.state,
        nodes: report.nodes.clone(),
        at,
    }
}

#[cfg(test)]
mod tests {
    use store::{ManualClock, MemoryStore};

    use super::*;

    fn writer(store: &SharedStore, clock: &Arc<ManualClock>, server: &str) -> Writer {
        Writer {
            store: Arc::clone(store),
            clock: Arc::clone(clock) as Arc<dyn Clock>,
            board: Board::default(),
            telemetry: SharedTelemetry::default(),
            interval: Duration::from_secs(1),
            server: server.to_owned(),
            patience: Duration::from_mins(1),
            nodes: Nodes::default(),
        }
    }

    #[tokio::test]
    async fn a_node_is_forgotten_when_no_control_plane_has_met_it_for_the_whole_patience() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let (mut one, mut two) = (writer(&store, &clock, "one"), writer(&store, &clock, "two"));
        let node = NodeId::new("envoy").unwrap();
        let key = Key::new(Kind::Node, "envoy");
        one.nodes.connected.insert(node.clone());
        one.remind().await.unwrap();
        clock.advance(55_000);
        one.remind().await.unwrap();
        // The second one has not seen it for a minute, but the first one has just met it.
        clock.advance(10_000);
        two.nodes.missing.insert(node);
        two.remind().await.unwrap();
        assert!(store.get(&key).await.unwrap().is_some());
        clock.advance(60_000);
        two.remind().await.unwrap();
        assert!(store.get(&key).await.unwrap().is_none());
        assert!(two.nodes.missing.is_empty());
    }
}
