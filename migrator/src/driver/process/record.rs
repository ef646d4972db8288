//! `replica.json`: who runs under a tag.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use domain::{Endpoint, Host, InstanceId, InstanceSpec, MigrationId, Replica, Side};
use serde::{Deserialize, Serialize};

use super::proc::ProcessId;

/// How far a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// Directory and port exist.
    Prepared,
    /// Being started; there may be a process already.
    Starting,
    /// Was healthy.
    Running,
    /// Runs, but is being held at rest for a copy.
    Quiescing,
}

/// What a fork found, kept so that its repetition gives the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ForkNote {
    pub(super) op: String,
    pub(super) paused_us: u64,
    pub(super) copied_bytes: u64,
    pub(super) digest: String,
}

/// What is known of the replica under a tag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) tag: String,
    pub(super) side: Side,
    pub(super) spec: InstanceSpec,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) phase: Phase,
    pub(super) process: Option<ProcessId>,
    pub(super) fork: Option<ForkNote>,
}

impl Record {
    pub(super) fn new(tag: &str, side: Side, spec: &InstanceSpec, host: &Host) -> Self {
        Self {
            tag: tag.to_owned(),
            side,
            spec: spec.clone(),
            host: host.clone(),
            port: 0,
            phase: Phase::Prepared,
            process: None,
            fork: None,
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint((Ipv4Addr::LOCALHOST, self.port).into())
    }

    /// The process, if it lives.
    pub(super) fn alive(&self) -> Option<&ProcessId> {
        self.process.as_ref().filter(|process| process.is_alive())
    }

    /// The replica, if its process lives.
    pub(super) fn running(&self) -> Option<Replica> {
        self.alive().map(|process| Replica {
            host: self.host.id.clone(),
            endpoint: self.endpoint(),
            handle: process.handle(),
            tag: self.tag.clone(),
        })
    }
}

/// Paths under the root.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    root: PathBuf,
}

impl Folders {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.join("replicas"),
        }
    }

    pub(super) fn of(&self, tag: &str) -> PathBuf {
        self.root.join(tag)
    }

    pub(super) fn state(&self, tag: &str) -> PathBuf {
        self.of(tag).join("state")
    }

    pub(super) fn log(&self, tag: &str) -> PathBuf {
        self.of(tag).join("log")
    }

    pub(super) fn manifest(&self, tag: &str) -> PathBuf {
        self.of(tag).join("manifest")
    }

    /// The record under a tag. A text that is no tag has none.
    pub(super) fn load(&self, tag: &str) -> io::Result<Option<Record>> {
        if !is_tag(tag) {
            return Ok(None);
        }
        match fs::read(self.of(tag).join("replica.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the record as a whole, so that a crash leaves the old or the new one.
    pub(super) fn save(&self, record: &Record) -> io::Result<()> {
        let folder = self.of(&record.tag);
        fs::create_dir_all(folder.join("state"))?;
        let fresh = folder.join("replica.json.new");
        fs::write(&fresh, serde_json::to_vec_pretty(record)?)?;
        fs::rename(&fresh, folder.join("replica.json"))
    }

    /// All tags that have a directory, also a half-made one.
    pub(super) fn tags(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let mut tags: Vec<String> = names.filter(|name| is_tag(name)).collect();
        tags.sort();
        tags
    }

    /// All records that can be read.
    pub(super) fn all(&self) -> Vec<Record> {
        self.tags()
            .iter()
            .filter_map(|tag| self.load(tag).ok().flatten())
            .collect()
    }
}

/// Tags are ids, which keeps them inside the root.
pub(super) fn is_tag(text: &str) -> bool {
    InstanceId::new(text).is_ok() || MigrationId::new(text).is_ok()
}
