//! Hosts and instances in virtual time: what a policy's moves do to contention.
//!
//! Events are the steps of the trace and the ends of migrations; between them demand is constant,
//! so time in contention and work that is lost are exact. While an instance moves, the original
//! takes its demand and a tenth more for copying (Beloglazov and Buyya), and the shadow takes its
//! demand on the target as well: the hardest case for a policy that moves, and the same for all.

use std::collections::{BTreeMap, VecDeque};

use domain::{Resource, Timestamp};
use migrator::pool::worth;

use super::workload::{Workload, chance, whole};

/// Share of its demand that copying costs the original's host.
const COPYING: f64 = 0.1;
/// Bytes per millisecond that a copy gets: half of a gigabit.
const BYTES_PER_MS: f64 = 62_500.0;
/// A return within this time is ping-pong, in milliseconds.
const PING_PONG_MS: u64 = 7_200_000;
/// Power of a host at 0, 10, … 100 % (HP ProLiant ML110 G5, SPECpower; Beloglazov and Buyya 2012).
pub const WATTS: [f64; 11] = [
    93.7, 97.0, 101.0, 105.0, 110.0, 116.0, 121.0, 125.0, 129.0, 133.0, 135.0,
];

/// Power at a utilisation, linear between the measured ones.
pub fn watts(utilisation: f64) -> f64 {
    let place = utilisation.clamp(0.0, 1.0) * 10.0;
    let below = usize::try_from(whole(place)).unwrap_or(9).min(9);
    let part = place - below as f64;
    WATTS[below] + (WATTS[below + 1] - WATTS[below]) * part
}

/// A migration under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moving {
    /// The instance.
    pub row: usize,
    /// From where.
    pub from: usize,
    /// To where.
    pub to: usize,
    /// When it began.
    pub began_ms: u64,
    /// When it ends.
    pub ends_ms: u64,
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Host-milliseconds in contention.
    pub contended_ms: f64,
    /// Host-milliseconds in all.
    pub host_ms: f64,
    /// Processor work that was not served, weighted by what instances are worth.
    pub lost: f64,
    /// All processor work, weighted the same way.
    pub work: f64,
    /// Migrations.
    pub moves: u64,
    /// Of these, returns to a host that was left within two hours.
    pub ping_pong: u64,
    /// Kilowatt-hours.
    pub kwh: f64,
    /// Milliseconds per host at full processors, and with anything on it.
    pub full_ms: Vec<f64>,
    /// See `full_ms`.
    pub active_ms: Vec<f64>,
    /// Per instance: work lost by migrating, and work asked for.
    pub degraded: Vec<(f64, f64)>,
}

impl Totals {
    /// Share of host time in contention.
    pub fn contention(&self) -> f64 {
        self.contended_ms / self.host_ms.max(1.0)
    }

    /// Share of the weighted work that was lost.
    pub fn lost_share(&self) -> f64 {
        self.lost / self.work.max(1e-9)
    }

    /// Mean over hosts of time at full processors over active time.
    pub fn slatah(&self) -> f64 {
        let shares = self.full_ms.iter().zip(&self.active_ms);
        let active = shares.filter(|(_, active)| **active > 0.0);
        mean(active.map(|(full, active)| full / active))
    }

    /// Mean over instances of the work that migrating cost, as a share of what they asked for.
    pub fn pdm(&self) -> f64 {
        let asked = self.degraded.iter().filter(|(_, asked)| *asked > 0.0);
        mean(asked.map(|(lost, asked)| lost / asked))
    }

    /// SLATAH times PDM.
    pub fn slav(&self) -> f64 {
        self.slatah() * self.pdm()
    }

    /// Energy times SLAV.
    pub fn esv(&self) -> f64 {
        self.kwh * self.slav()
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value;
        count += 1.0;
    }
    if count > 0.0 { sum / count } else { 0.0 }
}

/// The fleet.
pub struct Fleet<'a> {
    /// What is played.
    pub workload: &'a Workload,
    /// Capacity of every host, per resource; infinite where it is not watched.
    pub capacity: [f64; 4],
    /// Host of each instance; the original's while it moves.
    pub host_of: Vec<usize>,
    /// Migrations under way, the first to end first.
    pub moving: VecDeque<Moving>,
    /// When each instance last came to its host, if it has moved.
    pub placed_ms: Vec<u64>,
    /// Hosts that instances have left: when, and which.
    pub left: BTreeMap<usize, Vec<(u64, usize)>>,
    /// How long migrations took.
    pub durations: Vec<u64>,
    /// What it has come to.
    pub totals: Totals,
    /// Utilisation of each host's processors in each step, for the report.
    pub heat: Vec<Vec<f32>>,
    /// Moves, for the report.
    pub log: Vec<Moving>,
    hosts: usize,
    now_ms: u64,
    seed: u64,
    fixed_ms: u64,
}

