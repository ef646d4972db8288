//! What an operator may tune, with defaults that work.

use std::ops::RangeInclusive;
use std::time::Duration;

use domain::migration::Limits;
use domain::{HarmBudget, Policy, RampPlan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pairs::PairSettings;
use crate::room::Caps;

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
    /// Migrations at a time that leave or enter one host.
    pub max_per_host: usize,
    /// In which steps traffic moves.
    pub ramp: RampPlan,
    /// Bounds of a migration's patience.
    pub limits: Limits,
    /// The judge's settings.
    pub judge: JudgeSettings,
    /// The planner's settings.
    pub planning: Planning,
    /// Settings of the comparison of copied requests.
    pub pairs: PairSettings,
    /// Share of ten seconds in which something on the target host may wait for a processor (PSI)
    /// before its shadow gets no more traffic; 1: any. Where the driver cannot say it holds nothing.
    pub pressure_limit: f64,
    /// Basis points of its traffic that an original gets back a second from a shadow that is given
    /// up although it is well; 10000: all at once. An ill shadow gives all back at once.
    pub way_back_per_s: u32,
    /// How long requests on a replica that lost its weight are waited for, in milliseconds.
    pub drain_deadline_ms: u64,
    /// How long leadership lasts without renewal, in milliseconds.
    pub lease_ms: u64,
    /// Into how many parts the services are divided, each led by one migrator at a time. All
    /// migrators of a store must have the same; it may change only while none runs and nothing is
    /// under way.
    pub shards: u32,
}

/// What becomes of a stage without a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AtDeadline {
    /// It keeps its weight and waits: for more requests, or for a person.
    #[default]
    Hold,
    /// The shadow is taken for no worse, unless it is suspicious.
    Promote,
    /// The migration is undone.
    RollBack,
}

/// Settings of the planner.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Planning {
    /// What a move costs whatever it is, as the share of the window in contention that it must at
    /// least spare.
    pub price: f64,
    /// What each GiB of memory to copy adds to that.
    pub price_per_gib: f64,
    /// How much demand that is not served counts beside time in contention.
    pub excess_weight: f64,
    /// How far the forecasts' spread may be off, as a share: the benefit's low quantile is the
    /// least within it.
    pub doubt: f64,
    /// Share of the accepted risk that a target host may come to: what may enter must leave more
    /// room than what makes one leave.
    pub target_share: f64,
    /// How many times the accepted risk a full fleet accepts; it grows from a load of 60 % of the
    /// limits to 90 %.
    pub crowded_risk: f64,
    /// An instance returns to a host it has left only after this time, in milliseconds, unless the
    /// benefit is twice the cost.
    pub no_return_ms: u64,
    /// Candidates per contended host that are looked at closely.
    pub candidates: usize,
    /// Target hosts per candidate that are looked at closely.
    pub targets: usize,
    /// Looks at a host's future that a plan may take; counted, so the same world gives the same
    /// plan on any machine.
    pub steps: usize,
    /// Moves after which what they brought is held against what they promised.
    pub brake_after: usize,
}

impl Default for Planning {
    fn default() -> Self {
        Self {
            price: 0.01,
            price_per_gib: 0.001,
            excess_weight: 1.0,
            doubt: 0.25,
            target_share: 0.5,
            crowded_risk: 2.0,
            no_return_ms: 7_200_000,
            candidates: 24,
            targets: 8,
            steps: 20_000,
            brake_after: 20,
        }
    }
}

impl Planning {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// The field, its value and what is allowed, in words.
    pub fn validate(&self) -> Result<(), String> {
        whole_numbers(&[
            ("planning.no_return_ms", self.no_return_ms, 0..=604_800_000),
            ("planning.candidates", self.candidates as u64, 1..=10_000),
            ("planning.targets", self.targets as u64, 1..=10_000),
            ("planning.steps", self.steps as u64, 1..=1_000_000_000),
            ("planning.brake_after", self.brake_after as u64, 1..=1_000),
        ])?;
        for (field, value, allowed) in [
            ("planning.price", self.price, 0.0..=1.0),
            ("planning.price_per_gib", self.price_per_gib, 0.0..=1.0),
            ("planning.excess_weight", self.excess_weight, 0.0..=100.0),
            ("planning.doubt", self.doubt, 0.0..=0.9),
            ("planning.target_share", self.target_share, 0.0..=100.0),
            ("planning.crowded_risk", self.crowded_risk, 1.0..=100.0),
        ] {
            if !allowed.contains(&value) {
                let (from, to) = (allowed.start(), allowed.end());
                return Err(format!("{field} is {value}; allowed is {from} to {to}"));
            }
        }
        Ok(())
    }
}

