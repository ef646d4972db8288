//! How many copied requests it takes to see that a shadow is not like its original, and how often a
//! good one is accused: `make bench-pairs`.
//!
//! The traffic is simulated, the bets are production's. The peer is the same bet on *split*
//! traffic: each side answers requests of its own, and the i-th of one is put beside the i-th of the
//! other. It sees latency through the spread of the requests, and of the answers nothing but their
//! status. Ends with a line per promise.
#![allow(clippy::print_stdout, missing_docs, reason = "a bench prints")]

use domain::Pairs;
use foreshadow_migrator::pairs::{Finding, PairSettings, judge};

/// Runs of a cell with a bad shadow, and of one with a good shadow.
const RUNS: u64 = 1_000;
const GOOD_RUNS: u64 = 10_000;
/// Pairs after which a bad shadow counts as missed, and a good one as accepted.
const MOST: u64 = 5_000;
const GOOD_MOST: u64 = 600;
/// Spread of the requests' cost, and of one side's time for the same request (of a logarithm).
const COST: f64 = 0.5;
const SPREAD: f64 = 0.15;

/// SplitMix64: no dependency, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn hits(&mut self, share: f64) -> bool {
        self.next() < share
    }

    fn normal(&mut self) -> f64 {
        let sum: f64 = (0..12).map(|_| self.next()).sum();
        sum - 6.0
    }
}

/// How a shadow (and its original) misbehave.
#[derive(Clone, Copy, Default)]
struct World {
    /// Share of the shadow's answers that are odd, by chance, and of the original's.
    odd: f64,
    odd_original: f64,
    /// Share of the requests to which the shadow's answer is always wrong.
    wrong: f64,
    /// How many times as slow it is.
    slower: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Traffic {
    Copied,
    Split,
}

fn micros(value: f64) -> u64 {
    format!("{value:.0}").parse().unwrap_or(u64::MAX)
}

fn one(dice: &mut Dice, world: &World, traffic: Traffic, pairs: &mut Pairs) {
    pairs.compared += 1;
    if traffic == Traffic::Copied {
        if dice.hits(world.wrong) {
            // Both sides repeat themselves, and are asked seven times more.
            pairs.against_shadow += 8;
        } else {
            let odd = |dice: &mut Dice, share| dice.hits(share) | dice.hits(share);
            let sides = (odd(dice, world.odd), odd(dice, world.odd_original));
            match sides {
                (true, false) => pairs.against_shadow += 1,
                (false, true) => pairs.against_original += 1,
                (true, true) | (false, false) => {}
            }
        }
    }
    let mut cost = || 10_000.0 * (COST * dice.normal()).exp();
    let first = cost();
    let second = if traffic == Traffic::Copied {
        first
    } else {
        cost()
    };
    let mut took = |cost: f64, times: f64| micros(cost * times * (SPREAD * dice.normal()).exp());
    let step = Pairs::ratio_step(took(first, 1.0), took(second, world.slower));
    *pairs.ratios.entry(step).or_default() += 1;
}

/// After how many pairs it is proven, if it is.
fn found(seed: u64, world: &World, traffic: Traffic, most: u64) -> Option<u64> {
    let settings = PairSettings::default();
    let mut dice = Dice(seed.wrapping_mul(0x5851_F42D_4C95_7F2D));
    let mut pairs = Pairs::default();
    (1..=most).find(|_| {
        one(&mut dice, world, traffic, &mut pairs);
        matches!(judge(&pairs, 0, &settings), Finding::Proven(_))
    })
}

struct Cell {
    median: Option<u64>,
    within_500: f64,
    share: f64,
}

fn cell(world: &World, traffic: Traffic, runs: u64, most: u64) -> Cell {
    let mut all: Vec<u64> = (0..runs)
        .map(|seed| found(seed, world, traffic, most).unwrap_or(u64::MAX))
        .collect();
    all.sort_unstable();
    let count = |limit: u64| all.iter().filter(|&&pairs| pairs <= limit).count() as f64;
    let median = all.get(all.len() / 2).copied();
    Cell {
        median: median.filter(|&pairs| pairs != u64::MAX),
        within_500: count(500) / runs as f64,
        share: count(most) / runs as f64,
    }
}

fn text(median: Option<u64>) -> String {
    median.map_or_else(|| "-".to_owned(), |pairs| pairs.to_string())
}

fn main() {
    let good = World {
        slower: 1.0,
        ..World::default()
    };
    println!(
        "copied requests, compared ({RUNS} runs a cell, {GOOD_RUNS} with a good shadow, alpha 1 %);\n\
         the peer is the same bet on split traffic; costs spread by {COST}, times by {SPREAD}\n"
    );
    println!(
        "{:<44} {:>8} {:>9} {:>8} {:>8}",
        "bad shadow", "median", "in 500", "peer", "ratio"
    );
    let bad = [
        (
            "1 % of the answers corrupted, by chance",
            World { odd: 0.01, ..good },
        ),
        (
            "the same, and the original 0.2 %",
            World {
                odd: 0.01,
                odd_original: 0.002,
                ..good
            },
        ),
        (
            "the answer to 1 % of the requests wrong",
            World {
                wrong: 0.01,
                ..good
            },
        ),
        (
            "latency x1.2",
            World {
                slower: 1.2,
                ..good
            },
        ),
        (
            "latency x1.1",
            World {
                slower: 1.1,
                ..good
            },
        ),
    ];
    let mut medians = Vec::new();
    for (name, world) in bad {
        let ours = cell(&world, Traffic::Copied, RUNS, MOST);
        let peer = cell(&world, Traffic::Split, RUNS / 5, MOST);
        let ratio = match (ours.median, peer.median) {
            (Some(ours), Some(peer)) => format!("{:.1}", peer as f64 / ours as f64),
            _ => "-".to_owned(),
        };
        println!(
            "{name:<44} {:>8} {:>8.1}% {:>8} {ratio:>8}",
            text(ours.median),
            100.0 * ours.within_500,
            text(peer.median),
        );
        medians.push(ours.median.unwrap_or(u64::MAX));
    }
    println!("\n{:<44} {:>8}", "good shadow", "accused");
    let mut worst: f64 = 0.0;
    for (name, odd) in [
        ("answers repeat themselves", 0.0),
        ("0.2 % of either side's answers are odd", 0.002),
        ("1 %", 0.01),
        ("20 %", 0.2),
    ] {
        let world = World {
            odd,
            odd_original: odd,
            ..good
        };
        let share = cell(&world, Traffic::Copied, GOOD_RUNS, GOOD_MOST).share;
        println!("{name:<44} {:>7.2}%", 100.0 * share);
        worst = worst.max(share);
    }
    println!();
    let promise = |id: &str, measured: f64, unit: &str, target: f64| {
        let verdict = if measured <= target { "ok" } else { "short" };
        println!("promise {id} {measured:.2} {unit} target <= {target} {verdict}");
    };
    let as_number = |pairs: u64| pairs as f64;
    promise("V1", as_number(medians[0]), "pairs", 500.0);
    promise("V2", as_number(medians[2]), "pairs", 500.0);
    promise("V3", as_number(medians[3]), "pairs", 60.0);
    promise("V4", 100.0 * worst, "%", 1.0);
}
