//! What a client has been told and has acknowledged, name by name.
//!
//! A fleet of clients that all have the same resources would cost a map per client. So a ledger is
//! a *base*, shared with what is published, and what differs from it: a client that has
//! acknowledged everything costs a pointer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::resources::{Resources, Version};

/// From how many entries on a ledger is worth sharing.
const WORTH: usize = 16;
/// From how many names on a subscription is worth sharing.
const NAMES_WORTH: usize = 64;

/// What a client has been told about a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing that counts: it must be told.
    Nothing,
    /// That it does not exist.
    Absent,
    /// This version.
    Version(Version),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) told: Told,
    pub(super) acknowledged: Option<Version>,
}

pub(super) const UNTOLD: Entry = Entry {
    told: Told::Nothing,
    acknowledged: None,
};

impl Entry {
    pub(super) const fn has(version: Version) -> Self {
        Self {
            told: Told::Version(version),
            acknowledged: Some(version),
        }
    }
}

/// What a client has, name by name.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    base: Option<Arc<Resources>>,
    differing: HashMap<Arc<str>, Entry>,
}

impl Ledger {
    /// A client that has exactly this.
    pub(super) fn set_base(&mut self, base: &Arc<Resources>) {
        self.base = Some(Arc::clone(base));
        self.differing = HashMap::new();
    }

    fn in_base(&self, name: &str) -> Option<Entry> {
        let resource = self.base.as_ref()?.get(name)?;
        Some(Entry::has(resource.version))
    }

    pub(super) fn get(&self, name: &str) -> Option<Entry> {
        if let Some(entry) = self.differing.get(name) {
            return Some(*entry);
        }
        self.in_base(name)
    }

    /// The entry of a name, to be changed; a new one says nothing.
    pub(super) fn entry(&mut self, name: &Arc<str>) -> &mut Entry {
        let from_base = self.in_base(name).unwrap_or(UNTOLD);
        self.differing.entry(Arc::clone(name)).or_insert(from_base)
    }

    pub(super) fn insert(&mut self, name: Arc<str>, entry: Entry) {
        self.differing.insert(name, entry);
    }

    /// The client has it no more, or we know nothing of it any more.
    pub(super) fn forget(&mut self, name: &str) {
        let shared = self.base.as_ref().and_then(|base| base.get_key_value(name));
        if let Some((name, _)) = shared {
            self.differing.insert(Arc::clone(name), UNTOLD);
        } else {
            self.differing.remove(name);
        }
    }

    /// Names that are known to differ from the base.
    pub(super) fn differing(&self) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.differing.iter()
    }

    /// All names that are known.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let base = self.base.iter().flat_map(|base| base.keys());
        let base = base.filter(|name| !self.differing.contains_key(*name));
        self.differing.keys().chain(base)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let base = self.base.clone();
        let in_base = |name: &str| base.as_ref().is_some_and(|base| base.contains_key(name));
        for (name, entry) in &mut self.differing {
            if !keep(name) {
                *entry = UNTOLD;
            }
        }
        self.differing
            .retain(|name, entry| *entry != UNTOLD || in_base(name));
    }

    /// Whether it has a base.
    pub(super) const fn is_shared(&self) -> bool {
        self.base.is_some()
    }

    /// Whether it has grown enough to be worth sharing.
    pub(super) fn is_worth_sharing(&self) -> bool {
        self.differing.len() >= WORTH
    }

    /// Shares what is published, if the client has exactly that of all that it `follows`.
    pub(super) fn share(&mut self, published: &Arc<Resources>, follows: impl Fn(&str) -> bool) {
        let same = self.differing.iter().all(|(name, entry)| {
            if !follows(name) {
                return true;
            }
            match published.get(name) {
                Some(resource) => *entry == Entry::has(resource.version),
                None => !matches!(entry.told, Told::Version(_)) && entry.acknowledged.is_none(),
            }
        });
        if same {
            self.set_base(published);
        }
    }
}

/// Names that a client has subscribed to, shared with what is published when they are the same.
#[derive(Debug, Default)]
pub(super) struct Names {
    base: Option<Arc<Resources>>,
    more: HashSet<Arc<str>>,
    less: HashSet<Arc<str>>,
    /// Bytes of the names that are not shared.
    bytes: usize,
}