/// Settings of the judge.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeSettings {
    /// Highest probability that a whole ramp of a shadow within its margins is rolled back.
    pub alpha: f64,
    /// Highest probability that a stage takes a shadow beyond the proof's margins for no worse.
    pub beta: f64,
    /// How many times the original's share of failed requests the shadow's may be …
    pub error_ratio: f64,
    /// … and this share on top.
    pub error_margin: f64,
    /// How many times the original's share of slow requests the shadow's may be …
    pub slow_ratio: f64,
    /// … and this share on top.
    pub slow_margin: f64,
    /// Share of requests slower than nearly all were before that is allowed on top of the
    /// original's, times `slow_ratio`.
    pub stall_margin: f64,
    /// A request is far too slow beyond this many times the latency that nine in ten requests were
    /// under before the contention.
    pub far_factor: f64,
    /// Share of the shadow's requests that may be far too slow, however slow the original is.
    pub far_share: f64,
    /// From this weight of the shadow on, in basis points, a stage asks for proof that it is no
    /// worse; above 10000: never.
    pub prove_from: u32,
    /// Share of failed requests by which the shadow must be shown not to be worse.
    pub prove_error_margin: f64,
    /// Share of slow requests by which the shadow must be shown not to be worse; 1: none.
    pub prove_slow_margin: f64,
    /// Length of an epoch of evidence, in milliseconds. It takes three bad ones to roll back, so it
    /// should be longer than a harmless burst.
    pub epoch_ms: u64,
    /// Requests the shadow must have answered at a stage before it may be promoted.
    pub min_requests: u64,
    /// Oldest telemetry to decide on, in milliseconds.
    pub max_age_ms: u64,
    /// How long a stage may take, in milliseconds.
    pub deadline_ms: u64,
    /// What to do with a stage that is neither shown to be good nor to be bad by then.
    pub at_deadline: AtDeadline,
    /// How long copied requests are waited for before the ramp begins without, in milliseconds.
    pub mirror_ms: u64,
}

impl Default for JudgeSettings {
    fn default() -> Self {
        Self {
            alpha: 0.01,
            beta: 0.05,
            error_ratio: 1.2,
            error_margin: 0.000_5,
            slow_ratio: 1.15,
            slow_margin: 0.005,
            stall_margin: 0.002,
            far_factor: 5.0,
            far_share: 0.25,
            prove_from: 5_000,
            prove_error_margin: 0.005,
            prove_slow_margin: 0.04,
            epoch_ms: 2_000,
            min_requests: 20,
            max_age_ms: 2_000,
            deadline_ms: 1_800_000,
            at_deadline: AtDeadline::Hold,
            mirror_ms: 4_000,
        }
    }
}

