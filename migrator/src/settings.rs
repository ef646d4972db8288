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
    /// An instance whose migration was rolled back stays at least this long, in milliseconds.
    pub retry_ms: u64,
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
            retry_ms: 900_000,
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
    /// Checks what types cannot.
    ///
    /// # Errors
    /// The field, its value and what is allowed, in words.
    pub fn validate(&self) -> Result<(), String> {
        let judge = &self.judge;
        for (field, value, allowed) in [
            ("tick_ms", self.tick_ms, 10..=3_600_000),
            ("window_ms", self.window_ms, 1..=604_800_000),
            ("lead_ms", self.lead_ms, 0..=86_400_000),
            ("lease_ms", self.lease_ms, 500..=600_000),
            ("drain_deadline_ms", self.drain_deadline_ms, 0..=86_400_000),
            ("max_migrations", self.max_migrations as u64, 0..=10_000),
            ("limits.attempts", u64::from(self.limits.attempts), 1..=100),
            (
                "limits.sync_rounds",
                u64::from(self.limits.sync_rounds),
                1..=1_000,
            ),
            ("judge.min_requests", judge.min_requests, 1..=1_000_000),
            ("judge.max_age_ms", judge.max_age_ms, 100..=60_000),
            ("judge.deadline_ms", judge.deadline_ms, 1_000..=86_400_000),
        ] {
            if !allowed.contains(&value) {
                let (from, to) = (allowed.start(), allowed.end());
                return Err(format!("{field} is {value}; allowed is {from} to {to}"));
            }
        }
        if self.confirm_ticks == 0 || self.confirm_ticks > self.of_ticks || self.of_ticks > 1_000 {
            return Err(format!(
                "confirm_ticks is {} of of_ticks {}; allowed is 1 to of_ticks, and at most 1000",
                self.confirm_ticks, self.of_ticks
            ));
        }
        for (field, value, highest) in [
            ("utilisation_limit", self.utilisation_limit, 1.0),
            ("accepted_risk", self.accepted_risk, 1.0),
            ("judge.error_margin", judge.error_margin, 1.0),
            ("judge.slow_margin", judge.slow_margin, 1.0),
            ("judge.z", judge.z, 10.0),
        ] {
            if !(value > 0.0 && value <= highest) {
                return Err(format!(
                    "{field} is {value}; allowed is above 0 and at most {highest}"
                ));
            }
        }
        Ok(())
    }

    /// One look's time.
    pub fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms.max(10))
    }
}

/// 1 % → 5 % → 25 % → 50 % → all, each held for at least ten seconds.
fn default_ramp() -> RampPlan {
    RampPlan::standard(10_000)
}
