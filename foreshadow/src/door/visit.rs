//! One connection: what is spoken on it, who is at its other end, and its requests.

use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use xds_server::authority::OPERATOR;

use super::Caller;

/// Requests at once on one connection that speaks HTTP/2.
const MAX_STREAMS: u32 = 64;
/// How often a quiet one is asked whether it lives, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What HTTP/2 begins with; no method of HTTP/1.1 does.
const PREFACE: &[u8] = b"PRI";
/// How long is waited for the rest of it.
const DRIP: Duration = Duration::from_millis(10);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the headers of a request may take.
const HEADERS: Duration = Duration::from_secs(10);
/// Bytes that a request's headers may have.
pub(super) const MAX_HEADERS: u32 = 32 * 1024;

/// What a connection is served with.
pub(super) struct Visit {
    pub(super) app: Router,
    /// For those that speak HTTP/2.
    pub(super) multiplexed: Arc<Semaphore>,
    pub(super) cancel: CancellationToken,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    Http1,
    Http2,
}

/// What the first bytes of a connection begin; `None` when it ends or dawdles before.
async fn speech(stream: &TcpStream) -> Option<Speech> {
    let listening = async {
        let mut first = [0; PREFACE.len()];
        loop {
            let heard = stream
                .peek(&mut first)
                .await
                .ok()
                .filter(|heard| *heard > 0)?;
            if !PREFACE.starts_with(&first[..heard]) {
                return Some(Speech::Http1);
            }
            if heard == PREFACE.len() {
                return Some(Speech::Http2);
            }
            tokio::time::sleep(DRIP).await;
        }
    };
    tokio::time::timeout(HEADERS, listening)
        .await
        .ok()
        .flatten()
}

/// Serves one connection to its end.
pub(super) async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, visit: Visit) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let Some(acceptor) = acceptor else {
        if let Some(speech) = speech(&stream).await {
            visit.talk(stream, speech, Caller::Unknown).await;
        } else {
            tracing::debug!("a connection of the page said nothing");
        }
        return;
    };
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            let names = session
                .peer_certificates()
                .and_then(<[_]>::first)
                .map(xds_server::names_of);
            let caller = match names {
                Some(names) if names.contains(OPERATOR) => Caller::Operator,
                Some(_) | None => Caller::Unknown,
            };
            let speech = match session.alpn_protocol() {
                Some(b"h2") => Speech::Http2,
                Some(_) | None => Speech::Http1,
            };
            visit.talk(stream, speech, caller).await;
        }
        Ok(Err(error)) => tracing::warn!(%error, "a TLS handshake with the page failed"),
        Err(_) => tracing::warn!("a TLS handshake with the page took too long"),
    }
}

impl Visit {
    async fn talk<S>(self, stream: S, speech: Speech, caller: Caller)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.app.layer(Extension(caller)));
        let io = TokioIo::new(stream);
        // Both kinds of connections end in the same way, but have no type in common.
        macro_rules! until_cancelled {
            ($talking:expr) => {{
                let talking = $talking;
                tokio::pin!(talking);
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => {
                        talking.as_mut().graceful_shutdown();
                        talking.await
                    }
                    ended = &mut talking => ended,
                }
            }};
        }
        let ended = match speech {
            Speech::Http1 => until_cancelled!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADERS)
                    .max_buf_size(MAX_HEADERS as usize)
                    .serve_connection(io, service)
            ),
            Speech::Http2 => {
                let Ok(_place) = self.multiplexed.try_acquire() else {
                    tracing::warn!("too many connections speak HTTP/2: one is refused");
                    return;
                };
                until_cancelled!(
                    http2::Builder::new(TokioExecutor::new())
                        .timer(TokioTimer::new())
                        .max_concurrent_streams(MAX_STREAMS)
                        .max_header_list_size(MAX_HEADERS)
                        .keep_alive_interval(KEEPALIVE)
                        .keep_alive_timeout(KEEPALIVE)
                        .serve_connection(io, service)
                )
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection of the page broke");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn told(bytes: &[u8]) -> Option<Speech> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        speech(&stream).await
    }

    #[tokio::test]
    async fn what_is_spoken_is_told_by_the_first_bytes() {
        assert_eq!(told(b"PRI * HTTP/2.0\r\n").await, Some(Speech::Http2));
        for first in [&b"GET / HTTP/1.1"[..], b"POST /", b"PUT /", b"PROPFIND /"] {
            assert_eq!(told(first).await, Some(Speech::Http1));
        }
        assert_eq!(told(b"").await, None);
    }
}
