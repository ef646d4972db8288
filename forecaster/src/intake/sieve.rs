//! Samples from the metrics of others: what the rules name, as rates where they count.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::AddAssign;

use domain::{InstanceId, Timestamp};

use super::meter::{Meter, Read};
use super::rules::{Rule, Rules};
use super::{Quantity, Sample};

/// Most targets that are remembered: as many as the history has room for, with activity.
const MOST: usize = 500_000;
/// How long a series must be silent before another one takes its place, and the longest silence
/// that a counter is averaged over.
const PATIENCE_MS: u64 = 300_000;
/// Steps for the same, where those are longer.
const PATIENCE_STEPS: u64 = 2;

/// A value of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// The value.
    pub value: f64,
    /// When a counter began to count, in milliseconds since the epoch; 0 if that is not told.
    pub since_ms: u64,
    /// Whether the value is what was counted since then alone, and not since the beginning.
    pub delta: bool,
}

/// What became of the points of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sieved {
    /// Series that no rule names.
    pub unknown: u64,
    /// Points that said that their series ended.
    pub ended: u64,
    /// Series whose instance has a name that cannot be one, or none.
    pub unnamed: u64,
    /// Series that were not the first for their instance and quantity.
    pub ambiguous: u64,
    /// Counters that began anew.
    pub resets: u64,
    /// First values of counters, and first after a long silence.
    pub firsts: u64,
    /// Repeated or older values of counters.
    pub stale: u64,
}

impl Sieved {
    /// Every outcome with its name in metrics.
    pub const fn outcomes(&self) -> [(&'static str, u64); 7] {
        [
            ("unknown", self.unknown),
            ("ended", self.ended),
            ("unnamed", self.unnamed),
            ("ambiguous", self.ambiguous),
            ("reset", self.resets),
            ("first", self.firsts),
            ("stale", self.stale),
        ]
    }
}

impl AddAssign for Sieved {
    fn add_assign(&mut self, more: Self) {
        self.unknown += more.unknown;
        self.ended += more.ended;
        self.unnamed += more.unnamed;
        self.ambiguous += more.ambiguous;
        self.resets += more.resets;
        self.firsts += more.firsts;
        self.stale += more.stale;
    }
}

/// The series that speaks for an instance's quantity.
#[derive(Debug, Clone, Copy)]
struct Voice {
    labels: u64,
    heard_ms: u64,
    meter: Option<Meter>,
}

/// Turns series into samples by rules.
#[derive(Debug)]
pub struct Sieve {
    rules: Rules,
    patience_ms: u64,
    voices: HashMap<(InstanceId, Quantity), Voice>,
}

impl Sieve {
    /// A sieve for histories of this step.
    pub fn new(rules: Rules, step_ms: u64) -> Self {
        Self {
            rules,
            patience_ms: PATIENCE_MS.max(step_ms.saturating_mul(PATIENCE_STEPS)),
            voices: HashMap::new(),
        }
    }

    /// Whether nothing is taken in.
    pub fn is_closed(&self) -> bool {
        self.rules.is_empty()
    }

    /// Adds the samples that a series' points make; says what became of the others.
    pub fn take(
        &mut self,
        metric: &str,
        labels: &[(&str, &str)],
        points: &[Point],
        to: &mut Vec<Sample>,
    ) -> Sieved {
        let mut sieved = Sieved::default();
        let label = |name: &str| {
            let found = labels.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| *value)
        };
        let Some(rule) = self.rules.find(metric, label) else {
            sieved.unknown = 1;
            return sieved;
        };
        let named = label(&rule.instance).and_then(|name| InstanceId::new(name).ok());
        let Some(instance) = named else {
            sieved.unnamed = 1;
            return sieved;
        };
        let key = (instance, rule.quantity);
        let Some(voice) = voice(
            &mut self.voices,
            &key,
            metric,
            labels,
            points,
            self.patience_ms,
        ) else {
            sieved.ambiguous = 1;
            return sieved;
        };
        for point in points {
            // Of Prometheus: the series has ended. Any other NaN says nothing either.
            if point.value.is_nan() {
                sieved.ended += 1;
                continue;
            }
            voice.heard_ms = voice.heard_ms.max(point.at_ms);
            let Some(value) = value(rule, voice, point, self.patience_ms, &mut sieved) else {
                continue;
            };
            to.push(Sample {
                instance: key.0.clone(),
                quantity: rule.quantity,
                at: Timestamp(point.at_ms),
                value: value * rule.factor,
            });
        }
        sieved
    }
}

/// The voice of a target, if this series is it, or takes its place.
fn voice<'a>(
    voices: &'a mut HashMap<(InstanceId, Quantity), Voice>,
    key: &(InstanceId, Quantity),
    metric: &str,
    labels: &[(&str, &str)],
    points: &[Point],
    patience_ms: u64,
) -> Option<&'a mut Voice> {
    let hash = hash(metric, labels);
    let newest = points.iter().map(|point| point.at_ms).max().unwrap_or(0);
    let fresh = Voice {
        labels: hash,
        heard_ms: 0,
        meter: None,
    };
    if voices.len() >= MOST && !voices.contains_key(key) {
        voices.retain(|_, voice| newest.saturating_sub(voice.heard_ms) <= patience_ms);
        if voices.len() >= MOST {
            return None;
        }
    }
    let voice = voices.entry(key.clone()).or_insert(fresh);
    if voice.labels == hash {
        return Some(voice);
    }
    if newest.saturating_sub(voice.heard_ms) > patience_ms {
        *voice = fresh;
        return Some(voice);
    }
    None
}

