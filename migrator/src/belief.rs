//! How far the forecasts can be trusted: what earlier ones of whole hosts came to.
//!
//! A host's demand is the sum of its instances'. Its mean is the sum of their means; its variance
//! is their variances' sum plus what they have in common:
//!
//! ```text
//! V = Σσ² + ρ((Σσ)² − Σσ²)      ρ: mean correlation of the errors of instances on one host
//! P(demand > limit) = G((limit − mean) / √V)
//! ```
//! ρ is measured from errors of the same time, so what instances do together (a daily rise, a
//! common caller) is kept. `G` is the distribution of the standardised errors of whole hosts, as
//! they were observed, from a normal prior: skew, heavy tails and forecasts that are too sure of
//! themselves are in it (a conformal predictive distribution; Vovk, Shen, Manokhin, Xie,
//! "Nonparametric predictive distributions based on conformal prediction", Machine Learning 2019).
//! A demand does not depend on where the instance runs, so the truth of an old forecast is known
//! even when something has moved since.
//!
//! Hosts differ: those whose limit is one spread away are not those whose limit is four away, and
//! their errors need not be alike. So what became of statements is counted by the distance `z` of
//! the limit as well, and `G` is brought to what came at that distance:
//!
//! ```text
//! p(z) = (m·G(z) + came(z)) / (m + stated(z)), made to fall in z by pooling neighbours
//! ```
//! (histogram binning with a prior worth `m` statements, and isotonic regression by pooling adjacent
//! violators: Zadrozny, Elkan, "Transforming classifier scores into accurate multiclass probability
//! estimates", KDD 2002). Demand beyond the limit is scaled by the same factor.

use std::collections::{BTreeMap, VecDeque};

use domain::{InstanceId, Resource, Timestamp};
use serde::{Deserialize, Serialize};

use crate::normal;
use crate::pool::{POINTS, Pool};
use crate::world::World;

/// Lowest standardised error in the table.
const FROM: f64 = -4.0;
/// Distance of its entries.
const STEP: f64 = 0.25;
/// Number of its entries: up to +8.
const GRID: usize = 49;
/// How many observed errors the prior is worth.
const PRIOR: f64 = 100.0;
/// Errors after which stated probabilities are held against what came.
const LEARNT: f64 = 400.0;
/// How many statements at one distance the distribution of all errors is worth.
const PRIOR_AT: f64 = 40.0;
/// Weight that is kept of what was learnt, per error: a memory of some 20 000 errors.
const KEPT: f64 = 0.999_95;
/// Points of the window at which forecasts are followed up.
const FOLLOWED: [usize; 4] = [0, 4, 8, POINTS - 1];
/// Instances followed at a time, and sets of forecasts.
const MEMBERS: usize = 4_000;
const ISSUES: usize = 96;

/// Distribution of standardised errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tail {
    seen: f64,
    /// Errors above each entry.
    above: Vec<f64>,
    survival: Vec<f64>,
    excess: Vec<f64>,
    /// Statements about limits at each distance, and those that came true.
    #[serde(default)]
    stated: Vec<f64>,
    #[serde(default)]
    came: Vec<f64>,
    /// Probability at each distance.
    #[serde(default)]
    at: Vec<f64>,
}

fn entry(index: usize) -> f64 {
    FROM + STEP * index as f64
}

impl Default for Tail {
    fn default() -> Self {
        let mut tail = Self {
            seen: 0.0,
            above: vec![0.0; GRID],
            survival: vec![0.0; GRID],
            excess: vec![0.0; GRID],
            stated: vec![0.0; GRID],
            came: vec![0.0; GRID],
            at: vec![0.0; GRID],
        };
        tail.refresh(None);
        tail
    }
}

impl Tail {
    fn learn(&mut self, error: f64) {
        if !error.is_finite() {
            return;
        }
        self.seen = self.seen * KEPT + 1.0;
        for (index, above) in self.above.iter_mut().enumerate() {
            *above = *above * KEPT + f64::from(u8::from(error > entry(index)));
        }
    }

    /// Counts what became of a statement about a limit at distance `z`: part of it at either of the
    /// entries it lies between.
    fn learn_at(&mut self, z: f64, came: bool) {
        let Some((below, part)) = place(z) else {
            return;
        };
        for counted in [&mut self.stated, &mut self.came] {
            counted.resize(GRID, 0.0);
            for count in counted.iter_mut() {
                *count *= KEPT;
            }
        }
        for (index, part) in [(below, 1.0 - part), (below + 1, part)] {
            self.stated[index] += part;
            self.came[index] += if came { part } else { 0.0 };
        }
    }

