//! Worker threads: each runs its own connections, and takes none from another.
//!
//! Connections that stay on their thread cost less (measured: 15 %), but Pingora's own runtime of
//! that kind remembers, per thread, runtimes that have ended: a second proxy in one process would
//! hand its connections to the threads of the first. These do not.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Worker threads.
pub(super) struct Workers {
    handles: Vec<Handle>,
    next: usize,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut workers = Self {
            handles: Vec::new(),
            next: 0,
            stop: stop.clone(),
            threads: Vec::new(),
        };
        for index in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.handles.push(runtime.handle().clone());
            let stop = stop.clone();
            let thread = std::thread::Builder::new()
                .name(format!("proxy-worker-{index}"))
                .spawn(move || runtime.block_on(stop.cancelled()))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Runs a task on the next thread.
    pub(super) fn spawn(
        &mut self,
        tracker: &TaskTracker,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.next = self.next.wrapping_add(1);
        let index = self.next.checked_rem(self.handles.len()).unwrap_or(0);
        if let Some(handle) = self.handles.get(index) {
            tracker.spawn_on(task, handle);
        }
    }

    /// Ends the threads and whatever still runs on them.
    pub(super) async fn end(mut self) {
        self.stop.cancel();
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            threads
                .into_iter()
                .filter_map(|thread| thread.join().err())
                .count()
        });
        match joined.await {
            Ok(0) => {}
            Ok(panicked) => tracing::error!(panicked, "worker threads have panicked"),
            Err(error) => tracing::error!(%error, "worker threads could not be ended"),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
