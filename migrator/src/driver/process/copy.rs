//! Copying a state directory: only the blocks that have changed.
//!
//! Blocking code for a blocking thread. Files may grow, shrink and vanish while they are copied:
//! what was read is what counts, and the next round (or the last one, at rest) finds the rest.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustix::fs::OFlags;

use super::manifest::{BLOCK, BlockHash, FileEntry, Manifest, Stamp};

/// Why a copy ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// The file system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Only regular files and directories can be copied.
    #[error("{} is {what}: a state directory may hold regular files and directories only", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The caller has given up.
    #[error("stopped before it was complete")]
    Stopped,
}

/// What may be believed about a file that looks unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// A settled stamp is enough.
    TrustStamps,
    /// Everything is read.
    Everything,
}

/// What a round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Copied {
    pub(super) total_bytes: u64,
    pub(super) copied_bytes: u64,
}

/// What is in a directory.
#[derive(Debug, Default)]
struct Listing {
    files: Vec<String>,
    folders: Vec<String>,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> CopyError + '_ {
    move |error| CopyError::Io {
        path: path.to_owned(),
        error,
    }
}

/// `None` where the thing has vanished.
fn unless_gone<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn list(root: &Path, under: &str, listing: &mut Listing) -> Result<(), CopyError> {
    let folder = root.join(under);
    let Some(entries) = unless_gone(fs::read_dir(&folder)).map_err(io_error(&folder))? else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry.map_err(io_error(&folder))?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            return Err(CopyError::Refused {
                path,
                what: "not named in UTF-8",
            });
        };
        let relative = if under.is_empty() {
            name
        } else {
            format!("{under}/{name}")
        };
        let Some(kind) = unless_gone(entry.file_type()).map_err(io_error(&path))? else {
            continue;
        };
        if kind.is_file() {
            listing.files.push(relative);
        } else if kind.is_dir() {
            listing.folders.push(relative.clone());
            list(root, &relative, listing)?;
        } else if kind.is_symlink() {
            return Err(CopyError::Refused {
                path,
                what: "a symbolic link",
            });
        } else {
            return Err(CopyError::Refused {
                path,
                what: "a special file",
            });
        }
    }
    Ok(())
}

/// Opens for reading what is still a regular file: neither a link nor a pipe that would block.
fn open_source(path: &Path) -> Result<Option<File>, CopyError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let Some(file) = unless_gone(opened).map_err(io_error(path))? else {
        return Ok(None);
    };
    if !file.metadata().map_err(io_error(path))?.is_file() {
        return Err(CopyError::Refused {
            path: path.to_owned(),
            what: "not a regular file",
        });
    }
    Ok(Some(file))
}

/// Fills as much of the buffer as there is.
fn read_block(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Hands every block of a file, up to the length it has now, to `each`.
fn each_block(
    path: &Path,
    file: &File,
    stop: &AtomicBool,
    mut each: impl FnMut(u64, &[u8], BlockHash) -> io::Result<()>,
) -> Result<u64, CopyError> {
    let len = file.metadata().map_err(io_error(path))?.len();
    let mut limited = file.take(len);
    let mut buffer = vec![0; BLOCK];
    let mut offset = 0;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(CopyError::Stopped);
        }
        let read = read_block(&mut limited, &mut buffer).map_err(io_error(path))?;
        if read == 0 {
            return Ok(offset);
        }
        let block = &buffer[..read];
        each(offset, block, *blake3::hash(block).as_bytes()).map_err(io_error(path))?;
        offset += read as u64;
    }
}

/// Reads a whole directory.
pub(super) fn scan(root: &Path, stop: &AtomicBool) -> Result<Manifest, CopyError> {
    let mut listing = Listing::default();
    list(root, "", &mut listing)?;
    let mut manifest = Manifest::default();
    manifest.folders.extend(listing.folders);
    for relative in listing.files {
        let path = root.join(&relative);
        let Some(file) = open_source(&path)? else {
            continue;
        };
        let meta = file.metadata().map_err(io_error(&path))?;
        let mut blocks = Vec::new();
        let len = each_block(&path, &file, stop, |_, _, hash| {
            blocks.push(hash);
            Ok(())
        })?;
        let mode = meta.permissions().mode() & 0o777;
        manifest.files.insert(
            relative,
            FileEntry {
                len,
                mode,
                blocks,
                stamp: None,
            },
        );
    }
    Ok(manifest)
}

