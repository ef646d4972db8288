//! TLS, with certificates made for the test.

use std::sync::Arc;

use foreshadow_store::{Address, Expect, NetConnector, RedisStore, Secret, Store, StoreError, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::put;
use crate::server::{Server, free_port, options};

/// An authority, and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// A certificate for the name, and its key, as PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A server that speaks TLS alone, and asks for the client's certificate.
async fn encrypted_server(authority: &Authority) -> (Server, Address) {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.sign("redis.test");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let port = free_port(22_000);
    let server = Server::with(&[
        "--appendonly",
        "yes",
        "--bind",
        "127.0.0.1",
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("server.pem", &certificate),
        "--tls-key-file",
        &file("server.key", &key),
        "--tls-ca-cert-file",
        &file("roots.pem", &authority.0.pem()),
    ])
    .await;
    (server, Address::Tcp("127.0.0.1".to_owned(), port))
}

async fn open(address: &Address, tls: &Tls) -> Result<RedisStore, StoreError> {
    let connector = NetConnector::tls(address.clone(), tls)?;
    RedisStore::open_through(Arc::new(connector), options()).await
}

#[tokio::test]
async fn both_sides_prove_who_they_are() {
    let authority = Authority::new();
    let (_server, address) = encrypted_server(&authority).await;
    let (certificate, key) = authority.sign("migrator");
    let good = Tls {
        roots: authority.0.pem(),
        server_name: "redis.test".to_owned(),
        client: Some((certificate, Secret::new(key))),
    };
    let store = open(&address, &good).await.unwrap();
    store.commit(put(Expect::Absent, 1)).await.unwrap();

    let stranger = Tls {
        roots: Authority::new().0.pem(),
        ..good.clone()
    };
    let other_name = Tls {
        server_name: "other.test".to_owned(),
        ..good.clone()
    };
    let unproven = Tls {
        client: None,
        ..good.clone()
    };
    for wrong in [stranger, other_name, unproven] {
        let refused = open(&address, &wrong).await.err();
        assert!(
            matches!(refused, Some(StoreError::Unavailable { .. })),
            "{refused:?}"
        );
    }
    let plain = RedisStore::open(address.clone(), options()).await.err();
    assert!(
        matches!(plain, Some(StoreError::Unavailable { .. })),
        "{plain:?}"
    );
}

#[tokio::test]
async fn what_is_no_certificate_is_refused_and_no_key_is_printed() {
    let authority = Authority::new();
    let address = Address::Tcp("127.0.0.1".to_owned(), 1);
    let (certificate, key) = authority.sign("migrator");
    let good = Tls {
        roots: authority.0.pem(),
        server_name: "redis.test".to_owned(),
        client: Some((certificate.clone(), Secret::new(key.clone()))),
    };
    assert!(NetConnector::tls(address.clone(), &good).is_ok());
    assert!(!format!("{good:?}").contains(key.lines().nth(1).unwrap()));
    for (what, wrong) in [
        (
            "roots",
            Tls {
                roots: String::new(),
                ..good.clone()
            },
        ),
        (
            "name",
            Tls {
                server_name: "a b".to_owned(),
                ..good.clone()
            },
        ),
        (
            "key",
            Tls {
                client: Some((certificate, Secret::new("xyzzy"))),
                ..good.clone()
            },
        ),
    ] {
        match NetConnector::tls(address.clone(), &wrong).err() {
            Some(StoreError::Invalid { what: named, .. }) => {
                assert!(named.contains(what), "{named}");
            }
            other => panic!("expected the {what} to be refused, got {other:?}"),
        }
    }
}
