//! The door of the page and the control API: who may come in, how many, and how long they may dawdle.
//!
//! # Flow
//! ```text
//! accept (limited) ─▶ TLS, if set ─▶ headers (limited in time and size) ─▶ guard ─▶ router
//! HTTP/1.1, and HTTP/2 for gRPC (told by its first bytes, or agreed on in TLS)
//! ```
//! # Guarantees
//! - Where a token or client certificates are set, nobody uses the API without one: the comparison
//!   takes the same time whatever is wrong.
//! - Where none are set, a page of another site that a browser on this machine shows cannot: requests
//!   that such a page causes are told by their `Origin` and `Host`.
//! - The token is kept as its hash only, so that it cannot be printed.

mod visit;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use self::visit::{Visit, connection};
use crate::error::Failure;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once.
const MAX_CONNECTIONS: usize = 256;
/// Those of them that may speak HTTP/2: they may be quiet for as long as they like.
const MAX_MULTIPLEXED: usize = 64;
/// How long open connections may go on when the control plane stops.
const GRACE: Duration = Duration::from_secs(2);
/// How often certificates are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest and longest token.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=4_096;

/// Files in PEM by which the page proves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageFiles {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of callers that prove themselves by a certificate.
    pub clients: Option<PathBuf>,
}

type Stamps = [Option<(SystemTime, u64)>; 3];

impl PageFiles {
    fn stamps(&self) -> Stamps {
        let clients = self.clients.as_deref().unwrap_or(&self.certificate);
        [&self.certificate, &self.key, clients].map(|path| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        })
    }

    fn load(&self) -> Result<ServerConfig, Failure> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(bad(&self.certificate))?;
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path)? {
                    roots.add(authority).map_err(bad(path))?;
                }
                // Who has none may have a token.
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(bad(path))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(bad(&self.key))?;
        let mut config = builder
            .with_single_cert(certificates(&self.certificate)?, key)
            .map_err(bad(&self.certificate))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The certificates in a file.
///
/// # Errors
/// [`Failure::Config`] naming the file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(bad(path))?
        .collect();
    let found = read.map_err(bad(path))?;
    if found.is_empty() {
        return Err(bad(path)("no certificate in it"));
    }
    Ok(found)
}

/// A file that cannot be used.
pub(crate) fn bad<E: fmt::Display>(path: &Path) -> impl Fn(E) -> Failure + use<E> {
    let path = path.to_owned();
    move |reason| Failure::Config(format!("cannot use {}: {reason}", path.display()))
}

/// A bearer token, as its hash.
#[derive(Clone)]
pub struct Token(blake3::Hash);

impl Token {
    /// Reads it from a file that nobody else may read.
    ///
    /// # Errors
    /// [`Failure::Config`] naming the file and what is allowed, never the token.
    pub fn read(file: &Path) -> Result<Self, Failure> {
        let text = crate::storage::private_text(file)?;
        if !TOKEN.contains(&text.len()) {
            return Err(bad(file)(format!(
                "it has {} characters; allowed is {} to {}",
                text.len(),
                TOKEN.start(),
                TOKEN.end()
            )));
        }
        Ok(Self::new(&text))
    }

    fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    fn is(&self, given: &str) -> bool {
        // Hashes are compared in constant time.
        self.0 == blake3::hash(given.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Who may use the API.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// The token that opens it.
    pub token: Option<Token>,
    /// Whether callers may prove themselves by a certificate.
    pub certificates: bool,
    /// Whether names as Host are believed: the page is served beyond this machine.
    pub any_host: bool,
    /// Requests that were refused.
    pub refused: Arc<AtomicU64>,
}

/// What a connection has proven of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Unknown,
    Operator,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Welcome,
    /// Another site's page caused it.
    Foreign,
    /// It proves nothing, or something wrong.
    Unproven,
}

impl Guard {
    const fn is_closed(&self) -> bool {
        self.token.is_some() || self.certificates
    }

    fn judge(
        &self,
        path: &str,
        authority: Option<&str>,
        headers: &HeaderMap,
        caller: Caller,
    ) -> Verdict {
        if self.is_foreign(authority, headers) {
            return Verdict::Foreign;
        }
        // Probes, and a page that is empty without the API.
        let is_public = matches!(path, "/" | "/healthz" | "/readyz");
        if is_public || !self.is_closed() || caller == Caller::Operator {
            return Verdict::Welcome;
        }
        let given = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
        let given = given.and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        match (&self.token, given) {
            (Some(token), Some(given)) if token.is(given) => Verdict::Welcome,
            _ => Verdict::Unproven,
        }
    }

