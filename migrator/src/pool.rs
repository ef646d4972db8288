//! The resource pool: hosts with what they give, instances with what they will need, as numbers.
//!
//! A [`Pool`] is the world compiled for deciding: demand as mean and variance per instance,
//! resource and point of the window, and their sums per host. What is moved on paper changes the
//! sums, so a plan sees the moves before it. Risk and harm of a host come from the sums and from
//! [`Belief`]:
//!
//! - **risk**: the highest probability, over resources and points, of a demand above the limit;
//! - **harm**: the expected share of the window in contention, plus the expected share of the
//!   demand that is not served in it, both weighted by what the host's instances are worth.

pub mod isolation;

use std::collections::BTreeMap;

use domain::{Host, HostId, Instance, InstanceId, InstanceState, Priority, Resource};

use crate::belief::Belief;
use crate::settings::Settings;
use crate::world::{Moments, World};

/// Points of the window that are looked at.
pub const POINTS: usize = 12;
/// Resources.
const RESOURCES: usize = Resource::ALL.len();

/// Mean and variance of one instance's demand of one resource at one point.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cell {
    mean: f32,
    variance: f32,
}

impl Cell {
    /// Its mean and variance.
    pub const fn as_pair(self) -> (f32, f32) {
        (self.mean, self.variance)
    }
}

/// Demand of several instances together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sum {
    /// Sum of the means.
    pub mean: f64,
    squares: f64,
    spreads: f64,
}

impl Sum {
    /// With one more.
    pub fn add(&mut self, cell: Cell) {
        let variance = f64::from(cell.variance);
        self.mean += f64::from(cell.mean);
        self.squares += variance;
        self.spreads += variance.sqrt();
    }

    /// Without one.
    pub fn remove(&mut self, cell: Cell) {
        let variance = f64::from(cell.variance);
        self.mean -= f64::from(cell.mean);
        self.squares = (self.squares - variance).max(0.0);
        self.spreads = (self.spreads - variance.sqrt()).max(0.0);
    }

    /// Its variance when errors correlate by `rho` on average.
    pub fn variance(&self, rho: f64) -> f64 {
        (self.squares + rho * (self.spreads * self.spreads - self.squares)).max(self.squares)
    }
}

/// A host.
#[derive(Debug)]
pub struct HostRow<'w> {
    /// Its record.
    pub host: &'w Host,
    /// Migrations to and from it: under way, and on paper.
    pub in_flight: usize,
    limits: [Option<f64>; RESOURCES],
    /// Why its capacity cannot be trusted, if so.
    pub distrusted: Option<String>,
    weight: f64,
    /// Bytes of memory that are spoken for.
    pub memory: f64,
}

impl HostRow<'_> {
    /// What may be used of a resource, if it is watched.
    pub fn limit(&self, resource: Resource) -> Option<f64> {
        self.limits[resource as usize]
    }
}

#[derive(Debug)]
struct Row<'w> {
    instance: &'w Instance,
    /// Where it is (or will be, once the moves under way are done); `None` off every known host.
    host: Option<usize>,
    /// Where it runs until a move is done.
    home: Option<usize>,
    moving: bool,
    forecast: bool,
}

/// What hosts and instances are worth and do to each other, in numbers.
#[derive(Debug)]
pub struct Pool<'w> {
    hosts: Vec<HostRow<'w>>,
    rows: Vec<Row<'w>>,
    by_host: Vec<Vec<usize>>,
    /// Rows that run on a host and are leaving it.
    gone: Vec<Vec<usize>>,
    by_id: BTreeMap<&'w InstanceId, usize>,
    demand: Vec<[Cell; POINTS]>,
    sums: Vec<[Sum; POINTS]>,
    /// Demand at the first point of what is leaving a host but still there.
    leaving: Vec<[Sum; RESOURCES]>,
    ahead: [u64; POINTS],
    weights: [f64; POINTS],
    correlation: [f64; RESOURCES],
    excess_weight: f64,
}

