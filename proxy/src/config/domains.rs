//! Domains: which virtual host an authority belongs to.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// Virtual hosts by domain, searched as Envoy does: exact, longest suffix pattern (`*.a`), longest
/// prefix pattern (`a.*`, `a:*`), `*`. A `*` in a pattern stands for at least one character.
#[derive(Debug, Clone)]
pub struct DomainMap<T> {
    exact: HashMap<String, T>,
    suffixes: BTreeMap<Reverse<usize>, HashMap<String, T>>,
    prefixes: BTreeMap<Reverse<usize>, HashMap<String, T>>,
    any: Option<T>,
}

impl<T> Default for DomainMap<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            suffixes: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            any: None,
        }
    }
}

impl<T> DomainMap<T> {
    /// Adds a domain.
    ///
    /// # Errors
    /// The reason, if it is taken or no domain.
    pub fn insert(&mut self, domain: &str, value: T) -> Result<(), &'static str> {
        let domain = domain.to_ascii_lowercase();
        let taken = if domain == "*" {
            self.any.replace(value).is_some()
        } else if domain.is_empty() {
            return Err("a domain must not be empty");
        } else if let Some(suffix) = domain.strip_prefix('*') {
            Self::check(suffix)?;
            let same_length = self.suffixes.entry(Reverse(suffix.len())).or_default();
            same_length.insert(suffix.to_owned(), value).is_some()
        } else if let Some(prefix) = domain.strip_suffix('*') {
            Self::check(prefix)?;
            let same_length = self.prefixes.entry(Reverse(prefix.len())).or_default();
            same_length.insert(prefix.to_owned(), value).is_some()
        } else {
            Self::check(&domain)?;
            self.exact.insert(domain, value).is_some()
        };
        if taken {
            Err("the domain occurs twice")
        } else {
            Ok(())
        }
    }

    fn check(text: &str) -> Result<(), &'static str> {
        if text.contains('*') {
            return Err("a domain has at most one '*', at its beginning or its end");
        }
        Ok(())
    }

    /// All values, once per domain.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        let suffixes = self.suffixes.values().flat_map(HashMap::values);
        let prefixes = self.prefixes.values().flat_map(HashMap::values);
        self.exact
            .values()
            .chain(suffixes)
            .chain(prefixes)
            .chain(&self.any)
    }

    /// The value of the best match.
    pub fn get(&self, authority: &str) -> Option<&T> {
        let authority = lower_case(authority);
        let length = authority.len();
        if let Some(value) = self.exact.get(&*authority) {
            return Some(value);
        }
        let shorter = |map: &'_ BTreeMap<Reverse<usize>, _>| !map.is_empty() && length > 0;
        if shorter(&self.suffixes) {
            for (size, same_length) in self.suffixes.range(Reverse(length - 1)..) {
                let end = authority.get(length - size.0..);
                if let Some(value) = end.and_then(|end| same_length.get(end)) {
                    return Some(value);
                }
            }
        }
        if shorter(&self.prefixes) {
            for (size, same_length) in self.prefixes.range(Reverse(length - 1)..) {
                let start = authority.get(..size.0);
                if let Some(value) = start.and_then(|start| same_length.get(start)) {
                    return Some(value);
                }
            }
        }
        self.any.as_ref()
    }
}

/// In lower case; copied only if it is not already.
fn lower_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}
