//! Ports: free on this machine, and reserved by nobody under this root.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fence::lock_file;
use super::record::{Folders, Record};

/// How long another process may be at the same.
const PATIENCE: Duration = Duration::from_secs(5);

/// Gives out ports in turn: one that was given back is not soon used again, so a proxy that has
/// not heard of the change does not reach a stranger. Whose turn it is stands in a file, for the
/// next process, and for another one over the same root.
#[derive(Debug)]
pub(super) struct Ports {
    range: Range<u16>,
    first: u16,
    next: PathBuf,
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
        Self {
            first: u16::from_le_bytes([hash[0], hash[1]]) % size,
            range,
            next: root.join("ports.next"),
            lock: root.join("ports.lock"),
        }
    }

    /// Finds a port and reserves it by saving `record` with it.
    pub(super) async fn reserve(
        &self,
        folders: &Folders,
        record: &mut Record,
    ) -> std::io::Result<()> {
        let _guard = lock_file(&self.lock, PATIENCE).await?;
        let taken: Vec<u16> = folders
            .all()
            .into_iter()
            .filter(|other| other.tag != record.tag)
            .map(|other| other.port)
            .collect();
        let size = self.range.end - self.range.start;
        let begin = self.turn(size);
        for step in 0..size {
            // Both are below the size, and a port is below 32 768.
            let offset = (begin + step) % size;
            let port = self.range.start + offset;
            if !taken.contains(&port) && is_free(port) {
                self.pass_on((offset + 1) % size)?;
                record.port = port;
                return folders.save(record);
            }
        }
        Err(std::io::Error::other(format!(
            "no port is free in {}..{}",
            self.range.start, self.range.end
        )))
    }

    /// Whose turn it is. Without a file that says so it is the first one's.
    fn turn(&self, size: u16) -> u16 {
        let text = std::fs::read_to_string(&self.next).unwrap_or_default();
        text.trim().parse().unwrap_or(self.first) % size
    }

    /// Written before the port is used, and as a whole.
    fn pass_on(&self, offset: u16) -> std::io::Result<()> {
        let fresh = self.next.with_extension("new");
        std::fs::write(&fresh, format!("{offset}\n"))?;
        std::fs::rename(fresh, &self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tag: &str) -> Record {
        let spec = serde_json::json!({"id": "a1", "service": "shop", "argv": ["server"]});
        let host = serde_json::json!({"id": "host-a", "capacity": {}});
        Record::new(
            tag,
            domain::Side::Shadow,
            &serde_json::from_value(spec).unwrap(),
            &serde_json::from_value(host).unwrap(),
        )
    }

    async fn give(root: &Path, tag: &str) -> u16 {
        // A process of its own each time: nothing is remembered but by the root.
        let ports = Ports::new(24_000..24_500, &[7; 32], root);
        let folders = Folders::new(root);
        let mut record = record(tag);
        ports.reserve(&folders, &mut record).await.unwrap();
        record.port
    }

    #[tokio::test]
    async fn a_port_that_was_given_back_is_not_the_next_one_also_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let first = give(root.path(), "m-1").await;
        // It has ended, and nothing is left of it.
        std::fs::remove_dir_all(Folders::new(root.path()).of("m-1")).unwrap();
        let mut given = vec![first];
        for number in 2..12 {
            let tag = format!("m-{number}");
            let port = give(root.path(), &tag).await;
            assert!(!given.contains(&port), "{port} again, after {given:?}");
            given.push(port);
            std::fs::remove_dir_all(Folders::new(root.path()).of(&tag)).unwrap();
        }
        // A file that says nothing costs no more than the turn.
        std::fs::write(root.path().join("ports.next"), "x").unwrap();
        assert_eq!(give(root.path(), "m-20").await, first);
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_the_ports_and_stands_still_is_named_in_time() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("ports.lock");
        let _stands_still = lock_file(&path, PATIENCE).await.unwrap();
        let error = lock_file(&path, Duration::from_millis(30)).await;
        let words = error.unwrap_err().to_string();
        let own = std::process::id().to_string();
        assert!(
            words.contains("ports.lock") && words.contains(&own),
            "{words}"
        );
    }
}
