//! The running migrator.
//!
//! # Flow
//! ```text
//! lease ─▶ claim the driver ─▶ compare records and world ─▶ every tick: read the world ─▶ decide
//!   ▲                            └─ go on, roll back, park        └─ a move: plan + migration ─▶ saga
//!   └─ renewed (`tenure`); lost: everything stops, the next leader goes on from the records
//! ```
//! One lease per shard (`shards`). Readings are taken beside that, whoever leads (`sampler`).
//!
//! # Failure paths
//! What is wrong is a trouble with a name (`health`): a damaged record, a store that is away, full
//! or went back. A damaged migration waits for a person; the others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::migration::{Event, What};
use domain::{
    Decision, Epoch, HolderId, HostId, IdError, Instance, InstanceId, Migration, MigrationId,
    Phase, Plan, PlanId, Routing, ServiceId, step,
};
use serde::de::DeserializeOwned;
use store::{
    Clock, Expect, Generation, Key, Kind, Lease, LogName, Record, SharedStore, StoreError,
    Transaction, Typed,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::detect::Memory;
use crate::driver::{Driver, DriverError};
use crate::events;
use crate::explain::Evidence;
use crate::gc::{self, Mode};
use crate::health::Health;
use crate::orders::{Answer, Desk, Order, OrderError, Told, Wish};
use crate::plan;
use crate::recovery::{self, Verdict};
use crate::room;
use crate::saga::{self, Context};
use crate::sampler::{self, Sampler};
use crate::settings::Settings;
use crate::shards::{Members, Shard};
use crate::tenure::Tenure;
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
    /// The store has forgotten leaderships, and with them perhaps more.
    #[error(
        "lease {lease} was given in epoch {epoch}, but {what} has seen {seen}: the store went back. \
         Compare it with the world; nothing is done until then"
    )]
    WentBack {
        /// The lease.
        lease: String,
        /// The epoch it gave.
        epoch: Epoch,
        /// Who knows better.
        what: String,
        /// The epoch seen there.
        seen: Epoch,
    },
    /// The fleet of this store is divided otherwise.
    #[error(
        "migrator.shards is {ours}, but the fleet of this store is divided into {theirs}: a service's \
         epochs are those of its shard's lease, so allowed is {theirs}"
    )]
    Divided {
        /// What is set here.
        ours: u32,
        /// What whoever led first had set.
        theirs: u32,
    },
}

/// A running migrator.
pub struct Migrator {
    cancel: CancellationToken,
    tasks: TaskTracker,
    aborts: Arc<Aborts>,
    orders: Desk,
    memory: Arc<Mutex<Memory>>,
    shards: u32,
    health: Health,
}

/// Orders that may wait for the leader of a shard.
const WAITING: usize = 16;

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
    health: Health,
    memory: Arc<Mutex<Memory>>,
}

impl Shared {
    /// Leaves what was kept for whoever wants to know what would be decided.
    fn remember(&self, memory: &Memory) {
        let mut kept = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clone_from(memory);
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
            health: Health::default(),
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
        let shards = shared.settings.shards;
        let alone = shards <= 1;
        // Alone it is always this one's turn; else members say whose.
        let at_first = if alone {
            Shard::all(shards).collect()
        } else {
            BTreeSet::new()
        };
        let (turns, turn) = watch::channel(at_first);
        let mut desks = BTreeMap::new();
        for shard in Shard::all(shards) {
            let (desk, taken) = mpsc::channel(WAITING);
            desks.insert(shard, desk);
            tasks.spawn(lead_loop(shared.clone(), shard, turn.clone(), taken));
        }
        if !alone {
            tasks.spawn(membership(shared.clone(), turns));
        }
        tasks.spawn(hand_out(shared.clone(), taken, desks));
        Self {
            cancel: shared.cancel,
            tasks,
            aborts: shared.aborts,
            orders,
            memory,
            shards,
            health: shared.health,
        }
    }

    /// Everything that is wrong at present, by name; nothing when it is ready.
    pub fn troubles(&self) -> BTreeMap<String, String> {
        self.health.troubles()
    }

