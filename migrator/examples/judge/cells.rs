//! What happens to the traffic.

use domain::Counts;
use foreshadow_migrator::simulate::{Dice, Latencies, Side, reports};

/// Who is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Struck {
    Nobody,
    Shadow,
    Both,
}

/// In which way requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// At an even rate.
    Even,
    /// The rate swings between a fifth and nine fifths in ten minutes; failures swing with it.
    Diurnal,
    /// Each side by itself: every ten minutes or so, two seconds in which half of all fails.
    Bursts,
    /// In sessions of ten that keep to their side; half of the requests of two in a hundred
    /// clients fail. The judge's unit is the session; the peers count requests.
    Sticky,
    /// What fails is tried twice more, and fails again half of the time. The judge counts first
    /// attempts; the peers count all.
    Retries,
}

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    pub(crate) rate: f64,
    /// Share of failures in health.
    pub(crate) errors: f64,
    pub(crate) shape: Shape,
    pub(crate) struck: Struck,
    pub(crate) from_s: u32,
    pub(crate) to_s: u32,
    /// Share of failures of who is struck.
    pub(crate) ill_errors: f64,
    /// Factor on the latencies of who is struck.
    pub(crate) slower: f64,
    /// Share of requests that stall.
    pub(crate) stalls: f64,
}

/// A side in a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Health {
    pub(crate) errors: f64,
    pub(crate) ill: bool,
}

/// What a second has brought to a side: requests, and what the judge is to count.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) requests: Counts,
    pub(crate) units: Option<Counts>,
}

impl Served {
    pub(crate) fn units(&self) -> &Counts {
        self.units.as_ref().unwrap_or(&self.requests)
    }
}

/// A cell under way.
pub(crate) struct World<'a> {
    cell: &'a Cell,
    dice: Dice,
    usual: Latencies,
    ill: Latencies,
    /// Until when a side's burst lasts.
    burst: [u32; 2],
    sessions: Vec<Session>,
}

struct Session {
    /// Where its hash lies between 0 and 1.
    hash: f64,
    bad: bool,
    left: u32,
    /// Whether a side has counted it already.
    known: [bool; 2],
}

impl Cell {
    /// Original and shadow at a second.
    pub(crate) fn at(&self, second: u32) -> (Health, Health) {
        let healthy = Health {
            errors: self.errors,
            ill: false,
        };
        let ill = Health {
            errors: self.ill_errors,
            ill: true,
        };
        let now = (self.from_s..self.to_s).contains(&second);
        match self.struck {
            Struck::Shadow if now => (healthy, ill),
            Struck::Both if now => (ill, ill),
            Struck::Nobody | Struck::Shadow | Struck::Both => (healthy, healthy),
        }
    }

    pub(crate) fn harmless(&self) -> bool {
        self.struck != Struck::Shadow
    }

    /// Bad answers that nobody can spare the users who knows of them only by reports: what comes in
    /// with the last weight of the ramp before the first report of harm that sets in then.
    pub(crate) fn floor(&self) -> f64 {
        const SOAK: f64 = 0.95;
        // Earlier ones set in at the weight that the budget affords.
        if self.harmless() || self.from_s < 250 {
            return 0.0;
        }
        self.rate * SOAK * (self.ill_errors - self.errors) / f64::from(reports(self.rate))
    }

    /// Whether what is wrong is that requests are slow.
    fn is_slow(&self) -> bool {
        self.slower > 1.0 || self.stalls > 0.0
    }
}

impl<'a> World<'a> {
    pub(crate) fn new(cell: &'a Cell, seed: u64) -> Self {
        Self {
            cell,
            dice: Dice::new(seed),
            usual: Latencies::new(1.0, 0.0),
            ill: Latencies::new(cell.slower, cell.stalls),
            burst: [0; 2],
            sessions: Vec::new(),
        }
    }