/// A change on paper: this instance gone from a host, or come to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It leaves.
    Minus(usize),
    /// It comes.
    Plus(usize),
}

/// How sure a look is taken: the spread of the demand as believed, or wider or narrower.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Doubt(pub f64);

impl Doubt {
    /// As believed.
    pub const NONE: Self = Self(1.0);
}

/// Risk and harm of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outlook {
    /// Highest probability of contention at any point.
    pub risk: f64,
    /// See the module.
    pub harm: f64,
}

/// What an instance is worth.
pub const fn worth(priority: Priority) -> f64 {
    match priority {
        Priority::Low => 0.5,
        Priority::Normal => 1.0,
        Priority::High => 2.0,
    }
}

/// The points of a window, in milliseconds ahead: closer together where it begins.
pub fn points(lead_ms: u64, window_ms: u64) -> [u64; POINTS] {
    std::array::from_fn(|point| {
        let last = (POINTS - 1) as u64;
        let point = point as u64;
        lead_ms
            + window_ms / (last * last) * (point * point)
            + window_ms % (last * last) * (point * point) / (last * last)
    })
}

/// Share of the window that each point stands for.
fn weights(ahead: &[u64; POINTS]) -> [f64; POINTS] {
    let whole = (ahead[POINTS - 1] - ahead[0]).max(1) as f64;
    std::array::from_fn(|point| {
        let from = ahead[point.saturating_sub(1)];
        let to = ahead[(point + 1).min(POINTS - 1)];
        ((to - from) as f64 / 2.0 / whole).max(1e-9)
    })
}

impl<'w> Pool<'w> {
    /// Compiles a world.
    pub fn compile(world: &'w World, settings: &Settings, belief: &Belief) -> Self {
        let ahead = points(world.lead_ms(settings.lead_ms), settings.window_ms);
        let index: BTreeMap<&HostId, usize> = world.hosts.keys().zip(0..).collect();
        let mut pool = Self {
            hosts: world
                .hosts
                .values()
                .map(|host| host_row(host, settings))
                .collect(),
            rows: Vec::with_capacity(world.instances.len()),
            by_host: vec![Vec::new(); world.hosts.len()],
            gone: vec![Vec::new(); world.hosts.len()],
            by_id: BTreeMap::new(),
            demand: Vec::with_capacity(world.instances.len() * RESOURCES),
            sums: vec![<[Sum; POINTS]>::default(); world.hosts.len() * RESOURCES],
            leaving: vec![<[Sum; RESOURCES]>::default(); world.hosts.len()],
            weights: weights(&ahead),
            ahead,
            correlation: Resource::ALL.map(|resource| belief.correlation(resource)),
            excess_weight: settings.planning.excess_weight,
        };
        let moving: BTreeMap<&InstanceId, &HostId> = world
            .migrations
            .iter()
            .map(|migration| (&migration.instance, &migration.target))
            .collect();
        for (id, instance) in &world.instances {
            pool.take_in(world, id, instance, &index, moving.get(id).copied());
        }
        pool.count_held(world, &index);
        pool.weigh();
        pool
    }

    fn take_in(
        &mut self,
        world: &'w World,
        id: &'w InstanceId,
        instance: &'w Instance,
        index: &BTreeMap<&HostId, usize>,
        target: Option<&HostId>,
    ) {
        if instance.state != InstanceState::Running {
            return;
        }
        let row = self.rows.len();
        let here = index.get(&instance.replica.host).copied();
        let there = target.and_then(|target| index.get(target).copied());
        let mut forecast = true;
        for resource in Resource::ALL {
            let watched = here
                .is_none_or(|host| self.hosts[host].limits[resource as usize].is_some())
                || there.is_some();
            let cells = if watched {
                let (cells, known) = cells(world, id, resource, &self.ahead);
                forecast &= known;
                cells
            } else {
                <[Cell; POINTS]>::default()
            };
            self.demand.push(cells);
        }
        let memory = instance.spec.memory_bytes as f64;
        for host in [here, there].into_iter().flatten() {
            self.hosts[host].memory += memory;
        }
        self.rows.push(Row {
            instance,
            host: there.or(here),
            home: here,
            moving: target.is_some(),
            forecast,
        });
        self.by_id.insert(id, row);
        if let Some(host) = there.or(here) {
            self.by_host[host].push(row);
            self.shift(host, Change::Plus(row));
        }
        if let (Some(here), Some(there)) = (here, there)
            && here != there
        {
            self.leave(row, here, Change::Plus(row));
        }
        for host in [here, there].into_iter().flatten() {
            if target.is_some() {
                self.hosts[host].in_flight += 1;
            }
        }
    }

