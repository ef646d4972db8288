//! By what a proxy proves itself to its control plane, and by what it knows that one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::settings::ProxyError;

/// Files in PEM. They are read at every connection, so what is rotated needs no restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The proxy's certificate chain; it carries the node's name.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that the control plane is checked against.
    pub authority: PathBuf,
    /// The name that the control plane's certificate must carry.
    pub server_name: String,
}

impl Identity {
    /// What a TLS client needs, read from the files. TLS 1.3 only.
    ///
    /// # Errors
    /// [`ProxyError::Identity`] naming the file that cannot be used.
    pub fn load(&self) -> Result<ClientConfig, ProxyError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.authority)? {
            roots.add(authority).map_err(bad(&self.authority))?;
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(bad(&self.key))?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(bad(&self.certificate))?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&self.certificate)?, key)
            .map_err(bad(&self.certificate))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ProxyError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(bad(path))?
        .collect();
    let found = read.map_err(bad(path))?;
    if found.is_empty() {
        return Err(bad(path)("no certificate in it"));
    }
    Ok(found)
}

fn bad<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> ProxyError + use<E> {
    let path = path.to_owned();
    move |reason| ProxyError::Identity {
        path: path.clone(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_certificate_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("authority.crt"), "nothing").unwrap();
        let identity = Identity {
            certificate: file("edge.crt"),
            key: file("edge.key"),
            authority: file("authority.crt"),
            server_name: "xds".to_owned(),
        };
        let words = identity.load().unwrap_err().to_string();
        assert!(words.contains("authority.crt"), "{words}");
    }
}
