//! Drift: forecasts that have stopped being honest.
//!
//! A cumulative sum of the logarithmic score (CUSUM; Page, Biometrika 1954) of "the truth lies
//! outside the 80 % interval": under honest forecasts that happens with probability 0.2, under
//! drift with one half. The sum is a supermartingale's logarithm between its returns to zero, so
//! that honest forecasts raise an alarm at most once in about `exp(ALARM)` truths (Shin, Ramdas,
//! Rinaldo, "E-detectors", 2022).

/// The sum at which an alarm is raised: e^9.2 is ten thousand truths.
const ALARM: f32 = 9.2;
const HONEST: f32 = 0.2;
const DRIFTED: f32 = 0.5;

/// Watches one series at one horizon.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cusum {
    sum: f32,
}

impl Cusum {
    /// Learns whether a truth was outside; `true` when that raises an alarm. The sum begins anew
    /// after one.
    pub fn learn(&mut self, outside: bool) -> bool {
        let score = if outside {
            (DRIFTED / HONEST).ln()
        } else {
            ((1.0 - DRIFTED) / (1.0 - HONEST)).ln()
        };
        self.sum = (self.sum + score).max(0.0);
        let alarm = self.sum >= ALARM;
        if alarm {
            self.sum = 0.0;
        }
        alarm
    }

    /// How far the evidence has come: 0 to 1.
    pub fn evidence(&self) -> f64 {
        f64::from(self.sum / ALARM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every n-th truth of a shuffled sequence is outside.
    fn alarms(per_thousand: u32, truths: u32) -> u32 {
        let mut cusum = Cusum::default();
        let mut state = 7_u64;
        let mut found = 0;
        for _ in 0..truths {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let draw = u32::try_from((state >> 33) % 1_000).unwrap();
            found += u32::from(cusum.learn(draw < per_thousand));
        }
        found
    }

    #[test]
    fn honest_forecasts_raise_an_alarm_at_most_once_in_ten_thousand_truths() {
        let found = alarms(200, 200_000);
        assert!(found <= 20, "{found}");
    }

    #[test]
    fn forecasts_that_miss_half_of_the_time_are_found_within_a_hundred_truths() {
        assert!(alarms(500, 10_000) >= 100);
    }
}
