//! Requests: subscriptions in both forms, acknowledgements, refusals.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Entry, InFlight, KindState, Told, UNTOLD, View, version_of};
use crate::resources::Version;
use crate::stream::message::{Refusal, Request};

/// Most names that a client may subscribe to, per type.
pub const MAX_NAMES: usize = 20_000;
/// Most bytes of all these names.
pub const MAX_NAME_BYTES: usize = 2 * 1024 * 1024;
/// Most bytes of a name.
pub const MAX_NAME: usize = 1_024;
/// Most refused versions that are remembered; more come only from a client that refuses all.
const MAX_REFUSED: usize = 256;
/// Most characters of a refusal that are kept.
const MAX_REASON: usize = 1_000;
const WILDCARD: &str = "*";

/// A client wants more than it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    /// Too many names.
    #[error("{kind}: {count} resource names are subscribed to; at most {MAX_NAMES} are allowed")]
    Names {
        /// Short name of the type.
        kind: &'static str,
        /// How many it would be.
        count: usize,
    },
    /// Too many bytes of names.
    #[error(
        "{kind}: the resource names subscribed to are {bytes} bytes; at most {MAX_NAME_BYTES} are allowed"
    )]
    Bytes {
        /// Short name of the type.
        kind: &'static str,
        /// How many it would be.
        bytes: usize,
    },
    /// A name that cannot be one.
    #[error("{kind}: resource name {name:?}: use 1 to {MAX_NAME} bytes without control characters")]
    Name {
        /// Short name of the type.
        kind: &'static str,
        /// The name, shortened.
        name: String,
    },
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
                version,
            } => self.take_world(&names, &version, &nonce, error, view),
            Request::Delta {
                subscribe,
                unsubscribe,
                initial,
                nonce,
                error,
            } => {
                let first = !self.active;
                self.check_limit(subscribe.len().max(initial.len()), first)?;
                self.check_names(&subscribe)?;
                let initial_names = initial.iter().map(|(name, _)| name);
                self.check_bytes(0, initial_names)?;
                self.check_bytes(self.names.bytes(), subscribe.iter())?;
                self.active = true;
                let settled = self.settle(&nonce, error, view);
                let fresh = initial.is_empty();
                if first {
                    self.remember(initial, view);
                    if subscribe.is_empty() && self.kind.is_root() {
                        self.follow_all(fresh, view);
                    }
                }
                for name in &subscribe {
                    if name == WILDCARD {
                        self.follow_all(fresh, view);
                    } else {
                        self.subscribe(view.intern(self.kind, name), first);
                    }
                }
                for name in &unsubscribe {
                    self.unsubscribe(name);
                }
                Ok(settled.refusal())
            }
        }
    }

    fn check_limit(&self, more: usize, first: bool) -> Result<(), LimitExceeded> {
        let known = if first { 0 } else { self.names.len() };
        let count = known.saturating_add(more);
        if count > MAX_NAMES {
            return Err(LimitExceeded::Names {
                kind: self.kind.short_name(),
                count,
            });
        }
        Ok(())
    }

    fn check_bytes<'a>(
        &self,
        before: usize,
        more: impl Iterator<Item = &'a String>,
    ) -> Result<(), LimitExceeded> {
        let bytes = more.map(String::len).sum::<usize>().saturating_add(before);
        if bytes > MAX_NAME_BYTES {
            return Err(LimitExceeded::Bytes {
                kind: self.kind.short_name(),
                bytes,
            });
        }
        Ok(())
    }

    fn check_names(&self, names: &[String]) -> Result<(), LimitExceeded> {
        let bad = |name: &&String| {
            name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control)
        };
        match names.iter().find(bad) {
            None => Ok(()),
            Some(name) => Err(LimitExceeded::Name {
                kind: self.kind.short_name(),
                name: name.chars().take(80).collect(),
            }),
        }
    }

    /// What the client has from an earlier stream. Names that are too long are none of ours.
    fn remember(&mut self, initial: Vec<(String, String)>, view: View<'_>) {
        for (name, version) in initial.into_iter().filter(|(n, _)| n.len() <= MAX_NAME) {
            let entry = Version::parse(&version).map_or(UNTOLD, Entry::has);
            self.ledger.insert(view.intern(self.kind, &name), entry);
        }
    }

    fn follow_all(&mut self, answer: bool, view: View<'_>) {
        self.must_answer |= answer && !self.wildcard;
        let names = view.names(self.kind);
        if !self.wildcard && self.ledger.is_shared() {
            // Of what it did not follow we know nothing.
            for name in names.iter().filter(|name| !self.names.contains(name)) {
                self.ledger.forget(name);
            }
        }
        self.wildcard = true;
        self.dirty.extend(names);
        let known = self.ledger.differing().map(|(name, _)| Arc::clone(name));
        self.dirty.extend(known);
    }

    fn subscribe(&mut self, name: Arc<str>, first: bool) {
        self.explicit = true;
        let entry = self.ledger.entry(&name);
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
            self.ledger.retain(|name| names.contains(name));
            self.dirty.retain(|name| names.contains(name));
            return;
        }
        self.names.remove(name);
        if self.wildcard {
            // It is still covered: the client has forgotten it, and is told again.
            if self.ledger.get(name).is_some() {
                let name: Arc<str> = Arc::from(name);
                self.ledger.entry(&name).told = Told::Nothing;
                self.dirty.insert(name);
            }
        } else {
            self.ledger.forget(name);
            self.dirty.remove(name);
        }
    }

    fn take_world(
        &mut self,
        names: &[String],
        version: &str,
        nonce: &str,
        error: Option<String>,
        view: View<'_>,
    ) -> Result<Option<Refusal>, LimitExceeded> {
        if names.len() > MAX_NAMES {
            return Err(LimitExceeded::Names {
                kind: self.kind.short_name(),
                count: names.len(),
            });
        }
        self.check_names(names)?;
        self.check_bytes(0, names.iter())?;
        let first = !self.active;
        if !first && !nonce.is_empty() && nonce.parse() != Ok(self.last_nonce) {
            // Stale: the client will answer the newer response, with all its names.
            return Ok(None);
        }
        self.active = true;
        // One that asks for more repeats the nonce of what it has acknowledged already.
        let settled = self.settle(nonce, error, view);
        let all = names.iter().any(|name| name == WILDCARD)
            || (names.is_empty() && self.kind.is_root() && !self.explicit);
        let has_all = all && first && self.recognise(version, view);
        if all {
            if has_all {
                self.wildcard = true;
            } else if !self.wildcard {
                self.follow_all(true, view);
            }
        } else {
            self.wildcard = false;
        }
        self.explicit |= names.iter().any(|name| name != WILDCARD);
        let named = names.iter().map(String::as_str);
        self.replace_names(&named.filter(|name| *name != WILDCARD).collect(), view);
        self.must_answer |= first && !has_all;
        if !self.wildcard {
            let names = &self.names;
            self.ledger.retain(|name| names.contains(name));
            self.dirty.retain(|name| names.contains(name));
        }
        Ok(settled.refusal())
    }

    /// A client that came back says the version of the whole that it has. If that is what there
    /// is, it has all of it, and need not be sent it.
    fn recognise(&mut self, version: &str, view: View<'_>) -> bool {
        if Version::parse(version).is_none() || view.published.holds_any(self.kind) {
            return false;
        }
        let names = view.names(self.kind);
        let resources: Vec<_> = names
            .iter()
            .filter_map(|name| view.get(self.kind, name).cloned())
            .collect();
        let mut sorted = resources;
        sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if Version::parse(version) != Some(version_of(&sorted)) {
            return false;
        }
        self.ledger.set_base(view.published.map(self.kind));
        for resource in &sorted {
            if self.ledger.get(&resource.name) != Some(Entry::has(resource.version)) {
                let name = Arc::clone(&resource.name);
                self.ledger.insert(name, Entry::has(resource.version));
            }
        }
        true
    }

    fn replace_names(&mut self, wanted: &HashSet<&str>, view: View<'_>) {
        let gone: Vec<Arc<str>> = self
            .names
            .iter()
            .filter(|name| !wanted.contains(&***name))
            .cloned()
            .collect();
        for name in &gone {
            self.names.remove(name);
        }
        for name in wanted {
            if self.names.contains(name) {
                continue;
            }
            let name = view.intern(self.kind, name);
            self.must_answer = true;
            if !self.wildcard {
                self.ledger.forget(&name);
            }
            self.dirty.insert(Arc::clone(&name));
            self.names.insert(name);
        }
    }

    /// Takes an acknowledgement or refusal in.
    fn settle(&mut self, nonce: &str, error: Option<String>, view: View<'_>) -> Settled {
        let nonce: Option<u64> = nonce.parse().ok();
        let position = self
            .in_flight
            .iter()
            .position(|sent| Some(sent.nonce) == nonce);
        let Some(sent) = position.and_then(|position| self.in_flight.remove(position)) else {
            return Settled::Unknown;
        };
        if self.in_flight.is_empty() {
            // Most streams are silent most of the time: no memory is kept for the next burst.
            self.in_flight.shrink_to_fit();
        }
        match error {
            None => {
                self.acknowledge(sent, view);
                Settled::Acknowledged
            }
            Some(reason) => Settled::Refused(self.refuse(sent, &reason)),
        }
    }

    fn acknowledge(&mut self, sent: InFlight, view: View<'_>) {
        self.generation = self.generation.max(sent.generation);
        self.last_refusal = None;
        for (name, version) in sent.items {
            let Some(entry) = self.ledger.get(&name) else {
                continue;
            };
            self.ledger.entry(&name).acknowledged = version;
            if version.is_none() && entry.told == Told::Absent && !self.names.contains(&name) {
                self.ledger.forget(&name);
            }
        }
        self.share(view);
    }

    /// A client that has all that is published needs no record of its own of that.
    fn share(&mut self, view: View<'_>) {
        let at_rest = self.in_flight.is_empty()
            && self.dirty.is_empty()
            && self.refused.is_empty()
            && view.kept.is_empty()
            && !view.published.holds_any(self.kind);
        if !at_rest || !self.ledger.is_worth_sharing() {
            return;
        }
        let published = view.published.map(self.kind);
        self.names.share(published);
        let (wildcard, names) = (self.wildcard, &self.names);
        self.ledger
            .share(published, |name| wildcard || names.contains(name));
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
            let Some(entry) = self.ledger.get(&name) else {
                continue;
            };
            self.ledger.entry(&name).told = Told::Nothing;
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
