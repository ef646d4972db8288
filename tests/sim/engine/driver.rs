//! One migrator's way to the hypervisor: the contract of `migrator::driver`, with faults.
//!
//! A call that has left lands whether or not its caller still waits. When it lands, the epoch is
//! checked and the deed done in one piece; an operation that was overtaken by a later one of the
//! same migration is refused (both are asked of a driver in decision 0009).

use std::sync::Arc;
use std::time::Duration;

use domain::{Endpoint, Host, Instance, InstanceSpec, Migration, Reading, Replica, ZeroTraffic};
use migrator::driver::{
    Capabilities, Driver, DriverError, Forked, OpContext, SyncReport, Verified,
};
use store::{Key, Kind, Store as _};
use tokio::time::sleep;

use super::checks;
use super::faults::{Fault, Planted};
use super::machines::{Epoch0, Gave, Room};
use super::pause::{Act, Pause};
use super::world::{State, World};

type Deed = Box<dyn FnOnce(&mut State) -> Result<Gave, String> + Send>;

/// How a call goes.
#[derive(Debug, Clone, Copy)]
struct Fate {
    /// When it lands, if it does.
    lands_after: Option<u64>,
    /// How long the answer takes after that.
    back: u64,
    /// What the caller is told instead of the truth, if it is told anything else.
    lie: Option<Lie>,
}

#[derive(Debug, Clone, Copy)]
enum Lie {
    Transient,
    Failed,
    Silence,
}

/// One migrator's driver.
pub(crate) struct SimDriver {
    pub(crate) world: Arc<World>,
    pub(crate) pause: Arc<Pause>,
}

impl SimDriver {
    fn fate(&self) -> Fate {
        let mut state = self.world.state();
        let state = &mut *state;
        let chance = &mut state.chance;
        let is = |fault| state.active.contains(&fault);
        let (to, back) = (chance.between(2, 60), chance.between(0, 30));
        let fails = is(Fault::DriverFails) && chance.in_thousand(500);
        let unclear = is(Fault::DriverUnclear) && chance.in_thousand(500);
        let (lands_after, lie) = if is(Fault::DriverDead) {
            (None, Some(Lie::Silence))
        } else if fails {
            let hard = chance.in_thousand(150);
            (None, Some(if hard { Lie::Failed } else { Lie::Transient }))
        } else if unclear {
            let silent = chance.in_thousand(300);
            let after = chance.between(0, 3_000);
            (
                Some(after),
                Some(if silent { Lie::Silence } else { Lie::Transient }),
            )
        } else if is(Fault::DriverSlow) {
            (Some(chance.between(500, 6_000)), None)
        } else {
            return Fate {
                lands_after: Some(to),
                back,
                lie: None,
            };
        };
        state.counters.driver_faults += 1;
        Fate {
            lands_after,
            back,
            lie,
        }
    }

    /// Sends a call, and waits for its answer.
    async fn call(
        &self,
        ctx: &OpContext,
        operation: &'static str,
        deed: Deed,
    ) -> Result<Gave, DriverError> {
        self.pause.comes(Act::Effect);
        if self.pause.is_stopped() {
            return self.stopped_before(ctx, operation, deed).await;
        }
        self.pause.pass().await;
        let fate = self.fate();
        let landing = fate.lands_after.map(|after| {
            let (world, ctx, told) = (Arc::clone(&self.world), ctx.clone(), fate.lie.is_some());
            tokio::spawn(async move {
                sleep(Duration::from_millis(after)).await;
                let result = land(&world, &ctx, operation, deed).await;
                if told && result.is_ok() {
                    world.state().counters.late += 1;
                }
                sleep(Duration::from_millis(fate.back)).await;
                result
            })
        });
        let result = match (fate.lie, landing) {
            (None, Some(landing)) => match landing.await {
                Ok(result) => result,
                Err(_) => Err(transient(operation, ctx)),
            },
            (Some(Lie::Silence), _) => {
                sleep(Duration::from_mins(10)).await;
                Err(transient(operation, ctx))
            }
            (Some(Lie::Failed), _) => Err(failed(operation, ctx, "simulated")),
            (Some(Lie::Transient) | None, _) => {
                sleep(Duration::from_millis(fate.back)).await;
                Err(transient(operation, ctx))
            }
        };
        self.pause.pass().await;
        result
    }
}

impl SimDriver {
    /// A call whose thread was stopped just before it: it is made when the process goes on.
    async fn stopped_before(
        &self,
        ctx: &OpContext,
        operation: &'static str,
        deed: Deed,
    ) -> Result<Gave, DriverError> {
        let (world, pause, own) = (
            Arc::clone(&self.world),
            Arc::clone(&self.pause),
            ctx.clone(),
        );
        let landing = tokio::spawn(async move {
            pause.pass().await;
            land(&world, &own, operation, deed).await
        });
        let result = match landing.await {
            Ok(result) => result,
            Err(_) => Err(transient(operation, ctx)),
        };
        self.pause.pass().await;
        result
    }
}

