//! What the trait promises, with several clients and against the memory store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::{Epoch, HolderId};
use foreshadow_store::conformance::{self, Backend};
use foreshadow_store::{
    Expect, Generation, Key, Kind, LeaseName, LogName, MemoryStore, RedisOptions, RedisStore,
    SharedStore, Store, StoreError, Transaction, Write,
};
use proptest::prelude::*;

use crate::server::{Server, options};
use crate::{key, put};

/// A store of its own for each part of the suite, all on one server.
pub(crate) struct Fresh<'a> {
    server: &'a Server,
    options: RedisOptions,
    made: AtomicUsize,
}

impl<'a> Fresh<'a> {
    pub(crate) fn new(server: &'a Server, options: RedisOptions) -> Self {
        Self {
            server,
            options,
            made: AtomicUsize::new(0),
        }
    }
}

/// Lets time pass for all leases: they end earlier. The server's clock cannot be moved.
const AGE: &str = r"
for _, key in ipairs(redis.call('KEYS', '*:leases')) do
  local flat = redis.call('HGETALL', key)
  for index = 1, #flat, 2 do
    local epoch, ends, holder = string.match(flat[index + 1], '^1|(%d+)|(%d+)|([^|]*)|%x+$')
    ends = string.format('%.0f', math.max(0, tonumber(ends) - tonumber(ARGV[1])))
    local body = '1|' .. epoch .. '|' .. ends .. '|' .. holder
    local sum = redis.sha1hex(flat[index] .. '|' .. body)
    redis.call('HSET', key, flat[index], body .. '|' .. sum)
  end
end
return 1";

