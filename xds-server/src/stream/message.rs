//! Messages of the discovery protocol, without their wire form.

use std::sync::Arc;

use crate::resources::{Resource, ResourceType, Version};

/// The two forms of the discovery protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Only what changed is sent. The right choice.
    Delta,
    /// All of a type is sent at every change.
    StateOfTheWorld,
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// In the state-of-the-world form.
    World {
        /// All that it wants now.
        names: Vec<String>,
        /// The version that it has; in its first request that of an earlier stream.
        version: String,
        /// The response that it answers; empty in its first request.
        nonce: String,
        /// Why it refuses that response, if it does.
        error: Option<String>,
    },
    /// In the delta form.
    Delta {
        /// What it wants from now on.
        subscribe: Vec<String>,
        /// What it no longer wants.
        unsubscribe: Vec<String>,
        /// What it has from an earlier stream, by name and version.
        initial: Vec<(String, String)>,
        /// The response that it answers, if it answers one.
        nonce: String,
        /// Why it refuses that response, if it does.
        error: Option<String>,
    },
}

impl Request {
    /// Whether it acknowledges a response.
    pub(crate) const fn is_answer(&self) -> bool {
        match self {
            Self::World { nonce, error, .. } | Self::Delta { nonce, error, .. } => {
                !nonce.is_empty() && error.is_none()
            }
        }
    }

    /// Whether the client has something from an earlier stream, if this is its first request.
    pub(super) fn has_initial_versions(&self) -> bool {
        match self {
            Self::World { version, .. } => !version.is_empty(),
            Self::Delta { initial, .. } => !initial.is_empty(),
        }
    }
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The type.
    pub kind: ResourceType,
    /// Names the response in the client's answer.
    pub nonce: String,
    /// Version of the whole.
    pub version: Version,
    /// What it carries.
    pub resources: Vec<Arc<Resource>>,
    /// What is gone (delta only).
    pub removed: Vec<Arc<str>>,
    /// Seconds for which the client shall believe in it, if not for ever.
    pub ttl: Option<u32>,
    /// Only says that what the client has lives on: the resources' bodies are left out.
    pub is_heartbeat: bool,
}

/// A client's refusal of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The type.
    pub kind: ResourceType,
    /// What the response carried that the client did not have before.
    pub items: Vec<(Arc<str>, Version)>,
    /// For routes: the generation that the client has acknowledged before.
    pub after: u64,
    /// For routes: the generation that is refused.
    pub generation: u64,
    /// The client's own words.
    pub reason: String,
}