    /// What is held for migrations that nobody drives now (parked ones) takes its room too.
    fn count_held(&mut self, world: &World, index: &BTreeMap<&HostId, usize>) {
        for held in &world.reservations {
            let Some(&host) = index.get(&held.host) else {
                continue;
            };
            if world.migrations.iter().any(|m| m.id == held.migration) {
                continue;
            }
            self.hosts[host].memory += held.amount.memory.max(0.0);
            for resource in Resource::ALL {
                let amount = held.amount.get(resource).max(0.0);
                for sum in &mut self.sums[host * RESOURCES + resource as usize] {
                    sum.mean += amount;
                }
            }
        }
    }

    fn weigh(&mut self) {
        for (host, rows) in self.by_host.iter().enumerate() {
            let (mut weighted, mut all) = (0.0, 0.0);
            for &row in rows {
                let share = 1.0 + f64::from(self.demand[row * RESOURCES][0].mean);
                weighted += share * worth(self.rows[row].instance.spec.priority);
                all += share;
            }
            self.hosts[host].weight = if all > 0.0 { weighted / all } else { 1.0 };
        }
    }

    /// The hosts, by id.
    pub fn hosts(&self) -> &[HostRow<'w>] {
        &self.hosts
    }

    /// Number of running instances.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing runs.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// An instance by its row.
    pub fn instance(&self, row: usize) -> &'w Instance {
        self.rows[row].instance
    }

    /// An instance's id.
    pub fn id(&self, row: usize) -> &'w InstanceId {
        &self.rows[row].instance.spec.id
    }

    /// The row of an instance.
    pub fn row(&self, id: &InstanceId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The host that a row is on, on paper.
    pub fn host_of(&self, row: usize) -> Option<usize> {
        self.rows[row].host
    }

    /// Whether a migration of it is under way.
    pub fn is_moving(&self, row: usize) -> bool {
        self.rows[row].moving
    }

    /// Whether every watched resource of it is forecast.
    pub fn is_forecast(&self, row: usize) -> bool {
        self.rows[row].forecast
    }

    /// Rows on a host, on paper.
    pub fn on_host(&self, host: usize) -> &[usize] {
        &self.by_host[host]
    }

    /// Rows on a host, on paper, and those that are leaving it but still there.
    pub fn around(&self, host: usize) -> impl Iterator<Item = usize> + '_ {
        self.by_host[host].iter().chain(&self.gone[host]).copied()
    }

    /// Rows that run on a host and stay there for now.
    pub fn running_on(&self, host: usize) -> impl Iterator<Item = usize> + '_ {
        self.by_host[host]
            .iter()
            .copied()
            .filter(|&row| !self.rows[row].moving)
    }

    /// Milliseconds ahead of a point.
    pub fn ahead(&self, point: usize) -> u64 {
        self.ahead[point]
    }

    /// Demand of a row.
    pub fn demand(&self, row: usize, resource: Resource, point: usize) -> Cell {
        self.demand[row * RESOURCES + resource as usize][point]
    }

    /// Mean demand on a host.
    pub fn expected(&self, host: usize, resource: Resource, point: usize) -> f64 {
        self.sums[host * RESOURCES + resource as usize][point].mean
    }

    fn shift(&mut self, host: usize, change: Change) {
        let (Change::Minus(row) | Change::Plus(row)) = change;
        for resource in 0..RESOURCES {
            let cells = &self.demand[row * RESOURCES + resource];
            let sums = &mut self.sums[host * RESOURCES + resource];
            for (sum, cell) in sums.iter_mut().zip(cells) {
                match change {
                    Change::Minus(_) => sum.remove(*cell),
                    Change::Plus(_) => sum.add(*cell),
                }
            }
        }
    }

    /// Moves an instance on paper. It keeps its room where it runs until the move is done.
    pub fn relocate(&mut self, row: usize, to: usize) {
        let memory = self.rows[row].instance.spec.memory_bytes as f64;
        let home = self.rows[row].home;
        if let Some(from) = self.rows[row].host {
            self.by_host[from].retain(|&other| other != row);
            self.shift(from, Change::Minus(row));
            if home == Some(from) {
                self.leave(row, from, Change::Plus(row));
                self.hosts[from].in_flight += 1;
            } else {
                self.hosts[from].memory -= memory;
                self.hosts[from].in_flight -= 1;
            }
        }
        self.by_host[to].push(row);
        self.shift(to, Change::Plus(row));
        if home == Some(to) {
            self.leave(row, to, Change::Minus(row));
            self.hosts[to].in_flight -= 1;
        } else {
            self.hosts[to].memory += memory;
            self.hosts[to].in_flight += 1;
        }
        self.rows[row].host = Some(to);
    }

    /// Notes that a row is leaving a host, or is not.
    fn leave(&mut self, row: usize, host: usize, change: Change) {
        match change {
            Change::Plus(_) => self.gone[host].push(row),
            Change::Minus(_) => self.gone[host].retain(|&other| other != row),
        }
        for resource in 0..RESOURCES {
            let cell = self.demand[row * RESOURCES + resource][0];
            match change {
                Change::Plus(_) => self.leaving[host][resource].add(cell),
                Change::Minus(_) => self.leaving[host][resource].remove(cell),
            }
        }
    }

    /// Risk and harm of a host after some changes.
    pub fn outlook(
        &self,
        belief: &Belief,
        host: usize,
        changes: &[Change],
        doubt: Doubt,
    ) -> Outlook {
        let mut outlook = Outlook::default();
        let mut harm = [0.0_f64; POINTS];
        for resource in Resource::ALL {
            let Some(limit) = self.hosts[host].limit(resource) else {
                continue;
            };
            let rho = self.correlation[resource as usize];
            let sums = &self.sums[host * RESOURCES + resource as usize];
            for (point, (&sum, harm)) in sums.iter().zip(&mut harm).enumerate() {
                let mut sum = sum;
                for &change in changes {
                    match change {
                        Change::Minus(row) => sum.remove(self.demand(row, resource, point)),
                        Change::Plus(row) => sum.add(self.demand(row, resource, point)),
                    }
                }
                let (probability, excess) = exceed(belief, sum, rho, doubt, resource, point, limit);
                outlook.risk = outlook.risk.max(probability);
                let here = probability + self.excess_weight * (excess / limit).min(1.0);
                *harm = harm.max(here);
            }
        }
        let mean: f64 = harm.iter().zip(self.weights).map(|(h, w)| h * w).sum();
        outlook.harm = mean * self.hosts[host].weight;
        outlook
    }

    /// Probability of contention per point of one resource, and when it is first above `risk`.
    pub fn look(
        &self,
        belief: &Belief,
        host: usize,
        resource: Resource,
        risk: f64,
    ) -> Option<(usize, f64)> {
        let limit = self.hosts[host].limit(resource)?;
        let rho = self.correlation[resource as usize];
        let sums = &self.sums[host * RESOURCES + resource as usize];
        sums.iter().enumerate().find_map(|(point, &sum)| {
            let (probability, _) = exceed(belief, sum, rho, Doubt::NONE, resource, point, limit);
            (probability > risk).then_some((point, probability))
        })
    }

    /// Highest probability of contention while a move to `host` is under way: what is leaving the
    /// host is still there, and what comes has come.
    pub fn overlap(&self, belief: &Belief, host: usize, changes: &[Change]) -> f64 {
        let mut highest = 0.0_f64;
        for resource in Resource::ALL {
            let Some(limit) = self.hosts[host].limit(resource) else {
                continue;
            };
            let mut sum = self.sums[host * RESOURCES + resource as usize][0];
            let leaving = self.leaving[host][resource as usize];
            sum.mean += leaving.mean;
            sum.squares += leaving.squares;
            sum.spreads += leaving.spreads;
            for &change in changes {
                if let Change::Plus(row) = change {
                    sum.add(self.demand(row, resource, 0));
                }
            }
            let rho = self.correlation[resource as usize];
            let (probability, _) = exceed(belief, sum, rho, Doubt::NONE, resource, 0, limit);
            highest = highest.max(probability);
        }
        highest
    }

    /// Share of a host's limits that is used at its upper end: the fullest resource at any point.
    pub fn fullness(&self, host: usize) -> f64 {
        let mut fullest = 0.0_f64;
        for resource in Resource::ALL {
            let Some(limit) = self.hosts[host].limit(resource) else {
                continue;
            };
            let rho = self.correlation[resource as usize];
            for sum in &self.sums[host * RESOURCES + resource as usize] {
                let upper = sum.mean + 1.645 * sum.variance(rho).sqrt();
                fullest = fullest.max(upper / limit);
            }
        }
        fullest
    }

    /// Mean share of the processors' limits that is in use over the window.
    pub fn load(&self) -> f64 {
        let (mut used, mut given) = (0.0, 0.0);
        for (host, row) in self.hosts.iter().enumerate() {
            if let Some(limit) = row.limit(Resource::Cpu) {
                given += limit;
                used += self.expected(host, Resource::Cpu, POINTS / 2);
            }
        }
        if given > 0.0 { used / given } else { 0.0 }
    }
}

