//! The `ingest` part of the configuration: what is taken in of what Prometheus and OpenTelemetry
//! send.

use std::collections::BTreeMap;

use domain::Resource;
use forecaster::intake::{Quantity, Rule, RuleError, Rules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is taken in from others.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IngestSettings {
    /// Which series of Prometheus (remote write) and OpenTelemetry are demand of which instance.
    /// Everything else that they send is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<SeriesRule>,
}

/// One kind of series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SeriesRule {
    /// The metric's name.
    pub metric: String,
    /// The label or attribute that names the instance.
    pub instance: String,
    /// What it measures.
    pub quantity: QuantityName,
    /// Whether it counts up: then its rate per second is taken.
    #[serde(default)]
    pub counter: bool,
    /// What a value, or rate, is multiplied by: 1000 makes millicores of cores.
    #[serde(default = "one")]
    pub factor: f64,
    /// Labels that must have these values. Together they leave one series per instance: others are
    /// not added up.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What a series measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuantityName {
    /// Processor time, in millicores.
    Cpu,
    /// Memory, in bytes.
    Memory,
    /// Network received, in bytes per second.
    NetRx,
    /// Network sent, in bytes per second.
    NetTx,
    /// What users do: requests per second, sessions.
    Activity,
}

const fn one() -> f64 {
    1.0
}

impl From<QuantityName> for Quantity {
    fn from(name: QuantityName) -> Self {
        match name {
            QuantityName::Cpu => Self::Demand(Resource::Cpu),
            QuantityName::Memory => Self::Demand(Resource::Memory),
            QuantityName::NetRx => Self::Demand(Resource::NetRx),
            QuantityName::NetTx => Self::Demand(Resource::NetTx),
            QuantityName::Activity => Self::Activity,
        }
    }
}

impl IngestSettings {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The rules, checked.
    ///
    /// # Errors
    /// [`RuleError`] for the first that cannot be meant.
    pub fn rules(&self) -> Result<Rules, RuleError> {
        let rule = |rule: &SeriesRule| Rule {
            metric: rule.metric.clone(),
            instance: rule.instance.clone(),
            quantity: rule.quantity.into(),
            counter: rule.counter,
            factor: rule.factor,
            labels: rule.labels.clone(),
        };
        Rules::new(self.series.iter().map(rule).collect())
    }
}
