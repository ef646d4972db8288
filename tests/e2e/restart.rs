//! The control plane dies, is away, or cannot go on, and the one after it does. That it may die at
//! any step is shown in `tests/faults`.

use domain::Phase;

use crate::ONE_AT_A_TIME;
use crate::lab::{Lab, block_on, is_over, nothing_was_lost};

/// The control plane dies at `crash`; the next one ends the migration.
async fn dies_and_goes_on(lab: &mut Lab, crash: &str) {
    lab.restart(Some(crash)).await;
    let before = lab.host().await;
    lab.order().await;
    lab.dies(crash).await;
    lab.restart(None).await;
    let ended = lab.newest(&format!("an end after {crash}"), is_over).await;
    assert_eq!(ended.migration.phase, Phase::Done, "{crash}: {ended:#?}");
    lab.is_at_rest(crash).await;
    lab.lost_nothing(crash);
    assert_ne!(lab.host().await, before, "{crash}: it did not move");
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
        dies_and_goes_on(&mut lab, "fork/after effect").await;
        dies_and_goes_on(&mut lab, "adopt/before effect").await;

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
