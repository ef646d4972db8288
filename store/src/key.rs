//! What is stored under which name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Kinds of records. Who may write a kind is said in ARCHITECTURE.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `domain::Host`, by host id.
    Host,
    /// `domain::Service`, by service id.
    Service,
    /// `domain::Instance`, by instance id.
    Instance,
    /// `domain::Reservation`, by migration id.
    Reservation,
    /// `domain::Plan`, by plan id.
    Plan,
    /// `domain::Migration`, by migration id.
    Migration,
    /// `domain::Routing`, by service id.
    Routing,
    /// `domain::Decision`: the latest one, id `latest`.
    Decision,
    /// `domain::RoutingStatus`, by service id and control plane (`domain::routing::word_id`).
    RoutingStatus,
    /// `domain::Traffic`, by service id and control plane.
    Traffic,
    /// `domain::Readings`, by instance id.
    Readings,
    /// `domain::forecast::InstanceForecast`, by instance id.
    Forecast,
    /// `domain::KnownNode`, by node id.
    Node,
    /// Progress of a migration's current step, for people, by migration id.
    Progress,
    /// Evidence and weight of a migration's ramp, by migration id.
    Ramp,
    /// What people want of a migration's ramp, by migration id.
    Steering,
    /// Who isolates a host, by host id.
    Isolation,
    /// What a decision was made from, by plan id, or `latest`.
    Evidence,
    /// A migrator's sign of life, by holder id.
    Member,
    /// A control plane that has a name, by that.
    Server,
    /// `domain::Announcement`, by its id.
    Announcement,
}

/// Whether a record survives a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// It does.
    Durable,
    /// It is made anew after one.
    Ephemeral,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 21] = [
        Self::Host,
        Self::Service,
        Self::Instance,
        Self::Reservation,
        Self::Plan,
        Self::Migration,
        Self::Routing,
        Self::Decision,
        Self::Node,
        Self::RoutingStatus,
        Self::Traffic,
        Self::Readings,
        Self::Forecast,
        Self::Progress,
        Self::Ramp,
        Self::Steering,
        Self::Isolation,
        Self::Evidence,
        Self::Member,
        Self::Server,
        Self::Announcement,
    ];

    /// Whether records of this kind survive a crash.
    pub const fn durability(self) -> Durability {
        match self {
            Self::Host
            | Self::Service
            | Self::Instance
            | Self::Reservation
            | Self::Plan
            | Self::Migration
            | Self::Routing
            | Self::Decision
            | Self::Node
            | Self::Announcement
            | Self::Ramp
            | Self::Steering
            | Self::Isolation
            | Self::Evidence => Durability::Durable,
            Self::RoutingStatus
            | Self::Traffic
            | Self::Readings
            | Self::Forecast
            | Self::Progress
            | Self::Member
            | Self::Server => Durability::Ephemeral,
        }
    }

    /// The name used in keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Service => "service",
            Self::Instance => "instance",
            Self::Reservation => "reservation",
            Self::Plan => "plan",
            Self::Migration => "migration",
            Self::Routing => "routing",
            Self::Decision => "decision",
            Self::RoutingStatus => "routing-status",
            Self::Traffic => "traffic",
            Self::Readings => "readings",
            Self::Forecast => "forecast",
            Self::Node => "node",
            Self::Progress => "progress",
            Self::Ramp => "ramp",
            Self::Steering => "steering",
            Self::Isolation => "isolation",
            Self::Evidence => "evidence",
            Self::Member => "member",
            Self::Server => "server",
            Self::Announcement => "announcement",
        }
    }
}

/// A record's name: its kind and the id of the thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The id.
    pub id: String,
}

impl Key {
    /// The key of a thing.
    pub fn new(kind: Kind, id: impl Into<String>) -> Self {
        Self {
            kind,
            id: id.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.name(), self.id)
    }
}

/// Name of an append-only log, for instance `migration/m-1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogName(pub String);

/// Name of a lease, for instance `migrator/default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseName(pub String);
