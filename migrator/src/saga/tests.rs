use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::migration::{OpId, Outcome, What};
use domain::routing::side_cluster;
use domain::{
    Capacity, ConsistencyClass, Counts, Effect, EffectKind, Endpoint, Epoch, HolderId, Host,
    HostId, Instance, InstanceId, InstanceSpec, InstanceState, Migration, MigrationId, Move,
    NodeId, NodeProgress, NodeTraffic, PlanId, RampPlan, Reading, Replica, Resources, RoutingState,
    RoutingStatus, ServiceId, Side, Timestamp, Traffic, ZeroTraffic,
};
use serde::Serialize;
use store::{LeaseName, MemoryStore, Store, SystemClock};

use super::*;
use crate::driver::{Capabilities, DriverError, Forked, OpContext, SyncReport, Verified};

/// A driver that is never reached.
pub(crate) struct Nobody;

fn unreachable<T>() -> Result<T, DriverError> {
    Err(DriverError::Failed {
        operation: "reach",
        subject: "nobody".to_owned(),
        reason: "this test has no driver".to_owned(),
    })
}

#[async_trait::async_trait]
impl Driver for Nobody {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            incremental_sync: false,
            enforces_capacity: false,
            reverse_sync: false,
            pause_budget: Duration::ZERO,
        }
    }
    async fn start(&self, _: &InstanceSpec, _: &Host) -> Result<Replica, DriverError> {
        unreachable()
    }
    async fn prepare_shadow(
        &self,
        _: &OpContext,
        _: &Instance,
        _: &Host,
    ) -> Result<Endpoint, DriverError> {
        unreachable()
    }
    async fn sync_round(&self, _: &OpContext, _: &Instance) -> Result<SyncReport, DriverError> {
        unreachable()
    }
    async fn fork(&self, _: &OpContext, _: &Instance, _: &Host) -> Result<Forked, DriverError> {
        unreachable()
    }
    async fn reidentify(
        &self,
        _: &OpContext,
        _: &Instance,
        _: &Replica,
    ) -> Result<(), DriverError> {
        unreachable()
    }
    async fn verify(
        &self,
        _: &OpContext,
        _: &Instance,
        _: &Replica,
    ) -> Result<Verified, DriverError> {
        unreachable()
    }
    async fn terminate(
        &self,
        _: &OpContext,
        _: &Replica,
        _: &ZeroTraffic,
    ) -> Result<(), DriverError> {
        unreachable()
    }
    async fn destroy_shadow(&self, _: &OpContext) -> Result<(), DriverError> {
        unreachable()
    }
    async fn find_by_tag(&self, _: &str) -> Result<Option<Replica>, DriverError> {
        unreachable()
    }
    async fn stop(&self, _: &Replica) -> Result<(), DriverError> {
        unreachable()
    }
    async fn reading(&self, _: &Replica) -> Result<Option<Reading>, DriverError> {
        unreachable()
    }
}

pub(crate) fn instance() -> Instance {
    let spec = serde_json::json!({"id": "shop-1", "service": "shop", "argv": ["server"]});
    let mut spec: InstanceSpec = serde_json::from_value(spec).unwrap();
    spec.class = ConsistencyClass::Stateless;
    Instance {
        spec,
        replica: Replica {
            host: HostId::new("a").unwrap(),
            endpoint: Endpoint(([127, 0, 0, 1], 1).into()),
            handle: String::new(),
            tag: "shop-1".to_owned(),
        },
        state: InstanceState::Running,
        placed_at: Timestamp(0),
    }
}

pub(crate) fn migration() -> Migration {
    let intent = Move {
        instance: InstanceId::new("shop-1").unwrap(),
        from: HostId::new("a").unwrap(),
        target: HostId::new("b").unwrap(),
        ramp: RampPlan::standard(1),
        reserve: Resources::default(),
        score: 0.0,
        reasons: Vec::new(),
        expected: domain::Expected::default(),
    };
    let (id, plan) = (
        MigrationId::new("m-1").unwrap(),
        PlanId::new("p-1").unwrap(),
    );
    let limits = domain::migration::Limits::default();
    Migration::new(
        id,
        plan,
        &instance(),
        &intent,
        limits,
        Epoch(1),
        Timestamp(0),
    )
}

