//! Which metrics of others are demand of which instance.

use std::collections::{BTreeMap, HashMap};

use super::Quantity;

/// Most rules.
const MOST: usize = 256;
/// Longest name of a metric or label.
const LONGEST: usize = 256;

/// One kind of series that is taken in.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The metric's name.
    pub metric: String,
    /// The label that names the instance.
    pub instance: String,
    /// What it measures.
    pub quantity: Quantity,
    /// Whether it counts up, so that its rate per second is taken.
    pub counter: bool,
    /// What a value (or rate) is multiplied by: 1000 for cores.
    pub factor: f64,
    /// Labels that must have these values.
    pub labels: BTreeMap<String, String>,
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}; allowed is {allowed}")]
pub struct RuleError {
    /// Which rule, from 0.
    pub index: usize,
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would be allowed.
    pub allowed: &'static str,
}

/// Rules that have been checked, by the metric's name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules {
    by_metric: HashMap<String, Vec<Rule>>,
}

impl Rules {
    /// Checks rules.
    ///
    /// # Errors
    /// [`RuleError`] for the first that cannot be meant.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RuleError> {
        let mut by_metric: HashMap<String, Vec<Rule>> = HashMap::new();
        for (index, rule) in rules.into_iter().enumerate() {
            check(index, &rule)?;
            by_metric.entry(rule.metric.clone()).or_default().push(rule);
        }
        Ok(Self { by_metric })
    }

    /// Whether nothing is taken in.
    pub fn is_empty(&self) -> bool {
        self.by_metric.is_empty()
    }

    /// The first rule that a series fits.
    pub(super) fn find<'a>(
        &self,
        metric: &str,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<&Rule> {
        self.by_metric.get(metric)?.iter().find(|rule| {
            let fits = |(name, wanted): (&String, &String)| label(name) == Some(wanted.as_str());
            rule.labels.iter().all(fits)
        })
    }
}

fn check(index: usize, rule: &Rule) -> Result<(), RuleError> {
    let wrong = |field, value: String, allowed| {
        Err(RuleError {
            index,
            field,
            value,
            allowed,
        })
    };
    if index >= MOST {
        return wrong("series", "more".to_owned(), "at most 256 of them");
    }
    for (field, text) in [("metric", &rule.metric), ("instance", &rule.instance)] {
        if text.is_empty() || text.len() > LONGEST {
            return wrong(field, format!("{text:?}"), "1 to 256 bytes");
        }
    }
    if !rule.factor.is_finite() || rule.factor <= 0.0 {
        return wrong("factor", rule.factor.to_string(), "a number above 0");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Resource;

    fn rule() -> Rule {
        Rule {
            metric: "cpu_seconds_total".to_owned(),
            instance: "pod".to_owned(),
            quantity: Quantity::Demand(Resource::Cpu),
            counter: true,
            factor: 1_000.0,
            labels: [("container".to_owned(), "app".to_owned())].into(),
        }
    }

    #[test]
    fn a_series_must_have_the_labels_that_are_asked_for() {
        let rules = Rules::new(vec![rule()]).unwrap();
        let fits = |metric: &str, value: &'static str| {
            let label = |name: &str| (name == "container").then_some(value);
            rules.find(metric, label).is_some()
        };
        assert!(fits("cpu_seconds_total", "app"));
        assert!(!fits("cpu_seconds_total", "sidecar"));
        assert!(!fits("memory_bytes", "app"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_the_field() {
        let field = |change: &dyn Fn(&mut Rule)| {
            let mut changed = rule();
            change(&mut changed);
            Rules::new(vec![rule(), changed]).unwrap_err()
        };
        assert_eq!(field(&|rule| rule.metric.clear()).field, "metric");
        assert_eq!(field(&|rule| rule.instance.clear()).field, "instance");
        for factor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = field(&|rule| rule.factor = factor);
            assert_eq!((error.index, error.field), (1, "factor"));
        }
        assert_eq!(Rules::new(vec![rule(); 257]).unwrap_err().field, "series");
    }
}