fn transient(operation: &'static str, ctx: &OpContext) -> DriverError {
    DriverError::Transient {
        operation,
        subject: ctx.op.clone(),
        reason: "simulated".to_owned(),
    }
}

fn failed(operation: &'static str, ctx: &OpContext, reason: &str) -> DriverError {
    DriverError::Failed {
        operation,
        subject: ctx.op.clone(),
        reason: reason.to_owned(),
    }
}

fn number(ctx: &OpContext) -> u64 {
    let text = ctx.op.rsplit('/').next().unwrap_or_default();
    text.parse().unwrap_or(0)
}

/// A call arrives: fence, order, deed, in one piece.
async fn land(
    world: &World,
    ctx: &OpContext,
    operation: &'static str,
    deed: Deed,
) -> Result<Gave, DriverError> {
    let key = Key::new(Kind::Migration, ctx.migration.as_str());
    let record = world.store.get(&key).await.ok().flatten();
    let record = record.and_then(|record| record.parse::<Migration>().ok());
    let mut state = world.state();
    checks::effect_is_logged(
        &mut state,
        operation,
        ctx,
        number(ctx),
        record.as_ref().map(|r| &r.value),
    );
    let seen = state.machines.seen.0;
    if ctx.epoch < seen {
        if !world.has(Planted::NoDriverFence) {
            state.counters.zombies.driver += 1;
            return Err(DriverError::Fenced {
                operation,
                ours: ctx.epoch,
                seen,
            });
        }
        state.violate(format!(
            "I4: {operation} of epoch {} was carried out, {seen} had been seen",
            ctx.epoch
        ));
    }
    state.machines.seen = Epoch0(ctx.epoch.max(seen));
    if let Some(gave) = state.machines.done.get(&ctx.op) {
        return Ok(gave.clone());
    }
    let newest = state
        .machines
        .newest
        .entry(ctx.migration.to_string())
        .or_insert(0);
    if number(ctx) < *newest {
        return Err(failed(operation, ctx, "a later operation has begun"));
    }
    *newest = number(ctx);
    let result = deed(&mut state);
    let how = if result.is_ok() { "done" } else { "refused" };
    state.history.say(&format!(
        "driver   {operation} {} (epoch {}): {how}",
        ctx.op, ctx.epoch
    ));
    match result {
        Ok(gave) => {
            state.machines.done.insert(ctx.op.clone(), gave.clone());
            Ok(gave)
        }
        Err(reason) => Err(failed(operation, ctx, &reason)),
    }
}

fn prepare(state: &mut State, tag: String, target: &Host) -> Gave {
    if let Some(room) = state.machines.rooms.get(&tag) {
        return Gave::Endpoint(room.endpoint);
    }
    let endpoint = state.machines.fresh_endpoint();
    let room = Room {
        endpoint,
        host: target.id.clone(),
        rounds: 0,
    };
    state.machines.rooms.insert(tag, room);
    Gave::Endpoint(endpoint)
}

fn sync(state: &mut State, tag: &str) -> Result<Gave, String> {
    let room = state.machines.rooms.get_mut(tag).ok_or("no room")?;
    room.rounds += 1;
    Ok(Gave::Lag(if room.rounds >= 2 { 0 } else { 1 << 30 }))
}

fn fork(state: &mut State, tag: &str, op: &str, original: Endpoint) -> Result<Gave, String> {
    if !state.machines.serves(original) {
        return Err("the original does not run".to_owned());
    }
    let room = state.machines.rooms.get(tag).ok_or("no room")?.clone();
    let bad = state.is(Fault::BadShadow);
    let replica = Replica {
        host: room.host,
        endpoint: room.endpoint,
        handle: String::new(),
        tag: tag.to_owned(),
    };
    state.machines.start(replica.clone(), op, bad);
    Ok(Gave::Replica(replica))
}

fn on_shadow(state: &mut State, shadow: &Replica, verify: bool) -> Result<Gave, String> {
    let machine = state.machines.running.get_mut(&shadow.endpoint);
    let machine = machine
        .filter(|machine| machine.alive)
        .ok_or("it does not run")?;
    if verify && !machine.identity {
        return Err("it has the original's identity".to_owned());
    }
    machine.identity = true;
    machine.verified |= verify;
    Ok(Gave::Nothing)
}

/// Whatever exists of the shadow.
fn destroy(state: &mut State, tag: &str) -> Gave {
    state.machines.rooms.remove(tag);
    let shadow = state
        .machines
        .tagged(tag)
        .map(|machine| machine.replica.clone());
    if let Some(shadow) = shadow {
        checks::before_shadow_ends(state, &shadow);
        state.machines.running.remove(&shadow.endpoint);
    }
    Gave::Nothing
}

