//! The running migrator.
//!
//! # Flow
//! ```text
//! lease ──▶ take over what is not finished ──▶ every tick: read the world ─▶ decide ─▶ store it
//!   ▲                                                          └─ a move: plan + migration ─▶ saga
//!   └─ renewed; lost: everything stops, the next leader goes on from the records
//! ```
//! Readings are taken beside that, whoever leads (`sampler`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::migration::{Event, What};
use domain::{
    Decision, HolderId, HostId, IdError, InstanceId, Migration, MigrationId, Phase, Plan, PlanId,
    step,
};
use store::{
    Clock, Expect, Generation, Key, Kind, Lease, LeaseName, SharedStore, StoreError, Transaction,
    Typed,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::detect::Memory;
use crate::driver::Driver;
use crate::events;
use crate::explain::Evidence;
use crate::orders::{Answer, Desk, Order, OrderError, Wish};
use crate::plan;
use crate::saga::{self, Context};
use crate::sampler::{self, Sampler};
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
    orders: Desk,
    memory: Arc<Mutex<Memory>>,
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
    memory: Arc<Mutex<Memory>>,
}

impl Shared {
    fn memory(&self) -> Memory {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.clone()
    }

    fn remember(&self, memory: Memory) {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = memory;
    }
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
            memory: Arc::default(),
        };
        let memory = Arc::clone(&shared.memory);
        let tasks = shared.tasks.clone();
        let (orders, taken) = Desk::new();
        let sampler = Sampler {
            store: Arc::clone(&shared.store),
            driver: Arc::clone(&shared.driver),
            clock: Arc::clone(&shared.clock),
            cancel: shared.cancel.clone(),
        };
        tasks.spawn(sampler::run(sampler, sample));
        tasks.spawn(lead_loop(shared.clone(), taken));
        Self {
            cancel: shared.cancel,
            tasks,
            aborts: shared.aborts,
            orders,
            memory,
        }
    }

    /// What would be decided in a world now, without doing or remembering anything of it.
    pub fn dry_run(&self, world: &World, settings: &Settings) -> Decision {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = memory.clone();
        plan::decide(world, settings, &mut memory)
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
        self.orders.ask(Wish::Move(instance, target)).await
    }

    /// Answers the question of a parked migration.
    ///
    /// # Errors
    /// [`OrderError`] when it is not parked, or the answer is not possible.
    pub async fn answer(
        &self,
        migration: MigrationId,
        answer: Answer,
    ) -> Result<MigrationId, OrderError> {
        self.orders.ask(Wish::Answer(migration, answer)).await
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

/// How long to wait before a record is read again after the store failed.
const RETRY: Duration = Duration::from_millis(200);

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
    shared.remember(Memory::default());
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
            _ = tick.tick() => look(shared, lease, &term).await?,
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
    let context = context(shared, lease);
    let abort = shared.aborts.listen(&migration.id);
    let term = term.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = term.cancelled() => {}
            () = drive(&context, migration, generation, first, abort) => {}
        }
    });
}

/// Runs a saga to its end. When the store fails meanwhile, the record is read again and taken over
/// anew, as after a crash: what was under way may or may not have happened.
async fn drive(
    context: &Context,
    migration: Migration,
    generation: Generation,
    first: What,
    abort: watch::Receiver<Option<String>>,
) {
    let id = migration.id.clone();
    let mut next = Some((migration, generation, first));
    loop {
        if let Some((migration, generation, first)) = next.take() {
            match saga::run(context, migration, generation, first, abort.clone()).await {
                Ok(ended) => {
                    tracing::info!(migration = %id, phase = ended.phase.name(), "over");
                    return;
                }
                Err(error @ StoreError::Fenced { .. }) => {
                    tracing::warn!(migration = %id, %error, "another leads: it goes on there");
                    return;
                }
                Err(error) => tracing::warn!(migration = %id, %error, "the store failed"),
            }
        }
        tokio::time::sleep(RETRY).await;
        match read(context, &id).await {
            Ok(Some(found)) if found.value.phase.is_final() => return,
            Ok(Some(found)) => {
                let epoch = context.lease.epoch;
                next = Some((found.value, found.generation, What::TakenOver { epoch }));
            }
            // A record that is gone or damaged is nothing to act on; neither is a store that is
            // away. The lease ends if that lasts.
            Ok(None) => tracing::error!(migration = %id, "the record is gone"),
            Err(error) => tracing::warn!(migration = %id, %error, "the record cannot be read"),
        }
    }
}

async fn read(context: &Context, id: &MigrationId) -> Result<Option<Typed<Migration>>, StoreError> {
    let key = Key::new(Kind::Migration, id.as_str());
    let found = context.store.get(&key).await?;
    found.map(|record| record.parse()).transpose()
}