    /// Looks for what belongs to no migration that is under way, and removes it if `mode` says so.
    /// Asks the leader of every shard; those that others lead are named in the report.
    ///
    /// # Errors
    /// [`OrderError`] when no shard is led here, or a leader refuses.
    pub async fn collect(&self, mode: Mode) -> Result<gc::Report, OrderError> {
        let mut report = gc::Report::default();
        let mut reached = false;
        for shard in Shard::all(self.shards) {
            match self.orders.ask(Wish::Collect(mode, shard)).await {
                Ok(Told::Collected(found)) => {
                    reached = true;
                    report.add(found);
                }
                Ok(Told::Migration(_)) => {}
                Err(OrderError::Unavailable(reason)) if self.shards > 1 => {
                    report
                        .elsewhere
                        .push(format!("{}: {reason}", shard.lease().0));
                }
                Err(error) => return Err(error),
            }
        }
        if reached {
            Ok(report)
        } else {
            Err(OrderError::Unavailable(
                "another migrator leads, or none".to_owned(),
            ))
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
        self.orders.migration(Wish::Move(instance, target)).await
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
        self.orders.migration(Wish::Answer(migration, answer)).await
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

/// How long to wait before a record is read again after the store failed.
const RETRY: Duration = Duration::from_millis(200);
/// Longest time between two tries to get a lease that another holds.
const GLANCE: Duration = Duration::from_millis(500);

/// Hands every order to whoever leads its shard in this process.
async fn hand_out(
    shared: Shared,
    mut orders: mpsc::Receiver<Order>,
    desks: BTreeMap<Shard, mpsc::Sender<Order>>,
) {
    loop {
        let order = tokio::select! {
            biased;
            () = shared.cancel.cancelled() => return,
            order = orders.recv() => order,
        };
        let Some(order) = order else { return };
        match shard_of(&shared, &order.what).await {
            Ok(shard) => {
                if let Some(desk) = desks.get(&shard)
                    && desk.try_send(order).is_err()
                {
                    tracing::warn!("too many orders wait; one is dropped");
                }
            }
            Err(error) => order.refuse(error),
        }
    }
}

/// The shard that an order is about.
async fn shard_of(shared: &Shared, wish: &Wish) -> Result<Shard, OrderError> {
    let of = shared.settings.shards;
    let away = |error: StoreError| OrderError::Unavailable(error.to_string());
    let service = match wish {
        Wish::Move(id, _) => {
            let key = Key::new(Kind::Instance, id.as_str());
            let found = shared.store.get(&key).await.map_err(away)?;
            let found = found.map(|record| record.parse::<Instance>()).transpose();
            found.map_err(away)?.map(|found| found.value.spec.service)
        }
        Wish::Answer(id, _) => {
            let key = Key::new(Kind::Migration, id.as_str());
            let found = shared.store.get(&key).await.map_err(away)?;
            let found = found.map(|record| record.parse::<Migration>()).transpose();
            found.map_err(away)?.map(|found| found.value.service)
        }
        Wish::Collect(_, shard) => return Ok(*shard),
    };
    // What is unknown is refused with its name by whoever leads the first shard.
    Ok(match service {
        Some(service) => Shard::of_service(&service, of),
        None => Shard::first(of),
    })
}

/// Gives signs of life, and knows whose turn it is. With one shard there is nothing to share.
async fn membership(shared: Shared, turns: watch::Sender<BTreeSet<Shard>>) {
    let ttl = shared.settings.lease();
    let mut members = Members::new(shared.holder.clone(), ttl);
    let mut tick = tokio::time::interval(ttl / 4);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shared.cancel.cancelled() => break,
            _ = tick.tick() => {}
        }
        match members.beat(&*shared.store).await {
            Ok(()) => shared.health.well("membership"),
            Err(error) => {
                shared.health.trouble("membership", &error);
                continue;
            }
        }
        let now = Instant::now();
        let mine: BTreeSet<Shard> = Shard::all(shared.settings.shards)
            .filter(|shard| members.should_lead(*shard, now))
            .collect();
        turns.send_if_modified(|turns| {
            let changed = *turns != mine;
            *turns = mine;
            changed
        });
    }
    if let Err(error) = members.leave(&*shared.store).await {
        tracing::debug!(%error, "no good-bye; others wait for the next sign of life");
    }
}

/// Leads a shard whenever its lease can be had, and it is this member's turn.
async fn lead_loop(
    shared: Shared,
    shard: Shard,
    mut turns: watch::Receiver<BTreeSet<Shard>>,
    mut orders: mpsc::Receiver<Order>,
) {
    let ttl = shared.settings.lease();
    let name = shard.lease();
    while !shared.cancel.is_cancelled() {
        let my_turn = turns.borrow_and_update().contains(&shard);
        let asked = Instant::now();
        let taken = if my_turn {
            shared.store.acquire(&name, &shared.holder, ttl).await
        } else {
            Ok(None)
        };
        match taken {
            Ok(Some(lease)) => {
                tracing::info!(lease = name.0, epoch = %lease.epoch, "leading");
                shared.health.well(&name.0);
                let tenure = Tenure::new(asked, ttl);
                let term = Term {
                    shard,
                    lease,
                    tenure,
                    driven: Driven::default(),
                };
                let ended = lead(&shared, &term, ttl, &mut turns, &mut orders).await;
                let mut never_again = false;
                if let Err(error) = ended {
                    tracing::warn!(lease = name.0, %error, "leadership ended");
                    never_again = matches!(error, MigratorError::Divided { .. });
                    if never_again {
                        shared.health.trouble(&name.0, &error);
                    }
                    let went_back = matches!(error, MigratorError::WentBack { .. });
                    // A newer epoch somewhere is no surprise if somebody newer leads.
                    if went_back && shared.store.renew(&term.lease, ttl).await.is_ok() {
                        // Whoever leads on would act on a store that has forgotten.
                        shared.health.trouble(&name.0, &error);
                        shared.cancel.cancelled().await;
                    }
                }
                if let Err(error) = shared.store.release(&term.lease).await {
                    tracing::debug!(%error, "the lease was not given back");
                }
                if never_again {
                    // Another setting needs another start.
                    shared.cancel.cancelled().await;
                }
            }
            Ok(None) => shared.health.well(&name.0),
            Err(error) => shared.health.trouble(&name.0, &error),
        }
        tokio::select! {
            biased;
            () = shared.cancel.cancelled() => {}
            () = tokio::time::sleep((ttl / 4).min(GLANCE)) => {}
        }
    }
}

/// One leadership.
struct Term {
    shard: Shard,
    lease: Lease,
    tenure: Tenure,
    driven: Driven,
}

/// The migrations that are driven in a term.
#[derive(Clone, Default)]
struct Driven(Arc<Mutex<BTreeSet<MigrationId>>>);

impl Driven {
    fn ids(&self) -> std::sync::MutexGuard<'_, BTreeSet<MigrationId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leads until the lease is lost, it is another's turn, or the migrator stops.
async fn lead(
    shared: &Shared,
    term: &Term,
    ttl: Duration,
    turns: &mut watch::Receiver<BTreeSet<Shard>>,
    orders: &mut mpsc::Receiver<Order>,
) -> Result<(), MigratorError> {
    let running = shared.cancel.child_token();
    let _ends = running.clone().drop_guard();
    let (lost, mut is_lost) = oneshot::channel();
    let hold = term
        .tenure
        .clone()
        .hold(Arc::clone(&shared.store), term.lease.clone(), ttl);
    let over = running.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = over.cancelled() => {}
            error = hold => {
                // Whatever is under way under this lease ends now.
                over.cancel();
                let _ended_already = lost.send(error);
            }
        }
    });
    tokio::select! {
        biased;
        () = shared.cancel.cancelled() => return Ok(()),
        error = &mut is_lost => return Err(lease_lost(error)),
        begun = begin_term(shared, term, &running) => begun?,
    }
    let mut memory = Memory::default();
    let mut tick = tokio::time::interval(shared.settings.tick());
    loop {
        let work = async {
            tokio::select! {
                biased;
                Some(order) = orders.recv() => obey(shared, term, &running, order).await,
                _ = tick.tick() => match claim(shared, term).await {
                    Ok(()) => look(shared, term, &running, &mut memory).await,
                    Err(error) => Err(error),
                },
            }
        };
        let done = tokio::select! {
            biased;
            () = shared.cancel.cancelled() => return Ok(()),
            error = &mut is_lost => return Err(lease_lost(error)),
            () = others_turn(turns, term.shard) => {
                tracing::info!(lease = term.lease.name.0, "another member ranks higher: handing over");
                return Ok(());
            }
            done = work => done,
        };
        match done {
            Ok(()) => shared.health.well("planning"),
            Err(
                error @ (MigratorError::Store(StoreError::Fenced { .. })
                | MigratorError::WentBack { .. }),
            ) => return Err(error),
            // Somebody else has written meanwhile; the next look sees it.
            Err(MigratorError::Store(error @ StoreError::Conflict { .. })) => {
                tracing::info!(%error, "overtaken; looking again");
            }
            Err(error) => shared.health.trouble("planning", &error),
        }
    }
}

