//! An authority of this machine's own, so that mutual TLS needs no setting up: made at the first
//! start, kept in the data folder, and readable by this user alone.
//!
//! It signs the server's certificate and one per node that is started here. Who runs a fleet gives
//! certificates of an authority of their own instead ([`crate::TlsFiles`]).

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use domain::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::error::XdsError;
use crate::tls::TlsFiles;

/// The name under which the server proves itself, whatever its address is.
pub const SERVER_NAME: &str = "foreshadow-xds";
/// The authority's name.
const AUTHORITY_NAME: &str = "foreshadow local authority";
/// How long certificates hold; they are made anew at every start.
const LIFE: Duration = Duration::from_hours(24 * 397);
/// How long before now they begin, for clocks that differ.
const SLACK: Duration = Duration::from_hours(1);

/// The authority.
#[derive(Debug)]
pub struct LocalAuthority {
    folder: PathBuf,
    key: KeyPair,
}

/// What a node needs to connect, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFiles {
    /// Its certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that the server is checked against.
    pub authority: PathBuf,
}

impl NodeFiles {
    /// Where the files of a node are in an authority's folder, whether they are there or not.
    pub fn of(folder: &Path, node: &NodeId) -> Self {
        Self {
            certificate: folder.join("nodes").join(format!("{node}.crt")),
            key: folder.join("nodes").join(format!("{node}.key")),
            authority: folder.join("authority.crt"),
        }
    }
}

impl LocalAuthority {
    /// Opens the authority in a folder; makes it if there is none.
    ///
    /// # Errors
    /// [`XdsError::Certificate`] when a file cannot be read or written, or is no key.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, XdsError> {
        let folder = folder.into();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder.join("nodes"))
            .map_err(bad(&folder))?;
        let path = folder.join("authority.key");
        let key = match std::fs::read_to_string(&path) {
            Ok(text) => KeyPair::from_pem(&text).map_err(bad(&path))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(bad(&path))?;
                write(&path, &key.serialize_pem())?;
                key
            }
            Err(error) => return Err(bad(&path)(error)),
        };
        let authority = Self { folder, key };
        let path = authority.folder.join("authority.crt");
        if !path.exists() {
            let certificate = params().self_signed(&authority.key).map_err(bad(&path))?;
            write(&path, &certificate.pem())?;
        }
        Ok(authority)
    }

    /// Certificate and key of the server, made anew.
    ///
    /// # Errors
    /// [`XdsError::Certificate`] when a file cannot be written.
    pub fn server(&self) -> Result<TlsFiles, XdsError> {
        let files = TlsFiles {
            certificate: self.folder.join("server.crt"),
            key: self.folder.join("server.key"),
            authorities: self.folder.join("authority.crt"),
        };
        let purpose = ExtendedKeyUsagePurpose::ServerAuth;
        self.sign(SERVER_NAME, purpose, &files.certificate, &files.key)?;
        Ok(files)
    }

    /// Certificate and key of a node, made anew.
    ///
    /// # Errors
    /// [`XdsError::Certificate`] when a file cannot be written.
    pub fn node(&self, node: &NodeId) -> Result<NodeFiles, XdsError> {
        let files = NodeFiles::of(&self.folder, node);
        let purpose = ExtendedKeyUsagePurpose::ClientAuth;
        self.sign(node.as_str(), purpose, &files.certificate, &files.key)?;
        Ok(files)
    }

    fn sign(
        &self,
        name: &str,
        purpose: ExtendedKeyUsagePurpose,
        certificate: &Path,
        key: &Path,
    ) -> Result<(), XdsError> {
        let issuer = Issuer::new(params(), &self.key);
        let pair = KeyPair::generate().map_err(bad(key))?;
        let mut params = CertificateParams::default();
        let dns = name.try_into().map_err(bad(certificate))?;
        params.subject_alt_names = vec![SanType::DnsName(dns)];
        if name == SERVER_NAME {
            let ip = std::net::Ipv4Addr::LOCALHOST.into();
            params.subject_alt_names.push(SanType::IpAddress(ip));
        } else {
            let uri = format!("spiffe://foreshadow/node/{name}");
            let uri = uri.as_str().try_into().map_err(bad(certificate))?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + now.saturating_sub(SLACK);
        params.not_after = epoch + now + LIFE;
        let signed = params.signed_by(&pair, &issuer).map_err(bad(certificate))?;
        // The key first: whoever sees the new certificate finds its key.
        write(key, &pair.serialize_pem())?;
        write(certificate, &signed.pem())
    }
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn bad<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> XdsError + use<E> {
    let path = path.to_owned();
    move |error| XdsError::Certificate {
        path: path.clone(),
        reason: error.to_string(),
    }
}

/// Writes a file that only this user can read, whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), XdsError> {
    let partial = path.with_extension("new");
    let written = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    written().map_err(bad(path))
}
