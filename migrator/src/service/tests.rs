//! Leading: alone, in turns, in parts, and not at all.

use domain::{Phase, Service};
use store::{LeaseName, MemoryStore, SystemClock};
use tokio::time::sleep;

use super::*;
use crate::saga::tests::{Nobody, instance, migration, put};

fn start(store: &SharedStore, name: &str, shards: u32) -> Migrator {
    start_with(store, Arc::new(Nobody), name, shards)
}

fn start_with(store: &SharedStore, driver: Arc<dyn Driver>, name: &str, shards: u32) -> Migrator {
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
        driver,
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
async fn another_number_of_shards_is_refused_by_name_and_nobody_else_is_disturbed() {
    let store = shared();
    let first = start(&store, "one", 2);
    until("it leads everything", async || {
        held(&store, 2).await.len() == 2
    })
    .await;
    let other = start(&store, "two", 4);
    until("it is refused", async || !other.troubles().is_empty()).await;
    let troubles = other.troubles();
    let words: Vec<&String> = troubles.values().collect();
    assert!(
        words[0].contains("migrator.shards is 4") && words[0].contains("allowed is 2"),
        "{words:?}"
    );
    sleep(Duration::from_secs(10)).await;
    assert!(!other.troubles().is_empty(), "that does not go by itself");
    assert!(held(&store, 4).await.is_empty(), "it leads nothing");
    assert!(first.troubles().is_empty(), "{:?}", first.troubles());
    other.shutdown().await;
    first.shutdown().await;
    // Nor when nobody else runs: the epochs are still there.
    let third = start(&store, "three", 1);
    until("it is refused, too", async || !third.troubles().is_empty()).await;
    third.shutdown().await;
}

/// A driver that another leader has claimed meanwhile.
struct Claimed(SharedStore);

#[async_trait::async_trait]
impl Driver for Claimed {
    fn capabilities(&self) -> crate::driver::Capabilities {
        Nobody.capabilities()
    }
    async fn start(
        &self,
        spec: &domain::InstanceSpec,
        host: &domain::Host,
    ) -> Result<domain::Replica, DriverError> {
        Nobody.start(spec, host).await
    }
    async fn prepare_shadow(
        &self,
        ctx: &crate::driver::OpContext,
        instance: &Instance,
        target: &domain::Host,
    ) -> Result<domain::Endpoint, DriverError> {
        Nobody.prepare_shadow(ctx, instance, target).await
    }
    async fn sync_round(
        &self,
        ctx: &crate::driver::OpContext,
        instance: &Instance,
    ) -> Result<crate::driver::SyncReport, DriverError> {
        Nobody.sync_round(ctx, instance).await
    }
    async fn fork(
        &self,
        ctx: &crate::driver::OpContext,
        instance: &Instance,
        target: &domain::Host,
    ) -> Result<crate::driver::Forked, DriverError> {
        Nobody.fork(ctx, instance, target).await
    }
    async fn reidentify(
        &self,
        ctx: &crate::driver::OpContext,
        instance: &Instance,
        shadow: &domain::Replica,
    ) -> Result<(), DriverError> {
        Nobody.reidentify(ctx, instance, shadow).await
    }
    async fn verify(
        &self,
        ctx: &crate::driver::OpContext,
        instance: &Instance,
        shadow: &domain::Replica,
    ) -> Result<crate::driver::Verified, DriverError> {
        Nobody.verify(ctx, instance, shadow).await
    }
    async fn terminate(
        &self,
        ctx: &crate::driver::OpContext,
        original: &domain::Replica,
        proof: &domain::ZeroTraffic,
    ) -> Result<(), DriverError> {
        Nobody.terminate(ctx, original, proof).await
    }
    async fn destroy_shadow(&self, ctx: &crate::driver::OpContext) -> Result<(), DriverError> {
        Nobody.destroy_shadow(ctx).await
    }
    async fn find_by_tag(&self, tag: &str) -> Result<Option<domain::Replica>, DriverError> {
        Nobody.find_by_tag(tag).await
    }
    async fn stop(&self, replica: &domain::Replica) -> Result<(), DriverError> {
        Nobody.stop(replica).await
    }
    async fn reading(
        &self,
        replica: &domain::Replica,
    ) -> Result<Option<domain::Reading>, DriverError> {
        Nobody.reading(replica).await
    }
    /// The first claim comes after another leader has taken the lease.
    async fn claim(&self, lease: &LeaseName, epoch: Epoch) -> Result<(), DriverError> {
        if epoch > Epoch(1) {
            return Ok(());
        }
        let thief = HolderId::new("one").unwrap();
        let taken = self
            .0
            .acquire(lease, &thief, Duration::from_millis(1))
            .await;
        Err(DriverError::Fenced {
            operation: "claim",
            ours: epoch,
            seen: taken.unwrap().unwrap().epoch,
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_overtaken_is_no_sign_of_a_store_that_went_back() {
    let store = shared();
    let migrator = start_with(&store, Arc::new(Claimed(Arc::clone(&store))), "one", 1);
    until("it leads again, later", async || {
        epochs(&store, 1).await[&Shard::first(1)] > Epoch(2)
    })
    .await;
    assert_eq!(migrator.troubles(), BTreeMap::new());
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
async fn a_migration_that_the_store_took_late_is_begun_by_the_same_leader() {
    let store = shared();
    put(&*store, Kind::Instance, "shop-1", &instance()).await;
    let shop: Service = serde_json::from_value(serde_json::json!({"id": "shop"})).unwrap();
    put(&*store, Kind::Service, "shop", &shop).await;
    let migrator = start(&store, "one", 1);
    until("it leads", async || held(&store, 1).await.len() == 1).await;
    until("it has looked", async || {
        let latest = Key::new(Kind::Decision, "latest");
        store.get(&latest).await.unwrap().is_some()
    })
    .await;
    put(&*store, Kind::Migration, "m-1", &migration()).await;
    until("it is begun", async || {
        let key = Key::new(Kind::Migration, "m-1");
        let record = store.get(&key).await.unwrap().unwrap();
        let found: Migration = record.parse().unwrap().value;
        found.phase != Phase::Planned || found.pending.is_some()
    })
    .await;
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