    /// Makes the table anew, from a prior: the normal distribution, or what is known of another
    /// point.
    fn refresh(&mut self, known: Option<&Self>) {
        let all = PRIOR + self.seen;
        let counted = self.survival.iter_mut().zip(&self.above);
        for (index, (survival, above)) in counted.enumerate() {
            let prior = match known {
                Some(known) => known.survival[index],
                None => normal::survival(entry(index)),
            };
            *survival = (PRIOR * prior + above) / all;
        }
        self.excess[GRID - 1] = 0.0;
        for index in (0..GRID - 1).rev() {
            let slab = STEP * f64::midpoint(self.survival[index], self.survival[index + 1]);
            self.excess[index] = self.excess[index + 1] + slab;
        }
        self.refresh_at();
    }

    /// Brings the probability at each distance to what came there.
    fn refresh_at(&mut self) {
        self.stated.resize(GRID, 0.0);
        self.came.resize(GRID, 0.0);
        // Runs of neighbours with one probability each: weight, sum of probabilities, length.
        let mut runs: Vec<(f64, f64, usize)> = Vec::new();
        for index in 0..GRID {
            let weight = PRIOR_AT + self.stated[index];
            let sum = PRIOR_AT * self.survival[index] + self.came[index];
            let mut run = (weight, sum, 1);
            // The farther the limit, the less likely: a rise is pooled with what is before it.
            while let Some(&(before, of, length)) = runs.last() {
                if of / before >= run.1 / run.0 {
                    break;
                }
                run = (run.0 + before, run.1 + of, run.2 + length);
                runs.pop();
            }
            runs.push(run);
        }
        self.at = runs
            .into_iter()
            .flat_map(|(weight, sum, length)| std::iter::repeat_n(sum / weight, length))
            .collect();
    }

    /// Probability of an error above `z` at a host whose limit is that far away, and the mean of
    /// what is above it.
    pub fn beyond(&self, z: f64) -> (f64, f64) {
        if z.is_nan() || z >= entry(GRID - 1) {
            return (0.0, 0.0);
        }
        let Some((below, part)) = place(z) else {
            return (1.0, self.excess[0] + FROM - z);
        };
        let between = |values: &[f64]| values[below] + (values[below + 1] - values[below]) * part;
        let (all, excess) = (between(&self.survival), between(&self.excess));
        // A table that was stored before there was one by distance has none yet.
        let here = if self.at.len() == GRID {
            between(&self.at)
        } else {
            all
        };
        (here, if all > 0.0 { excess * here / all } else { 0.0 })
    }
}

/// Between which entries a distance lies, by the lower one, and how far beyond that.
fn place(z: f64) -> Option<(usize, f64)> {
    let place = (z - FROM) / STEP;
    if place.is_nan() || place < 0.0 || place >= (GRID - 1) as f64 {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of entries"
    )]
    let below = place as usize;
    Some((below, place - below as f64))
}

/// A forecast of a host, to be compared with what comes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Foretold {
    resource: Resource,
    /// Index in [`FOLLOWED`].
    followed: usize,
    due: Timestamp,
    mean: f64,
    spread: f64,
    limit: f64,
    stated: f64,
    /// Whether enough was known for that.
    learnt: bool,
}

/// Forecasts of one host made at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Followed {
    members: Vec<InstanceId>,
    /// Mean and variance of each member at the first point, per resource.
    each: Vec<(Resource, Vec<(f32, f32)>)>,
    open: Vec<Foretold>,
}

/// Stated probabilities against what came, by tenths.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Bin {
    /// Statements.
    pub stated: u64,
    /// Sum of the stated probabilities.
    pub sum: f64,
    /// How many came true.
    pub came: u64,
}

/// Common part of the errors of instances on one host.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Common {
    shared: f64,
    possible: f64,
}

/// What past forecasts have taught.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Belief {
    tails: BTreeMap<Resource, Vec<Tail>>,
    common: BTreeMap<Resource, Common>,
    issues: VecDeque<Vec<Followed>>,
    newest: Timestamp,
    reliability: Vec<Bin>,
    #[serde(skip)]
    normal: Tail,
}

impl Belief {
    /// The distribution of errors of a resource at a point of the window.
    pub fn tail(&self, resource: Resource, point: usize) -> &Tail {
        let nearest = FOLLOWED
            .iter()
            .enumerate()
            .min_by_key(|(_, followed)| followed.abs_diff(point))
            .map_or(0, |(index, _)| index);
        self.tails
            .get(&resource)
            .and_then(|tails| tails.get(nearest))
            .unwrap_or(&self.normal)
    }

    /// How many errors were seen at a point that is followed.
    fn seen(&self, resource: Resource, followed: usize) -> f64 {
        let tails = self.tails.get(&resource);
        tails
            .and_then(|tails| tails.get(followed))
            .map_or(0.0, |tail| tail.seen)
    }

