//! What happens to the traffic.

use domain::Counts;

use super::traffic::Latencies;

/// What one side does to requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side {
    /// Share that fails.
    pub(crate) errors: f64,
    /// Whether latencies are multiplied by the cell's factor.
    pub(crate) slow: bool,
}

/// Who is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Struck {
    Nobody,
    Shadow,
    Both,
}

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    pub(crate) rate: f64,
    /// Share of failures in health.
    pub(crate) errors: f64,
    pub(crate) struck: Struck,
    pub(crate) from_s: u32,
    pub(crate) to_s: u32,
    /// Share of failures of who is struck.
    pub(crate) ill_errors: f64,
    /// Factor on the latencies of who is struck.
    pub(crate) slower: f64,
    pub(crate) runs: u64,
}

impl Cell {
    /// Original and shadow at a second.
    pub(crate) fn at(&self, second: u32) -> (Side, Side) {
        let healthy = Side {
            errors: self.errors,
            slow: false,
        };
        let ill = Side {
            errors: self.ill_errors,
            slow: self.slower > 1.0,
        };
        let now = (self.from_s..self.to_s).contains(&second);
        match self.struck {
            Struck::Shadow if now => (healthy, ill),
            Struck::Both if now => (ill, ill),
            Struck::Nobody | Struck::Shadow | Struck::Both => (healthy, healthy),
        }
    }

    /// Bad answers of the shadow beyond those of the original: failures, or requests beyond the
    /// healthy quantile 0.99 where latency is what is wrong.
    pub(crate) fn excess(&self, shadow: &Counts, original: Side, usual: &Latencies) -> f64 {
        if self.struck != Struck::Shadow {
            return 0.0;
        }
        if self.slower > 1.0 {
            let (edge, share) = usual.last_hundredth();
            let bad = shadow.latency.slower_than(edge) as f64;
            return bad - share * shadow.latency.total() as f64;
        }
        shadow.error as f64 - original.errors * shadow.ended() as f64
    }

    /// Whether there is an original to compare with when it begins.
    pub(crate) fn compared(&self) -> bool {
        self.struck != Struck::Both || self.from_s < 95
    }

    pub(crate) fn harmless(&self) -> bool {
        self.struck != Struck::Shadow
    }
}

const AA: Cell = Cell {
    name: "A/A 50 rps, 0.1 %",
    rate: 50.0,
    errors: 0.001,
    struck: Struck::Nobody,
    from_s: 0,
    to_s: u32::MAX,
    ill_errors: 0.0,
    slower: 1.0,
    runs: 200,
};

pub(crate) fn cells() -> [Cell; 9] {
    let ill = Cell {
        struck: Struck::Shadow,
        runs: 100,
        ..AA
    };
    let shared = Cell {
        struck: Struck::Both,
        from_s: 60,
        to_s: 95,
        ill_errors: AA.errors,
        ..AA
    };
    [
        AA,
        Cell {
            name: "A/A 50 rps, 0.9 %",
            errors: 0.009,
            ..AA
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
            name: "outage with all traffic",
            from_s: 110,
            to_s: 170,
            ill_errors: 0.1,
            ..shared
        },
        Cell {
            name: "errors x10, 50 rps",
            ill_errors: 0.01,
            ..ill
        },
        Cell {
            name: "errors x100, 500 rps",
            rate: 500.0,
            ill_errors: 0.1,
            runs: 60,
            ..ill
        },
        Cell {
            name: "latency x1.3, 50 rps",
            ill_errors: 0.001,
            slower: 1.3,
            ..ill
        },
        Cell {
            name: "late errors x10, 500 rps",
            rate: 500.0,
            from_s: 70,
            ill_errors: 0.01,
            runs: 60,
            ..ill
        },
    ]
}
