//! The one suite that every backend must pass. A backend's test calls [`run`] with a function
//! that makes an empty store on the given clock, or [`run_on`] if the time of its leases comes
//! from elsewhere.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this module is a test suite; it is public so that every backend can run it"
)]

mod leases;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use domain::{HolderId, Timestamp};

use crate::clock::{Clock, ManualClock};
use crate::error::StoreError;
use crate::key::{Key, Kind, LogName};
use crate::record::{Expect, Generation, Transaction};
use crate::watch::Change;
use crate::{SharedStore, Store};

fn key(id: &str) -> Key {
    Key::new(Kind::Migration, id)
}

fn holder(name: &str) -> HolderId {
    HolderId::new(name).unwrap()
}

/// What the suite needs of a backend.
#[async_trait::async_trait]
pub trait Backend: Sync {
    /// An empty store.
    async fn fresh(&self) -> SharedStore;

    /// Lets this much time pass for the leases of this store, without waiting for it.
    async fn let_pass(&self, store: &SharedStore, time: Duration);
}

/// A backend on a clock that is moved by hand.
struct Clocked<'a, F> {
    clock: Arc<ManualClock>,
    make: &'a F,
}

#[async_trait::async_trait]
impl<F, R> Backend for Clocked<'_, F>
where
    F: Fn(Arc<dyn Clock>) -> R + Sync,
    R: Future<Output = SharedStore> + Send,
{
    async fn fresh(&self) -> SharedStore {
        (self.make)(Arc::clone(&self.clock) as Arc<dyn Clock>).await
    }

    async fn let_pass(&self, _store: &SharedStore, time: Duration) {
        self.clock.advance(u64::try_from(time.as_millis()).unwrap());
    }
}

/// Runs the whole suite on a backend that takes its time from a [`Clock`].
///
/// # Panics
/// When the backend breaks a guarantee of [`Store`].
pub async fn run<F, R>(make: &F)
where
    F: Fn(Arc<dyn Clock>) -> R + Sync,
    R: Future<Output = SharedStore> + Send,
{
    let clock = Arc::new(ManualClock::at(Timestamp(1_000)));
    run_on(&Clocked { clock, make }).await;
}

/// Runs the whole suite.
///
/// # Panics
/// When the backend breaks a guarantee of [`Store`].
pub async fn run_on(backend: &dyn Backend) {
    writes_expect_what_they_replace(&*backend.fresh().await).await;
    a_transaction_is_all_or_nothing(&*backend.fresh().await).await;
    expectations_are_of_the_state_before_the_transaction(&*backend.fresh().await).await;
    a_requirement_guards_and_changes_nothing(&*backend.fresh().await).await;
    lists_hold_one_kind_in_order(&*backend.fresh().await).await;
    any_name_and_any_value_comes_back_as_it_was(&*backend.fresh().await).await;
    logs_only_grow(&*backend.fresh().await).await;
    a_log_is_read_in_pages(&*backend.fresh().await).await;
    watchers_see_every_change_in_order(&*backend.fresh().await).await;
    watchers_see_nothing_of_a_refused_transaction(&*backend.fresh().await).await;
    leases::leases_fence(backend).await;
    leases::a_lease_of_no_time_is_refused(&*backend.fresh().await).await;
    leases::epochs_outlive_holders(backend).await;
    leases::a_fence_without_a_lease_is_refused(&*backend.fresh().await).await;
    only_one_of_many_writers_wins(backend.fresh().await).await;
    leases::only_one_of_many_candidates_leads(backend.fresh().await).await;
    who_looks_before_he_writes_never_oversteps(backend.fresh().await).await;
    counters_lose_no_increment(backend.fresh().await).await;
}

async fn writes_expect_what_they_replace(store: &dyn Store) {
    let put = |expect, value: u8| Transaction::new().put(key("m"), expect, &value).unwrap();
    let first = store.commit(put(Expect::Absent, 1)).await.unwrap();
    assert_eq!(first.generations, [Some(Generation(1))]);
    let again = store.commit(put(Expect::Absent, 2)).await;
    assert!(
        matches!(again, Err(StoreError::Conflict { .. })),
        "{again:?}"
    );
    let second = store
        .commit(put(Expect::Generation(Generation(1)), 3))
        .await
        .unwrap();
    assert_eq!(second.generations, [Some(Generation(2))]);
    let stale = store
        .commit(put(Expect::Generation(Generation(1)), 4))
        .await;
    assert!(
        matches!(stale, Err(StoreError::Conflict { .. })),
        "{stale:?}"
    );
    assert_eq!(
        store
            .get(&key("m"))
            .await
            .unwrap()
            .unwrap()
            .parse::<u8>()
            .unwrap()
            .value,
        3
    );
    store
        .commit(Transaction::new().delete(key("m"), Expect::Any))
        .await
        .unwrap();
    assert_eq!(store.get(&key("m")).await.unwrap(), None);
}

