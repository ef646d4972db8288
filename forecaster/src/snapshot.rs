//! The history on disk, so that a restart does not forget two weeks.
//!
//! # Format
//! `FSHIST01`, then per series: instance (length, bytes), resource, step length, newest step,
//! newest sample's time, number of values, values as 32-bit floats; at the end the SHA-256 of all
//! before. Numbers are little-endian. Written beside the old file, synced, and put in its place,
//! so that a crash leaves the old or the new one. A file that is not whole is refused as a whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use domain::{InstanceId, Resource};
use sha2::{Digest, Sha256};

use crate::history::Series;

/// Name of the file inside its folder.
const NAME: &str = "history.bin";
const MAGIC: &[u8; 8] = b"FSHIST01";
const HASH: usize = 32;
/// Most values per series that any version has written.
const WRITTEN_AT_MOST: usize = 4_032;
/// Largest file that is read.
const MAX_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// A series with its name.
pub type Named = ((InstanceId, Resource), Series);

/// Why a snapshot was not written, or is not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system's words.
    #[error("history snapshot {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A file that is not what was written.
    #[error("history snapshot {path} is refused: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Writes a snapshot into a folder, which is made if it is missing.
///
/// # Errors
/// [`SnapshotError::Io`]; the snapshot before is then still there.
pub fn save<'a>(
    folder: &Path,
    series: impl Iterator<Item = (&'a (InstanceId, Resource), &'a Series)>,
) -> Result<(), SnapshotError> {
    let path = folder.join(NAME);
    write(folder, &path, series).map_err(|source| SnapshotError::Io { path, source })
}

fn write<'a>(
    folder: &Path,
    path: &Path,
    series: impl Iterator<Item = (&'a (InstanceId, Resource), &'a Series)>,
) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let new = path.with_extension("new");
    let file = File::create(&new)?;
    let mut out = Hashing {
        to: BufWriter::new(&file),
        hash: Sha256::new(),
    };
    out.put(MAGIC)?;
    for ((instance, resource), series) in series {
        put_series(&mut out, instance, *resource, series)?;
    }
    let hash = out.hash.finalize();
    out.to.write_all(&hash)?;
    out.to.flush()?;
    drop(out.to);
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

fn put_series<W: Write>(
    out: &mut Hashing<W>,
    instance: &InstanceId,
    resource: Resource,
    series: &Series,
) -> io::Result<()> {
    let (Some(step), Some(at)) = (series.newest_step(), series.newest_at_ms()) else {
        return Ok(());
    };
    let name = instance.as_str().as_bytes();
    let too_long = |_| io::Error::other("a name or a history is too long");
    out.put(&[u8::try_from(name.len()).map_err(too_long)?])?;
    out.put(name)?;
    out.put(&[code(resource)])?;
    for number in [series.step_ms(), step, at] {
        out.put(&number.to_le_bytes())?;
    }
    let values = series.values();
    out.put(&u32::try_from(values.len()).map_err(too_long)?.to_le_bytes())?;
    for value in values {
        #[expect(clippy::cast_possible_truncation, reason = "the model computes in f32")]
        let value = value as f32;
        out.put(&value.to_le_bytes())?;
    }
    Ok(())
}

struct Hashing<W> {
    to: W,
    hash: Sha256,
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes)
    }
}

/// Reads the snapshot of a folder; nothing when there is none.
///
/// # Errors
/// [`SnapshotError`] when there is one that cannot be used.
pub fn restore(folder: &Path) -> Result<Vec<Named>, SnapshotError> {
    let path = folder.join(NAME);
    let size = match fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(SnapshotError::Io { path, source }),
    };
    let corrupt = |path, reason: &str| SnapshotError::Corrupt {
        path,
        reason: reason.to_owned(),
    };
    if size > MAX_BYTES {
        return Err(corrupt(
            path,
            &format!("{size} bytes; allowed is {MAX_BYTES}"),
        ));
    }
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(SnapshotError::Io { path, source }),
    };
    parse(&bytes).map_err(|reason| corrupt(path, reason))
}

