//! Requests by chance.

use domain::{Counts, LATENCY_EDGES_US};

/// SplitMix64.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One second of a Poisson process.
    pub(crate) fn serve(&mut self, rate: f64, errors: f64, latencies: &Latencies) -> Counts {
        let mut counts = Counts::default();
        if rate <= 0.0 {
            return counts;
        }
        let mut time = 0.0;
        loop {
            time -= (1.0 - self.uniform()).ln() / rate;
            if time >= 1.0 {
                return counts;
            }
            if self.uniform() < errors {
                counts.error += 1;
            } else {
                counts.success += 1;
            }
            counts.latency.add(latencies.bucket(self.uniform()), 1);
        }
    }
}

/// Cumulative shares of the histogram's buckets.
pub(crate) struct Latencies(Vec<f64>);

impl Latencies {
    /// Lognormal, median 5 ms times `factor`, sigma 0.8.
    pub(crate) fn new(factor: f64) -> Self {
        let below = |edge: u64| normal((edge as f64 / (5_000.0 * factor)).ln() / 0.8);
        Self(LATENCY_EDGES_US.into_iter().map(below).collect())
    }

    fn bucket(&self, uniform: f64) -> usize {
        self.0.partition_point(|&below| below < uniform)
    }

    /// The first edge that at most one in a hundred is slower than, and that share.
    pub(crate) fn last_hundredth(&self) -> (u64, f64) {
        let found = LATENCY_EDGES_US.into_iter().zip(&self.0);
        found
            .map(|(edge, below)| (edge, 1.0 - below))
            .find(|(_, above)| *above <= 0.01)
            .unwrap_or((u64::MAX, 0.0))
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
