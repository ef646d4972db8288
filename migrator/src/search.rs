//! The best moves against a contention: single moves first, then combinations, then exchanges.
//!
//! - A **single** move takes an instance to the host with the most room that passes every filter.
//! - When none suffices, **pairs** (two leave), **swaps** (one leaves, a smaller one comes) and
//!   **chains** (the target first loses one of its own to a third host) are tried.
//! - At last what was chosen is **exchanged**: one for one, two for one, one for two, or nothing at
//!   all, as long as harm and cost together fall.
//!
//! Everything is counted in looks at a host's future, so that the same world gives the same plan on
//! any machine.

use std::collections::BTreeMap;

use domain::{Filter, Priority, Resource};

use crate::belief::Belief;
use crate::place;
use crate::pool::{Change, Doubt, POINTS, Pool};
use crate::select::{self, Refusal};
use crate::settings::Settings;
use crate::world::World;

/// How much dearer a move may become than expected: the 90 % quantile of its cost.
const DEAR: f64 = 1.5;
/// Candidates of which pairs, swaps and chains are made.
const COMBINED: usize = 6;
/// Refusals that are kept for one host.
const KEPT_REFUSALS: usize = 64;

/// Moves that belong together, with what they bring and cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Rows, and the hosts they go to.
    pub moves: Vec<(usize, usize)>,
    /// Harm they spare, as expected and at least.
    pub gain: f64,
    /// Its low quantile.
    pub gain_low: f64,
    /// What they cost.
    pub cost: f64,
    /// Its high quantile.
    pub cost_high: f64,
    /// Their score; higher is better.
    pub score: f64,
    /// Risk before on the contended host.
    pub before: f64,
    /// Risk that is left there.
    pub left: f64,
    /// Highest risk on the hosts they go to.
    pub there: f64,
    /// Whether the contended host is out of contention then.
    pub suffices: bool,
    /// Parts of the score: gain, rise, priority, cost.
    pub parts: [f64; 4],
}

impl Found {
    /// Whether its benefit is surely worth its cost.
    pub fn is_worth_it(&self, demanded: f64) -> bool {
        self.gain_low > self.cost_high * demanded
    }
}

/// What was left out: the row, the host if one was looked at, and why.
pub type LeftOut = (usize, Option<usize>, Refusal);

/// Looks for moves in a pool.
pub struct Search<'a, 'w> {
    /// The pool; what is accepted is moved in it.
    pub pool: Pool<'w>,
    world: &'w World,
    settings: &'a Settings,
    belief: &'a Belief,
    /// Risk that is accepted now.
    pub accepted: f64,
    /// How many times its cost a move must surely bring.
    pub demanded: f64,
    steps: usize,
    /// Hosts, the emptiest first.
    by_room: Vec<(f64, usize)>,
}

impl<'a, 'w> Search<'a, 'w> {
    /// Begins a search.
    pub fn new(
        pool: Pool<'w>,
        world: &'w World,
        settings: &'a Settings,
        belief: &'a Belief,
        accepted: f64,
        demanded: f64,
    ) -> Self {
        let mut by_room: Vec<(f64, usize)> = (0..pool.hosts().len())
            .map(|host| (pool.fullness(host), host))
            .collect();
        by_room.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        Self {
            pool,
            world,
            settings,
            belief,
            accepted,
            demanded,
            steps: settings.planning.steps,
            by_room,
        }
    }

    /// Looks that are left.
    pub fn steps_left(&self) -> usize {
        self.steps
    }

    fn spend(&mut self, looks: usize) {
        self.steps = self.steps.saturating_sub(looks);
    }

    /// Harm of a host as things are on paper.
    pub fn harm(&self, host: usize) -> f64 {
        self.pool.outlook(self.belief, host, &[], Doubt::NONE).harm
    }

    /// Risk of a host as things are on paper.
    pub fn risk(&self, host: usize) -> f64 {
        self.pool.outlook(self.belief, host, &[], Doubt::NONE).risk
    }

    /// Carries moves out on paper.
    pub fn accept(&mut self, moves: &[(usize, usize)]) {
        for &(row, to) in moves {
            let from = self.pool.host_of(row);
            self.pool.relocate(row, to);
            for host in from.into_iter().chain([to]) {
                self.refresh(host);
            }
        }
    }

    fn refresh(&mut self, host: usize) {
        let fullness = self.pool.fullness(host);
        self.by_room.retain(|&(_, other)| other != host);
        let at = self
            .by_room
            .partition_point(|&(other, of)| (other, of) < (fullness, host));
        self.by_room.insert(at, (fullness, host));
    }

