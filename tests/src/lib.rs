//! What the cross-component tests share: the real binary, and what it reports.

use std::path::PathBuf;

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