impl<'a> Fleet<'a> {
    /// Instances on their first hosts at the beginning of a step.
    #[must_use]
    pub fn new(
        workload: &'a Workload,
        capacity: [f64; 4],
        hosts: usize,
        host_of: Vec<usize>,
        step: usize,
        seed: u64,
        fixed_ms: u64,
    ) -> Self {
        Self {
            workload,
            capacity,
            placed_ms: vec![0; host_of.len()],
            totals: Totals {
                full_ms: vec![0.0; hosts],
                active_ms: vec![0.0; hosts],
                degraded: vec![(0.0, 0.0); host_of.len()],
                ..Totals::default()
            },
            host_of,
            moving: VecDeque::new(),
            left: BTreeMap::new(),
            durations: Vec::new(),
            heat: Vec::new(),
            log: Vec::new(),
            hosts,
            now_ms: step as u64 * workload.step_ms,
            seed,
            fixed_ms,
        }
    }

    /// Number of hosts.
    pub const fn hosts(&self) -> usize {
        self.hosts
    }

    /// The time.
    pub const fn now(&self) -> Timestamp {
        Timestamp(self.now_ms)
    }

    /// Whether an instance is being moved.
    pub fn is_moving(&self, row: usize) -> bool {
        self.moving.iter().any(|moving| moving.row == row)
    }

    /// The host an instance is on, or will be on once it has moved.
    pub fn goes_to(&self, row: usize) -> usize {
        self.moving
            .iter()
            .find(|moving| moving.row == row)
            .map_or(self.host_of[row], |moving| moving.to)
    }

    /// How long a migration of an instance takes: the copy, and the ramp; a little more or less.
    pub fn duration_ms(&self, row: usize) -> u64 {
        let copy = self.workload.memory[row] as f64 / BYTES_PER_MS;
        let luck = chance(self.totals.moves, self.seed ^ 0x5eed);
        whole((copy + self.fixed_ms as f64) * (0.9 + 0.6 * luck * luck))
    }

    /// Begins a migration, unless the instance moves already or is there.
    pub fn begin(&mut self, row: usize, to: usize) {
        if self.is_moving(row) || self.host_of[row] == to || to >= self.hosts {
            return;
        }
        let from = self.host_of[row];
        let took = self.duration_ms(row);
        let moving = Moving {
            row,
            from,
            to,
            began_ms: self.now_ms,
            ends_ms: self.now_ms + took,
        };
        let at = self
            .moving
            .partition_point(|other| other.ends_ms <= moving.ends_ms);
        self.moving.insert(at, moving);
        self.log.push(moving);
        self.totals.moves += 1;
        let returned = self.left.get(&row).is_some_and(|left| {
            left.iter()
                .any(|&(at, host)| host == to && self.now_ms - at <= PING_PONG_MS)
        });
        self.totals.ping_pong += u64::from(returned);
    }

    /// Plays one step.
    pub fn play(&mut self, step: usize) {
        let ends = (step as u64 + 1) * self.workload.step_ms;
        self.note_heat(step);
        while let Some(first) = self.moving.front().copied()
            && first.ends_ms <= ends
        {
            self.pass(step, first.ends_ms);
            self.moving.pop_front();
            self.host_of[first.row] = first.to;
            self.placed_ms[first.row] = self.now_ms;
            self.durations.push(first.ends_ms - first.began_ms);
            let left = self.left.entry(first.row).or_default();
            left.push((self.now_ms, first.from));
        }
        self.pass(step, ends);
    }

    /// Demand on every host in a step, with what moves on both.
    fn loads(&self, step: usize, resource: Resource) -> Vec<f64> {
        let mut loads = vec![0.0; self.hosts];
        for (row, &host) in self.host_of.iter().enumerate() {
            loads[host] += self.workload.at(row, resource, step);
        }
        for moving in &self.moving {
            let demand = self.workload.at(moving.row, resource, step);
            loads[moving.to] += demand;
            if resource == Resource::Cpu {
                loads[moving.from] += COPYING * demand;
            }
        }
        loads
    }

    fn note_heat(&mut self, step: usize) {
        let loads = self.loads(step, Resource::Cpu);
        let capacity = self.capacity[0];
        #[expect(clippy::cast_possible_truncation, reason = "for a picture")]
        self.heat
            .push(loads.iter().map(|load| (load / capacity) as f32).collect());
    }