    /// Rows of a host that may move, and why the others may not.
    pub fn movable(&self, host: usize) -> (Vec<usize>, Vec<LeftOut>) {
        let (mut rows, mut left_out) = (Vec::new(), Vec::new());
        for &row in self.pool.on_host(host) {
            match select::stays(self.world, self.settings, self.pool.instance(row)) {
                None => rows.push(row),
                Some(refusal) if left_out.len() < KEPT_REFUSALS => {
                    left_out.push((row, None, refusal));
                }
                Some(_) => {}
            }
        }
        rows.sort_by_key(|&row| self.pool.id(row));
        (rows, left_out)
    }

    /// Single moves off a host, the best first; and what was left out.
    pub fn singles(&mut self, host: usize) -> (Vec<Found>, Vec<LeftOut>) {
        let (rows, mut left_out) = self.movable(host);
        self.spend(rows.len());
        let rows = select::ranked(&self.pool, self.belief, self.settings, host, rows);
        let mut found = Vec::new();
        for row in rows {
            self.try_targets(
                row,
                host,
                self.accepted_of_target(),
                &mut found,
                &mut left_out,
            );
        }
        self.sort(&mut found);
        (found, left_out)
    }

    fn accepted_of_target(&self) -> f64 {
        self.accepted * self.settings.planning.target_share
    }

    fn sort(&self, found: &mut [Found]) {
        let name = |one: &Found| -> Vec<_> {
            one.moves
                .iter()
                .map(|&(row, to)| (self.pool.id(row), to))
                .collect()
        };
        found.sort_by(|one, other| {
            other
                .suffices
                .cmp(&one.suffices)
                .then(other.score.total_cmp(&one.score))
                .then_with(|| name(one).cmp(&name(other)))
        });
    }

    fn try_targets(
        &mut self,
        row: usize,
        host: usize,
        accepted: f64,
        found: &mut Vec<Found>,
        left_out: &mut Vec<LeftOut>,
    ) {
        let mut looked_at = 0;
        let targets: Vec<usize> = self.by_room.iter().map(|&(_, target)| target).collect();
        for target in targets {
            if target == host {
                continue;
            }
            if looked_at >= self.settings.planning.targets || self.steps == 0 {
                break;
            }
            let refused = place::forbidden(self.world, &self.pool, self.settings, row, target)
                .or_else(|| {
                    looked_at += 1;
                    let changes = [Change::Plus(row)];
                    place::crowded(&self.pool, self.belief, target, &changes, accepted)
                });
            self.spend(1);
            if let Some(refusal) = refused {
                if left_out.len() < KEPT_REFUSALS {
                    left_out.push((row, Some(target), refusal));
                }
                continue;
            }
            let one = self.weigh(host, &[(row, target)]);
            let instance = self.pool.instance(row);
            let id = &self.pool.hosts()[target].host.id;
            if place::returns(self.world, self.settings, instance, id)
                && one.gain_low < 2.0 * one.cost_high
            {
                let why = "it has left this host not long ago, and would not gain twice the cost";
                left_out.push((row, Some(target), Refusal::new(Filter::NoReturn, why)));
                continue;
            }
            found.push(one);
        }
    }

