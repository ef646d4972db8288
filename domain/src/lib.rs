//! The vocabulary of Foreshadow and its pure decisions.
//!
//! Nothing here waits, reads a clock, or talks to anybody: every function maps values to values,
//! so production, simulation and the model checker run the same code. Types carry the rules:
//! a [`WeightSplit`] cannot fail to sum to the whole, a [`RampPlan`] only rises and ends at all
//! traffic, a [`QuantileCurve`] never crosses, and an original can only be destroyed with a
//! [`ZeroTraffic`] proof.

pub mod announcement;
pub mod forecast;
pub mod ids;
pub mod inventory;
pub mod migration;
pub mod pairs;
pub mod plan;
pub mod quantile;
pub mod ramp;
pub mod routing;
pub mod traffic;
pub mod units;
pub mod weight;

pub use announcement::{Announcement, AnnouncementError, When};
pub use forecast::{Forecast, HorizonForecast, ModelRef, Reading, Readings};
pub use ids::{HolderId, HostId, IdError, InstanceId, MigrationId, NodeId, PlanId, ServiceId};
pub use inventory::{
    Capacity, ConsistencyClass, Endpoint, Hooks, Host, Instance, InstanceSpec, InstanceState,
    Isolation, Placement, Priority, Replica, Reservation, Service,
};
pub use migration::{Effect, EffectKind, Event, Illegal, Migration, Outcome, Phase, step};
pub use pairs::Pairs;
pub use plan::{Alternative, Contention, Decision, Expected, Filter, Move, Plan, Policy};
pub use quantile::{QUANTILE_LEVELS, QuantileCurve, QuantileError};
pub use ramp::{HarmBudget, HoldWindow, RampError, RampPlan, RampPolicy, Stage};
pub use routing::{
    KnownNode, MigrationRouting, NodeProgress, Routing, RoutingState, RoutingStatus, ZeroTraffic,
};
pub use traffic::{
    Counts, LATENCY_EDGES_US, LatencyHistogram, NamedMetric, NodeTraffic, Side, Traffic,
};
pub use units::{BasisPoints, Epoch, Resource, Resources, Timestamp, UnitError};
pub use weight::WeightSplit;
