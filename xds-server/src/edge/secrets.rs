//! Secrets from a folder: `NAME.crt` with `NAME.key`, and authorities `NAME.ca`. Looked at once a
//! second, so that what is rotated there reaches the nodes without a restart. A file that is gone
//! for a moment takes nothing away: a secret goes when its files have been gone twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::hub::Command;
use crate::resources::{Resource, ResourceType, Version, authority, certificate};

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Largest file that is taken for a secret.
const MAX_FILE: u64 = 1024 * 1024;

/// The folder, and what was published of it.
pub(crate) struct SecretFolder {
    folder: PathBuf,
    published: BTreeMap<Arc<str>, Version>,
    missing: BTreeMap<Arc<str>, u32>,
}

impl SecretFolder {
    pub(crate) const fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            published: BTreeMap::new(),
            missing: BTreeMap::new(),
        }
    }

    /// Follows the folder until cancelled.
    pub(crate) async fn run(mut self, hub: mpsc::Sender<Command>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let folder = self.folder.clone();
            let Ok(Ok(found)) = tokio::task::spawn_blocking(move || read(&folder)).await else {
                tracing::warn!(folder = %self.folder.display(), "secrets cannot be read");
                continue;
            };
            for (name, resource) in self.changes(found) {
                let command = Command::Extra(ResourceType::Secret, name, resource.map(Arc::new));
                if hub.send(command).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What differs from what was published.
    fn changes(
        &mut self,
        found: BTreeMap<Arc<str>, Resource>,
    ) -> Vec<(Arc<str>, Option<Resource>)> {
        let mut changes = Vec::new();
        let gone: Vec<Arc<str>> = self
            .published
            .keys()
            .filter(|name| !found.contains_key(*name))
            .cloned()
            .collect();
        self.missing.retain(|name, _| gone.contains(name));
        for name in gone {
            let times = self.missing.entry(Arc::clone(&name)).or_default();
            *times += 1;
            if *times > 1 {
                self.missing.remove(&name);
                self.published.remove(&name);
                changes.push((name, None));
            }
        }
        for (name, resource) in found {
            let known = self.published.insert(Arc::clone(&name), resource.version);
            if known != Some(resource.version) {
                changes.push((name, Some(resource)));
            }
        }
        changes
    }
}

fn read(folder: &Path) -> std::io::Result<BTreeMap<Arc<str>, Resource>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let (Some(stem), Some(extension)) = (
            path.file_stem().and_then(|stem| stem.to_str()),
            path.extension().and_then(|extension| extension.to_str()),
        ) else {
            continue;
        };
        if std::fs::metadata(&path)?.len() > MAX_FILE {
            tracing::warn!(file = %path.display(), "too large for a secret");
            continue;
        }
        let resource = match extension {
            "crt" => {
                let Ok(key) = std::fs::read(path.with_extension("key")) else {
                    continue;
                };
                certificate(stem, &std::fs::read(&path)?, &key)
            }
            "ca" => authority(&format!("{stem}.ca"), &std::fs::read(&path)?),
            _ => continue,
        };
        found.insert(Arc::clone(&resource.name), resource);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_changes_and_goes_when_its_files_stay_away() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("edge.crt"), "chain").unwrap();
        std::fs::write(file("edge.key"), "key").unwrap();
        std::fs::write(file("lonely.crt"), "no key").unwrap();
        std::fs::write(file("mesh.ca"), "bundle").unwrap();
        let mut secrets = SecretFolder::new(folder.path().to_owned());
        let mut look = || {
            let changes = secrets.changes(read(folder.path()).unwrap());
            let names = changes
                .iter()
                .map(|(name, is)| (name.to_string(), is.is_some()));
            names.collect::<Vec<_>>()
        };
        let named = |name: &str, is| (name.to_owned(), is);
        assert_eq!(look(), [named("edge", true), named("mesh.ca", true)]);
        assert_eq!(look(), []);
        std::fs::write(file("edge.crt"), "rotated").unwrap();
        assert_eq!(look(), [named("edge", true)]);
        std::fs::remove_file(file("edge.key")).unwrap();
        assert_eq!(look(), []);
        assert_eq!(look(), [named("edge", false)]);
    }
}
