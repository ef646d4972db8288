//! What a directory holds, block by block.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Size of a block.
pub(super) const BLOCK: usize = 64 * 1024;

/// A change younger than this when the file was read may have been followed by another with the
/// same time.
const SETTLED_AFTER_NS: i128 = 1_000_000_000;

/// Hash of a block.
pub(super) type BlockHash = [u8; 32];

/// What the file system says of a file. An equal stamp that had settled means equal content,
/// except for writes through a memory map, which reach the stamp late: the copy at rest therefore
/// reads everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    inode: u64,
    len: u64,
    modified_ns: i64,
    changed_ns: i64,
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000) + rest;
        Self {
            inode: meta.ino(),
            len: meta.len(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether no later change can hide behind this stamp, if the file is read from `now` on.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        i128::try_from(now).unwrap_or(0) - i128::from(self.changed_ns) >= SETTLED_AFTER_NS
    }
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    pub(super) len: u64,
    pub(super) mode: u32,
    pub(super) blocks: Vec<BlockHash>,
    /// The source's stamp at the time of reading, if it had settled.
    pub(super) stamp: Option<Stamp>,
}

/// A directory: paths relative to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) files: BTreeMap<String, FileEntry>,
    pub(super) folders: BTreeSet<String>,
}

impl Manifest {
    /// BLAKE3 over names, lengths and blocks, hex. Independent of times and modes.
    pub(super) fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut text = |kind: &[u8; 1], path: &str| {
            hasher
                .update(kind)
                .update(&(path.len() as u64).to_le_bytes())
                .update(path.as_bytes());
        };
        self.folders.iter().for_each(|path| text(b"d", path));
        for (path, file) in &self.files {
            hasher
                .update(b"f")
                .update(&(path.len() as u64).to_le_bytes())
                .update(path.as_bytes());
            hasher.update(&file.len.to_le_bytes());
            file.blocks.iter().for_each(|block| {
                hasher.update(block);
            });
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The saved manifest; `None` when there is none or it is damaged, which means: read anew.
    pub(super) fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(self)?)?;
        fs::rename(fresh, path)
    }

    /// Removes the saved manifest: what it describes is about to change.
    pub(super) fn forget(path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
