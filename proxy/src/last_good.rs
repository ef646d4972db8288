//! The last good configuration, on disk: what serves when the control plane is away at start.
//!
//! # Format
//! A header line `foreshadow-last-good <version> <length> <xxh64 of the rest, in hex>`, then the
//! accepted resources as one discovery response. The file is replaced as a whole (written beside,
//! synced, renamed), so a crash leaves the old one or the new one. One that is truncated, corrupt,
//! too large or of another version is refused by [`load`]; the caller goes on without.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use api::envoy::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message;
use xxhash_rust::xxh64::xxh64;

use crate::config::{Refusal, Resources};

const MAGIC: &str = "foreshadow-last-good";
const VERSION: &str = "1";
/// Largest file that is read.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Why a file is not used, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// Reading or writing failed.
    #[error("last-good file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what was written.
    #[error("last-good file {path} is refused: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It holds something that is not understood.
    #[error("last-good file {path} is refused: {source}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is not understood.
        source: Refusal,
    },
}

/// Reads the file; `None` if there is none.
///
/// # Errors
/// [`LastGoodError`] if it cannot be read, or is not what was once written.
pub fn load(path: &Path) -> Result<Option<Resources>, LastGoodError> {
    let io = |source| LastGoodError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    let corrupt = |reason| LastGoodError::Corrupt {
        path: path.to_owned(),
        reason,
    };
    let message = decode(&bytes).map_err(corrupt)?;
    let resources = Resources::restore(message.resources);
    resources
        .map(Some)
        .map_err(|source| LastGoodError::Refused {
            path: path.to_owned(),
            source,
        })
}

fn decode(bytes: &[u8]) -> Result<DeltaDiscoveryResponse, String> {
    let end = bytes.iter().take(200).position(|&byte| byte == b'\n');
    let Some(end) = end else {
        return Err("it has no header".to_owned());
    };
    let header = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let body = &bytes[end + 1..];
    let fields: Vec<&str> = header.split(' ').collect();
    let &[MAGIC, version, length, checksum] = fields.as_slice() else {
        return Err(format!("its header {header:?} is not ours"));
    };
    if version != VERSION {
        return Err(format!(
            "its format is {version:?}; only {VERSION:?} is known"
        ));
    }
    if length != body.len().to_string() {
        return Err(format!(
            "it should hold {length} bytes and holds {}",
            body.len()
        ));
    }
    let found = format!("{:016x}", xxh64(body, 0));
    if checksum != found {
        return Err(format!("its checksum should be {checksum} and is {found}"));
    }
    DeltaDiscoveryResponse::decode(body).map_err(|error| error.to_string())
}

/// Writes the file.
///
/// # Errors
/// [`LastGoodError::Io`] if that fails; the file from before is then still there.
pub fn save(path: &Path, resources: &Resources) -> Result<(), LastGoodError> {
    let message = DeltaDiscoveryResponse {
        resources: resources.messages(),
        ..DeltaDiscoveryResponse::default()
    };
    let body = message.encode_to_vec();
    let header = format!(
        "{MAGIC} {VERSION} {} {:016x}\n",
        body.len(),
        xxh64(&body, 0)
    );
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(header.as_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The rename itself must survive a crash too.
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| LastGoodError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Writes accepted resources down. Ends when they are on disk, so that what is acknowledged after
/// this survives: a proxy that forgot it would, started without a control plane, route as before
/// to what may be gone. A disk that takes nothing is told, and does not hold the traffic up.
pub(crate) async fn keep(path: Option<&Path>, resources: &Resources) {
    // Routes make a configuration; without them there is nothing to serve.
    let Some(path) = path.filter(|_| resources.routes.is_some()) else {
        return;
    };
    let (target, resources) = (path.to_owned(), resources.clone());
    match tokio::task::spawn_blocking(move || save(&target, &resources)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the last good configuration is not kept"),
        Err(error) => tracing::error!(%error, "the last good configuration is not kept"),
    }
}
