//! Changes as other clients see them, over connections that break.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foreshadow_store::{
    Change, Connector, Expect, Key, Kind, RedisStore, Store, StoreError, Stream, Transaction, Watch,
};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::server::{LIMIT, Server, eventually, options, soon};
use crate::{key, put};

async fn next(watch: &mut Watch) -> Change {
    soon("a change", watch.next())
        .await
        .expect("the store is there")
}

fn value(change: &Change) -> Option<u32> {
    match change {
        Change::Put(record) => Some(record.parse().unwrap().value),
        Change::Deleted(_) | Change::Missed => None,
    }
}

#[tokio::test]
async fn a_watch_sees_the_changes_of_another_client_in_order() {
    let server = Server::durable().await;
    let (writer, reader) = (server.store().await, server.store().await);
    let mut watch = reader.watch(Kind::Migration);
    for number in 0..500 {
        writer.commit(put(Expect::Any, number)).await.unwrap();
    }
    writer
        .commit(Transaction::new().delete(key(), Expect::Any))
        .await
        .unwrap();
    for number in 0..500 {
        assert_eq!(value(&next(&mut watch).await), Some(number));
    }
    assert_eq!(next(&mut watch).await, Change::Deleted(key()));
}

#[tokio::test]
async fn after_a_restart_a_watch_says_that_it_missed_something_and_goes_on() {
    let mut server = Server::durable().await;
    let (writer, reader) = (server.store().await, server.store().await);
    let mut watch = reader.watch(Kind::Migration);
    writer.commit(put(Expect::Any, 1)).await.unwrap();
    assert_eq!(value(&next(&mut watch).await), Some(1));
    server.kill();
    server.start().await;
    assert_eq!(next(&mut watch).await, Change::Missed);
    eventually("the writer comes back", async || {
        writer.commit(put(Expect::Any, 2)).await.ok()
    })
    .await;
    assert_eq!(value(&next(&mut watch).await), Some(2));
}

