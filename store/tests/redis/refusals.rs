//! Servers that refuse, hang, or must not be used.

use std::time::{Duration, Instant};

use foreshadow_store::{
    Address, Expect, Kind, Opening, Persistence, RedisOptions, RedisStore, Secret, Store,
    StoreError, conformance,
};

use crate::contract::Fresh;
use crate::server::{LIMIT, Server, eventually, free_port, options};
use crate::{key, put};

/// The rights that `docs/decisions/0008-redis.md` names.
const RIGHTS: &[&str] = &[
    "resetchannels",
    "~{t*",
    "&{t*",
    "+hello",
    "+auth",
    "+info",
    "+eval",
    "+evalsha",
    "+subscribe",
    "+publish",
    "+get",
    "+set",
    "+hget",
    "+hset",
    "+hdel",
    "+hlen",
    "+hkeys",
    "+hgetall",
    "+hscan",
    "+llen",
    "+lrange",
    "+rpush",
    "+ltrim",
    "+del",
    "+exists",
    "+time",
];

async fn user(server: &Server, name: &str, rights: &[&str]) -> RedisOptions {
    let mut words = vec!["ACL", "SETUSER", name, "on", ">open-sesame"];
    words.extend(rights);
    let _: String = server.command(&words).await;
    options().login(name, Secret::new("open-sesame"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_that_are_documented_are_enough() {
    let server = Server::durable().await;
    let options = user(&server, "foreshadow", RIGHTS).await;
    conformance::run_on(&Fresh::new(&server, options)).await;
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_never_printed() {
    let server = Server::durable().await;
    user(&server, "foreshadow", RIGHTS).await;
    let wrong = options().login("foreshadow", Secret::new("xyzzy"));
    assert!(!format!("{wrong:?}").contains("xyzzy"));
    let denied = server.open(wrong).await.err();
    assert!(
        matches!(denied, Some(StoreError::Denied { .. })),
        "{denied:?}"
    );
    assert!(!format!("{denied:?}").contains("xyzzy"));

    let locked = Server::with(&["--appendonly", "yes", "--requirepass", "xyzzy"]).await;
    let denied = locked.open(options()).await.err();
    assert!(
        matches!(denied, Some(StoreError::Denied { .. })),
        "{denied:?}"
    );
    let welcome = options().login("default", Secret::new("xyzzy"));
    locked.open(welcome).await.unwrap();
}

#[tokio::test]
async fn a_missing_right_is_denied_before_anything_is_half_written() {
    let server = Server::durable().await;
    server.store().await;
    // A right that only the making of a store, or its mending, needs.
    let rare = [
        "resetchannels",
        "+hello",
        "+auth",
        "+eval",
        "+hkeys",
        "+exists",
    ];
    let needed = RIGHTS.iter().filter(|right| !rare.contains(right));
    for (number, missing) in needed.enumerate() {
        let rights: Vec<_> = RIGHTS
            .iter()
            .copied()
            .filter(|right| right != missing)
            .collect();
        let options = user(&server, &format!("without-{number}"), &rights).await;
        let denied = server.open(options).await.err();
        assert!(
            matches!(denied, Some(StoreError::Denied { .. })),
            "{missing}: {denied:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_would_forget_is_refused_unless_told_otherwise() {
    let forgetful = Server::with(&["--appendonly", "no"]).await;
    let refused = forgetful.open(options()).await.err();
    match refused {
        Some(StoreError::NotDurable { reason, .. }) => {
            assert!(reason.contains("appendonly yes"), "{reason}");
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
    forgetful
        .open(options().persistence(Persistence::MayForget))
        .await
        .unwrap();

    let evicting = ["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"];
    let refused = Server::with(&evicting).await.open(options()).await.err();
    assert!(
        matches!(refused, Some(StoreError::NotDurable { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_store_that_is_not_there_is_not_made_by_who_expects_one() {
    let server = Server::durable().await;
    let expects = RedisOptions::new(Opening::Existing).prefix("t");
    let refused = server.open(expects.clone()).await.err();
    assert!(
        matches!(refused, Some(StoreError::Lost { .. })),
        "{refused:?}"
    );
    server.store().await;
    server.open(expects).await.unwrap();
}

#[tokio::test]
async fn a_full_server_refuses_writes_and_still_reads() {
    let server = Server::durable().await;
    let store = server.store().await;
    store.commit(put(Expect::Absent, 1)).await.unwrap();
    let before = store.witness().unwrap();
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let full = store.commit(put(Expect::Any, 2)).await;
    assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
    let record = store.get(&key()).await.unwrap().unwrap();
    assert_eq!(record.parse::<u32>().unwrap().value, 1);
    assert_eq!(store.witness().unwrap(), before);
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    store.commit(put(Expect::Any, 3)).await.unwrap();
}

#[tokio::test]
async fn a_replica_is_refused_and_one_that_becomes_a_replica_is_left() {
    let server = Server::durable().await;
    let store = server.store().await;
    let _: String = server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let refused = store.commit(put(Expect::Any, 1)).await;
    assert!(
        matches!(refused, Err(StoreError::ReadOnly { .. })),
        "{refused:?}"
    );
    let refused = server.open(options()).await.err();
    assert!(
        matches!(refused, Some(StoreError::ReadOnly { .. })),
        "{refused:?}"
    );
    let _: String = server.command(&["REPLICAOF", "NO", "ONE"]).await;
    eventually("it is the master again", async || {
        store.commit(put(Expect::Any, 2)).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_answers_in_time_with_a_named_error() {
    let server = Server::durable().await;
    let store = server.open(options().timeout(LIMIT)).await.unwrap();
    store.commit(put(Expect::Any, 1)).await.unwrap();
    server.hang();
    // Room for a busy machine; the operation itself is told its limit.
    let slack = Duration::from_secs(2);
    let start = Instant::now();
    let first = store.commit(put(Expect::Any, 2)).await;
    assert!(start.elapsed() < LIMIT + slack, "{:?}", start.elapsed());
    assert!(
        matches!(first, Err(StoreError::TimedOut { limit_ms: 500, .. })),
        "{first:?}"
    );
    let start = Instant::now();
    let opened = server.open(options().timeout(LIMIT)).await.err();
    assert!(start.elapsed() < LIMIT + slack, "{:?}", start.elapsed());
    assert!(
        matches!(opened, Some(StoreError::TimedOut { .. })),
        "{opened:?}"
    );
    let next = store.list(Kind::Migration).await;
    assert!(
        matches!(
            next,
            Err(StoreError::TimedOut { .. } | StoreError::Unavailable { .. })
        ),
        "{next:?}"
    );
    server.go_on();
    eventually("it answers again", async || {
        store.commit(put(Expect::Any, 3)).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let mut server = Server::durable().await;
    let store = server.open(options().timeout(LIMIT)).await.unwrap();
    server.kill();
    let gone = store.get(&key()).await;
    assert!(
        matches!(gone, Err(StoreError::Unavailable { .. })),
        "{gone:?}"
    );
    let gone = server.open(options().timeout(LIMIT)).await.err();
    assert!(
        matches!(gone, Some(StoreError::Unavailable { .. })),
        "{gone:?}"
    );
}

async fn cluster_node(port: u16) -> Server {
    let bus = (port + 10_000).to_string();
    let port = port.to_string();
    let args = [
        "--appendonly",
        "yes",
        "--cluster-enabled",
        "yes",
        "--bind",
        "127.0.0.1",
    ];
    let ports = ["--port", &port, "--cluster-port", &bus];
    Server::with(&[&args[..], &ports[..]].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_the_store_is_on_one_node_and_others_say_which() {
    let port = free_port(20_000);
    let owner = cluster_node(port).await;
    let slots = ["CLUSTER", "ADDSLOTSRANGE", "0", "16383"];
    let _: String = owner.command(&slots).await;
    let other = cluster_node(free_port(port + 1)).await;
    let lonely = other.open(options()).await.err();
    assert!(
        matches!(lonely, Some(StoreError::Moved { .. })),
        "{lonely:?}"
    );
    let _: String = other
        .command(&[
            "CLUSTER",
            "MEET",
            "127.0.0.1",
            &port.to_string(),
            &(port + 10_000).to_string(),
        ])
        .await;
    let moved = eventually("the nodes know each other", async || {
        match other.open(options()).await.err() {
            Some(StoreError::Moved { reason, .. }) if reason.contains("MOVED") => Some(reason),
            _ => None,
        }
    })
    .await;
    assert!(moved.contains(&port.to_string()), "{moved}");

    // A master takes no call in its first two seconds, however soon it has all slots.
    eventually("the owner says that the cluster is up", async || {
        let info: String = owner.command(&["CLUSTER", "INFO"]).await;
        info.contains("cluster_state:ok").then_some(())
    })
    .await;
    let tcp = Address::Tcp("127.0.0.1".to_owned(), port);
    let store = RedisStore::open(tcp, options()).await.unwrap();
    store.commit(put(Expect::Any, 1)).await.unwrap();
    conformance::run_on(&Fresh::new(&owner, options())).await;
}