    /// Whether a browser sends this for a page of another site.
    fn is_foreign(&self, authority: Option<&str>, headers: &HeaderMap) -> bool {
        let text = |value: Option<&axum::http::HeaderValue>| {
            value.map(|value| value.to_str().unwrap_or("?").to_owned())
        };
        // HTTP/2 says it in the address instead.
        let told = authority.map(ToOwned::to_owned);
        let host = text(headers.get(HOST)).or(told).unwrap_or_default();
        if let Some(origin) = text(headers.get(ORIGIN)) {
            let from = origin.split_once("://").map(|(_, authority)| authority);
            if from != Some(host.as_str()) {
                return true;
            }
        }
        // A name of somebody's own that is made to mean this machine.
        !self.is_closed() && !self.any_host && !is_literal(&host)
    }
}

/// Whether a Host is an address, or this machine's own name for itself.
fn is_literal(host: &str) -> bool {
    if host.is_empty() {
        return true;
    }
    let Ok(uri) = Uri::try_from(format!("http://{host}/")) else {
        return false;
    };
    let name = uri.host().unwrap_or_default();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || bare.parse::<std::net::IpAddr>().is_ok()
}

async fn check(
    State(guard): State<Guard>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let authority = request
        .uri()
        .authority()
        .map(axum::http::uri::Authority::as_str);
    let verdict = guard.judge(path, authority, request.headers(), caller);
    if verdict != Verdict::Welcome {
        guard.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(path, ?verdict, "a request is refused");
    }
    match verdict {
        Verdict::Welcome => next.run(request).await,
        Verdict::Foreign => (
            StatusCode::FORBIDDEN,
            "requests that pages of other sites cause are refused\n",
        )
            .into_response(),
        Verdict::Unproven => (
            StatusCode::UNAUTHORIZED,
            [(WWW_AUTHENTICATE, "Bearer")],
            "this needs the control plane's token (--token-file), or an operator's certificate \
             (--certificate and --key)\n",
        )
            .into_response(),
    }
}

/// Serves a router until cancelled. Gives the address.
///
/// # Errors
/// [`Failure::Unavailable`] when the address is in use, [`Failure::Config`] when a certificate
/// cannot be used.
pub async fn open(
    app: Router,
    listen: SocketAddr,
    guard: Guard,
    files: Option<PageFiles>,
    cancel: CancellationToken,
) -> Result<SocketAddr, Failure> {
    let tls = files.map(Tls::load).transpose()?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(Failure::unavailable(&format!(
            "serve the page on {listen} (choose another with --page)"
        )))?;
    let address = listener
        .local_addr()
        .map_err(Failure::failed("read the page's address"))?;
    let app = app.layer(axum::middleware::from_fn_with_state(guard, check));
    tokio::spawn(serve(listener, app, tls, cancel));
    Ok(address)
}

/// TLS as the files say, read again when they change.
struct Tls {
    files: PageFiles,
    seen: Stamps,
    acceptor: TlsAcceptor,
}

impl Tls {
    fn load(files: PageFiles) -> Result<Self, Failure> {
        // Looked at before they are read, so that what changes in between is noticed.
        let seen = files.stamps();
        let acceptor = TlsAcceptor::from(Arc::new(files.load()?));
        Ok(Self {
            files,
            seen,
            acceptor,
        })
    }

