//! State that must not be lost, and state that was.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::{Epoch, HolderId};
use foreshadow_store::{
    Change, Expect, Generation, Key, Kind, Lease, LeaseName, LogName, Opening, RedisStore, Store,
    StoreError, Transaction,
};
use tokio::sync::watch;

use crate::server::{LIMIT, Server, copy, eventually, options, soon};
use crate::{key, put};

fn log() -> LogName {
    LogName("migration/m".to_owned())
}

pub(crate) async fn lead(store: &RedisStore) -> Lease {
    let name = LeaseName("migrator/default".to_owned());
    let holder = HolderId::new("one").unwrap();
    let ttl = Duration::from_hours(1);
    store.acquire(&name, &holder, ttl).await.unwrap().unwrap()
}

/// Commits number after number until one fails; tells how many were acknowledged.
async fn commit_until_it_fails(store: Arc<RedisStore>, acknowledged: watch::Sender<u32>) {
    for number in 1_u32.. {
        let next = put(Expect::Any, number).append(log(), &number).unwrap();
        if store.commit(next).await.is_err() {
            return;
        }
        acknowledged.send_replace(number);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_in_the_middle_of_commits_loses_nothing_that_was_acknowledged() {
    let mut server = Server::durable().await;
    // Short, because a commit that finds the server gone waits for it to come back.
    let store = Arc::new(server.open(options().timeout(LIMIT)).await.unwrap());
    let mut before = 0_u32;
    for _ in 0..3 {
        let (sender, mut count) = watch::channel(0);
        let writer = tokio::spawn(commit_until_it_fails(Arc::clone(&store), sender));
        soon("200 commits", count.wait_for(|count| *count >= 200))
            .await
            .unwrap();
        server.kill();
        soon("a commit fails", writer).await.unwrap();
        server.start().await;

        let entries = eventually("the client comes back by itself", async || {
            store
                .read_log(&log(), u64::from(before) + 1, 1_000_000)
                .await
                .ok()
        })
        .await;
        let acknowledged = *count.borrow();
        let found = u32::try_from(entries.len()).unwrap();
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "{acknowledged} acknowledged, {found} found; one may have been under way"
        );
        for (entry, wanted) in entries.iter().zip(1_u32..) {
            assert_eq!(entry.value, wanted.to_string().as_bytes());
        }
        let record = eventually("a read", async || store.get(&key()).await.ok()).await;
        assert_eq!(
            record.unwrap().parse::<u32>().unwrap().value,
            found,
            "the record and the log are of one transaction"
        );
        before += found;
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_voids_every_lease_and_epochs_go_on_above() {
    let mut server = Server::durable().await;
    let store = server.store().await;
    let first = lead(&store).await;
    store
        .commit(put(Expect::Any, 1).fenced(&first))
        .await
        .unwrap();
    server.kill();
    server.start().await;
    let refused = eventually("the client comes back", async || {
        match store.commit(put(Expect::Any, 2).fenced(&first)).await {
            Err(StoreError::Unavailable { .. } | StoreError::TimedOut { .. }) => None,
            answer => Some(answer),
        }
    })
    .await;
    assert!(
        matches!(refused, Err(StoreError::Fenced { .. })),
        "{refused:?}"
    );
    let renewed = store.renew(&first, Duration::from_secs(1)).await;
    assert!(
        matches!(renewed, Err(StoreError::Fenced { .. })),
        "{renewed:?}"
    );
    let second = lead(&store).await;
    assert!(second.epoch > first.epoch);
    store
        .commit(put(Expect::Any, 3).fenced(&second))
        .await
        .unwrap();
    let third = lead(&store).await;
    assert_eq!(third.epoch, Epoch(second.epoch.0 + 1));
}

/// Whether every operation answers with the loss.
async fn assert_stopped(store: &RedisStore, expected: &StoreError) {
    let ttl = Duration::from_secs(1);
    let name = LeaseName("l".to_owned());
    let holder = HolderId::new("h").unwrap();
    let lease = Lease {
        name: name.clone(),
        holder: holder.clone(),
        epoch: Epoch(1),
        expires_at: domain::Timestamp(0),
    };
    let answers = [
        store.get(&key()).await.err(),
        store.list(Kind::Migration).await.err(),
        store.read_log(&log(), 0, 1).await.err(),
        store.commit(put(Expect::Any, 1)).await.err(),
        store.acquire(&name, &holder, ttl).await.err(),
        store.renew(&lease, ttl).await.err(),
        store.release(&lease).await.err(),
        store.witness().err(),
    ];
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!(answer.as_ref(), Some(expected), "operation {index}");
    }
}

#[tokio::test]
async fn a_flushed_server_stops_every_client_until_a_person_acknowledges() {
    let server = Server::durable().await;
    let store = server.store().await;
    let idle = server.store().await;
    let mut watch = idle.watch(Kind::Migration);
    let lease = lead(&store).await;
    store.commit(put(Expect::Absent, 1)).await.unwrap();
    let witness = store.witness().unwrap();
    let change = soon("the change", watch.next()).await;
    assert!(matches!(change, Some(Change::Put(_))), "{change:?}");

    let _: String = server.command(&["FLUSHALL"]).await;
    let lost = store.get(&key()).await.unwrap_err();
    assert!(matches!(lost, StoreError::Lost { .. }), "{lost:?}");
    assert_stopped(&store, &lost).await;
    // A client that asks nothing finds out, too, and its watchers list anew.
    let change = soon("the idle client notices", watch.next()).await;
    assert_eq!(change, Some(Change::Missed));
    assert!(matches!(idle.witness(), Err(StoreError::Lost { .. })));

    for careful in [
        options().witness(witness.clone()),
        foreshadow_store::RedisOptions::new(Opening::Existing).prefix("t"),
    ] {
        let refused = server.open(careful).await.err();
        assert!(
            matches!(refused, Some(StoreError::Lost { .. })),
            "{refused:?}"
        );
    }
    let acknowledged = server
        .open(
            foreshadow_store::RedisOptions::new(Opening::AcknowledgeLoss)
                .prefix("t")
                .witness(witness),
        )
        .await
        .unwrap();
    assert_eq!(acknowledged.get(&key()).await.unwrap(), None);
    assert!(
        lead(&acknowledged).await.epoch > lease.epoch,
        "epochs go on above those that were lost"
    );
    assert_stopped(&store, &lost).await;
}

#[tokio::test]
async fn another_store_in_the_same_place_is_not_taken_for_the_old_one() {
    let server = Server::durable().await;
    let store = server
        .open(options().keepalive(Duration::from_hours(1)))
        .await;
    let store = store.unwrap();
    store.commit(put(Expect::Absent, 1)).await.unwrap();
    let witness = store.witness().unwrap();
    let _: String = server.command(&["FLUSHALL"]).await;
    let other = server.store().await;
    for value in 0..5 {
        other.commit(put(Expect::Any, value)).await.unwrap();
    }
    assert!(other.witness().unwrap().revision > witness.revision);
    let lost = store.get(&key()).await.unwrap_err();
    assert!(matches!(lost, StoreError::Lost { .. }), "{lost:?}");
    assert_stopped(&store, &lost).await;
    let refused = server.open(options().witness(witness)).await.err();
    assert!(
        matches!(refused, Some(StoreError::Lost { .. })),
        "{refused:?}"
    );
}

/// Runs `between` on a store whose server then goes back to before it.
async fn go_back(server: &mut Server, between: impl AsyncFnOnce()) {
    let copied = tempfile::tempdir().unwrap();
    let files = server.folder().join("appendonlydir");
    copy(&files, copied.path());
    between().await;
    server.kill();
    std::fs::remove_dir_all(&files).unwrap();
    copy(copied.path(), Path::new(&files));
    server.start().await;
}

#[tokio::test]
async fn going_back_to_an_older_file_is_noticed_by_who_saw_the_newer_state() {
    let mut server = Server::durable().await;
    let store = server.store().await;
    store.commit(put(Expect::Any, 1)).await.unwrap();
    let old = store.witness().unwrap();
    go_back(&mut server, async || {
        for value in 2..=4 {
            store.commit(put(Expect::Any, value)).await.unwrap();
        }
    })
    .await;
    let rewound = eventually("the client notices", async || {
        match store.get(&key()).await {
            Err(StoreError::Unavailable { .. } | StoreError::TimedOut { .. }) => None,
            answer => Some(answer),
        }
    })
    .await
    .unwrap_err();
    let StoreError::Rewound { seen, found, .. } = &rewound else {
        panic!("expected a rewind, got {rewound:?}");
    };
    assert_eq!((*seen, *found), (old.revision + 3, old.revision));
    assert_stopped(&store, &rewound).await;
    // Who saw nothing of what was lost goes on.
    let earlier = server.open(options().witness(old)).await.unwrap();
    assert_eq!(
        earlier.get(&key()).await.unwrap().unwrap().generation,
        Generation(1)
    );
}

#[tokio::test]
async fn a_rewind_is_noticed_even_when_others_have_written_past_it() {
    let mut server = Server::durable().await;
    let store = server.store().await;
    let mut seen = store.witness().unwrap();
    go_back(&mut server, async || {
        store.commit(put(Expect::Any, 1)).await.unwrap();
        seen = store.witness().unwrap();
    })
    .await;
    drop(store);
    let newcomer = server.store().await;
    for value in 0..10 {
        newcomer.commit(put(Expect::Any, value)).await.unwrap();
    }
    assert!(newcomer.witness().unwrap().revision > seen.revision);
    let refused = server.open(options().witness(seen.clone())).await.err();
    assert!(
        matches!(refused, Some(StoreError::Rewound { .. })),
        "{refused:?}"
    );
    let acknowledged = foreshadow_store::RedisOptions::new(Opening::AcknowledgeLoss).prefix("t");
    let store = server.open(acknowledged.witness(seen)).await.unwrap();
    assert!(store.get(&key()).await.unwrap().is_some());
}

#[tokio::test]
async fn restarts_without_loss_are_no_rewind() {
    let mut server = Server::durable().await;
    let store = server.store().await;
    let early = store.witness().unwrap();
    for value in 0..3 {
        server.kill();
        server.start().await;
        eventually("the client comes back", async || {
            store.commit(put(Expect::Any, value)).await.ok()
        })
        .await;
    }
    server.open(options().witness(early)).await.unwrap();
}

/// A store with a record, a log and a lease.
async fn filled(server: &Server) -> RedisStore {
    let store = server.store().await;
    let both = put(Expect::Absent, 7).append(log(), &"intent").unwrap();
    store.commit(both).await.unwrap();
    lead(&store).await;
    store
}

fn assert_names(answer: Option<StoreError>, name: &str) {
    match answer {
        Some(StoreError::Malformed { what, .. }) => assert!(what.contains(name), "{what}"),
        other => panic!("expected {name} to be malformed, got {other:?}"),
    }
}

#[tokio::test]
async fn a_poisoned_record_is_named_and_never_overwritten() {
    let server = Server::durable().await;
    let store = filled(&server).await;
    let good: String = server
        .command(&["HGET", "{t}:records:migration", "m"])
        .await;
    let other_schema = good.replacen('1', "2", 1);
    let other_value = good.replace('7', "8");
    let cut = &good[..good.len() - 1];
    for bad in ["", "{}", cut, &other_schema, &other_value] {
        let _: u8 = server
            .command(&["HSET", "{t}:records:migration", "m", bad])
            .await;
        assert_names(store.get(&key()).await.err(), "migration/m");
        assert_names(store.list(Kind::Migration).await.err(), "migration/m");
        assert_names(store.commit(put(Expect::Any, 1)).await.err(), "migration/m");
        let delete = Transaction::new().delete(key(), Expect::Any);
        assert_names(store.commit(delete).await.err(), "migration/m");
        let left: String = server
            .command(&["HGET", "{t}:records:migration", "m"])
            .await;
        assert_eq!(left, bad);
    }
    let _: u8 = server
        .command(&["HSET", "{t}:records:migration", "m", &good])
        .await;
    assert!(store.get(&key()).await.unwrap().is_some(), "mended");
}

#[tokio::test]
async fn poisoned_logs_leases_and_heads_are_named() {
    let server = Server::durable().await;
    let store = filled(&server).await;
    let _: String = server
        .command(&["LSET", "{t}:log:migration/m", "0", "1|1|00|\"intent\""])
        .await;
    assert_names(store.read_log(&log(), 0, 10).await.err(), "log migration/m");

    let _: u8 = server
        .command(&["HSET", "{t}:leases", "migrator/default", "1|9|9|x|00"])
        .await;
    let name = LeaseName("migrator/default".to_owned());
    let holder = HolderId::new("two").unwrap();
    let taken = store.acquire(&name, &holder, Duration::from_secs(1)).await;
    assert_names(taken.err(), "migrator/default");

    let head: String = server.command(&["GET", "{t}:head"]).await;
    let higher = head.replacen("|3|", "|9|", 1);
    assert_ne!(head, higher, "the head holds revision 3");
    let _: String = server.command(&["SET", "{t}:head", &higher]).await;
    assert_names(store.get(&key()).await.err(), "head");
    assert_names(server.open(options()).await.err(), "head");
}

#[tokio::test]
async fn a_key_of_another_type_is_named_and_nothing_is_half_written() {
    let server = Server::durable().await;
    let store = filled(&server).await;
    let _: u8 = server.command(&["DEL", "{t}:log:migration/m"]).await;
    let _: String = server.command(&["SET", "{t}:log:migration/m", "x"]).await;
    let both = put(Expect::Any, 8).append(log(), &"more").unwrap();
    let refused = store.commit(both).await;
    assert!(
        matches!(refused, Err(StoreError::Malformed { .. })),
        "{refused:?}"
    );
    let record = store.get(&key()).await.unwrap().unwrap();
    assert_eq!(record.generation, Generation(1));
    let _: u8 = server.command(&["DEL", "{t}:records:migration"]).await;
    let _: u8 = server
        .command(&["RPUSH", "{t}:records:migration", "x"])
        .await;
    let list = store.list(Kind::Migration).await;
    assert!(
        matches!(list, Err(StoreError::Malformed { .. })),
        "{list:?}"
    );
}

#[tokio::test]
async fn a_deleted_or_shortened_collection_is_a_loss_and_not_an_empty_one() {
    for loss in [
        &["DEL", "{t}:records:migration"][..],
        &["DEL", "{t}:log:migration/m"],
        &["LTRIM", "{t}:log:migration/m", "1", "-1"],
        &["DEL", "{t}:leases"],
        &["DEL", "{t}:counts"],
        &["DEL", "{t}:head"],
    ] {
        let server = Server::durable().await;
        let store = filled(&server).await;
        let _: redis::Value = server.command(loss).await;
        let name = LeaseName("migrator/default".to_owned());
        let holder = HolderId::new("two").unwrap();
        let ttl = Duration::from_secs(1);
        let answers = [
            store.list(Kind::Migration).await.err(),
            store.read_log(&log(), 0, 10).await.err(),
            store.acquire(&name, &holder, ttl).await.err(),
        ];
        assert!(
            answers
                .iter()
                .any(|answer| matches!(answer, Some(StoreError::Lost { .. }))),
            "{loss:?}: {answers:?}"
        );
        // Once noticed it is never forgotten.
        let last = store.get(&Key::new(Kind::Host, "x")).await;
        assert!(
            matches!(last, Err(StoreError::Lost { .. })),
            "{loss:?}: {last:?}"
        );
    }
}

#[tokio::test]
async fn what_is_left_can_be_taken_as_the_truth() {
    let server = Server::durable().await;
    let store = filled(&server).await;
    let _: u8 = server.command(&["DEL", "{t}:records:migration"]).await;
    assert!(store.get(&key()).await.is_err());
    let acknowledge = foreshadow_store::RedisOptions::new(Opening::AcknowledgeLoss).prefix("t");
    let store = server.open(acknowledge).await.unwrap();
    assert_eq!(store.list(Kind::Migration).await.unwrap(), []);
    assert_eq!(store.read_log(&log(), 0, 10).await.unwrap().len(), 1);
    store.commit(put(Expect::Absent, 1)).await.unwrap();
    let next = Transaction::new().append(log(), &"more").unwrap();
    store.commit(next).await.unwrap();
    assert_eq!(store.read_log(&log(), 0, 10).await.unwrap().len(), 2);
}
