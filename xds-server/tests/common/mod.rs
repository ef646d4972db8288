//! What the tests share. Each test binary uses a part of it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of this"
)]

pub mod client;
pub mod envoy;
pub mod fleet;
pub mod upstream;
pub mod world;

use std::time::Duration;

/// Longest wait for something that shall come true.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Polls until `check` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not within {LIMIT:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
