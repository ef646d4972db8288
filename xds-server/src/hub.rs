//! The one task that owns the gate: events come in, responses and reports go out.
//!
//! Events are taken in batches, so that a storm of acknowledgements costs one advance, not one
//! each. Each stream has a bounded channel; a client that does not read finds the newest state
//! when it does, never a queue of old ones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::NodeId;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::edge::Board;
use crate::gate::{Gate, StreamId};
use crate::input::Inputs;
use crate::resources::ResourceType;
use crate::stream::{Request, Response, Stream};

/// Responses that wait in a stream's channel.
pub(crate) const OUTBOX: usize = 8;
/// Commands that wait for the hub.
pub(crate) const INBOX: usize = 1_024;
/// How often blocked streams are tried again, and how long until the gate's next tick.
const RETRY: Duration = Duration::from_millis(100);
const RETRIES_PER_TICK: u32 = 10;

/// The sending half towards a stream.
pub(crate) type Outbox = mpsc::Sender<Result<Response, Status>>;

/// What the hub is told.
pub(crate) enum Command {
    /// What is wanted changed.
    Inputs(Inputs),
    /// A stream begins.
    Connect(StreamId, Box<Stream>, Outbox),
    /// A client says something.
    Request(StreamId, ResourceType, Box<Request>),
    /// A stream is gone.
    Disconnect(StreamId),
}

/// The gate and the channels around it.
pub(crate) struct Hub {
    gate: Gate,
    outboxes: BTreeMap<StreamId, Outbox>,
    /// Streams whose channel was full.
    blocked: BTreeSet<StreamId>,
    board: Board,
}

impl Hub {
    pub(crate) fn new(gate: Gate, board: Board) -> Self {
        Self {
            gate,
            outboxes: BTreeMap::new(),
            blocked: BTreeSet::new(),
            board,
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
                count = commands.recv_many(&mut batch, INBOX) => {
                    if count == 0 {
                        return;
                    }
                    for command in batch.drain(..) {
                        self.take(command);
                    }
                }
                _ = retry.tick() => {
                    retries = (retries + 1) % RETRIES_PER_TICK;
                    if retries == 0 {
                        self.gate.tick();
                    } else if self.blocked.is_empty() {
                        continue;
                    }
                }
            }
            self.flush();
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Inputs(inputs) => self.gate.set_inputs(&inputs),
            Command::Connect(id, stream, outbox) => {
                tracing::info!(node = %stream.node, stream = id.0, "node connected");
                self.gate.connect(id, *stream);
                self.outboxes.insert(id, outbox);
            }
            Command::Request(id, kind, request) => match self.gate.request(id, kind, *request) {
                Ok(None) => {}
                Ok(Some(refusal)) => {
                    let (kind, reason) = (refusal.kind.short_name(), refusal.reason);
                    tracing::error!(stream = id.0, kind, reason, "a node refuses resources");
                }
                Err(limit) => {
                    tracing::warn!(stream = id.0, %limit, "stream closed");
                    self.close(id, Some(Status::resource_exhausted(limit.to_string())));
                }
            },
            Command::Disconnect(id) => {
                tracing::info!(stream = id.0, "node disconnected");
                self.close(id, None);
            }
        }
    }

    fn close(&mut self, id: StreamId, status: Option<Status>) {
        self.gate.disconnect(id);
        self.blocked.remove(&id);
        if let (Some(outbox), Some(status)) = (self.outboxes.remove(&id), status) {
            // A channel that is full belongs to a client that will see the end of the stream.
            let _ = outbox.try_send(Err(status));
        }
    }

    /// Advances, and sends what is due, until nothing more is.
    fn flush(&mut self) {
        self.gate.advance();
        let mut ready = self.gate.take_ready();
        ready.append(&mut self.blocked);
        for id in ready {
            self.send(id);
        }
        self.board
            .post(self.gate.take_reports(), self.gate.take_roster());
    }

    fn send(&mut self, id: StreamId) {
        let Some(outbox) = self.outboxes.get(&id).cloned() else {
            return;
        };
        loop {
            match outbox.try_reserve() {
                Ok(permit) => match self.gate.next_response(id) {
                    Some(response) => permit.send(Ok(response)),
                    None => return,
                },
                Err(mpsc::error::TrySendError::Full(())) => {
                    self.blocked.insert(id);
                    return;
                }
                // The stream's reader tells of the end.
                Err(mpsc::error::TrySendError::Closed(())) => return,
            }
        }
    }
}

/// Who is at the other end of a stream, from the first message.
pub(crate) fn node_id(
    node: Option<&api::envoy::envoy::config::core::v3::Node>,
) -> Result<NodeId, Status> {
    let id = node.map_or("", |node| node.id.as_str());
    NodeId::new(id).map_err(|error| Status::invalid_argument(format!("node.id: {error}")))
}
