//! `make bench-judge`: our judge beside the rules of its peers on the same simulated traffic.
//!
//! Requests arrive as a Poisson process, fail independently, and take lognormal times (median 5 ms,
//! sigma 0.8); the cells say what else happens. Every run has its own seed, the same for every
//! rule. The peers' rules are written down anew from their documentation and source (`peers`); none
//! of their programs runs here. Reports come without delay: peers know every second what it brought,
//! our judge every quarter of a second, as data planes report by default, or more often where they
//! have much to report (`simulate::reports`). Harm sets in just after a report, which is the worst moment there is.
//!
//! `--ramps N` is the number of ramps of a cell; rules that do not bet are run for at most
//! `--peers N` of them. `--only WORD` takes the cells with that word.
//! `--seed N` is the first seed: the default one is what the judge was tuned on. `--html FILE` writes
//! a page.

mod cells;
mod html;
mod ours;
mod peers;
mod report;
#[cfg(test)]
mod tests;

use cells::{Cell, Served, World, cells};
use foreshadow_migrator::simulate::End;
use report::Row;

/// A rule that shifts traffic and judges it.
trait Rule {
    /// Share of the traffic that the shadow gets now.
    fn shadow_share(&self) -> f64;
    /// Share of the traffic that the rule compares it with.
    fn original_share(&self) -> f64;
    /// How many looks it takes a second.
    fn looks(&self) -> u32 {
        1
    }
    /// What the time since the last look has brought; an answer ends the ramp.
    fn look(&mut self, original: &Served, shadow: &Served) -> Option<End>;
}

/// How a run came out.
#[derive(Debug, Clone, Copy)]
struct Run {
    end: Option<End>,
    /// Seconds from the onset to the end.
    after_s: f64,
    /// Seconds from the onset until the shadow had no more than 2 % of the traffic, or about a request a
    /// second if that is more.
    lowered_s: f64,
    /// Bad answers of the shadow beyond what the original would have given.
    excess: f64,
}

/// No ramp is followed for longer, in seconds: peers, and ours.
const LONGEST: u32 = 10_800;
const LONGEST_OURS: u32 = 2_400;

fn run(cell: &Cell, make: Make, seed: u64, longest: u32) -> Run {
    let mut world = World::new(cell, seed);
    let baseline = World::new(cell, seed ^ 0xba5e).baseline();
    let mut rule = make(cell, baseline);
    let mut excess = 0.0;
    let mut lowered_s = f64::INFINITY;
    let looks = rule.looks();
    // Less than about a request a second would tell nothing any more.
    let least = (1.2 / cell.rate).max(0.02);
    for look in 0..longest * looks {
        let second = look / looks;
        let after_s = f64::from(look + 1) / f64::from(looks) - f64::from(cell.from_s);
        let shares = [rule.original_share(), rule.shadow_share()];
        let [original, shadow] = world.part(second, shares, 1.0 / f64::from(looks));
        excess += world.excess(&shadow.requests, second);
        let end = rule.look(&original, &shadow);
        if after_s > 0.0 && rule.shadow_share() <= least {
            lowered_s = lowered_s.min(after_s);
        }
        if end.is_some() {
            return Run {
                end,
                after_s: after_s.max(0.0),
                lowered_s,
                excess,
            };
        }
    }
    Run {
        end: None,
        after_s: f64::INFINITY,
        lowered_s,
        excess,
    }
}

pub(crate) fn main() {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("{reason}");
            std::process::exit(2);
        }
    };
    report::head();
    let mut rows: Vec<Row> = Vec::new();
    for cell in cells() {
        if !cell.name.contains(&options.only) {
            continue;
        }
        for (index, (name, make)) in rules().into_iter().enumerate() {
            let ours = index == 0;
            let (ramps, longest) = if ours {
                (options.ramps, LONGEST_OURS)
            } else {
                (options.ramps.min(options.peers), LONGEST)
            };
            if ramps == 0 {
                continue;
            }
            let began = std::time::Instant::now();
            let runs: Vec<Run> = (0..ramps)
                .map(|number| {
                    let seed = options.seed.wrapping_add(number.wrapping_mul(1_000_003));
                    run(&cell, make, seed, longest)
                })
                .collect();
            let row = Row::new(&cell, name, &runs, began.elapsed().as_secs_f64());
            row.print();
            rows.push(row);
        }
    }
    report::promises(&rows, report::tick_us());
    if let Some(path) = options.html {
        match std::fs::write(&path, html::page(&rows)) {
            Ok(()) => println!("page {path}"),
            Err(error) => eprintln!("{path}: {error}"),
        }
    }
}

struct Options {
    ramps: u64,
    peers: u64,
    only: String,
    seed: u64,
    html: Option<String>,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            ramps: 200,
            peers: 100,
            only: String::new(),
            seed: 17,
            html: None,
        };
        while let Some(word) = words.next() {
            let value = words
                .next()
                .ok_or_else(|| format!("{word} needs a value"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{word} is {value}; allowed is a whole number"))
            };
            match word.as_str() {
                "--ramps" => options.ramps = number()?,
                "--peers" => options.peers = number()?,
                "--seed" => options.seed = number()?,
                "--only" => options.only = value,
                "--html" => options.html = Some(value),
                other => {
                    return Err(format!(
                        "{other}: allowed are --ramps, --peers, --only, --seed, --html"
                    ));
                }
            }
        }
        Ok(options)
    }
}

type Make = fn(&Cell, domain::Counts) -> Box<dyn Rule>;

fn rules() -> [(&'static str, Make); 6] {
    [
        (report::OURS, |cell, baseline| {
            Box::new(ours::Ours::new(cell, baseline))
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
