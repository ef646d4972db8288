//! What happened, as lines for people and as a hash for the comparison of two runs.

use std::fmt::Write as _;

use tokio::time::Instant;

use super::clock::millis;

/// The history of one run.
pub(crate) struct History {
    began: Instant,
    hash: blake3::Hasher,
    lines: Vec<String>,
}

impl History {
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            began,
            hash: blake3::Hasher::new(),
            lines: Vec::new(),
        }
    }

    /// Something that a reader wants to know.
    pub(crate) fn say(&mut self, what: &str) {
        let at = millis(self.began);
        let mut line = String::new();
        let _ = write!(line, "{:>4}.{:03} s  {what}", at / 1_000, at % 1_000);
        self.hash.update(line.as_bytes());
        self.lines.push(line);
    }

    /// Something too small for a reader, which must be the same in every run all the same.
    pub(crate) fn note(&mut self, number: u64) {
        self.hash.update(&number.to_le_bytes());
    }

    pub(crate) fn hash(&self) -> String {
        self.hash.finalize().to_hex().chars().take(16).collect()
    }

    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }
}
