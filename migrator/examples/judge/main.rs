//! `make bench-judge`: our judge beside the rules of its peers on the same simulated traffic.
//!
//! Requests arrive as a Poisson process, fail independently, and take lognormal times (median 5 ms,
//! sigma 0.8). Every run has its own seed, the same for every rule. The peers' rules are written
//! down anew from their documentation and source (`peers`); none of their programs runs here.

mod cells;
mod ours;
mod peers;
mod report;
mod traffic;

use cells::{Cell, cells};
use report::Row;
use traffic::{Dice, Latencies};

/// A rule that shifts traffic and judges it.
trait Rule {
    /// Share of the traffic that the shadow gets now.
    fn shadow_share(&self) -> f64;
    /// Share of the traffic that the rule compares it with.
    fn original_share(&self) -> f64;
    /// What a second has brought; an answer ends the ramp.
    fn second(&mut self, original: &domain::Counts, shadow: &domain::Counts) -> Option<End>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    RolledBack,
    Promoted,
}

/// How a run came out.
#[derive(Debug, Clone, Copy)]
struct Run {
    rolled_back: bool,
    /// Seconds from the onset to the roll-back.
    after_s: f64,
    /// Bad answers of the shadow beyond what the original would have given.
    excess: f64,
}

/// No ramp is followed for longer, in seconds.
const LONGEST: u32 = 10_800;

fn run(cell: &Cell, rule: &mut dyn Rule, seed: u64) -> Run {
    let mut dice = Dice::new(seed);
    let (usual, slow) = (Latencies::new(1.0), Latencies::new(cell.slower));
    let mut excess = 0.0;
    for second in 0..LONGEST {
        let (of_original, of_shadow) = cell.at(second);
        let latencies = |side: cells::Side| if side.slow { &slow } else { &usual };
        let rate = |share: f64| cell.rate * share;
        let original = dice.serve(
            rate(rule.original_share()),
            of_original.errors,
            latencies(of_original),
        );
        let shadow = dice.serve(
            rate(rule.shadow_share()),
            of_shadow.errors,
            latencies(of_shadow),
        );
        excess += cell.excess(&shadow, of_original, &usual);
        match rule.second(&original, &shadow) {
            Some(End::Promoted) => break,
            Some(End::RolledBack) => {
                return Run {
                    rolled_back: true,
                    after_s: f64::from((second + 1).saturating_sub(cell.from_s)),
                    excess,
                };
            }
            None => {}
        }
    }
    Run {
        rolled_back: false,
        after_s: f64::INFINITY,
        excess,
    }
}

fn main() {
    report::head();
    let mut rows: Vec<Row> = Vec::new();
    for cell in cells() {
        for (name, rule) in rules() {
            let runs: Vec<Run> = (0..cell.runs)
                .map(|number| run(&cell, rule(&cell, number).as_mut(), number * 1_000_003 + 17))
                .collect();
            let row = Row::new(&cell, name, &runs);
            row.print();
            rows.push(row);
        }
    }
    report::promises(&rows);
}

type Make = fn(&Cell, u64) -> Box<dyn Rule>;

fn rules() -> [(&'static str, Make); 6] {
    [
        ("foreshadow", |cell, seed| {
            Box::new(ours::Ours::new(cell, seed))
        }),
        ("flagger docs (10)", |_, _| {
            Box::new(peers::Flagger::new(10))
        }),
        ("flagger unset (1)", |_, _| Box::new(peers::Flagger::new(1))),
        ("argo docs", |_, _| Box::new(peers::Argo::new())),
        ("kayenta 3h/1h", |_, _| {
            Box::new(peers::Kayenta::new(60, 3_600, 10_800))
        }),
        ("kayenta 15m/5m", |_, _| {
            Box::new(peers::Kayenta::new(5, 300, 900))
        }),
    ]
}
