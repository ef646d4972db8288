//! Requests: subscriptions in both forms, acknowledgements, refusals.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Entry, InFlight, KindState, Told, UNTOLD, View};
use crate::resources::Version;
use crate::stream::message::{Refusal, Request};

/// Most names that a client may subscribe to, per type.
pub const MAX_NAMES: usize = 10_000;
/// Most refused versions that are remembered; more come only from a client that refuses all.
const MAX_REFUSED: usize = 256;
/// Most characters of a refusal that are kept.
const MAX_REASON: usize = 1_000;
const WILDCARD: &str = "*";

/// A client wants more than it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {count} resource names are subscribed to; at most {MAX_NAMES} are allowed")]
pub struct LimitExceeded {
    /// Short name of the type.
    pub kind: &'static str,
    /// How many it would be.
    pub count: usize,
}

/// What a nonce settles.
enum Settled {
    /// Nothing: it answers no response that waits.
    Unknown,
    Acknowledged,
    Refused(Refusal),
}

impl Settled {
    fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Unknown | Self::Acknowledged => None,
        }
    }
}

impl KindState {
    pub(in crate::stream) fn request(
        &mut self,
        request: Request,
        view: View<'_>,
    ) -> Result<Option<Refusal>, LimitExceeded> {
        match request {
            Request::World {
                names,
                nonce,
                error,
                version: _,
            } => self.world(&names, &nonce, error, view),
            Request::Delta {
                subscribe,
                unsubscribe,
                initial,
                nonce,
                error,
            } => {
                let first = !self.active;
                self.active = true;
                let settled = self.settle(&nonce, error);
                let fresh = initial.is_empty();
                if first {
                    self.remember(initial);
                    if subscribe.is_empty() && self.kind.is_root() {
                        self.follow_all(fresh, view);
                    }
                }
                self.check_limit(subscribe.len())?;
                for name in &subscribe {
                    if name == WILDCARD {
                        self.follow_all(fresh, view);
                    } else {
                        self.subscribe(name, first);
                    }
                }
                for name in &unsubscribe {
                    self.unsubscribe(name);
                }
                Ok(settled.refusal())
            }
        }
    }

    fn check_limit(&self, more: usize) -> Result<(), LimitExceeded> {
        let count = self.names.len().saturating_add(more);
        if count > MAX_NAMES {
            return Err(LimitExceeded {
                kind: self.kind.short_name(),
                count,
            });
        }
        Ok(())
    }

    /// What the client has from an earlier stream.
    fn remember(&mut self, initial: Vec<(String, String)>) {
        for (name, version) in initial {
            let entry = Version::parse(&version).map_or(UNTOLD, |version| Entry {
                told: Told::Version(version),
                acknowledged: Some(version),
            });
            self.entries.insert(Arc::from(name), entry);
        }
    }

    fn follow_all(&mut self, answer: bool, view: View<'_>) {
        self.must_answer |= answer && !self.wildcard;
        self.wildcard = true;
        self.dirty.extend(view.names(self.kind));
        self.dirty.extend(self.entries.keys().cloned());
    }

    fn subscribe(&mut self, name: &str, first: bool) {
        self.explicit = true;
        let name: Arc<str> = Arc::from(name);
        let entry = self.entries.entry(Arc::clone(&name)).or_insert(UNTOLD);
        // Asking again means: say it again. Only with the first request the client says what it
        // has, and is spared that.
        if !first {
            entry.told = Told::Nothing;
        }
        self.dirty.insert(Arc::clone(&name));
        self.names.insert(name);
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == WILDCARD {
            self.wildcard = false;
            let names = &self.names;
            self.entries.retain(|name, _| names.contains(name));
            self.dirty.retain(|name| names.contains(name));
            return;
        }
        self.names.remove(name);
        if self.wildcard {
            // It is still covered: the client has forgotten it, and is told again.
            if let Some((name, entry)) = self.entries.get_key_value(name) {
                let (name, entry) = (
                    Arc::clone(name),
                    Entry {
                        told: Told::Nothing,
                        ..*entry
                    },
                );
                self.dirty.insert(Arc::clone(&name));
                self.entries.insert(name, entry);
            }
        } else {
            self.entries.remove(name);
            self.dirty.remove(name);
        }
    }

    fn world(
        &mut self,
        names: &[String],
        nonce: &str,
        error: Option<String>,
        view: View<'_>,
    ) -> Result<Option<Refusal>, LimitExceeded> {
        let first = !self.active;
        self.active = true;
        let settled = self.settle(nonce, error);
        if matches!(settled, Settled::Unknown) && !first && !nonce.is_empty() {
            // Stale: the client will answer the newer response, with all its names.
            return Ok(None);
        }
        if names.len() > MAX_NAMES {
            return Err(LimitExceeded {
                kind: self.kind.short_name(),
                count: names.len(),
            });
        }
        let all = names.iter().any(|name| name == WILDCARD)
            || (names.is_empty() && self.kind.is_root() && !self.explicit);
        if all {
            if !self.wildcard {
                self.follow_all(true, view);
            }
        } else {
            self.wildcard = false;
        }
        let wanted: HashSet<Arc<str>> = names
            .iter()
            .filter(|name| *name != WILDCARD)
            .map(|name| Arc::from(&**name))
            .collect();
        self.explicit |= !wanted.is_empty();
        for name in wanted.difference(&self.names) {
            self.must_answer = true;
            self.dirty.insert(Arc::clone(name));
        }
        self.must_answer |= first;
        self.names = wanted;
        if !self.wildcard {
            let names = &self.names;
            self.entries.retain(|name, _| names.contains(name));
            self.dirty.retain(|name| names.contains(name));
        }
        Ok(settled.refusal())
    }

    /// Takes an acknowledgement or refusal in.
    fn settle(&mut self, nonce: &str, error: Option<String>) -> Settled {
        let position = self.in_flight.iter().position(|sent| sent.nonce == nonce);
        let Some(sent) = position.and_then(|position| self.in_flight.remove(position)) else {
            return Settled::Unknown;
        };
        match error {
            None => {
                self.acknowledge(sent);
                Settled::Acknowledged
            }
            Some(reason) => Settled::Refused(self.refuse(sent, &reason)),
        }
    }

    fn acknowledge(&mut self, sent: InFlight) {
        self.generation = self.generation.max(sent.generation);
        self.last_refusal = None;
        for (name, version) in sent.items {
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            entry.acknowledged = version;
            if version.is_none() && entry.told == Told::Absent && !self.names.contains(&name) {
                self.entries.remove(&name);
            }
        }
    }

    /// Whatever the response carried is unknown to be with the client or not, and must be told
    /// anew; what it did not have before is not sent to it again.
    fn refuse(&mut self, sent: InFlight, reason: &str) -> Refusal {
        let reason: String = reason.chars().take(MAX_REASON).collect();
        let shared: Arc<str> = Arc::from(&*reason);
        self.last_refusal = Some(Arc::clone(&shared));
        if self.refused.len() > MAX_REFUSED {
            self.refused.clear();
        }
        let mut items = Vec::new();
        for (name, version) in sent.items {
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            entry.told = Told::Nothing;
            self.dirty.insert(Arc::clone(&name));
            if let Some(version) = version.filter(|&version| entry.acknowledged != Some(version)) {
                self.refused
                    .insert((Arc::clone(&name), version), Arc::clone(&shared));
                items.push((name, version));
            }
        }
        Refusal {
            kind: self.kind,
            items,
            after: self.generation,
            generation: sent.generation,
            reason,
        }
    }
}
