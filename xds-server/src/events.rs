//! What happened lately, for people: a short list in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{NodeId, Timestamp};
use serde::Serialize;
use store::Clock;

use crate::stream::Refusal;

/// Most events that are kept.
const MAX_EVENTS: usize = 256;
/// Most resources that an event names.
const MAX_NAMED: usize = 8;

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Event {
    at: Timestamp,
    what: &'static str,
    node: NodeId,
    #[serde(rename = "type")]
    kind: &'static str,
    resources: Vec<String>,
    reason: String,
}

/// The events, shared.
#[derive(Clone)]
pub(crate) struct Events {
    clock: Arc<dyn Clock>,
    list: Arc<Mutex<VecDeque<Event>>>,
}

impl Events {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            list: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        // Whole events only: whatever interrupted a writer left them whole.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has refused something.
    pub(crate) fn refused(&self, node: &NodeId, refusal: &Refusal) {
        let named = refusal.items.iter().take(MAX_NAMED);
        let event = Event {
            at: self.clock.now(),
            what: "refused",
            node: node.clone(),
            kind: refusal.kind.short_name(),
            resources: named.map(|(name, _)| name.to_string()).collect(),
            reason: refusal.reason.clone(),
        };
        let mut list = self.lock();
        if list.len() >= MAX_EVENTS {
            list.pop_front();
        }
        list.push_back(event);
    }

    /// All that are kept, the oldest first.
    pub(crate) fn all(&self) -> Vec<Event> {
        self.lock().iter().cloned().collect()
    }
}
