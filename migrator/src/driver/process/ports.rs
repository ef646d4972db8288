//! Ports: free on this machine, and reserved by nobody under this root.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use super::fence::lock_file;
use super::record::{Folders, Record};

/// Gives out ports in turn: one that was given back is not soon used again, so a proxy that has
/// not heard of the change does not reach a stranger.
#[derive(Debug)]
pub(super) struct Ports {
    range: Range<u16>,
    next: AtomicU16,
    lock: PathBuf,
}

/// Whether a process could listen there now.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

impl Ports {
    /// Begins at a place that depends on the root, so that two roots seldom meet.
    pub(super) fn new(range: Range<u16>, hash: &[u8; 32], root: &Path) -> Self {
        let size = range.end - range.start;
        let offset = u16::from_le_bytes([hash[0], hash[1]]) % size;
        Self {
            next: AtomicU16::new(offset),
            range,
            lock: root.join("ports.lock"),
        }
    }

    /// Finds a port and reserves it by saving `record` with it.
    pub(super) fn reserve(&self, folders: &Folders, record: &mut Record) -> std::io::Result<()> {
        let _guard = lock_file(&self.lock)?;
        let taken: Vec<u16> = folders
            .all()
            .into_iter()
            .filter(|other| other.tag != record.tag)
            .map(|other| other.port)
            .collect();
        let size = self.range.end - self.range.start;
        for _ in 0..size {
            let offset = self.next.fetch_add(1, Ordering::Relaxed) % size;
            let port = self.range.start + offset;
            if !taken.contains(&port) && is_free(port) {
                record.port = port;
                return folders.save(record);
            }
        }
        Err(std::io::Error::other(format!(
            "no port is free in {}..{}",
            self.range.start, self.range.end
        )))
    }
}
