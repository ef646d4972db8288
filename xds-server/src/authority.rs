//! An authority of an operator's own, so that mutual TLS needs no setting up: made at the first
//! start, kept in a folder, and readable by this user alone.
//!
//! It signs the certificates of the xDS server, of the control API, and of the nodes. Several control
//! planes of one machine may share its folder; each keeps its own server's certificate. Who runs a
//! fleet with an authority already gives certificates of that instead ([`crate::TlsFiles`]).
//!
//! # Files
//! ```text
//! authority.crt, authority.key     the authority; the key never leaves this folder
//! nodes/NODE.crt, NODE.key         what a node proves itself by
//! nodes/NODE.sds.yaml, NODE.ca.sds.yaml   the same for Envoy, which reads them again when they change
//! ```
//! Files are replaced whole (written beside and renamed), the key before its certificate.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use domain::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::certificate;
pub use crate::certificate::{Found, look_at};
use crate::error::XdsError;
use crate::tls::TlsFiles;

/// The name under which the server proves itself, whatever its address is.
pub const SERVER_NAME: &str = "foreshadow-xds";
/// The name in a certificate that may see the state of every node, and use the control API.
pub const OPERATOR: &str = "operator";
/// The secret of SDS that a node's own certificate is.
pub const NODE_SECRET: &str = "foreshadow_node";
/// The secret of SDS that the authority is.
pub const AUTHORITY_SECRET: &str = "foreshadow_authority";
/// The authority's name.
const AUTHORITY_NAME: &str = "foreshadow local authority";
/// How long certificates hold.
const LIFE: Duration = Duration::from_hours(24 * 90);
/// How much of its life a certificate has left when a new one takes its place.
const RENEW: Duration = Duration::from_hours(24 * 30);
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
            authority: folder.join("authority.crt"),
            ..Self::beside(&folder.join("nodes"), node)
        }
    }

    /// Where the files of a node are in a folder of their own.
    pub fn beside(folder: &Path, node: &NodeId) -> Self {
        Self {
            certificate: folder.join(format!("{node}.crt")),
            key: folder.join(format!("{node}.key")),
            authority: folder.join("authority.crt"),
        }
    }

    /// Where Envoy finds the node's certificate and key as a secret.
    pub fn node_secret(&self) -> PathBuf {
        self.certificate.with_extension("sds.yaml")
    }

    /// Where Envoy finds the authority as a secret.
    pub fn authority_secret(&self) -> PathBuf {
        self.certificate.with_extension("ca.sds.yaml")
    }
}