    /// Mean correlation of the errors of instances on one host.
    pub fn correlation(&self, resource: Resource) -> f64 {
        let Some(common) = self.common.get(&resource) else {
            return 0.0;
        };
        // The prior: no correlation, worth as much as a good hundred instances' errors.
        (common.shared / (common.possible + 1e4)).clamp(0.0, 0.5)
    }

    /// How stated probabilities of contention compare with what came, by tenths.
    pub fn reliability(&self) -> &[Bin] {
        &self.reliability
    }

    /// Compares forecasts that have come due with the readings, then notes the present ones.
    pub fn follow_up(&mut self, world: &World, pool: &Pool<'_>) {
        self.compare(world);
        let issued = world
            .forecasts
            .values()
            .flat_map(|forecast| &forecast.forecasts)
            .map(|forecast| forecast.issued_at)
            .max();
        if let Some(issued) = issued.filter(|&issued| issued > self.newest) {
            self.newest = issued;
            self.note(world, pool);
        }
    }

    fn note(&mut self, world: &World, pool: &Pool<'_>) {
        let mut room = MEMBERS;
        let mut hosts = Vec::new();
        for host in 0..pool.hosts().len() {
            let rows: Vec<usize> = pool.running_on(host).collect();
            if rows.is_empty() || rows.len() > room || !rows.iter().all(|&r| pool.is_forecast(r)) {
                continue;
            }
            room -= rows.len();
            hosts.push(followed(self, world, pool, host, &rows));
        }
        self.issues.push_back(hosts);
        while self.issues.len() > ISSUES {
            self.issues.pop_front();
        }
    }

    fn compare(&mut self, world: &World) {
        let mut issues = std::mem::take(&mut self.issues);
        let mut learnt = false;
        for hosts in &mut issues {
            for host in hosts.iter_mut() {
                learnt |= self.compare_host(world, host);
            }
            hosts.retain(|host| !host.open.is_empty());
        }
        issues.retain(|hosts| !hosts.is_empty());
        self.issues = issues;
        if learnt {
            for tails in self.tails.values_mut() {
                // What nothing is known of yet is like the point before it.
                for index in 0..tails.len() {
                    let (before, from) = tails.split_at_mut(index);
                    from[0].refresh(before.last());
                }
            }
        }
    }

    fn compare_host(&mut self, world: &World, host: &mut Followed) -> bool {
        let mut learnt = false;
        let open = std::mem::take(&mut host.open);
        for foretold in open {
            if foretold.due > world.at {
                host.open.push(foretold);
                continue;
            }
            let truths: Option<Vec<f64>> = host
                .members
                .iter()
                .map(|id| world.demand_at(id, foretold.resource, foretold.due))
                .collect();
            let Some(truths) = truths else {
                // The reading may still come; after a while it will not.
                if world.at.since(foretold.due) < 3_600_000 {
                    host.open.push(foretold);
                }
                continue;
            };
            learnt = true;
            let sum: f64 = truths.iter().sum();
            self.learn(&foretold, sum);
            if foretold.followed == 0 {
                let each = host.each.iter().find(|(r, _)| *r == foretold.resource);
                self.learn_common(foretold.resource, each.map(|(_, each)| each), &truths);
            }
        }
        learnt
    }

    fn learn(&mut self, foretold: &Foretold, sum: f64) {
        let tails = self.tails.entry(foretold.resource).or_default();
        tails.resize_with(FOLLOWED.len(), Tail::default);
        if foretold.spread > 0.0 {
            let tail = &mut tails[foretold.followed];
            tail.learn((sum - foretold.mean) / foretold.spread);
            let distance = (foretold.limit - foretold.mean) / foretold.spread;
            tail.learn_at(distance, sum > foretold.limit);
        }
        if !foretold.learnt {
            return;
        }
        self.reliability.resize(10, Bin::default());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a probability times ten"
        )]
        let tenth = ((foretold.stated * 10.0) as usize).min(9);
        let bin = &mut self.reliability[tenth];
        bin.stated += 1;
        bin.sum += foretold.stated;
        bin.came += u64::from(sum > foretold.limit);
    }

    fn learn_common(&mut self, resource: Resource, each: Option<&Vec<(f32, f32)>>, truths: &[f64]) {
        let Some(each) = each else { return };
        // Each error in its own spread, and capped: one burst is no common cause.
        let mut errors = (0.0, 0.0, 0.0);
        for (&(mean, variance), truth) in each.iter().zip(truths) {
            let spread = f64::from(variance).sqrt();
            if spread > 0.0 {
                let error = ((truth - f64::from(mean)) / spread).clamp(-4.0, 4.0);
                errors = (errors.0 + error, errors.1 + error * error, errors.2 + 1.0);
            }
        }
        let (sum, squares, count) = errors;
        let common = self.common.entry(resource).or_default();
        common.shared = common.shared * KEPT + sum * sum - squares;
        common.possible = common.possible * KEPT + count * count - count;
    }
}

