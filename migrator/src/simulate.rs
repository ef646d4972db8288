//! Simulated traffic, and ramps over it: what a policy does before it is used.
//!
//! Requests arrive as a Poisson process, fail independently, and take lognormal times. Chance comes
//! from a seed. The pilot, the judge and the weights are the ones that run in production.

use domain::migration::{JudgeScope, Verdict};
use domain::{Counts, LATENCY_EDGES_US, RampPlan, Timestamp};

use crate::judge::{Increment, Look, Past, Pilot, Steering};
use crate::settings::JudgeSettings;

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// A row of numbers from a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to 1.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A time from an exponential distribution.
    pub fn waits(&mut self, mean: f64) -> f64 {
        -(1.0 - self.uniform()).ln() * mean
    }

    /// A count from a Poisson distribution.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean >= 12.0 {
            return self.many(mean);
        }
        let floor = (-mean).exp();
        let (mut sum, mut product) = (0, self.uniform());
        while product > floor {
            sum += 1;
            product *= self.uniform();
        }
        sum
    }

    /// A count from a Poisson distribution with a large mean, by transformed rejection (Hörmann
    /// 1993, PTRS): the time it takes does not grow with the mean.
    fn many(&mut self, mean: f64) -> u64 {
        let b = 0.931 + 2.53 * mean.sqrt();
        let a = 0.024_83 * b - 0.059;
        let steep = 1.1239 + 1.1328 / (b - 3.4);
        let quick = 0.9277 - 3.6224 / (b - 2.0);
        let ln_mean = mean.ln();
        loop {
            let u = self.uniform() - 0.5;
            let v = self.uniform();
            let inside = 0.5 - u.abs();
            let count = ((2.0 * a / inside + b) * u + mean + 0.43).floor();
            if count < 0.0 || (inside < 0.013 && v > inside) {
                continue;
            }
            let surely = inside >= 0.07 && v <= quick;
            let height = || (v * steep / (a / (inside * inside) + b)).ln();
            if surely || height() <= count * ln_mean - mean - ln_factorial(count) {
                return whole(count);
            }
        }
    }

    /// How many of `n` succeed, each with probability `p`.
    pub fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if p <= 0.0 || n == 0 {
            return 0;
        }
        if p >= 1.0 {
            return n;
        }
        // Gaps between successes are geometric.
        let rest = (1.0 - p).ln();
        let (mut at, mut found) = (0.0, 0);
        loop {
            at += ((1.0 - self.uniform()).ln() / rest).floor() + 1.0;
            if at > n as f64 {
                return found;
            }
            found += 1;
        }
    }
}

/// `ln n!` for a whole `n`, by Stirling's series where that is exact enough.
fn ln_factorial(n: f64) -> f64 {
    if n < 10.0 {
        let factors = std::iter::successors(Some(2.0), |k| Some(k + 1.0));
        return factors.take_while(|k| *k <= n).map(f64::ln).sum();
    }
    let x = n + 1.0;
    (x - 0.5) * x.ln() - x + 0.918_938_533_204_672_7 + 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of requests"
)]
fn whole(count: f64) -> u64 {
    count.max(0.0) as u64
}

/// Times a second that data planes report on an instance under migration with so many requests a
/// second: every 250 ms by default, and twice or four times as often where more than a hundred come
/// in between.
pub fn reports(rate: f64) -> u32 {
    if rate >= 800.0 {
        16
    } else if rate >= 400.0 {
        8
    } else {
        4
    }
}

/// Latencies as the shares of the histogram's buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct Latencies(Vec<f64>);

impl Latencies {
    /// Lognormal with median 5 ms times `factor` and sigma 0.8; a share `stalls` takes two seconds.
    pub fn new(factor: f64, stalls: f64) -> Self {
        let mut shares = Vec::new();
        let mut before = 0.0;
        for edge in LATENCY_EDGES_US {
            let below = normal((edge as f64 / (5_000.0 * factor)).ln() / 0.8);
            shares.push((below - before) * (1.0 - stalls));
            before = below;
        }
        shares.push((1.0 - before) * (1.0 - stalls));
        let stalled = LATENCY_EDGES_US.partition_point(|&edge| edge < 2_000_000);
        shares[stalled] += stalls;
        Self(shares)
    }

