//! Which parts of an answer the original itself does not repeat.

use std::collections::HashMap;

use super::Answer;

/// Most parts that are remembered.
const MOST_PARTS: usize = 4_096;
/// A part is noise once it has differed this often …
const OFTEN: u64 = 2;
/// … and in at least one of so many pairs of answers.
const ONE_IN: u64 = 50;

#[derive(Debug, Clone, Copy, Default)]
struct Stat {
    asked: u64,
    differed: u64,
}

/// What is known of the original's parts, by the first segment of the path and the part's name.
#[derive(Debug, Default)]
pub(crate) struct Noise {
    stats: HashMap<(String, String), Stat>,
}

impl Noise {
    /// Whether a part is left out.
    pub(crate) fn covers(&self, group: &str, part: &str) -> bool {
        // A borrowed pair cannot be looked up in a map of owned ones.
        let key = (group.to_owned(), part.to_owned());
        self.stats
            .get(&key)
            .is_some_and(|stat| stat.differed >= OFTEN && stat.differed * ONE_IN >= stat.asked)
    }

    /// The parts of two answers that are left out.
    pub(crate) fn of(&self, group: &str, answers: &[&Answer]) -> Vec<String> {
        let names = answers.iter().flat_map(|answer| &answer.parts);
        let mut names: Vec<&String> = names.map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .filter(|name| self.covers(group, name))
            .cloned()
            .collect()
    }

    /// Two answers of the original to the same request.
    pub(crate) fn learn(&mut self, group: &str, one: &Answer, other: &Answer) {
        let differing = one.differing(other);
        let names = one.parts.iter().chain(&other.parts).map(|(name, _)| name);
        let mut names: Vec<&String> = names.collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let key = (group.to_owned(), name.clone());
            if self.stats.len() >= MOST_PARTS && !self.stats.contains_key(&key) {
                continue;
            }
            let stat = self.stats.entry(key).or_default();
            stat.asked += 1;
            stat.differed += u64::from(differing.contains(&&**name));
        }
    }
}
