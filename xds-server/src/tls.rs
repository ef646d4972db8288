//! Who may connect: mutual TLS, and the name in a node's certificate bound to the name that it
//! gives itself.
//!
//! Certificates are read from files and read again when these change, without a restart; files
//! that cannot be read leave the ones in force. Whatever is not proven is refused.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use api::envoy::envoy::config::core::v3::Node;
use arc_swap::ArcSwap;
use domain::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, version::TLS13};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::server::Connected;

use crate::authority::OPERATOR;
use crate::error::XdsError;
use crate::metrics::Metrics;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Connections that wait to be served.
const BACKLOG: usize = 64;
/// What a URI in a certificate ends with before the node's name.
const NODE_PATH: &str = "/node/";

/// How connections are secured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// Not at all: for development on one machine.
    Plaintext,
    /// Both sides prove who they are, TLS 1.3.
    Mutual(TlsFiles),
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that clients are checked against.
    pub authorities: PathBuf,
}

/// Time and length of each file.
type Stamps = [Option<(SystemTime, u64)>; 3];

impl TlsFiles {
    /// What tells whether a file was written since.
    fn stamps(&self) -> Stamps {
        [&self.certificate, &self.key, &self.authorities].map(|path| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        })
    }

    fn load(&self) -> Result<ServerConfig, XdsError> {
        let bad = |path: &Path, reason: String| XdsError::Certificate {
            path: path.to_owned(),
            reason,
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.authorities)? {
            roots
                .add(authority)
                .map_err(|error| bad(&self.authorities, error.to_string()))?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| bad(&self.authorities, error.to_string()))?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| bad(&self.key, error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| bad(&self.certificate, error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&self.certificate)?, key)
            .map_err(|error| bad(&self.certificate, error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, XdsError> {
    let bad = |reason: String| XdsError::Certificate {
        path: path.to_owned(),
        reason,
    };
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| bad(error.to_string()))?
        .collect();
    let found = read.map_err(|error| bad(error.to_string()))?;
    if found.is_empty() {
        return Err(bad("no certificate in it".to_owned()));
    }
    Ok(found)
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Nobody asked.
    Unproven,
    /// Somebody with these names in the certificate.
    Proven(Arc<BTreeSet<String>>),
}

impl Peer {
    /// The peer of a request.
    pub(crate) fn of(extensions: &tonic::codegen::http::Extensions) -> Self {
        // A connection that says nothing of its peer is none of ours: nothing is proven, and no
        // name fits.
        extensions
            .get::<Self>()
            .cloned()
            .unwrap_or_else(|| Self::Proven(Arc::default()))
    }

    /// The node's name, if the peer may bear it.
    pub(crate) fn node(&self, node: Option<&Node>) -> Result<NodeId, Status> {
        let id = node.map_or("", |node| node.id.as_str());
        let id = NodeId::new(id)
            .map_err(|error| Status::invalid_argument(format!("node.id: {error}")))?;
        match self {
            Self::Unproven => Ok(id),
            Self::Proven(names) if names.contains(id.as_str()) => Ok(id),
            Self::Proven(_) => Err(Status::permission_denied(format!(
                "node.id: {id} is not a name in the client's certificate"
            ))),
        }
    }
}

impl Peer {
    /// Whether the peer may see how far a node is; of all nodes when none is named.
    pub(crate) fn may_inspect(&self, node: Option<&NodeId>) -> bool {
        match self {
            Self::Unproven => true,
            Self::Proven(names) => {
                names.contains(OPERATOR) || node.is_some_and(|node| names.contains(node.as_str()))
            }
        }
    }
}

/// Names of nodes in a certificate: its DNS names, and what follows `/node/` in its URIs. Patterns
/// name nobody.
pub fn names_of(certificate: &CertificateDer<'_>) -> BTreeSet<String> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else {
        return BTreeSet::new();
    };
    let uris = parsed
        .valid_uri_names()
        .filter_map(|uri| uri.split_once(NODE_PATH).map(|(_, id)| id));
    parsed
        .valid_dns_names()
        .filter(|name| !name.contains('*'))
        .chain(uris)
        .map(str::to_ascii_lowercase)
        .collect()
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Connection {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>, Peer),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Self::Plain(_) => Peer::Unproven,
            Self::Secured(_, peer) => peer.clone(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Secured(stream, _) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, from),
            Self::Secured(stream, _) => Pin::new(stream).poll_write(context, from),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, from),
            Self::Secured(stream, _) => Pin::new(stream).poll_write_vectored(context, from),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Secured(stream, _) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Secured(stream, _) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secured(stream, _) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Takes connections in, with a limited number of handshakes at once.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) security: Security,
    pub(crate) max_handshakes: usize,
    pub(crate) metrics: Arc<Metrics>,
}

