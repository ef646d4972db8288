//! Assembling and running the workload.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::burner::Burner;
use super::fault::Faults;
use super::follower::Follower;
use super::index::Index;
use super::journal::Writer;
use super::options::WorkloadOptions;
use super::routes::{Identity, Shared, router};
use super::single::Single;

/// Time for requests in flight after SIGTERM.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Why a workload cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// State or journal cannot be used.
    #[error("{what} {}: {error}", path.display())]
    File {
        /// Which.
        what: &'static str,
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The port cannot be listened on, or the listener failed.
    #[error("port {port}: {error}")]
    Listen {
        /// Which.
        port: u16,
        /// Why.
        error: io::Error,
    },
    /// The fault that was asked for has struck.
    #[error("it died of the fault that was asked for")]
    Died,
}

/// Serves until SIGTERM (or SIGINT), then finishes what is in flight.
///
/// # Errors
/// [`WorkloadError`] when it cannot serve, or when the fault `dead` has struck: then the caller
/// should end the process at once.
pub async fn serve(options: WorkloadOptions) -> Result<(), WorkloadError> {
    let port = options.port;
    let listen = |error: io::Error| WorkloadError::Listen { port, error };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(listen)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(listen)?;
    let stop = async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    serve_on(listener, options, stop).await
}

/// Serves on a listener until `stop` completes.
pub(super) async fn serve_on(
    listener: TcpListener,
    options: WorkloadOptions,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), WorkloadError> {
    let port = options.port;
    let listen = |error: io::Error| WorkloadError::Listen { port, error };
    let shared = Arc::new(assemble(&options)?);
    if let Some(single) = &shared.single {
        tokio::spawn(Arc::clone(single).run(Arc::clone(&shared.follower)));
    }
    let (death, follower) = (shared.faults.death.clone(), Arc::clone(&shared.follower));
    let (draining, drains) = tokio::sync::oneshot::channel();
    let stop = async move {
        stop.await;
        let _ended = draining.send(());
    };
    let server = axum::serve(listener, router(shared)).with_graceful_shutdown(stop);
    let limit = async {
        if drains.await.is_ok() {
            tokio::time::sleep(DRAIN_LIMIT).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let outcome = tokio::select! {
        biased;
        () = death.cancelled() => Err(WorkloadError::Died),
        served = server.into_future() => served.map_err(listen),
        () = limit => Ok(()),
    };
    follower.end();
    outcome
}

fn assemble(options: &WorkloadOptions) -> Result<Shared, WorkloadError> {
    let file = |what, path: &std::path::Path| {
        let path = path.to_owned();
        move |error| WorkloadError::File { what, path, error }
    };
    let (single, journal_path) = if let Some(journal) = &options.journal {
        (None, journal.clone())
    } else {
        let single = Single::open_state(&options.state, &options.role)
            .map_err(file("state", &options.state))?;
        (Some(Arc::new(single)), options.state.join("journal"))
    };
    let journal = Writer::open(&journal_path).map_err(file("journal", &journal_path))?;
    let shard_bytes = usize::from(options.shard_kib) * 1024;
    let index = Index::open(&options.state, usize::from(options.shards), shard_bytes)
        .map_err(file("state", &options.state))?;
    let follower = Follower::start(index, &journal_path).map_err(file("journal", &journal_path))?;
    let burner = Burner::start(Arc::clone(&follower)).map_err(file("state", &options.state))?;
    let identity = Identity {
        name: options.instance.clone(),
        random: StdRng::from_os_rng(),
    };
    Ok(Shared {
        instance: options.instance.clone(),
        role: options.role.clone(),
        work: Duration::from_micros(options.work_us),
        identity: Mutex::new(identity),
        follower,
        journal,
        single,
        burner,
        faults: Faults::new(options),
        served: AtomicU64::new(0),
    })
}

#[cfg(test)]
mod tests;