    /// The share that is slower than an edge.
    pub fn slower_than(&self, edge_us: u64) -> f64 {
        let first = LATENCY_EDGES_US.partition_point(|&edge| edge <= edge_us);
        self.0.iter().skip(first).sum()
    }

    /// The first edge that at most one in a hundred is slower than.
    pub fn last_hundredth(&self) -> u64 {
        let found = LATENCY_EDGES_US
            .into_iter()
            .find(|edge| self.slower_than(*edge) <= 0.01);
        found.unwrap_or(u64::MAX)
    }
}

/// The normal distribution function (Abramowitz and Stegun 26.2.17, error below 1e-7).
fn normal(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let series = [
        0.319_381_53,
        -0.356_563_782,
        1.781_477_937,
        -1.821_255_978,
        1.330_274_429,
    ];
    let sum = series.iter().rev().fold(0.0, |sum, c| (sum + c) * t);
    let tail = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum;
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// What one side does to requests.
#[derive(Debug, Clone)]
pub struct Side<'a> {
    /// Share that fails.
    pub errors: f64,
    /// How long they take.
    pub latencies: &'a Latencies,
}

impl Dice {
    /// What a side answers in a time in which `mean` requests are expected.
    pub fn serve(&mut self, mean: f64, side: &Side<'_>) -> Counts {
        let mut counts = Counts::default();
        if mean <= 0.0 {
            return counts;
        }
        // The parts of a Poisson process are Poisson processes.
        let mut all = 0;
        if mean < 60.0 {
            all = self.poisson(mean);
            for _ in 0..all {
                let mut u = self.uniform();
                let bucket = side.latencies.0.iter().position(|share| {
                    u -= share;
                    u < 0.0
                });
                counts.latency.add(bucket.unwrap_or(usize::MAX), 1);
            }
        } else {
            for (bucket, share) in side.latencies.0.iter().enumerate() {
                if share * mean > 1e-9 {
                    let some = self.poisson(share * mean);
                    counts.latency.add(bucket, some);
                    all += some;
                }
            }
        }
        counts.error = self.binomial(all, side.errors);
        counts.success = all - counts.error;
        counts
    }
}

/// How a simulated ramp stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was rolled back.
    RolledBack,
    /// The shadow has everything, for good.
    Promoted,
}

/// A ramp under our rule, look by look.
#[derive(Debug, Clone)]
pub struct Ramp {
    settings: JudgeSettings,
    pilot: Pilot,
    stage: usize,
    now_ms: u64,
    reason: String,
}

impl Ramp {
    /// Begins with a baseline; `rate` requests a second were seen before.
    ///
    /// # Errors
    /// The setting that is out of its range, in words.
    pub fn begin(
        plan: RampPlan,
        baseline: Counts,
        rate: f64,
        settings: JudgeSettings,
    ) -> Result<Self, String> {
        let past = Past {
            baseline,
            ..Past::default()
        };
        let mut pilot = Pilot::begin(plan, past, rate, &settings)?;
        pilot.enter(JudgeScope::Stage { stage: 0 }, 0, &settings);
        Ok(Self {
            settings,
            pilot,
            stage: 0,
            now_ms: 0,
            reason: String::new(),
        })
    }

    /// The shadow's share now.
    pub fn share(&self) -> f64 {
        f64::from(self.pilot.weight()) / 10_000.0
    }

    /// Why it ended, or waits.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Who is ill just now, and the share of requests that are bad since then.
    pub fn alarm(&self) -> (crate::judge::Trouble, f64) {
        self.pilot.judge().alarm()
    }

    /// The evidence of harm, `ln E`.
    pub fn ln(&self) -> f64 {
        f64::from_bits(self.pilot.ln_bits())
    }

    /// The stage that it is in.
    pub const fn stage(&self) -> usize {
        self.stage
    }

