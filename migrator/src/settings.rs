//! What an operator may tune, with defaults that work.

use std::time::Duration;

use domain::migration::Limits;
use domain::{Policy, RampPlan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the migrator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What makes a migration begin.
    pub policy: Policy,
    /// How often the world is looked at, in milliseconds.
    pub tick_ms: u64,
    /// Time that a migration takes from decision to relief, in milliseconds: no use in looking at
    /// anything nearer.
    pub lead_ms: u64,
    /// How far beyond the lead to look, in milliseconds.
    pub window_ms: u64,
    /// Share of a host's capacity that may be used.
    pub utilisation_limit: f64,
    /// Probability of exceeding the limit that is accepted.
    pub accepted_risk: f64,
    /// Contention must be found in this many …
    pub confirm_ticks: u32,
    /// … of this many looks.
    pub of_ticks: u32,
    /// An instance that has just moved stays at least this long, in milliseconds.
    pub cool_down_ms: u64,
    /// Migrations at a time, in all.
    pub max_migrations: usize,
    /// In which steps traffic moves.
    pub ramp: RampPlan,
    /// Bounds of a migration's patience.
    pub limits: Limits,
    /// The judge's settings.
    pub judge: JudgeSettings,
    /// How long requests on a replica that lost its weight are waited for, in milliseconds.
    pub drain_deadline_ms: u64,
    /// How long leadership lasts without renewal, in milliseconds.
    pub lease_ms: u64,
}

/// Settings of the judge.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeSettings {
    /// Requests the shadow must have answered at a stage before it may be promoted.
    pub min_requests: u64,
    /// Share of failed requests by which the shadow may be worse.
    pub error_margin: f64,
    /// Share of slow requests by which the shadow may be worse.
    pub slow_margin: f64,
    /// How many standard errors a difference must exceed its margin.
    pub z: f64,
    /// Oldest telemetry to decide on, in milliseconds.
    pub max_age_ms: u64,
    /// Without a verdict by then the stage is given up, in milliseconds.
    pub deadline_ms: u64,
    /// How long copied requests are waited for before the ramp begins without, in milliseconds.
    pub mirror_ms: u64,
}

impl Default for JudgeSettings {
    fn default() -> Self {
        Self {
            min_requests: 20,
            error_margin: 0.005,
            slow_margin: 0.15,
            z: 3.0,
            max_age_ms: 2_000,
            deadline_ms: 60_000,
            mirror_ms: 4_000,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::Predictive,
            tick_ms: 30_000,
            lead_ms: 300_000,
            window_ms: 3_600_000,
            utilisation_limit: 0.8,
            accepted_risk: 0.3,
            confirm_ticks: 2,
            of_ticks: 3,
            cool_down_ms: 3_600_000,
            max_migrations: 2,
            ramp: default_ramp(),
            limits: Limits::default(),
            judge: JudgeSettings::default(),
            drain_deadline_ms: 30_000,
            lease_ms: 5_000,
        }
    }
}

impl Settings {
    /// One look's time.
    pub fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms.max(10))
    }
}

/// 1 % → 5 % → 25 % → 50 % → all, each held for at least ten seconds.
fn default_ramp() -> RampPlan {
    RampPlan::standard(10_000)
}
