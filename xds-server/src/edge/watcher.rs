//! Watches the records that decide what is published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{Instance, Routing, Service, ServiceId};
use serde::de::DeserializeOwned;
use store::{Change, Kind, Record, SharedStore, StoreError, Watch};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::hub::Command;
use crate::input::{Inputs, ServiceInput, join};
use crate::telemetry::SharedTelemetry;

/// How long to wait before the store is asked again after it failed.
const RETRY: Duration = Duration::from_millis(200);

/// The records as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct World {
    services: BTreeMap<String, Service>,
    instances: BTreeMap<String, Instance>,
    routings: BTreeMap<String, Routing>,
    /// Instances by service.
    members: BTreeMap<ServiceId, BTreeSet<String>>,
    /// Services of which a record changed since they were told of.
    touched: BTreeSet<ServiceId>,
}

impl World {
    /// Reads all records.
    pub(crate) async fn load(store: &SharedStore) -> Result<Self, StoreError> {
        let mut world = Self::default();
        for kind in [Kind::Service, Kind::Instance, Kind::Routing] {
            world.reload(store, kind).await?;
        }
        Ok(world)
    }

    async fn reload(&mut self, store: &SharedStore, kind: Kind) -> Result<(), StoreError> {
        let records = store.list(kind).await?;
        if kind == Kind::Service && records.is_empty() && !self.services.is_empty() {
            // A store that has lost everything looks like this. Taking every service away from
            // every node on such ground is worse than waiting.
            return Err(StoreError::Unavailable {
                operation: "list services",
                reason: format!(
                    "{} services are known and the store has none",
                    self.services.len()
                ),
            });
        }
        let ids: BTreeSet<&str> = records
            .iter()
            .map(|record| record.key.id.as_str())
            .collect();
        if kind == Kind::Service {
            self.services.retain(|id, _| ids.contains(id.as_str()));
        } else if kind == Kind::Instance {
            self.instances.retain(|id, _| ids.contains(id.as_str()));
        } else {
            self.routings.retain(|id, _| ids.contains(id.as_str()));
        }
        for record in &records {
            self.put(record);
        }
        self.members.clear();
        for (id, instance) in &self.instances {
            let service = instance.spec.service.clone();
            self.members.entry(service).or_default().insert(id.clone());
        }
        Ok(())
    }

    /// Takes a record in. One that is malformed leaves the last good one in force.
    fn put(&mut self, record: &Record) {
        let kind = record.key.kind;
        if kind == Kind::Service {
            insert(&mut self.services, record);
            self.touch(&record.key.id);
        } else if kind == Kind::Instance {
            self.leave(&record.key.id);
            insert(&mut self.instances, record);
            self.join(&record.key.id);
        } else if kind == Kind::Routing {
            self.put_routing(record);
            self.touch(&record.key.id);
        }
    }

    fn touch(&mut self, service: &str) {
        self.touched.extend(ServiceId::new(service).ok());
    }

    fn join(&mut self, id: &str) {
        if let Some(instance) = self.instances.get(id) {
            let service = instance.spec.service.clone();
            self.touched.insert(service.clone());
            self.members
                .entry(service)
                .or_default()
                .insert(id.to_owned());
        }
    }

    fn leave(&mut self, id: &str) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        let service = instance.spec.service.clone();
        if let Some(members) = self.members.get_mut(&service) {
            members.remove(id);
            if members.is_empty() {
                self.members.remove(&service);
            }
        }
        self.touched.insert(service);
    }

    /// Takes a routing in, unless it is older than the one in force: a stale leader wrote it past
    /// the store's fence, or the store has lost what it held. Proxies never go back.
    fn put_routing(&mut self, record: &Record) {
        let before = self.routings.get(&record.key.id);
        let goes_back = |next: &Routing| {
            before.is_some_and(|known| next.epoch < known.epoch || next.revision < known.revision)
        };
        match record.parse::<Routing>() {
            Ok(next) if goes_back(&next.value) => tracing::error!(
                service = record.key.id,
                epoch = %next.value.epoch,
                revision = next.value.revision,
                "a routing that goes back is refused; the newer one stays in force"
            ),
            Ok(_) | Err(_) => insert(&mut self.routings, record),
        }
    }

    fn delete(&mut self, kind: Kind, id: &str) {
        if kind == Kind::Service {
            self.services.remove(id);
            self.touch(id);
        } else if kind == Kind::Instance {
            self.leave(id);
            self.instances.remove(id);
        } else if kind == Kind::Routing {
            self.routings.remove(id);
            self.touch(id);
        }
    }

    /// What follows from the records of the services that changed since the last call; `None` for
    /// one that is gone.
    fn take_changes(&mut self) -> BTreeMap<ServiceId, Option<Arc<ServiceInput>>> {
        let touched = std::mem::take(&mut self.touched);
        let input = |id: ServiceId| {
            let service = self.services.get(id.as_str());
            let members = self.members.get(&id).into_iter().flatten();
            let inputs = join(
                service,
                members.filter_map(|member| self.instances.get(member)),
                self.routings.get(id.as_str()),
            );
            let input = inputs.get(&id).cloned();
            (id, input)
        };
        touched.into_iter().map(input).collect()
    }

    /// What follows from the records.
    pub(crate) fn inputs(&self) -> Inputs {
        join(
            self.services.values(),
            self.instances.values(),
            self.routings.values(),
        )
    }
}

fn insert<T: DeserializeOwned>(into: &mut BTreeMap<String, T>, record: &Record) {
    match record.parse::<T>() {
        Ok(typed) => {
            into.insert(record.key.id.clone(), typed.value);
        }
        Err(error) => tracing::error!(%error, "record ignored; the last good one stays in force"),
    }
}

