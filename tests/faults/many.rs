//! `make faults KILLS=500 ZOMBIES=50`: real processes killed and stopped at every step, under
//! constant load. Ends with a line per promise, and with an error if an invariant is broken, a
//! request was lost or too little happened to mean anything. `--check FOLDER` looks histories of
//! earlier runs through again, as if they were of one run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    dead_code,
    missing_docs,
    reason = "it says what it expects by failing; what it does not use, the tests use"
)]

mod alternate;
mod campaign;
mod check;
mod control;
mod history;
mod lab;
mod leaks;
mod link;
mod outcome;
mod points;
mod troubles;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use campaign::{Blow, Campaign, Shown};
use lab::{Backing, SetUp};
use outcome::Outcome;

/// Requests a second: a little more than what is promised, as arrivals are random.
const RATE: usize = 525;

fn argument(name: &str) -> Option<String> {
    let mut words = std::env::args().skip_while(|word| word != name);
    words.nth(1)
}

fn count(name: &str, default: usize) -> usize {
    argument(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} {text}: allowed is a whole number"))
    })
}

/// Histories of earlier runs, from files.
fn earlier(folder: &Path) -> Vec<Shown> {
    let mut shown = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        println!("{}", file.display());
        // Labs name their files by what they ran on.
        let embedded = file.display().to_string().contains("embedded");
        let backing = [Backing::Redis, Backing::Embedded][usize::from(embedded)];
        shown.push(Shown {
            campaign: Campaign {
                set_up: SetUp {
                    backing,
                    controls: 1,
                    rate: 0,
                },
                blow: Blow::Kill,
                count: 0,
                seed: 0,
            },
            history: lines.collect(),
            failures: Vec::new(),
        });
    }
    shown
}

fn main() -> ExitCode {
    if let Some(folder) = argument("--check") {
        let outcome = Outcome::of(&earlier(Path::new(&folder)));
        println!("{outcome}{:#?}", outcome.complaints());
        let (kills, zombies) = (count("--kills", 1), count("--zombies", 0));
        for line in outcome.promises(kills as u64, zombies as u64) {
            println!("{line}");
        }
        return ExitCode::SUCCESS;
    }
    let (kills, zombies) = (count("--kills", 500), count("--zombies", 50));
    let seed = count("--seed", 1) as u64;
    let controls = count("--controls", 2);
    let rate = u32::try_from(count("--rate", RATE)).unwrap();
    let folder = PathBuf::from(argument("--histories").unwrap_or("target/faults".to_owned()));
    std::fs::create_dir_all(&folder).unwrap();
    let began = Instant::now();
    // A tenth on the embedded store, where a single control plane is started anew.
    let embedded = count("--embedded", kills / 10).min(kills);
    let campaign = |backing, blow, count, seed, controls| Campaign {
        set_up: SetUp {
            backing,
            controls,
            rate,
        },
        blow,
        count,
        seed,
    };
    let campaigns = [
        campaign(Backing::Embedded, Blow::Kill, embedded, seed, 1),
        campaign(
            Backing::Redis,
            Blow::Kill,
            kills - embedded,
            seed + 1,
            controls,
        ),
        campaign(Backing::Redis, Blow::Stand, zombies, seed + 2, 2),
    ];
    let mut shown = Vec::new();
    for campaign in campaigns {
        shown.extend(lab::block_on(campaign.run(&folder)));
        let so_far = Outcome::of(&shown);
        println!("{:.0} s\n{so_far}", began.elapsed().as_secs_f64());
    }
    if let Some(base) = argument("--base") {
        let base = PathBuf::from(base);
        let run = alternate::run(&base, count("--rounds", 6), rate, &folder);
        shown.push(lab::block_on(run));
    }
    if count("--troubles", 1) > 0 {
        let lasts = std::time::Duration::from_secs(count("--lasts", 4) as u64);
        for (backing, all) in [
            (Backing::Redis, &troubles::ON_REDIS[..]),
            (Backing::Embedded, &troubles::EMBEDDED[..]),
        ] {
            let run = troubles::run(backing, all, lasts, rate, &folder);
            shown.push(lab::block_on(run));
        }
    }
    let outcome = Outcome::of(&shown);
    println!("{outcome}");
    let complaints = outcome.complaints();
    for complaint in &complaints {
        println!("complaint: {complaint}");
    }
    println!("histories are in {}", folder.display());
    for line in outcome.promises(kills as u64, zombies as u64) {
        println!("{line}");
    }
    ExitCode::from(u8::from(!complaints.is_empty()))
}
