//! Who may connect, as whom, and what they may see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use common::client::node;
use common::until;
use common::world::Scene;
use domain::NodeId;
use foreshadow_xds_server::authority::{LocalAuthority, NodeFiles, SERVER_NAME};
use foreshadow_xds_server::{Security, TlsFiles, XdsConfig, XdsError, XdsServer};
use hyper_util::rt::TokioIo;
use store::{MemoryStore, SharedStore, SystemClock};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

async fn start(files: TlsFiles, secrets: Option<&Path>) -> Result<XdsServer, XdsError> {
    let store: SharedStore = Arc::new(MemoryStore::new());
    Scene::new("shop", 1).save(&store).await;
    let config = XdsConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        security: Security::Mutual(files),
        secrets: secrets.map(Path::to_owned),
        ..XdsConfig::default()
    };
    XdsServer::start(config, store, Arc::new(SystemClock)).await
}

fn named(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A connection of a client that trusts `authority` and proves itself by `files`, if it does.
async fn connect(
    server: SocketAddr,
    authority: &Path,
    files: Option<&NodeFiles>,
) -> Option<Channel> {
    let chain = |path: &Path| -> Vec<CertificateDer<'static>> {
        let found = CertificateDer::pem_file_iter(path).unwrap();
        found.map(Result::unwrap).collect()
    };
    let mut roots = RootCertStore::empty();
    for authority in chain(authority) {
        roots.add(authority).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match files {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
            let chain = chain(&files.certificate);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let dial = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(server).await?;
            let name = ServerName::try_from(SERVER_NAME).unwrap();
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://xds");
    endpoint.connect_with_connector(dial).await.ok()
}

/// Asks for resources as a node. The first answer, or why there is none.
async fn ask(
    channel: Channel,
    as_node: &str,
    type_url: &str,
    names: &[&str],
) -> Result<DeltaDiscoveryResponse, Status> {
    let (requests, stream) = mpsc::channel(4);
    let request = DeltaDiscoveryRequest {
        node: Some(node(as_node)),
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(request).await.unwrap();
    let mut responses = AggregatedDiscoveryServiceClient::new(channel)
        .delta_aggregated_resources(ReceiverStream::new(stream))
        .await?
        .into_inner();
    let answer = tokio::time::timeout(common::LIMIT, responses.message()).await;
    answer
        .expect("no answer")?
        .ok_or_else(|| Status::unavailable("ended"))
}

#[tokio::test]
async fn a_node_is_served_under_the_name_in_its_certificate_and_under_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let authority = LocalAuthority::open(folder.path()).unwrap();
    let server = start(authority.server().unwrap(), None).await.unwrap();
    let files = authority.node(&named("edge-1")).unwrap();
    let address = server.local_addr();
    let open = || connect(address, &files.authority, Some(&files));
    let answer = ask(open().await.unwrap(), "edge-1", api::xds::CLUSTER, &[]);
    assert_eq!(answer.await.unwrap().resources[0].name, "shop");
    let spoofed = ask(open().await.unwrap(), "edge-2", api::xds::CLUSTER, &[]);
    let status = spoofed.await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("edge-2"), "{status}");
    server.shutdown().await;
}

#[tokio::test]
async fn without_a_certificate_of_the_authority_nothing_is_served() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = LocalAuthority::open(ours.path()).unwrap();
    let stranger = LocalAuthority::open(theirs.path()).unwrap();
    let server = start(authority.server().unwrap(), None).await.unwrap();
    let known = authority.node(&named("edge-1")).unwrap();
    let unknown = stranger.node(&named("edge-1")).unwrap();
    let address = server.local_addr();
    for files in [None, Some(&unknown)] {
        // TLS 1.3 tells a client late that it was refused: the first answer is what counts.
        if let Some(channel) = connect(address, &known.authority, files).await {
            let answer = ask(channel, "edge-1", api::xds::CLUSTER, &[]).await;
            assert!(answer.is_err(), "{files:?}");
        }
    }
    // Nor does our client believe a server of another authority, nor does plain text work.
    assert!(
        connect(address, &unknown.authority, Some(&known))
            .await
            .is_none()
    );
    let plain = Endpoint::from_shared(format!("http://{address}")).unwrap();
    if let Ok(channel) = plain.connect().await {
        let answer = ask(channel, "edge-1", api::xds::CLUSTER, &[]).await;
        assert!(answer.is_err());
    }
    server.shutdown().await;
}

#[tokio::test]
async fn certificates_that_are_replaced_are_in_force_without_a_restart() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = LocalAuthority::open(ours.path()).unwrap();
    let next = LocalAuthority::open(theirs.path()).unwrap();
    let files = authority.server().unwrap();
    let server = start(files.clone(), None).await.unwrap();
    let address = server.local_addr();
    let renewed = next.server().unwrap();
    for (from, to) in [
        (&renewed.key, &files.key),
        (&renewed.certificate, &files.certificate),
        (&renewed.authorities, &files.authorities),
    ] {
        std::fs::copy(from, to).unwrap();
    }
    let node = next.node(&named("edge-1")).unwrap();
    until("the new authority's node is served", || async {
        let channel = connect(address, &node.authority, Some(&node)).await?;
        ask(channel, "edge-1", api::xds::CLUSTER, &[]).await.ok()
    })
    .await;
    server.shutdown().await;
}

#[tokio::test]
async fn a_server_that_cannot_prove_itself_does_not_start_and_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let files = LocalAuthority::open(folder.path())
        .unwrap()
        .server()
        .unwrap();
    std::fs::write(&files.key, "no key").unwrap();
    let error = start(files.clone(), None).await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains(files.key.to_str().unwrap()), "{words}");
}

#[tokio::test]
async fn a_node_gets_its_own_secret_and_authorities_but_nobody_elses_key() {
    let (folder, secrets) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = LocalAuthority::open(folder.path()).unwrap();
    for (file, text) in [
        ("edge-1.crt", "chain one"),
        ("edge-1.key", "key one"),
        ("edge-2.crt", "chain two"),
        ("edge-2.key", "key two"),
        ("mesh.ca", "bundle"),
    ] {
        std::fs::write(secrets.path().join(file), text).unwrap();
    }
    let files = authority.server().unwrap();
    let server = start(files, Some(secrets.path())).await.unwrap();
    let node = authority.node(&named("edge-1")).unwrap();
    let names = ["edge-1", "edge-2", "mesh.ca"];
    let answer = until("secrets are there", || async {
        let channel = connect(server.local_addr(), &node.authority, Some(&node)).await?;
        let answer = ask(channel, "edge-1", api::xds::SECRET, &names)
            .await
            .ok()?;
        (!answer.resources.is_empty()).then_some(answer)
    })
    .await;
    let got: Vec<&str> = answer
        .resources
        .iter()
        .map(|secret| secret.name.as_str())
        .collect();
    assert_eq!(got, ["edge-1", "mesh.ca"]);
    let bytes = format!("{answer:?}");
    assert!(!bytes.contains("key two"));
    server.shutdown().await;
}

#[test]
fn the_keys_of_the_local_authority_are_for_this_user_alone_and_live_on() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("tls");
    let authority = LocalAuthority::open(&place).unwrap();
    let node = authority.node(&named("edge-1")).unwrap();
    for path in [&place.join("authority.key"), &node.key] {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
    let before = std::fs::read(&node.authority).unwrap();
    drop(authority);
    LocalAuthority::open(&place).unwrap();
    assert_eq!(std::fs::read(&node.authority).unwrap(), before);
}
