//! What moves promised, and what they brought.
//!
//! Every move that was decided is followed through its window. What it brought is counted from
//! readings: time for which the host it left would have been over a limit with it, minus time for
//! which the host it went to would not have been without it. When the moves of late brought far
//! less than they promised, or many failed, the brake is on: until that has passed, a move must
//! promise much more than it costs.

use std::collections::VecDeque;

use domain::{HostId, InstanceId, Move, Resource, Timestamp};
use serde::{Deserialize, Serialize};

use crate::detect;
use crate::settings::Settings;
use crate::world::World;

/// Moves that are kept.
const KEPT: usize = 200;

/// A move that was decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What moved.
    pub instance: InstanceId,
    /// From where.
    pub from: HostId,
    /// To where.
    pub target: HostId,
    /// When that was decided.
    pub decided_at: Timestamp,
    /// Whether it has arrived.
    pub arrived: bool,
    /// Whether its window is over.
    pub over: bool,
    /// Contention that it was to spare until now, in milliseconds.
    pub promised_ms: f64,
    /// Contention that it spared until now, in milliseconds.
    pub brought_ms: f64,
    benefit: f64,
    window_ms: u64,
}

/// The moves of late.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    looked_at: Timestamp,
}

impl Ledger {
    /// Moves, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Notes a move.
    pub fn note(&mut self, decided_at: Timestamp, intent: &Move) {
        self.entries.push_back(Entry {
            instance: intent.instance.clone(),
            from: intent.from.clone(),
            target: intent.target.clone(),
            decided_at,
            arrived: false,
            over: false,
            promised_ms: 0.0,
            brought_ms: 0.0,
            benefit: intent.expected.benefit,
            window_ms: intent.expected.window_ms,
        });
        while self.entries.len() > KEPT {
            self.entries.pop_front();
        }
    }

    /// Counts what the moves have brought since the last look.
    pub fn follow_up(&mut self, world: &World, settings: &Settings) {
        let passed = world.at.since(self.looked_at);
        let first = self.looked_at == Timestamp(0);
        self.looked_at = world.at;
        if first {
            return;
        }
        for entry in self.entries.iter_mut().filter(|entry| !entry.over) {
            let here = world
                .instances
                .get(&entry.instance)
                .map(|instance| &instance.replica.host);
            let arrived = here == Some(&entry.target);
            if arrived {
                entry.arrived = true;
                let passed = passed as f64;
                entry.promised_ms += passed * entry.benefit;
                entry.brought_ms += passed * brought(world, settings, entry);
            }
            let age = world.at.since(entry.decided_at);
            let gone_on = entry.arrived && !arrived;
            entry.over = gone_on || age > entry.window_ms + settings.lead_ms;
        }
    }

    /// Why moves must promise more than usual now, if so.
    pub fn brake(&self, settings: &Settings) -> Option<String> {
        let over: Vec<&Entry> = self
            .entries
            .iter()
            .rev()
            .filter(|entry| entry.over)
            .take(settings.planning.brake_after)
            .collect();
        if over.len() < settings.planning.brake_after {
            return None;
        }
        let lost = over.iter().filter(|entry| !entry.arrived).count();
        if lost * 10 > over.len() * 3 {
            return Some(format!("{lost} of the last {} moves failed", over.len()));
        }
        let promised: f64 = over.iter().map(|entry| entry.promised_ms).sum();
        let brought: f64 = over.iter().map(|entry| entry.brought_ms).sum();
        // Contention comes in whole spells, so what few moves bring varies widely: only moves that
        // did harm on the whole, or brought next to nothing of much, are held against the planner.
        (brought < 0.1 * promised).then(|| {
            format!(
                "the last {} moves promised to spare {:.0} s of contention and spared {:.0} s",
                over.len(),
                promised / 1_000.0,
                brought / 1_000.0
            )
        })
    }
}

/// 1 while the move spares contention, -1 while it makes it, 0 otherwise.
fn brought(world: &World, settings: &Settings, entry: &Entry) -> f64 {
    let mut spared = 0.0_f64;
    let mut made = 0.0_f64;
    for resource in Resource::ALL {
        let Some(own) = world.present_demand(&entry.instance, resource) else {
            continue;
        };
        let over = |host: &HostId, more: f64| {
            let Some(limit) = detect::limit(world, host, resource, settings) else {
                return false;
            };
            let now: f64 = world
                .on_host(host)
                .filter_map(|instance| world.present_demand(&instance.spec.id, resource))
                .sum();
            now + more > limit
        };
        if over(&entry.from, own) && !over(&entry.from, 0.0) {
            spared = 1.0;
        }
        if over(&entry.target, 0.0) && !over(&entry.target, -own) {
            made = 1.0;
        }
    }
    spared - made
}
