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
        // Sums of Poisson counts are Poisson: what is large is taken in pieces.
        let pieces = (mean / 40.0).ceil().max(1.0);
        let floor = (-mean / pieces).exp();
        let (mut sum, mut left) = (0, pieces);
        while left > 0.5 {
            let mut product = self.uniform();
            while product > floor {
                sum += 1;
                product *= self.uniform();
            }
            left -= 1.0;
        }
        sum
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
        let past = Past { baseline };
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
                trouble: None,
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
