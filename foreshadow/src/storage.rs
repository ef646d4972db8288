//! Opening the store that the configuration names.
//!
//! # Ownership
//! With Redis, a file in the data folder keeps what this process has seen of the store (its
//! witness), so that a Redis that was flushed or rewound while nobody ran is noticed at the next
//! start. It is written every two seconds and at the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::{
    Address, EmbeddedStore, NetConnector, Opening, RedisOptions, RedisStore, Secret, SharedStore,
    Tls, Witness,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::Failure;

/// How often the witness is written.
const EVERY: Duration = Duration::from_secs(2);
/// Largest secret or certificate file.
const MAX_FILE: u64 = 1024 * 1024;

/// Where state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreChoice {
    /// One file in the data folder.
    #[default]
    Embedded,
    /// A Redis 7 with an append-only file, to be shared by several processes.
    Redis(Box<RedisChoice>),
}

/// A Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisChoice {
    /// `host:port`, or `unix:/path`.
    pub address: String,
    /// The store's name on the server.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// ACL user; needs `password_file`.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the user's password, which nobody else may read.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Encryption; without it only an address of this machine is allowed.
    #[serde(default)]
    pub tls: Option<TlsChoice>,
    /// A person has compared the store with the world, and takes what is there as the truth.
    #[serde(default)]
    pub acknowledge_loss: bool,
}

/// Encryption towards a Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsChoice {
    /// Certificates of the authorities that may have signed the server's, as PEM.
    pub roots_file: PathBuf,
    /// The name that the server's certificate must carry.
    pub server_name: String,
    /// This client's certificate chain, as PEM; needs `key_file`.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// Its key, as PEM, which nobody else may read.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

fn default_prefix() -> String {
    "foreshadow".to_owned()
}

impl StoreChoice {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// The field, its value and what is allowed, in words.
    pub fn validate(&self, insecure_remote: bool) -> Result<(), String> {
        let Self::Redis(redis) = self else {
            return Ok(());
        };
        let address = redis.address()?;
        if redis.user.is_some() != redis.password_file.is_some() {
            return Err("store.redis: user and password_file go together".to_owned());
        }
        let pair = |tls: &TlsChoice| tls.certificate_file.is_some() == tls.key_file.is_some();
        if !redis.tls.as_ref().is_none_or(pair) {
            return Err("store.redis.tls: certificate_file and key_file go together".to_owned());
        }
        let here = match &address {
            Address::Unix(_) => true,
            Address::Tcp(host, _) => {
                host == "localhost"
                    || host
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|ip| ip.is_loopback())
            }
        };
        if !here && redis.tls.is_none() && !insecure_remote {
            return Err(format!(
                "store.redis.address is {}; without tls allowed is an address of this machine, or \
                 set insecure_remote: true",
                redis.address
            ));
        }
        Ok(())
    }
}

impl RedisChoice {
    fn address(&self) -> Result<Address, String> {
        if let Some(path) = self.address.strip_prefix("unix:") {
            return Ok(Address::Unix(path.into()));
        }
        let parts = self.address.rsplit_once(':');
        let parsed = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parsed.filter(|(host, _)| !host.is_empty()) {
            Some((host, port)) => Ok(Address::Tcp(host.to_owned(), port)),
            None => Err(format!(
                "store.redis.address is {:?}; allowed is host:port, or unix:/path",
                self.address
            )),
        }
    }

    fn options(&self, witness: Option<Witness>) -> Result<RedisOptions, Failure> {
        let opening = match &witness {
            _ if self.acknowledge_loss => Opening::AcknowledgeLoss,
            Some(_) => Opening::Existing,
            None => Opening::CreateIfAbsent,
        };
        let mut options = RedisOptions::new(opening).prefix(&self.prefix);
        if let Some(witness) = witness {
            options = options.witness(witness);
        }
        if let (Some(user), Some(file)) = (&self.user, &self.password_file) {
            options = options.login(user, secret(file)?);
        }
        Ok(options)
    }

    fn connector(&self) -> Result<NetConnector, Failure> {
        let address = self.address().map_err(Failure::Config)?;
        let Some(tls) = &self.tls else {
            return Ok(NetConnector::plain(address));
        };
        let client = match (&tls.certificate_file, &tls.key_file) {
            (Some(certificate), Some(key)) => Some((text(certificate)?, secret(key)?)),
            (Some(_) | None, _) => None,
        };
        let tls = Tls {
            roots: text(&tls.roots_file)?,
            server_name: tls.server_name.clone(),
            client,
        };
        NetConnector::tls(address, &tls).map_err(|error| Failure::Config(error.to_string()))
    }
}

