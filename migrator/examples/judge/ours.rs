//! Our judge and ramp with their defaults.

use domain::{Counts, HarmBudget, RampPlan};
use foreshadow_migrator::JudgeSettings;
use foreshadow_migrator::simulate::{End, Ramp, reports};

use super::Rule;
use super::cells::{Cell, Served};

/// Beside a twentieth of the traffic on the original, as by default.
pub(crate) const SOAK_MS: u64 = 300_000;

pub(crate) struct Ours {
    ramp: Option<Ramp>,
    reports: u32,
}

impl Ours {
    pub(crate) fn new(cell: &Cell, baseline: Counts) -> Self {
        let plan = RampPlan::budgeted(HarmBudget::default(), SOAK_MS);
        Self {
            ramp: Ramp::begin(plan, baseline, cell.rate, JudgeSettings::default()).ok(),
            reports: reports(cell.rate),
        }
    }
}

impl Rule for Ours {
    fn shadow_share(&self) -> f64 {
        self.ramp.as_ref().map_or(0.0, Ramp::share)
    }

    fn original_share(&self) -> f64 {
        1.0 - self.shadow_share()
    }

    fn looks(&self) -> u32 {
        self.reports
    }

    fn look(&mut self, original: &Served, shadow: &Served) -> Option<End> {
        let ramp = self.ramp.as_mut()?;
        ramp.look(
            u64::from(1_000 / self.reports),
            original.units().clone(),
            shadow.units().clone(),
        )
    }
}
