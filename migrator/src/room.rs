//! Room on a host, and how many migrations may be under way.
//!
//! # Flow
//! ```text
//! read the host's record ─▶ read what is held and used there ─▶ does it fit? ─▶ commit
//!        ▲                                                        host record as it was read,
//!        └──────────── somebody else was quicker ◀──────────────  written again, and reservation
//! ```
//! # Guarantees
//! - Whoever reserves on a host writes the host's record in the same transaction, and expects the
//!   one he read. So of two that look at the same moment one has to look again: what is held on a
//!   host never exceeds its capacity, however many planners there are. An isolation that came in
//!   between is seen for the same reason.
//! - Migrations are created in the transaction of their plan, whose number is taken by one only.
//!   What counts for the caps was read after the number, so nobody can have created one unseen.
//!
//! # Assumptions
//! Nothing but a reservation adds load to a host: an instance comes to one only through a migration
//! that holds a reservation until the instance's record names the host.

use domain::{Host, HostId, Instance, Migration, Move, Readings, Reservation, Resource, Resources};
use serde::de::DeserializeOwned;
use store::{Expect, Generation, Key, Kind, Lease, Store, StoreError, Transaction, Typed};

/// Why there is no room.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// The store's words.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What stands against it; asking again changes nothing by itself.
    #[error("{0}")]
    Refused(String),
}

/// How many migrations may be under way at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// In all.
    pub in_all: usize,
    /// That leave or enter one host.
    pub per_host: usize,
}

/// How many readings count as "now".
const NEWEST: usize = 3;

