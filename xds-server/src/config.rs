//! What the operator may set.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::XdsError;
use crate::gate::PATIENCE_TICKS;
use crate::tls::{Security, is_local};

/// Settings of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdsConfig {
    /// Where ADS, LRS and ALS are served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How often nodes report their load.
    pub report_interval: Duration,
    /// How often `Traffic` is written, at most.
    pub traffic_interval: Duration,
    /// How long changes of records are gathered before they are published.
    pub debounce: Duration,
    /// How long a node that lost its connection is waited for before it is taken for gone; until
    /// then no routing counts as applied.
    pub node_patience: Duration,
    /// How many discovery streams are served at once.
    pub max_streams: usize,
    /// How many discovery streams begin in a second, when more come at once.
    pub streams_per_second: u32,
    /// Its name, where several control planes write to the same store; the same after a restart.
    pub name: String,
    /// How many TLS handshakes are under way at once.
    pub max_handshakes: usize,
    /// How connections are secured.
    pub security: Security,
    /// Serve plain text beyond this machine.
    pub insecure_remote: bool,
    /// Where health, metrics and the nodes' progress are shown; nowhere when none.
    pub admin: Option<SocketAddr>,
    /// A folder of secrets for SDS: `NAME.crt` with `NAME.key`, and authorities `NAME.ca`.
    pub secrets: Option<PathBuf>,
}

impl Default for XdsConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 18_000)),
            report_interval: Duration::from_millis(500),
            traffic_interval: Duration::from_millis(250),
            debounce: Duration::from_millis(10),
            node_patience: Duration::from_secs(u64::from(PATIENCE_TICKS)),
            max_streams: 12_000,
            streams_per_second: 2_000,
            name: String::new(),
            max_handshakes: 64,
            security: Security::Plaintext,
            insecure_remote: false,
            admin: None,
            secrets: None,
        }
    }
}

/// Longest gathering of changes: a weight must not wait for longer.
const MAX_DEBOUNCE: Duration = Duration::from_millis(20);
/// Shortest interval of reports: shorter ones cost the nodes more than they tell.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// Longest interval of reports: a judge that hears less often decides on what is long over.
const MAX_INTERVAL: Duration = Duration::from_mins(1);

/// Bounds of the patience with nodes that are away.
const MIN_PATIENCE: Duration = Duration::from_secs(1);
const MAX_PATIENCE: Duration = Duration::from_hours(1);

impl XdsConfig {
    /// Checks the settings against each other and against what the design allows.
    ///
    /// # Errors
    /// [`XdsError::Config`], naming the field, its value and what is allowed.
    pub fn validate(&self) -> Result<(), XdsError> {
        let bad = |field, value: String, allowed| {
            Err(XdsError::Config {
                field,
                value,
                allowed,
            })
        };
        if self.report_interval < MIN_INTERVAL || self.report_interval > MAX_INTERVAL {
            return bad(
                "report_interval",
                format!("{:?}", self.report_interval),
                "50ms to 60s",
            );
        }
        if self.traffic_interval < MIN_INTERVAL || self.traffic_interval > MAX_INTERVAL {
            return bad(
                "traffic_interval",
                format!("{:?}", self.traffic_interval),
                "50ms to 60s",
            );
        }
        if self.debounce > MAX_DEBOUNCE {
            return bad("debounce", format!("{:?}", self.debounce), "at most 20ms");
        }
        if self.node_patience < MIN_PATIENCE || self.node_patience > MAX_PATIENCE {
            return bad(
                "node_patience",
                format!("{:?}", self.node_patience),
                "1s to 1h",
            );
        }
        if self.max_streams == 0 {
            return bad("max_streams", "0".to_owned(), "at least 1");
        }
        if self.streams_per_second == 0 {
            return bad("streams_per_second", "0".to_owned(), "at least 1");
        }
        if self.max_handshakes == 0 {
            return bad("max_handshakes", "0".to_owned(), "at least 1");
        }
        let is_open = self.security == Security::Plaintext && !is_local(&self.listen);
        if is_open && !self.insecure_remote {
            return bad(
                "security",
                format!("plaintext on {}", self.listen),
                "mutual TLS, or an address of this machine only, as 127.0.0.1",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_slow_debounce_is_refused_by_name() {
        assert!(XdsConfig::default().validate().is_ok());
        let open = XdsConfig {
            listen: ([0, 0, 0, 0], 18_000).into(),
            ..XdsConfig::default()
        };
        let error = open.validate().unwrap_err().to_string();
        assert!(error.contains("plaintext on 0.0.0.0"), "{error}");
        let slow = XdsConfig {
            debounce: Duration::from_millis(21),
            ..XdsConfig::default()
        };
        let error = slow.validate().unwrap_err().to_string();
        assert!(
            error.contains("debounce") && error.contains("at most 20ms"),
            "{error}"
        );
    }
}
