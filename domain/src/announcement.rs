//! Load that is known to come: scheduled jobs, announced events, expected users.

use serde::{Deserialize, Serialize};

use crate::ids::InstanceId;
use crate::units::{Resource, Resources, Timestamp};

/// Load that somebody has announced. Checked by [`Announcement::check`] where it comes in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Announcement {
    /// Its name: 1 to 63 characters as for instances.
    pub id: InstanceId,
    /// Whose demand.
    pub instances: Vec<InstanceId>,
    /// When it begins.
    pub when: When,
    /// How long it lasts, in milliseconds.
    pub duration_ms: u64,
    /// What it adds while it lasts: millicores, bytes, bytes per second.
    #[serde(default)]
    pub adds: Resources<Option<f64>>,
    /// What the rest is multiplied by while it lasts: 2 for twice the usual users.
    #[serde(default)]
    pub times: Option<f64>,
    /// How uncertain that is: the standard deviation as a share of it.
    #[serde(default = "default_spread")]
    pub spread: f64,
}

const fn default_spread() -> f64 {
    0.25
}

/// When an announced load begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum When {
    /// Once.
    At(Timestamp),
    /// Again and again.
    Cron {
        /// Minute, hour, day of month, month, day of week.
        expression: String,
        /// Local time less UTC, in minutes.
        #[serde(default)]
        offset_min: i32,
        /// No more runs begin after it.
        #[serde(default)]
        until: Option<Timestamp>,
    },
}

/// What is wrong with an announcement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("announcement {id}: {field} is {value}; allowed is {allowed}")]
pub struct AnnouncementError {
    /// Which.
    pub id: String,
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would be allowed.
    pub allowed: &'static str,
}

impl Announcement {
    /// Longest that one run may last: a week.
    pub const LONGEST_MS: u64 = 7 * 86_400_000;
    /// Most instances that one may name.
    pub const MOST_INSTANCES: usize = 10_000;

    /// Checks what types cannot.
    ///
    /// # Errors
    /// The field, its value and what is allowed.
    pub fn check(&self) -> Result<(), AnnouncementError> {
        let wrong = |field, value: String, allowed| {
            Err(AnnouncementError {
                id: self.id.to_string(),
                field,
                value,
                allowed,
            })
        };
        if self.instances.is_empty() || self.instances.len() > Self::MOST_INSTANCES {
            let found = format!("{} instances", self.instances.len());
            return wrong("instances", found, "1 to 10000 of them");
        }
        if !(1..=Self::LONGEST_MS).contains(&self.duration_ms) {
            let allowed = "1 to 604800000: a run ends within a week";
            return wrong("duration_ms", self.duration_ms.to_string(), allowed);
        }
        let amounts = Resource::ALL.map(|resource| *self.adds.get(resource));
        for amount in amounts.into_iter().flatten() {
            if !amount.is_finite() || amount < 0.0 {
                return wrong("adds", amount.to_string(), "numbers of at least 0");
            }
        }
        match self.times {
            Some(times) if !(0.0..=1_000.0).contains(&times) => {
                return wrong("times", times.to_string(), "0 to 1000");
            }
            None if amounts.iter().all(Option::is_none) => {
                return wrong("adds", "nothing".to_owned(), "an amount, or times");
            }
            Some(_) | None => {}
        }
        if !(0.0..=2.0).contains(&self.spread) {
            return wrong("spread", self.spread.to_string(), "0 to 2");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Announcement {
        Announcement {
            id: InstanceId::new("nightly").unwrap(),
            instances: vec![InstanceId::new("a1").unwrap()],
            when: When::At(Timestamp(5)),
            duration_ms: 1,
            adds: Resources {
                cpu: Some(100.0),
                ..Resources::default()
            },
            times: None,
            spread: 0.25,
        }
    }

    #[test]
    fn what_could_not_be_meant_is_refused_by_the_field() {
        assert_eq!(job().check(), Ok(()));
        let field = |change: &dyn Fn(&mut Announcement)| {
            let mut changed = job();
            change(&mut changed);
            changed.check().unwrap_err().field
        };
        assert_eq!(field(&|job| job.instances.clear()), "instances");
        assert_eq!(field(&|job| job.duration_ms = 0), "duration_ms");
        assert_eq!(field(&|job| job.duration_ms = u64::MAX), "duration_ms");
        assert_eq!(field(&|job| job.adds.cpu = Some(f64::NAN)), "adds");
        assert_eq!(field(&|job| job.adds.cpu = Some(-1.0)), "adds");
        assert_eq!(field(&|job| job.adds.cpu = None), "adds");
        assert_eq!(field(&|job| job.times = Some(f64::INFINITY)), "times");
        assert_eq!(field(&|job| job.spread = -0.1), "spread");
    }
}
