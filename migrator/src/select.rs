//! Which instances may move, and which are worth looking at.
//!
//! An instance that must stay stays with the filter that says so. Of the others those come first
//! that relieve their host most for what their move costs: often the cheap neighbour rather than
//! the hot instance.

use domain::{ConsistencyClass, Filter, Instance, InstanceState};

use crate::belief::Belief;
use crate::pool::{Change, Doubt, Pool, worth};
use crate::settings::Settings;
use crate::world::World;

/// Why something was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The filter.
    pub filter: Filter,
    /// In words.
    pub why: String,
}

impl Refusal {
    pub(crate) fn new(filter: Filter, why: impl Into<String>) -> Self {
        Self {
            filter,
            why: why.into(),
        }
    }
}

/// Why an instance must stay for now, if it must.
pub fn stays(world: &World, settings: &Settings, instance: &Instance) -> Option<Refusal> {
    fixed(world, instance).or_else(|| resting(world, settings, instance))
}

/// Why an instance must stay whoever asks.
pub fn fixed(world: &World, instance: &Instance) -> Option<Refusal> {
    let spec = &instance.spec;
    if !spec.movable {
        Some(Refusal::new(Filter::Fixed, "it is marked as not movable"))
    } else if spec.class == ConsistencyClass::SingleWriter && spec.hooks.writer.is_none() {
        let why = "consistency class S3 needs a cut-over, and the instance has no hook by which its \
                   writing is handed over (hooks.writer)";
        Some(Refusal::new(Filter::Class, why))
    } else if spec.class == ConsistencyClass::Sessions {
        Some(Refusal::new(
            Filter::Class,
            format!(
                "consistency class {} needs a cut-over, which this driver cannot do",
                spec.class.code()
            ),
        ))
    } else if world.is_migrating(&spec.id) {
        Some(Refusal::new(Filter::Moving, "it is being moved"))
    } else if instance.state != InstanceState::Running {
        Some(Refusal::new(Filter::Unclear, "it does not run"))
    } else if !world.hosts.contains_key(&instance.replica.host) {
        Some(Refusal::new(
            Filter::Unclear,
            format!("it is on host {}, which is unknown", instance.replica.host),
        ))
    } else {
        None
    }
}

/// Why an instance should rest, if it should: it has just moved, or just failed to.
fn resting(world: &World, settings: &Settings, instance: &Instance) -> Option<Refusal> {
    let limit = settings.cool_down_ms;
    let rested = world.at.since(instance.placed_at);
    if instance.placed_at.0 > 0 && rested < limit {
        let why = format!("it was moved {rested} ms ago; cool-down is {limit} ms");
        return Some(Refusal::new(Filter::CoolDown, why));
    }
    let limit = settings.retry_ms;
    let rested = world.at.since(*world.rolled_back.get(&instance.spec.id)?);
    (rested < limit).then(|| {
        let why = format!("its migration was rolled back {rested} ms ago; it rests for {limit} ms");
        Refusal::new(Filter::Resting, why)
    })
}

/// What the move of an instance costs in itself, as a share of the window.
pub fn price(settings: &Settings, instance: &Instance) -> f64 {
    let gib = instance.spec.memory_bytes as f64 / (1024.0 * 1024.0 * 1024.0);
    let planning = &settings.planning;
    (planning.price + planning.price_per_gib * gib) * worth(instance.spec.priority)
}

/// Those of `rows` that are worth looking at closely: the host's harm they take away, per price;
/// the best first.
pub fn ranked(
    pool: &Pool<'_>,
    belief: &Belief,
    settings: &Settings,
    host: usize,
    mut rows: Vec<usize>,
) -> Vec<usize> {
    let most = settings.planning.candidates;
    if rows.len() <= most {
        return rows;
    }
    let before = pool.outlook(belief, host, &[], Doubt::NONE);
    let worth_of = |row: usize| {
        let after = pool.outlook(belief, host, &[Change::Minus(row)], Doubt::NONE);
        let relief = before.harm - after.harm;
        // What suffices by itself counts for more than its relief.
        let enough = f64::from(u8::from(after.risk <= settings.accepted_risk));
        relief * (1.0 + enough) / price(settings, pool.instance(row)).max(1e-6)
    };
    let mut valued: Vec<(f64, usize)> = rows.drain(..).map(|row| (worth_of(row), row)).collect();
    valued.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    valued.truncate(most);
    valued.into_iter().map(|(_, row)| row).collect()
}
