//! A hint that something is wrong now, at every look and not only at the end of an epoch.
//!
//! Sums of log-likelihood ratios against the frozen share, which begin anew at 0 (CUSUM). An alarm
//! decides nothing: it lowers the shadow's weight, which can be taken back, keeps the ramp from
//! going on, and tells the judge on what to bet next. The same sums are kept for the original, so
//! that trouble of both sides is known as such.

use serde::{Deserialize, Serialize};

use super::factor::{Fixed, Tally};
use super::mixture::{Exact, Ladder, Recent, SIZES};

/// Nats at which an alarm is raised, those below which it is over, and the most that is kept.
const RAISED: f64 = 5.0;
const OVER: f64 = 1.0;
/// More is asked where more requests fail by chance: each may be the first of a few that come close
/// together, and an alarm that was none costs evidence and traffic.
const PER_CHANCE: f64 = 0.5;
/// The most that it takes to raise one.
const HIGHEST: f64 = 7.5;
const MOST: f64 = 8.0;
/// Nats at which the original is thought ill as well.
const SHARED: f64 = 5.0;
/// Nats against the original doing what the shadow does, from which on its trouble, if it has any,
/// is another.
const APART: f64 = -0.5;
/// The most that is told of a size, in nats.
const SURE: f64 = 30.0;
/// Smaller harm raises no alarm: to know it takes longer than to do something about it.
const FIRST_SIZE: usize = 2;
/// So many bad requests in one look tell their share.
const MANY: u64 = 4;
/// How much of that is left with every look after it.
const FADES: f64 = 0.7;

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

/// One kind of bad request, watched on one side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Watch {
    recent: Recent,
    /// The size of harm that raised the alarm: when it is unlikely again, so is the rest.
    raised: Option<usize>,
    /// Requests since the sums last were 0: the share of bad ones is what the side does now.
    all: u64,
    bad: u64,
    /// What the other side had beside them.
    #[serde(default)]
    beside: u64,
    #[serde(default)]
    beside_bad: u64,
    /// Share of bad requests in the last look that had many: the sums may have begun long before.
    latest: Exact,
}

impl Watch {
    fn new() -> Self {
        Self {
            recent: Recent::new(),
            raised: None,
            all: 0,
            bad: 0,
            beside: 0,
            beside_bad: 0,
            latest: Exact(0.0),
        }
    }

    /// Takes in a look at what `tally` says of the shadow.
    /// An alarm is raised at `raised_at`, and begins with `kept` more than was seen.
    fn look(
        &mut self,
        tally: &Tally,
        (limit, factors): (f64, &[Fixed]),
        (raised_at, kept): (f64, f64),
    ) {
        self.all = self.all.saturating_add(tally.shadow);
        self.bad = self.bad.saturating_add(tally.shadow_bad);
        self.beside = self.beside.saturating_add(tally.original);
        self.beside_bad = self.beside_bad.saturating_add(tally.original_bad);
        self.latest = Exact(if tally.shadow_bad >= MANY {
            tally.shadow_bad as f64 / tally.shadow.max(1) as f64
        } else {
            self.latest.0 * FADES
        });
        for (size, factor) in factors.iter().enumerate().skip(FIRST_SIZE) {
            self.recent.add(size, factor.ln(tally), MOST);
        }
        let (_, most) = self.recent.leading();
        let size = self.size(limit);
        let over = |size: usize| self.recent.of(size) < OVER;
        if most == 0.0 || self.raised.is_some_and(over) {
            *self = Self {
                latest: self.latest,
                ..Self::new()
            };
        } else if most >= raised_at && self.bad > 1 && self.raised.is_none_or(|at| at < size) {
            // One bad request alone is no trouble.
            self.raised = Some(size);
            self.recent.add(size, kept, MOST);
        }
    }

    /// Whether the other side has not done, beside this one's trouble, what this one did. Two of its
    /// requests that failed by chance a second ago look like trouble until many have not.
    fn apart(&self, limit: f64) -> bool {
        let share = self.bad as f64 / self.all.max(1) as f64;
        if share <= limit {
            return false;
        }
        let share = share.min(0.999);
        let good = self.beside.saturating_sub(self.beside_bad) as f64;
        let bad = self.beside_bad as f64;
        let like = bad * (share / limit).ln() + good * ((1.0 - share) / (1.0 - limit)).ln();
        like <= APART
    }

    /// The largest size of harm that the share of bad requests since the trouble began comes to, or
    /// nearly so.
    fn size(&self, limit: f64) -> usize {
        const NEARLY: f64 = 1.2;
        let odds = |share: f64| share / (1.0 - share);
        let share = self.bad as f64 / (self.all as f64 + 1.0);
        let times = NEARLY * odds(share) / odds(limit);
        let reached = SIZES.into_iter().rposition(|(size, _)| size <= times);
        reached.map_or(FIRST_SIZE, |size| size.max(FIRST_SIZE))
    }
}