    /// Ten minutes of the original in health.
    pub(crate) fn baseline(&mut self) -> Counts {
        let mut baseline = Counts::default();
        if matches!(self.cell.shape, Shape::Even | Shape::Retries) {
            // All of it at once: nothing changes in it.
            let healthy = Health {
                errors: self.cell.errors,
                ill: false,
            };
            let [original, _] = self.serve(0, [1.0, 0.0], [healthy, healthy], 600.0);
            return original.units().clone();
        }
        for second in 0..600 {
            let [original, _] = self.healthy_second(second, [1.0, 0.0]);
            baseline.merge(original.units());
        }
        self.sessions.clear();
        baseline
    }

    fn healthy_second(&mut self, second: u32, shares: [f64; 2]) -> [Served; 2] {
        let healthy = Health {
            errors: self.cell.errors,
            ill: false,
        };
        self.serve(second, shares, [healthy, healthy], 1.0)
    }

    /// What original and shadow have answered in a part of a second, given their shares.
    pub(crate) fn part(&mut self, second: u32, shares: [f64; 2], part: f64) -> [Served; 2] {
        let (original, shadow) = self.cell.at(second);
        self.serve(second, shares, [original, shadow], part)
    }

    fn serve(
        &mut self,
        second: u32,
        shares: [f64; 2],
        health: [Health; 2],
        part: f64,
    ) -> [Served; 2] {
        if self.cell.shape == Shape::Sticky {
            return self.sticky(shares, part);
        }
        let swing = match self.cell.shape {
            Shape::Diurnal => 1.0 + 0.8 * (f64::from(second) * std::f64::consts::TAU / 600.0).sin(),
            Shape::Even | Shape::Bursts | Shape::Sticky | Shape::Retries => 1.0,
        };
        let rate = self.cell.rate * swing * part;
        let mut served = [Served::default(), Served::default()];
        for side in 0..2 {
            let mut errors = health[side].errors * swing;
            if self.cell.shape == Shape::Bursts {
                if self.dice.uniform() < part / 600.0 {
                    self.burst[side] = second + 2;
                }
                if second < self.burst[side] {
                    errors = 0.5;
                }
            }
            let latencies = if health[side].ill {
                &self.ill
            } else {
                &self.usual
            };
            let kind = Side { errors, latencies };
            let first = self.dice.serve(rate * shares[side], &kind);
            served[side].requests = first;
            if self.cell.shape == Shape::Retries {
                let first = served[side].requests.clone();
                let second = self.dice.binomial(first.error, 0.5);
                let third = self.dice.binomial(second, 0.5);
                served[side].requests.success += (first.error - second) + (second - third);
                served[side].requests.error += second + third;
                served[side].units = Some(first);
            }
        }
        served
    }

    fn sticky(&mut self, shares: [f64; 2], part: f64) -> [Served; 2] {
        const LENGTH: u32 = 10;
        let mut served = [Served::default(), Served::default()];
        let mut units = [Counts::default(), Counts::default()];
        for _ in 0..self.dice.poisson(self.cell.rate * part / f64::from(LENGTH)) {
            let session = Session {
                hash: self.dice.uniform(),
                bad: self.dice.uniform() < 0.02,
                left: LENGTH,
                known: [false; 2],
            };
            self.sessions.push(session);
        }
        for session in &mut self.sessions {
            // A request every six seconds or so.
            if self.dice.uniform() > part / 6.0 {
                continue;
            }
            session.left -= 1;
            let side = usize::from(session.hash < shares[1]);
            if side == 0 && shares[0] < 1.0 - shares[1] && self.dice.uniform() > shares[0] {
                continue;
            }
            let fails = if session.bad { 0.5 } else { self.cell.errors };
            let mut one = Counts::default();
            if self.dice.uniform() < fails {
                one.error = 1;
            } else {
                one.success = 1;
            }
            one.latency.record(5_000);
            served[side].requests.merge(&one);
            if !session.known[side] {
                session.known[side] = true;
                units[side].merge(&one);
            }
        }
        self.sessions.retain(|session| session.left > 0);
        for (served, units) in served.iter_mut().zip(units) {
            served.units = Some(units);
        }
        served
    }