    /// What some moves together bring and cost, seen from a contended host.
    pub fn weigh(&mut self, host: usize, moves: &[(usize, usize)]) -> Found {
        let mut changes: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
        for &(row, to) in moves {
            if let Some(from) = self.pool.host_of(row) {
                changes.entry(from).or_default().push(Change::Minus(row));
            }
            changes.entry(to).or_default().push(Change::Plus(row));
        }
        let doubt = self.settings.planning.doubt;
        let doubts = [Doubt::NONE, Doubt(1.0 - doubt), Doubt(1.0 + doubt)];
        let mut gains = [0.0; 3];
        let (mut before, mut left, mut there, mut overlap) = (0.0, 0.0, 0.0_f64, 0.0);
        let share = self.pool.ahead(0) as f64 / self.settings.window_ms.max(1) as f64;
        for (&at, changes) in &changes {
            for (gain, &doubt) in gains.iter_mut().zip(&doubts) {
                let now = self.pool.outlook(self.belief, at, &[], doubt);
                let then = self.pool.outlook(self.belief, at, changes, doubt);
                *gain += now.harm - then.harm;
                if doubt == Doubt::NONE {
                    if at == host {
                        (before, left) = (now.risk, then.risk);
                    } else {
                        there = there.max(then.risk);
                    }
                }
            }
            // Both replicas take their room until the move is done.
            let both = self.pool.overlap(self.belief, at, changes)
                - self.pool.overlap(self.belief, at, &[]);
            overlap += both.max(0.0) * share.min(1.0);
        }
        self.spend(changes.len() * 2);
        let (mut cost, mut rise, mut priority) = (overlap, 0.0, 0.0);
        for &(row, _) in moves {
            cost += select::price(self.settings, self.pool.instance(row));
            if self.pool.host_of(row) == Some(host) {
                rise += 20.0 * self.rise(row, host);
            }
            priority += match self.pool.instance(row).spec.priority {
                Priority::Low => 10.0,
                Priority::Normal => 0.0,
                Priority::High => -20.0,
            };
        }
        let gain_low = gains.iter().copied().fold(f64::INFINITY, f64::min);
        let parts = [100.0 * gains[0], rise, priority, -100.0 * cost];
        Found {
            moves: moves.to_vec(),
            gain: gains[0],
            gain_low,
            cost,
            cost_high: DEAR * cost,
            score: parts.iter().sum(),
            before,
            left,
            there,
            suffices: left <= self.accepted,
            parts,
        }
    }

    /// How much a row's demand rises over the window, as a share of the host's limit.
    pub fn rise(&self, row: usize, host: usize) -> f64 {
        let mut rise = 0.0_f64;
        for resource in Resource::ALL {
            let Some(limit) = self.pool.hosts()[host].limit(resource) else {
                continue;
            };
            let mean = |point| f64::from(self.pool.demand(row, resource, point).as_pair().0);
            let change = (mean(POINTS / 2) - mean(0)) / limit;
            if change.abs() > rise.abs() {
                rise = change;
            }
        }
        rise.clamp(-1.0, 1.0)
    }

    fn fits(&mut self, moves: &[(usize, usize)]) -> bool {
        let accepted = self.accepted_of_target();
        let mut changes: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
        for &(row, to) in moves {
            if place::forbidden(self.world, &self.pool, self.settings, row, to).is_some() {
                return false;
            }
            if let Some(from) = self.pool.host_of(row) {
                changes.entry(from).or_default().push(Change::Minus(row));
            }
            changes.entry(to).or_default().push(Change::Plus(row));
            let enemy = |&(other, too): &(usize, usize)| {
                let apart = &self.pool.instance(row).spec.anti_affinity;
                other != row && too == to && apart.contains(self.pool.id(other))
            };
            if moves.iter().any(enemy) {
                return false;
            }
        }
        // Several together: the migrations of each host, and their memory.
        for (&host, changes) in &changes {
            let coming: f64 = changes
                .iter()
                .filter_map(|change| match change {
                    Change::Plus(row) => Some(self.pool.instance(*row).spec.memory_bytes as f64),
                    Change::Minus(_) => None,
                })
                .sum();
            let target = &self.pool.hosts()[host];
            if target.in_flight + changes.len() > self.settings.max_per_host {
                return false;
            }
            let capacity = target.host.capacity.memory.unwrap_or(f64::INFINITY);
            if coming > 0.0 && target.memory + coming > capacity {
                return false;
            }
        }
        self.spend(changes.len());
        moves.iter().all(|&(_, to)| {
            place::crowded(&self.pool, self.belief, to, &changes[&to], accepted).is_none()
        })
    }

    /// Two moves together: pairs, swaps and chains, the best first.
    pub fn combined(&mut self, host: usize, singles: &[Found]) -> Vec<Found> {
        let mut candidates: Vec<usize> = Vec::new();
        let mut best_target: BTreeMap<usize, usize> = BTreeMap::new();
        for one in singles {
            let (row, to) = one.moves[0];
            best_target.entry(row).or_insert(to);
            if !candidates.contains(&row) && candidates.len() < COMBINED {
                candidates.push(row);
            }
        }
        if candidates.is_empty() {
            let (rows, _) = self.movable(host);
            candidates = select::ranked(&self.pool, self.belief, self.settings, host, rows);
            candidates.truncate(COMBINED);
        }
        let mut found = Vec::new();
        for (index, &one) in candidates.iter().enumerate() {
            for &other in &candidates[index + 1..] {
                let (Some(&to), Some(&too)) = (best_target.get(&one), best_target.get(&other))
                else {
                    continue;
                };
                self.try_together(host, &[(one, to), (other, too)], &mut found);
            }
        }
        let roomy: Vec<usize> = self
            .by_room
            .iter()
            .map(|&(_, target)| target)
            .filter(|&target| target != host)
            .take(COMBINED)
            .collect();
        for &row in &candidates {
            for &target in &roomy {
                if self.steps == 0 {
                    break;
                }
                let (mut others, _) = self.movable(target);
                others.truncate(COMBINED);
                for other in others {
                    self.try_together(host, &[(row, target), (other, host)], &mut found);
                    if let Some(&third) = roomy.iter().find(|&&third| third != target) {
                        self.try_together(host, &[(row, target), (other, third)], &mut found);
                    }
                }
            }
        }
        self.sort(&mut found);
        found
    }

