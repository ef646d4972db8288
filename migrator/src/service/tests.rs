//! Leading: alone, in turns, in parts, and not at all.

use domain::{Phase, Service};
use store::{LeaseName, MemoryStore, SystemClock};
use tokio::time::sleep;

use super::*;
use crate::saga::tests::{Nobody, instance, migration, put};

fn start(store: &SharedStore, name: &str, shards: u32) -> Migrator {
    let settings = Settings {
        policy: domain::Policy::None,
        tick_ms: 1_000,
        lease_ms: 2_000,
        shards,
        ..Settings::default()
    };
    Migrator::start(
        settings,
        Arc::clone(store),
        Arc::new(Nobody),
        Arc::new(SystemClock),
        HolderId::new(name).unwrap(),
        Duration::from_hours(1),
    )
}

/// Leases that nobody else could take now, and who takes the rest: nobody, as they are given back.
async fn held(store: &SharedStore, shards: u32) -> BTreeSet<Shard> {
    let probe = HolderId::new("probe").unwrap();
    let mut held = BTreeSet::new();
    for shard in Shard::all(shards) {
        let name = shard.lease();
        let taken = store.acquire(&name, &probe, Duration::from_millis(1));
        match taken.await.unwrap() {
            None => {
                held.insert(shard);
            }
            Some(lease) => store.release(&lease).await.unwrap(),
        }
    }
    held
}

/// Waits, on paused time, until something is so.
async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if look().await {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("never happened: {what}");
}

fn shared() -> SharedStore {
    // The leases' clock is the machine's; that of the migrators is tokio's, which is paused.
    Arc::new(MemoryStore::new())
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_went_back_is_named_and_nobody_leads() {
    let store = shared();
    let routing = Routing {
        service: ServiceId::new("shop").unwrap(),
        revision: 1,
        epoch: Epoch(9),
        migration: None,
    };
    put(&*store, Kind::Routing, "shop", &routing).await;
    let migrator = start(&store, "one", 1);
    until("it is noticed", async || !migrator.troubles().is_empty()).await;
    let troubles = migrator.troubles();
    let words = &troubles["migrator/default"];
    assert!(
        words.contains("epoch 1") && words.contains("routing/shop has seen 9"),
        "{words}"
    );
    let order = migrator.order(
        InstanceId::new("shop-1").unwrap(),
        HostId::new("b").unwrap(),
    );
    assert!(matches!(order.await, Err(OrderError::Unavailable(_))));
    migrator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_migration_is_named_and_the_others_are_taken_over() {
    let store = shared();
    put(&*store, Kind::Instance, "shop-1", &instance()).await;
    let shop: Service = serde_json::from_value(serde_json::json!({"id": "shop"})).unwrap();
    put(&*store, Kind::Service, "shop", &shop).await;
    let whole = serde_json::to_value(migration()).unwrap();
    let change = |field: &str, value: serde_json::Value| {
        let mut changed = whole.clone();
        changed[field] = value;
        changed
    };
    for (name, value) in [
        ("truncated", serde_json::json!("{\"id\": \"m-1")),
        ("of-another-type", serde_json::json!([1, 2])),
        ("of-another-schema", change("phase", "flying".into())),
        ("with-more-fields", change("colour", "red".into())),
    ] {
        put(&*store, Kind::Migration, name, &value).await;
    }
    put(&*store, Kind::Migration, "m-1", &migration()).await;
    let migrator = start(&store, "one", 1);
    until("the whole one is taken over", async || {
        let key = Key::new(Kind::Migration, "m-1");
        let record = store.get(&key).await.unwrap().unwrap();
        let found: Migration = record.parse().unwrap().value;
        found.phase != Phase::Planned || found.pending.is_some()
    })
    .await;
    let troubles = migrator.troubles();
    for name in [
        "truncated",
        "of-another-type",
        "of-another-schema",
        "with-more-fields",
    ] {
        let words = &troubles[&format!("migration/{name}")];
        assert!(words.contains("is malformed"), "{words}");
    }
    // Nothing of what is damaged was lost.
    assert_eq!(store.list(Kind::Migration).await.unwrap().len(), 5);
    migrator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn two_migrators_share_the_shards_and_each_takes_all_when_the_other_is_gone() {
    const SHARDS: u32 = 16;
    let store = shared();
    let all: BTreeSet<Shard> = Shard::all(SHARDS).collect();
    let one = start(&store, "one", SHARDS);
    until("one leads everything", async || {
        held(&store, SHARDS).await == all
    })
    .await;

    let names = ["one", "two"].map(|name| HolderId::new(name).unwrap());
    let two = start(&store, "two", SHARDS);
    // A lease is told by its epoch: two's shards change hands, and no other does.
    let before = epochs(&store, SHARDS).await;
    until("two leads its part", async || {
        let now = epochs(&store, SHARDS).await;
        Shard::all(SHARDS).all(|shard| {
            let moves = shard.leader(names.iter()) == Some(&names[1]);
            (now[&shard] > before[&shard]) == moves
        })
    })
    .await;
    let moved = Shard::all(SHARDS).filter(|s| s.leader(names.iter()) == Some(&names[1]));
    assert!((3..14).contains(&moved.count()));

    two.shutdown().await;
    until("one leads everything again", async || {
        held(&store, SHARDS).await == all
    })
    .await;
    one.shutdown().await;
    assert!(
        held(&store, SHARDS).await.is_empty(),
        "leases are given back"
    );
}

/// The epochs of all shards, read by writing nothing under a fence that cannot hold.
async fn epochs(store: &SharedStore, shards: u32) -> BTreeMap<Shard, Epoch> {
    let mut epochs = BTreeMap::new();
    for shard in Shard::all(shards) {
        let never = Lease {
            name: LeaseName(shard.lease().0),
            holder: HolderId::new("probe").unwrap(),
            epoch: Epoch(u64::MAX),
            expires_at: domain::Timestamp(0),
        };
        match store.commit(Transaction::new().fenced(&never)).await {
            Err(StoreError::Fenced { current, .. }) => epochs.insert(shard, current),
            other => panic!("{other:?}"),
        };
    }
    epochs
}