/// A connection that counts while it lives.
type Incoming = mpsc::Receiver<io::Result<Connection>>;

impl Door {
    /// Opens. The files are read first: a server that cannot prove who it is does not start.
    pub(crate) fn open(
        self,
        stop: CancellationToken,
    ) -> Result<(Incoming, impl Future<Output = ()> + Send + 'static), XdsError> {
        let (out, incoming) = mpsc::channel(BACKLOG);
        let tls = match &self.security {
            Security::Plaintext => None,
            Security::Mutual(files) => {
                // Looked at before they are read, so that what changes in between is noticed.
                let seen = files.stamps();
                let config = ArcSwap::from_pointee(files.load()?);
                Some((files.clone(), seen, Arc::new(config)))
            }
        };
        let running = async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.accept(out, tls.as_ref().map(|(_, _, config)| Arc::clone(config))) => {}
                () = reload(tls.clone()) => {}
            }
        };
        Ok((incoming, running))
    }

    async fn accept(
        &self,
        out: mpsc::Sender<io::Result<Connection>>,
        tls: Option<Arc<ArcSwap<ServerConfig>>>,
    ) {
        let handshakes = Arc::new(Semaphore::new(self.max_handshakes));
        loop {
            let (stream, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, say: those that are open live on.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            self.metrics.connections.add(1);
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "no TCP_NODELAY");
            }
            let Some(tls) = &tls else {
                if out.send(Ok(Connection::Plain(stream))).await.is_err() {
                    return;
                }
                continue;
            };
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
                return;
            };
            let acceptor = TlsAcceptor::from(tls.load_full());
            let (out, metrics) = (out.clone(), Arc::clone(&self.metrics));
            tokio::spawn(async move {
                let done = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
                drop(permit);
                match done {
                    Ok(Ok(stream)) => {
                        let names = stream
                            .get_ref()
                            .1
                            .peer_certificates()
                            .and_then(<[_]>::first)
                            .map(names_of);
                        let peer = Peer::Proven(Arc::new(names.unwrap_or_default()));
                        let connection = Connection::Secured(Box::new(stream), peer);
                        // When the server is gone, so is the connection.
                        let _ = out.send(Ok(connection)).await;
                    }
                    Ok(Err(error)) => {
                        metrics.failed_handshakes.add(1);
                        tracing::warn!(%from, %error, "a TLS handshake failed");
                    }
                    Err(_) => {
                        metrics.failed_handshakes.add(1);
                        tracing::warn!(%from, "a TLS handshake took too long");
                    }
                }
            });
        }
    }
}

/// Reads the files again when they change.
async fn reload(tls: Option<(TlsFiles, Stamps, Arc<ArcSwap<ServerConfig>>)>) {
    let Some((files, mut seen, config)) = tls else {
        return std::future::pending().await;
    };
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let newest = files.stamps();
        if newest == seen {
            continue;
        }
        match files.load() {
            Ok(loaded) => {
                config.store(Arc::new(loaded));
                seen = newest;
                tracing::info!("certificates read again");
            }
            // Half-written, say: it is tried again.
            Err(error) => tracing::warn!(%error, "certificates not taken; those in force stay"),
        }
    }
}

/// Whether an address is reached from this machine only.
pub(crate) const fn is_local(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(v4) => v4.ip().is_loopback(),
        SocketAddr::V6(v6) => v6.ip().is_loopback(),
    }
}
