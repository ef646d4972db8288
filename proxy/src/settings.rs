//! What a proxy is told at its start, and why it cannot begin.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use domain::NodeId;

use crate::identity::Identity;

/// What a proxy is told at its start; everything else comes from the control plane.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Its identity towards the control plane.
    pub node_id: NodeId,
    /// Where it listens for clients; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the control plane answers.
    pub control_plane: SocketAddr,
    /// By what it proves itself to the control plane; plain text when nothing.
    pub identity: Option<Identity>,
    /// Where the last good configuration is kept.
    pub last_good: Option<PathBuf>,
    /// Where it answers questions about itself.
    pub admin: Option<SocketAddr>,
    /// Worker threads; at least 1.
    pub workers: usize,
    /// How long requests may take to finish after the proxy was told to stop.
    pub grace: Duration,
    /// How many requests a second are answered by both sides of an instance under migration and
    /// compared; beyond, one in four is. Each costs the original one more answer. 0: none.
    pub pairs_per_second: u32,
}

impl ProxyConfig {
    /// A configuration with one worker and thirty seconds of grace, in plain text, without last-good
    /// file and admin address.
    pub const fn new(node_id: NodeId, listen: SocketAddr, control_plane: SocketAddr) -> Self {
        Self {
            node_id,
            listen,
            control_plane,
            identity: None,
            last_good: None,
            admin: None,
            workers: 1,
            grace: Duration::from_secs(30),
            pairs_per_second: 10,
        }
    }
}

/// Why a proxy cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({purpose}): {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("cannot use {path}: {reason}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread for the proxy: {0}")]
    Thread(std::io::Error),
    /// It ended without being told to.
    #[error("the proxy ended without being told to; the log says why")]
    Died,
}
