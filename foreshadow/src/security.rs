//! The `security` part of the configuration: by what this control plane proves itself, and whom it
//! believes. Left out, it has an authority of its own, and everything stays on this machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lines::Step;

/// How the control plane proves itself, and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Security {
    /// Folder of the authority that signs what nodes and this control plane prove themselves by; made
    /// when it is not there. Left out: `tls` in the data folder. Several control planes that share
    /// data planes share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<PathBuf>,
    /// Certificates of your own for xDS, instead of those of the authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xds: Option<XdsFiles>,
    /// Serve xDS in plain text and believe every node, for development. Beyond this machine only
    /// with `insecure_remote`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub xds_plaintext: bool,
    /// Folder of secrets for SDS: `NAME.crt` with `NAME.key`, and authorities `NAME.ca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<PathBuf>,
    /// TLS for the page and the control API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<PageTls>,
    /// File with the token that callers of the control API give as `Authorization: Bearer`; nobody
    /// else may read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// File with the secret by which webhooks are signed; nobody else may read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_secret_file: Option<PathBuf>,
}

/// Certificates for xDS, as PEM. They are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct XdsFiles {
    /// The server's certificate chain.
    pub certificate_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// The authorities that may have signed the certificates of nodes.
    pub roots_file: PathBuf,
}

/// TLS for the page and the control API. The files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageTls {
    /// Names and addresses that the authority writes into a certificate for this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// A certificate chain of your own instead, as PEM; needs `key_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// Its key, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Authorities whose certificates with the name `operator` may use the control API. With `names`
    /// the own authority's may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients_file: Option<PathBuf>,
}

impl PageTls {
    /// Whether callers can prove themselves by a certificate.
    pub const fn knows_clients(&self) -> bool {
        self.clients_file.is_some() || !self.names.is_empty()
    }
}

/// What is wrong: the field within the configuration, and the words.
pub(crate) type Wrong = (Vec<Step>, String);

impl Security {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Where the authority is.
    pub fn authority(&self, data: &Path) -> PathBuf {
        let own = || data.join("tls");
        self.authority.clone().unwrap_or_else(own)
    }

    /// Checks what types cannot, for the addresses that are served.
    pub(crate) fn validate(
        &self,
        xds: SocketAddr,
        page: SocketAddr,
        insecure_remote: bool,
    ) -> Result<(), Wrong> {
        let wrong = |field: &str, words: String| {
            Err((
                vec!["security".into(), field.into()],
                format!("security.{field}{words}"),
            ))
        };
        if self.xds_plaintext && self.xds.is_some() {
            return wrong(
                "xds_plaintext",
                " is true and security.xds is given; allowed is one of them".to_owned(),
            );
        }
        if self.xds_plaintext && !xds.ip().is_loopback() && !insecure_remote {
            return wrong(
                "xds_plaintext",
                format!(
                    " is true and xds is {xds}; allowed is an address of this machine alone, as \
                     127.0.0.1, or set insecure_remote: true"
                ),
            );
        }
        if let Some(tls) = &self.page {
            let pair = tls.certificate_file.is_some() == tls.key_file.is_some();
            if !pair {
                return wrong(
                    "page",
                    ": certificate_file and key_file go together".to_owned(),
                );
            }
            if tls.certificate_file.is_some() != tls.names.is_empty() {
                return wrong(
                    "page",
                    ": allowed is either names, or certificate_file with key_file".to_owned(),
                );
            }
            if let Some(name) = tls.names.iter().find(|name| !is_name(name)) {
                return wrong(
                    "page",
                    format!(": names has {name:?}; allowed are host names and IP addresses"),
                );
            }
        }
        if page.ip().is_loopback() || insecure_remote {
            return Ok(());
        }
        let open = |words: &str| {
            let words = format!(
                "page is {page}; allowed is an address of this machine alone, as 127.0.0.1, or {words}, \
                 or set insecure_remote: true"
            );
            Err((vec!["page".into()], words))
        };
        match &self.page {
            None => open("security.page with TLS and security.token_file"),
            Some(tls) if self.token_file.is_none() && !tls.knows_clients() => {
                open("security.token_file or security.page.clients_file beside the TLS there is")
            }
            Some(_) => Ok(()),
        }
    }
}

/// Whether a text may stand in a certificate as a host.
fn is_name(text: &str) -> bool {
    let labels = |text: &str| {
        text.len() <= 253
            && text.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            })
    };
    text.parse::<std::net::IpAddr>().is_ok() || labels(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, xds: &str, page: &str) -> Result<(), String> {
        let security: Security = serde_saphyr::from_str(yaml).map_err(|e| e.to_string())?;
        security
            .validate(xds.parse().unwrap(), page.parse().unwrap(), false)
            .map_err(|(_, words)| words)
    }

    #[test]
    fn what_contradicts_itself_or_is_open_to_others_is_refused_by_name() {
        let (here, there) = ("127.0.0.1:1", "192.0.2.1:1");
        assert_eq!(check("{}", here, here), Ok(()));
        // Mutual TLS needs no word to be served to others.
        assert_eq!(check("{}", there, here), Ok(()));
        for (yaml, xds, page, words) in [
            (
                "xds_plaintext: true",
                there,
                here,
                "security.xds_plaintext is true and xds is 192.0.2.1:1",
            ),
            (
                "{xds_plaintext: true, xds: {certificate_file: a, key_file: b, roots_file: c}}",
                here,
                here,
                "allowed is one of them",
            ),
            ("{}", here, there, "page is 192.0.2.1:1"),
            ("token_file: t", here, there, "security.page with TLS"),
            (
                "page: {certificate_file: a, key_file: b}",
                here,
                there,
                "security.token_file",
            ),
            ("page: {certificate_file: a}", here, here, "go together"),
            ("page: {}", here, here, "either names"),
            (
                "page: {names: [a], certificate_file: a, key_file: b}",
                here,
                here,
                "either names",
            ),
            ("page: {names: ['a b']}", here, here, "\"a b\""),
            (
                "xds: {certificate_file: a, key_file: b}",
                here,
                here,
                "roots_file",
            ),
            ("plaintext: true", here, here, "plaintext"),
        ] {
            let error = check(yaml, xds, page).unwrap_err();
            assert!(error.contains(words), "{yaml}: {error}");
        }
        for yaml in [
            "{page: {certificate_file: a, key_file: b}, token_file: t}",
            "{page: {certificate_file: a, key_file: b, clients_file: c}}",
            "{page: {names: [cp.example, 192.0.2.1]}}",
        ] {
            assert_eq!(check(yaml, there, there), Ok(()), "{yaml}");
        }
    }
}
