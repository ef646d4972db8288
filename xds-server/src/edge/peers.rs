//! Follows what the other control planes on the same store say of their nodes.

use std::sync::Arc;
use std::time::Duration;

use domain::{KnownNode, NodeId, RoutingStatus, ServiceId};
use store::{Change, Clock, Kind, Record, SharedStore, StoreError, Watch};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::gate::PeerWord;
use crate::hub::Command;

/// How long to wait before the store is asked again after it failed.
const RETRY: Duration = Duration::from_millis(200);

/// News of the other control planes.
#[derive(Debug)]
pub(crate) enum PeerNews {
    /// All of it is about to be said again.
    Anew,
    /// What one of them says of a service.
    Word(ServiceId, String, Option<PeerWord>),
    /// One of them has met a node: for so many ticks it is believed to be there.
    Met(NodeId, u32),
}

/// The following task; only where a control plane has a name are there others.
pub(crate) struct PeerWatcher {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    hub: mpsc::Sender<Command>,
    /// This one's name.
    server: String,
    patience: Duration,
    words: Watch,
    nodes: Watch,
}

impl PeerWatcher {
    pub(crate) fn new(
        store: &SharedStore,
        clock: Arc<dyn Clock>,
        hub: mpsc::Sender<Command>,
        server: String,
        patience: Duration,
    ) -> Self {
        Self {
            words: store.watch(Kind::RoutingStatus),
            nodes: store.watch(Kind::Node),
            store: store.clone(),
            clock,
            hub,
            server,
            patience,
        }
    }

    /// Follows until cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.follow() => stop.cancelled().await,
        }
    }

    async fn follow(&mut self) {
        if !self.say_all().await {
            return;
        }
        loop {
            let change = tokio::select! {
                biased;
                change = self.words.next() => change,
                change = self.nodes.next() => change,
            };
            let goes_on = match change {
                Some(Change::Put(record)) => self.say(self.news(&record)).await,
                Some(Change::Deleted(key)) if key.kind == Kind::Node => {
                    let gone = NodeId::new(key.id.as_str()).ok();
                    self.say(gone.map(|node| PeerNews::Met(node, 0))).await
                }
                Some(Change::Deleted(key)) => {
                    let word = self.whose(&key.id);
                    let gone = word.map(|(service, server)| PeerNews::Word(service, server, None));
                    self.say(gone).await
                }
                Some(Change::Missed) => self.say_all().await,
                None => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    async fn say(&self, news: Option<PeerNews>) -> bool {
        match news {
            Some(news) => self.hub.send(Command::Peer(news)).await.is_ok(),
            None => true,
        }
    }

    /// All that there is, as soon as the store gives it.
    async fn say_all(&self) -> bool {
        let records = loop {
            match self.list().await {
                Ok(records) => break records,
                Err(error) => {
                    tracing::error!(%error, "what other control planes say cannot be read");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let mut goes_on = self.say(Some(PeerNews::Anew)).await;
        for record in &records {
            goes_on = goes_on && self.say(self.news(record)).await;
        }
        goes_on
    }

    async fn list(&self) -> Result<Vec<Record>, StoreError> {
        let mut records = self.store.list(Kind::Node).await?;
        records.extend(self.store.list(Kind::RoutingStatus).await?);
        Ok(records)
    }

    fn news(&self, record: &Record) -> Option<PeerNews> {
        if record.key.kind == Kind::Node {
            let known = record.parse::<KnownNode>().ok()?.value;
            let age = self.clock.now().since(known.since);
            // It is said anew a few times within the patience.
            let life = (self.patience + self.patience / 4).as_millis();
            let left = u64::try_from(life).unwrap_or(u64::MAX).saturating_sub(age) / 1_000;
            let ticks = u32::try_from(left).unwrap_or(u32::MAX);
            return Some(PeerNews::Met(known.node, ticks));
        }
        let (service, server) = self.whose(&record.key.id)?;
        let status = record.parse::<RoutingStatus>().ok()?.value;
        let word = PeerWord::of(&status);
        Some(PeerNews::Word(service, server, Some(word)))
    }

    /// The service and the control plane whose word this is, if it is another's.
    fn whose(&self, id: &str) -> Option<(ServiceId, String)> {
        let (service, server) = id.split_once('~')?;
        let service = ServiceId::new(service).ok()?;
        (server != self.server).then(|| (service, server.to_owned()))
    }
}
