//! Our judge and ramp with their defaults.

use domain::{Counts, HarmBudget, RampPlan};
use foreshadow_migrator::JudgeSettings;
use foreshadow_migrator::simulate::{End, Ramp};

use super::Rule;
use super::cells::{Cell, Served};

/// Beside a twentieth of the traffic on the original, as by default.
pub(crate) const SOAK_MS: u64 = 300_000;

pub(crate) struct Ours(Option<Ramp>);

impl Ours {
    pub(crate) fn new(cell: &Cell, baseline: Counts) -> Self {
        let plan = RampPlan::budgeted(
            HarmBudget {
                requests: 3,
                reaction_ms: 3_000,
            },
            SOAK_MS,
        );
        Self(Ramp::begin(plan, baseline, cell.rate, JudgeSettings::default()).ok())
    }
}

impl Rule for Ours {
    fn shadow_share(&self) -> f64 {
        self.0.as_ref().map_or(0.0, Ramp::share)
    }

    fn original_share(&self) -> f64 {
        1.0 - self.shadow_share()
    }

    // Data planes report twice a second while a migration runs.
    fn looks(&self) -> u32 {
        2
    }

    fn look(&mut self, original: &Served, shadow: &Served) -> Option<End> {
        let ramp = self.0.as_mut()?;
        ramp.look(500, original.units().clone(), shadow.units().clone())
    }
}