#[async_trait::async_trait]
impl Backend for Fresh<'_> {
    async fn fresh(&self) -> SharedStore {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let options = self.options.clone().prefix(format!("t/{number}"));
        Arc::new(self.server.open(options).await.unwrap())
    }

    async fn let_pass(&self, _store: &SharedStore, time: Duration) {
        let millis = time.as_millis().to_string();
        let _: u8 = self.server.command(&["EVAL", AGE, "0", &millis]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let server = Server::durable().await;
    conformance::run_on(&Fresh::new(&server, options())).await;
}

#[tokio::test]
async fn of_two_clients_one_wins_each_race() {
    let server = Server::durable().await;
    let (one, two) = (server.store().await, server.store().await);
    one.commit(put(Expect::Absent, 0)).await.unwrap();
    for generation in 1..=20_u64 {
        let expect = Expect::Generation(Generation(generation));
        let (first, second) = tokio::join!(one.commit(put(expect, 1)), two.commit(put(expect, 2)));
        assert!(
            first.is_ok() != second.is_ok(),
            "{generation}: {first:?}, {second:?}"
        );
        let lease = LeaseName(format!("l-{generation}"));
        let (a, b) = (HolderId::new("a").unwrap(), HolderId::new("b").unwrap());
        let ttl = Duration::from_mins(1);
        let (first, second) =
            tokio::join!(one.acquire(&lease, &a, ttl), two.acquire(&lease, &b, ttl));
        let held = [first.unwrap(), second.unwrap()];
        assert_eq!(held.iter().flatten().count(), 1, "{held:?}");
    }
}

#[tokio::test]
async fn a_leader_that_was_replaced_by_another_client_writes_nothing() {
    let server = Server::durable().await;
    let (one, two) = (server.store().await, server.store().await);
    let name = LeaseName("migrator/default".to_owned());
    let holder = |name: &str| HolderId::new(name).unwrap();
    let short = one
        .acquire(&name, &holder("one"), Duration::from_millis(1))
        .await
        .unwrap()
        .unwrap();
    let newer = crate::server::eventually("the lease ends", async || {
        two.acquire(&name, &holder("two"), Duration::from_mins(1))
            .await
            .unwrap()
    })
    .await;
    assert_eq!((short.epoch, newer.epoch), (Epoch(1), Epoch(2)));
    let log = LogName("l".to_owned());
    let stale = put(Expect::Any, 1)
        .fenced(&short)
        .append(log.clone(), &1)
        .unwrap();
    match one.commit(stale).await {
        Err(StoreError::Fenced { ours, current, .. }) => {
            assert_eq!((ours, current), (Epoch(1), Epoch(2)));
        }
        other => panic!("a stale leader wrote: {other:?}"),
    }
    assert_eq!(two.get(&key()).await.unwrap(), None);
    assert_eq!(two.read_log(&log, 0, 10).await.unwrap(), []);
    two.commit(put(Expect::Any, 2).fenced(&newer))
        .await
        .unwrap();
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = Server::durable().await;
    let store = server.store().await;
    let lease = LeaseName("l".to_owned());
    for round in 1..=5_u64 {
        let _: String = server.command(&["SCRIPT", "FLUSH", "SYNC"]).await;
        store.commit(put(Expect::Any, 1)).await.unwrap();
        assert_eq!(
            store.get(&key()).await.unwrap().unwrap().generation,
            Generation(round)
        );
        let holder = HolderId::new("h").unwrap();
        let ttl = Duration::from_mins(1);
        assert!(store.acquire(&lease, &holder, ttl).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn records_say_whether_they_must_survive() {
    let server = Server::durable().await;
    let store = server.store().await;
    for kind in [Kind::Host, Kind::Traffic] {
        let write = Transaction::new().put(Key::new(kind, "x"), Expect::Any, &1);
        store.commit(write.unwrap()).await.unwrap();
    }
    let host: String = server.command(&["HGET", "{t}:records:host", "x"]).await;
    let traffic: String = server.command(&["HGET", "{t}:records:traffic", "x"]).await;
    assert!(host.starts_with("1|1|d|"), "{host}");
    assert!(traffic.starts_with("1|1|e|"), "{traffic}");
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Commit {
        fence: Option<u64>,
        writes: Vec<(u8, u8, Option<u8>)>,
        appends: Vec<(u8, u8)>,
    },
    Acquire(u8),
    Renew(u64),
    Release(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0..4_u8, 0..4_u8, proptest::option::of(any::<u8>()));
    let commit = (
        proptest::option::weighted(0.3, 0..4_u64),
        proptest::collection::vec(write, 0..4),
        proptest::collection::vec((0..2_u8, any::<u8>()), 0..3),
    )
        .prop_map(|(fence, writes, appends)| Step::Commit {
            fence,
            writes,
            appends,
        });
    prop_oneof![
        6 => commit,
        1 => (0..2_u8).prop_map(Step::Acquire),
        1 => (0..4_u64).prop_map(Step::Renew),
        1 => (0..4_u64).prop_map(Step::Release),
    ]
}

fn holder(number: u8) -> HolderId {
    HolderId::new(format!("h-{number}")).unwrap()
}

fn lease(epoch: u64) -> foreshadow_store::Lease {
    foreshadow_store::Lease {
        name: LeaseName("l".to_owned()),
        holder: holder(u8::try_from(epoch % 2).unwrap()),
        epoch: Epoch(epoch),
        expires_at: domain::Timestamp(0),
    }
}

/// Does the step; the result without what depends on the clock.
async fn perform(store: &dyn Store, step: &Step) -> String {
    let hour = Duration::from_hours(1);
    match step.clone() {
        Step::Commit {
            fence,
            writes,
            appends,
        } => {
            let mut transaction = Transaction::new();
            if let Some(epoch) = fence {
                transaction = transaction.fenced(&lease(epoch));
            }
            for (id, expect, value) in writes {
                // Two kinds, two ids of each.
                let kind = if id % 2 == 0 {
                    Kind::Host
                } else {
                    Kind::Traffic
                };
                transaction.writes.push(Write {
                    key: Key::new(kind, format!("r-{}", id / 2)),
                    expect: match expect {
                        0 | 1 => Expect::Any,
                        2 => Expect::Absent,
                        _ => Expect::Generation(Generation(u64::from(id) + 1)),
                    },
                    value: value.map(|value| vec![value; usize::from(value)]),
                });
            }
            for (log, value) in appends {
                transaction
                    .appends
                    .push((LogName(format!("g-{log}")), vec![value]));
            }
            format!("{:?}", store.commit(transaction).await)
        }
        Step::Acquire(number) => {
            let name = LeaseName("l".to_owned());
            let taken = store.acquire(&name, &holder(number), hour).await;
            format!("{:?}", taken.map(|lease| lease.map(|lease| lease.epoch)))
        }
        Step::Renew(epoch) => {
            let renewed = store.renew(&lease(epoch), hour).await;
            format!("{:?}", renewed.map(|lease| lease.epoch))
        }
        Step::Release(epoch) => format!("{:?}", store.release(&lease(epoch)).await),
    }
}

/// All that can be read.
async fn contents(store: &dyn Store) -> Vec<String> {
    let mut found = Vec::new();
    for kind in [Kind::Host, Kind::Traffic] {
        found.push(format!("{:?}", store.list(kind).await));
    }
    for log in ["g-0", "g-1"] {
        let log = LogName(log.to_owned());
        found.push(format!("{:?}", store.read_log(&log, 0, 1_000).await));
    }
    found
}

#[test]
fn random_histories_end_as_they_do_in_memory() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::with(&["--appendonly", "yes"]));
    let number = AtomicUsize::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let histories = proptest::collection::vec(step(), 1..40);
    let outcome = runner.run(&histories, |steps| {
        runtime.block_on(async {
            let prefix = format!("p-{}", number.fetch_add(1, Ordering::Relaxed));
            let redis: RedisStore = server.open(options().prefix(prefix)).await.unwrap();
            let memory = MemoryStore::new();
            for step in &steps {
                prop_assert_eq!(
                    perform(&redis, step).await,
                    perform(&memory, step).await,
                    "{:?}",
                    step
                );
            }
            prop_assert_eq!(contents(&redis).await, contents(&memory).await);
            Ok(())
        })
    });
    outcome.unwrap();
}