/// Holds capacity on a migration's target, unless it is isolated or others hold too much of it.
///
/// `generation` is that of the record which asks for it: a write that comes late, after the record
/// went on, holds nothing.
///
/// # Errors
/// [`RoomError::Refused`] naming host and resource; the store's errors.
pub async fn reserve(
    store: &dyn Store,
    lease: &Lease,
    migration: &Migration,
    generation: Generation,
) -> Result<(), RoomError> {
    let host_key = Key::new(Kind::Host, migration.target.as_str());
    loop {
        let Some(record) = store.get(&host_key).await? else {
            return Err(RoomError::Refused(format!(
                "host {} is unknown",
                migration.target
            )));
        };
        let host: Typed<Host> = record.parse()?;
        if let Some(isolation) = &host.value.isolation {
            let reason = format!("host {} is isolated: {}", host.value.id, isolation.reason);
            return Err(RoomError::Refused(reason));
        }
        let load = Load::read(store, &host.value.id, migration).await?;
        load.takes(&host.value, &migration.reserve)
            .map_err(RoomError::Refused)?;
        let reservation = Reservation {
            migration: migration.id.clone(),
            host: host.value.id.clone(),
            amount: migration.reserve,
        };
        let record = Key::new(Kind::Migration, migration.id.as_str());
        let own = Key::new(Kind::Reservation, migration.id.as_str());
        let put = Transaction::new()
            .fenced(lease)
            .requires(record, Expect::Generation(generation))
            .put(
                host_key.clone(),
                Expect::Generation(host.generation),
                &host.value,
            )?
            .put(own, Expect::Any, &reservation)?;
        match store.commit(put).await {
            Ok(_) => return Ok(()),
            // Another was quicker, and got on: look again.
            Err(StoreError::Conflict { key, .. }) if key == host_key.to_string() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is held and used on a host, without one migration.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Load(Resources<f64>);

impl Load {
    /// Reads it. The order matters: a migration's reservation goes after its instance's record has
    /// named the host, and an original goes after its migration's record has named it.
    async fn read(
        store: &dyn Store,
        host: &HostId,
        migration: &Migration,
    ) -> Result<Self, StoreError> {
        let reservations: Vec<Reservation> = all(store, Kind::Reservation).await?;
        let migrations: Vec<Migration> = all(store, Kind::Migration).await?;
        let instances: Vec<Instance> = all(store, Kind::Instance).await?;
        let readings: Vec<Readings> = all(store, Kind::Readings).await?;
        Ok(Self::of(
            host,
            migration,
            &reservations,
            &migrations,
            &instances,
            &readings,
        ))
    }

    fn of(
        host: &HostId,
        migration: &Migration,
        reservations: &[Reservation],
        migrations: &[Migration],
        instances: &[Instance],
        readings: &[Readings],
    ) -> Self {
        let mut load = Self::default();
        for instance in instances {
            // An original runs, and takes its room, until it is terminated: its instance's record
            // has named the shadow since it was adopted.
            let leaves = migrations.iter().any(|other| {
                !other.phase.is_over()
                    && other.instance == instance.spec.id
                    && other.original.host == *host
                    && other.original != instance.replica
            });
            let stays = instance.replica.host == *host;
            if stays || leaves {
                load.0.memory += instance.spec.memory_bytes as f64;
            }
            if stays {
                let of = readings.iter().find(|r| r.instance == instance.spec.id);
                for resource in [Resource::Cpu, Resource::NetRx, Resource::NetTx] {
                    *load.0.get_mut(resource) += of.map_or(0.0, |r| now(r, resource));
                }
            }
        }
        for held in reservations {
            // Once it is adopted the instance itself takes the room.
            let adopted = instances
                .iter()
                .any(|instance| instance.replica.tag == held.migration.as_str());
            if held.host == *host && held.migration != migration.id && !adopted {
                for resource in Resource::ALL {
                    *load.0.get_mut(resource) += *held.amount.get(resource);
                }
            }
        }
        load
    }

    /// Whether a host can take this on top.
    fn takes(&self, host: &Host, more: &Resources<f64>) -> Result<(), String> {
        for resource in Resource::ALL {
            let (taken, wanted) = (*self.0.get(resource), *more.get(resource));
            if let Some(capacity) = *host.capacity.get(resource)
                && taken + wanted > capacity
            {
                return Err(format!(
                    "host {} has no {resource} left: {taken:.0} of {capacity:.0} {} are taken, {wanted:.0} wanted",
                    host.id,
                    resource.unit()
                ));
            }
        }
        Ok(())
    }
}

/// What an instance uses at present.
fn now(readings: &Readings, resource: Resource) -> f64 {
    let newest: Vec<f64> = readings
        .readings
        .iter()
        .rev()
        .take(NEWEST)
        .filter_map(|reading| *reading.demand.get(resource))
        .collect();
    if newest.is_empty() {
        0.0
    } else {
        newest.iter().sum::<f64>() / newest.len() as f64
    }
}

/// Whether one more migration may be created beside these.
///
/// # Errors
/// What stands against it, in words.
pub fn admit(others: &[Migration], wanted: &Move, caps: Caps) -> Result<(), String> {
    if let Some(other) = others
        .iter()
        .find(|other| other.instance == wanted.instance && !other.phase.is_over())
    {
        let (id, instance) = (&other.id, &wanted.instance);
        return Err(if other.phase.is_final() {
            format!("migration {id} of {instance} is parked: answer it first")
        } else {
            format!("migration {id} of {instance} is under way")
        });
    }
    let under_way = || others.iter().filter(|other| !other.phase.is_final());
    if under_way().count() >= caps.in_all {
        return Err(format!(
            "as many migrations as allowed are under way: {}",
            caps.in_all
        ));
    }
    for host in [&wanted.from, &wanted.target] {
        let busy = under_way()
            .filter(|other| other.original.host == *host || other.target == *host)
            .count();
        if busy >= caps.per_host {
            return Err(format!(
                "as many migrations as allowed leave or enter host {host}: {}",
                caps.per_host
            ));
        }
    }
    Ok(())
}

pub(crate) async fn all<T: DeserializeOwned>(
    store: &dyn Store,
    kind: Kind,
) -> Result<Vec<T>, StoreError> {
    let records = store.list(kind).await?;
    records
        .iter()
        .map(|record| Ok(record.parse()?.value))
        .collect()
}

#[cfg(test)]
mod tests;
