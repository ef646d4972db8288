//! What happened in many seeds, as a table, and whether it was enough to mean anything.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::{Counters, Report};

/// Sums over seeds.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) seeds: u64,
    pub(crate) violations: usize,
    pub(crate) simulated_ms: u64,
    /// Seeds whose world had a network, and the streams that were opened over it.
    networks: u64,
    streams: u64,
    outcomes: BTreeMap<&'static str, u64>,
    answers: u64,
    sum: Counters,
}

impl Totals {
    /// Seeds from `from`, on as many threads as there are processors; each has its own runtime.
    /// What a seed breaks is printed with the seed.
    pub(crate) fn explore(from: u64, count: u64, run: impl Fn(u64) -> Report + Sync) -> Self {
        let next = AtomicU64::new(from);
        let totals = Mutex::new(Self::default());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= from + count {
                            return;
                        }
                        let report = run(seed);
                        for violation in &report.violations {
                            println!("seed {seed}: {violation}");
                        }
                        totals.lock().unwrap().add(&report);
                    }
                });
            }
        });
        totals.into_inner().unwrap()
    }

    pub(crate) fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.violations += report.violations.len();
        self.simulated_ms += report.simulated_ms;
        self.answers += report.answers;
        self.networks += u64::from(report.streams > 0);
        self.streams += report.streams;
        for (phase, count) in &report.outcomes {
            *self.outcomes.entry(phase).or_default() += count;
        }
        let (sum, one) = (&mut self.sum, &report.counters);
        sum.requests += one.requests;
        sum.explained += one.explained;
        sum.by_shadow += one.by_shadow;
        sum.store_faults += one.store_faults;
        sum.driver_faults += one.driver_faults;
        sum.late += one.late;
        sum.zombies.store += one.zombies.store;
        sum.zombies.driver += one.zombies.driver;
        sum.zombies.xds += one.zombies.xds;
        for (fault, count) in &one.faults {
            *sum.faults.entry(fault).or_default() += count;
        }
    }

    /// The same of worlds whose store was away: something was under way then, and ended.
    pub(crate) fn too_little_without_a_store(&self) -> Option<String> {
        let least = [
            (
                "migrations done",
                self.outcomes.get("done").copied(),
                self.seeds,
            ),
            ("requests", Some(self.sum.requests), self.seeds * 20_000),
            (
                "calls to the store that went wrong",
                Some(self.sum.store_faults),
                self.seeds * 100,
            ),
        ];
        let found = least.map(|(what, found, wanted)| (what, found.unwrap_or(0), wanted));
        let short = { found.into_iter() }.find(|(_, found, wanted)| found < wanted);
        short.map(|(what, found, wanted)| format!("{found} {what}, at least {wanted} are wanted"))
    }

    /// Acts of deposed leaders that arrived and were refused.
    pub(crate) fn zombies(&self) -> u64 {
        self.sum.zombies.all()
    }

    /// What there is too little of, if there is: a world in which nothing happens passes nothing.
    pub(crate) fn too_little(&self) -> Option<String> {
        let of = |name| self.outcomes.get(name).copied().unwrap_or(0);
        let faults: u64 = self.sum.faults.values().sum();
        let least = [
            ("streams over a network", self.streams, self.networks * 3),
            ("migrations done", of("done"), self.seeds / 2),
            ("migrations rolled back", of("rolled back"), self.seeds / 8),
            ("faults", faults, self.seeds),
            ("requests", self.sum.requests, self.seeds * 1_000),
            (
                "requests answered by a shadow",
                self.sum.by_shadow,
                self.seeds * 20,
            ),
            (
                "calls to the store that went wrong",
                self.sum.store_faults,
                self.seeds / 2,
            ),
            (
                "calls to the driver that went wrong",
                self.sum.driver_faults,
                self.seeds / 8,
            ),
            ("late calls", self.sum.late, self.seeds / 50),
            (
                "acts of deposed leaders",
                self.sum.zombies.all(),
                self.seeds / 4,
            ),
            (
                "acts of deposed leaders at the store",
                self.sum.zombies.store,
                self.seeds / 20,
            ),
            (
                "acts of deposed leaders at the driver",
                self.sum.zombies.driver,
                self.seeds / 50,
            ),
        ];
        let short = least.into_iter().find(|(_, found, wanted)| found < wanted);
        short.map(|(what, found, wanted)| format!("{found} {what}, at least {wanted} are wanted"))
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<&'static str, u64>| {
            let each = counts.iter().map(|(name, count)| format!("{name} {count}"));
            each.collect::<Vec<_>>().join(", ")
        };
        writeln!(
            f,
            "migrations: {}; answers given while parked: {}",
            list(&self.outcomes),
            self.answers
        )?;
        writeln!(f, "faults: {}", list(&self.sum.faults))?;
        writeln!(
            f,
            "worlds with a network: {}, with {} streams over HTTP/2",
            self.networks, self.streams
        )?;
        let Counters {
            requests,
            explained,
            by_shadow,
            ..
        } = &self.sum;
        writeln!(
            f,
            "requests: {requests}, {by_shadow} answered by shadows, {explained} failed by a shadow that was made bad"
        )?;
        let Counters {
            store_faults,
            driver_faults,
            late,
            zombies,
            ..
        } = &self.sum;
        writeln!(
            f,
            "calls gone wrong: {store_faults} to the store, {driver_faults} to the driver; {late} landed late"
        )?;
        writeln!(
            f,
            "zombies: {} acts of deposed leaders were refused: {} by the store, {} by the driver, {} by the control plane",
            zombies.all(),
            zombies.store,
            zombies.driver,
            zombies.xds
        )
    }
}
