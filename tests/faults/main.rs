//! Real processes, killed and stopped at the steps of a migration, under constant load: a sample
//! for every test run. `make faults` takes many more. What a lab is: [`lab`]; what is checked in
//! what was seen: [`check`].
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    dead_code,
    missing_docs,
    reason = "tests say what they expect by failing; what they do not use, `make faults` uses"
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
mod records;
mod troubles;

use campaign::{Blow, Campaign};
use lab::{Backing, SetUp};
use outcome::Outcome;

/// Requests a second that the sample bears beside other tests.
const RATE: u32 = 200;

fn sample(backing: Backing, count: usize, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let set_up = SetUp {
        backing,
        controls: 1,
        rate: RATE,
    };
    let campaign = Campaign {
        set_up,
        blow: Blow::Kill,
        count,
        seed,
    };
    let shown = lab::block_on(campaign.run(folder.path()));
    let outcome = Outcome::of(&shown);
    println!("{outcome}");
    let complaints = outcome.complaints();
    if !complaints.is_empty() {
        let kept = folder.keep();
        panic!("see {}: {complaints:#?}", kept.display());
    }
    assert!(outcome.killed >= count as u64, "{outcome}");
    assert!(
        outcome.ended.contains_key("done"),
        "nothing was moved: {outcome}"
    );
}

#[test]
fn a_control_plane_that_is_killed_at_any_step_is_followed_by_one_that_ends_the_migration() {
    sample(Backing::Redis, 25, 11);
    sample(Backing::Embedded, 15, 5);
}
