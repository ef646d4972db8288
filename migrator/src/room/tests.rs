use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::migration::Limits;
use domain::{
    Epoch, HolderId, InstanceId, InstanceState, MigrationId, Phase, PlanId, RampPlan, Reading,
    Replica, Timestamp,
};
use serde::Serialize;
use store::{EmbeddedStore, LeaseName, MemoryStore, SharedStore};

use super::*;

fn host(name: &str, memory: f64, cpu: Option<f64>) -> Host {
    let capacity = domain::Capacity {
        cpu,
        memory: Some(memory),
        ..domain::Capacity::default()
    };
    Host {
        id: HostId::new(name).unwrap(),
        capacity,
        cpus: Vec::new(),
        labels: BTreeMap::new(),
        isolation: None,
    }
}

fn instance(name: &str, host: &str) -> Instance {
    let spec = serde_json::json!({"id": name, "service": "shop", "argv": ["server"]});
    Instance {
        spec: serde_json::from_value(spec).unwrap(),
        replica: Replica {
            host: HostId::new(host).unwrap(),
            endpoint: domain::Endpoint(([127, 0, 0, 1], 1).into()),
            handle: String::new(),
            tag: name.to_owned(),
        },
        state: InstanceState::Running,
        placed_at: Timestamp(0),
    }
}

fn intent(instance: &str, to: &str) -> Move {
    Move {
        instance: InstanceId::new(instance).unwrap(),
        from: HostId::new("a").unwrap(),
        target: HostId::new(to).unwrap(),
        ramp: RampPlan::standard(1),
        reserve: Resources {
            cpu: 100.0,
            memory: 10.0,
            ..Resources::default()
        },
        score: 0.0,
        reasons: Vec::new(),
        expected: domain::Expected::default(),
    }
}

fn migration(number: usize) -> Migration {
    let name = format!("i-{number}");
    Migration::new(
        MigrationId::new(format!("m-{number}")).unwrap(),
        PlanId::new("p-1").unwrap(),
        &instance(&name, "a"),
        &intent(&name, "b"),
        Limits::default(),
        Epoch(1),
        Timestamp(0),
    )
}

async fn put<T: Serialize>(store: &dyn Store, kind: Kind, id: &str, value: &T) -> Generation {
    let put = Transaction::new().put(Key::new(kind, id), Expect::Any, value);
    let done = store.commit(put.unwrap()).await.unwrap();
    done.generations[0].unwrap()
}

async fn leader(store: &dyn Store, shard: &str) -> Lease {
    let holder = HolderId::new("me").unwrap();
    let name = LeaseName(format!("migrator/{shard}"));
    let taken = store.acquire(&name, &holder, Duration::from_hours(1)).await;
    taken.unwrap().unwrap()
}