    fn look(&mut self) {
        let newest = self.files.stamps();
        if newest == self.seen {
            return;
        }
        match self.files.load() {
            Ok(config) => {
                self.acceptor = TlsAcceptor::from(Arc::new(config));
                self.seen = newest;
                tracing::info!("the page's certificate was read again");
            }
            // Half-written, say: it is tried again.
            Err(error) => tracing::warn!(%error, "the page's certificate in force stays"),
        }
    }
}

async fn serve(
    listener: TcpListener,
    app: Router,
    mut tls: Option<Tls>,
    cancel: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let multiplexed = Arc::new(Semaphore::new(MAX_MULTIPLEXED));
    let connections = TaskTracker::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        let accepted = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            _ = look.tick() => {
                if let Some(tls) = &mut tls {
                    tls.look();
                }
                continue;
            }
            accepted = async {
                let permit = Arc::clone(&room).acquire_owned().await.ok()?;
                Some((permit, listener.accept().await))
            } => accepted,
        };
        let Some((permit, accepted)) = accepted else {
            break;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, say: those that are open live on.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let acceptor = tls.as_ref().map(|tls| tls.acceptor.clone());
        let visit = Visit {
            app: app.clone(),
            multiplexed: Arc::clone(&multiplexed),
            cancel: cancel.clone(),
        };
        connections.spawn(async move {
            connection(stream, acceptor, visit).await;
            drop(permit);
        });
    }
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait())
        .await
        .is_err()
    {
        tracing::debug!("connections of the page did not end in time");
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    fn headers(pairs: &[(axum::http::HeaderName, &str)]) -> HeaderMap {
        let value = |text: &str| text.parse().unwrap();
        pairs
            .iter()
            .map(|(name, text)| (name.clone(), value(text)))
            .collect()
    }

    #[test]
    fn a_token_opens_the_api_and_nothing_else_does() {
        let guard = Guard {
            token: Some(Token::new("correct horse battery")),
            ..Guard::default()
        };
        let bearer = |text: &str| {
            let given = headers(&[(HOST, "127.0.0.1:1"), (AUTHORIZATION, text)]);
            guard.judge("/api/moves", None, &given, Caller::Unknown)
        };
        assert_eq!(bearer("Bearer correct horse battery"), Verdict::Welcome);
        for wrong in ["Bearer correct horse", "correct horse battery", "Bearer "] {
            assert_eq!(bearer(wrong), Verdict::Unproven, "{wrong}");
        }
        let none = HeaderMap::new();
        let judge = |path, caller| guard.judge(path, None, &none, caller);
        assert_eq!(judge("/metrics", Caller::Unknown), Verdict::Unproven);
        assert_eq!(judge("/api/moves", Caller::Operator), Verdict::Welcome);
        assert_eq!(judge("/readyz", Caller::Unknown), Verdict::Welcome);
    }

    #[test]
    fn a_page_of_another_site_cannot_use_an_open_api() {
        let guard = Guard::default();
        let judge = |pairs: &[_]| guard.judge("/api/moves", None, &headers(pairs), Caller::Unknown);
        // HTTP/2 has no Host: the address says it.
        let by_address = |address| {
            guard.judge(
                "/api/moves",
                Some(address),
                &HeaderMap::new(),
                Caller::Unknown,
            )
        };
        assert_eq!(by_address("127.0.0.1:8088"), Verdict::Welcome);
        assert_eq!(by_address("rebound.example:8088"), Verdict::Foreign);
        assert_eq!(judge(&[(HOST, "127.0.0.1:8088")]), Verdict::Welcome);
        assert_eq!(judge(&[(HOST, "localhost:8088")]), Verdict::Welcome);
        assert_eq!(judge(&[(HOST, "[::1]:8088")]), Verdict::Welcome);
        let own = [(HOST, "127.0.0.1:8088"), (ORIGIN, "http://127.0.0.1:8088")];
        assert_eq!(judge(&own), Verdict::Welcome);
        let other = [(HOST, "127.0.0.1:8088"), (ORIGIN, "http://evil.example")];
        assert_eq!(judge(&other), Verdict::Foreign);
        assert_eq!(
            judge(&[(HOST, "127.0.0.1:8088"), (ORIGIN, "null")]),
            Verdict::Foreign
        );
        assert_eq!(judge(&[(HOST, "rebound.example:8088")]), Verdict::Foreign);
    }

    #[test]
    fn a_token_is_never_shown() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        let mode = |bits| std::fs::Permissions::from_mode(bits);
        std::fs::write(file.path(), "short-secret\n").unwrap();
        std::fs::set_permissions(file.path(), mode(0o600)).unwrap();
        let error = Token::read(file.path()).unwrap_err().to_string();
        assert!(error.contains("12 characters; allowed is 16"), "{error}");
        assert!(!error.contains("short-secret"), "{error}");
        std::fs::write(file.path(), "a-longer-secret-token\n").unwrap();
        let token = Token::read(file.path()).unwrap();
        let guard = Guard {
            token: Some(token),
            ..Guard::default()
        };
        assert!(guard.token.as_ref().unwrap().is("a-longer-secret-token"));
        assert!(!format!("{guard:?}").contains("secret"), "{guard:?}");
        std::fs::set_permissions(file.path(), mode(0o640)).unwrap();
        let error = Token::read(file.path()).unwrap_err().to_string();
        assert!(error.contains("640"), "{error}");
    }

    /// What a server that is open to all says to bytes.
    async fn said(address: SocketAddr, bytes: &[u8]) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = vec![0; 64];
        let read = stream.read(&mut answer).await.unwrap_or(0);
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }

    #[tokio::test]
    async fn headers_without_end_and_other_sites_are_turned_away_and_the_rest_served() {
        let app = Router::new().route("/api/x", axum::routing::get(|| async { "served" }));
        let (guard, cancel) = (Guard::default(), CancellationToken::new());
        let refused = Arc::clone(&guard.refused);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let address = open(app, any, guard, None, cancel.clone()).await.unwrap();
        let ask = |host: &str| format!("GET /api/x HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let good = said(address, ask("127.0.0.1").as_bytes()).await;
        assert!(good.starts_with("HTTP/1.1 200"), "{good}");
        let foreign = said(address, ask("evil.example").as_bytes()).await;
        assert!(foreign.starts_with("HTTP/1.1 403"), "{foreign}");
        assert_eq!(refused.load(Ordering::Relaxed), 1);
        let mut endless = b"GET /api/x HTTP/1.1\r\nx: ".to_vec();
        endless.resize(super::visit::MAX_HEADERS as usize + 1_024, b'a');
        let large = said(address, &endless).await;
        assert!(
            large.starts_with("HTTP/1.1 431") || large.is_empty(),
            "{large}"
        );
        cancel.cancel();
    }
}