impl LocalAuthority {
    /// Opens the authority in a folder; makes it if there is none.
    ///
    /// # Errors
    /// [`XdsError::Certificate`] when a file cannot be read or written, or is no key.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, XdsError> {
        let folder = folder.into();
        make_folder(&folder.join("nodes"))?;
        // Nodes are told these paths, and need not run where this does.
        let folder = std::fs::canonicalize(&folder).map_err(bad(&folder))?;
        let path = folder.join("authority.key");
        let key = match std::fs::read_to_string(&path) {
            Ok(text) => KeyPair::from_pem(&text).map_err(bad(&path))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_key(&path)?,
            Err(error) => return Err(bad(&path)(error)),
        };
        let authority = Self { folder, key };
        let path = authority.certificate();
        if !path.exists() {
            let certificate = params().self_signed(&authority.key).map_err(bad(&path))?;
            write(&path, &certificate.pem())?;
        }
        Ok(authority)
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("authority.crt")
    }

    /// Certificate and key of the xDS server, made anew.
    ///
    /// # Errors
    /// [`XdsError::Certificate`] when a file cannot be written.
    pub fn server(&self) -> Result<TlsFiles, XdsError> {
        let files = self.server_files(&self.folder);
        self.sign(&Subject::server(), &files.certificate, &files.key)?;
        Ok(files)
    }

    /// Certificate and key of the xDS server in a folder; what is there holds on until it is due.
    ///
    /// # Errors
    /// As [`LocalAuthority::server`].
    pub fn keep_server(&self, folder: &Path) -> Result<TlsFiles, XdsError> {
        make_folder(folder)?;
        let files = self.server_files(folder);
        if self.is_due(&files.certificate, &files.key) {
            self.sign(&Subject::server(), &files.certificate, &files.key)?;
        }
        Ok(files)
    }

    fn server_files(&self, folder: &Path) -> TlsFiles {
        TlsFiles {
            certificate: folder.join("server.crt"),
            key: folder.join("server.key"),
            authorities: self.certificate(),
        }
    }

    /// Certificate and key of a node, made anew.
    ///
    /// # Errors
    /// [`XdsError::Certificate`] when a file cannot be written.
    pub fn node(&self, node: &NodeId) -> Result<NodeFiles, XdsError> {
        let files = NodeFiles::of(&self.folder, node);
        self.node_as(node, &files)?;
        Ok(files)
    }

    /// Certificate and key of a node; what is there holds on until it is due.
    ///
    /// # Errors
    /// As [`LocalAuthority::node`].
    pub fn keep_node(&self, node: &NodeId) -> Result<NodeFiles, XdsError> {
        let files = NodeFiles::of(&self.folder, node);
        if self.is_due(&files.certificate, &files.key) || !files.node_secret().exists() {
            self.node_as(node, &files)?;
        }
        Ok(files)
    }

    /// Certificate and key of a node, and the authority, in a folder to be carried to it. `home` is
    /// where the node will find that folder, if not where it is now.
    ///
    /// # Errors
    /// As [`LocalAuthority::node`].
    pub fn enrol(
        &self,
        node: &NodeId,
        folder: &Path,
        home: Option<&Path>,
    ) -> Result<NodeFiles, XdsError> {
        make_folder(folder)?;
        let folder = std::fs::canonicalize(folder).map_err(bad(folder))?;
        let files = NodeFiles::beside(&folder, node);
        let authority = std::fs::read_to_string(self.certificate());
        write(
            &files.authority,
            &authority.map_err(bad(&self.certificate()))?,
        )?;
        self.sign(&Subject::node(node), &files.certificate, &files.key)?;
        let there = NodeFiles::beside(home.unwrap_or(&folder), node);
        write_secrets(&files, &there)?;
        Ok(files)
    }

    /// Certificate and key of a web server under some names and addresses, as `FILE.crt` and
    /// `FILE.key` in a folder; what is there holds on until it is due or the names differ.
    ///
    /// # Errors
    /// As [`LocalAuthority::node`].
    pub fn keep_web(
        &self,
        names: &[String],
        file: &str,
        folder: &Path,
    ) -> Result<TlsFiles, XdsError> {
        make_folder(folder)?;
        let subject = Subject::web(names);
        let files = TlsFiles {
            certificate: folder.join(format!("{file}.crt")),
            key: folder.join(format!("{file}.key")),
            authorities: self.certificate(),
        };
        let is_held = certificate::is_for(&files.certificate, names);
        if !is_held || self.is_due(&files.certificate, &files.key) {
            self.sign(&subject, &files.certificate, &files.key)?;
        }
        Ok(files)
    }

    /// Makes the certificates of nodes in this folder anew that are due. Gives whose.
    ///
    /// # Errors
    /// [`XdsError::Certificate`] when a file cannot be read or written.
    pub fn renew(&self) -> Result<Vec<NodeId>, XdsError> {
        let mut renewed = Vec::new();
        for node in self.nodes()? {
            let files = NodeFiles::of(&self.folder, &node);
            if self.is_due(&files.certificate, &files.key) {
                self.node_as(&node, &files)?;
                renewed.push(node);
            }
        }
        Ok(renewed)
    }

    /// The nodes that have a certificate in this folder.
    ///
    /// # Errors
    /// [`XdsError::Certificate`] when the folder cannot be read.
    pub fn nodes(&self) -> Result<Vec<NodeId>, XdsError> {
        let folder = self.folder.join("nodes");
        let mut nodes = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(bad(&folder))? {
            let path = entry.map_err(bad(&folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let node = name.and_then(|name| NodeId::new(name.strip_suffix(".crt")?).ok());
            nodes.extend(node);
        }
        nodes.sort();
        Ok(nodes)
    }

    fn node_as(&self, node: &NodeId, files: &NodeFiles) -> Result<(), XdsError> {
        self.sign(&Subject::node(node), &files.certificate, &files.key)?;
        write_secrets(files, files)
    }

    /// Whether a certificate is to be made anew: it is not there, not this authority's, not its
    /// key's, or nears its end.
    fn is_due(&self, certificate: &Path, key: &Path) -> bool {
        !certificate::holds(certificate, key, &self.certificate(), RENEW)
    }

    fn sign(&self, subject: &Subject, certificate: &Path, key: &Path) -> Result<(), XdsError> {
        let issuer = Issuer::new(params(), &self.key);
        let pair = KeyPair::generate().map_err(bad(key))?;
        let mut params = CertificateParams::default();
        for name in &subject.names {
            let dns = name.as_str().try_into().map_err(bad(certificate))?;
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        for ip in &subject.ips {
            params.subject_alt_names.push(SanType::IpAddress(*ip));
        }
        if let Some(uri) = &subject.uri {
            let uri = uri.as_str().try_into().map_err(bad(certificate))?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        let name = subject.name.as_str();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![subject.purpose.clone()];
        params.use_authority_key_identifier_extension = true;
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

/// Who a certificate is for.
struct Subject {
    name: String,
    names: Vec<String>,
    ips: Vec<IpAddr>,
    uri: Option<String>,
    purpose: ExtendedKeyUsagePurpose,
}

impl Subject {
    fn server() -> Self {
        Self {
            name: SERVER_NAME.to_owned(),
            names: vec![SERVER_NAME.to_owned()],
            ips: vec![std::net::Ipv4Addr::LOCALHOST.into()],
            uri: None,
            purpose: ExtendedKeyUsagePurpose::ServerAuth,
        }
    }

    fn node(node: &NodeId) -> Self {
        Self {
            name: node.to_string(),
            names: vec![node.to_string()],
            ips: Vec::new(),
            uri: Some(format!("spiffe://foreshadow/node/{node}")),
            purpose: ExtendedKeyUsagePurpose::ClientAuth,
        }
    }

    fn web(names: &[String]) -> Self {
        let address = |name: &String| name.parse::<IpAddr>().ok();
        let no_address = |name: &&String| address(name).is_none();
        Self {
            name: names.first().cloned().unwrap_or_default(),
            names: names.iter().filter(no_address).cloned().collect(),
            ips: names.iter().filter_map(address).collect(),
            uri: None,
            purpose: ExtendedKeyUsagePurpose::ServerAuth,
        }
    }
}

/// What Envoy reads of a node's files, which it finds where `there` says.
fn write_secrets(files: &NodeFiles, there: &NodeFiles) -> Result<(), XdsError> {
    let quoted = |path: &Path| serde_json::to_string(&path.to_string_lossy());
    let folder = there.certificate.parent().unwrap_or(Path::new("/"));
    let home = there.authority.parent().unwrap_or(Path::new("/"));
    let texts = || {
        let (certificate, key) = (quoted(&there.certificate)?, quoted(&there.key)?);
        let (authority, folder, home) = (quoted(&there.authority)?, quoted(folder)?, quoted(home)?);
        let secret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
        Ok::<_, serde_json::Error>((
            format!(
                "resources:\n\
                 - \"@type\": {secret}\n  name: {NODE_SECRET}\n  tls_certificate:\n    \
                 certificate_chain: {{ filename: {certificate} }}\n    \
                 private_key: {{ filename: {key} }}\n    \
                 watched_directory: {{ path: {folder} }}\n"
            ),
            format!(
                "resources:\n\
                 - \"@type\": {secret}\n  name: {AUTHORITY_SECRET}\n  validation_context:\n    \
                 trusted_ca: {{ filename: {authority} }}\n    \
                 watched_directory: {{ path: {home} }}\n    \
                 match_typed_subject_alt_names:\n    \
                 - {{ san_type: DNS, matcher: {{ exact: {SERVER_NAME} }} }}\n"
            ),
        ))
    };
    let (node, authority) = texts().map_err(bad(&files.node_secret()))?;
    write(&files.node_secret(), &node)?;
    write(&files.authority_secret(), &authority)
}

/// The authority's key. Of several that make it at the same time one wins, and all take that.
fn make_key(path: &Path) -> Result<KeyPair, XdsError> {
    let key = KeyPair::generate().map_err(bad(path))?;
    let own = path.with_extension(format!("new-{}", std::process::id()));
    write(&own, &key.serialize_pem())?;
    let linked = std::fs::hard_link(&own, path);
    std::fs::remove_file(&own).map_err(bad(&own))?;
    match linked {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let text = std::fs::read_to_string(path).map_err(bad(path))?;
            KeyPair::from_pem(&text).map_err(bad(path))
        }
        Err(error) => Err(bad(path)(error)),
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

fn make_folder(folder: &Path) -> Result<(), XdsError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(bad(folder))
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
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let partial = path.with_file_name(name);
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