/// One kind of bad request, watched on both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Alarm {
    shadow: Watch,
    original: Watch,
    /// Whether what the original did beside the shadow's trouble speaks against one that both share.
    #[serde(default)]
    apart: bool,
    #[serde(skip)]
    ladder: Ladder,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self {
            shadow: Watch::new(),
            original: Watch::new(),
            apart: false,
            ladder: Ladder::default(),
        }
    }

    /// `rate` is how many requests a second both sides have had in all; 0 if that is not known.
    pub(super) fn look(&mut self, tally: &Tally, limit: f64, rate: f64) {
        let factors = self.ladder.at(limit);
        let raised = (RAISED + PER_CHANCE * (rate * limit).ln_1p()).min(HIGHEST);
        // It takes as much to be over as if it had been for long: what was seen so far is little.
        self.shadow.look(tally, (limit, factors), (raised, MOST));
        let original = tally.of_original();
        self.original
            .look(&original, (limit, factors), (SHARED, 0.0));
        self.apart = self.shadow.apart(limit);
    }

    pub(super) const fn trouble(&self) -> Trouble {
        match (self.shadow.raised, self.original.raised) {
            (None, _) => Trouble::None,
            // An original that is a little ill does not explain a shadow that is far worse.
            // Nor does one that was ill a while ago and is not now.
            (Some(shadow), Some(original)) if original + 1 >= shadow && !self.apart => {
                Trouble::Shared
            }
            (Some(_), _) => Trouble::Shadow,
        }
    }

    /// On what to bet, if the shadow is likely to do harm beyond the original's.
    pub(super) fn likely(&mut self, limit: f64) -> Option<Recent> {
        if self.trouble() != Trouble::Shadow {
            return None;
        }
        // All that was seen since the trouble began, not only as much as keeps an alarm short.
        let since = Tally {
            shadow: self.shadow.all,
            shadow_bad: self.shadow.bad,
            ..Tally::default()
        };
        let mut likely = Recent::new();
        for (size, factor) in self.ladder.at(limit).iter().enumerate() {
            likely.add(size, factor.ln(&since), SURE);
        }
        Some(likely)
    }

    /// The share of bad requests since the trouble began.
    pub(super) fn share(&self) -> f64 {
        (self.shadow.bad as f64 / self.shadow.all.max(1) as f64).max(self.shadow.latest.0)
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
        (0..200).for_each(|_| alarm.look(&tally(0, 0), 0.01, 0.0));
        assert_eq!(alarm.trouble(), Trouble::None);
        alarm.look(&tally(0, 10), 0.01, 0.0);
        assert_eq!(alarm.trouble(), Trouble::Shadow);
        assert!(alarm.share() > 0.15);
        let mut looks = 0;
        while alarm.trouble() != Trouble::None {
            alarm.look(&tally(0, 0), 0.01, 0.0);
            looks += 1;
        }
        assert!(looks < 40, "{looks}");
    }

    #[test]
    fn trouble_of_both_sides_is_known_as_such() {
        let mut alarm = Alarm::new();
        alarm.look(&tally(8, 10), 0.01, 0.0);
        assert_eq!(alarm.trouble(), Trouble::Shared);
        assert!(alarm.likely(0.01).is_none());
    }

    /// A twentieth of the requests is on the original, four of them failed just before the shadow
    /// fell ill: that is chance, and what it does beside the trouble says so.
    #[test]
    fn an_original_that_was_unlucky_a_moment_ago_does_not_hide_a_sick_shadow() {
        let look = |(original, original_bad), shadow_bad| Tally {
            original,
            original_bad,
            shadow: 300,
            shadow_bad,
        };
        let mut alarm = Alarm::new();
        (0..20).for_each(|_| alarm.look(&look((16, 0), 0), 0.0015, 0.0));
        for at in 0..16 {
            let failed = u64::from(at % 5 == 0);
            alarm.look(&look((16, failed), 0), 0.0015, 0.0);
        }
        let shared = |alarm: &Alarm| alarm.trouble() == Trouble::Shared;
        let mut hidden = 0;
        for _ in 0..20 {
            alarm.look(&look((16, 0), 3), 0.0015, 0.0);
            hidden += u32::from(shared(&alarm));
        }
        assert_eq!(alarm.trouble(), Trouble::Shadow);
        assert!((1..=5).contains(&hidden), "{hidden}");
        // One that is as ill stays an explanation.
        let mut both = Alarm::new();
        both.look(&look((16, 2), 30), 0.0015, 0.0);
        (0..40).for_each(|_| both.look(&look((16, 2), 30), 0.0015, 0.0));
        assert!(shared(&both));
    }

    #[test]
    fn more_is_asked_of_an_alarm_where_more_fails_by_chance() {
        let raised = |rate| {
            let mut alarm = Alarm::new();
            let three = Tally {
                original: 16,
                original_bad: 0,
                shadow: 120,
                shadow_bad: 3,
            };
            alarm.look(&three, 0.0015, rate);
            alarm.trouble() != Trouble::None
        };
        assert!(raised(50.0) && !raised(50_000.0));
    }
}