fn exceed(
    belief: &Belief,
    sum: Sum,
    rho: f64,
    doubt: Doubt,
    resource: Resource,
    point: usize,
    limit: f64,
) -> (f64, f64) {
    let variance = sum.variance(rho);
    if variance <= f64::EPSILON {
        let over = sum.mean - limit;
        return if over > 0.0 { (1.0, over) } else { (0.0, 0.0) };
    }
    let spread = variance.sqrt() * doubt.0;
    let (probability, beyond) = belief
        .tail(resource, point)
        .beyond((limit - sum.mean) / spread);
    (probability, beyond * spread)
}

fn host_row<'w>(host: &'w Host, settings: &Settings) -> HostRow<'w> {
    let mut distrusted = None;
    let limits = Resource::ALL.map(|resource| {
        let capacity = (*host.capacity.get(resource))?;
        if !(capacity.is_finite() && capacity > 0.0) {
            distrusted = Some(format!(
                "it reports {capacity} {} of {resource}; allowed is a number above 0",
                resource.unit()
            ));
            return None;
        }
        Some(capacity * settings.utilisation_limit)
    });
    HostRow {
        host,
        in_flight: 0,
        limits,
        distrusted,
        weight: 1.0,
        memory: 0.0,
    }
}

/// Demand per point, and whether it is a forecast.
fn cells(
    world: &World,
    id: &InstanceId,
    resource: Resource,
    ahead: &[u64; POINTS],
) -> ([Cell; POINTS], bool) {
    #[expect(clippy::cast_possible_truncation, reason = "seven digits are enough")]
    let cell = |(mean, variance): (f64, f64)| Cell {
        mean: mean as f32,
        variance: variance as f32,
    };
    if let Some(forecast) = world.forecast(id, resource) {
        let age = world.at.since(forecast.issued_at);
        let moments = Moments::of(forecast);
        (ahead.map(|ahead| cell(moments.at(ahead + age))), true)
    } else {
        let now = world.present_demand(id, resource).unwrap_or(0.0);
        ([cell((now, 0.0)); POINTS], false)
    }
}
