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
/// All that are remembered are looked through for room once for so many that come when there is none.
const PER_SWEEP: usize = 50_000;
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
    /// Points of a time that has not come.
    pub future: u64,
}

impl Sieved {
    /// Every outcome with its name in metrics.
    pub const fn outcomes(&self) -> [(&'static str, u64); 8] {
        [
            ("unknown", self.unknown),
            ("ended", self.ended),
            ("unnamed", self.unnamed),
            ("ambiguous", self.ambiguous),
            ("reset", self.resets),
            ("first", self.firsts),
            ("stale", self.stale),
            ("future", self.future),
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
        self.future += more.future;
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
    voices: Voices,
}

impl Sieve {
    /// A sieve for histories of this step.
    pub fn new(rules: Rules, step_ms: u64) -> Self {
        Self {
            rules,
            patience_ms: PATIENCE_MS.max(step_ms.saturating_mul(PATIENCE_STEPS)),
            voices: Voices::default(),
        }
    }

    /// Whether nothing is taken in.
    pub fn is_closed(&self) -> bool {
        self.rules.is_empty()
    }

    /// Adds the samples that a series' points make; says what became of the others. What is later
    /// than `now_ms` by more than the patience says nothing: it would be the newest for ever.
    pub fn take(
        &mut self,
        metric: &str,
        labels: &[(&str, &str)],
        points: &[Point],
        now_ms: u64,
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
        let latest = now_ms.saturating_add(self.patience_ms);
        let has_come = |point: &&Point| point.at_ms <= latest;
        let Some(newest) = { points.iter().filter(has_come) }
            .map(|one| one.at_ms)
            .max()
        else {
            sieved.future = points.len() as u64;
            return sieved;
        };
        let (hash, patience_ms) = (hash(metric, labels), self.patience_ms);
        let Some(voice) = self.voices.of(&key, hash, newest, patience_ms) else {
            sieved.ambiguous = 1;
            return sieved;
        };
        for point in points {
            if !has_come(&point) {
                sieved.future += 1;
                continue;
            }
            // Of Prometheus: the series has ended. Any other NaN says nothing either.
            if point.value.is_nan() {
                sieved.ended += 1;
                continue;
            }
            voice.heard_ms = voice.heard_ms.max(point.at_ms);
            let Some(value) = value(rule, voice, point, patience_ms, &mut sieved) else {
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

/// Who speaks for which target.
#[derive(Debug, Default)]
struct Voices {
    known: HashMap<(InstanceId, Quantity), Voice>,
    /// New targets that came when there was no room.
    came_when_full: usize,
}

impl Voices {
    /// The voice of a target, if the series of these labels is it, or takes its place.
    fn of(
        &mut self,
        key: &(InstanceId, Quantity),
        labels: u64,
        newest: u64,
        patience_ms: u64,
    ) -> Option<&mut Voice> {
        let is_silent = |voice: &Voice| newest.saturating_sub(voice.heard_ms) > patience_ms;
        if self.known.len() >= MOST && !self.known.contains_key(key) {
            if self.came_when_full.is_multiple_of(PER_SWEEP) {
                self.known.retain(|_, voice| !is_silent(voice));
            }
            self.came_when_full += 1;
            if self.known.len() >= MOST {
                return None;
            }
        }
        let fresh = Voice {
            labels,
            heard_ms: 0,
            meter: None,
        };
        let voice = self.known.entry(key.clone()).or_insert(fresh);
        if voice.labels != labels {
            if !is_silent(voice) {
                return None;
            }
            *voice = fresh;
        }
        Some(voice)
    }
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

    const NOW: u64 = 1_000_000;

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
        let sieved = sieve.take("cpu", &labels, &given, NOW, &mut out);
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
        assert_eq!(
            sieve
                .take("cpu", &first, &at(1_000), NOW, &mut out)
                .ambiguous,
            0
        );
        assert_eq!(
            sieve
                .take("cpu", &second, &at(2_000), NOW, &mut out)
                .ambiguous,
            1
        );
        // The same labels in another order are the same series.
        let turned = [("cpu", "0"), ("pod", "a1")];
        assert_eq!(
            sieve
                .take("cpu", &turned, &at(3_000), NOW, &mut out)
                .ambiguous,
            0
        );
        let late = at(3_000 + PATIENCE_MS + 1);
        assert_eq!(
            sieve.take("cpu", &second, &late, NOW, &mut out).ambiguous,
            0
        );
        assert_eq!(out.len(), 3);
    }

    #[test]
    fn what_no_rule_names_and_names_that_are_none_are_counted() {
        let (mut sieve, mut out) = (sieve(false), Vec::new());
        let one = points(&[(1_000, 1.0)]);
        assert_eq!(sieve.take("memory", &[], &one, NOW, &mut out).unknown, 1);
        for labels in [&[][..], &[("pod", "")][..], &[("pod", "a b")][..]] {
            assert_eq!(sieve.take("cpu", labels, &one, NOW, &mut out).unnamed, 1);
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
        let sieved = sieve.take("cpu", &[("pod", "a1")], &given, NOW, &mut out);
        assert_eq!(values(&out), [(10_000, 2_000.0)]);
        assert_eq!(sieved.firsts, 2);
    }

    #[test]
    fn a_time_that_has_not_come_is_counted_and_holds_up_nothing_that_comes_later() {
        let (mut sieve, mut out) = (sieve(true), Vec::new());
        let labels = [("pod", "a1")];
        let ahead = NOW + PATIENCE_MS + 1;
        let alone = points(&[(ahead, 5.0)]);
        assert_eq!(sieve.take("cpu", &labels, &alone, NOW, &mut out).future, 1);
        let given = points(&[(10_000, 5.0), (u64::MAX, 6.0), (20_000, 7.0)]);
        let sieved = sieve.take("cpu", &labels, &given, NOW, &mut out);
        assert_eq!((sieved.future, sieved.firsts, sieved.stale), (1, 1, 0));
        assert_eq!(values(&out), [(20_000, 200.0)]);
        let other = [("pod", "a1"), ("cpu", "1")];
        let late = points(&[(20_000 + PATIENCE_MS + 1, 1.0)]);
        assert_eq!(sieve.take("cpu", &other, &late, NOW, &mut out).ambiguous, 0);
    }
}