fn lease_lost(error: Result<StoreError, oneshot::error::RecvError>) -> MigratorError {
    error
        .unwrap_or(StoreError::Unavailable {
            operation: "renew a lease",
            reason: "the task that renews it has ended".to_owned(),
        })
        .into()
}

/// Waits until another member should lead a shard.
async fn others_turn(turns: &mut watch::Receiver<BTreeSet<Shard>>, shard: Shard) {
    loop {
        if !turns.borrow_and_update().contains(&shard) {
            return;
        }
        if turns.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn begin_term(
    shared: &Shared,
    term: &Term,
    running: &CancellationToken,
) -> Result<(), MigratorError> {
    same_division(shared, term).await?;
    take_over(shared, term, running).await
}

/// Where the number of shards is written down by whoever leads first.
fn division() -> LogName {
    LogName("migrator/shards".to_owned())
}

/// Refuses to lead a part of a fleet that others divide otherwise: two leaders would each think that
/// the same service is theirs, in epochs that say nothing to each other.
async fn same_division(shared: &Shared, term: &Term) -> Result<(), MigratorError> {
    let ours = shared.settings.shards;
    if shared.store.read_log(&division(), 0, 1).await?.is_empty() {
        let word = Transaction::new()
            .fenced(&term.lease)
            .append(division(), &ours)?;
        shared.store.commit(word).await?;
    }
    // Read again: two that found nothing have both written, and the first one counts.
    let log = shared.store.read_log(&division(), 0, 1).await?;
    let theirs = log
        .first()
        .and_then(|entry| serde_json::from_slice(&entry.value).ok());
    match theirs {
        Some(theirs) if theirs == ours => Ok(()),
        Some(theirs) => Err(MigratorError::Divided { ours, theirs }),
        None => Err(MigratorError::Store(StoreError::Malformed {
            what: format!("log {}", division().0),
            reason: "it does not begin with a number of shards".to_owned(),
        })),
    }
}

/// Takes the resources over, and every migration of the shard that is not over.
async fn take_over(
    shared: &Shared,
    term: &Term,
    running: &CancellationToken,
) -> Result<(), MigratorError> {
    claim(shared, term).await?;
    for record in read_all(shared, Kind::Routing).await? {
        if let Some(routing) = sound::<Routing>(shared, &record) {
            let seen = routing.value.epoch;
            not_back(term, &routing.value.service, seen, &record.key)?;
        }
    }
    for record in read_all(shared, Kind::Migration).await? {
        // One that is damaged is a person's; the others must not wait for it.
        let Some(found) = sound::<Migration>(shared, &record) else {
            continue;
        };
        not_back(term, &found.value.service, found.value.epoch, &record.key)?;
        if term.shard.holds(&found.value.service) && !found.value.phase.is_final() {
            tracing::info!(migration = %found.value.id, phase = found.value.phase.name(), "taking over");
            spawn(
                shared,
                term,
                running,
                found.value,
                found.generation,
                First::TakeOver,
            );
        }
    }
    Ok(())
}

/// Takes the driver over. One that cannot be taken over is a trouble; its operations will say so
/// again, each to its migration.
async fn claim(shared: &Shared, term: &Term) -> Result<(), MigratorError> {
    let lease = &term.lease;
    let trouble = format!("driver, {}", lease.name.0);
    match shared.driver.claim(&lease.name, lease.epoch).await {
        Ok(()) => shared.health.well(&trouble),
        Err(DriverError::Fenced { ours, seen, .. }) => {
            return Err(MigratorError::WentBack {
                lease: lease.name.0.clone(),
                epoch: ours,
                what: "the driver".to_owned(),
                seen,
            });
        }
        Err(error) => shared.health.trouble(&trouble, &error),
    }
    Ok(())
}

/// All records of a kind, however long the store takes: a leader without them must not lead.
async fn read_all(shared: &Shared, kind: Kind) -> Result<Vec<Record>, MigratorError> {
    loop {
        match shared.store.list(kind).await {
            Ok(records) => {
                shared.health.well(kind.name());
                return Ok(records);
            }
            Err(error) => shared.health.trouble(kind.name(), &error),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// A record, if it is what its kind says; else it is a trouble with its name.
fn sound<T: DeserializeOwned>(shared: &Shared, record: &Record) -> Option<Typed<T>> {
    let name = record.key.to_string();
    match record.parse() {
        Ok(found) => {
            shared.health.well(&name);
            Some(found)
        }
        Err(error) => {
            shared.health.trouble(&name, &error);
            None
        }
    }
}

/// Refuses to lead in an epoch below one that has been at work.
fn not_back(term: &Term, service: &ServiceId, seen: Epoch, key: &Key) -> Result<(), MigratorError> {
    if term.shard.holds(service) && seen > term.lease.epoch {
        return Err(MigratorError::WentBack {
            lease: term.lease.name.0.clone(),
            epoch: term.lease.epoch,
            what: key.to_string(),
            seen,
        });
    }
    Ok(())
}

/// How a saga begins here.
enum First {
    /// With an event.
    Event(What),
    /// By comparing its record with the world: somebody else drove it before.
    TakeOver,
}

fn spawn(
    shared: &Shared,
    term: &Term,
    running: &CancellationToken,
    migration: Migration,
    generation: Generation,
    first: First,
) {
    let context = context(shared, term);
    let abort = shared.aborts.listen(&migration.id);
    let running = running.clone();
    let (driven, id) = (term.driven.clone(), migration.id.clone());
    driven.ids().insert(id.clone());
    shared.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = running.cancelled() => {}
            () = drive(&context, migration, generation, first, abort) => {}
        }
        driven.ids().remove(&id);
    });
}

/// Runs a saga to its end. When the store fails meanwhile, the record is read again and taken over
/// anew, as after a crash: what was under way may or may not have happened.
async fn drive(
    context: &Context,
    migration: Migration,
    generation: Generation,
    first: First,
    abort: watch::Receiver<Option<String>>,
) {
    let id = migration.id.clone();
    let mut next = Some((migration, generation, first));
    loop {
        if let Some((migration, generation, first)) = next.take() {
            match begin_at(context, migration, generation, first, abort.clone()).await {
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
            Ok(Some(found)) => next = Some((found.value, found.generation, First::TakeOver)),
            // A record that is gone or damaged is nothing to act on; neither is a store that is
            // away. The lease ends if that lasts.
            Ok(None) => tracing::error!(migration = %id, "the record is gone"),
            Err(error) => tracing::warn!(migration = %id, %error, "the record cannot be read"),
        }
    }
}

async fn begin_at(
    context: &Context,
    migration: Migration,
    generation: Generation,
    first: First,
    abort: watch::Receiver<Option<String>>,
) -> Result<Migration, StoreError> {
    let epoch = context.lease.epoch;
    let (migration, generation, what) = match first {
        First::Event(what) => (migration, generation, what),
        First::TakeOver => match recovery::examine(context, &migration).await? {
            Verdict::Resume => (migration, generation, What::TakenOver { epoch }),
            Verdict::RollBack(reason) => {
                let over = What::TakenOver { epoch };
                let noted = saga::note(context, migration, generation, over).await?;
                (noted.0, noted.1, What::Abort { reason })
            }
            Verdict::Park(question) => {
                let over = What::TakenOver { epoch };
                let noted = saga::note(context, migration, generation, over).await?;
                (noted.0, noted.1, What::Contradiction { question })
            }
        },
    };
    saga::run(context, migration, generation, what, abort).await
}

async fn read(context: &Context, id: &MigrationId) -> Result<Option<Typed<Migration>>, StoreError> {
    let key = Key::new(Kind::Migration, id.as_str());
    let found = context.store.get(&key).await?;
    found.map(|record| record.parse()).transpose()
}

/// One look at the world: decide, store the decision, begin what it says. Every leader decides for
/// the whole fleet, in the same way, and begins what belongs to its shard.
async fn look(
    shared: &Shared,
    term: &Term,
    running: &CancellationToken,
    memory: &mut Memory,
) -> Result<(), MigratorError> {
    let world = World::read(&*shared.store, shared.clock.now()).await?;
    take_in_strays(shared, term, running, &world).await?;
    let evidence = Evidence::of(&world, &shared.settings, memory);
    if term.shard.is_first() {
        shared.remember(memory);
    }
    let latest = Key::new(Kind::Decision, "latest");
    if evidence.decision.moves.is_empty() {
        let first = term.shard.is_first();
        if first && worth_storing(shared, &latest, &evidence.decision).await? {
            let put = Transaction::new()
                .fenced(&term.lease)
                .put(latest, Expect::Any, &evidence.decision)?
                .put(Key::new(Kind::Evidence, "latest"), Expect::Any, &evidence)?;
            shared.store.commit(put).await?;
        }
        return Ok(());
    }
    let decision = &evidence.decision;
    begin(shared, term, running, &world, decision, Some(&evidence)).await?;
    Ok(())
}

/// Begins what is planned and driven by nobody: a store that answers late may have taken a plan whose
/// planner was told that it had not, and no other leader comes to find it.
async fn take_in_strays(
    shared: &Shared,
    term: &Term,
    running: &CancellationToken,
    world: &World,
) -> Result<(), MigratorError> {
    let is_stray = |migration: &&Migration| {
        migration.phase == Phase::Planned
            && term.shard.holds(&migration.service)
            && !term.driven.ids().contains(&migration.id)
    };
    for stray in world.migrations.iter().filter(is_stray) {
        // It may have been ended since the world was read.
        let found = read(&context(shared, term), &stray.id).await?;
        if let Some(found) = found.filter(|found| found.value.phase == Phase::Planned) {
            tracing::info!(migration = %stray.id, "planned, and driven by nobody: taking over");
            let (migration, generation) = (found.value, found.generation);
            spawn(
                shared,
                term,
                running,
                migration,
                generation,
                First::TakeOver,
            );
        }
    }
    Ok(())
}

/// Carries an order out, unless something stands against it or its sender has given up.
async fn obey(
    shared: &Shared,
    term: &Term,
    running: &CancellationToken,
    order: Order,
) -> Result<(), MigratorError> {
    if order.reply.is_closed() {
        return Ok(());
    }
    let context = context(shared, term);
    let answer = match order.what {
        Wish::Move(instance, target) => requested(shared, term, running, &instance, &target)
            .await?
            .map(Told::Migration),
        Wish::Answer(id, answer) => match answered(&context, &id, answer).await? {
            Ok((record, generation, what)) => {
                let first = First::Event(what);
                spawn(shared, term, running, record, generation, first);
                Ok(Told::Migration(id))
            }
            Err(reason) => Err(reason),
        },
        Wish::Collect(mode, shard) => gc::run(&context, shard, mode).await.map(Told::Collected),
    };
    // Whoever asked may be gone; the migration is in the store.
    let _ = order.reply.send(answer.map_err(OrderError::Refused));
    Ok(())
}

/// How often an order is tried while other planners are quicker.
const TRIES: u32 = 8;

/// Begins the move that somebody asks for, or says what stands against it.
async fn requested(
    shared: &Shared,
    term: &Term,
    running: &CancellationToken,
    instance: &InstanceId,
    target: &HostId,
) -> Result<Result<MigrationId, String>, MigratorError> {
    for _ in 0..TRIES {
        let world = World::read(&*shared.store, shared.clock.now()).await?;
        let decision = match plan::requested(&world, &shared.settings, instance, target) {
            Ok(decision) => decision,
            Err(reason) => return Ok(Err(reason)),
        };
        match begin(shared, term, running, &world, &decision, None).await {
            Ok(begun) => {
                let first = begun.begun.into_iter().next();
                let refused = || begun.refused.into_iter().next();
                let nothing = || "nothing was begun".to_owned();
                return Ok(first.ok_or_else(|| refused().unwrap_or_else(nothing)));
            }
            Err(MigratorError::Store(StoreError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Err(
        "other planners were quicker each time: ask again".to_owned()
    ))
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

fn context(shared: &Shared, term: &Term) -> Context {
    Context {
        store: Arc::clone(&shared.store),
        driver: Arc::clone(&shared.driver),
        clock: Arc::clone(&shared.clock),
        lease: term.lease.clone(),
        tenure: term.tenure.clone(),
        settings: shared.settings.clone(),
    }
}

/// What came of a decision.
#[derive(Default)]
struct Beginnings {
    begun: Vec<MigrationId>,
    refused: Vec<String>,
}

/// Stores a plan with its migrations, in one transaction, and begins them. The plan's number is
/// taken by one planner only: what counts against it was read after the number (see [`room`]).
async fn begin(
    shared: &Shared,
    term: &Term,
    running: &CancellationToken,
    world: &World,
    decision: &Decision,
    evidence: Option<&Evidence>,
) -> Result<Beginnings, MigratorError> {
    let number = shared.store.list(Kind::Plan).await?.len() + 1;
    let mut others: Vec<Migration> = room::all(&*shared.store, Kind::Migration).await?;
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
    let mut put = Transaction::new()
        .fenced(&term.lease)
        .put(Key::new(Kind::Decision, "latest"), Expect::Any, decision)?
        .put(Key::new(Kind::Plan, id.as_str()), Expect::Absent, &stored)?;
    let mut done = Beginnings::default();
    let mut first = Vec::new();
    for (index, intent) in decision.moves.iter().enumerate() {
        let Some(instance) = world.instances.get(&intent.instance) else {
            continue;
        };
        if !term.shard.holds(&instance.spec.service) {
            continue;
        }
        if let Err(reason) = room::admit(&others, intent, shared.settings.caps()) {
            tracing::warn!(%reason, "not moved");
            done.refused.push(reason);
            continue;
        }
        let migration = Migration::new(
            MigrationId::new(format!("m-{number}-{}", index + 1))?,
            id.clone(),
            instance,
            intent,
            shared.settings.limits,
            term.lease.epoch,
            shared.clock.now(),
        );
        let key = Key::new(Kind::Migration, migration.id.as_str());
        put = put.put(key, Expect::Absent, &migration)?;
        others.push(migration.clone());
        first.push(migration);
    }
    if first.is_empty() {
        // Nothing to begin: no plan either, or each look at the same refusal would leave one.
        return Ok(done);
    }
    // After the migrations: their generations are looked up by their place.
    put = events::of_plan(put, &stored)?;
    if let Some(evidence) = evidence {
        for name in [id.as_str(), "latest"] {
            put = put.put(Key::new(Kind::Evidence, name), Expect::Any, evidence)?;
        }
    }
    let committed = shared.store.commit(put).await?;
    let generations = committed.generations.into_iter().skip(2);
    for (migration, generation) in first.into_iter().zip(generations) {
        let generation = generation.unwrap_or(Generation(1));
        done.begun.push(migration.id.clone());
        let event = First::Event(What::Start);
        spawn(shared, term, running, migration, generation, event);
    }
    Ok(done)
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

#[cfg(test)]
mod tests;
