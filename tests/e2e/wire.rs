//! Who may talk to a control plane, with the real binary: data planes under certificates that are
//! right and wrong, people with and without a token, and Prometheus.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use domain::{NodeId, NodeProgress};
use foreshadow::client;
use foreshadow::demo::planes::free_port;
use foreshadow_tests::binary;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use xds_server::authority::{LocalAuthority, SERVER_NAME};

use crate::ONE_AT_A_TIME;
use crate::lab::{Lab, block_on, next_port, nothing_was_lost, until};

/// A control plane without instances: what it says to who connects is all that counts here.
pub(crate) struct Serve {
    pub(crate) folder: TempDir,
    pub(crate) page: SocketAddr,
    xds: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
}

impl Serve {
    /// Starts one in a folder, with more lines of configuration.
    pub(crate) fn start(folder: TempDir, more: &str) -> Self {
        let page = free_port().unwrap();
        let xds = SocketAddr::from(([127, 0, 0, 1], next_port(page)));
        let admin = SocketAddr::from(([127, 0, 0, 1], next_port(xds)));
        let data = folder.path().join("data");
        let text = format!(
            "data: {}\nxds: {xds}\npage: {page}\nxds_admin: {admin}\n\
             hosts: [{{id: a, capacity: {{cpu: 1000, memory: null, net_rx: null, net_tx: null}}}}]\n\
             services: [{{id: shop}}]\ninstances: []\n{more}",
            data.display()
        );
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(folder.path().join("serve.log")).unwrap();
        let child = Command::new(binary())
            .args(["serve", "--config"])
            .arg(file)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            folder,
            page,
            xds,
            admin,
            child,
        }
    }

    async fn metric(&self, name: &str) -> Option<u64> {
        let body = client::get(self.admin, "/metrics").await.ok()?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("serve.log")).unwrap()
    }

    /// A command about it.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .args(arguments)
            .args(["--server", &self.page.to_string()])
            .output()
            .unwrap()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- serve.log\n{}", self.log());
        }
    }
}

/// A proxy that wants to follow it; it ends with this.
struct Proxy(Child);

