//! Our judge with its defaults: 1, 5, 25, 50, 100 %, each held for at least 20 s.

use domain::Counts;
use domain::migration::{JudgeScope, Verdict};
use foreshadow_migrator::JudgeSettings;
use foreshadow_migrator::judge::{Increment, JudgeState, Past, Task};

use super::cells::Cell;
use super::traffic::{Dice, Latencies};
use super::{End, Rule};

const SHARES: [u32; 5] = [100, 500, 2_500, 5_000, 10_000];
const HOLD_MS: u64 = 20_000;

pub(crate) struct Ours {
    settings: JudgeSettings,
    past: Past,
    stage: usize,
    seconds: u64,
    state: Option<JudgeState>,
}

impl Ours {
    /// The baseline is ten minutes of the original in health.
    pub(crate) fn new(cell: &Cell, seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0xba5e);
        let usual = Latencies::new(1.0);
        let mut baseline = Counts::default();
        (0..600).for_each(|_| baseline.merge(&dice.serve(cell.rate, cell.errors, &usual)));
        let mut ours = Self {
            settings: JudgeSettings::default(),
            past: Past {
                baseline,
                original: Counts::default(),
            },
            stage: 0,
            seconds: 0,
            state: None,
        };
        ours.enter(0);
        ours
    }

    fn enter(&mut self, stage: usize) {
        self.stage = stage;
        self.seconds = 0;
        let scope = if stage + 1 == SHARES.len() {
            JudgeScope::Soak
        } else {
            JudgeScope::Stage { stage }
        };
        let task = Task {
            scope,
            shadow_share: SHARES[stage],
            hold_ms: HOLD_MS,
            of: SHARES.len() + 1,
        };
        self.state = JudgeState::begin(task, self.past.clone(), &self.settings).ok();
    }
}

impl Rule for Ours {
    fn shadow_share(&self) -> f64 {
        f64::from(SHARES[self.stage]) / 10_000.0
    }

    fn original_share(&self) -> f64 {
        1.0 - self.shadow_share()
    }

    fn second(&mut self, original: &Counts, shadow: &Counts) -> Option<End> {
        self.seconds += 1;
        let more = Increment {
            original: original.clone(),
            shadow: shadow.clone(),
            trouble: None,
        };
        self.past.original.merge(original);
        let state = self.state.as_mut()?;
        state.feed(self.seconds * 1_000, &more, &self.settings);
        match state.verdict(0, &self.settings) {
            // Giving up at the deadline counts as well.
            Verdict::Rollback { .. } => Some(End::RolledBack),
            Verdict::Promote { .. } if self.stage + 1 == SHARES.len() => Some(End::Promoted),
            Verdict::Promote { .. } => {
                self.enter(self.stage + 1);
                None
            }
            Verdict::Hold { .. } | Verdict::Inconclusive { .. } => None,
        }
    }
}