/// Makes the target equal to the source. `manifest` says what the target holds, before and after;
/// after an error it is not to be believed.
pub(super) fn round(
    source: &Path,
    target: &Path,
    manifest: &mut Manifest,
    reading: Reading,
    stop: &AtomicBool,
) -> Result<Copied, CopyError> {
    if !source.is_dir() {
        let error = io::Error::from(io::ErrorKind::NotFound);
        return Err(CopyError::Io {
            path: source.to_owned(),
            error,
        });
    }
    let mut listing = Listing::default();
    list(source, "", &mut listing)?;
    remove_missing(target, manifest, &listing)?;
    for folder in listing.folders {
        let path = target.join(&folder);
        fs::create_dir_all(&path).map_err(io_error(&path))?;
        manifest.folders.insert(folder);
    }
    let mut copied = Copied::default();
    for relative in listing.files {
        let known = manifest.files.remove(&relative);
        let (from, to) = (source.join(&relative), target.join(&relative));
        match copy_file(&from, &to, known, reading, stop, &mut copied.copied_bytes)? {
            Some(entry) => {
                copied.total_bytes += entry.len;
                manifest.files.insert(relative, entry);
            }
            None => {
                unless_gone(fs::remove_file(&to)).map_err(io_error(&to))?;
            }
        }
    }
    Ok(copied)
}

/// What is not in the source any more (or is another kind of thing there) goes first.
fn remove_missing(
    target: &Path,
    manifest: &mut Manifest,
    listing: &Listing,
) -> Result<(), CopyError> {
    let files: std::collections::HashSet<&String> = listing.files.iter().collect();
    let folders: std::collections::HashSet<&String> = listing.folders.iter().collect();
    let gone = |path: &&String| !files.contains(*path);
    for relative in manifest
        .files
        .keys()
        .filter(gone)
        .cloned()
        .collect::<Vec<_>>()
    {
        let path = target.join(&relative);
        unless_gone(fs::remove_file(&path)).map_err(io_error(&path))?;
        manifest.files.remove(&relative);
    }
    let gone = |path: &&String| !folders.contains(*path);
    // The deepest first: a folder's path sorts before what is in it.
    for relative in manifest
        .folders
        .iter()
        .rev()
        .filter(gone)
        .cloned()
        .collect::<Vec<_>>()
    {
        let path = target.join(&relative);
        unless_gone(fs::remove_dir(&path)).map_err(io_error(&path))?;
        manifest.folders.remove(&relative);
    }
    Ok(())
}

/// Copies the blocks of one file that differ from what is known; `None` when it has vanished.
fn copy_file(
    from: &Path,
    to: &Path,
    known: Option<FileEntry>,
    reading: Reading,
    stop: &AtomicBool,
    copied: &mut u64,
) -> Result<Option<FileEntry>, CopyError> {
    let now = SystemTime::now();
    let Some(file) = open_source(from)? else {
        return Ok(None);
    };
    let meta = file.metadata().map_err(io_error(from))?;
    let stamp = Stamp::of(&meta);
    if let Some(known) = &known
        && reading == Reading::TrustStamps
        && known.stamp == Some(stamp)
    {
        return Ok(Some(known.clone()));
    }
    let is_new = known.is_none();
    let known = known.map_or_else(Vec::new, |known| known.blocks);
    let output = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(is_new)
        .open(to)
        .map_err(io_error(to))?;
    let mut blocks = Vec::with_capacity(known.len());
    let len = each_block(from, &file, stop, |offset, block, hash| {
        let there = known.get(blocks.len());
        // Past the target's end a hole reads as zeros, and stays a hole.
        let is_hole = there.is_none() && block.iter().all(|&byte| byte == 0);
        if there != Some(&hash) && !is_hole {
            output.write_all_at(block, offset)?;
            *copied += block.len() as u64;
        }
        blocks.push(hash);
        Ok(())
    })?;
    output.set_len(len).map_err(io_error(to))?;
    let mode = meta.permissions().mode() & 0o777;
    output
        .set_permissions(Permissions::from_mode(mode | 0o200))
        .map_err(io_error(to))?;
    let stamp = stamp.is_settled(now).then_some(stamp);
    Ok(Some(FileEntry {
        len,
        mode,
        blocks,
        stamp,
    }))
}