async fn a_transaction_is_all_or_nothing(store: &dyn Store) {
    let log = LogName("l".to_owned());
    let transaction = Transaction::new()
        .put(key("a"), Expect::Absent, &1)
        .unwrap()
        .put(key("b"), Expect::Generation(Generation(9)), &1)
        .unwrap()
        .append(log.clone(), &"entry")
        .unwrap();
    assert!(store.commit(transaction).await.is_err());
    assert_eq!(
        store.get(&key("a")).await.unwrap(),
        None,
        "first write of a failed transaction"
    );
    assert!(
        store.read_log(&log, 0, 10).await.unwrap().is_empty(),
        "its log entry"
    );
}

async fn expectations_are_of_the_state_before_the_transaction(store: &dyn Store) {
    assert_eq!(
        store.commit(Transaction::new()).await.unwrap(),
        crate::Committed::default(),
        "an empty transaction"
    );
    let twice = Transaction::new()
        .put(key("a"), Expect::Absent, &1)
        .unwrap()
        .put(key("a"), Expect::Absent, &2)
        .unwrap()
        .delete(key("b"), Expect::Absent);
    let done = store.commit(twice).await.unwrap();
    assert_eq!(
        done.generations,
        [Some(Generation(1)), Some(Generation(1)), None]
    );
    let found = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!(found.parse::<u8>().unwrap().value, 2, "the last one stays");

    let wrong = Transaction::new()
        .put(key("c"), Expect::Any, &1)
        .unwrap()
        .delete(key("a"), Expect::Generation(Generation(2)));
    match store.commit(wrong).await {
        Err(StoreError::Conflict {
            key,
            expected,
            found,
        }) => {
            assert_eq!(
                [key.as_str(), &expected, &found],
                ["migration/a", "generation 2", "generation 1"]
            );
        }
        other => panic!("expected a conflict that names the record, got {other:?}"),
    }
    let absent = Transaction::new().delete(key("x"), Expect::Generation(Generation(1)));
    match store.commit(absent).await {
        Err(StoreError::Conflict { found, .. }) => assert_eq!(found, "no record"),
        other => panic!("expected a conflict, got {other:?}"),
    }
    let gone = Transaction::new().delete(key("a"), Expect::Generation(Generation(1)));
    store.commit(gone).await.unwrap();
    assert_eq!(store.list(Kind::Migration).await.unwrap(), []);
    let anew = Transaction::new().put(key("a"), Expect::Any, &1).unwrap();
    assert_eq!(
        store.commit(anew).await.unwrap().generations,
        [Some(Generation(1))]
    );
}

async fn any_name_and_any_value_comes_back_as_it_was(store: &dyn Store) {
    let names = [
        "",
        " ",
        "a/b",
        "a|b\n",
        "{x}:y",
        "%00\0",
        "żółw-🐢",
        "*?[a]",
    ];
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    for (index, name) in names.iter().enumerate() {
        let mut transaction = Transaction::new();
        transaction.writes.push(crate::Write {
            key: key(name),
            expect: Expect::Absent,
            value: Some(bytes[index..].to_vec()),
        });
        let log = LogName((*name).to_owned());
        transaction.appends.push((log, bytes[..index].to_vec()));
        store.commit(transaction).await.unwrap();
    }
    assert_eq!(
        store.list(Kind::Migration).await.unwrap().len(),
        names.len()
    );
    for (index, name) in names.iter().enumerate() {
        let found = store.get(&key(name)).await.unwrap().unwrap();
        assert!(found.value == bytes[index..], "value of {name:?}");
        let entries = store
            .read_log(&LogName((*name).to_owned()), 0, 10)
            .await
            .unwrap();
        assert_eq!(entries.len(), 1, "log {name:?}");
        assert_eq!(entries[0].value, bytes[..index]);
    }
}

