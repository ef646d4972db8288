//! The shared journal: one line per record, appended by whoever writes, followed by all.
//!
//! ```text
//! <16 hex digits of the BLAKE3 of the rest> <key> <value in hex>\n
//! <16 hex digits of the BLAKE3 of the rest> <key>+ <number>\n
//! ```
//! A line is written by a single `write` to a file opened for appending, which Linux places at the
//! end as a whole. A position is a number of bytes. A damaged line is passed over by every
//! follower alike, so they agree all the same.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Longest key, in bytes.
pub(super) const MAX_KEY: usize = 40;

/// Longest value, in bytes.
pub(super) const MAX_VALUE: usize = 72;

/// More than the longest line: what holds no line end within this is damage.
const MAX_LINE: usize = 512;

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: String,
    pub(super) change: Change,
}

/// What becomes of a key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It is this.
    Set(Vec<u8>),
    /// It is a number, and this much more.
    Add(u64),
}

/// What a reader found at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The record; `None` for a damaged line.
    pub(super) record: Option<Record>,
    /// The position after it.
    pub(super) end: u64,
}

/// Whether a text may be a key.
pub(super) fn is_key(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(allowed)
}

fn checksum(payload: &str) -> String {
    blake3::hash(payload.as_bytes()).to_hex()[..16].to_owned()
}

fn encode(record: &Record) -> String {
    use std::fmt::Write as _;
    let payload = match &record.change {
        Change::Set(value) => {
            let mut payload = format!("{} ", record.key);
            for byte in value {
                let _infallible = write!(payload, "{byte:02x}");
            }
            payload
        }
        Change::Add(number) => format!("{}+ {number}", record.key),
    };
    format!("{} {payload}\n", checksum(&payload))
}

fn decode(line: &str) -> Option<Record> {
    let (sum, payload) = line.split_once(' ')?;
    if sum != checksum(payload) {
        return None;
    }
    let (key, change) = payload.split_once(' ')?;
    let (key, change) = if let Some(key) = key.strip_suffix('+') {
        (key, Change::Add(change.parse().ok()?))
    } else {
        let digits = change.as_bytes().chunks(2);
        let value: Option<Vec<u8>> = digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        let value = value.filter(|value| value.len() <= MAX_VALUE)?;
        (key, Change::Set(value))
    };
    is_key(key).then(|| Record {
        key: key.to_owned(),
        change,
    })
}

/// Appends records.
#[derive(Debug)]
pub(super) struct Writer {
    file: Mutex<File>,
}

impl Writer {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            file: Mutex::new(file),
        })
    }

    /// Appends a record, and gives the position after it.
    pub(super) fn append(&self, record: &Record) -> io::Result<u64> {
        let line = encode(record);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.write(line.as_bytes())?;
        if written < line.len() {
            // A full disk: end the torn line, so that the next record begins on one of its own.
            let _full = file.write(b"\n");
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        // The kernel has moved the offset of this descriptor to the end of what it wrote.
        file.stream_position()
    }

    /// Appends what another replica has appended.
    pub(super) fn append_raw(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(bytes)
    }
}

/// Reads records in order.
#[derive(Debug)]
pub(super) struct Reader {
    file: File,
    path: PathBuf,
    /// Bytes read and not yet given out.
    buffer: Vec<u8>,
    /// The position of the first of them.
    position: u64,
}

impl Reader {
    /// Begins at a position.
    pub(super) fn open(path: &Path, position: u64) -> io::Result<Self> {
        let this = Self {
            file: File::open(path)?,
            path: path.to_owned(),
            buffer: Vec::new(),
            position,
        };
        let len = this.len()?;
        if position > len {
            let reason = format!("position {position} is past the end of the journal at {len}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(this)
    }

    /// How long the journal is now.
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// The next entries, at most a chunk's; none when there is nothing new.
    pub(super) fn read(&mut self) -> io::Result<Vec<Entry>> {
        let mut chunk = vec![0; CHUNK];
        let read = self
            .file
            .read_at(&mut chunk, self.position + self.buffer.len() as u64)?;
        self.buffer.extend_from_slice(&chunk[..read]);
        let mut entries = Vec::new();
        let mut used = 0;
        while let Some(len) = self.buffer[used..].iter().position(|&byte| byte == b'\n') {
            let line = std::str::from_utf8(&self.buffer[used..used + len]).ok();
            used += len + 1;
            let record = line.and_then(decode);
            let end = self.position + used as u64;
            if record.is_none() {
                tracing::warn!(journal = %self.path.display(), end, "passed over a damaged line");
            }
            entries.push(Entry { record, end });
        }
        self.buffer.drain(..used);
        self.position += used as u64;
        if self.buffer.len() > CHUNK.max(MAX_LINE) {
            let reason = format!("{} holds no records", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(entries)
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
    fn what_several_writers_append_is_read_whole_and_in_one_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    let journal = Writer::open(path).unwrap();
                    for index in 0..50 {
                        journal
                            .append(&record(&format!("k{writer}"), &index.to_string()))
                            .unwrap();
                    }
                });
            }
        });
        let mut reader = Reader::open(&path, 0).unwrap();
        let entries = reader.read().unwrap();
        assert_eq!(entries.len(), 200);
        assert!(entries.iter().all(|entry| entry.record.is_some()));
        assert_eq!(
            entries.last().unwrap().end,
            std::fs::metadata(&path).unwrap().len()
        );
    }

    #[test]
    fn the_position_of_an_append_is_where_a_reader_finds_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (one, two) = (Writer::open(&path).unwrap(), Writer::open(&path).unwrap());
        let ends = [
            one.append(&record("a", "1")),
            two.append(&record("b", "2")),
            one.append(&record("c", "3")),
        ];
        let mut reader = Reader::open(&path, 0).unwrap();
        let found: Vec<u64> = reader
            .read()
            .unwrap()
            .iter()
            .map(|entry| entry.end)
            .collect();
        assert_eq!(found, ends.map(Result::unwrap));
    }

    #[test]
    fn a_damaged_line_is_passed_over_and_a_torn_one_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let line = encode(&record("a", "1"));
        std::fs::write(&path, format!("rubbish\n{line}{}", &line[..10])).unwrap();
        let mut reader = Reader::open(&path, 0).unwrap();
        let entries = reader.read().unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].record.clone(), entries[0].end), (None, 8));
        std::fs::write(&path, format!("rubbish\n{line}{line}")).unwrap();
        assert_eq!(reader.read().unwrap()[0].record, Some(record("a", "1")));
    }
}