pub(crate) async fn put<T: Serialize>(store: &dyn Store, kind: Kind, id: &str, value: &T) {
    let put = Transaction::new().put(Key::new(kind, id), Expect::Any, value);
    store.commit(put.unwrap()).await.unwrap();
}

/// A store with hosts and instance, and the leadership.
pub(crate) async fn context() -> Context {
    let store: SharedStore = Arc::new(MemoryStore::new());
    for name in ["a", "b"] {
        let host = Host {
            id: HostId::new(name).unwrap(),
            capacity: Capacity::default(),
            cpus: Vec::new(),
            labels: BTreeMap::new(),
            isolation: None,
        };
        put(&*store, Kind::Host, name, &host).await;
    }
    put(&*store, Kind::Instance, "shop-1", &instance()).await;
    let holder = HolderId::new("me").unwrap();
    let name = LeaseName("migrator/test".to_owned());
    let lease = store.acquire(&name, &holder, Duration::from_mins(1)).await;
    Context {
        store,
        driver: Arc::new(Nobody),
        clock: Arc::new(SystemClock),
        lease: lease.unwrap().unwrap(),
        tenure: crate::tenure::Tenure::new(
            tokio::time::Instant::now(),
            Duration::from_hours(1_000),
        ),
        settings: Settings::default(),
    }
}

