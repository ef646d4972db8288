//! The running migrator.
//!
//! # Flow
//! ```text
//! lease ──▶ take over what is not finished ──▶ every tick: read the world ─▶ decide ─▶ store it
//!   ▲                                                          └─ a move: plan + migration ─▶ saga
//!   └─ renewed; lost: everything stops, the next leader goes on from the records
//! ```
//! Readings are taken from the driver every sample period and published for the forecaster.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::migration::What;
use domain::{
    Decision, HolderId, HostId, IdError, Instance, InstanceId, Migration, MigrationId, Plan,
    PlanId, Reading, Readings, Resource,
};
use store::{
    Clock, Expect, Generation, Key, Kind, Lease, LeaseName, SharedStore, StoreError, Transaction,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::detect::Memory;
use crate::driver::Driver;
use crate::plan;
use crate::saga::{self, Context};
use crate::settings::Settings;
use crate::world::World;

/// What can keep a migrator from running.
#[derive(Debug, thiserror::Error)]
pub enum MigratorError {
    /// The store's words.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name that cannot be one.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// A running migrator.
pub struct Migrator {
    cancel: CancellationToken,
    tasks: TaskTracker,
    aborts: Arc<Aborts>,
    orders: mpsc::Sender<Order>,
}

/// Somebody wants an instance moved.
struct Order {
    instance: InstanceId,
    target: HostId,
    reply: oneshot::Sender<Result<MigrationId, OrderError>>,
}

/// Why an ordered move is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// What stands against it.
    #[error("{0}")]
    Refused(String),
    /// Nobody can carry it out now: another migrator leads, or the store is away.
    #[error("not leading: {0}")]
    Unavailable(String),
}

/// Where reasons to abort are left, per migration.
#[derive(Default)]
struct Aborts(Mutex<BTreeMap<MigrationId, watch::Sender<Option<String>>>>);

impl Aborts {
    fn listen(&self, id: &MigrationId) -> watch::Receiver<Option<String>> {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        senders
            .entry(id.clone())
            .or_insert_with(|| watch::channel(None).0)
            .subscribe()
    }

    fn send(&self, id: &MigrationId, reason: String) -> bool {
        let senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        senders
            .get(id)
            .is_some_and(|sender| sender.send(Some(reason)).is_ok())
    }
}

/// Everything the migrator's tasks share.
#[derive(Clone)]
struct Shared {
    store: SharedStore,
    driver: Arc<dyn Driver>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    holder: HolderId,
    cancel: CancellationToken,
    tasks: TaskTracker,
    aborts: Arc<Aborts>,
}

impl Migrator {
    /// Starts a migrator; it leads as soon as it gets the lease.
    pub fn start(
        settings: Settings,
        store: SharedStore,
        driver: Arc<dyn Driver>,
        clock: Arc<dyn Clock>,
        holder: HolderId,
        sample: Duration,
    ) -> Self {
        let shared = Shared {
            store,
            driver,
            clock,
            settings,
            holder,
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            aborts: Arc::default(),
        };
        let tasks = shared.tasks.clone();
        let (orders, taken) = mpsc::channel(ORDERS);
        tasks.spawn(sample_loop(shared.clone(), sample));
        tasks.spawn(lead_loop(shared.clone(), taken));
        Self {
            cancel: shared.cancel,
            tasks,
            aborts: shared.aborts,
            orders,
        }
    }

    /// Moves an instance to a host because somebody asks for it.
    ///
    /// # Errors
    /// [`OrderError`] with what stands against it; nothing has begun then.
    pub async fn order(
        &self,
        instance: InstanceId,
        target: HostId,
    ) -> Result<MigrationId, OrderError> {
        let away = |why: &str| OrderError::Unavailable(why.to_owned());
        let (reply, answer) = oneshot::channel();
        let order = Order {
            instance,
            target,
            reply,
        };
        self.orders
            .try_send(order)
            .map_err(|_| away("too many orders wait"))?;
        match tokio::time::timeout(ORDER_PATIENCE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(away("leadership was lost")),
            Err(_) => Err(away("another migrator leads, or none")),
        }
    }

    /// Asks for a migration to be undone. `false` when it is not running here.
    pub fn abort(&self, migration: &MigrationId, reason: impl Into<String>) -> bool {
        self.aborts.send(migration, reason.into())
    }

    /// Stops. Migrations stay where their records say; the next leader goes on.
    pub async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn lease_name() -> LeaseName {
    LeaseName("migrator/default".to_owned())
}

/// Orders that may wait, and for how long.
const ORDERS: usize = 16;
const ORDER_PATIENCE: Duration = Duration::from_secs(5);

/// Leads whenever the lease can be had.
async fn lead_loop(shared: Shared, mut orders: mpsc::Receiver<Order>) {
    let ttl = Duration::from_millis(shared.settings.lease_ms.max(100));
    while !shared.cancel.is_cancelled() {
        match shared
            .store
            .acquire(&lease_name(), &shared.holder, ttl)
            .await
        {
            Ok(Some(lease)) => {
                tracing::info!(epoch = %lease.epoch, "leading");
                if let Err(error) = lead(&shared, &lease, ttl, &mut orders).await {
                    tracing::warn!(%error, "leadership ended");
                }
                if let Err(error) = shared.store.release(&lease).await {
                    tracing::debug!(%error, "the lease was not given back");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the lease cannot be had"),
        }
        tokio::select! {
            biased;
            () = shared.cancel.cancelled() => {}
            () = tokio::time::sleep(ttl / 4) => {}
        }
    }
}

/// Leads until the lease is lost or the migrator stops.
async fn lead(
    shared: &Shared,
    lease: &Lease,
    ttl: Duration,
    orders: &mut mpsc::Receiver<Order>,
) -> Result<(), MigratorError> {
    let term = shared.cancel.child_token();
    let _ends = term.clone().drop_guard();
    resume(shared, lease, &term).await?;
    let mut memory = Memory::default();
    let mut tick = tokio::time::interval(shared.settings.tick());
    let mut renew = tokio::time::interval(ttl / 3);
    loop {
        tokio::select! {
            biased;
            () = shared.cancel.cancelled() => return Ok(()),
            _ = renew.tick() => {
                shared.store.renew(lease, ttl).await?;
            }
            Some(order) = orders.recv() => obey(shared, lease, &term, order).await?,
            _ = tick.tick() => look(shared, lease, &term, &mut memory).await?,
        }
    }
}

/// Takes over every migration that is not over.
async fn resume(
    shared: &Shared,
    lease: &Lease,
    term: &CancellationToken,
) -> Result<(), MigratorError> {
    for record in shared.store.list(Kind::Migration).await? {
        let found = record.parse::<Migration>()?;
        if !found.value.phase.is_final() {
            tracing::info!(migration = %found.value.id, phase = found.value.phase.name(), "taking over");
            let first = What::TakenOver { epoch: lease.epoch };
            spawn(shared, lease, term, found.value, found.generation, first);
        }
    }
    Ok(())
}

fn spawn(
    shared: &Shared,
    lease: &Lease,
    term: &CancellationToken,
    migration: Migration,
    generation: Generation,
    first: What,
) {
    let context = Context {
        store: Arc::clone(&shared.store),
        driver: Arc::clone(&shared.driver),
        clock: Arc::clone(&shared.clock),
        lease: lease.clone(),
        settings: shared.settings.clone(),
    };
    let abort = shared.aborts.listen(&migration.id);
    let term = term.clone();
    shared.tasks.spawn(async move {
        let id = migration.id.clone();
        tokio::select! {
            biased;
            () = term.cancelled() => {}
            result = saga::run(&context, migration, generation, first, abort) => match result {
                Ok(ended) => tracing::info!(migration = %id, phase = ended.phase.name(), "over"),
                Err(error) => tracing::warn!(migration = %id, %error, "saga stopped"),
            },
        }
    });
}

/// One look at the world: decide, store the decision, begin what it says.
async fn look(
    shared: &Shared,
    lease: &Lease,
    term: &CancellationToken,
    memory: &mut Memory,
) -> Result<(), MigratorError> {
    let world = World::read(&*shared.store, shared.clock.now()).await?;
    let decision = plan::decide(&world, &shared.settings, memory);
    let latest = Key::new(Kind::Decision, "latest");
    if decision.moves.is_empty() {
        if worth_storing(shared, &latest, &decision).await? {
            let put = Transaction::new()
                .fenced(lease)
                .put(latest, Expect::Any, &decision)?;
            shared.store.commit(put).await?;
        }
        return Ok(());
    }
    begin(shared, lease, term, &world, &decision).await?;
    Ok(())
}

/// Carries an order out, unless something stands against it or its sender has given up.
async fn obey(
    shared: &Shared,
    lease: &Lease,
    term: &CancellationToken,
    order: Order,
) -> Result<(), MigratorError> {
    if order.reply.is_closed() {
        return Ok(());
    }
    let world = World::read(&*shared.store, shared.clock.now()).await?;
    let answer = match plan::requested(&world, &shared.settings, &order.instance, &order.target) {
        Ok(decision) => {
            let begun = begin(shared, lease, term, &world, &decision).await?;
            begun
                .first()
                .cloned()
                .ok_or_else(|| OrderError::Refused("nothing was begun".to_owned()))
        }
        Err(reason) => Err(OrderError::Refused(reason)),
    };
    // Whoever asked may be gone; the migration is in the store.
    let _ = order.reply.send(answer);
    Ok(())
}

/// Stores a plan and begins its migrations.
async fn begin(
    shared: &Shared,
    lease: &Lease,
    term: &CancellationToken,
    world: &World,
    decision: &Decision,
) -> Result<Vec<MigrationId>, MigratorError> {
    let number = shared.store.list(Kind::Plan).await?.len() + 1;
    let id = PlanId::new(format!("p-{number}"))?;
    let parent = number
        .checked_sub(1)
        .filter(|n| *n > 0)
        .map(|n| PlanId::new(format!("p-{n}")));
    let stored = Plan {
        id: id.clone(),
        parent: parent.transpose()?,
        decision: decision.clone(),
    };
    let latest = Key::new(Kind::Decision, "latest");
    let put = Transaction::new()
        .fenced(lease)
        .put(latest, Expect::Any, decision)?
        .put(Key::new(Kind::Plan, id.as_str()), Expect::Absent, &stored)?;
    shared.store.commit(put).await?;
    let mut begun = Vec::new();
    for (index, intent) in decision.moves.iter().enumerate() {
        let Some(instance) = world.instances.get(&intent.instance) else {
            continue;
        };
        let migration = Migration::new(
            MigrationId::new(format!("m-{number}-{}", index + 1))?,
            id.clone(),
            instance,
            intent,
            shared.settings.limits,
            lease.epoch,
            shared.clock.now(),
        );
        let context = Context {
            store: Arc::clone(&shared.store),
            driver: Arc::clone(&shared.driver),
            clock: Arc::clone(&shared.clock),
            lease: lease.clone(),
            settings: shared.settings.clone(),
        };
        let generation = saga::create(&context, &migration).await?;
        begun.push(migration.id.clone());
        spawn(shared, lease, term, migration, generation, What::Start);
    }
    Ok(begun)
}

/// "Nothing" is stored once, not at every tick: each write costs a disk flush.
async fn worth_storing(
    shared: &Shared,
    key: &Key,
    decision: &Decision,
) -> Result<bool, MigratorError> {
    let before = shared
        .store
        .get(key)
        .await?
        .map(|record| record.parse::<Decision>());
    Ok(match before.transpose()? {
        Some(before) => {
            before.value.summary != decision.summary
                || decision.at.since(before.value.at) > 5_000 && !decision.contention.is_empty()
        }
        None => true,
    })
}

/// Takes readings of every running instance and publishes them.
async fn sample_loop(shared: Shared, period: Duration) {
    let mut rings: BTreeMap<InstanceId, Vec<Reading>> = BTreeMap::new();
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shared.cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = sample(&shared, &mut rings).await {
            tracing::warn!(%error, "readings were not published");
        }
    }
}

async fn sample(
    shared: &Shared,
    rings: &mut BTreeMap<InstanceId, Vec<Reading>>,
) -> Result<(), MigratorError> {
    let world = World::read(&*shared.store, shared.clock.now()).await?;
    for instance in world.instances.values() {
        let Some(reading) = reading(shared, &world, instance).await else {
            continue;
        };
        let ring = rings.entry(instance.spec.id.clone()).or_default();
        ring.push(reading);
        if ring.len() > Readings::KEPT {
            ring.remove(0);
        }
        let readings = Readings {
            instance: instance.spec.id.clone(),
            readings: ring.clone(),
        };
        let key = Key::new(Kind::Readings, instance.spec.id.as_str());
        let put = Transaction::new().put(key, Expect::Any, &readings)?;
        shared.store.commit(put).await?;
    }
    Ok(())
}

/// An instance's demand: what its replicas use together while it is under migration.
async fn reading(shared: &Shared, world: &World, instance: &Instance) -> Option<Reading> {
    let mut sum = read(shared, &instance.replica).await?;
    let shadow = world
        .migrations
        .iter()
        .find(|migration| migration.instance == instance.spec.id)
        .and_then(|migration| migration.shadow.as_ref())
        .filter(|shadow| **shadow != instance.replica);
    if let Some(shadow) = shadow
        && let Some(more) = read(shared, shadow).await
    {
        let cpu = sum.demand.get_mut(Resource::Cpu);
        *cpu = match (*cpu, *more.demand.get(Resource::Cpu)) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
    }
    Some(sum)
}

async fn read(shared: &Shared, replica: &domain::Replica) -> Option<Reading> {
    match shared.driver.reading(replica).await {
        Ok(reading) => reading,
        Err(error) => {
            tracing::debug!(%error, tag = %replica.tag, "no reading");
            None
        }
    }
}