impl Proxy {
    fn start(xds: SocketAddr, arguments: &[&str]) -> Self {
        let child = Command::new(binary())
            .args(["proxy", "--listen", "127.0.0.1:0", "--control-plane"])
            .arg(xds.to_string())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An authority of a user's own.
struct Own {
    folder: PathBuf,
    params: CertificateParams,
    key: KeyPair,
}

impl Own {
    fn new(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.join("ca.crt"), certificate.pem()).unwrap();
        Self {
            folder,
            params,
            key,
        }
    }

    fn path(&self, file: &str) -> String {
        self.folder.join(file).to_string_lossy().into_owned()
    }

    /// Writes `FILE.crt` and `FILE.key`, which hold until a year.
    fn sign(&self, file: &str, name: &str, until_year: i32) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let signed = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.crt")), signed.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn a_proxy_that_does_not_prove_who_it_is_gets_nothing_and_the_reason_is_logged_and_counted() {
    let _turn = ONE_AT_A_TIME.lock();
    const HANDSHAKES: &str = "foreshadow_xds_tls_handshakes_failed_total";
    const STREAMS: &str = "foreshadow_xds_streams_refused_total";
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let ours = Own::new(folder.path(), "ours");
        let theirs = Own::new(folder.path(), "theirs");
        ours.sign("server", SERVER_NAME, 2100);
        ours.sign("edge", "edge", 2100);
        ours.sign("expired", "edge", 2021);
        theirs.sign("edge", "edge", 2100);
        let security = format!(
            "security: {{xds: {{certificate_file: {}, key_file: {}, roots_file: {}}}}}\n",
            ours.path("server.crt"),
            ours.path("server.key"),
            ours.path("ca.crt")
        );
        let serve = Serve::start(folder, &security);
        until("it serves", async || serve.metric(HANDSHAKES).await).await;
        let cases = [
            (None, "edge", HANDSHAKES, "InvalidContentType"),
            (Some((&theirs, "edge")), "edge", HANDSHAKES, "UnknownIssuer"),
            (Some((&ours, "expired")), "edge", HANDSHAKES, "xpired"),
            (
                Some((&ours, "edge")),
                "other",
                STREAMS,
                "other is not a name in the client's certificate",
            ),
        ];
        for (files, node, counter, words) in cases {
            let before = serve.metric(counter).await.unwrap();
            let _proxy = match files {
                None => Proxy::start(serve.xds, &["--node", node, "--insecure-plaintext"]),
                Some((own, file)) => Proxy::start(
                    serve.xds,
                    &[
                        "--node",
                        node,
                        "--certificate",
                        &own.path(&format!("{file}.crt")),
                        "--key",
                        &own.path(&format!("{file}.key")),
                        "--authority",
                        &ours.path("ca.crt"),
                    ],
                ),
            };
            until(&format!("{words} is counted"), async || {
                (serve.metric(counter).await? > before).then_some(())
            })
            .await;
            until(&format!("{words} is logged"), async || {
                serve.log().contains(words).then_some(())
            })
            .await;
            let nodes = client::get(serve.admin, "/config_dump").await.unwrap();
            assert!(
                String::from_utf8_lossy(&nodes).contains("\"nodes\":{}"),
                "{words}: it was served"
            );
        }
        // And the one that does is served: the refusals above are no accident.
        let proxy = Proxy::start(
            serve.xds,
            &[
                "--node",
                "edge",
                "--certificate",
                &ours.path("edge.crt"),
                "--key",
                &ours.path("edge.key"),
                "--authority",
                &ours.path("ca.crt"),
            ],
        );
        until("the right one is served", async || {
            let nodes = client::get(serve.admin, "/config_dump").await.ok()?;
            String::from_utf8_lossy(&nodes)
                .contains("\"edge\"")
                .then_some(())
        })
        .await;
        until("nothing is wrong", async || {
            client::get(serve.page, "/readyz").await.ok()
        })
        .await;
        // Once it is gone, readiness and status say so.
        drop(proxy);
        until("readiness is red", async || {
            let answer = client::get(serve.page, "/readyz").await;
            let words = answer.err()?.to_string();
            words.contains("edge is away").then_some(())
        })
        .await;
        let status = serve.cli(&["status"]);
        let words = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(words.contains("trouble: proxies: edge is away"), "{words}");
    });
}

#[test]
fn certificates_and_even_the_authority_are_replaced_under_load_and_no_request_is_lost() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let mut lab = Lab::start().await;
        let tls = lab.data().join("tls");
        // All anew: whoever connects from now on with what it had before is refused.
        let fresh = tempfile::tempdir().unwrap();
        let authority = LocalAuthority::open(fresh.path()).unwrap();
        authority.keep_server(fresh.path()).unwrap();
        for name in ["envoy", "proxy"] {
            authority.node(&NodeId::new(name).unwrap()).unwrap();
        }
        let replace = |file: &str| {
            let (beside, to) = (tls.join(format!("{file}.moved")), tls.join(file));
            std::fs::copy(fresh.path().join(file), &beside).unwrap();
            std::fs::rename(beside, to).unwrap();
        };
        for file in [
            "authority.key",
            "authority.crt",
            "server.key",
            "server.crt",
            "nodes/envoy.key",
            "nodes/envoy.crt",
            "nodes/proxy.key",
            "nodes/proxy.crt",
        ] {
            replace(file);
        }
        // Open streams live on; a control plane that is restarted is connected to anew.
        lab.restart(None).await;
        until("both data planes follow again", async || {
            let status = lab.status().await?;
            let nodes = foreshadow::health::nodes(&status.routing);
            let follow = nodes.values().all(|node| *node == NodeProgress::Applied);
            (follow && nodes.len() == 2).then_some(())
        })
        .await;
        let first = lab.host().await;
        lab.order().await.expect("the control plane lives");
        let moved = lab
            .newest("the move is over", |m| m.migration.phase.is_final())
            .await;
        assert_eq!(moved.phase, "done", "{moved:#?}");
        assert_ne!(lab.host().await, first);
        lab.is_at_rest("the move").await;
        let report = lab.end().await;
        nothing_was_lost(&report, 100);
    });
}

