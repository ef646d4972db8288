//! What a running control plane proves itself by, kept from running out.
//!
//! # Ownership
//! The authority's folder holds the authority and the nodes' certificates (`nodes`); this control
//! plane's own certificates are in `tls` in its data folder, so that several control planes can share
//! an authority. Certificates are made when they are missing, and anew when a third of their life is
//! left; whoever uses them reads them again by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::NodeId;
use tokio_util::sync::CancellationToken;
use xds_server::authority::{LocalAuthority, NodeFiles};
use xds_server::{TlsFiles, XdsError};

use crate::config::Config;
use crate::door::PageFiles;
use crate::error::Failure;

/// How often the ends of certificates are looked at.
const LOOK: Duration = Duration::from_hours(1);

/// What a control plane proves itself by.
#[derive(Debug, Clone)]
pub struct Keyring {
    authority: Option<Arc<LocalAuthority>>,
    /// This control plane's own folder.
    own: PathBuf,
    /// Names of the page, if the authority signs its certificate.
    names: Vec<String>,
    /// How xDS is secured.
    pub xds: xds_server::Security,
    /// How the page is secured.
    pub page: Option<PageFiles>,
}

impl Keyring {
    /// Opens what the configuration names, and makes what is missing.
    ///
    /// # Errors
    /// [`Failure::Config`] naming the file that cannot be read, made or used.
    pub fn open(config: &Config) -> Result<Self, Failure> {
        let security = &config.security;
        let own = config.data.join("tls");
        let names = security
            .page
            .as_ref()
            .map_or_else(Vec::new, |page| page.names.clone());
        let signs_xds = security.xds.is_none() && !security.xds_plaintext;
        let authority = if signs_xds || !names.is_empty() {
            let folder = security.authority(&config.data);
            Some(Arc::new(
                LocalAuthority::open(folder).map_err(|error| unusable(&error))?,
            ))
        } else {
            None
        };
        let mut keyring = Self {
            authority,
            own,
            names,
            xds: xds_server::Security::Plaintext,
            page: None,
        };
        let own_xds = keyring.keep().map_err(|error| unusable(&error))?;
        if let Some(files) = &security.xds {
            keyring.xds = xds_server::Security::Mutual(TlsFiles {
                certificate: files.certificate_file.clone(),
                key: files.key_file.clone(),
                authorities: files.roots_file.clone(),
            });
        } else if let Some(files) = own_xds.filter(|_| signs_xds) {
            keyring.xds = xds_server::Security::Mutual(files);
        }
        keyring.page = security.page.as_ref().map(|page| keyring.page_files(page));
        Ok(keyring)
    }

    fn page_files(&self, page: &crate::security::PageTls) -> PageFiles {
        let own = |name: &str| self.own.join(name);
        let authority = self.authority.as_ref().map(|found| found.certificate());
        PageFiles {
            certificate: page
                .certificate_file
                .clone()
                .unwrap_or_else(|| own("page.crt")),
            key: page.key_file.clone().unwrap_or_else(|| own("page.key")),
            clients: page
                .clients_file
                .clone()
                .or_else(|| authority.filter(|_| !page.names.is_empty())),
        }
    }

    /// The files of a node, made or renewed by the authority; none when nodes prove nothing here, or
    /// have certificates of somebody else.
    ///
    /// # Errors
    /// [`Failure::Config`] naming the file that cannot be written.
    pub fn node(&self, node: &NodeId) -> Result<Option<NodeFiles>, Failure> {
        match (&self.authority, &self.xds) {
            (Some(authority), xds_server::Security::Mutual(files))
                if files.authorities == authority.certificate() =>
            {
                authority
                    .keep_node(node)
                    .map(Some)
                    .map_err(|error| unusable(&error))
            }
            _ => Ok(None),
        }
    }

    /// Makes what is missing or near its end. Gives the xDS server's files.
    fn keep(&self) -> Result<Option<TlsFiles>, XdsError> {
        let Some(authority) = &self.authority else {
            return Ok(None);
        };
        let files = authority.keep_server(&self.own)?;
        if !self.names.is_empty() {
            authority.keep_web(&self.names, "page", &self.own)?;
        }
        for node in authority.renew()? {
            tracing::info!(%node, "has a new certificate");
        }
        Ok(Some(files))
    }

    /// Keeps certificates from running out, until cancelled.
    pub async fn renewing(self, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            let keyring = self.clone();
            match tokio::task::spawn_blocking(move || keyring.keep()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::error!(%error, "certificates are not renewed"),
                Err(error) => tracing::error!(%error, "certificates are not renewed"),
            }
        }
    }
}

fn unusable(error: &XdsError) -> Failure {
    Failure::Config(error.to_string())
}