    /// Bad answers of the shadow beyond those of the original: failures, or requests beyond the
    /// healthy quantile 0.99 where latency is what is wrong.
    pub(crate) fn excess(&self, shadow: &Counts, second: u32) -> f64 {
        // Before its onset it does no harm: what it fails then is chance, and as often less than more.
        let ill = (self.cell.from_s..self.cell.to_s).contains(&second);
        if self.cell.harmless() || !ill {
            return 0.0;
        }
        if self.cell.is_slow() {
            let edge = self.usual.last_hundredth();
            let bad = shadow.latency.slower_than(edge) as f64;
            return bad - self.usual.slower_than(edge) * shadow.latency.total() as f64;
        }
        shadow.error as f64 - self.cell.at(second).0.errors * shadow.ended() as f64
    }
}

const AA: Cell = Cell {
    name: "A/A 50 rps, 0.1 %",
    rate: 50.0,
    errors: 0.001,
    shape: Shape::Even,
    struck: Struck::Nobody,
    from_s: 0,
    to_s: u32::MAX,
    ill_errors: 0.001,
    slower: 1.0,
    stalls: 0.0,
};

pub(crate) fn cells() -> Vec<Cell> {
    let ill = Cell {
        struck: Struck::Shadow,
        ill_errors: 0.01,
        ..AA
    };
    let shared = Cell {
        struck: Struck::Both,
        from_s: 60,
        to_s: 360,
        ..AA
    };
    let aa = |name, rate, errors| Cell {
        name,
        rate,
        errors,
        ..AA
    };
    let shaped = |name, shape| Cell { name, shape, ..AA };
    let tenfold = |name, rate| Cell { name, rate, ..ill };
    let dies = |name, rate| Cell {
        name,
        rate,
        from_s: 300,
        ill_errors: 1.0,
        ..ill
    };
    let hundredfold = |name, rate| Cell {
        name,
        rate,
        ill_errors: 0.1,
        ..ill
    };
    vec![
        aa("A/A 0.5 rps", 0.5, 0.001),
        aa("A/A 5 rps", 5.0, 0.001),
        aa("A/A 50 rps, 0.1 %", 50.0, 0.001),
        aa("A/A 50 rps, 0.9 %", 50.0, 0.009),
        aa("A/A 500 rps", 500.0, 0.001),
        aa("A/A 5000 rps", 5_000.0, 0.001),
        shaped("A/A diurnal", Shape::Diurnal),
        shaped("A/A host bursts", Shape::Bursts),
        shaped("A/A sticky, bad clients", Shape::Sticky),
        Cell {
            errors: 0.009,
            ..shaped("A/A retries", Shape::Retries)
        },
        Cell {
            name: "shared outage",
            ill_errors: 0.1,
            ..shared
        },
        Cell {
            name: "shared slowdown x3",
            slower: 3.0,
            ..shared
        },
        Cell {
            name: "outage in the soak",
            from_s: 350,
            to_s: 410,
            ill_errors: 0.1,
            ..shared
        },
        tenfold("errors x10, 5 rps", 5.0),
        tenfold("errors x10, 50 rps", 50.0),
        tenfold("errors x10, 500 rps", 500.0),
        tenfold("errors x10, 5000 rps", 5_000.0),
        hundredfold("errors x100, 50 rps", 50.0),
        hundredfold("errors x100, 500 rps", 500.0),
        Cell {
            name: "latency x1.3, 50 rps",
            ill_errors: 0.001,
            slower: 1.3,
            ..ill
        },
        Cell {
            name: "latency x2, 50 rps",
            ill_errors: 0.001,
            slower: 2.0,
            ..ill
        },
        Cell {
            name: "stalls 2 %, 50 rps",
            ill_errors: 0.001,
            stalls: 0.02,
            ..ill
        },
        Cell {
            from_s: 70,
            ..tenfold("late x10, 500 rps, 70 s", 500.0)
        },
        Cell {
            from_s: 300,
            ..tenfold("late x10, 500 rps, 300 s", 500.0)
        },
        Cell {
            from_s: 300,
            ..tenfold("late x10, 5000 rps, 300 s", 5_000.0)
        },
        dies("dies at 300 s, 5 rps", 5.0),
        dies("dies at 300 s, 50 rps", 50.0),
        dies("dies at 300 s, 500 rps", 500.0),
    ]
}