fn parse(bytes: &[u8]) -> Result<Vec<Named>, &'static str> {
    const SHORT: &str = "it is too short to be one";
    let body = bytes.len().checked_sub(HASH).ok_or(SHORT)?;
    let (body, hash) = bytes.split_at(body);
    if Sha256::digest(body).as_slice() != hash {
        return Err("its SHA-256 does not fit: it is damaged or not whole");
    }
    let mut rest = body
        .strip_prefix(MAGIC)
        .ok_or("it begins as another format")?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        found.push(take_series(&mut rest).ok_or("a series in it is not whole")?);
    }
    Ok(found)
}

fn take_series(rest: &mut &[u8]) -> Option<Named> {
    let [length] = take(rest)?;
    let (name, after) = rest.split_at_checked(usize::from(length))?;
    *rest = after;
    let instance = InstanceId::new(std::str::from_utf8(name).ok()?).ok()?;
    let [resource] = take(rest)?;
    let resource = Resource::ALL.into_iter().find(|&r| code(r) == resource)?;
    let step_ms = u64::from_le_bytes(take(rest)?);
    let step = u64::from_le_bytes(take(rest)?);
    let at = u64::from_le_bytes(take(rest)?);
    let count = usize::try_from(u32::from_le_bytes(take(rest)?)).ok()?;
    if count > WRITTEN_AT_MOST || step_ms == 0 || at / step_ms != step {
        return None;
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let value = f64::from(f32::from_le_bytes(take(rest)?));
        values.push(value.is_finite().then_some(value));
    }
    let mut series = Series::new(step_ms);
    series.preload(&values, at);
    Some(((instance, resource), series))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

const fn code(resource: Resource) -> u8 {
    match resource {
        Resource::Cpu => 0,
        Resource::Memory => 1,
        Resource::NetRx => 2,
        Resource::NetTx => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<Named> {
        let mut cpu = Series::new(1_000);
        cpu.push(5_250, 120.0, u64::MAX);
        cpu.push(8_500, 80.5, u64::MAX);
        let mut memory = Series::new(1_000);
        memory.push(8_500, 1_048_576.0, u64::MAX);
        let name = |text| InstanceId::new(text).unwrap();
        vec![
            ((name("a1"), Resource::Cpu), cpu),
            ((name("a1"), Resource::Memory), memory),
        ]
    }

    fn saved(folder: &Path) -> PathBuf {
        save(folder, known().iter().map(|(key, series)| (key, series))).unwrap();
        folder.join(NAME)
    }

    #[test]
    fn what_was_saved_comes_back_with_its_gaps() {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path());
        let back = restore(folder.path()).unwrap();
        assert_eq!(back.len(), 2);
        for ((key, before), (found, after)) in known().into_iter().zip(back) {
            assert_eq!(key, found);
            assert_eq!(before.newest_at_ms(), after.newest_at_ms());
            let bits = |series: &Series| series.values().map(f64::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(&before), bits(&after));
        }
    }

    #[test]
    fn nothing_saved_is_nothing_known_and_no_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(restore(folder.path()).unwrap().is_empty());
        assert!(restore(&folder.path().join("missing")).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_snapshot_is_refused_wherever_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let file = saved(folder.path());
        let whole = fs::read(&file).unwrap();
        for cut in [0, 7, 8, 40, whole.len() - 1] {
            fs::write(&file, &whole[..cut]).unwrap();
            assert!(restore(folder.path()).is_err(), "cut at {cut}");
        }
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            fs::write(&file, &bytes).unwrap();
            assert!(restore(folder.path()).is_err(), "bit flipped at {place}");
        }
    }

    #[test]
    fn a_whole_file_of_another_make_is_refused() {
        let with_hash = |body: &[u8]| [body, Sha256::digest(body).as_slice()].concat();
        assert!(parse(&with_hash(b"FSHIST99")).is_err());
        assert!(parse(&with_hash(b"FSHIST01\x02a1\x09")).is_err());
        assert_eq!(parse(&with_hash(b"FSHIST01")).unwrap().len(), 0);
    }
}
