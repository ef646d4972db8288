//! The line of a configuration file on which a field stands, for errors that are found after the
//! file was parsed.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A step on the way to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field of a mapping.
    Field(String),
    /// An element of a list, from 0.
    Element(usize),
}

impl From<&str> for Step {
    fn from(field: &str) -> Self {
        Self::Field(field.to_owned())
    }
}

impl From<usize> for Step {
    fn from(element: usize) -> Self {
        Self::Element(element)
    }
}

/// A file without its values: what stands where.
#[derive(Debug)]
enum Tree {
    Mapping(BTreeMap<String, Spanned<Tree>>),
    List(Vec<Spanned<Tree>>),
    Value,
}

/// The line (from 1) of the field at `path`, or of the closest thing around it that the file has.
/// None for a file that is no YAML, or when not even the first step is there.
pub(crate) fn line_of(text: &str, path: &[Step]) -> Option<u64> {
    let mut tree: Tree = serde_saphyr::from_str(text).ok()?;
    let mut line = None;
    for step in path {
        let next = match (tree, step) {
            (Tree::Mapping(mut fields), Step::Field(name)) => fields.remove(name),
            (Tree::List(mut elements), Step::Element(index)) if *index < elements.len() => {
                Some(elements.swap_remove(*index))
            }
            (Tree::Mapping(_) | Tree::List(_) | Tree::Value, _) => None,
        };
        let Some(next) = next else { break };
        line = Some(next.referenced.line());
        tree = next.value;
    }
    line
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((name, value)) = map.next_entry()? {
            fields.insert(name, value);
        }
        Ok(Tree::Mapping(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(Tree::List(elements))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Value)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Value)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Value)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Value)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Value)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Value)
    }

    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "data: d\nhosts:\n  - id: a\n  - id: b\n    capacity:\n      cpu: -5\n";

    #[test]
    fn the_deepest_step_that_is_there_gives_the_line() {
        let cpu: [Step; 4] = ["hosts".into(), 1.into(), "capacity".into(), "cpu".into()];
        assert_eq!(line_of(TEXT, &cpu), Some(6));
        assert_eq!(
            line_of(TEXT, &["hosts".into(), 1.into(), "cpus".into()]),
            Some(4)
        );
        assert_eq!(line_of(TEXT, &["page".into()]), None);
        assert_eq!(line_of("a: [", &["a".into()]), None);
    }
}