    fn try_together(&mut self, host: usize, moves: &[(usize, usize)], found: &mut Vec<Found>) {
        if self.steps > 0 && self.fits(moves) {
            found.push(self.weigh(host, moves));
        }
    }

    /// Where an instance of a host that is being emptied goes: any host that may take it.
    pub fn refuge(&mut self, row: usize, host: usize) -> (Option<Found>, Vec<LeftOut>) {
        let (mut found, mut left_out) = (Vec::new(), Vec::new());
        self.try_targets(row, host, self.accepted, &mut found, &mut left_out);
        self.sort(&mut found);
        (found.into_iter().next(), left_out)
    }

    /// Exchanges what was chosen, as long as harm and cost together fall: for another instance of
    /// the same host, or for none.
    pub fn exchange(&mut self, host: usize, chosen: &mut Vec<(usize, usize)>, most: usize) {
        let mut better = true;
        while better && self.steps > 0 {
            better = false;
            for kept in subsets(chosen.len()) {
                let gone: Vec<(usize, usize)> = indexed(chosen, &kept, false);
                let stay: Vec<(usize, usize)> = indexed(chosen, &kept, true);
                // Take back what goes.
                for &(row, _) in &gone {
                    self.accept(&[(row, host)]);
                }
                let room = most.saturating_sub(stay.len());
                let best = self.replacement(host, &gone, room);
                match best {
                    Some(instead) if instead != gone => {
                        self.accept(&instead);
                        *chosen = stay.into_iter().chain(instead).collect();
                        better = true;
                        break;
                    }
                    Some(_) | None => self.accept(&gone),
                }
            }
        }
    }

    /// The best of: nothing, what was, one other, two others. What brings a little more but scores
    /// less stays out: priorities and rising demand have been weighed already.
    fn replacement(
        &mut self,
        host: usize,
        gone: &[(usize, usize)],
        room: usize,
    ) -> Option<Vec<(usize, usize)>> {
        let value = |found: &Found| found.gain - found.cost;
        let was = self.weigh(host, gone);
        let mut best = (value(&was) + 1e-9, None);
        let least = was.score;
        if 1e-9 > best.0 {
            best = (0.0, Some(Vec::new()));
        }
        if room == 0 {
            return best.1;
        }
        let (singles, _) = self.singles(host);
        for one in &singles {
            let better = value(one) > best.0 && one.score >= least;
            if better && one.is_worth_it(self.demanded) {
                best = (value(one), Some(one.moves.clone()));
            }
        }
        if room > 1 {
            let first: Vec<(usize, usize)> = singles
                .iter()
                .map(|one| one.moves[0])
                .take(COMBINED * 2)
                .collect();
            for (index, &one) in first.iter().enumerate() {
                for &other in &first[index + 1..] {
                    let pair = [one, other];
                    if one.0 == other.0 || self.steps == 0 || !self.fits(&pair) {
                        continue;
                    }
                    let both = self.weigh(host, &pair);
                    let better = value(&both) > best.0 && both.score >= least;
                    if better && both.is_worth_it(self.demanded) {
                        best = (value(&both), Some(pair.to_vec()));
                    }
                }
            }
        }
        best.1
    }
}

/// Which of `count` may be taken back at a time: each one, then each two.
fn subsets(count: usize) -> Vec<Vec<usize>> {
    let ones = (0..count).map(|one| vec![one]);
    let twos = (0..count).flat_map(|one| (one + 1..count).map(move |other| vec![one, other]));
    ones.chain(twos).collect()
}

fn indexed(chosen: &[(usize, usize)], gone: &[usize], stay: bool) -> Vec<(usize, usize)> {
    chosen
        .iter()
        .enumerate()
        .filter(|(index, _)| gone.contains(index) != stay)
        .map(|(_, &one)| one)
        .collect()
}