#[tokio::test]
async fn telemetry_is_heard_once_somebody_watches_it() {
    let server = Server::durable().await;
    let (writer, reader) = (server.store().await, server.store().await);
    let mut watch = reader.watch(Kind::Traffic);
    assert_eq!(
        next(&mut watch).await,
        Change::Missed,
        "list what was before"
    );
    let write = Transaction::new()
        .put(Key::new(Kind::Traffic, "s"), Expect::Any, &5)
        .unwrap();
    writer.commit(write).await.unwrap();
    assert_eq!(value(&next(&mut watch).await), Some(5));
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_told_that_it_lagged_and_memory_stays_bounded() {
    let server = Server::with(&["--appendonly", "yes"]).await;
    let (writer, reader) = (server.store().await, server.store().await);
    let mut slow = reader.watch(Kind::Migration);
    let mut quick = reader.watch(Kind::Migration);
    let mut sent = 0;
    for _ in 0..50 {
        let mut transaction = Transaction::new();
        for _ in 0..100 {
            transaction = transaction.put(key(), Expect::Any, &sent).unwrap();
            sent += 1;
        }
        writer.commit(transaction).await.unwrap();
        for _ in 0..100 {
            assert!(value(&next(&mut quick).await).is_some());
        }
    }
    assert_eq!(next(&mut slow).await, Change::Missed);
    assert!(value(&next(&mut slow).await).is_some(), "then it goes on");
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed_by_a_client_that_only_watches() {
    let server = Server::durable().await;
    let store = server.open(options().timeout(LIMIT)).await.unwrap();
    let mut watch = store.watch(Kind::Migration);
    let clients = async || {
        let list: String = server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
        list.lines().next().map(str::to_owned)
    };
    let before = clients().await.expect("the store listens");
    server.hang();
    // The keepalive gives up, and later attempts find the server well again.
    let gone = eventually("an operation fails", async || store.get(&key()).await.err()).await;
    assert!(matches!(gone, StoreError::TimedOut { .. }), "{gone:?}");
    server.go_on();
    assert_eq!(next(&mut watch).await, Change::Missed);
    let after = eventually("it listens again", clients).await;
    assert_ne!(before, after, "over another connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_is_of_one_moment_while_others_write() {
    const PAIRS: usize = 3_000;
    let server = Server::with(&["--appendonly", "yes"]).await;
    let (writer, reader) = (server.store().await, server.store().await);
    let id = |side: &str, number: usize| Key::new(Kind::Instance, format!("{side}-{number}"));
    for start in (0..PAIRS).step_by(500) {
        let mut transaction = Transaction::new();
        for number in start..start + 500 {
            transaction = transaction
                .put(id("a", number), Expect::Absent, &number)
                .unwrap();
        }
        writer.commit(transaction).await.unwrap();
    }
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    // Each transaction moves one record to the other side: never none, never both.
    let moving = tokio::spawn(async move {
        let mut moved = 0_usize;
        while stopped.try_recv().is_err() {
            let number = moved * 7 % PAIRS;
            let (from, to) = if (moved / PAIRS).is_multiple_of(2) {
                ("a", "b")
            } else {
                ("b", "a")
            };
            let transaction = Transaction::new()
                .delete(id(from, number), Expect::Any)
                .put(id(to, number), Expect::Any, &number)
                .unwrap();
            writer.commit(transaction).await.unwrap();
            moved += 1;
        }
        moved
    });
    for _ in 0..30 {
        let mut seen = vec![0; PAIRS];
        for record in reader.list(Kind::Instance).await.unwrap() {
            seen[record.parse::<usize>().unwrap().value] += 1;
        }
        assert!(seen.iter().all(|&count| count == 1));
    }
    stop.send(()).unwrap();
    let moved = moving.await.unwrap();
    assert!(moved > 100, "only {moved} moves happened meanwhile");
}

#[tokio::test]
async fn a_hundred_thousand_records_are_listed() {
    let server = Server::with(&["--appendonly", "yes"]).await;
    let store = server.store().await;
    for kind in [Kind::Instance, Kind::Readings] {
        for start in (0..100_000).step_by(1_000) {
            let mut transaction = Transaction::new();
            for number in start..start + 1_000 {
                let key = Key::new(kind, format!("i-{number:06}"));
                transaction = transaction.put(key, Expect::Absent, &number).unwrap();
            }
            store.commit(transaction).await.unwrap();
        }
        let list = store.list(kind).await.unwrap();
        assert_eq!(list.len(), 100_000);
        assert!(list.is_sorted_by_key(|record| record.key.clone()));
    }
}

/// Leads to the server through a relay that can be cut.
struct Relay {
    socket: PathBuf,
    made: AtomicUsize,
    cut: Arc<Notify>,
}

#[async_trait::async_trait]
impl Connector for Relay {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let mut server = UnixStream::connect(&self.socket).await?;
        let (ours, mut theirs) = tokio::io::duplex(1_024);
        let cut = Arc::clone(&self.cut);
        self.made.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = cut.notified() => {}
                _ = tokio::io::copy_bidirectional(&mut theirs, &mut server) => {}
            }
        });
        Ok(Box::new(ours))
    }

    fn name(&self) -> String {
        "relay".to_owned()
    }
}

#[tokio::test]
async fn any_stream_will_do_and_a_cut_one_is_replaced() {
    let server = Server::durable().await;
    let relay = Arc::new(Relay {
        socket: server.socket(),
        made: AtomicUsize::new(0),
        cut: Arc::new(Notify::new()),
    });
    let store = RedisStore::open_through(Arc::clone(&relay) as _, options())
        .await
        .unwrap();
    let mut watch = store.watch(Kind::Migration);
    for round in 1..=5_usize {
        let number = u32::try_from(round).unwrap();
        eventually("a commit", async || {
            store.commit(put(Expect::Any, number)).await.ok()
        })
        .await;
        assert_eq!(value(&next(&mut watch).await), Some(number));
        assert_eq!(relay.made.load(Ordering::SeqCst), round);
        relay.cut.notify_waiters();
        assert_eq!(next(&mut watch).await, Change::Missed);
    }
}

#[tokio::test]
async fn a_dropped_store_closes_its_connection() {
    let server = Server::durable().await;
    let store = server.store().await;
    let mut watch = store.watch(Kind::Host);
    drop(store);
    assert_eq!(soon("the end", watch.next()).await, None);
    eventually("nobody listens", async || {
        let list: String = server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
        list.is_empty().then_some(())
    })
    .await;
}
