//! What the cross-component tests share: the real binary, and what it reports.

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The `foreshadow` binary that was built beside this test.
///
/// # Panics
/// When it is not there: `make test` builds it first.
#[expect(
    clippy::panic,
    reason = "a test harness says what is missing by failing"
)]
pub fn binary() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    // target/debug/deps/<test> → target/debug/foreshadow
    let found = here
        .ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join("foreshadow"))
        .find(|file| file.is_file());
    match found {
        Some(file) => file,
        None => panic!(
            "no foreshadow binary beside {}: run `make test`",
            here.display()
        ),
    }
}

/// Looks every few milliseconds until something is so.
///
/// # Panics
/// When it is not so within `patience`.
pub async fn until<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let limit = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < limit, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Command lines of running processes that name something.
///
/// # Panics
/// When `/proc` cannot be read.
#[expect(
    clippy::expect_used,
    reason = "a test harness says what is missing by failing"
)]
pub fn processes(named: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    entries
        .flatten()
        .map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default())
        .map(|command| String::from_utf8_lossy(&command).replace('\0', " "))
        .filter(|command| command.contains(named))
        .collect()
}
