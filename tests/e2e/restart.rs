//! The control plane dies at every step boundary, and the one after it goes on.

use domain::Phase;

use crate::ONE_AT_A_TIME;
use crate::lab::{Lab, block_on, is_over, nothing_was_lost};

/// Steps on the way forward, in their order; `route` and `judge` come several times.
const FORWARD: [&str; 15] = [
    "reserve",
    "prepare shadow",
    "sync round",
    "fork",
    "re-identify",
    "verify",
    "route#1",
    "judge#1",
    "route#2",
    "judge#3",
    "route#4",
    "await drain",
    "adopt",
    "terminate",
    "release",
];
/// Steps on the way back.
const BACK: [&str; 4] = [
    "shift back",
    "restore routing",
    "destroy shadow",
    "release reservation",
];
const MOMENTS: [&str; 3] = ["before effect", "after effect", "after log"];

/// One moment per step, another one from step to step; `FORESHADOW_KILLS=all` takes all.
fn crashes(steps: &[&str]) -> Vec<String> {
    let all = std::env::var("FORESHADOW_KILLS").is_ok_and(|kills| kills == "all");
    let mut crashes = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        for (index, moment) in MOMENTS.iter().enumerate() {
            if all || number % MOMENTS.len() == index {
                crashes.push(format!("{step}/{moment}"));
            }
        }
    }
    crashes
}

/// The control plane dies at `crash`, on the way forward or back; the next one ends it.
async fn dies_and_goes_on(lab: &mut Lab, crash: &str, back: bool) {
    lab.restart(Some(crash)).await;
    let before = lab.host().await;
    let ordered = lab.order().await;
    if back {
        let ramps = |m: &crate::lab::Newest| matches!(m.migration.phase, Phase::Ramping { .. });
        let found = lab.newest("the ramp begins", ramps).await;
        assert_eq!(Some(&found.migration.id), ordered.as_ref());
        lab.abort(&found.migration.id).await;
    }
    lab.dies(crash).await;
    lab.restart(None).await;
    let ended = lab.newest(&format!("an end after {crash}"), is_over).await;
    let wanted = if back { Phase::RolledBack } else { Phase::Done };
    assert_eq!(ended.migration.phase, wanted, "{crash}: {ended:#?}");
    lab.is_at_rest(crash).await;
    lab.lost_nothing(crash);
    let moved = lab.host().await != before;
    assert_eq!(moved, !back, "{crash}: it is on the wrong host");
}

#[test]
fn a_control_plane_killed_at_any_step_forward_is_followed_by_one_that_finishes() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let mut lab = Lab::start().await;
        let crashes = crashes(&FORWARD);
        for crash in &crashes {
            dies_and_goes_on(&mut lab, crash, false).await;
        }
        let migrations = lab.status().await.unwrap().migrations.len();
        assert_eq!(migrations, crashes.len(), "each crash had its migration");
        nothing_was_lost(&lab.end().await, 1_000);
    });
}

#[test]
fn a_control_plane_killed_at_any_step_back_is_followed_by_one_that_undoes_the_rest() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let mut lab = Lab::start().await;
        for crash in &crashes(&BACK) {
            dies_and_goes_on(&mut lab, crash, true).await;
        }
        nothing_was_lost(&lab.end().await, 300);
    });
}

#[test]
fn half_a_minute_without_a_control_plane_costs_no_request_and_the_migration_goes_on() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let mut lab = Lab::start().await;
        lab.order().await.unwrap();
        let ramps = |m: &crate::lab::Newest| matches!(m.migration.phase, Phase::Ramping { .. });
        lab.newest("the ramp begins", ramps).await;
        lab.kill();
        // Thirty seconds, told by the load: it never stops.
        let before = lab.sent();
        let of_half_a_minute = u64::from(30 * 2 * (crate::lab::RATE + 5));
        crate::lab::until("half a minute of requests", async || {
            (lab.sent() - before >= of_half_a_minute).then_some(())
        })
        .await;
        lab.restart(None).await;
        let ended = lab.newest("an end", is_over).await;
        assert_eq!(ended.migration.phase, Phase::Done, "{ended:#?}");
        lab.is_at_rest("half a minute alone").await;
        nothing_was_lost(&lab.end().await, 1_500);
    });
}

#[test]
fn a_parked_migration_waits_for_a_person_and_is_answered_under_the_next_leader() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let mut lab = Lab::start().await;
        lab.order().await.unwrap();
        let ramps = |m: &crate::lab::Newest| matches!(m.migration.phase, Phase::Ramping { .. });
        let ramping = lab.newest("the ramp begins", ramps).await.migration;
        // The driver's fence is damaged: it lets nobody in, so the shadow cannot be destroyed.
        let fence = lab.data().join("instances/epoch");
        std::fs::write(&fence, "damaged").unwrap();
        lab.abort(&ramping.id).await;
        let parks = |m: &crate::lab::Newest| m.migration.phase == Phase::Parked;
        let parked = lab.newest("it parks", parks).await.migration;
        let question = parked.question.unwrap().text;
        assert!(question.contains("destroy shadow"), "{question}");

        lab.restart(None).await;
        let id = parked.id.as_str();
        let answered = lab.cli(&["rollback", "m-9-9"]);
        assert!(!answered.status.success());
        // Mended, with the epoch of the present leader: what was parked in the one before is stale.
        std::fs::write(&fence, format!("{}\n", parked.epoch.0 + 1)).unwrap();
        let answered = lab.cli(&["retry", id]);
        assert!(answered.status.success(), "{answered:?}");
        let back = |m: &crate::lab::Newest| m.migration.phase == Phase::RolledBack;
        lab.newest("it is rolled back", back).await;
        lab.is_at_rest("an answer").await;
        let answered = lab.cli(&["retry", id]);
        assert!(!answered.status.success(), "it is over: {answered:?}");
        nothing_was_lost(&lab.end().await, 20);
    });
}

#[test]
fn on_redis_a_migration_survives_the_death_of_the_control_plane_and_of_redis() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let mut lab = Lab::start_on_redis().await;
        dies_and_goes_on(&mut lab, "fork/after effect", false).await;
        dies_and_goes_on(&mut lab, "adopt/before effect", false).await;

        lab.order().await.unwrap();
        let ramps = |m: &crate::lab::Newest| matches!(m.migration.phase, Phase::Ramping { .. });
        lab.newest("the ramp begins", ramps).await;
        lab.restart_redis();
        let ended = lab.newest("an end after Redis died", is_over).await;
        assert_eq!(ended.migration.phase, Phase::Done, "{ended:#?}");
        lab.is_at_rest("the death of Redis").await;
        nothing_was_lost(&lab.end().await, 300);
    });
}
