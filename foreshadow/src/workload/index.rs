//! The materialised index: slots in shard files, and the position they have reached.
//!
//! A slot is chosen by the key's hash alone and holds the last record for it. So the index at a
//! position is a function of the journal up to there. A slot knows the position of its last record,
//! and one from before that is not applied again.
//! Keys whose slots meet replace each other: the index is a bounded view, the journal the truth.
//!
//! The `position` file is one line: position, the position that the batch under way will reach,
//! the boot, a checksum. It is written before and after each batch.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::journal::{Change, MAX_KEY, MAX_VALUE, Record};

/// Bytes of a slot: position (8), lengths (2), spare (6), key, value.
const SLOT: usize = 16 + MAX_KEY + MAX_VALUE;

/// Where the index stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reached {
    /// Everything before this is applied.
    pub(super) position: u64,
    /// Something before this may be applied.
    pub(super) upto: u64,
}

/// The state of an instance.
#[derive(Debug)]
pub(super) struct Index {
    folder: PathBuf,
    shards: Vec<Shard>,
    place: File,
    boot: String,
    reached: Reached,
}

#[derive(Debug)]
struct Shard {
    file: File,
    bytes: Vec<u8>,
    hash: [u8; 32],
    is_hashed: bool,
}

/// The position of a slot's record; 0 for an empty one.
fn position_of(slot: &[u8]) -> u64 {
    let bytes = slot.iter().take(8).rev();
    bytes.fold(0, |sum, &byte| (sum << 8) | u64::from(byte))
}

/// A slot's value, if it is of this key.
fn value_in<'a>(slot: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let (key_len, value_len) = (usize::from(slot[8]), usize::from(slot[9]));
    let is_it = slot.get(16..16 + key_len)? == key.as_bytes();
    is_it.then(|| slot.get(16 + MAX_KEY..16 + MAX_KEY + value_len))?
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Identity of the running boot: after another one, unsynced writes may be lost.
fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

fn place_line(reached: Reached, boot: &str) -> String {
    let payload = format!("{:020} {:020} {boot}", reached.position, reached.upto);
    format!(
        "{payload} {}\n",
        &blake3::hash(payload.as_bytes()).to_hex()[..16]
    )
}

fn parse_place(text: &str, boot: &str) -> Option<Reached> {
    let (payload, sum) = text.trim_end().rsplit_once(' ')?;
    if blake3::hash(payload.as_bytes()).to_hex()[..16] != *sum {
        return None;
    }
    let mut words = payload.split(' ');
    let reached = Reached {
        position: words.next()?.parse().ok()?,
        upto: words.next()?.parse().ok()?,
    };
    (words.next()? == boot).then_some(reached)
}

