//! A hint that something is wrong now, at every look and not only at the end of an epoch.
//!
//! Sums of log-likelihood ratios against the frozen share, which begin anew at 0 (CUSUM). An alarm
//! decides nothing: it lowers the shadow's weight, which can be taken back, keeps the ramp from
//! going on, and tells the judge on what to bet next. The same sums are kept for the original, so
//! that trouble of both sides is known as such.

use serde::{Deserialize, Serialize};

use super::factor::{Tally, fixed};
use super::mixture::{Exact, Recent, SIZES};

/// Nats at which an alarm is raised, those below which it is over, and the most that is kept.
const RAISED: f64 = 4.0;
const OVER: f64 = 1.0;
const MOST: f64 = 7.0;
/// Nats at which the original is thought ill as well. Less: a look at it lowers nobody's weight.
const SHARED: f64 = 2.0;

/// Who is worse than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Nobody, as far as is known.
    None,
    /// Both sides: nothing is won by going back.
    Shared,
    /// The shadow.
    Shadow,
}

/// One kind of bad request, watched on both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Alarm {
    shadow: Recent,
    original: Recent,
    raised: bool,
    /// The shadow's requests since its sums last were 0: the share of bad ones is what it does now.
    all: u64,
    bad: u64,
    peak: Exact,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self {
            shadow: Recent::new(),
            original: Recent::new(),
            raised: false,
            all: 0,
            bad: 0,
            peak: Exact(0.0),
        }
    }

    pub(super) fn look(&mut self, tally: &Tally, limit: f64) {
        self.all = self.all.saturating_add(tally.shadow);
        self.bad = self.bad.saturating_add(tally.shadow_bad);
        let of_original = tally.of_original();
        for (size, (times, _)) in SIZES.into_iter().enumerate() {
            self.shadow.add(size, fixed(tally, limit, times), MOST);
            self.original
                .add(size, fixed(&of_original, limit, times), MOST);
        }
        let now = self.shadow.leading().1;
        self.peak = Exact(now);
        if now == 0.0 {
            (self.all, self.bad) = (0, 0);
        }
        self.raised = now >= RAISED || self.raised && now >= OVER;
    }

    pub(super) fn trouble(&self) -> Trouble {
        match (self.raised, self.original.leading().1 >= SHARED) {
            (false, _) => Trouble::None,
            (true, true) => Trouble::Shared,
            (true, false) => Trouble::Shadow,
        }
    }

    /// The size of harm to bet on, if the shadow is likely to do any beyond the original's.
    pub(super) fn likely(&self) -> Option<usize> {
        (self.trouble() == Trouble::Shadow).then(|| self.shadow.leading().0)
    }

    /// The share of bad requests since the trouble began.
    pub(super) fn share(&self) -> f64 {
        self.bad as f64 / self.all.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(original_bad: u64, shadow_bad: u64) -> Tally {
        Tally {
            original: 50,
            original_bad,
            shadow: 50,
            shadow_bad,
        }
    }

    #[test]
    fn an_alarm_is_raised_at_once_and_is_over_soon_after_the_trouble() {
        let mut alarm = Alarm::new();
        (0..200).for_each(|_| alarm.look(&tally(0, 0), 0.01));
        assert_eq!(alarm.trouble(), Trouble::None);
        alarm.look(&tally(0, 10), 0.01);
        assert_eq!(alarm.trouble(), Trouble::Shadow);
        assert!(alarm.share() > 0.15);
        let mut looks = 0;
        while alarm.trouble() != Trouble::None {
            alarm.look(&tally(0, 0), 0.01);
            looks += 1;
        }
        assert!(looks < 40, "{looks}");
    }

    #[test]
    fn trouble_of_both_sides_is_known_as_such() {
        let mut alarm = Alarm::new();
        alarm.look(&tally(8, 10), 0.01);
        assert_eq!(alarm.trouble(), Trouble::Shared);
        assert_eq!(alarm.likely(), None);
    }
}
