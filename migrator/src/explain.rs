//! What a decision was made from, so that it can be made again.
//!
//! The evidence of a decision is everything that went in: the world, the settings, and what was
//! kept from the looks before. [`Evidence::replay`] decides again; the answer is the same to the
//! last digit, or the evidence is not that of this program.

use domain::Decision;
use serde::{Deserialize, Serialize};

use crate::detect::Memory;
use crate::plan;
use crate::settings::Settings;
use crate::world::World;

/// What a decision was made from, and the decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The world.
    pub world: World,
    /// The settings.
    pub settings: Settings,
    /// What was kept from earlier looks.
    pub memory: Memory,
    /// What was decided.
    pub decision: Decision,
}

impl Evidence {
    /// Decides, and keeps what that was made from. `memory` goes on as after [`plan::decide`].
    pub fn of(world: &World, settings: &Settings, memory: &mut Memory) -> Self {
        let before = memory.clone();
        let decision = plan::decide(world, settings, memory);
        Self {
            world: world.clone(),
            settings: settings.clone(),
            memory: before,
            decision,
        }
    }

    /// Decides again from the same.
    pub fn replay(&self) -> Decision {
        plan::decide(&self.world, &self.settings, &mut self.memory.clone())
    }

    /// Decides again, and says whether the answer is identical.
    pub fn agrees(&self) -> bool {
        self.replay() == self.decision
    }
}