    /// Takes in what was reported after some time.
    pub fn look(&mut self, passed_ms: u64, original: Counts, shadow: Counts) -> Option<End> {
        self.now_ms += passed_ms;
        let look = Look {
            at_ms: self.now_ms,
            clock: Timestamp(self.now_ms),
            more: Increment {
                original,
                shadow,
                ..Increment::default()
            },
            age_ms: 0,
            applied: true,
            steering: Steering::default(),
            guard: None,
        };
        let answer = self.pilot.look(&look, &self.settings);
        match answer.verdict {
            Verdict::Rollback { reason } => {
                self.reason = reason;
                Some(End::RolledBack)
            }
            Verdict::Promote { reason } => {
                self.reason = reason;
                self.advance()
            }
            Verdict::Hold { reason } | Verdict::Inconclusive { reason } => {
                self.reason = reason;
                None
            }
        }
    }

    fn advance(&mut self) -> Option<End> {
        let stages = self.pilot.plan().stages().len();
        self.stage += 1;
        if self.stage >= stages {
            return Some(End::Promoted);
        }
        let scope = if self.stage + 1 == stages {
            JudgeScope::Soak
        } else {
            JudgeScope::Stage { stage: self.stage }
        };
        self.pilot.enter(scope, self.now_ms, &self.settings);
        None
    }
}

/// What a policy is tried on.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// Requests a second.
    pub rate: f64,
    /// Share of failures in health.
    pub errors: f64,
    /// Share of failures of the bad shadow.
    pub bad_errors: f64,
    /// Factor on the bad shadow's latencies.
    pub bad_slower: f64,
    /// Ramps of each kind.
    pub ramps: u32,
    /// Seed.
    pub seed: u64,
}

/// What a policy does.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Tried {
    /// Ramps of each kind.
    pub ramps: u32,
    /// Good shadows that were rolled back, in percent, and between what that is with 95 %.
    pub false_roll_backs: f64,
    /// See there.
    pub false_between: (f64, f64),
    /// Good shadows that got everything within the time, in percent.
    pub promoted: f64,
    /// Median seconds until then.
    pub promoted_s: Option<f64>,
    /// Bad shadows that were rolled back, in percent.
    pub caught: f64,
    /// Median seconds until then.
    pub caught_s: Option<f64>,
    /// Mean and 95th percentile of bad answers beyond those of the original.
    pub excess: (f64, f64),
}

/// Tries a policy on simulated ramps of at most an hour.
///
/// # Errors
/// The setting that is out of its range, in words.
pub fn attempt(plan: &RampPlan, settings: JudgeSettings, trial: Trial) -> Result<Tried, String> {
    let healthy = Latencies::new(1.0, 0.0);
    let slow = Latencies::new(trial.bad_slower, 0.0);
    let good = Side {
        errors: trial.errors,
        latencies: &healthy,
    };
    let bad = Side {
        errors: trial.bad_errors.min(1.0),
        latencies: &slow,
    };
    let (mut promoted, mut caught, mut excess) = (Vec::new(), Vec::new(), Vec::new());
    let mut wrong = 0_u32;
    for number in 0..trial.ramps {
        let seed = trial.seed.wrapping_add(u64::from(number) * 1_000_003);
        let (end, after, _) = one(plan, settings, trial.rate, (&good, &good), seed)?;
        match end {
            Some(End::RolledBack) => wrong += 1,
            Some(End::Promoted) => promoted.push(after),
            None => {}
        }
        let (end, after, harm) = one(plan, settings, trial.rate, (&good, &bad), seed ^ 0x5eed)?;
        excess.push(harm);
        if end == Some(End::RolledBack) {
            caught.push(after);
        }
    }
    let share = |count: usize| 100.0 * count as f64 / f64::from(trial.ramps.max(1));
    let mean = excess.iter().sum::<f64>() / f64::from(trial.ramps.max(1));
    Ok(Tried {
        ramps: trial.ramps,
        false_roll_backs: 100.0 * f64::from(wrong) / f64::from(trial.ramps.max(1)),
        false_between: between(f64::from(wrong), f64::from(trial.ramps.max(1))),
        promoted: share(promoted.len()),
        promoted_s: quantile(&mut promoted, 50),
        caught: share(caught.len()),
        caught_s: quantile(&mut caught, 50),
        excess: (mean, quantile(&mut excess, 95).unwrap_or(0.0)),
    })
}

