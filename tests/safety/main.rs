//! Two control planes on one Redis, and a store that is lost, poisoned, full or wrong: with real
//! processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod lab;
mod leadership;
mod loss;
mod network;
mod refusals;

/// These tests share the machine's processors; one at a time.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Waits for its turn; a test that failed gives its own back.
fn my_turn() -> std::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
