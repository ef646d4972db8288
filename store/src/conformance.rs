//! The one suite that every backend must pass. A backend's test calls [`run`] with a function
//! that makes an empty store on the given clock.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this module is a test suite; it is public so that every backend can run it"
)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use domain::{Epoch, HolderId, Timestamp};

use crate::clock::{Clock, ManualClock};
use crate::error::StoreError;
use crate::key::{Key, Kind, LeaseName, LogName};
use crate::record::{Expect, Generation, Transaction};
use crate::watch::Change;
use crate::{SharedStore, Store};

fn key(id: &str) -> Key {
    Key::new(Kind::Migration, id)
}

fn holder(name: &str) -> HolderId {
    HolderId::new(name).unwrap()
}

/// Runs the whole suite.
///
/// # Panics
/// When the backend breaks a guarantee of [`Store`].
pub async fn run<F, R>(make: &F)
where
    F: Fn(Arc<dyn Clock>) -> R,
    R: Future<Output = SharedStore>,
{
    let clock = Arc::new(ManualClock::at(Timestamp(1_000)));
    let fresh = || make(Arc::clone(&clock) as Arc<dyn Clock>);
    writes_expect_what_they_replace(&*fresh().await).await;
    a_transaction_is_all_or_nothing(&*fresh().await).await;
    lists_hold_one_kind_in_order(&*fresh().await).await;
    logs_only_grow(&*fresh().await).await;
    watchers_see_every_change_in_order(&*fresh().await).await;
    leases_fence(&*fresh().await, &clock).await;
    only_one_of_many_writers_wins(fresh().await).await;
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

async fn leases_fence(store: &dyn Store, clock: &ManualClock) {
    let name = LeaseName("migrator/default".to_owned());
    let ttl = Duration::from_secs(10);
    let first = store
        .acquire(&name, &holder("one"), ttl)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.epoch, Epoch(1));
    assert_eq!(
        store.acquire(&name, &holder("two"), ttl).await.unwrap(),
        None,
        "still held"
    );

    clock.advance(9_000);
    let first = store.renew(&first, ttl).await.unwrap();
    clock.advance(9_000);
    assert_eq!(
        store.acquire(&name, &holder("two"), ttl).await.unwrap(),
        None,
        "was renewed"
    );

    clock.advance(2_000);
    let second = store
        .acquire(&name, &holder("two"), ttl)
        .await
        .unwrap()
        .unwrap();
    assert!(
        second.epoch > first.epoch,
        "the epoch grows at each acquisition"
    );
    assert!(matches!(
        store.renew(&first, ttl).await,
        Err(StoreError::Fenced { .. })
    ));

    let write = |lease| {
        Transaction::new()
            .fenced(lease)
            .put(key("f"), Expect::Any, &1)
            .unwrap()
    };
    let stale = store.commit(write(&first)).await;
    assert!(
        matches!(stale, Err(StoreError::Fenced { .. })),
        "a stale leader wrote: {stale:?}"
    );
    assert_eq!(store.get(&key("f")).await.unwrap(), None);
    store.commit(write(&second)).await.unwrap();

    store.release(&second).await.unwrap();
    let third = store
        .acquire(&name, &holder("one"), ttl)
        .await
        .unwrap()
        .unwrap();
    assert!(third.epoch > second.epoch, "the epoch survives a release");
    store.release(&second).await.unwrap();
    assert!(
        store.renew(&third, ttl).await.is_ok(),
        "releasing an old lease frees nobody's"
    );
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