impl Index {
    /// Opens the index, or makes an empty one where there is none that can be trusted.
    pub(super) fn open(folder: &Path, shards: usize, shard_bytes: usize) -> io::Result<Self> {
        fs::create_dir_all(folder.join("shards"))?;
        let open = |path: PathBuf| {
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)
        };
        let place = open(folder.join("position"))?;
        let boot = boot();
        let text = io::read_to_string(&place)?;
        let size = u64::try_from(shard_bytes).unwrap_or(u64::MAX);
        let mut reached = parse_place(&text, &boot);
        let mut files = Vec::with_capacity(shards);
        for number in 0..shards {
            let file = open(folder.join("shards").join(format!("{number:04}")))?;
            // Another layout than ours: what is there means nothing to us.
            if file.metadata()?.len() != size {
                reached = None;
            }
            files.push(file);
        }
        let mut loaded = Vec::with_capacity(shards);
        for file in files {
            let mut bytes = vec![0; shard_bytes];
            if reached.is_some() {
                file.read_exact_at(&mut bytes, 0)?;
            } else {
                file.write_all_at(&bytes, 0)?;
                file.set_len(size)?;
            }
            loaded.push(Shard {
                file,
                bytes,
                hash: [0; 32],
                is_hashed: false,
            });
        }
        let folder = folder.to_owned();
        let reached = reached.unwrap_or_default();
        let this = Self {
            folder,
            shards: loaded,
            place,
            boot,
            reached,
        };
        this.note()?;
        Ok(this)
    }

    pub(super) const fn reached(&self) -> Reached {
        self.reached
    }

    fn note(&self) -> io::Result<()> {
        self.place
            .write_all_at(place_line(self.reached, &self.boot).as_bytes(), 0)
    }

    /// Announces that records up to a position will be applied.
    pub(super) fn begin(&mut self, upto: u64) -> io::Result<()> {
        self.reached.upto = self.reached.upto.max(upto);
        self.note()
    }

    /// Notes that all that was announced is applied.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.note()
    }

    /// Applies the record that ends at `end`; `None` is a damaged line, which only moves on.
    pub(super) fn apply(&mut self, record: Option<&Record>, end: u64) -> io::Result<()> {
        if let Some(record) = record {
            let (shard, offset) = self.slot_of(&record.key);
            let held = &self.shards[shard].bytes[offset..offset + SLOT];
            if position_of(held) >= end {
                self.reached.position = end;
                return Ok(());
            }
            let value = match &record.change {
                Change::Set(value) => value.clone(),
                Change::Add(more) => {
                    let now = value_in(held, &record.key).and_then(number).unwrap_or(0);
                    now.saturating_add(*more).to_string().into_bytes()
                }
            };
            let mut slot = [0; SLOT];
            slot[..8].copy_from_slice(&end.to_le_bytes());
            slot[8] = u8::try_from(record.key.len()).unwrap_or(u8::MAX);
            slot[9] = u8::try_from(value.len()).unwrap_or(u8::MAX);
            slot[16..16 + record.key.len()].copy_from_slice(record.key.as_bytes());
            let place = 16 + MAX_KEY;
            slot[place..place + value.len()].copy_from_slice(&value);
            let shard = &mut self.shards[shard];
            shard.file.write_all_at(&slot, offset as u64)?;
            shard.bytes[offset..offset + SLOT].copy_from_slice(&slot);
            shard.is_hashed = false;
        }
        self.reached.position = end;
        Ok(())
    }

    /// Shard and offset of a key's slot.
    fn slot_of(&self, key: &str) -> (usize, usize) {
        let hash = blake3::hash(key.as_bytes());
        let word = |at: usize| {
            let bytes = &hash.as_bytes()[at..at + 4];
            bytes
                .iter()
                .fold(0_usize, |sum, &byte| (sum << 8) | usize::from(byte))
        };
        let shard = word(0) % self.shards.len();
        let slots = self.shards[shard].bytes.len() / SLOT;
        (shard, (word(4) % slots) * SLOT)
    }

    /// The value of a key, and the position of the record that set it.
    pub(super) fn get(&self, key: &str) -> Option<(Vec<u8>, u64)> {
        let (shard, offset) = self.slot_of(key);
        let slot = &self.shards[shard].bytes[offset..offset + SLOT];
        let value = value_in(slot, key)?;
        Some((value.to_vec(), position_of(slot)))
    }

    /// BLAKE3 over the shards' hashes. Only shards that have changed are hashed again.
    pub(super) fn digest(&mut self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for shard in &mut self.shards {
            if !shard.is_hashed {
                shard.hash = *blake3::hash(&shard.bytes).as_bytes();
                shard.is_hashed = true;
            }
            hasher.update(&shard.hash);
        }
        *hasher.finalize().as_bytes()
    }

    /// A part of the state to work on: the same for everyone who asks with the same number.
    pub(super) fn sample(&self, number: u64, into: &mut [u8]) {
        let count = u64::try_from(self.shards.len()).unwrap_or(1).max(1);
        let shard = usize::try_from(number % count).unwrap_or_default();
        let bytes = &self.shards[shard].bytes;
        let len = bytes.len().min(into.len());
        into[..len].copy_from_slice(&bytes[..len]);
    }

    /// Where it lives, for messages.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> Record {
        Record {
            key: key.to_owned(),
            change: Change::Set(value.as_bytes().to_vec()),
        }
    }

    #[test]
    fn a_number_counts_every_addition_once_also_when_a_batch_is_applied_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = Index::open(folder.path(), 8, 1024).unwrap();
        let one = Record {
            key: "count".to_owned(),
            change: Change::Add(2),
        };
        let add = |index: &mut Index| {
            index.begin(5).unwrap();
            for end in 1..=5 {
                index.apply(Some(&one), end).unwrap();
            }
            index.finish().unwrap();
        };
        let before = fs::read(folder.path().join("position")).unwrap();
        add(&mut index);
        assert_eq!(index.get("count"), Some((b"10".to_vec(), 5)));
        // The shards are ahead of the position, as when the process dies in the batch.
        fs::write(folder.path().join("position"), before).unwrap();
        let mut again = Index::open(folder.path(), 8, 1024).unwrap();
        assert_eq!(again.reached().position, 0);
        add(&mut again);
        assert_eq!(again.get("count"), Some((b"10".to_vec(), 5)));
        // What was no number counts from 0.
        again.apply(Some(&record("count", "word")), 6).unwrap();
        again.apply(Some(&one), 7).unwrap();
        assert_eq!(again.get("count"), Some((b"2".to_vec(), 7)));
    }

    fn fill(index: &mut Index, from: u64, to: u64) {
        index.begin(to).unwrap();
        for number in from..to {
            let record = record(&format!("key-{}", number % 40), &number.to_string());
            index.apply(Some(&record), number + 1).unwrap();
        }
        index.finish().unwrap();
    }

    #[test]
    fn what_was_applied_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = Index::open(folder.path(), 8, 1024).unwrap();
        fill(&mut index, 0, 100);
        let digest = index.digest();
        let mut again = Index::open(folder.path(), 8, 1024).unwrap();
        assert_eq!(
            again.reached(),
            Reached {
                position: 100,
                upto: 100
            }
        );
        assert_eq!(again.digest(), digest);
        assert_eq!(again.get("key-39"), index.get("key-39"));
    }

    #[test]
    fn a_crash_in_a_batch_is_healed_by_applying_it_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = Index::open(folder.path(), 8, 1024).unwrap();
        fill(&mut index, 0, 50);
        let saved = fs::read(folder.path().join("position")).unwrap();
        fill(&mut index, 50, 90);
        let digest = index.digest();
        // The shards are ahead of the position, as when the process dies in the batch.
        fs::write(folder.path().join("position"), saved).unwrap();
        let mut again = Index::open(folder.path(), 8, 1024).unwrap();
        assert_eq!(again.reached().position, 50);
        fill(&mut again, 50, 90);
        assert_eq!(again.digest(), digest);
    }

    #[test]
    fn a_position_that_cannot_be_trusted_means_an_empty_index() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = Index::open(folder.path(), 8, 1024).unwrap();
        let empty = index.digest();
        fill(&mut index, 0, 50);
        fs::write(folder.path().join("position"), "rubbish").unwrap();
        let mut again = Index::open(folder.path(), 8, 1024).unwrap();
        assert_eq!(
            (again.reached(), again.digest()),
            (Reached::default(), empty)
        );
    }
}