/// Sixty-four sagas of two leaders reserve at the same moment where thirty-two fit.
async fn crowd(store: SharedStore) {
    const ALL: usize = 64;
    put(&*store, Kind::Host, "b", &host("b", 320.0, None)).await;
    let leaders = [
        leader(&*store, "0-of-2").await,
        leader(&*store, "1-of-2").await,
    ];
    let mut tasks = Vec::new();
    for number in 0..ALL {
        let record = migration(number);
        let id = record.id.as_str();
        let generation = put(&*store, Kind::Migration, id, &record).await;
        let (store, lease) = (Arc::clone(&store), leaders[number % 2].clone());
        tasks.push(async move { reserve(&*store, &lease, &record, generation).await });
    }
    let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    let mut refused = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => {}
            Err(RoomError::Refused(reason)) => {
                assert!(reason.contains("no memory left"), "{reason}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let held: Vec<Reservation> = all(&*store, Kind::Reservation).await.unwrap();
    let sum: f64 = held.iter().map(|held| held.amount.memory).sum();
    assert!(sum <= 320.0, "{sum} of 320 are held");
    assert_eq!((held.len(), refused), (32, 32), "and all of it is used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_reservations_at_once_never_exceed_a_host_in_memory() {
    crowd(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_reservations_at_once_never_exceed_a_host_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
    crowd(Arc::new(store)).await;
}

#[tokio::test]
async fn an_isolation_that_comes_between_look_and_write_is_seen() {
    /// Isolates the host after the first look at it.
    struct Meddles(MemoryStore, std::sync::atomic::AtomicBool);
    #[async_trait::async_trait]
    impl Store for Meddles {
        async fn get(&self, key: &Key) -> Result<Option<store::Record>, StoreError> {
            self.0.get(key).await
        }
        async fn list(&self, kind: Kind) -> Result<Vec<store::Record>, StoreError> {
            if kind == Kind::Readings && !self.1.swap(true, std::sync::atomic::Ordering::SeqCst) {
                let mut closed = host("b", 320.0, None);
                closed.isolation = Some(domain::Isolation {
                    reason: "the disk fails".to_owned(),
                    owner: "operator".to_owned(),
                    since: Timestamp(0),
                });
                put(&self.0, Kind::Host, "b", &closed).await;
            }
            self.0.list(kind).await
        }
        async fn commit(&self, t: Transaction) -> Result<store::Committed, StoreError> {
            self.0.commit(t).await
        }
        async fn read_log(
            &self,
            log: &store::LogName,
            from: u64,
            limit: usize,
        ) -> Result<Vec<store::LogEntry>, StoreError> {
            self.0.read_log(log, from, limit).await
        }
        async fn acquire(
            &self,
            lease: &LeaseName,
            holder: &HolderId,
            ttl: Duration,
        ) -> Result<Option<Lease>, StoreError> {
            self.0.acquire(lease, holder, ttl).await
        }
        async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, StoreError> {
            self.0.renew(lease, ttl).await
        }
        async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
            self.0.release(lease).await
        }
        fn watch(&self, kind: Kind) -> store::Watch {
            self.0.watch(kind)
        }
    }
    let store = Meddles(MemoryStore::new(), false.into());
    put(&store, Kind::Host, "b", &host("b", 320.0, None)).await;
    let lease = leader(&store, "default").await;
    let record = migration(1);
    let generation = put(&store, Kind::Migration, "m-1", &record).await;
    let refused = reserve(&store, &lease, &record, generation).await;
    let reason = refused.unwrap_err().to_string();
    assert!(reason.contains("the disk fails"), "{reason}");
    assert!(store.list(Kind::Reservation).await.unwrap().is_empty());
}

#[test]
fn processors_in_use_and_held_count_too() {
    let target = host("b", 1_000.0, Some(1_000.0));
    let there = instance("other", "b");
    let reading = |cpu| Reading {
        at: Timestamp(0),
        demand: Resources {
            cpu: Some(cpu),
            ..Resources::default()
        },
    };
    let readings = Readings {
        instance: there.spec.id.clone(),
        readings: [9_999.0, 790.0, 810.0, 800.0].map(reading).to_vec(),
    };
    let wanted = migration(1);
    let load = |held: &[Reservation]| {
        let (instances, readings) = ([there.clone()], [readings.clone()]);
        Load::of(&target.id, &wanted, held, &[], &instances, &readings)
    };
    assert!(load(&[]).takes(&target, &wanted.reserve).is_ok());
    let other = Reservation {
        migration: MigrationId::new("m-2").unwrap(),
        host: target.id.clone(),
        amount: wanted.reserve,
    };
    let full = [
        other.clone(),
        Reservation {
            migration: MigrationId::new("m-3").unwrap(),
            ..other
        },
    ];
    let reason = load(&full).takes(&target, &wanted.reserve).unwrap_err();
    assert!(reason.contains("no cpu left: 1000 of 1000"), "{reason}");
}

#[test]
fn caps_hold_in_all_per_host_and_per_instance() {
    let caps = Caps {
        in_all: 3,
        per_host: 2,
    };
    let mut others = vec![migration(1), migration(2)];
    let refused =
        |others: &[Migration], wanted: &Move| admit(others, wanted, caps).err().unwrap_or_default();
    let words = refused(&others, &intent("i-9", "b"));
    assert!(words.contains("leave or enter host a: 2"), "{words}");
    let elsewhere = Move {
        from: HostId::new("c").unwrap(),
        ..intent("i-9", "d")
    };
    assert_eq!(refused(&others, &elsewhere), "");
    let words = refused(&others, &intent("i-1", "d"));
    assert!(words.contains("m-1 of i-1 is under way"), "{words}");
    others[0].phase = Phase::Parked;
    let words = refused(&others, &intent("i-1", "d"));
    assert!(words.contains("m-1 of i-1 is parked"), "{words}");
    others.extend([migration(3), migration(4)]);
    let words = refused(&others, &elsewhere);
    assert!(words.contains("are under way: 3"), "{words}");
    for other in &mut others {
        other.phase = Phase::Done;
    }
    assert_eq!(refused(&others, &intent("i-1", "b")), "");
}