/// A write may depend on a record, of its own kind or another, that it leaves as it is.
async fn a_requirement_guards_and_changes_nothing(store: &dyn Store) {
    let guard = Key::new(Kind::Routing, "guard");
    let put = |value: u8| {
        Transaction::new()
            .put(guard.clone(), Expect::Any, &value)
            .unwrap()
    };
    let guarded = |expect, value: u8| {
        Transaction::new()
            .requires(guard.clone(), expect)
            .put(key("m"), Expect::Any, &value)
            .unwrap()
    };
    let first = Expect::Generation(Generation(1));
    let early = store.commit(guarded(first, 1)).await;
    assert!(
        matches!(early, Err(StoreError::Conflict { .. })),
        "{early:?}"
    );
    store.commit(guarded(Expect::Absent, 2)).await.unwrap();
    store.commit(put(1)).await.unwrap();
    let done = store.commit(guarded(first, 3)).await.unwrap();
    assert_eq!(done.generations, [Some(Generation(2))]);
    store.commit(put(2)).await.unwrap();
    let late = store.commit(guarded(first, 4)).await.unwrap_err();
    assert!(late.to_string().contains("routing/guard"), "{late}");
    let kept = store.get(&key("m")).await.unwrap().unwrap();
    assert_eq!(kept.parse::<u8>().unwrap().value, 3);
    let guard = store.get(&guard).await.unwrap().unwrap();
    assert_eq!(
        (guard.generation, guard.parse::<u8>().unwrap().value),
        (Generation(2), 2)
    );
}

async fn lists_hold_one_kind_in_order(store: &dyn Store) {
    for id in ["b", "a"] {
        let other = Key::new(Kind::Host, id);
        let both = Transaction::new()
            .put(key(id), Expect::Any, &id)
            .unwrap()
            .put(other, Expect::Any, &id)
            .unwrap();
        store.commit(both).await.unwrap();
    }
    let found: Vec<_> = store
        .list(Kind::Migration)
        .await
        .unwrap()
        .into_iter()
        .map(|record| record.key)
        .collect();
    assert_eq!(found, [key("a"), key("b")]);
}

async fn logs_only_grow(store: &dyn Store) {
    let (one, other) = (LogName("m/1".to_owned()), LogName("m/10".to_owned()));
    for number in 1..=3 {
        let append = Transaction::new().append(one.clone(), &number).unwrap();
        store.commit(append).await.unwrap();
    }
    store
        .commit(Transaction::new().append(other.clone(), &0).unwrap())
        .await
        .unwrap();
    let sequences = |entries: Vec<crate::LogEntry>| -> Vec<u64> {
        entries.into_iter().map(|entry| entry.sequence).collect()
    };
    assert_eq!(
        sequences(store.read_log(&one, 0, 10).await.unwrap()),
        [1, 2, 3]
    );
    assert_eq!(sequences(store.read_log(&one, 2, 1).await.unwrap()), [2]);
    assert_eq!(sequences(store.read_log(&other, 0, 10).await.unwrap()), [1]);
}

async fn a_log_is_read_in_pages(store: &dyn Store) {
    let log = LogName("long".to_owned());
    for start in [0_u32, 100, 200] {
        let mut transaction = Transaction::new();
        for number in start..start + 100 {
            transaction = transaction.append(log.clone(), &number).unwrap();
        }
        store.commit(transaction).await.unwrap();
    }
    let mut from = 1;
    let mut read = Vec::new();
    loop {
        let page = store.read_log(&log, from, 70).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 70);
        from = last.sequence + 1;
        read.extend(page);
    }
    assert_eq!(read.len(), 300);
    for (index, entry) in read.iter().enumerate() {
        assert_eq!(entry.sequence, index as u64 + 1);
        assert_eq!(entry.value, index.to_string().as_bytes());
    }
    assert_eq!(
        store.read_log(&log, 299, usize::MAX).await.unwrap().len(),
        2
    );
    assert_eq!(store.read_log(&log, u64::MAX, 5).await.unwrap(), []);
    assert_eq!(store.read_log(&log, 0, 0).await.unwrap(), []);
}

