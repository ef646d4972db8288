//! How a store on Redis is opened.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::memory::Witness;
use crate::error::StoreError;

/// What opening does about state that is there, or is not. There is no default: whoever opens a
/// store says what he knows about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The store exists; an empty server is [`StoreError::Lost`].
    Existing,
    /// Makes the store where there is no trace of one.
    CreateIfAbsent,
    /// A person has compared the store with the world, and takes what is there (or nothing) as the
    /// truth. All leases are void, and epochs go on above every epoch ever given.
    AcknowledgeLoss,
}

/// What is asked of the server's own durability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// It keeps an append-only file and evicts nothing; else opening is
    /// [`StoreError::NotDurable`].
    Required,
    /// It may forget. For tests and trials.
    MayForget,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Options of [`super::RedisStore::open`].
#[derive(Debug, Clone)]
pub struct RedisOptions {
    pub(super) opening: Opening,
    pub(super) prefix: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) timeout: Duration,
    pub(super) keepalive: Duration,
    pub(super) longest_pause: Duration,
    pub(super) persistence: Persistence,
    pub(super) witness: Option<Witness>,
    pub(super) jitter_seed: u64,
}

impl RedisOptions {
    /// Prefix `foreshadow`, no user, requests of at most 500 ms, a server that must be durable.
    pub fn new(opening: Opening) -> Self {
        Self {
            opening,
            prefix: "foreshadow".to_owned(),
            user: None,
            password: None,
            timeout: Duration::from_millis(500),
            keepalive: Duration::from_secs(1),
            longest_pause: Duration::from_secs(2),
            persistence: Persistence::Required,
            witness: None,
            jitter_seed: RandomState::new().build_hasher().finish(),
        }
    }

    /// The store's name on the server. All its keys begin with `{prefix}:`; the braces keep them
    /// on one node of a cluster.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The ACL user and its password.
    #[must_use]
    pub fn login(mut self, user: impl Into<String>, password: Secret) -> Self {
        self.user = Some(user.into());
        self.password = Some(password);
        self
    }

    /// How long a request, or one attempt to connect, may take: 500 ms unless said otherwise, at
    /// most 30 s. A leader that waits longer than its lease has lost it when the answer comes.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often an idle connection is tested, 1 s unless said otherwise. A watcher learns of a
    /// server that hangs after this and the timeout.
    #[must_use]
    pub fn keepalive(mut self, every: Duration) -> Self {
        self.keepalive = every;
        self
    }

    /// The longest pause between two attempts to connect, 2 s unless said otherwise.
    #[must_use]
    pub fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// What is asked of the server's durability.
    #[must_use]
    pub fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// What an earlier client had seen ([`super::RedisStore::witness`]): opening then notices a
    /// loss that happened while no client was running.
    #[must_use]
    pub fn witness(mut self, witness: Witness) -> Self {
        self.witness = Some(witness);
        self
    }

    /// Makes the pauses between attempts to connect the same in every run, for simulation.
    #[must_use]
    pub fn jitter_seed(mut self, seed: u64) -> Self {
        self.jitter_seed = seed;
        self
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        let refuse = |what, reason: String| Err(StoreError::Invalid { what, reason });
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
        if self.prefix.is_empty() || !self.prefix.chars().all(plain) {
            return refuse(
                "the store's prefix",
                format!(
                    "{:?} has other characters than letters, digits and - _ . : /",
                    self.prefix
                ),
            );
        }
        let limit = Duration::from_secs(30);
        if self.timeout < Duration::from_millis(1) || self.timeout > limit {
            return refuse(
                "the store's timeout",
                format!("{:?} is not from 1 ms to 30 s", self.timeout),
            );
        }
        if self.keepalive.is_zero() || self.longest_pause.is_zero() {
            return refuse("the store's keepalive or pause", "it is zero".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_not_printed() {
        let options =
            RedisOptions::new(Opening::Existing).login("migrator", Secret::new("hunter2"));
        let printed = format!("{options:?}");
        assert!(printed.contains("migrator"), "{printed}");
        assert!(!printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn prefixes_and_times_that_cannot_work_are_refused() {
        let options = || RedisOptions::new(Opening::Existing);
        assert_eq!(options().check(), Ok(()));
        for wrong in [
            options().prefix(""),
            options().prefix("a}b"),
            options().prefix("a*"),
            options().timeout(Duration::ZERO),
            options().timeout(Duration::from_secs(31)),
            options().keepalive(Duration::ZERO),
        ] {
            assert!(
                matches!(wrong.check(), Err(StoreError::Invalid { .. })),
                "{wrong:?}"
            );
        }
    }
}