impl JudgeSettings {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// The field, its value and what is allowed, in words.
    pub fn validate(&self) -> Result<(), String> {
        whole_numbers(&[
            ("judge.min_requests", self.min_requests, 1..=1_000_000),
            ("judge.max_age_ms", self.max_age_ms, 100..=60_000),
            ("judge.deadline_ms", self.deadline_ms, 1_000..=86_400_000),
            ("judge.epoch_ms", self.epoch_ms, 50..=600_000),
            ("judge.prove_from", self.prove_from.into(), 1..=10_001),
        ])?;
        for (field, value, allowed) in [
            ("judge.alpha", self.alpha, 1e-9..=0.499),
            ("judge.beta", self.beta, 1e-9..=0.499),
            ("judge.error_ratio", self.error_ratio, 1.0..=100.0),
            ("judge.error_margin", self.error_margin, 1e-6..=1.0),
            ("judge.slow_ratio", self.slow_ratio, 1.0..=100.0),
            ("judge.slow_margin", self.slow_margin, 1e-6..=1.0),
            ("judge.stall_margin", self.stall_margin, 1e-6..=1.0),
            ("judge.far_factor", self.far_factor, 1.0..=1_000.0),
            ("judge.far_share", self.far_share, 1e-6..=1.0),
            (
                "judge.prove_error_margin",
                self.prove_error_margin,
                1e-6..=1.0,
            ),
            (
                "judge.prove_slow_margin",
                self.prove_slow_margin,
                1e-6..=1.0,
            ),
        ] {
            if !allowed.contains(&value) {
                let (from, to) = (allowed.start(), allowed.end());
                return Err(format!("{field} is {value}; allowed is {from} to {to}"));
            }
        }
        Ok(())
    }
}

fn whole_numbers(fields: &[(&str, u64, RangeInclusive<u64>)]) -> Result<(), String> {
    for (field, value, allowed) in fields {
        if !allowed.contains(value) {
            let (from, to) = (allowed.start(), allowed.end());
            return Err(format!("{field} is {value}; allowed is {from} to {to}"));
        }
    }
    Ok(())
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
            max_per_host: 2,
            ramp: default_ramp(),
            limits: Limits::default(),
            judge: JudgeSettings::default(),
            planning: Planning::default(),
            pairs: PairSettings::default(),
            pressure_limit: 0.6,
            way_back_per_s: 2_500,
            drain_deadline_ms: 30_000,
            lease_ms: 5_000,
            shards: 1,
        }
    }
}

impl Settings {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// The field, its value and what is allowed, in words.
    pub fn validate(&self) -> Result<(), String> {
        self.judge.validate()?;
        self.planning.validate()?;
        self.pairs.validate()?;
        whole_numbers(&[
            ("tick_ms", self.tick_ms, 10..=3_600_000),
            ("window_ms", self.window_ms, 1..=604_800_000),
            ("lead_ms", self.lead_ms, 0..=86_400_000),
            ("lease_ms", self.lease_ms, 500..=600_000),
            ("drain_deadline_ms", self.drain_deadline_ms, 0..=86_400_000),
            ("max_migrations", self.max_migrations as u64, 0..=10_000),
            ("max_per_host", self.max_per_host as u64, 1..=10_000),
            ("shards", u64::from(self.shards), 1..=256),
            (
                "way_back_per_s",
                u64::from(self.way_back_per_s),
                500..=10_000,
            ),
            ("limits.attempts", u64::from(self.limits.attempts), 1..=100),
            (
                "limits.sync_rounds",
                u64::from(self.limits.sync_rounds),
                1..=1_000,
            ),
        ])?;
        if self.confirm_ticks == 0 || self.confirm_ticks > self.of_ticks || self.of_ticks > 1_000 {
            return Err(format!(
                "confirm_ticks is {} of of_ticks {}; allowed is 1 to of_ticks, and at most 1000",
                self.confirm_ticks, self.of_ticks
            ));
        }
        for (field, value, highest) in [
            ("utilisation_limit", self.utilisation_limit, 1.0),
            ("accepted_risk", self.accepted_risk, 1.0),
            ("pressure_limit", self.pressure_limit, 1.0),
        ] {
            if !(value > 0.0 && value <= highest) {
                return Err(format!(
                    "{field} is {value}; allowed is above 0 and at most {highest}"
                ));
            }
        }
        Ok(())
    }

    /// How long leadership lasts without renewal.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.max(100))
    }

    /// How many migrations may be under way.
    pub const fn caps(&self) -> Caps {
        Caps {
            in_all: self.max_migrations,
            per_host: self.max_per_host,
        }
    }

    /// One look's time.
    pub fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms.max(10))
    }
}

/// Computed from a harm budget: up to 20 %, 50 % once it is shown to be no worse, five minutes at
/// 95 %, all.
fn default_ramp() -> RampPlan {
    RampPlan::budgeted(HarmBudget::default(), 300_000)
}
