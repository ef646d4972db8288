//! How commands prove themselves to a control plane, and by what they know it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::door::{bad, certificates};
use crate::error::Failure;
use crate::storage::private_text;

/// How a command proves itself to a control plane, and by what it knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Access {
    /// Authorities that may have signed the control plane's certificate (PEM); with it TLS is spoken.
    #[arg(long, env = "FORESHADOW_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The name that its certificate must carry; left out, the server's address.
    #[arg(
        long,
        env = "FORESHADOW_SERVER_NAME",
        value_name = "NAME",
        requires = "ca"
    )]
    pub server_name: Option<String>,
    /// File with the control plane's token, which nobody else may read.
    #[arg(long, env = "FORESHADOW_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// An operator's certificate (PEM).
    #[arg(
        long,
        env = "FORESHADOW_CERTIFICATE",
        value_name = "FILE",
        requires = "key"
    )]
    pub certificate: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(
        long,
        env = "FORESHADOW_KEY",
        value_name = "FILE",
        requires = "certificate"
    )]
    pub key: Option<PathBuf>,
}

impl Access {
    /// Whether TLS is spoken.
    pub const fn is_secured(&self) -> bool {
        self.ca.is_some()
    }

    /// The token, if there is one.
    pub(crate) fn token(&self) -> Result<Option<String>, Failure> {
        self.token_file.as_deref().map(private_text).transpose()
    }

    /// What makes TLS of a connection, and the name that is asked for.
    pub(crate) fn connector(
        &self,
        address: SocketAddr,
    ) -> Result<Option<(TlsConnector, ServerName<'static>)>, Failure> {
        let Some(ca) = &self.ca else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca)? {
            roots.add(authority).map_err(bad(ca))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(bad(ca))?
            .with_root_certificates(roots);
        let config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(bad(key))?;
                builder
                    .with_client_auth_cert(certificates(certificate)?, private)
                    .map_err(bad(certificate))?
            }
            (Some(_), None) | (None, _) => builder.with_no_client_auth(),
        };
        let name = match &self.server_name {
            None => ServerName::from(address.ip()),
            Some(name) => ServerName::try_from(name.clone()).map_err(|_| {
                Failure::Config(format!(
                    "--server-name is {name:?}; allowed is a host name or an address"
                ))
            })?,
        };
        Ok(Some((TlsConnector::from(Arc::new(config)), name)))
    }
}