fn wrong<T>(operation: &'static str) -> Result<T, DriverError> {
    Err(DriverError::Failed {
        operation,
        subject: "simulation".to_owned(),
        reason: "another kind of answer was expected".to_owned(),
    })
}

#[async_trait::async_trait]
impl Driver for SimDriver {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            incremental_sync: true,
            enforces_capacity: false,
            reverse_sync: false,
            pause_budget: Duration::from_millis(100),
        }
    }

    async fn start(&self, _: &InstanceSpec, _: &Host) -> Result<Replica, DriverError> {
        wrong("start")
    }

    async fn prepare_shadow(
        &self,
        ctx: &OpContext,
        _: &Instance,
        target: &Host,
    ) -> Result<Endpoint, DriverError> {
        let (tag, target) = (ctx.migration.to_string(), target.clone());
        let deed: Deed = Box::new(move |state| Ok(prepare(state, tag, &target)));
        match self.call(ctx, "prepare shadow", deed).await? {
            Gave::Endpoint(endpoint) => Ok(endpoint),
            Gave::Nothing | Gave::Lag(_) | Gave::Replica(_) => wrong("prepare shadow"),
        }
    }

    async fn sync_round(&self, ctx: &OpContext, _: &Instance) -> Result<SyncReport, DriverError> {
        let tag = ctx.migration.to_string();
        let deed: Deed = Box::new(move |state| sync(state, &tag));
        match self.call(ctx, "sync round", deed).await? {
            Gave::Lag(lag_bytes) => Ok(SyncReport {
                total_bytes: 1 << 31,
                copied_bytes: 1 << 20,
                lag_bytes,
                took: Duration::from_millis(10),
            }),
            Gave::Nothing | Gave::Endpoint(_) | Gave::Replica(_) => wrong("sync round"),
        }
    }

    async fn fork(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        _: &Host,
    ) -> Result<Forked, DriverError> {
        let (tag, op, original) = (
            ctx.migration.to_string(),
            ctx.op.clone(),
            instance.replica.endpoint,
        );
        let deed: Deed = Box::new(move |state| fork(state, &tag, &op, original));
        match self.call(ctx, "fork", deed).await? {
            Gave::Replica(replica) => Ok(Forked {
                replica,
                paused: Duration::from_millis(3),
                copied_bytes: 1 << 20,
                digest: String::new(),
            }),
            Gave::Nothing | Gave::Endpoint(_) | Gave::Lag(_) => wrong("fork"),
        }
    }

    async fn reidentify(
        &self,
        ctx: &OpContext,
        _: &Instance,
        shadow: &Replica,
    ) -> Result<(), DriverError> {
        let shadow = shadow.clone();
        let deed: Deed = Box::new(move |state| on_shadow(state, &shadow, false));
        self.call(ctx, "re-identify", deed).await.map(|_| ())
    }

    async fn verify(
        &self,
        ctx: &OpContext,
        _: &Instance,
        shadow: &Replica,
    ) -> Result<Verified, DriverError> {
        let shadow = shadow.clone();
        let deed: Deed = Box::new(move |state| on_shadow(state, &shadow, true));
        let checks = vec!["simulated".to_owned()];
        self.call(ctx, "verify", deed)
            .await
            .map(|_| Verified { checks })
    }

    async fn terminate(
        &self,
        ctx: &OpContext,
        original: &Replica,
        proof: &ZeroTraffic,
    ) -> Result<(), DriverError> {
        let (original, forced) = (original.clone(), proof.forced());
        let deed: Deed = Box::new(move |state| {
            checks::before_original_ends(state, &original, forced);
            state.machines.rooms.remove(&original.tag);
            state.machines.running.remove(&original.endpoint);
            Ok(Gave::Nothing)
        });
        self.call(ctx, "terminate", deed).await.map(|_| ())
    }

    async fn destroy_shadow(&self, ctx: &OpContext) -> Result<(), DriverError> {
        let tag = ctx.migration.to_string();
        let deed: Deed = Box::new(move |state| Ok(destroy(state, &tag)));
        self.call(ctx, "destroy shadow", deed).await.map(|_| ())
    }

    async fn find_by_tag(&self, tag: &str) -> Result<Option<Replica>, DriverError> {
        self.pause.pass().await;
        let mut state = self.world.state();
        Ok(state
            .machines
            .tagged(tag)
            .map(|machine| machine.replica.clone()))
    }

    async fn stop(&self, _: &Replica) -> Result<(), DriverError> {
        wrong("stop")
    }

    async fn reading(&self, _: &Replica) -> Result<Option<Reading>, DriverError> {
        Ok(None)
    }
}
