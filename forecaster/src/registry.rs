//! Versions of models in a folder, and which of them is in use.
//!
//! ```text
//! registry/
//!   2026-11-01/manifest.json, demand.onnx     a version: any name that may be an identifier
//!   2026-11-20/…
//!   active      the name of the version in use
//!   previous    the one before it
//!   candidate   the name of a version that is tried beside the one in use
//!   trial.json  how that stands, or what came of it
//! ```
//! A version is promoted only after it was loaded and tried out: a wrong hash, contract or shape
//! leaves everything as it was. Both names are replaced atomically; running forecasters look at
//! `active` before every forecast.

use std::io;
use std::path::{Path, PathBuf};

use domain::InstanceId;

use crate::model::{Model, ModelError};

const ACTIVE: &str = "active";
const PREVIOUS: &str = "previous";
const CANDIDATE: &str = "candidate";
const TRIAL: &str = "trial.json";

/// Why a registry cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file system's words.
    #[error("model registry {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A name that is none, or of no version.
    #[error("model registry: version is {value:?}; allowed are the folders in {path}")]
    Version {
        /// The name.
        value: String,
        /// The registry.
        path: PathBuf,
    },
    /// A version that cannot be used.
    #[error("model registry: version {version}: {source}")]
    Model {
        /// Which.
        version: String,
        /// What is wrong with it.
        source: ModelError,
    },
    /// There is no version before the one in use.
    #[error("model registry: there is no version to go back to")]
    Nothing,
}

/// A version in the registry.
#[derive(Debug)]
pub struct Entry {
    /// Its folder's name.
    pub name: String,
    /// Its model's id and version, or why it cannot be used.
    pub model: Result<(String, String), ModelError>,
}

/// A folder of models.
#[derive(Debug, Clone)]
pub struct Registry {
    folder: PathBuf,
}

impl Registry {
    /// The registry in a folder.
    ///
    /// # Errors
    /// [`RegistryError::Io`] when there is no such folder.
    pub fn open(folder: &Path) -> Result<Self, RegistryError> {
        let found = std::fs::metadata(folder).and_then(|found| {
            let not = io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder");
            if found.is_dir() { Ok(()) } else { Err(not) }
        });
        found.map_err(at(folder))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Whether a folder is a registry, and not a single model's.
    pub fn is_one(folder: &Path) -> bool {
        folder.join(ACTIVE).is_file()
    }

    /// All versions by name, each checked.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn list(&self) -> Result<Vec<Entry>, RegistryError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(at(&self.folder))? {
            let entry = entry.map_err(at(&self.folder))?;
            if entry.path().join("manifest.json").is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        let entry = |name: String| {
            let model = self.load(&name);
            Entry {
                name,
                model: model.map(|m| (m.id().to_owned(), m.version().to_owned())),
            }
        };
        Ok(names.into_iter().map(entry).collect())
    }

