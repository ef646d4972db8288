//! `RedisStore` on a real `redis-server`: the suite that every backend passes, and what can
//! happen to a server. Each test has its own server, which listens on a socket in its own folder.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect by failing"
)]

#[path = "redis/contract.rs"]
mod contract;
#[path = "redis/encryption.rs"]
mod encryption;
#[path = "redis/failover.rs"]
mod failover;
#[path = "redis/loss.rs"]
mod loss;
#[path = "redis/refusals.rs"]
mod refusals;
#[path = "redis/server.rs"]
mod server;
#[path = "redis/watching.rs"]
mod watching;

use foreshadow_store::{Expect, Key, Kind, Transaction};

/// The record that most tests write.
fn key() -> Key {
    Key::new(Kind::Migration, "m")
}

/// Writes it.
fn put(expect: Expect, value: u32) -> Transaction {
    Transaction::new().put(key(), expect, &value).unwrap()
}
