//! Accepting connections, and letting them finish.
//!
//! We accept ourselves instead of letting Pingora's service do it, because that has no deadline
//! for a whole header and no way to end as soon as everything is finished.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream as TcpIo;
use pingora_core::protocols::{GetSocketDigest, SocketDigest, Stream};
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use pingora_proxy::HttpProxy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::workers::Workers;
use super::{Connection, Forwarder};
use crate::state::Shared;

/// How long a new connection may take to send its first header.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may be idle, and how long idling and the next header may take together.
const KEEP_ALIVE: Duration = Duration::from_mins(1);
/// How long one read of a request's body may take.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// Most connections at once. Each may need another to an instance, and most systems allow about
/// twenty thousand in all.
const MAX_CONNECTIONS: usize = 8_192;
/// After being told to stop, connections are asked to close with their next answer for so long;
/// then those that are idle are closed.
const LAME_DUCK: Duration = Duration::from_millis(250);

/// The service that accepts connections.
pub(crate) struct Ingress {
    pub(crate) shared: Arc<Shared>,
    pub(crate) proxy: Arc<HttpProxy<Forwarder>>,
    pub(crate) listener: Mutex<Option<StdListener>>,
    /// Told to stop.
    pub(crate) stop: CancellationToken,
    /// Says: everything has finished.
    pub(crate) drained: CancellationToken,
}

#[async_trait]
impl Service for Ingress {
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        let listener = self
            .listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let begun = listener.map(|listener| {
            let workers = Workers::start(self.shared.config.workers)?;
            Ok::<_, std::io::Error>((TcpListener::from_std(listener)?, workers))
        });
        match begun {
            Some(Ok((listener, workers))) => self.serve(listener, workers).await,
            Some(Err(error)) => tracing::error!(%error, "cannot accept connections"),
            None => tracing::error!("the service was started twice"),
        }
        self.drained.cancel();
    }

    fn name(&self) -> &'static str {
        "ingress"
    }

    fn threads(&self) -> Option<usize> {
        // It only accepts; the workers do the rest.
        Some(1)
    }
}

impl Ingress {
    async fn serve(&self, listener: TcpListener, mut workers: Workers) {
        let tracker = TaskTracker::new();
        // What Pingora watches to let connections close.
        let (closing, watch) = watch::channel(false);
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.spawn(&mut workers, &tracker, stream, peer, &watch),
                Err(error) => {
                    // Most likely there are no file descriptors left: wait for some to be closed.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        self.shared.start_draining();
        closing.send_replace(true);
        // Who has connected already is served.
        while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
            self.spawn(&mut workers, &tracker, stream, peer, &watch);
        }
        drop(listener);
        tracker.close();
        let all = async {
            if tokio::time::timeout(LAME_DUCK, tracker.wait())
                .await
                .is_err()
            {
                self.proxy.http_cleanup().await;
                tracker.wait().await;
            }
        };
        if tokio::time::timeout(self.shared.config.grace, all)
            .await
            .is_err()
        {
            tracing::warn!(
                connections = tracker.len(), grace = ?self.shared.config.grace,
                "connections are cut: they did not finish in time"
            );
        }
        workers.end().await;
    }

    fn spawn(
        &self,
        workers: &mut Workers,
        tracker: &TaskTracker,
        stream: TcpStream,
        peer: SocketAddr,
        closing: &watch::Receiver<bool>,
    ) {
        if tracker.len() >= MAX_CONNECTIONS {
            tracing::warn!(%peer, "a connection is refused: {MAX_CONNECTIONS} are open");
            return;
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was closed at once");
            return;
        }
        // The worker that serves it also waits for its data.
        let Ok(stream) = stream.into_std() else {
            return;
        };
        let proxy = Arc::clone(&self.proxy);
        let closing = closing.clone();
        let task = async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(&proxy, stream, peer, &closing).await,
                Err(error) => tracing::debug!(%error, "a connection was closed at once"),
            }
        };
        workers.spawn(tracker, task);
    }
}

/// Serves one connection to its end.
async fn serve(
    proxy: &Arc<HttpProxy<Forwarder>>,
    stream: TcpStream,
    peer: SocketAddr,
    closing: &watch::Receiver<bool>,
) {
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    let mut io = TcpIo::from(stream);
    io.set_socket_digest(digest);
    let stream: Stream = Box::new(io);
    let connection = Arc::new(Connection::new(peer));
    let mut session = ServerSession::new_http1(stream);
    session.set_keepalive((!*closing.borrow()).then_some(KEEP_ALIVE.as_secs()));
    session.set_pipelining_enabled(true);
    session.set_connection_user_context(Some(Box::new(Arc::clone(&connection))));
    let mut deadline = HEADER_DEADLINE;
    loop {
        session.set_read_timeout(Some(READ_TIMEOUT));
        let done = tokio::select! {
            biased;
            done = proxy.process_new_http(session, closing) => done,
            () = header_late(&connection, deadline) => {
                tracing::debug!(%peer, ?deadline, "a header did not come in time");
                return;
            }
        };
        let Some((stream, settings)) = done.map(pingora_core::apps::ReusedHttpStream::consume)
        else {
            return;
        };
        connection.await_header();
        session = ServerSession::new_http1(stream);
        if let Some(settings) = settings {
            settings.apply_to_session(&mut session);
        }
        deadline = KEEP_ALIVE + HEADER_DEADLINE;
    }
}

/// Returns when the header is not here in time; never if it is.
async fn header_late(connection: &Connection, deadline: Duration) {
    tokio::time::sleep(deadline).await;
    if connection.has_header() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_header_that_does_not_come_in_time_ends_the_connection_and_a_request_does_not() {
        let connection = Connection::new(([127, 0, 0, 1], 1).into());
        header_late(&connection, HEADER_DEADLINE).await;
        connection.header_is_read();
        let late = header_late(&connection, HEADER_DEADLINE);
        assert!(
            tokio::time::timeout(HEADER_DEADLINE * 100, late)
                .await
                .is_err()
        );
    }
}
