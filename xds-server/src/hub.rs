//! The one task that owns the gate: events come in, responses and reports go out.
//!
//! Events are taken in batches, so that a storm of acknowledgements costs one advance, not one
//! each. Each stream has a bounded outbox; a client that does not read finds the newest state
//! when it does, never a queue of old ones, and is dropped when it does not for too long.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{NodeId, ServiceId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::edge::{Board, PeerNews};
use crate::events::Events;
use crate::gate::{Gate, StreamId};
use crate::input::{Inputs, ServiceInput};
use crate::inspect::{Inspection, inspect};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::resources::{Resource, ResourceType};
use crate::stream::{Protocol, Request, Stream};
use crate::wire::Bodies;

/// Commands that wait for the hub.
pub(crate) const INBOX: usize = 1_024;
/// How often blocked streams are tried again, and how long until the gate's next tick.
const RETRY: Duration = Duration::from_millis(100);
const RETRIES_PER_TICK: u32 = 10;
/// Most streams of one node: one per type, and as many again while it comes back, and some.
const MAX_STREAMS_PER_NODE: usize = 16;
/// Ticks after which a client that does not read is dropped.
const SLOW_TICKS: u32 = 20;

/// What the hub is told.
pub(crate) enum Command {
    /// All that is wanted.
    Inputs(Inputs),
    /// What is wanted of single services.
    Update(BTreeMap<ServiceId, Option<Arc<ServiceInput>>>),
    /// All changes that were seen up to this number have been said.
    Gathered(u64),
    /// A resource beside those of the services, or its end.
    Extra(ResourceType, Arc<str>, Option<Arc<Resource>>),
    /// What other control planes say.
    Peer(PeerNews),
    /// A stream begins.
    Connect(StreamId, Box<Stream>, Outbox),
    /// A client says something.
    Request(StreamId, ResourceType, Box<Request>),
    /// A stream is gone.
    Disconnect(StreamId),
    /// Somebody asks how far the nodes are; all of them, or one.
    Inspect(Option<NodeId>, oneshot::Sender<Inspection>),
}

/// A stream's way out.
struct Line {
    outbox: Outbox,
    protocol: Protocol,
    /// When the first response was sent that is not answered yet.
    sent: Option<Instant>,
}

/// The gate and the channels around it.
pub(crate) struct Hub {
    gate: Gate,
    lines: HashMap<StreamId, Line>,
    /// Streams whose outbox was full, with the ticks since.
    blocked: BTreeMap<StreamId, u32>,
    bodies: Bodies,
    board: Board,
    metrics: Arc<Metrics>,
    events: Events,
    /// Changes that the watcher has seen, and those of them that have come here.
    seen: Arc<AtomicU64>,
    gathered: u64,
}

impl Hub {
    pub(crate) fn new(
        gate: Gate,
        board: Board,
        metrics: Arc<Metrics>,
        events: Events,
        seen: Arc<AtomicU64>,
    ) -> Self {
        Self {
            gate,
            lines: HashMap::new(),
            blocked: BTreeMap::new(),
            bodies: Bodies::default(),
            board,
            metrics,
            events,
            seen,
            gathered: 0,
        }
    }

