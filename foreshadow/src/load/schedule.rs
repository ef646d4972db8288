//! When to send: a pure function of a rate over time and a seed.
//!
//! Arrivals are drawn in *expected requests* and mapped to time through the integral of the rate,
//! so a change of rate in the middle of a gap is honoured exactly.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// What follows the last step of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// No more requests.
    #[default]
    Stop,
    /// The last rate for good.
    KeepLast,
    /// The first step again.
    StartOver,
}

/// How requests are spread at a given rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Independent clients.
    #[default]
    Poisson,
    /// One request in each interval of the expected length, at a random place in it.
    Jittered,
}

/// Why rates make no curve.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RateError {
    /// A rate is not a number of requests per second.
    #[error("rate {rate} in step {step} is out of range: allowed is 0 to 1000000 per second")]
    Rate {
        /// Which step.
        step: usize,
        /// The rate.
        rate: f64,
    },
    /// There is nothing to follow.
    #[error("a rate curve needs at least one step, longer than 0 s")]
    Empty,
    /// It would go on for ever without a request.
    #[error("a rate curve that goes on after its end needs a rate above 0 there")]
    NeverAgain,
}

/// Highest rate of one stream, per second.
const HIGHEST_RATE: f64 = 1e6;

/// Requests per second over time, in steps of equal length.
#[derive(Debug, Clone, PartialEq)]
pub struct RateCurve {
    rates: Vec<f64>,
    step: Duration,
    after: After,
}

impl RateCurve {
    /// A curve of steps.
    ///
    /// # Errors
    /// [`RateError`] for no steps, steps of no length, and rates that are none.
    pub fn new(rates: Vec<f64>, step: Duration, after: After) -> Result<Self, RateError> {
        if rates.is_empty() || step.is_zero() {
            return Err(RateError::Empty);
        }
        for (step, &rate) in rates.iter().enumerate() {
            if !(0.0..=HIGHEST_RATE).contains(&rate) {
                return Err(RateError::Rate { step, rate });
            }
        }
        let is_silent = match after {
            After::Stop => false,
            After::KeepLast => rates.last().is_some_and(|&rate| rate <= 0.0),
            After::StartOver => rates.iter().all(|&rate| rate <= 0.0),
        };
        if is_silent {
            Err(RateError::NeverAgain)
        } else {
            Ok(Self { rates, step, after })
        }
    }

    /// One rate for good.
    ///
    /// # Errors
    /// [`RateError`] for a rate that is none.
    pub fn constant(rate: f64) -> Result<Self, RateError> {
        Self::new(vec![rate], Duration::from_secs(1), After::KeepLast)
    }

    /// Samples a function of the time since the start.
    ///
    /// # Errors
    /// As [`RateCurve::new`].
    pub fn sampled(
        rate: impl Fn(Duration) -> f64,
        steps: u32,
        step: Duration,
        after: After,
    ) -> Result<Self, RateError> {
        Self::new(
            (0..steps).map(|index| rate(step * index)).collect(),
            step,
            after,
        )
    }

    /// The rate in a step; `None` after the end.
    fn rate(&self, step: usize) -> Option<f64> {
        let last = self.rates.len() - 1;
        match self.after {
            After::Stop => self.rates.get(step).copied(),
            After::KeepLast => self.rates.get(step.min(last)).copied(),
            After::StartOver => self.rates.get(step % self.rates.len()).copied(),
        }
    }
}

/// Send times since the start, in order.
#[derive(Debug)]
pub struct Schedule {
    curve: RateCurve,
    arrivals: Arrivals,
    random: StdRng,
    /// Where the walk along the curve is.
    step: usize,
    /// Seconds into the step.
    within: f64,
    /// With [`Arrivals::Jittered`]: how much of its interval the last request had used up.
    used: f64,
}

impl Schedule {
    /// The schedule of a curve; the same for the same seed.
    pub fn new(curve: RateCurve, arrivals: Arrivals, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self {
            curve,
            arrivals,
            random,
            step: 0,
            within: 0.0,
            used: 1.0,
        }
    }