/// Tells the telemetry which services there are.
#[derive(Debug, Default)]
struct Announced {
    known: BTreeSet<ServiceId>,
    migrating: BTreeSet<ServiceId>,
}

impl Announced {
    fn take_in(&mut self, id: &ServiceId, input: Option<&Arc<ServiceInput>>) -> bool {
        let is = |set: &mut BTreeSet<ServiceId>, is: bool| {
            if is {
                set.insert(id.clone())
            } else {
                set.remove(id)
            }
        };
        let known = is(&mut self.known, input.is_some());
        let migrates = input.is_some_and(|input| input.migration().is_some());
        is(&mut self.migrating, migrates) || known
    }

    fn announce(&self, telemetry: &SharedTelemetry) {
        telemetry.set_services(self.known.clone(), self.migrating.clone());
    }
}

/// The watching task.
pub(crate) struct Watcher {
    pub(crate) store: SharedStore,
    pub(crate) hub: mpsc::Sender<Command>,
    pub(crate) telemetry: SharedTelemetry,
    pub(crate) debounce: Duration,
    services: Watch,
    instances: Watch,
    routings: Watch,
    /// Kinds that must be listed anew.
    stale: Vec<Kind>,
    /// How many changes have been seen.
    seen: Arc<AtomicU64>,
}

impl Watcher {
    /// Begins to watch; load the [`World`] after this, so that no change falls between.
    pub(crate) fn new(
        store: &SharedStore,
        hub: mpsc::Sender<Command>,
        telemetry: SharedTelemetry,
        debounce: Duration,
    ) -> Self {
        Self {
            services: store.watch(Kind::Service),
            instances: store.watch(Kind::Instance),
            routings: store.watch(Kind::Routing),
            store: store.clone(),
            hub,
            telemetry,
            debounce,
            stale: Vec::new(),
            seen: Arc::default(),
        }
    }

    /// How many changes have been seen, also those that are still gathered.
    pub(crate) fn seen(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.seen)
    }

    /// Follows the records until cancelled.
    pub(crate) async fn run(mut self, mut world: World, stop: CancellationToken) {
        let mut announced = Announced::default();
        for (id, input) in &world.inputs() {
            announced.take_in(id, Some(input));
        }
        announced.announce(&self.telemetry);
        world.touched.clear();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                more = self.gather(&mut world) => if !more {
                    tracing::error!("the store's watch ended: what is published stays in force");
                    return stop.cancelled().await;
                },
            }
            let all = !self.stale.is_empty();
            while let Err(error) = self.refresh(&mut world).await {
                tracing::error!(%error, "records cannot be read: what is published stays in force");
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
            let changes = world.take_changes();
            let mut news = false;
            for (id, input) in &changes {
                news |= announced.take_in(id, input.as_ref());
            }
            let command = if all {
                let inputs = world.inputs();
                announced = Announced::default();
                for (id, input) in &inputs {
                    announced.take_in(id, Some(input));
                }
                news = true;
                Command::Inputs(inputs)
            } else {
                Command::Update(changes)
            };
            if news {
                announced.announce(&self.telemetry);
            }
            let gathered = Command::Gathered(self.seen.load(Ordering::Acquire));
            if self.hub.send(command).await.is_err() || self.hub.send(gathered).await.is_err() {
                return;
            }
        }
    }

    /// Waits for a change, and for those that follow within the debounce. `false` when the store
    /// is gone.
    async fn gather(&mut self, world: &mut World) -> bool {
        if !self.next(world).await {
            return false;
        }
        let until = Instant::now() + self.debounce;
        while let Ok(more) = tokio::time::timeout_at(until, self.next(world)).await {
            if !more {
                return false;
            }
        }
        true
    }

    async fn next(&mut self, world: &mut World) -> bool {
        let (kind, change) = tokio::select! {
            biased;
            change = self.services.next() => (Kind::Service, change),
            change = self.instances.next() => (Kind::Instance, change),
            change = self.routings.next() => (Kind::Routing, change),
        };
        self.seen.fetch_add(1, Ordering::AcqRel);
        match change {
            Some(Change::Put(record)) => world.put(&record),
            Some(Change::Deleted(key)) => world.delete(key.kind, &key.id),
            Some(Change::Missed) => self.stale.push(kind),
            None => return false,
        }
        true
    }

    async fn refresh(&mut self, world: &mut World) -> Result<(), StoreError> {
        while let Some(&kind) = self.stale.last() {
            world.reload(&self.store, kind).await?;
            self.stale.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use domain::Epoch;
    use store::{Expect, Key, MemoryStore, Store as _, Transaction};

    use super::*;

    async fn record(epoch: u64, revision: u64) -> Record {
        let store = MemoryStore::new();
        let key = Key::new(Kind::Routing, "shop");
        let routing = Routing {
            service: ServiceId::new("shop").unwrap(),
            revision,
            epoch: Epoch(epoch),
            migration: None,
        };
        let put = Transaction::new().put(key.clone(), Expect::Any, &routing);
        store.commit(put.unwrap()).await.unwrap();
        store.get(&key).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_routing_of_a_stale_leader_or_of_a_store_that_went_back_is_refused() {
        let mut world = World::default();
        let in_force = |world: &World| {
            let routing = &world.routings["shop"];
            (routing.epoch.0, routing.revision)
        };
        world.put(&record(3, 7).await);
        for (epoch, revision) in [(2, 8), (3, 6), (2, 1)] {
            world.put(&record(epoch, revision).await);
            assert_eq!(in_force(&world), (3, 7), "{epoch}, {revision}");
        }
        world.put(&record(4, 8).await);
        assert_eq!(in_force(&world), (4, 8));
    }
}
