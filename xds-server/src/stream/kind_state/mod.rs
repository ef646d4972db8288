//! The state of one resource type on one stream: what it is asked ([`intake`]), and what it says.

mod intake;
mod view;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

pub use intake::{LimitExceeded, MAX_NAMES};
pub(super) use view::View;

use super::message::{Protocol, Response};
use crate::resources::{Resource, ResourceType, Version};

/// Most responses of a type that wait for their acknowledgement.
const MAX_IN_FLIGHT: usize = 4;

/// What a client has been told about a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Nothing that counts: it must be told.
    Nothing,
    /// That it does not exist.
    Absent,
    /// This version.
    Version(Version),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    told: Told,
    acknowledged: Option<Version>,
}

const UNTOLD: Entry = Entry {
    told: Told::Nothing,
    acknowledged: None,
};

/// A response that waits for its acknowledgement.
#[derive(Debug)]
struct InFlight {
    nonce: String,
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
    names: HashSet<Arc<str>>,
    entries: HashMap<Arc<str>, Entry>,
    /// Names that may have to be told about.
    dirty: BTreeSet<Arc<str>>,
    in_flight: VecDeque<InFlight>,
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
            names: HashSet::new(),
            entries: HashMap::new(),
            dirty: BTreeSet::new(),
            in_flight: VecDeque::new(),
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

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn follows(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// The version that the client has acknowledged, if it has not been told anything else since:
    /// what is on the way may be older than what is published, even if the two versions around it
    /// are the same.
    pub(super) fn acknowledged(&self, name: &str) -> Option<Version> {
        let entry = self.entries.get(name)?;
        entry
            .acknowledged
            .filter(|&version| entry.told == Told::Version(version))
    }

    /// Whether the client may have the resource in any version.
    pub(super) fn may_have(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| {
            entry.acknowledged.is_some() || matches!(entry.told, Told::Version(_))
        })
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

    pub(super) fn changed(&mut self, name: &Arc<str>) {
        if self.follows(name) {
            self.dirty.insert(Arc::clone(name));
        }
    }

    /// Has the resource told again even if it did not change, if the client follows it already.
    pub(super) fn force(&mut self, name: &Arc<str>) {
        if let Some(entry) = self.entries.get_mut(name)
            && matches!(entry.told, Told::Version(_))
        {
            entry.told = Told::Nothing;
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
            let entry = self.entries.get(&name).copied().unwrap_or(UNTOLD);
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
            self.generation = self.generation.max(view.published.generation);
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
            let told = self
                .entries
                .get(name)
                .map_or(Told::Nothing, |entry| entry.told);
            match view.get(self.kind, name) {
                Some(resource) => told != Told::Version(resource.version),
                None => matches!(told, Told::Version(_)) && self.kind.is_root(),
            }
        });
        if !differs && !self.must_answer {
            self.dirty.clear();
            return None;
        }
        let mut names = if self.wildcard {
            view.names(self.kind)
        } else {
            Vec::new()
        };
        names.extend(self.names.iter().cloned());
        names.sort_unstable();
        names.dedup();
        let resources: Vec<Arc<Resource>> = names
            .iter()
            .filter_map(|name| view.get(self.kind, name).cloned())
            .collect();
        if resources.iter().any(|resource| self.is_refused(resource)) {
            // Nothing can be said without it: what a response leaves out counts as gone.
            return None;
        }
        self.dirty.clear();
        let gone = self
            .entries
            .keys()
            .filter(|name| view.get(self.kind, name).is_none());
        let removed = gone.cloned().collect();
        Some((resources, removed))
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
            let entry = self
                .entries
                .entry(Arc::clone(&resource.name))
                .or_insert(UNTOLD);
            entry.told = Told::Version(resource.version);
            items.push((Arc::clone(&resource.name), Some(resource.version)));
        }
        for name in &removed {
            let entry = self.entries.entry(Arc::clone(name)).or_insert(UNTOLD);
            entry.told = Told::Absent;
            items.push((Arc::clone(name), None));
        }
        let nonce = nonce.to_string();
        let generation = view.published.generation;
        self.in_flight.push_back(InFlight {
            nonce: nonce.clone(),
            items,
            generation,
        });
        let version = Version::of_all(resources.iter().map(|r| (&*r.name, r.version)));
        Response {
            kind: self.kind,
            nonce,
            version,
            resources,
            removed,
        }
    }
}

type Content = (Vec<Arc<Resource>>, Vec<Arc<str>>);