    /// Expected requests until the next one.
    fn gap(&mut self) -> f64 {
        let uniform: f64 = self.random.random();
        match self.arrivals {
            // 1 - u lies in (0, 1], whose logarithm is finite.
            Arrivals::Poisson => -(1.0 - uniform).ln(),
            Arrivals::Jittered => {
                let gap = (1.0 - self.used) + uniform;
                self.used = uniform;
                gap
            }
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        // Jittered begins with a full interval behind it.
        let mut left = self.gap();
        let length = self.curve.step.as_secs_f64();
        loop {
            let rate = self.curve.rate(self.step)?;
            let here = rate * (length - self.within);
            if left <= here && rate > 0.0 {
                self.within += left / rate;
                let at = self.step as f64 * length + self.within;
                return Duration::try_from_secs_f64(at).ok();
            }
            left -= here.max(0.0);
            self.step += 1;
            self.within = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second() -> Duration {
        Duration::from_secs(1)
    }

    #[test]
    fn the_same_seed_makes_the_same_schedule_and_another_does_not() {
        let curve = RateCurve::new(vec![50.0, 5.0, 100.0], second(), After::Stop).unwrap();
        for arrivals in [Arrivals::Poisson, Arrivals::Jittered] {
            let times = |seed| Schedule::new(curve.clone(), arrivals, seed).collect::<Vec<_>>();
            assert_eq!(times(1), times(1));
            assert_ne!(times(1), times(2));
        }
    }

    #[test]
    fn a_step_without_requests_has_none() {
        let curve = RateCurve::new(vec![20.0, 0.0, 20.0], second(), After::Stop).unwrap();
        let times: Vec<_> = Schedule::new(curve, Arrivals::Poisson, 3).collect();
        assert!(
            times
                .iter()
                .all(|time| !(1.0..2.0).contains(&time.as_secs_f64()))
        );
        assert!(times.iter().any(|time| time.as_secs_f64() > 2.0));
    }

    #[test]
    fn a_curve_starts_over_or_keeps_its_last_rate() {
        for (after, expected) in [(After::StartOver, 3_000.0), (After::KeepLast, 1_020.0)] {
            let curve = RateCurve::new(vec![50.0, 10.0], second(), after).unwrap();
            let times = Schedule::new(curve, Arrivals::Jittered, 7);
            let count = times
                .take_while(|time| *time < Duration::from_secs(100))
                .count();
            let error = (count as f64 - expected).abs();
            assert!(error <= 30.0, "{after:?}: {count}");
        }
    }

    #[test]
    fn rates_that_are_none_are_refused_by_step() {
        let error = RateCurve::new(vec![1.0, -2.0], second(), After::Stop).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("rate -2 in step 1 is out of range"),
            "{error}"
        );
        assert!(RateCurve::new(vec![f64::NAN], second(), After::Stop).is_err());
        assert_eq!(RateCurve::constant(0.0), Err(RateError::NeverAgain));
    }

    proptest! {
        #[test]
        fn the_rate_integrates_to_the_count(
            rates in prop::collection::vec(0.0_f64..300.0, 1..30),
            step_ms in 50_u64..3_000,
            seed in any::<u64>(),
        ) {
            let step = Duration::from_millis(step_ms);
            let expected: f64 = rates.iter().map(|rate| rate * step.as_secs_f64()).sum();
            let curve = RateCurve::new(rates, step, After::Stop).unwrap();
            let even = Schedule::new(curve.clone(), Arrivals::Jittered, seed);
            let times: Vec<Duration> = even.collect();
            prop_assert!((times.len() as f64 - expected).abs() <= 1.0, "{} {expected}", times.len());
            prop_assert!(times.is_sorted());
            // Six standard deviations.
            let poisson = Schedule::new(curve, Arrivals::Poisson, seed).count() as f64;
            prop_assert!((poisson - expected).abs() <= 6.0 * expected.sqrt() + 10.0);
        }
    }
}