#[test]
fn people_use_the_api_of_a_secured_page_with_a_token_or_an_operators_certificate_only() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let private = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&file, mode).unwrap();
            file.to_string_lossy().into_owned()
        };
        let token = private("token", "correct-horse-battery");
        let wrong = private("wrong", "incorrect-horse-battery");
        let security = format!("security: {{token_file: {token}, page: {{names: [127.0.0.1]}}}}\n");
        let serve = Serve::start(folder, &security);
        let tls = serve.folder.path().join("data/tls");
        until("it serves", async || {
            client::get(serve.admin, "/readyz").await.ok()
        })
        .await;
        let authority = LocalAuthority::open(&tls).unwrap();
        let file = |path: &Path| path.to_string_lossy().into_owned();
        let ca = file(&authority.certificate());
        let operator = authority.node(&NodeId::new("operator").unwrap()).unwrap();
        let node = authority.node(&NodeId::new("edge").unwrap()).unwrap();
        let status = |more: &[&str]| serve.cli(&[&["status"], more].concat());
        let words = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
        let welcome = until("the page answers", async || {
            let output = status(&["--ca", &ca, "--token-file", &token]);
            output.status.success().then_some(output)
        })
        .await;
        assert!(String::from_utf8_lossy(&welcome.stdout).contains("host a"));
        let (certificate, key) = (file(&operator.certificate), file(&operator.key));
        let by_certificate = status(&["--ca", &ca, "--certificate", &certificate, "--key", &key]);
        assert!(
            by_certificate.status.success(),
            "{}",
            words(&by_certificate)
        );
        // No token, a wrong one, a node's certificate.
        let (certificate, key) = (file(&node.certificate), file(&node.key));
        for refused in [
            status(&["--ca", &ca]),
            status(&["--ca", &ca, "--token-file", &wrong]),
            status(&["--ca", &ca, "--certificate", &certificate, "--key", &key]),
        ] {
            assert_eq!(refused.status.code(), Some(1), "{}", words(&refused));
            assert!(
                words(&refused).contains("--token-file"),
                "{}",
                words(&refused)
            );
        }
        // Plain text, and another authority's word for the server.
        assert_eq!(status(&["--token-file", &token]).status.code(), Some(69));
        let stranger = tempfile::tempdir().unwrap();
        let stranger = LocalAuthority::open(stranger.path()).unwrap();
        let other = file(&stranger.certificate());
        let unbelieved = status(&["--ca", &other, "--token-file", &token]);
        assert_eq!(unbelieved.status.code(), Some(69));
        let log = serve.log();
        assert!(!log.contains("horse"), "a token stands in the log: {log}");
    });
}

/// Names of metrics in the text form, each line of which must be well-formed.
fn families(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(found.insert(name.to_owned()), "{name} occurs twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap();
        let known = ["", "_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .any(|family| found.contains(family));
        assert!(known, "{name} has no type before it");
    }
    found
}

#[test]
fn every_metric_that_is_served_is_documented_and_every_documented_one_is_served() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let serve = Serve::start(tempfile::tempdir().unwrap(), "");
        let scrape = async |address, path| {
            until("it is scraped", async || {
                client::get(address, path).await.ok()
            })
            .await
        };
        let mut served = BTreeSet::new();
        for (address, path) in [
            (serve.admin, "/metrics"),
            (serve.page, "/metrics"),
            (serve.page, "/metrics/forecasts"),
        ] {
            let body = scrape(address, path).await;
            served.extend(families(&String::from_utf8_lossy(&body)));
        }
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let text = std::fs::read_to_string(file).unwrap();
        let documented: BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .map(|name| name.split('{').next().unwrap_or_default().to_owned())
            .collect();
        assert!(served.len() > 20, "{served:?}");
        assert_eq!(served, documented);
    });
}

#[test]
fn a_key_that_is_no_key_ends_the_start_by_name() {
    let _turn = ONE_AT_A_TIME.lock();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir_all(data.join("tls")).unwrap();
    std::fs::write(data.join("tls/authority.key"), "nothing").unwrap();
    let mut serve = Serve::start(folder, "");
    let status = serve.child.wait().unwrap();
    assert_eq!(status.code(), Some(64), "{}", serve.log());
    assert!(serve.log().contains("authority.key"), "{}", serve.log());
    // The same for a proxy.
    let output = Command::new(binary())
        .args(["proxy", "--identity"])
        .arg(serve.folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("authority.crt"), "{words}");
}
