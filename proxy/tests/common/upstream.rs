//! Instances: small HTTP servers that count.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What an instance does, and has done.
pub struct State {
    pub name: String,
    pub requests: AtomicU64,
    pub status: AtomicU16,
    /// Answers wait for [`State::release`] while this is set.
    pub hangs: AtomicBool,
    /// Closes the connection after each answer without saying so before.
    pub closes: AtomicBool,
    pub release: Notify,
    pub seen: std::sync::Mutex<Vec<http::request::Parts>>,
    stop: CancellationToken,
}

pub struct Upstream {
    pub address: SocketAddr,
    pub state: Arc<State>,
}

impl Upstream {
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            name: name.to_owned(),
            requests: AtomicU64::new(0),
            status: AtomicU16::new(200),
            hangs: AtomicBool::new(false),
            closes: AtomicBool::new(false),
            release: Notify::new(),
            seen: std::sync::Mutex::default(),
            stop: CancellationToken::new(),
        });
        tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { address, state }
    }

    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    pub fn hang(&self, hangs: bool) {
        self.state.hangs.store(hangs, Ordering::SeqCst);
        if !hangs {
            self.state.release.notify_waiters();
        }
    }

    pub fn answer(&self, status: u16) {
        self.state.status.store(status, Ordering::SeqCst);
    }

    pub fn stop(&self) {
        self.state.stop.cancel();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = state.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, _) = accepted.unwrap();
        stream.set_nodelay(true).unwrap();
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let stop = state.stop.clone();
            let closed = CancellationToken::new();
            let after = closed.clone();
            let service =
                service_fn(move |request| answer(Arc::clone(&state), request, after.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                _ = connection => {}
                () = async { closed.cancelled().await; tokio::time::sleep(std::time::Duration::from_millis(1)).await } => {}
            }
        });
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
    closed: CancellationToken,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    {
        let mut seen = state.seen.lock().unwrap();
        if seen.len() < 100 {
            seen.push(parts);
        }
    }
    let released = state.release.notified();
    state.requests.fetch_add(1, Ordering::SeqCst);
    if state.hangs.load(Ordering::SeqCst) {
        released.await;
    }
    if state.closes.load(Ordering::SeqCst) {
        closed.cancel();
    }
    let text = if body.is_empty() {
        state.name.clone()
    } else {
        format!("{}:{}", state.name, body.len())
    };
    Ok(Response::builder()
        .status(StatusCode::from_u16(state.status.load(Ordering::SeqCst)).unwrap())
        .header("x-instance", &state.name)
        .header("keep-alive", "timeout=5")
        .body(Full::from(text))
        .unwrap())
}