async fn watchers_see_nothing_of_a_refused_transaction(store: &dyn Store) {
    let mut watch = store.watch(Kind::Migration);
    let refused = Transaction::new()
        .put(key("a"), Expect::Any, &1)
        .unwrap()
        .put(key("b"), Expect::Generation(Generation(1)), &1)
        .unwrap();
    assert!(store.commit(refused).await.is_err());
    let mut both = Transaction::new();
    for id in ["c", "d"] {
        both = both.put(key(id), Expect::Any, &1).unwrap();
    }
    store.commit(both).await.unwrap();
    for wanted in ["c", "d"] {
        match watch.next().await {
            Some(Change::Put(record)) => assert_eq!(record.key, key(wanted)),
            other => panic!("expected {wanted}, got {other:?}"),
        }
    }
}

async fn watchers_see_every_change_in_order(store: &dyn Store) {
    let mut watch = store.watch(Kind::Migration);
    let unrelated = Transaction::new()
        .put(Key::new(Kind::Host, "h"), Expect::Any, &0)
        .unwrap();
    store.commit(unrelated).await.unwrap();
    for value in 1..=3_u8 {
        let put = Transaction::new()
            .put(key("w"), Expect::Any, &value)
            .unwrap();
        store.commit(put).await.unwrap();
    }
    store
        .commit(Transaction::new().delete(key("w"), Expect::Any))
        .await
        .unwrap();
    for wanted in 1..=3_u8 {
        match watch.next().await {
            Some(Change::Put(record)) => {
                assert_eq!(record.parse::<u8>().unwrap().value, wanted);
            }
            other => panic!("expected value {wanted}, got {other:?}"),
        }
    }
    assert_eq!(watch.next().await, Some(Change::Deleted(key("w"))));
}

async fn only_one_of_many_writers_wins(store: SharedStore) {
    let mut tasks = Vec::new();
    for number in 0..16_u32 {
        let store = Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            let put = Transaction::new()
                .put(key("race"), Expect::Absent, &number)
                .unwrap();
            store.commit(put).await.is_ok()
        }));
    }
    let mut winners = 0;
    for task in tasks {
        winners += u32::from(task.await.unwrap());
    }
    assert_eq!(winners, 1);
}

/// Many writers raise one counter, each from the generation that it read.
async fn counters_lose_no_increment(store: SharedStore) {
    let put = Transaction::new().put(key("n"), Expect::Absent, &0_u32);
    store.commit(put.unwrap()).await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let store = Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            let mut done = 0;
            while done < 10 {
                let read = store.get(&key("n")).await.unwrap().unwrap();
                let read = read.parse::<u32>().unwrap();
                let next = Transaction::new()
                    .put(
                        key("n"),
                        Expect::Generation(read.generation),
                        &(read.value + 1),
                    )
                    .unwrap();
                done += u32::from(store.commit(next).await.is_ok());
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let end = store.get(&key("n")).await.unwrap().unwrap();
    assert_eq!(end.parse::<u32>().unwrap().value, 40);
    assert_eq!(end.generation, Generation(41));
}

/// What reservations rest on: whoever looks before he writes also writes the record that all who
/// look expect, so of two that looked at the same moment one has to look again.
async fn who_looks_before_he_writes_never_oversteps(store: SharedStore) {
    const ROOM: usize = 16;
    let room = Key::new(Kind::Host, "room");
    let put = Transaction::new().put(room.clone(), Expect::Absent, &ROOM);
    store.commit(put.unwrap()).await.unwrap();
    let mut tasks = Vec::new();
    for number in 0..64_u32 {
        let (store, room) = (Arc::clone(&store), room.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let host = store.get(&room).await.unwrap().unwrap();
                let held = store.list(Kind::Reservation).await.unwrap().len();
                assert!(held <= ROOM, "{held} of {ROOM} are held");
                if held == ROOM {
                    return 0_u32;
                }
                let own = Key::new(Kind::Reservation, number.to_string());
                let put = Transaction::new()
                    .put(room.clone(), Expect::Generation(host.generation), &ROOM)
                    .unwrap()
                    .put(own, Expect::Absent, &number)
                    .unwrap();
                match store.commit(put).await {
                    Ok(_) => return 1,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }));
    }
    let mut taken = 0;
    for task in tasks {
        taken += task.await.unwrap();
    }
    assert_eq!(usize::try_from(taken).unwrap(), ROOM);
    assert_eq!(store.list(Kind::Reservation).await.unwrap().len(), ROOM);
}