    /// Serves until cancelled, or until nobody can send commands any more.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) {
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retries = 0_u32;
        let mut batch = Vec::with_capacity(INBOX);
        self.flush();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = retry.tick() => {
                    retries = (retries + 1) % RETRIES_PER_TICK;
                    if retries == 0 {
                        self.tick();
                    } else if self.blocked.is_empty() {
                        continue;
                    }
                }
                count = commands.recv_many(&mut batch, INBOX) => {
                    if count == 0 {
                        return;
                    }
                    for command in batch.drain(..) {
                        self.take(command);
                    }
                }
            }
            self.flush();
        }
    }

    fn tick(&mut self) {
        self.gate.tick();
        for ticks in self.blocked.values_mut() {
            *ticks += 1;
        }
        let slow: Vec<StreamId> = self
            .blocked
            .iter()
            .filter(|(_, ticks)| **ticks > SLOW_TICKS)
            .map(|(id, _)| *id)
            .collect();
        for id in slow {
            self.metrics.dropped_streams.add(1);
            let node = self.gate.stream(id).map(|stream| stream.node.clone());
            tracing::warn!(
                stream = id.0,
                ?node,
                "stream dropped: its client does not read"
            );
            let status = Status::resource_exhausted("responses were not read for too long");
            self.close(id, Some(status));
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Inputs(inputs) => self.gate.set_inputs(&inputs),
            Command::Update(inputs) => self.gate.update_inputs(&inputs),
            Command::Gathered(number) => self.gathered = number,
            Command::Extra(kind, name, resource) => self.gate.put_extra(kind, &name, resource),
            Command::Peer(PeerNews::Anew) => self.gate.forget_peers(),
            Command::Peer(PeerNews::Word(service, server, word)) => {
                self.gate.hear(&service, &server, word);
            }
            Command::Peer(PeerNews::Met(node, ticks)) => self.gate.met(node, ticks),
            Command::Connect(id, stream, outbox) => {
                tracing::info!(node = %stream.node, stream = id.0, "node connected");
                self.make_room_for(&stream.node);
                let protocol = stream.protocol();
                self.gate.connect(id, *stream);
                let line = Line {
                    outbox,
                    protocol,
                    sent: None,
                };
                self.lines.insert(id, line);
            }
            Command::Request(id, kind, request) => self.request(id, kind, *request),
            Command::Disconnect(id) => {
                tracing::info!(stream = id.0, "node disconnected");
                self.close(id, None);
            }
            // Who asked and does not wait any more wants no answer.
            Command::Inspect(node, answer) => {
                let _ = answer.send(inspect(&self.gate, node.as_ref()));
            }
        }
    }

    /// A node that opens ever more streams loses its oldest: what is new counts.
    fn make_room_for(&mut self, node: &NodeId) {
        let streams = self.gate.streams_of_node(node);
        if streams.len() < MAX_STREAMS_PER_NODE {
            return;
        }
        if let Some(&oldest) = streams.first() {
            tracing::warn!(%node, stream = oldest.0, "stream dropped: its node has too many");
            let limit = format!("node {node} has more than {MAX_STREAMS_PER_NODE} streams");
            self.close(oldest, Some(Status::resource_exhausted(limit)));
        }
    }

    fn request(&mut self, id: StreamId, kind: ResourceType, request: Request) {
        let answers = request.is_answer();
        match self.gate.request(id, kind, request) {
            Ok(None) => {
                if answers {
                    self.metrics.acks.add(1);
                    let sent = self.lines.get_mut(&id).and_then(|line| line.sent.take());
                    if let Some(sent) = sent {
                        self.metrics.ack_time.observe(sent.elapsed());
                    }
                }
            }
            Ok(Some(refusal)) => {
                self.metrics.nacks.add(1);
                let kind = refusal.kind.short_name();
                let reason = &refusal.reason;
                tracing::error!(stream = id.0, kind, reason, "a node refuses resources");
                if let Some(stream) = self.gate.stream(id) {
                    self.events.refused(&stream.node, &refusal);
                }
            }
            Err(limit) => {
                tracing::warn!(stream = id.0, %limit, "stream closed");
                self.close(id, Some(Status::resource_exhausted(limit.to_string())));
            }
        }
    }

    fn close(&mut self, id: StreamId, status: Option<Status>) {
        self.gate.disconnect(id);
        self.blocked.remove(&id);
        if let Some(line) = self.lines.remove(&id) {
            line.outbox.end(status);
        }
    }

    /// Advances, and sends what is due, until nothing more is.
    fn flush(&mut self) {
        let seen = self.seen.load(Ordering::Acquire);
        self.gate.expect_change(seen != self.gathered);
        self.gate.advance();
        let mut ready = self.gate.take_ready();
        ready.extend(self.blocked.keys());
        while !ready.is_empty() {
            for id in std::mem::take(&mut ready) {
                self.send(id);
            }
            // What goes out on one stream of a node may be followed by something on another.
            ready = self.gate.take_ready();
        }
        self.board
            .post(self.gate.take_reports(), self.gate.take_roster());
        self.measure();
    }

    fn measure(&self) {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        self.metrics.streams.set(count(self.gate.streams()));
        self.metrics.away.set(count(self.gate.away()));
        self.metrics
            .unsettled
            .set(count(self.gate.unsettled().count()));
        self.metrics
            .held
            .set(count(self.gate.published().all_held().count()));
        self.metrics.slow_streams.set(count(self.blocked.len()));
    }

    fn send(&mut self, id: StreamId) {
        let Some(line) = self.lines.get_mut(&id) else {
            return;
        };
        loop {
            if !line.outbox.has_room() {
                self.blocked.entry(id).or_default();
                return;
            }
            let Some(response) = self.gate.next_response(id) else {
                self.blocked.remove(&id);
                return;
            };
            let frame = self.bodies.frame(line.protocol, &response);
            self.metrics.pushes.add(1);
            let bytes = u64::try_from(frame.len()).unwrap_or(u64::MAX);
            self.metrics.pushed_bytes.add(bytes);
            line.sent.get_or_insert_with(Instant::now);
            line.outbox.send(frame);
        }
    }
}
