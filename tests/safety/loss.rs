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

/// The store's revision, as its head says.
fn revision(redis: &crate::lab::Redis) -> u64 {
    let head = redis.command(&["GET", "{foreshadow}:head"]);
    head.split('|').nth(2).unwrap().parse().unwrap()
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status();
    assert!(done.unwrap().success());
}

#[test]
fn a_redis_that_went_back_in_the_middle_of_a_migration_is_noticed_and_nothing_is_guessed() {
    let _turn = my_turn();
    block_on(async {
        let mut lab = Lab::started(1, |_| {}).await;
        lab.leader().await;
        lab.planes[0].is_ready().await;
        let files = lab.folder.path().join("appendonlydir");
        let older = lab.folder.path().join("copy");
        let id = lab.planes[0].order("a1", "host-b").await;
        let begun = |m: &domain::Migration| m.phase != Phase::Planned;
        lab.planes[0].sees("it has begun", &id, begun).await;
        copy(&files, &older);
        // Read after the copy, so not below what the copy holds.
        let copied = revision(&lab.redis);
        lab.planes[0].sees("it ramps", &id, waits).await;
        until("what was seen since is on the disk", async || {
            let file = lab.planes[0].config.data.join("redis-witness.json");
            let bytes = std::fs::read(file).ok()?;
            let seen: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
            (seen["revision"].as_u64()? > copied).then_some(())
        })
        .await;
        lab.redis.process = None;
        std::fs::remove_dir_all(&files).unwrap();
        copy(&older, &files);
        lab.redis.again().await;
        lab.planes[0].is_red("went back").await;
        let running = lab.kept().await;
        assert_eq!(running.iter().filter(|(_, runs)| *runs).count(), 3);

        // Nor is it taken for the truth by whoever starts on it.
        lab.planes[0].process = None;
        let (code, words) = lab.planes[0].refuses().await;
        assert_eq!(code, Some(69), "{words}");
        assert!(words.contains("went back"), "{words}");
        assert!(words.contains("acknowledge_loss"), "{words}");
        redis_choice(&mut lab, |choice| choice.acknowledge_loss = true);
        lab.planes[0].start().await;
        // The record is older than the world, and nobody can say by how much: a person must.
        let parked = |m: &domain::Migration| m.phase == Phase::Parked;
        let found = lab.planes[0].sees("it is parked", &id, parked).await;
        let question = found.question.unwrap();
        assert!(
            question.text.contains("lost something since"),
            "{question:?}"
        );
        assert_eq!(lab.kept().await, running, "nothing was taken away");
    });
}

#[test]
fn an_embedded_file_that_is_gone_is_not_replaced_by_an_empty_one_until_a_person_says_so() {
    let _turn = my_turn();
    block_on(async {
        use foreshadow::storage::StoreChoice;
        let mut lab = Lab::new(1, |config| config.store = StoreChoice::Embedded).await;
        lab.planes[0].start().await;
        let id = lab.planes[0].order("a1", "host-b").await;
        lab.planes[0].sees("it ramps", &id, waits).await;
        let witness = lab.planes[0].config.data.join("store-witness.json");
        until("what was seen is on the disk", async || {
            witness.exists().then_some(())
        })
        .await;
        let three = lab.kept().await;
        lab.planes[0].process = None;
        let file = lab.planes[0].config.data.join("store.redb");
        std::fs::remove_file(&file).unwrap();

        let (code, words) = lab.planes[0].refuses().await;
        assert_eq!(code, Some(69), "{words}");
        assert!(
            words.contains("its file is gone") && words.contains("embedded_acknowledge_loss"),
            "{words}"
        );
        assert!(!file.exists(), "nothing was put in its place");
        assert_eq!(lab.kept().await, three);

        lab.planes[0].config.store = StoreChoice::EmbeddedAcknowledgeLoss;
        lab.planes[0].start().await;
        lab.planes[0].is_ready().await;
        assert_eq!(lab.kept().await, three, "nothing is ended, nothing twice");
        let refused = lab.planes[0].cli(&["gc", "--yes"]);
        let words = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(
            !refused.status.success() && words.contains("looks lost"),
            "{words}"
        );
        let next = until("it leads and moves again", async || {
            let told = lab.planes[0].cli(&["move", "b1", "--to", "host-a"]);
            told.status.success().then_some(())
        });
        next.await;
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
