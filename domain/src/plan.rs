//! Plans: immutable intent, with the evidence and the reasons behind it.

use serde::{Deserialize, Serialize};

use crate::ids::{HostId, InstanceId, PlanId};
use crate::units::{Resource, Resources, Timestamp};
use crate::weight::RampPlan;

/// What makes a migration begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Never move anything.
    None,
    /// Move once demand has exceeded the limit (what platforms do today).
    Reactive,
    /// Move when demand is forecast to exceed it.
    #[default]
    Predictive,
}

/// Demand above what a host can give, seen or predicted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contention {
    /// The host.
    pub host: HostId,
    /// The resource that runs short.
    pub resource: Resource,
    /// When this was found.
    pub detected_at: Timestamp,
    /// Milliseconds from then until it begins; 0 when it has begun.
    pub ahead_ms: u64,
    /// Probability that the demand exceeds the limit then, between 0 and 1.
    pub probability: f64,
    /// Risk that would have been accepted.
    pub accepted_risk: f64,
    /// Sum of the instances' median demand then.
    pub expected_demand: f64,
    /// The limit: the host's capacity times the utilisation that is allowed.
    pub limit: f64,
    /// In how many of the last `of_ticks` looks it was found.
    pub ticks: u32,
    /// Number of looks.
    pub of_ticks: u32,
}

/// An option that was looked at and not taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// The instance that could have moved.
    pub instance: InstanceId,
    /// The host it could have gone to, if one was considered.
    pub target: Option<HostId>,
    /// Its score, where it got one; higher is better.
    pub score: Option<f64>,
    /// Why it was not taken.
    pub reason: String,
    /// The filter that left it out, if one did.
    #[serde(default)]
    pub filter: Option<Filter>,
}

/// What keeps an instance where it is, or out of a host. One name per rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The instance is marked as not movable.
    Fixed,
    /// The driver cannot do what its consistency class needs.
    Class,
    /// It is being moved.
    Moving,
    /// It has just moved.
    CoolDown,
    /// Its migration was just rolled back.
    Resting,
    /// It is recorded more than once, or on a host that is unknown.
    Unclear,
    /// The host takes nothing new.
    Isolated,
    /// The host's capacity is zero, negative or no number.
    Capacity,
    /// Another instance must not be on the same host.
    AntiAffinity,
    /// Another instance must be on the same host.
    Affinity,
    /// The host lacks a label or capability, or has one it must not have.
    Labels,
    /// Its failure domain holds enough of the service already.
    Spread,
    /// As many migrations as allowed go to or from the host.
    InFlight,
    /// It has left the host not long ago.
    NoReturn,
    /// The memory does not suffice.
    Memory,
    /// The host would be in contention itself.
    HeadRoom,
}

impl Filter {
    /// The name used in explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Class => "class",
            Self::Moving => "moving",
            Self::CoolDown => "cool-down",
            Self::Resting => "resting",
            Self::Unclear => "unclear",
            Self::Isolated => "isolated",
            Self::Capacity => "capacity",
            Self::AntiAffinity => "anti-affinity",
            Self::Affinity => "affinity",
            Self::Labels => "labels",
            Self::Spread => "spread",
            Self::InFlight => "in-flight",
            Self::NoReturn => "no-return",
            Self::Memory => "memory",
            Self::HeadRoom => "head-room",
        }
    }
}

/// One instance to one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// What moves.
    pub instance: InstanceId,
    /// From where.
    pub from: HostId,
    /// To where.
    pub target: HostId,
    /// In which steps its traffic moves.
    pub ramp: RampPlan,
    /// What is reserved for it on the target: millicores, bytes, bytes per second.
    pub reserve: Resources<f64>,
    /// Its score.
    pub score: f64,
    /// The parts of the score and the reasons, in words.
    pub reasons: Vec<String>,
    /// What it is expected to bring, and to cost.
    #[serde(default)]
    pub expected: Expected,
}

/// Benefit and cost of a move, as shares of the window: 0.1 is a tenth of the window spent in
/// contention.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Expected {
    /// Contention spared, as expected.
    pub benefit: f64,
    /// Its 10 % quantile.
    pub benefit_low: f64,
    /// Cost, as expected.
    pub cost: f64,
    /// Its 90 % quantile.
    pub cost_high: f64,
    /// Length of the window, in milliseconds.
    pub window_ms: u64,
}

/// What was decided at one look at the world, "nothing" included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// By which policy.
    pub policy: Policy,
    /// The contention that was found.
    pub contention: Vec<Contention>,
    /// The moves, best first.
    pub moves: Vec<Move>,
    /// The best of what was not taken.
    pub alternatives: Vec<Alternative>,
    /// What was decided, in a sentence.
    pub summary: String,
}

/// A decision that moves something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Its name.
    pub id: PlanId,
    /// The plan before it.
    pub parent: Option<PlanId>,
    /// What was decided, and why.
    pub decision: Decision,
}