/// One look at the world: decide, store the decision, begin what it says.
async fn look(
    shared: &Shared,
    lease: &Lease,
    term: &CancellationToken,
) -> Result<(), MigratorError> {
    let world = World::read(&*shared.store, shared.clock.now()).await?;
    let mut memory = shared.memory();
    let evidence = Evidence::of(&world, &shared.settings, &mut memory);
    shared.remember(memory);
    let latest = Key::new(Kind::Decision, "latest");
    if evidence.decision.moves.is_empty() {
        if worth_storing(shared, &latest, &evidence.decision).await? {
            let put = Transaction::new()
                .fenced(lease)
                .put(latest, Expect::Any, &evidence.decision)?
                .put(Key::new(Kind::Evidence, "latest"), Expect::Any, &evidence)?;
            shared.store.commit(put).await?;
        }
        return Ok(());
    }
    begin(
        shared,
        lease,
        term,
        &world,
        &evidence.decision,
        Some(&evidence),
    )
    .await?;
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
    let context = context(shared, lease);
    let answer = match order.what {
        Wish::Move(instance, target) => {
            let world = World::read(&*shared.store, shared.clock.now()).await?;
            let parked = parked(shared, &instance).await?;
            let requested = plan::requested(&world, &shared.settings, &instance, &target);
            match parked.map_or(requested, Err) {
                Ok(decision) => {
                    let begun = begin(shared, lease, term, &world, &decision, None).await?;
                    let refused = || OrderError::Refused("nothing was begun".to_owned());
                    begun.first().cloned().ok_or_else(refused)
                }
                Err(reason) => Err(OrderError::Refused(reason)),
            }
        }
        Wish::Answer(id, answer) => match answered(&context, &id, answer).await? {
            Ok((record, generation, what)) => {
                spawn(shared, lease, term, record, generation, what);
                Ok(id)
            }
            Err(reason) => Err(OrderError::Refused(reason)),
        },
    };
    // Whoever asked may be gone; the migration is in the store.
    let _ = order.reply.send(answer);
    Ok(())
}

/// Why an instance cannot move while a migration of it is parked: that one still holds the shadow,
/// the reservation and the routing.
async fn parked(shared: &Shared, instance: &InstanceId) -> Result<Option<String>, MigratorError> {
    for record in shared.store.list(Kind::Migration).await? {
        let found: Migration = record.parse()?.value;
        if found.phase == Phase::Parked && found.instance == *instance {
            let id = found.id;
            return Ok(Some(format!(
                "migration {id} of {instance} is parked: answer it first"
            )));
        }
    }
    Ok(None)
}

/// A parked migration under the present leadership, and the event that answers it: in the epoch in
/// which it was parked every effect would be refused as stale.
async fn answered(
    context: &Context,
    id: &MigrationId,
    answer: Answer,
) -> Result<Result<(Migration, Generation, What), String>, MigratorError> {
    let Some(found) = read(context, id).await? else {
        return Ok(Err(format!("migration {id} is unknown")));
    };
    let what = match answer {
        Answer::Retry => What::RetryParked,
        Answer::RollBack => What::RollBackParked,
    };
    let at = context.clock.now();
    let epoch = context.lease.epoch;
    let taken_over = What::TakenOver { epoch };
    let event = |what: &What| Event {
        at,
        what: what.clone(),
    };
    let possible =
        step(&found.value, event(&taken_over)).and_then(|(record, _)| step(&record, event(&what)));
    if let Err(illegal) = possible {
        return Ok(Err(illegal.to_string()));
    }
    let noted = saga::note(context, found.value, found.generation, taken_over).await?;
    Ok(Ok((noted.0, noted.1, what)))
}

fn context(shared: &Shared, lease: &Lease) -> Context {
    Context {
        store: Arc::clone(&shared.store),
        driver: Arc::clone(&shared.driver),
        clock: Arc::clone(&shared.clock),
        lease: lease.clone(),
        settings: shared.settings.clone(),
    }
}

/// Stores a plan and begins its migrations.
async fn begin(
    shared: &Shared,
    lease: &Lease,
    term: &CancellationToken,
    world: &World,
    decision: &Decision,
    evidence: Option<&Evidence>,
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
    let mut put = Transaction::new()
        .fenced(lease)
        .put(latest, Expect::Any, decision)?
        .put(Key::new(Kind::Plan, id.as_str()), Expect::Absent, &stored)?;
    put = events::of_plan(put, &stored)?;
    if let Some(evidence) = evidence {
        for name in [id.as_str(), "latest"] {
            put = put.put(Key::new(Kind::Evidence, name), Expect::Any, evidence)?;
        }
    }
    shared.store.commit(put).await?;
    let mut begun = Vec::new();
    for (index, intent) in decision.moves.iter().enumerate() {
        let Some(instance) = world.instances.get(&intent.instance) else {
            continue;
        };
        if let Some(reason) = parked(shared, &intent.instance).await? {
            tracing::warn!(%reason, "not moved");
            continue;
        }
        let migration = Migration::new(
            MigrationId::new(format!("m-{number}-{}", index + 1))?,
            id.clone(),
            instance,
            intent,
            shared.settings.limits,
            lease.epoch,
            shared.clock.now(),
        );
        let context = context(shared, lease);
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