/// The labels' hash, whatever their order.
fn hash(metric: &str, labels: &[(&str, &str)]) -> u64 {
    let mut sorted = labels.to_vec();
    sorted.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (metric, sorted).hash(&mut hasher);
    hasher.finish()
}

fn value(
    rule: &Rule,
    voice: &mut Voice,
    point: &Point,
    patience_ms: u64,
    sieved: &mut Sieved,
) -> Option<f64> {
    if point.delta {
        let elapsed = point.at_ms.checked_sub(point.since_ms).filter(|ms| *ms > 0);
        let Some(elapsed) = elapsed.filter(|ms| *ms <= patience_ms) else {
            sieved.firsts += 1;
            return None;
        };
        return Some(point.value * 1_000.0 / elapsed as f64);
    }
    if !rule.counter {
        return Some(point.value);
    }
    let (at, since) = (point.at_ms, point.since_ms);
    match Meter::read(&mut voice.meter, at, point.value, since, patience_ms) {
        Read::Rate(rate) => return Some(rate),
        Read::First => sieved.firsts += 1,
        Read::Reset => sieved.resets += 1,
        Read::Stale => sieved.stale += 1,
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Resource;

    fn sieve(counter: bool) -> Sieve {
        let rule = Rule {
            metric: "cpu".to_owned(),
            instance: "pod".to_owned(),
            quantity: Quantity::Demand(Resource::Cpu),
            counter,
            factor: 1_000.0,
            labels: [].into(),
        };
        Sieve::new(Rules::new(vec![rule]).unwrap(), 1_000)
    }

    fn points(values: &[(u64, f64)]) -> Vec<Point> {
        let point = |&(at_ms, value): &(u64, f64)| Point {
            at_ms,
            value,
            since_ms: 0,
            delta: false,
        };
        values.iter().map(point).collect()
    }

    fn values(samples: &[Sample]) -> Vec<(u64, f64)> {
        samples.iter().map(|s| (s.at.0, s.value)).collect()
    }

    #[test]
    fn counters_become_rates_and_a_reset_is_counted_and_says_nothing() {
        let (mut sieve, mut out) = (sieve(true), Vec::new());
        let labels = [("pod", "a1")];
        let given = points(&[
            (10_000, 5.0),
            (20_000, 7.0),
            (20_000, 7.0),
            (30_000, 1.0),
            (40_000, 2.0),
            (50_000, f64::NAN),
        ]);
        let sieved = sieve.take("cpu", &labels, &given, &mut out);
        assert_eq!(values(&out), [(20_000, 200.0), (40_000, 100.0)]);
        assert_eq!((sieved.firsts, sieved.stale), (1, 1));
        assert_eq!((sieved.resets, sieved.ended), (1, 1));
    }

    #[test]
    fn two_series_for_one_target_are_not_mixed_and_a_silent_one_makes_way() {
        let (mut sieve, mut out) = (sieve(false), Vec::new());
        let first = [("pod", "a1"), ("cpu", "0")];
        let second = [("cpu", "1"), ("pod", "a1")];
        let at = |at| points(&[(at, 1.0)]);
        assert_eq!(sieve.take("cpu", &first, &at(1_000), &mut out).ambiguous, 0);
        assert_eq!(
            sieve.take("cpu", &second, &at(2_000), &mut out).ambiguous,
            1
        );
        // The same labels in another order are the same series.
        let turned = [("cpu", "0"), ("pod", "a1")];
        assert_eq!(
            sieve.take("cpu", &turned, &at(3_000), &mut out).ambiguous,
            0
        );
        let late = at(3_000 + PATIENCE_MS + 1);
        assert_eq!(sieve.take("cpu", &second, &late, &mut out).ambiguous, 0);
        assert_eq!(out.len(), 3);
    }

    #[test]
    fn what_no_rule_names_and_names_that_are_none_are_counted() {
        let (mut sieve, mut out) = (sieve(false), Vec::new());
        let one = points(&[(1_000, 1.0)]);
        assert_eq!(sieve.take("memory", &[], &one, &mut out).unknown, 1);
        for labels in [&[][..], &[("pod", "")][..], &[("pod", "a b")][..]] {
            assert_eq!(sieve.take("cpu", labels, &one, &mut out).unnamed, 1);
        }
        assert!(out.is_empty());
    }

    #[test]
    fn a_delta_is_a_rate_over_its_own_interval() {
        let (mut sieve, mut out) = (sieve(true), Vec::new());
        let delta = |at_ms, since_ms| Point {
            at_ms,
            value: 6.0,
            since_ms,
            delta: true,
        };
        let given = [
            delta(10_000, 7_000),
            delta(20_000, 20_000),
            delta(30_000, 31_000),
        ];
        let sieved = sieve.take("cpu", &[("pod", "a1")], &given, &mut out);
        assert_eq!(values(&out), [(10_000, 2_000.0)]);
        assert_eq!(sieved.firsts, 2);
    }
}
