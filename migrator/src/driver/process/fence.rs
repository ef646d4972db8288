//! The fence: the highest epoch seen, on disk before anything is done in its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use domain::Epoch;
use rustix::fs::{FlockOperation, flock};

use super::failed;
use crate::driver::DriverError;

/// Refuses stale leaders. Several drivers may share a root: the file decides, under a lock.
#[derive(Debug)]
pub(super) struct Fence {
    file: PathBuf,
    lock: PathBuf,
}

impl Fence {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            file: root.join("epoch"),
            lock: root.join("epoch.lock"),
        }
    }

    /// Admits an operation of this epoch and remembers the epoch.
    pub(super) fn admit(&self, operation: &'static str, ours: Epoch) -> Result<(), DriverError> {
        let io = |error: io::Error| failed(operation, self.file.display().to_string(), error);
        let guard = lock_file(&self.lock).map_err(io)?;
        let seen = self.read().map_err(io)?;
        if ours < seen {
            return Err(DriverError::Fenced {
                operation,
                ours,
                seen,
            });
        }
        if ours > seen {
            self.write(ours).map_err(io)?;
        }
        drop(guard);
        Ok(())
    }

    fn read(&self) -> io::Result<Epoch> {
        match fs::read_to_string(&self.file) {
            Ok(text) => text.trim().parse().map(Epoch).map_err(|_| {
                // Guessing an epoch could let a stale leader in.
                io::Error::new(io::ErrorKind::InvalidData, "it does not hold a number")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Epoch(0)),
            Err(error) => Err(error),
        }
    }

    fn write(&self, epoch: Epoch) -> io::Result<()> {
        let fresh = self.file.with_extension("new");
        let mut file = File::create(&fresh)?;
        writeln!(file, "{epoch}")?;
        file.sync_all()?;
        fs::rename(&fresh, &self.file)?;
        match self.file.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// Holds a lock file until dropped; short sections only.
pub(super) fn lock_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_epoch_is_refused_also_by_another_driver_over_the_same_root() {
        let root = tempfile::tempdir().unwrap();
        Fence::new(root.path()).admit("fork", Epoch(7)).unwrap();
        let other = Fence::new(root.path());
        let error = other.admit("fork", Epoch(6)).unwrap_err();
        assert_eq!(
            error,
            DriverError::Fenced {
                operation: "fork",
                ours: Epoch(6),
                seen: Epoch(7)
            }
        );
        other.admit("fork", Epoch(7)).unwrap();
    }

    #[test]
    fn a_damaged_epoch_file_lets_nobody_in() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("epoch"), "x").unwrap();
        assert!(Fence::new(root.path()).admit("fork", Epoch(9)).is_err());
    }
}
