//! The cut-over of a single writer: simulated ones full of faults, judged by a linearizability
//! checker, and real ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod history;
mod lab;
mod setup;
mod world;

use domain::Phase;
use history::is_linearizable;
use world::{Faults, Planted, World};

/// Simulated cut-overs in every test run; `make cutovers` runs more.
const SEEDS: u64 = 1_500;

/// How many, from the environment.
fn seeds() -> u64 {
    let told = std::env::var("FORESHADOW_CUTOVERS").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

fn faults(seed: u64) -> Faults {
    // Not everything everywhere: some worlds have one kind, some have all.
    let if_bit = |bit: u64, one_in: usize| if seed & bit == 0 { 0 } else { one_in };
    Faults {
        crash: if_bit(1, 60),
        replica: if_bit(2, 200),
        partition: if_bit(4, 100),
        clock: if_bit(8, 400),
    }
}

fn cut_over(seed: u64, planted: Option<Planted>) -> Result<World, String> {
    let mut world = World::new(seed, faults(seed), planted);
    world.run()?;
    is_linearizable(&world.history)?;
    Ok(world)
}

#[test]
fn no_acknowledged_write_is_lost_repeated_or_read_stale_whatever_fails_during_a_cut_over() {
    let (mut done, mut back, mut operations, mut struck) = (0, 0, 0, 0);
    for seed in 0..seeds() {
        let world = cut_over(seed, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        match world.record.phase {
            Phase::Done => done += 1,
            _ => back += 1,
        }
        operations += world.history.len();
        struck += world.faults_struck;
    }
    println!("{done} done, {back} undone, {operations} operations, {struck} faults");
    assert!(
        done > seeds() / 5 && back > seeds() / 10,
        "{done} done, {back} undone"
    );
    assert!(
        operations > 50_000 && struck > 5_000,
        "{operations} {struck}"
    );
}

/// Vitess 9400: what was long under way broke the stream back. Here: whatever the shadow took before
/// it was found bad is with the original when that takes writes again.
#[test]
fn vitess_9400_what_the_shadow_took_comes_back_whatever_was_under_way() {
    let mut came_back = 0;
    for seed in 0..600 {
        let world = cut_over(seed, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        came_back += u64::from(world.came_back());
    }
    assert!(came_back > 20, "{came_back} of 600 gave writes back");
}

#[test]
fn each_planted_bug_is_found() {
    for planted in [
        Planted::PositionBeforeFreeze,
        Planted::ReleasedBeforeAllFlipped,
        Planted::NoReverseSync,
        Planted::NoFence,
        Planted::CopiedTwice,
    ] {
        let found = (0..3_000).find_map(|seed| {
            let wrong = cut_over(seed, Some(planted)).err()?;
            Some((seed, wrong))
        });
        let (seed, wrong) = found.unwrap_or_else(|| panic!("{planted:?} is not found"));
        println!("{planted:?}: seed {seed}: {wrong}");
    }
}

#[test]
fn a_real_single_writer_moves_there_and_back_and_no_write_is_lost_even_if_the_control_plane_dies() {
    let _turn = lab::turn();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut lab = lab::Lab::start().await;
        for crash_at in [
            None,
            Some("open writes/after effect"),
            Some("catch up/before effect"),
        ] {
            let (ended, longest) = lab.cut_over(crash_at).await;
            println!(
                "{crash_at:?}: {} {:?}, longest write {longest:?}",
                ended.migration.phase.name(),
                ended.migration.failure
            );
            assert!(
                lab::is_done(&ended),
                "{crash_at:?}: {ended:#?}\n{}",
                lab.last_words()
            );
        }
        let (history, failed) = lab.end().await;
        assert!(history.len() > 500, "{} operations", history.len());
        assert_eq!(failed, Vec::<String>::new());
        is_linearizable(&history).unwrap();
    });
}

#[test]
fn a_real_cut_over_that_is_too_slow_or_not_wanted_any_more_gives_the_writes_back() {
    let _turn = lab::turn();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut lab = lab::Lab::start().await;
        let home = lab.host().await;
        lab.configure(|config| config.migrator.limits.freeze_ms = 1)
            .await;
        let (slow, _) = lab.cut_over(None).await;
        let failure = slow.migration.failure.clone().unwrap_or_default();
        assert_eq!(
            slow.migration.phase,
            Phase::RolledBack,
            "{}",
            lab.last_words()
        );
        let too_slow = ["writes were held for", "not done within"];
        assert!(
            too_slow.iter().any(|words| failure.contains(words)),
            "{failure}"
        );
        lab.configure(|config| {
            let migrator = &mut config.migrator;
            migrator.limits.freeze_ms = 10_000;
            let all = domain::Stage {
                shadow: domain::BasisPoints::ALL,
                hold_ms: 8_000,
            };
            migrator.ramp = domain::RampPlan::new(vec![all]).unwrap();
        })
        .await;
        let unwanted = lab.cut_over_and_abort().await;
        assert_eq!(
            unwanted.migration.phase,
            Phase::RolledBack,
            "{}",
            lab.last_words()
        );
        assert_eq!(lab.host().await, home);
        let (history, failed) = lab.end().await;
        assert_eq!(failed, Vec::<String>::new());
        is_linearizable(&history).unwrap();
    });
}
