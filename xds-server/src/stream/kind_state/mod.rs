//! The state of one resource type on one stream: what it is asked ([`intake`]), what the client
//! has ([`ledger`]), and what it is told next.

mod intake;
mod ledger;
mod view;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

pub use intake::{LimitExceeded, MAX_NAME, MAX_NAME_BYTES, MAX_NAMES};
use ledger::{Entry, Ledger, Names, Told, UNTOLD};
pub(super) use view::View;

use super::message::{Protocol, Response};
use crate::resources::{Resource, ResourceType, Version};

/// Most responses of a type that wait for their acknowledgement.
const MAX_IN_FLIGHT: usize = 4;

/// A response that waits for its acknowledgement.
#[derive(Debug)]
struct InFlight {
    nonce: u64,
    items: Vec<(Arc<str>, Option<Version>)>,
    generation: u64,
}

#[derive(Debug)]
pub(super) struct KindState {
    kind: ResourceType,
    active: bool,
    wildcard: bool,
    /// Whether names have ever been given: an empty list then means none, not all.
    explicit: bool,
    names: Names,
    ledger: Ledger,
    /// Names that may have to be told about.
    dirty: BTreeSet<Arc<str>>,
    in_flight: VecDeque<InFlight>,
    /// Of the newest response; 0 before the first.
    last_nonce: u64,
    refused: HashMap<(Arc<str>, Version), Arc<str>>,
    last_refusal: Option<Arc<str>>,
    /// The client waits for a response even if it is empty.
    must_answer: bool,
    generation: u64,
}

impl KindState {
    pub(super) fn new(kind: ResourceType) -> Self {
        Self {
            kind,
            active: false,
            wildcard: false,
            explicit: false,
            names: Names::default(),
            ledger: Ledger::default(),
            dirty: BTreeSet::new(),
            in_flight: VecDeque::new(),
            last_nonce: 0,
            refused: HashMap::new(),
            last_refusal: None,
            must_answer: false,
            generation: 0,
        }
    }

    pub(super) const fn is_active(&self) -> bool {
        self.active
    }

    pub(super) const fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether everything that was sent has been answered.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn follows(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Names that the client has asked for one by one.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.iter()
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        self.ledger.get(name).filter(|_| self.follows(name))
    }

    /// The version that the client has acknowledged, if it has not been told anything else since:
    /// what is on the way may be older than what is published, even if the two versions around it
    /// are the same.
    pub(super) fn acknowledged(&self, name: &str) -> Option<Version> {
        let entry = self.entry(name)?;
        entry
            .acknowledged
            .filter(|&version| entry.told == Told::Version(version))
    }

    /// Whether the client may have the resource in any version.
    pub(super) fn may_have(&self, name: &str) -> bool {
        self.entry(name).is_some_and(|entry| {
            entry.acknowledged.is_some() || matches!(entry.told, Told::Version(_))
        })
    }

    /// The version that the client was told last, if it was told one.
    pub(super) fn told(&self, name: &str) -> Option<Version> {
        match self.entry(name)?.told {
            Told::Version(version) => Some(version),
            Told::Nothing | Told::Absent => None,
        }
    }

    pub(super) fn refusal(&self, name: &str, version: Version) -> Option<&str> {
        if self.refused.is_empty() {
            return None;
        }
        self.refused
            .get(&(Arc::from(name), version))
            .map(|reason| &**reason)
    }

    pub(super) fn last_refusal(&self) -> Option<&str> {
        self.last_refusal.as_deref()
    }

    /// Notes a refusal from an earlier stream of the same client.
    pub(super) fn recall(&mut self, name: Arc<str>, version: Version, reason: Arc<str>) {
        self.refused.insert((name, version), reason);
    }

    /// Whether the client wants to know.
    pub(super) fn changed(&mut self, name: &Arc<str>) -> bool {
        let follows = self.follows(name);
        if follows {
            self.dirty.insert(Arc::clone(name));
        }
        follows
    }

    /// Has the resource told again even if it did not change, if the client follows it already.
    pub(super) fn force(&mut self, name: &Arc<str>) {
        if let Some(entry) = self.entry(name)
            && matches!(entry.told, Told::Version(_))
        {
            self.ledger.entry(name).told = Told::Nothing;
            self.dirty.insert(Arc::clone(name));
        }
    }

    pub(super) fn next_response(
        &mut self,
        protocol: Protocol,
        view: View<'_>,
        nonce: u64,
        keep: bool,
    ) -> Option<Response> {
        if !self.active || (self.dirty.is_empty() && !self.must_answer) {
            return None;
        }
        let (resources, removed) = match protocol {
            Protocol::Delta => self.delta_content(view, keep),
            Protocol::StateOfTheWorld => self.world_content(view),
        }?;
        self.must_answer = false;
        Some(self.send(resources, removed, nonce, view))
    }