    fn pass(&mut self, step: usize, until_ms: u64) {
        let passed = until_ms.saturating_sub(self.now_ms) as f64;
        self.now_ms = until_ms;
        if passed <= 0.0 {
            return;
        }
        let mut contended = vec![false; self.hosts];
        for &resource in &self.workload.resources {
            let capacity = self.capacity[resource as usize];
            for (host, load) in self.loads(step, resource).into_iter().enumerate() {
                contended[host] |= load > capacity;
            }
        }
        let loads = self.loads(step, Resource::Cpu);
        let capacity = self.capacity[0];
        let mut weighted = vec![0.0; self.hosts];
        let mut asked = vec![0.0; self.hosts];
        for (row, &host) in self.host_of.iter().enumerate() {
            let demand = self.workload.at(row, Resource::Cpu, step);
            weighted[host] += demand * worth(self.workload.priority[row]);
            asked[host] += demand;
            self.totals.degraded[row].1 += demand * passed;
        }
        for moving in &self.moving {
            let demand = self.workload.at(moving.row, Resource::Cpu, step);
            self.totals.degraded[moving.row].0 += COPYING * demand * passed;
        }
        for (host, &load) in loads.iter().enumerate() {
            let totals = &mut self.totals;
            totals.host_ms += passed;
            totals.contended_ms += passed * f64::from(u8::from(contended[host]));
            let unserved = ((load - capacity) / load.max(1e-9)).max(0.0);
            totals.lost += unserved * weighted[host] * passed;
            totals.work += weighted[host] * passed;
            totals.kwh += watts(load / capacity) * passed / 3.6e9;
            if asked[host] > 0.0 {
                totals.active_ms[host] += passed;
                if load >= capacity {
                    totals.full_ms[host] += passed;
                }
            }
        }
    }
}

/// First hosts: in a random order, each instance to the host with the least demand so far, by what
/// was measured before the run.
pub fn first_hosts(workload: &Workload, hosts: usize, warm_up: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..workload.ids.len()).collect();
    order.sort_by_key(|&row| super::workload::mixed(row as u64, seed));
    let mut loads = vec![0.0; hosts];
    let mut host_of = vec![0; order.len()];
    for row in order {
        let before = workload.series(row, Resource::Cpu, 0..warm_up.max(1));
        let mean = before.iter().map(|&v| f64::from(v)).sum::<f64>() / before.len() as f64;
        let least = (0..hosts)
            .min_by(|&a, &b| f64::total_cmp(&loads[a], &loads[b]))
            .unwrap_or(0);
        loads[least] += mean;
        host_of[row] = least;
    }
    host_of
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(text: &str) -> Workload {
        Workload::read("t", text.as_bytes(), 300_000).unwrap()
    }

    #[test]
    fn contention_and_lost_work_are_what_a_hand_calculates() {
        // 150 of 100 for one step of two: half of the time contended; 50 of 150 + 50 lost.
        let workload = workload("instance,step,cpu\na,0,100\na,1,25\nb,0,50\nb,1,25\n");
        let capacity = [100.0, f64::INFINITY, f64::INFINITY, f64::INFINITY];
        let mut fleet = Fleet::new(&workload, capacity, 1, vec![0, 0], 0, 1, 0);
        fleet.play(0);
        fleet.play(1);
        assert!((fleet.totals.contention() - 0.5).abs() < 1e-12);
        assert!((fleet.totals.slatah() - 0.5).abs() < 1e-12);
        let worth_of = |row: usize| worth(workload.priority[row]);
        let (a, b) = (worth_of(0), worth_of(1));
        let lost = (100.0 * a + 50.0 * b) / 3.0 / (125.0 * a + 75.0 * b);
        assert!((fleet.totals.lost_share() - lost).abs() < 1e-9);
    }

    #[test]
    fn a_moving_instance_weighs_on_both_hosts_until_it_has_moved() {
        let workload = workload("instance,step,cpu\na,0,60\na,1,60\nb,0,60\nb,1,60\n");
        let capacity = [100.0, f64::INFINITY, f64::INFINITY, f64::INFINITY];
        let mut fleet = Fleet::new(&workload, capacity, 2, vec![0, 0], 0, 1, 60_000);
        fleet.begin(1, 1);
        fleet.begin(1, 1);
        assert_eq!(fleet.totals.moves, 1, "it moves already");
        let took = fleet.moving[0].ends_ms;
        fleet.play(0);
        assert_eq!(fleet.host_of, [0, 1]);
        let contended = fleet.totals.contention() * 600_000.0;
        assert!((contended - took as f64).abs() < 1e-6, "{contended} {took}");
        assert!((fleet.totals.pdm() - 0.1 * took as f64 / 300_000.0 / 2.0).abs() < 1e-9);
        fleet.begin(1, 0);
        assert_eq!(fleet.totals.ping_pong, 1, "it returns at once");
    }

    #[test]
    fn the_power_is_that_of_the_published_table() {
        assert!((watts(0.0) - 93.7).abs() < 1e-9);
        assert!((watts(0.5) - 116.0).abs() < 1e-9);
        assert!((watts(1.3) - 135.0).abs() < 1e-9);
        assert!((watts(0.05) - 95.35).abs() < 1e-9);
    }
}