/// An open store.
pub struct Opened {
    /// The store.
    pub store: SharedStore,
    keeping: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Opened {
    /// Ends what runs beside the store.
    pub async fn close(self) {
        if let Some((cancel, task)) = self.keeping {
            cancel.cancel();
            if let Err(error) = task.await {
                tracing::warn!(%error, "the store's witness was not kept");
            }
        }
    }
}

/// Opens the store.
///
/// # Errors
/// [`Failure::Unavailable`] when it is in use, away, or not what it was; [`Failure::Config`] when
/// a file that the configuration names cannot be used.
pub async fn open(choice: &StoreChoice, data: &Path) -> Result<Opened, Failure> {
    let unavailable = Failure::unavailable::<store::StoreError>("open the store");
    match choice {
        StoreChoice::Embedded => {
            let store = EmbeddedStore::open(&data.join("store.redb")).map_err(unavailable)?;
            Ok(Opened {
                store: Arc::new(store),
                keeping: None,
            })
        }
        StoreChoice::Redis(redis) => {
            let file = data.join("redis-witness.json");
            let options = redis.options(witness(&file)?)?;
            let connector = Arc::new(redis.connector()?);
            let opened = RedisStore::open_through(connector, options).await;
            let store = Arc::new(opened.map_err(unavailable)?);
            let cancel = CancellationToken::new();
            let task = tokio::spawn(keep(Arc::clone(&store), file, cancel.clone()));
            Ok(Opened {
                store,
                keeping: Some((cancel, task)),
            })
        }
    }
}

/// What an earlier process saw, if there was one.
fn witness(file: &Path) -> Result<Option<Witness>, Failure> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::Config(format!(
                "{}: {error}; it says what this store held, so it is not passed over: compare the \
                 store with the world, remove the file, and set store.redis.acknowledge_loss",
                file.display()
            ))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::Unavailable(format!("{}: {error}", file.display()))),
    }
}

/// Keeps the witness in its file.
async fn keep(store: Arc<RedisStore>, file: PathBuf, cancel: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    let mut kept = None;
    loop {
        let ends = tokio::select! {
            biased;
            () = cancel.cancelled() => true,
            _ = tick.tick() => false,
        };
        match store.witness() {
            Ok(seen) if kept.as_ref() != Some(&seen) => match write(&file, &seen) {
                Ok(()) => kept = Some(seen),
                Err(error) => tracing::error!(%error, "the store's witness is not kept"),
            },
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the store lost what this process has seen"),
        }
        if ends {
            return;
        }
    }
}

fn write(file: &Path, witness: &Witness) -> std::io::Result<()> {
    let beside = file.with_extension("new");
    std::fs::write(&beside, serde_json::to_vec(witness)?)?;
    std::fs::rename(&beside, file)
}

fn text(file: &Path) -> Result<String, Failure> {
    let bad = |reason: String| Failure::Config(format!("{}: {reason}", file.display()));
    let size = std::fs::metadata(file).map_err(|error| bad(error.to_string()))?;
    if size.len() > MAX_FILE {
        return Err(bad(format!("{} bytes; allowed is {MAX_FILE}", size.len())));
    }
    std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))
}

/// A secret from a file that nobody else may read.
fn secret(file: &Path) -> Result<Secret, Failure> {
    private_text(file).map(Secret::new)
}

/// The text of a file that nobody else may read, without the end of its line.
///
/// # Errors
/// [`Failure::Config`] naming the file, never what is in it.
pub(crate) fn private_text(file: &Path) -> Result<String, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let text = text(file)?;
    let mode = std::fs::metadata(file).map_or(0o777, |found| found.permissions().mode());
    if mode & 0o077 != 0 {
        return Err(Failure::Config(format!(
            "{}: others may read it (mode {:o}); allowed is 0600 or less",
            file.display(),
            mode & 0o777
        )));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(text: &str) -> Result<(), String> {
        let choice: StoreChoice =
            serde_json::from_str(&format!(r#"{{"redis": {text}}}"#)).map_err(|e| e.to_string())?;
        choice.validate(false)
    }

    #[test]
    fn addresses_and_pairs_are_checked() {
        assert_eq!(redis(r#"{"address": "127.0.0.1:6379"}"#), Ok(()));
        assert_eq!(redis(r#"{"address": "unix:/run/redis.sock"}"#), Ok(()));
        for (text, words) in [
            (r#"{"address": "nowhere"}"#, "host:port"),
            (r#"{"address": ":1"}"#, "host:port"),
            (r#"{"address": "192.0.2.1:6379"}"#, "insecure_remote"),
            (
                r#"{"address": "127.0.0.1:1", "user": "u"}"#,
                "password_file",
            ),
            (r#"{"address": "127.0.0.1:1", "pasword": "u"}"#, "pasword"),
        ] {
            let error = redis(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_and_never_shown() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let mode = |bits| std::fs::Permissions::from_mode(bits);
        std::fs::set_permissions(file.path(), mode(0o600)).unwrap();
        assert_eq!(secret(file.path()).unwrap(), Secret::new("hunter2"));
        std::fs::set_permissions(file.path(), mode(0o644)).unwrap();
        let error = secret(file.path()).unwrap_err().to_string();
        assert!(
            error.contains("644") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_witness_is_named_and_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("redis-witness.json");
        assert_eq!(witness(&file).unwrap(), None);
        let seen = Witness {
            identity: "x".to_owned(),
            run: "y".to_owned(),
            revision: 7,
        };
        write(&file, &seen).unwrap();
        assert_eq!(witness(&file).unwrap(), Some(seen));
        std::fs::write(&file, "{").unwrap();
        let error = witness(&file).unwrap_err().to_string();
        assert!(error.contains("redis-witness.json"), "{error}");
    }
}