    /// A response that says no more than that what the client has lives on. Only while nothing
    /// else is under way.
    pub(super) fn heartbeat(&mut self, view: View<'_>, nonce: u64) -> Option<Response> {
        if !self.active || !self.in_flight.is_empty() || !self.dirty.is_empty() {
            return None;
        }
        let names = if self.wildcard {
            view.names(self.kind)
        } else {
            self.names.iter().cloned().collect()
        };
        let alive = names.iter().filter_map(|name| {
            let resource = view.get(self.kind, name)?;
            (self.acknowledged(name) == Some(resource.version)).then(|| Arc::clone(resource))
        });
        let alive: Vec<_> = alive.collect();
        if alive.is_empty() {
            return None;
        }
        let mut response = self.send(alive, Vec::new(), nonce, view);
        response.is_heartbeat = true;
        Some(response)
    }

    /// What differs from what the client has been told.
    fn delta_content(&mut self, view: View<'_>, keep: bool) -> Option<Content> {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let busy = !self.in_flight.is_empty();
        let (mut resources, mut removed) = (Vec::new(), Vec::new());
        for name in std::mem::take(&mut self.dirty) {
            if !self.follows(&name) {
                continue;
            }
            let known = self.ledger.get(&name);
            let entry = known.unwrap_or(UNTOLD);
            let wait = match (view.get(self.kind, &name), entry.told) {
                (Some(resource), Told::Version(told)) if resource.version == told => {
                    self.note_current(&entry, resource.version, view);
                    false
                }
                (None, Told::Absent) => false,
                (Some(resource), _) if self.is_refused(resource) => false,
                // A published change waits for the acknowledgement of the one before; the answer
                // to a subscription does not.
                (_, Told::Version(_) | Told::Absent) if busy => true,
                (Some(resource), _) => {
                    resources.push(Arc::clone(resource));
                    false
                }
                (None, Told::Version(_)) if !self.kind.is_root() => false,
                // It never heard of it, and did not ask for it by name.
                (None, Told::Nothing) if known.is_none() && !self.names.contains(&name) => false,
                (None, _) if keep => true,
                (None, _) => {
                    removed.push(Arc::clone(&name));
                    false
                }
            };
            if wait {
                self.dirty.insert(name);
            }
        }
        let due = self.must_answer || !resources.is_empty() || !removed.is_empty();
        due.then_some((resources, removed))
    }

    /// A client that came back may have the newest routes already.
    fn note_current(&mut self, entry: &Entry, version: Version, view: View<'_>) {
        if self.kind == ResourceType::Route && entry.acknowledged == Some(version) {
            self.generation = self.generation.max(view.generation());
        }
    }

    fn is_refused(&self, resource: &Resource) -> bool {
        self.refusal(&resource.name, resource.version).is_some()
    }

    /// All that the client wants, if something in it differs from what it has been told.
    fn world_content(&mut self, view: View<'_>) -> Option<Content> {
        if !self.in_flight.is_empty() {
            return None;
        }
        let differs = self.dirty.iter().any(|name| {
            let told = self.entry(name).map_or(Told::Nothing, |entry| entry.told);
            match view.get(self.kind, name) {
                Some(resource) => told != Told::Version(resource.version),
                None => matches!(told, Told::Version(_)) && self.kind.is_root(),
            }
        });
        if !differs && !self.must_answer {
            self.dirty.clear();
            return None;
        }
        let resources = self.world(view);
        if resources.iter().any(|resource| self.is_refused(resource)) {
            // Nothing can be said without it: what a response leaves out counts as gone.
            return None;
        }
        self.dirty.clear();
        let gone = self
            .ledger
            .names()
            .filter(|name| self.follows(name) && view.get(self.kind, name).is_none());
        let removed = gone.cloned().collect();
        Some((resources, removed))
    }

    /// All that the client wants and that there is.
    fn world(&self, view: View<'_>) -> Vec<Arc<Resource>> {
        let mut names = if self.wildcard {
            view.names(self.kind)
        } else {
            Vec::new()
        };
        names.extend(self.names.iter().cloned());
        names.sort_unstable();
        names.dedup();
        names
            .iter()
            .filter_map(|name| view.get(self.kind, name).cloned())
            .collect()
    }

    fn send(
        &mut self,
        resources: Vec<Arc<Resource>>,
        removed: Vec<Arc<str>>,
        nonce: u64,
        view: View<'_>,
    ) -> Response {
        let mut items = Vec::with_capacity(resources.len() + removed.len());
        for resource in &resources {
            self.ledger.entry(&resource.name).told = Told::Version(resource.version);
            items.push((Arc::clone(&resource.name), Some(resource.version)));
        }
        for name in &removed {
            self.ledger.entry(name).told = Told::Absent;
            items.push((Arc::clone(name), None));
        }
        self.last_nonce = nonce;
        self.in_flight.push_back(InFlight {
            nonce,
            items,
            generation: view.generation(),
        });
        Response {
            kind: self.kind,
            nonce: nonce.to_string(),
            version: version_of(&resources),
            resources,
            removed,
            ttl: None,
            is_heartbeat: false,
        }
    }
}

fn version_of(resources: &[Arc<Resource>]) -> Version {
    Version::of_all(resources.iter().map(|r| (&*r.name, r.version)))
}

type Content = (Vec<Arc<Resource>>, Vec<Arc<str>>);
