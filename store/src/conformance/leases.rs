//! What the suite asks of leases: one holder at a time, epochs that only grow, fences that hold.
#![allow(
    clippy::unwrap_used,
    reason = "this module is a test suite; it is public so that every backend can run it"
)]

use std::sync::Arc;
use std::time::Duration;

use domain::{Epoch, Timestamp};

use super::{Backend, holder, key};
use crate::error::StoreError;
use crate::key::{LeaseName, LogName};
use crate::record::{Expect, Lease, Transaction};
use crate::{SharedStore, Store};

pub(super) async fn leases_fence(backend: &dyn Backend) {
    let store = backend.fresh().await;
    let seconds = |count| backend.let_pass(&store, Duration::from_secs(count));
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

    seconds(9).await;
    let first = store.renew(&first, ttl).await.unwrap();
    seconds(9).await;
    assert_eq!(
        store.acquire(&name, &holder("two"), ttl).await.unwrap(),
        None,
        "was renewed"
    );

    seconds(2).await;
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

pub(super) async fn a_lease_of_no_time_is_refused(store: &dyn Store) {
    let name = LeaseName("l".to_owned());
    for ttl in [Duration::ZERO, Duration::from_micros(999)] {
        let refused = store.acquire(&name, &holder("one"), ttl).await;
        assert!(
            matches!(refused, Err(StoreError::Invalid { .. })),
            "{ttl:?}: {refused:?}"
        );
    }
    let lease = store
        .acquire(&name, &holder("one"), Duration::from_millis(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(lease.epoch, Epoch(1), "a refused one raises nothing");
    let refused = store.renew(&lease, Duration::ZERO).await;
    assert!(
        matches!(refused, Err(StoreError::Invalid { .. })),
        "{refused:?}"
    );
    assert!(
        store
            .acquire(&name, &holder("one"), Duration::MAX)
            .await
            .is_ok(),
        "however long, a time to live never wraps"
    );
    assert_eq!(
        store
            .acquire(&name, &holder("two"), Duration::from_secs(1))
            .await
            .unwrap(),
        None
    );
}

pub(super) async fn epochs_outlive_holders(backend: &dyn Backend) {
    let store = backend.fresh().await;
    let (name, other) = (LeaseName("l".to_owned()), LeaseName("m".to_owned()));
    let ttl = Duration::from_secs(1);
    for round in 1..=5_u64 {
        let who = if round % 2 == 0 { "even" } else { "odd" };
        let lease = store
            .acquire(&name, &holder(who), ttl)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(lease.epoch, Epoch(round));
        backend.let_pass(&store, ttl).await;
    }
    let again = store
        .acquire(&name, &holder("odd"), ttl)
        .await
        .unwrap()
        .unwrap();
    let twice = store
        .acquire(&name, &holder("odd"), ttl)
        .await
        .unwrap()
        .unwrap();
    assert!(
        twice.epoch > again.epoch,
        "the same holder, started anew, is a new leader"
    );
    let stale = store.renew(&again, ttl).await;
    assert!(matches!(stale, Err(StoreError::Fenced { .. })), "{stale:?}");
    let separate = store.acquire(&other, &holder("odd"), ttl).await.unwrap();
    assert_eq!(separate.unwrap().epoch, Epoch(1), "each lease has its own");
}

pub(super) async fn a_fence_without_a_lease_is_refused(store: &dyn Store) {
    let never = Lease {
        name: LeaseName("never".to_owned()),
        holder: holder("one"),
        epoch: Epoch(7),
        expires_at: Timestamp(u64::MAX),
    };
    let fenced = Transaction::new()
        .fenced(&never)
        .append(LogName("l".to_owned()), &1)
        .unwrap();
    let refused = store.commit(fenced).await;
    assert!(
        matches!(
            refused,
            Err(StoreError::Fenced {
                current: Epoch(0),
                ..
            })
        ),
        "{refused:?}"
    );
    assert!(store.renew(&never, Duration::from_secs(1)).await.is_err());
    store.release(&never).await.unwrap();
}

pub(super) async fn only_one_of_many_candidates_leads(store: SharedStore) {
    let name = LeaseName("race".to_owned());
    let mut tasks = Vec::new();
    for number in 0..16_u32 {
        let (store, name) = (Arc::clone(&store), name.clone());
        tasks.push(tokio::spawn(async move {
            let holder = holder(&format!("h-{number}"));
            let ttl = Duration::from_mins(1);
            store.acquire(&name, &holder, ttl).await.unwrap()
        }));
    }
    let mut leases = Vec::new();
    for task in tasks {
        leases.extend(task.await.unwrap());
    }
    assert_eq!(leases.len(), 1, "{leases:?}");
}
