//! Hosts, services and instances: what exists, what it may use, and what may be done to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{HostId, InstanceId, MigrationId, ServiceId};
use crate::units::{Resources, Timestamp};

/// What a host gives. A resource without a limit (`None`) is not watched for contention.
pub type Capacity = Resources<Option<f64>>;

/// A machine that runs instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name.
    pub id: HostId,
    /// What it gives: millicores, bytes, bytes per second.
    pub capacity: Capacity,
    /// Processors that its instances may use, by number; empty means any.
    #[serde(default)]
    pub cpus: Vec<usize>,
    /// Free-form labels for placement constraints (zone, rack, …).
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Set while the host takes no new instances.
    #[serde(default)]
    pub isolation: Option<Isolation>,
}

/// Why a host takes no new instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Isolation {
    /// The reason, for people.
    pub reason: String,
    /// Who isolated it, and may undo that.
    pub owner: String,
    /// Since when.
    pub since: Timestamp,
}

/// What a migration of an instance may do; unknown means [`ConsistencyClass::SingleWriter`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ConsistencyClass {
    /// S0: no state; both sides serve, any ramp.
    Stateless,
    /// S1: the truth is outside (shared database, journal); both sides serve, any ramp.
    SharedState,
    /// S2: sessions live inside; new sessions go to the shadow, old ones stay.
    Sessions,
    /// S3: one writer; reads may ramp, writes flip once.
    #[default]
    SingleWriter,
}

impl ConsistencyClass {
    /// The short name used in notes and explanations.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Stateless => "S0",
            Self::SharedState => "S1",
            Self::Sessions => "S2",
            Self::SingleWriter => "S3",
        }
    }

    /// Whether both sides may serve any request at the same time.
    pub const fn both_sides_may_serve(self) -> bool {
        match self {
            Self::Stateless | Self::SharedState => true,
            Self::Sessions | Self::SingleWriter => false,
        }
    }
}

/// How much an instance matters when somebody must be moved: low priority moves first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Moves first.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Moves last.
    High,
}

/// Where a replica answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Endpoint(pub SocketAddr);

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What clients call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name; clients send it as the request's authority.
    pub id: ServiceId,
    /// Further authorities that mean this service.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Request header by which a client always reaches the same replica, if the service is sticky.
    #[serde(default)]
    pub sticky_header: Option<String>,
    /// Time limit for a request, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

const fn default_timeout_ms() -> u64 {
    15_000
}

/// What an instance is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct InstanceSpec {
    /// Its name.
    pub id: InstanceId,
    /// The service it serves.
    pub service: ServiceId,
    /// Program and arguments. `{port}`, `{state}`, `{instance}` and `{host}` are replaced.
    pub argv: Vec<String>,
    /// Environment; the same replacements hold.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Path that answers 200 when the instance can serve.
    #[serde(default = "default_health_path")]
    pub health_path: String,
    /// What the instance offers to whoever copies it.
    #[serde(default)]
    pub hooks: Hooks,
    /// What its migration may do.
    #[serde(default)]
    pub class: ConsistencyClass,
    /// How much it matters.
    #[serde(default)]
    pub priority: Priority,
    /// Instances that must not share a host with this one.
    #[serde(default)]
    pub anti_affinity: Vec<InstanceId>,
    /// Memory that must be free for it, in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Whether it may be moved at all.
    #[serde(default = "default_true")]
    pub movable: bool,
    /// Where it may be, and with whom.
    #[serde(default)]
    pub placement: Placement,
}

/// Where an instance may be placed. Each part is a filter of its own; a host that fails one is
/// named with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Labels a host must have: CPU model, driver features, zone.
    pub require: BTreeMap<String, String>,
    /// Labels a host must not have.
    pub avoid: BTreeMap<String, String>,
    /// Instances that must be on the same host.
    pub affinity: Vec<InstanceId>,
    /// Host label whose values are failure domains: at most `spread_most` instances of the service
    /// per value.
    pub spread_label: Option<String>,
    /// See `spread_label`; 0 means no more than there are now in the fullest domain.
    pub spread_most: u32,
    /// Instances it calls: it goes to the failure domain in which most of them are, other things
    /// equal.
    pub calls: Vec<InstanceId>,
}

fn default_health_path() -> String {
    "/healthz".to_owned()
}

const fn default_true() -> bool {
    true
}

/// HTTP paths by which an instance helps whoever copies it. Each is optional.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// `POST`: bring the state directory to rest until `resume`, or until the query parameter
    /// `deadline_ms` has passed. Without it the process is stopped (SIGSTOP) for the last delta.
    #[serde(default)]
    pub quiesce: Option<String>,
    /// `POST`: go on after `quiesce`.
    #[serde(default)]
    pub resume: Option<String>,
    /// `GET`: `{"position": u64, "digest": "hex"}` of the state; with `?position=n` the instance
    /// first waits (up to `timeout_ms`) until its state has reached that position, and then gives
    /// the digest exactly there.
    #[serde(default)]
    pub state: Option<String>,
    /// `POST {"identity": "text", "seed": "hex"}`: a copy takes on an identity and random seed of
    /// its own.
    #[serde(default)]
    pub reidentify: Option<String>,
    /// A single writer (S3) can hand its writing over. Below this path, each `POST` answering
    /// `{"writer": u64, "position": u64, "wrote": bool}`: `/standing` only that; `/follow {"from":
    /// "host:port"}` takes over what that replica writes; `/freeze {"of": u64, "at_least": u64}`
    /// refuses writes from now on, durably, and gives the position after that, or 409 if it writes
    /// under another epoch than `of`; `/open {"writer": u64}` takes writes under that epoch, or
    /// gives 409 if it knows of a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
}

/// One running copy of an instance: the original or the shadow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replica {
    /// The host it runs on.
    pub host: HostId,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// The driver's own handle (for the process driver: process id and start time).
    pub handle: String,
    /// Tag by which the driver finds it again after a crash.
    pub tag: String,
}

/// Whether an instance takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Being created; no traffic.
    Starting,
    /// Serving.
    Running,
    /// Gone or failed; no traffic.
    Stopped,
}

/// The unit that is moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// What it is made from.
    pub spec: InstanceSpec,
    /// Where it runs.
    pub replica: Replica,
    /// Whether it takes traffic.
    pub state: InstanceState,
    /// When it last came to this host; a move too soon after another is refused.
    pub placed_at: Timestamp,
}

/// Capacity held on a target host for a migration under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// The migration it is held for.
    pub migration: MigrationId,
    /// The host.
    pub host: HostId,
    /// What is held: millicores, bytes, bytes per second.
    pub amount: Resources<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_of_unknown_class_is_treated_as_a_single_writer() {
        let spec: InstanceSpec =
            serde_json::from_str(r#"{"id":"a","service":"s","argv":["x"]}"#).unwrap();
        assert_eq!(spec.class, ConsistencyClass::SingleWriter);
        assert!(!spec.class.both_sides_may_serve());
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let error = serde_json::from_str::<InstanceSpec>(
            r#"{"id":"a","service":"s","argv":["x"],"prioritty":"low"}"#,
        )
        .unwrap_err();
        assert!(error.to_string().contains("prioritty"), "{error}");
    }
}
