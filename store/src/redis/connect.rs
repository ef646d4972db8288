//! Opening a stream to the server: TCP, unix socket, TLS, or whatever a [`Connector`] makes. The
//! store never opens a socket by itself, so a simulated network can stand in.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::options::Secret;
use crate::error::StoreError;

/// A stream of bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Opens streams to one server. Called anew for every attempt to connect; the caller limits how
/// long it may take.
#[async_trait::async_trait]
pub trait Connector: Send + Sync + 'static {
    /// A new stream.
    async fn connect(&self) -> io::Result<Box<dyn Stream>>;

    /// The server's name for messages. Never a secret.
    fn name(&self) -> String;
}

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host, by name or number, and a port.
    Tcp(String, u16),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What TLS needs. Only the given roots are trusted.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificates of the authorities that may have signed the server's, as PEM.
    pub roots: String,
    /// The name that the server's certificate must carry.
    pub server_name: String,
    /// This client's certificate chain and key, as PEM, if the server asks for one.
    pub client: Option<(String, Secret)>,
}

/// Opens real sockets.
pub struct NetConnector {
    address: Address,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl NetConnector {
    /// Without encryption: for a unix socket, or a network that is trusted.
    pub fn plain(address: Address) -> Self {
        Self { address, tls: None }
    }

    /// With TLS 1.2 or 1.3.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when a certificate, key or name is not one.
    pub fn tls(address: Address, tls: &Tls) -> Result<Self, StoreError> {
        let name = ServerName::try_from(tls.server_name.clone())
            .map_err(invalid("the TLS server name"))?;
        let connector = TlsConnector::from(Arc::new(client_config(tls)?));
        Ok(Self {
            address,
            tls: Some((connector, name)),
        })
    }

    async fn encrypted(&self, stream: impl Stream + 'static) -> io::Result<Box<dyn Stream>> {
        match &self.tls {
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
            None => Ok(Box::new(stream)),
        }
    }
}

#[async_trait::async_trait]
impl Connector for NetConnector {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match &self.address {
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // Transactions are small and waited for.
                stream.set_nodelay(true)?;
                self.encrypted(stream).await
            }
            Address::Unix(path) => self.encrypted(UnixStream::connect(path).await?).await,
        }
    }

    fn name(&self) -> String {
        self.address.to_string()
    }
}

/// Names the argument in any error about it. A key's error never holds the key.
fn invalid<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> StoreError {
    move |source| StoreError::Invalid {
        what,
        reason: source.to_string(),
    }
}

fn client_config(tls: &Tls) -> Result<ClientConfig, StoreError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("the TLS roots", &tls.roots)? {
        roots.add(certificate).map_err(invalid("the TLS roots"))?;
    }
    if roots.is_empty() {
        return Err(invalid("the TLS roots")("there is no certificate in them"));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(invalid("the TLS versions"))?
        .with_root_certificates(roots);
    match &tls.client {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            let chain = certificates("the TLS client certificate", chain)?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                .map_err(invalid("the TLS client key"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(invalid("the TLS client certificate"))
        }
    }
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(invalid(what))
}