/// Bytes of the source's blocks that differ from the manifest: what the next round has to do.
pub(super) fn lag(source: &Path, manifest: &Manifest, stop: &AtomicBool) -> Result<u64, CopyError> {
    let mut listing = Listing::default();
    list(source, "", &mut listing)?;
    let mut bytes = 0;
    for relative in listing.files {
        let path = source.join(&relative);
        let Some(file) = open_source(&path)? else {
            continue;
        };
        let known = manifest.files.get(&relative);
        let stamp = Stamp::of(&file.metadata().map_err(io_error(&path))?);
        if known.is_some_and(|known| known.stamp == Some(stamp)) {
            continue;
        }
        let mut index = 0;
        each_block(&path, &file, stop, |_, block, hash| {
            if known.and_then(|known| known.blocks.get(index)) != Some(&hash) {
                bytes += block.len() as u64;
            }
            index += 1;
            Ok(())
        })?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let (source, target) = (root.path().join("s"), root.path().join("t"));
        fs::create_dir_all(&source).unwrap();
        fs::create_dir_all(&target).unwrap();
        (root, source, target)
    }

    fn sync(source: &Path, target: &Path, manifest: &mut Manifest) -> Copied {
        round(source, target, manifest, Reading::TrustStamps, &GO).unwrap()
    }

    #[test]
    fn only_the_block_that_changed_is_copied_again() {
        let (_root, source, target) = folders();
        fs::write(source.join("a"), vec![7; 10 * BLOCK]).unwrap();
        let mut manifest = Manifest::default();
        let first = sync(&source, &target, &mut manifest);
        assert_eq!((first.total_bytes, first.copied_bytes), (655_360, 655_360));

        let file = OpenOptions::new()
            .write(true)
            .open(source.join("a"))
            .unwrap();
        file.write_all_at(b"x", 3 * BLOCK as u64 + 5).unwrap();
        assert_eq!(lag(&source, &manifest, &GO).unwrap(), BLOCK as u64);
        let second = sync(&source, &target, &mut manifest);
        assert_eq!((second.total_bytes, second.copied_bytes), (655_360, 65_536));
        assert_eq!(
            fs::read(source.join("a")).unwrap(),
            fs::read(target.join("a")).unwrap()
        );
        assert_eq!(sync(&source, &target, &mut manifest).copied_bytes, 0);
    }

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::MetadataExt;
        let (_root, source, target) = folders();
        let file = File::create(source.join("a")).unwrap();
        file.set_len(16 * BLOCK as u64 + 9).unwrap();
        file.write_all_at(b"x", 5 * BLOCK as u64).unwrap();
        let copied = sync(&source, &target, &mut Manifest::default());
        assert_eq!(copied.copied_bytes, BLOCK as u64);
        assert_eq!(
            fs::read(source.join("a")).unwrap(),
            fs::read(target.join("a")).unwrap()
        );
        assert!(fs::metadata(target.join("a")).unwrap().blocks() * 512 < 8 * BLOCK as u64);
    }

    #[test]
    fn a_link_is_refused_by_name() {
        let (_root, source, target) = folders();
        std::os::unix::fs::symlink("/etc/passwd", source.join("bad")).unwrap();
        let error = round(
            &source,
            &target,
            &mut Manifest::default(),
            Reading::Everything,
            &GO,
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("/s/bad is a symbolic link"), "{error}");
    }

    #[test]
    fn a_stopped_copy_says_so() {
        let (_root, source, target) = folders();
        fs::write(source.join("a"), "x").unwrap();
        let stop = AtomicBool::new(true);
        let outcome = round(
            &source,
            &target,
            &mut Manifest::default(),
            Reading::Everything,
            &stop,
        );
        assert!(matches!(outcome, Err(CopyError::Stopped)));
    }

    /// A directory as a map; an empty `Vec` of children means nothing but files exist.
    fn tree() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
        let name = prop::sample::select(vec!["a", "b", "c", "d/a", "d/b", "d/e/a", "x/a"]);
        let content = (0_usize..200_000, any::<u8>()).prop_map(|(len, fill)| {
            let mut bytes = vec![fill; len];
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            bytes
        });
        prop::collection::btree_map(name.prop_map(str::to_owned), content, 0..6)
    }

    fn lay_out(root: &Path, tree: &BTreeMap<String, Vec<u8>>) {
        let _absent = fs::remove_dir_all(root);
        fs::create_dir_all(root).unwrap();
        for (path, bytes) in tree {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn whatever_changes_between_rounds_the_copy_ends_equal(trees in prop::collection::vec(tree(), 1..4)) {
            let (_root, source, target) = folders();
            let mut manifest = Manifest::default();
            for tree in &trees {
                lay_out(&source, tree);
                round(&source, &target, &mut manifest, Reading::TrustStamps, &GO).unwrap();
                let (ours, theirs) = (scan(&source, &GO).unwrap(), scan(&target, &GO).unwrap());
                prop_assert_eq!(ours.digest(), theirs.digest());
                prop_assert_eq!(manifest.digest(), theirs.digest());
            }
        }
    }
}
