//! Running a proxy: bind, load, serve, drain, stop.
//!
//! # Flow
//! Addresses are bound before anything else, so that a taken port is an error and not a surprise.
//! The last good configuration is put in force, then a Pingora server runs two services: the
//! ingress on the worker threads, and the control service (xDS, load reports, last-good file,
//! admin) on one of its own. When `shutdown` resolves, the ingress stops accepting and lets
//! requests finish, up to the grace period; then the last load report goes out, and the server
//! ends at once.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{
    ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch,
};
use pingora_core::services::Service;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config::Resources;
use crate::ingress::Forwarder;
use crate::ingress::accept::Ingress;
use crate::settings::{ProxyConfig, ProxyError};
use crate::state::Shared;
use crate::xds::Ledger;
use crate::{admin, last_good, telemetry, xds};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;
/// Idle connections to instances.
const UPSTREAM_POOL: usize = 512;
/// Attempts of a request, those on stale connections included.
const MAX_ATTEMPTS: usize = 16;
/// How long the control service may take for its last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs a proxy on this thread until `shutdown` resolves and requests have finished. Must not be
/// called from within an async runtime.
///
/// # Errors
/// [`ProxyError::Bind`] if an address cannot be listened on, [`ProxyError::Identity`] if a file
/// cannot be used; nothing has been started then.
/// [`ProxyError::Died`] if it ended without being told to.
pub fn run(
    config: ProxyConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ProxyError> {
    Bound::bind(config)?.run(shutdown)
}

/// Runs a proxy on a thread of its own.
///
/// # Errors
/// [`ProxyError::Bind`] if an address cannot be listened on, [`ProxyError::Thread`] if there can
/// be no thread.
pub fn spawn(config: ProxyConfig) -> Result<RunningProxy, ProxyError> {
    let bound = Bound::bind(config)?;
    let (local_addr, admin_addr) = (bound.local_addr, bound.admin_addr);
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new()
        .name("proxy".to_owned())
        .spawn(move || {
            bound.run(async move {
                // That the other end is gone means the same.
                let _ = stopped.await;
            })
        });
    let thread = thread.map_err(ProxyError::Thread)?;
    Ok(RunningProxy {
        local_addr,
        admin_addr,
        stop: Some(stop),
        thread: Some(thread),
    })
}

/// A proxy on a thread of its own. It stops when this is dropped.
#[derive(Debug)]
pub struct RunningProxy {
    local_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ProxyError>>>,
}

impl RunningProxy {
    /// Where it listens for clients.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where it answers questions about itself.
    pub const fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// Stops it and waits until it has ended: until requests have finished, at most the grace
    /// period.
    ///
    /// # Errors
    /// [`ProxyError::Died`] if it had ended before.
    pub fn stop(mut self) -> Result<(), ProxyError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), ProxyError> {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread.join().unwrap_or(Err(ProxyError::Died))
    }
}

impl Drop for RunningProxy {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "stopping the proxy");
        }
    }
}

/// A proxy that has its addresses.
struct Bound {
    config: ProxyConfig,
    listener: TcpListener,
    local_addr: SocketAddr,
    admin: Option<TcpListener>,
    admin_addr: Option<SocketAddr>,
}

impl Bound {
    fn bind(config: ProxyConfig) -> Result<Self, ProxyError> {
        if let Some(identity) = &config.identity {
            identity.load()?;
        }
        let (listener, local_addr) = listen(config.listen, "clients")?;
        let admin = config
            .admin
            .map(|address| listen(address, "admin"))
            .transpose()?;
        let admin_addr = admin.as_ref().map(|(_, address)| *address);
        let admin = admin.map(|(listener, _)| listener);
        Ok(Self {
            config,
            listener,
            local_addr,
            admin,
            admin_addr,
        })
    }

    fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), ProxyError> {
        let conf = ServerConf {
            threads: 1,
            // The ingress has worker threads of its own.
            work_stealing: true,
            // We wait ourselves, and only as long as needed.
            grace_period_seconds: Some(0),
            graceful_shutdown_timeout_seconds: Some(0),
            upstream_keepalive_pool_size: UPSTREAM_POOL,
            max_retries: MAX_ATTEMPTS,
            ..ServerConf::default()
        };
        let last_good = load(&self.config);
        let shared = Arc::new(Shared::new(self.config));
        if let Some(resources) = &last_good {
            shared.put_in_force(resources);
        }
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let forwarder = Forwarder::new(Arc::clone(&shared));
        let proxy = pingora_proxy::http_proxy(&server.configuration, forwarder);
        let signals = Signals::default();
        server.add_service(Ingress {
            shared: Arc::clone(&shared),
            proxy: Arc::new(proxy),
            listener: Mutex::new(Some(self.listener)),
            stop: signals.stop.clone(),
            drained: signals.drained.clone(),
        });
        server.add_service(Control {
            shared,
            ledger: Some(Ledger::new(last_good.unwrap_or_default())),
            admin: self.admin,
            signals: signals.clone(),
        });
        tracing::info!(address = %self.local_addr, "proxy serves");
        let stop = signals.stop.clone();
        let shutdown = Shutdown {
            future: Mutex::new(Some(Box::pin(shutdown))),
            signals,
        };
        server.run(RunArgs {
            shutdown_signal: Box::new(shutdown),
        });
        tracing::info!(address = %self.local_addr, "proxy has stopped");
        if stop.is_cancelled() {
            Ok(())
        } else {
            Err(ProxyError::Died)
        }
    }
}

fn listen(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<(TcpListener, SocketAddr), ProxyError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bind().map_err(|source| ProxyError::Bind {
        address,
        purpose,
        source,
    })
}

fn load(config: &ProxyConfig) -> Option<Resources> {
    match last_good::load(config.last_good.as_ref()?) {
        Ok(resources) => resources,
        Err(error) => {
            tracing::warn!(%error, "beginning without the last good configuration");
            None
        }
    }
}

/// The order of the end: told to stop, requests finished, last words said.
#[derive(Debug, Clone, Default)]
struct Signals {
    stop: CancellationToken,
    drained: CancellationToken,
    done: CancellationToken,
}

/// Everything that does not touch requests.
struct Control {
    shared: Arc<Shared>,
    ledger: Option<Ledger>,
    admin: Option<TcpListener>,
    signals: Signals,
}

#[async_trait]
impl Service for Control {
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        let stop = &self.signals.drained;
        let ledger = self.ledger.take().unwrap_or_default();
        let following = xds::client::run(Arc::clone(&self.shared), ledger, stop.clone());
        let reporting = telemetry::lrs::run(Arc::clone(&self.shared), stop.clone());
        let answering = async {
            if let Some(listener) = self.admin.take() {
                admin::run(Arc::clone(&self.shared), listener, stop.clone()).await;
            }
        };
        tokio::join!(following, reporting, answering);
        self.signals.done.cancel();
    }

    fn name(&self) -> &'static str {
        "control"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

struct Shutdown {
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    signals: Signals,
}

#[async_trait]
impl ShutdownSignalWatch for Shutdown {
    async fn recv(&self) -> ShutdownSignal {
        let future = self
            .future
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let told = async {
            if let Some(future) = future {
                future.await;
            }
        };
        tokio::select! {
            biased;
            () = told => {
                tracing::info!("the proxy was told to stop");
                self.signals.stop.cancel();
            }
            () = self.signals.drained.cancelled() => {
                tracing::error!("the proxy has stopped to accept connections by itself");
            }
        }
        self.signals.drained.cancelled().await;
        let done = tokio::time::timeout(LAST_WORDS, self.signals.done.cancelled()).await;
        if done.is_err() {
            tracing::warn!("the control service did not finish in time");
        }
        ShutdownSignal::FastShutdown
    }
}