/// One ramp: how it ended, after how many seconds, and the harm done.
fn one(
    plan: &RampPlan,
    settings: JudgeSettings,
    rate: f64,
    (original, shadow): (&Side<'_>, &Side<'_>),
    seed: u64,
) -> Result<(Option<End>, f64, f64), String> {
    let reports = reports(rate);
    let (looks, part) = (3_600 * reports, 1.0 / f64::from(reports));
    let mut dice = Dice::new(seed);
    let mut baseline = Counts::default();
    (0..60).for_each(|_| baseline.merge(&dice.serve(rate * 10.0, original)));
    let mut ramp = Ramp::begin(plan.clone(), baseline, rate, settings)?;
    let mut harm = 0.0;
    for look in 1..=looks {
        let share = ramp.share();
        let on_original = dice.serve(rate * (1.0 - share) * part, original);
        let on_shadow = dice.serve(rate * share * part, shadow);
        harm += on_shadow.error as f64 - original.errors * on_shadow.ended() as f64;
        if let Some(end) = ramp.look(u64::from(1_000 / reports), on_original, on_shadow) {
            return Ok((Some(end), f64::from(look) * part, harm));
        }
    }
    Ok((None, f64::from(looks) * part, harm))
}

fn quantile(values: &mut [f64], percent: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let index = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(index).copied()
}

/// Wilson's interval at 95 %, in percent.
fn between(found: f64, of: f64) -> (f64, f64) {
    let z = 1.96_f64;
    let centre = (found + z * z / 2.0) / (of + z * z);
    let half = z / (of + z * z) * (found * (of - found) / of + z * z / 4.0).sqrt();
    (100.0 * (centre - half).max(0.0), 100.0 * (centre + half))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and variance of a Poisson count are both its mean; its distribution is checked at three
    /// places against the exact one.
    #[test]
    fn large_counts_are_poisson() {
        let mut dice = Dice::new(7);
        for mean in [12.0_f64, 40.0, 3_000.0] {
            let n = 40_000_u32;
            let counts: Vec<f64> = (0..n).map(|_| dice.poisson(mean) as f64).collect();
            let average = counts.iter().sum::<f64>() / f64::from(n);
            let spread = counts.iter().map(|c| (c - average).powi(2)).sum::<f64>() / f64::from(n);
            assert!(
                (average - mean).abs() < 4.0 * (mean / f64::from(n)).sqrt(),
                "{average}"
            );
            assert!((spread / mean - 1.0).abs() < 0.05, "{spread} of {mean}");
            let mut below = 0.0;
            let mut count = 0.0;
            for sigmas in [-1.5, 0.0, 1.5] {
                while count <= mean + sigmas * mean.sqrt() {
                    below += (count * mean.ln() - mean - ln_factorial(count)).exp();
                    count += 1.0;
                }
                let found = counts.iter().filter(|c| **c < count).count();
                let found = found as f64 / f64::from(n);
                assert!((found - below).abs() < 0.012, "{found} {below} of {mean}");
            }
        }
    }

    #[test]
    fn counts_come_at_their_rates() {
        let mut dice = Dice::new(1);
        let latencies = Latencies::new(1.0, 0.1);
        let side = Side {
            errors: 0.2,
            latencies: &latencies,
        };
        for mean in [3.0, 500.0] {
            let mut sum = Counts::default();
            (0..400).for_each(|_| sum.merge(&dice.serve(mean, &side)));
            let all = sum.ended() as f64;
            assert!((all / (400.0 * mean) - 1.0).abs() < 0.1, "{all} at {mean}");
            assert!((sum.error as f64 / all - 0.2).abs() < 0.03);
            let stalled = sum.latency.slower_than(1_024_000) as f64;
            assert!((stalled / all - 0.1).abs() < 0.03);
            assert_eq!(sum.latency.total(), sum.ended());
        }
    }

    #[test]
    fn a_trial_tells_a_good_from_a_bad_shadow() {
        let plan = RampPlan::budgeted(domain::HarmBudget::default(), 20_000);
        let trial = Trial {
            rate: 40.0,
            errors: 0.001,
            bad_errors: 0.2,
            bad_slower: 1.0,
            ramps: 12,
            seed: 5,
        };
        let tried = attempt(&plan, JudgeSettings::default(), trial).unwrap();
        assert_eq!((tried.false_roll_backs, tried.caught), (0.0, 100.0));
        assert!(tried.promoted > 80.0 && tried.excess.0 < 15.0, "{tried:?}");
    }
}