#[tokio::test]
async fn a_reservation_that_is_written_after_its_record_went_on_holds_nothing() {
    let context = context().await;
    let migration = migration();
    let stale = create(&context, &migration).await.unwrap();
    let effect = Effect {
        op: OpId(1),
        epoch: Epoch(1),
        kind: EffectKind::Reserve,
    };
    // The record goes on (an abort, say) before the write arrives.
    put(&*context.store, Kind::Migration, "m-1", &migration).await;
    let late = effects::carry_out(&context, &migration, stale, &effect).await;
    assert!(matches!(late, What::Failed { .. }), "{late:?}");
    let held = context.store.list(Kind::Reservation).await.unwrap();
    assert!(held.is_empty(), "{held:?}");

    let present = Generation(stale.0 + 1);
    let timely = effects::carry_out(&context, &migration, present, &effect).await;
    let done = matches!(
        timely,
        What::Succeeded {
            outcome: Outcome::Done,
            ..
        }
    );
    assert!(done, "{timely:?}");
    assert_eq!(
        context.store.list(Kind::Reservation).await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn an_original_takes_its_room_until_it_is_terminated() {
    let context = context().await;
    let store = &*context.store;
    let mut host = Host {
        id: HostId::new("a").unwrap(),
        capacity: Capacity::default(),
        cpus: Vec::new(),
        labels: BTreeMap::new(),
        isolation: None,
    };
    host.capacity.memory = Some(100.0);
    put(store, Kind::Host, "a", &host).await;
    // It was adopted on the other host, and its original still runs here.
    let mut leaving = migration();
    leaving.phase = Phase::Terminating;
    put(store, Kind::Migration, "m-1", &leaving).await;
    let mut adopted = instance();
    adopted.spec.memory_bytes = 60;
    adopted.replica.host = HostId::new("b").unwrap();
    adopted.replica.tag = "m-1".to_owned();
    put(store, Kind::Instance, "shop-1", &adopted).await;
    let mut other = instance();
    other.spec.id = InstanceId::new("shop-2").unwrap();
    other.replica.host = HostId::new("b").unwrap();
    put(store, Kind::Instance, "shop-2", &other).await;

    let mut comes = migration();
    comes.id = MigrationId::new("m-2").unwrap();
    comes.instance = other.spec.id;
    comes.target = host.id;
    comes.reserve.memory = 60.0;
    let generation = create(&context, &comes).await.unwrap();
    let effect = Effect {
        op: OpId(1),
        epoch: Epoch(1),
        kind: EffectKind::Reserve,
    };
    let early = effects::carry_out(&context, &comes, generation, &effect).await;
    assert!(matches!(early, What::Failed { .. }), "{early:?}");

    leaving.phase = Phase::Done;
    put(store, Kind::Migration, "m-1", &leaving).await;
    let late = effects::carry_out(&context, &comes, generation, &effect).await;
    assert!(matches!(late, What::Succeeded { .. }), "{late:?}");
}

#[tokio::test]
async fn a_store_that_cannot_say_what_is_in_progress_does_not_make_a_shadow_drained() {
    let context = context().await;
    let store = &*context.store;
    let mut migration = migration();
    let shadow = Endpoint(([127, 0, 0, 1], 2).into());
    migration.shadow_endpoint = Some(shadow);
    let routing = domain::Routing {
        service: migration.service.clone(),
        revision: 1,
        epoch: Epoch(1),
        migration: Some(domain::MigrationRouting {
            migration: migration.id.clone(),
            instance: migration.instance.clone(),
            original: migration.original.endpoint,
            shadow,
            split: domain::WeightSplit::ORIGINAL,
            mirror: false,
            hold: domain::Hold::Off,
        }),
    };
    put(store, Kind::Routing, "shop", &routing).await;
    put(store, Kind::RoutingStatus, "shop", &status(&["talks"])).await;
    put(store, Kind::Traffic, "shop", &"not what it should be").await;
    let generation = create(&context, &migration).await.unwrap();
    let effect = Effect {
        op: OpId(1),
        epoch: Epoch(1),
        kind: EffectKind::Undo(domain::migration::Undo::ShiftBack),
    };
    let outcome = effects::carry_out(&context, &migration, generation, &effect).await;
    assert!(matches!(outcome, What::Failed { .. }), "{outcome:?}");
}

fn status(nodes: &[&str]) -> RoutingStatus {
    RoutingStatus {
        service: ServiceId::new("shop").unwrap(),
        revision: 1,
        state: RoutingState::Applied,
        nodes: nodes
            .iter()
            .map(|name| (NodeId::new(*name).unwrap(), NodeProgress::Applied))
            .collect(),
        at: Timestamp(0),
    }
}

/// What nodes have reported: (name, reports, requests in progress on the original).
fn traffic(migration: &Migration, nodes: &[(&str, u64, u64)]) -> Traffic {
    let cluster = side_cluster(&migration.service, &migration.instance, Side::Original);
    let node = |&(name, reports, in_progress): &(&str, u64, u64)| {
        let counts = Counts {
            in_progress,
            ..Counts::default()
        };
        let state = NodeTraffic {
            session: 1,
            reported_at: Timestamp(0),
            reports,
            clusters: [(cluster.clone(), counts)].into(),
            ..NodeTraffic::default()
        };
        (NodeId::new(name).unwrap(), state)
    };
    Traffic {
        service: migration.service.clone(),
        at: Timestamp(0),
        nodes: nodes.iter().map(node).collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_nothing_is_not_quiet() {
    let context = context().await;
    let migration = migration();
    let cluster = side_cluster(&migration.service, &migration.instance, Side::Original);
    let store = Arc::clone(&context.store);
    let is_quiet = async |what: &str, wanted: bool| {
        let quiet = traffic::quiet(&context, &migration, &cluster);
        let found = tokio::time::timeout(Duration::from_secs(2), quiet)
            .await
            .is_ok();
        assert_eq!(found, wanted, "{what}");
    };
    put(
        &*store,
        Kind::RoutingStatus,
        "shop",
        &status(&["talks", "silent"]),
    )
    .await;
    is_quiet("nobody has reported", false).await;
    put(
        &*store,
        Kind::Traffic,
        "shop",
        &traffic(&migration, &[("talks", 9, 0)]),
    )
    .await;
    is_quiet("one is silent", false).await;
    let both = [("talks", 9, 0), ("silent", 9, 0)];
    put(&*store, Kind::Traffic, "shop", &traffic(&migration, &both)).await;
    is_quiet("what was said before does not count", false).await;

    let later = tokio::spawn({
        let (store, migration) = (Arc::clone(&store), migration.clone());
        async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let busy = [("talks", 11, 0), ("silent", 11, 3)];
            put(&*store, Kind::Traffic, "shop", &traffic(&migration, &busy)).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let calm = [("talks", 13, 0), ("silent", 13, 0)];
            put(&*store, Kind::Traffic, "shop", &traffic(&migration, &calm)).await;
        }
    });
    let began = tokio::time::Instant::now();
    is_quiet("both have said twice that nothing is in progress", true).await;
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "not while requests were in progress"
    );
    later.await.unwrap();
}
