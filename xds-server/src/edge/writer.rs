//! Writes progress and traffic. Both are the newest state of a thing: what could not be written
//! in time is replaced, not queued.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::routing::word_id;
use domain::{KnownNode, NodeId, RoutingStatus, ServiceId, Timestamp};
use store::{Clock, Expect, Key, Kind, SharedStore, StoreError, Transaction};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::gate::Report;
use crate::telemetry::SharedTelemetry;

/// How long to wait before the store is tried again after it failed.
const RETRY: Duration = Duration::from_millis(200);
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
}

impl Writer {
    /// Writes until cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.board.posted.notified() => self.write_news().await,
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

    async fn write_news(&self) -> Result<(), StoreError> {
        let news = self.board.take();
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
            transaction = if *known {
                transaction.put(key, Expect::Any, &record)?
            } else {
                transaction.delete(key, Expect::Any)
            };
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