fn followed(
    belief: &Belief,
    world: &World,
    pool: &Pool<'_>,
    host: usize,
    rows: &[usize],
) -> Followed {
    let mut open = Vec::new();
    let mut each = Vec::new();
    for resource in Resource::ALL {
        let Some(limit) = pool.hosts()[host].limit(resource) else {
            continue;
        };
        let at = |row: usize, point: usize| pool.demand(row, resource, point);
        each.push((
            resource,
            rows.iter().map(|&row| at(row, 0).as_pair()).collect(),
        ));
        for (followed, &point) in FOLLOWED.iter().enumerate() {
            let mut sum = crate::pool::Sum::default();
            for &row in rows {
                sum.add(at(row, point));
            }
            let spread = sum.variance(belief.correlation(resource)).sqrt();
            let stated = if spread > 0.0 {
                let z = (limit - sum.mean) / spread;
                belief.tail(resource, point).beyond(z).0
            } else {
                f64::from(u8::from(sum.mean > limit))
            };
            open.push(Foretold {
                resource,
                followed,
                due: world.at.plus(pool.ahead(point)),
                mean: sum.mean,
                spread,
                limit,
                stated,
                learnt: belief.seen(resource, followed) >= LEARNT,
            });
        }
    }
    Followed {
        members: rows.iter().map(|&row| pool.id(row).clone()).collect(),
        each,
        open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_anything_is_known_errors_are_normal() {
        let tail = Tail::default();
        for (z, probability) in [
            (0.0, 0.5),
            (1.0, 0.158_66),
            (-2.0, 0.977_25),
            (3.0, 0.001_35),
        ] {
            assert!((tail.beyond(z).0 - probability).abs() < 2e-3, "{z}");
        }
        // The mean of a standard normal above 0 is 1/√(2π).
        assert!((tail.beyond(0.0).1 - 0.398_94).abs() < 4e-3);
        assert_eq!(tail.beyond(50.0), (0.0, 0.0));
        assert!((tail.beyond(-10.0).1 - 10.0).abs() < 2e-2);
    }

    #[test]
    fn errors_twice_as_wide_make_the_tail_twice_as_wide() {
        let mut tail = Tail::default();
        for i in 0..40_000_u32 {
            // A uniform spread over ±2 has all of its mass there.
            tail.learn(f64::from(i % 400) / 100.0 - 2.0);
        }
        tail.refresh(None);
        assert!(
            (tail.beyond(1.0).0 - 0.25).abs() < 0.01,
            "{:?}",
            tail.beyond(1.0)
        );
        assert!((tail.beyond(-1.0).0 - 0.75).abs() < 0.01);
    }

    /// Most hosts have their limit far away and wide errors; those near it are steadier.
    #[test]
    fn what_is_said_of_a_limit_is_what_came_at_that_distance() {
        let mut tail = Tail::default();
        for i in 0..40_000_u32 {
            let even = f64::from(i % 400) / 400.0;
            // Uniform over ±4 where the limit is 6 away, over ±1.25 where it is 1 away.
            tail.learn(even * 8.0 - 4.0);
            tail.learn_at(6.0, false);
            if i % 4 == 0 {
                let near = f64::from(i / 4 % 400) / 160.0 - 1.25;
                tail.learn(near);
                tail.learn_at(1.0, near > 1.0);
            }
        }
        tail.refresh(None);
        let (near, excess) = tail.beyond(1.0);
        assert!((near - 0.1).abs() < 0.02, "{near}");
        assert!(excess < tail.excess[20], "{excess}");
        assert!(tail.beyond(6.0).0 < 0.01);
        for step in 0..60 {
            let z = f64::from(step) * 0.2 - 4.0;
            assert!(tail.beyond(z).0 + 1e-9 >= tail.beyond(z + 0.2).0, "at {z}");
        }
    }

    #[test]
    fn what_was_learnt_survives_being_stored() {
        let mut tail = Tail::default();
        (0..500).for_each(|_| tail.learn(3.0));
        (0..500).for_each(|_| tail.learn_at(3.0, true));
        tail.refresh(None);
        let text = serde_json::to_string(&tail).unwrap();
        assert_eq!(serde_saphyr::from_str::<Tail>(&text).unwrap(), tail);
    }
}
