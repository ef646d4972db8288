//! A store that has lost, forgotten or damaged something: named, and nothing is done on a guess.

use domain::Phase;

use crate::lab::{Lab, block_on, until, waits};
use crate::my_turn;

fn redis_choice(lab: &mut Lab, change: impl Fn(&mut foreshadow::storage::RedisChoice)) {
    for plane in &mut lab.planes {
        let foreshadow::storage::StoreChoice::Redis(choice) = &mut plane.config.store else {
            panic!("this lab is on Redis");
        };
        change(choice);
    }
}

#[test]
fn a_flushed_redis_turns_readiness_red_and_nothing_is_taken_for_gone() {
    let _turn = my_turn();
    block_on(async {
        let mut lab = Lab::started(2, |_| {}).await;
        let leader = lab.leader().await;
        let id = lab.planes[leader].order("a1", "host-b").await;
        lab.planes[leader].sees("it ramps", &id, waits).await;
        // What each has seen is on its disk.
        until("the witnesses are kept", async || {
            let file = |plane: &crate::lab::Plane| plane.config.data.join("redis-witness.json");
            let kept = |plane| std::fs::metadata(file(plane)).is_ok();
            lab.planes.iter().all(kept).then_some(())
        })
        .await;
        let three = lab.kept().await;
        assert_eq!(
            three.iter().filter(|(_, runs)| *runs).count(),
            3,
            "{three:?}"
        );

        lab.redis.command(&["FLUSHALL"]);
        for plane in &lab.planes {
            plane.is_red("lost its state").await;
        }
        assert_eq!(lab.kept().await, three, "whatever runs goes on");

        // Started again it does not take the emptiness for the truth.
        lab.planes[leader].process = None;
        let (code, words) = lab.planes[leader].refuses().await;
        assert_eq!(code, Some(69), "{words}");
        assert!(words.contains("lost its state"), "{words}");
        assert_eq!(lab.kept().await, three);

        // A person acknowledges: what runs is adopted, what nobody knows stays until told.
        lab.planes[1 - leader].process = None;
        redis_choice(&mut lab, |choice| choice.acknowledge_loss = true);
        lab.planes[leader].start().await;
        lab.planes[leader].is_ready().await;
        assert_eq!(
            lab.kept().await,
            three,
            "nothing is started twice, nothing is ended"
        );
        let refused = lab.planes[leader].cli(&["gc", "--yes"]);
        let words = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(
            !refused.status.success()
                && words.contains("looks lost")
                && words.contains(id.as_str()),
            "{words}"
        );
        assert_eq!(lab.kept().await, three);
        let told = lab.planes[leader].cli(&["gc", "--yes", "--include-unknown"]);
        assert!(told.status.success(), "{told:?}");
        let two = lab.kept().await;
        assert_eq!(two, [("a1".to_owned(), true), ("b1".to_owned(), true)]);
    });
}

#[test]
fn a_poisoned_record_turns_readiness_red_by_name_and_is_never_overwritten() {
    let _turn = my_turn();
    block_on(async {
        let lab = Lab::started(1, |_| {}).await;
        let plane = &lab.planes[0];
        let id = plane.order("a1", "host-b").await;
        plane.sees("it ramps", &id, waits).await;
        let key = "{foreshadow}:records:instance";
        let good = lab.redis.command(&["HGET", key, "b1"]);
        let good = good.trim_end_matches('\n');
        let bad = good.replacen("|d|", "|d|00", 1);
        assert_ne!(good, bad);
        lab.redis.command(&["HSET", key, "b1", &bad]);
        plane.is_red("instance/b1").await;
        let stays = lab.redis.command(&["HGET", key, "b1"]);
        assert_eq!(stays.trim_end_matches('\n'), bad, "it is never overwritten");
        assert_eq!(lab.kept().await.iter().filter(|(_, runs)| *runs).count(), 3);
        lab.redis.command(&["HSET", key, "b1", good]);
        plane.is_ready().await;
        assert!(plane.cli(&["abort", id.as_str()]).status.success());
        let over = |m: &domain::Migration| m.phase == Phase::RolledBack;
        plane.sees("it is rolled back", &id, over).await;
    });
}

#[test]
fn a_full_redis_turns_readiness_red_and_what_is_under_way_holds_until_there_is_room() {
    let _turn = my_turn();
    block_on(async {
        let lab = Lab::started(1, |_| {}).await;
        let plane = &lab.planes[0];
        let id = plane.order("a1", "host-b").await;
        plane.sees("it ramps", &id, waits).await;
        lab.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        plane.is_red("full").await;
        lab.redis.command(&["SCRIPT", "FLUSH"]);
        lab.redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
        plane.is_ready().await;
        plane.sees("it still ramps", &id, waits).await;
        let abort = async || {
            let told = plane.cli(&["abort", id.as_str()]);
            told.status.success().then_some(())
        };
        until("it is led again", abort).await;
        let over = |m: &domain::Migration| m.phase == Phase::RolledBack;
        plane.sees("it is rolled back", &id, over).await;
        assert_eq!(lab.kept().await.len(), 2);
    });
}