    /// Name of the version in use.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn active(&self) -> Result<Option<String>, RegistryError> {
        self.read(ACTIVE)
    }

    /// A version's manifest as it stands, after the model was checked against it.
    ///
    /// # Errors
    /// [`RegistryError`] naming the version and what is wrong.
    pub fn show(&self, version: &str) -> Result<String, RegistryError> {
        self.check(version)?;
        let path = self.folder.join(version).join("manifest.json");
        std::fs::read_to_string(&path).map_err(at(&path))
    }

    /// Uses a version, after it was loaded and tried out.
    ///
    /// # Errors
    /// [`RegistryError`]; the version in use is then still the one before.
    pub fn promote(&self, version: &str) -> Result<(), RegistryError> {
        self.check(version)?;
        let before = self.active()?;
        if before.as_deref() == Some(version) {
            return Ok(());
        }
        if let Some(before) = before {
            self.write(PREVIOUS, &before)?;
        }
        self.write(ACTIVE, version)
    }

    /// Uses the version before again; gives its name.
    ///
    /// # Errors
    /// [`RegistryError::Nothing`], or that it cannot be used any more.
    pub fn rollback(&self) -> Result<String, RegistryError> {
        let version = self.read(PREVIOUS)?.ok_or(RegistryError::Nothing)?;
        self.promote(&version)?;
        Ok(version)
    }

    /// Has running forecasters try a version beside the one in use, after it was loaded and tried
    /// out here. They use it if it is not worse.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing is tried then.
    pub fn try_version(&self, version: &str) -> Result<(), RegistryError> {
        self.check(version)?;
        self.write(CANDIDATE, version)
    }

    /// Name of the version that is to be tried.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn candidate(&self) -> Result<Option<String>, RegistryError> {
        self.read(CANDIDATE)
    }

    /// Ends a trial: nothing is tried any more.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn end_trial(&self) -> Result<(), RegistryError> {
        let path = self.folder.join(CANDIDATE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// How the latest trial stands, as JSON; nothing if there was none.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn trial(&self) -> Result<Option<String>, RegistryError> {
        self.read(TRIAL)
    }

    /// Writes down how a trial stands.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub(crate) fn note_trial(&self, report: &str) -> Result<(), RegistryError> {
        self.write(TRIAL, report)
    }

    /// Loads a version to try it.
    ///
    /// # Errors
    /// [`RegistryError`] naming what is wrong.
    pub(crate) fn load_version(
        &self,
        version: &str,
        library: Option<&Path>,
    ) -> Result<Model, RegistryError> {
        self.named(version)?;
        let loaded = Model::load(&self.folder.join(version), library);
        loaded.map_err(|source| RegistryError::Model {
            version: version.to_owned(),
            source,
        })
    }

    /// Loads the version in use.
    ///
    /// # Errors
    /// [`ModelError`] naming what is wrong.
    pub fn load_active(&self, library: Option<&Path>) -> Result<Model, ModelError> {
        let unreadable = |reason: String| ModelError::Read {
            path: self.folder.join(ACTIVE).display().to_string(),
            reason,
        };
        let active = self
            .active()
            .map_err(|error| unreadable(error.to_string()))?;
        let version = active.ok_or_else(|| unreadable("no version is in use".to_owned()))?;
        self.named(&version)
            .map_err(|error| unreadable(error.to_string()))?;
        Model::load(&self.folder.join(version), library)
    }

    fn load(&self, version: &str) -> Result<Model, ModelError> {
        Model::load(&self.folder.join(version), None)
    }

    fn check(&self, version: &str) -> Result<(), RegistryError> {
        self.named(version)?;
        self.load(version).map_err(|source| RegistryError::Model {
            version: version.to_owned(),
            source,
        })?;
        Ok(())
    }

    /// A version's name leads nowhere else: it is an identifier, and its folder is here.
    fn named(&self, version: &str) -> Result<(), RegistryError> {
        let fits = InstanceId::new(version).is_ok() && self.folder.join(version).is_dir();
        if fits {
            return Ok(());
        }
        Err(RegistryError::Version {
            value: version.chars().take(80).collect(),
            path: self.folder.clone(),
        })
    }

    fn read(&self, name: &str) -> Result<Option<String>, RegistryError> {
        let path = self.folder.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path)(error)),
        }
    }

    fn write(&self, name: &str, version: &str) -> Result<(), RegistryError> {
        let (new, path) = (
            self.folder.join(format!("{name}.new")),
            self.folder.join(name),
        );
        std::fs::write(&new, format!("{version}\n")).map_err(at(&new))?;
        std::fs::rename(&new, &path).map_err(at(&path))
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> RegistryError {
    let path = path.to_owned();
    move |source| RegistryError::Io {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(versions: &[&str]) -> (tempfile::TempDir, Registry) {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../onnx-models/artifacts");
        for version in versions {
            let to = folder.path().join(version);
            std::fs::create_dir(&to).unwrap();
            for file in ["manifest.json", "demand.onnx"] {
                std::fs::copy(artifacts.join(file), to.join(file)).unwrap();
            }
        }
        let registry = Registry::open(folder.path()).unwrap();
        (folder, registry)
    }

    #[test]
    fn a_version_is_promoted_and_rolled_back() {
        let (_folder, registry) = registry(&["one", "two"]);
        assert!(matches!(registry.rollback(), Err(RegistryError::Nothing)));
        registry.promote("one").unwrap();
        registry.promote("two").unwrap();
        assert_eq!(registry.active().unwrap().as_deref(), Some("two"));
        assert_eq!(registry.rollback().unwrap(), "one");
        assert_eq!(registry.active().unwrap().as_deref(), Some("one"));
        assert!(registry.load_active(None).is_ok());
        assert_eq!(registry.list().unwrap().len(), 2);
    }

    #[test]
    fn a_version_with_a_wrong_hash_is_refused_and_the_one_in_use_stays() {
        let (folder, registry) = registry(&["one", "two"]);
        registry.promote("one").unwrap();
        std::fs::write(folder.path().join("two/demand.onnx"), b"spoilt").unwrap();
        let error = registry.promote("two").unwrap_err().to_string();
        assert!(
            error.contains("two") && error.contains("SHA-256"),
            "{error}"
        );
        assert_eq!(registry.active().unwrap().as_deref(), Some("one"));
        assert!(registry.list().unwrap()[1].model.is_err());
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_versions() {
        let (folder, registry) = registry(&["one"]);
        for name in ["..", "../one", "", "three", "/tmp"] {
            assert!(matches!(
                registry.promote(name),
                Err(RegistryError::Version { .. })
            ));
        }
        std::fs::write(folder.path().join("active"), "../../elsewhere\n").unwrap();
        assert!(registry.load_active(None).is_err());
    }
}
