//! Secrets, for SDS.

use api::envoy::envoy::config::core::v3::{DataSource, data_source::Specifier};
use api::envoy::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};

use super::named::Resource;

fn inline(bytes: &[u8]) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
        ..DataSource::default()
    }
}

/// A certificate chain and its key, both in PEM.
pub fn certificate(name: &str, chain: &[u8], key: &[u8]) -> Resource {
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(chain)),
            private_key: Some(inline(key)),
            ..TlsCertificate::default()
        })),
    };
    Resource::encode(name, &secret)
}

/// Authorities that certificates are checked against, in PEM.
pub fn authority(name: &str, bundle: &[u8]) -> Resource {
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::ValidationContext(
            CertificateValidationContext {
                trusted_ca: Some(inline(bundle)),
                ..CertificateValidationContext::default()
            },
        )),
    };
    Resource::encode(name, &secret)
}
