//! A master that dies, a replica that takes over, and a sentinel that says so.

use std::sync::Arc;

use foreshadow_store::{
    Connector, Expect, Generation, RedisStore, SentinelConnector, Store, StoreError,
};

use crate::loss::lead;
use crate::server::{Server, eventually, free_port, options};
use crate::{key, put};

async fn server_at(port: u16, more: &[&str]) -> Server {
    let port = port.to_string();
    let args = [
        "--appendonly",
        "yes",
        "--bind",
        "127.0.0.1",
        "--port",
        &port,
    ];
    Server::with(&[&args[..], more].concat()).await
}

#[tokio::test]
async fn after_a_fail_over_the_store_goes_on_at_the_new_master_with_new_leases() {
    let master_port = free_port(23_000);
    let mut master = server_at(master_port, &[]).await;
    let of = format!("127.0.0.1 {master_port}");
    let replica = server_at(free_port(24_000), &["--replicaof", &of]).await;
    let sentinel = Server::sentinel(&format!(
        "sentinel monitor m {of} 1\n\
         sentinel down-after-milliseconds m 300\n\
         sentinel failover-timeout m 3000\n"
    ))
    .await;

    let connector = SentinelConnector::plain(vec![sentinel.address()], "m").unwrap();
    let store = RedisStore::open_through(Arc::new(connector), options())
        .await
        .unwrap();
    let lease = lead(&store).await;
    store
        .commit(put(Expect::Absent, 1).fenced(&lease))
        .await
        .unwrap();
    let head: String = master.command(&["GET", "{t}:head"]).await;
    eventually("the replica has it", async || {
        let there: Option<String> = replica.command(&["GET", "{t}:head"]).await;
        (there.as_ref() == Some(&head)).then_some(())
    })
    .await;
    eventually("the sentinel knows the replica", async || {
        let known: redis::Value = sentinel.command(&["SENTINEL", "replicas", "m"]).await;
        matches!(known, redis::Value::Array(list) if !list.is_empty()).then_some(())
    })
    .await;

    master.kill();
    let record = eventually("the replica leads", async || store.get(&key()).await.ok()).await;
    assert_eq!(record.unwrap().generation, Generation(1));
    let stale = store.commit(put(Expect::Any, 2).fenced(&lease)).await;
    assert!(matches!(stale, Err(StoreError::Fenced { .. })), "{stale:?}");
    let newer = lead(&store).await;
    assert!(newer.epoch > lease.epoch);
    store
        .commit(put(Expect::Any, 2).fenced(&newer))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_sentinel_that_is_not_there_or_knows_no_such_master_is_unavailable() {
    assert!(matches!(
        SentinelConnector::plain(Vec::new(), "m"),
        Err(StoreError::Invalid { .. })
    ));
    let sentinel = Server::sentinel("").await;
    let connector = SentinelConnector::plain(vec![sentinel.address()], "m").unwrap();
    assert!(connector.name().contains('m'));
    let refused = RedisStore::open_through(Arc::new(connector), options())
        .await
        .err();
    match refused {
        Some(StoreError::Unavailable { reason, .. }) => {
            assert!(reason.contains("knows no \"m\""), "{reason}");
        }
        other => panic!("expected it to be unavailable, got {other:?}"),
    }
}