impl Names {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.more.contains(name) || (self.in_base(name) && !self.less.contains(name))
    }

    fn in_base(&self, name: &str) -> bool {
        self.base
            .as_ref()
            .is_some_and(|base| base.contains_key(name))
    }

    pub(super) fn len(&self) -> usize {
        let base = self.base.as_ref().map_or(0, |base| base.len());
        (base + self.more.len()).saturating_sub(self.less.len())
    }

    /// Adds a name. Whether it is new.
    pub(super) fn insert(&mut self, name: Arc<str>) -> bool {
        if self.contains(&name) {
            return false;
        }
        if !self.less.remove(&name) {
            self.bytes += name.len();
            self.more.insert(name);
        }
        true
    }

    /// Bytes of the names that are a client's own.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn remove(&mut self, name: &str) {
        if self.more.remove(name) {
            self.bytes -= name.len();
        }
        let shared = self.base.as_ref().and_then(|base| base.get_key_value(name));
        if let Some((name, _)) = shared {
            self.less.insert(Arc::clone(name));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        let base = self.base.iter().flat_map(|base| base.keys());
        base.filter(|name| !self.less.contains(*name))
            .chain(&self.more)
    }

    /// Shares what is published if the names are the same.
    pub(super) fn share(&mut self, published: &Arc<Resources>) {
        let worth = self.more.len() >= NAMES_WORTH && self.len() == published.len();
        if worth && published.keys().all(|name| self.contains(name)) {
            *self = Self {
                base: Some(Arc::clone(published)),
                ..Self::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{Resource, configuration};

    fn resources(count: usize, content: u8) -> Arc<Resources> {
        let one = |number| {
            let name: Arc<str> = Arc::from(format!("c{number:03}"));
            let resource = Resource {
                name: Arc::clone(&name),
                version: Version::of(&[content]),
                any: configuration([]).any,
            };
            (name, Arc::new(resource))
        };
        Arc::new((0..count).map(one).collect())
    }

    #[test]
    fn a_client_that_has_everything_costs_nothing_and_is_known_to_have_it() {
        let published = resources(100, 1);
        let mut ledger = Ledger::default();
        for (name, resource) in published.iter() {
            ledger.insert(Arc::clone(name), Entry::has(resource.version));
        }
        assert!(ledger.is_worth_sharing());
        ledger.share(&published, |_| true);
        assert_eq!(ledger.differing().count(), 0);
        assert_eq!(ledger.names().count(), 100);
        let has = Entry::has(Version::of(&[1]));
        assert_eq!(ledger.get("c042"), Some(has));
        ledger.forget("c042");
        assert_eq!(ledger.get("c042"), Some(UNTOLD));
        assert_eq!(ledger.get("c043"), Some(has));
        // One that lacks something is not taken for one that has it all.
        ledger.share(&published, |_| true);
        assert_eq!(ledger.get("c042"), Some(UNTOLD));
    }

    #[test]
    fn what_a_client_has_is_what_it_acknowledged_and_not_what_is_published_since() {
        let (before, after) = (resources(20, 1), resources(20, 2));
        let mut ledger = Ledger::default();
        ledger.set_base(&before);
        assert_eq!(ledger.get("c001"), Some(Entry::has(Version::of(&[1]))));
        ledger.entry(&Arc::from("c001")).told = Told::Nothing;
        ledger.share(&after, |_| true);
        assert_eq!(
            ledger.get("c001").unwrap().acknowledged,
            Some(Version::of(&[1]))
        );
    }

    #[test]
    fn names_are_the_same_shared_or_not() {
        let published = resources(100, 1);
        let mut names = Names::default();
        for name in published.keys() {
            assert!(names.insert(Arc::clone(name)));
        }
        names.share(&published);
        assert!(names.more.is_empty());
        assert_eq!(names.len(), 100);
        names.remove("c007");
        assert!(!names.contains("c007"));
        assert_eq!((names.len(), names.iter().count()), (99, 99));
        assert!(names.insert(Arc::from("other")));
        assert!(names.insert(Arc::from("c007")));
        assert!(!names.insert(Arc::from("c008")));
        assert_eq!((names.len(), names.iter().count()), (101, 101));
        assert_eq!(names.bytes(), "other".len());
        names.remove("other");
        assert_eq!(names.bytes(), 0);
    }
}
