//! What belongs to nothing, found and removed.
//!
//! # Flow
//! ```text
//! driver: what is kept ─▶ store: what is in use ─▶ find (pure) ─▶ orphans, each with its reason
//!                                                      └─ the store looks lost? ─▶ nothing is removed
//! ```
//! # Guarantees
//! - Only what no migration that is not over, and no instance, has to do with is an orphan. What is
//!   parked is not over.
//! - It is removed under the leader's fence, one by one, by the leader of its shard, which begins
//!   nothing meanwhile.
//! - Emptiness is no reason: where the driver keeps what the store has never heard of, the store is
//!   taken for lost or rewound, and nothing at all is removed unless a person says so.
//!
//! # Assumptions
//! Records of migrations are kept for ever, so one that was ever driven is known to its store.

use std::collections::BTreeSet;

use domain::{Host, Instance, InstanceId, Migration, MigrationId, Reservation, Routing, Side};
use serde::{Deserialize, Serialize};
use store::{Expect, Key, Kind, StoreError, Transaction};

use crate::driver::{Found, OpContext};
use crate::room::all;
use crate::saga::{Context, Progress};
use crate::shards::Shard;

/// What is done with what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is shown.
    Look,
    /// It is removed, unless the store looks lost.
    Remove,
    /// It is removed, and so is what the store does not know: a person has compared them.
    RemoveUnknown,
}

/// What kind of thing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrphanKind {
    /// A shadow that runs.
    Shadow,
    /// An original that runs.
    Original,
    /// A replica's directory, with its port, in which nothing runs.
    Directory,
    /// Control groups without a directory.
    ControlGroup,
    /// Capacity that is held.
    Reservation,
    /// A split of a service's traffic, with its clusters.
    Routing,
    /// A host that takes no instances.
    Isolation,
    /// What is shown of a step.
    Progress,
}

impl OrphanKind {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Original => "original",
            Self::Directory => "directory",
            Self::ControlGroup => "control group",
            Self::Reservation => "reservation",
            Self::Routing => "routing",
            Self::Isolation => "isolation",
            Self::Progress => "progress",
        }
    }
}

/// Whether the store knows what an orphan once belonged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// It does: that is over.
    Over,
    /// It has never heard of it, or has lost it.
    Unknown,
}

/// What happened to an orphan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Fate {
    /// It is there.
    Found,
    /// It is gone.
    Removed,
    /// It could not be removed.
    Failed {
        /// Why.
        error: String,
    },
}

/// Something that belongs to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// What kind of thing.
    pub kind: OrphanKind,
    /// Its name: a tag, a migration, a service or a host.
    pub name: String,
    /// Why it belongs to nothing.
    pub reason: String,
    /// What there is of it.
    pub parts: Vec<String>,
    /// Whether the store knows it.
    pub known: Known,
    /// What happened to it.
    pub fate: Fate,
}

/// What was found, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The orphans.
    pub orphans: Vec<Orphan>,
    /// Why the store is taken for lost or rewound, if it is. Nothing is removed then.
    pub distrust: Option<String>,
    /// Shards that are not led by the process that was asked.
    pub elsewhere: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, other: Self) {
        self.orphans.extend(other.orphans);
        self.distrust = self.distrust.take().or(other.distrust);
        self.elsewhere.extend(other.elsewhere);
    }
}

/// What the store holds.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// Migrations, also those that are over.
    pub migrations: Vec<Migration>,
    /// Instances.
    pub instances: Vec<Instance>,
    /// Capacity held.
    pub reservations: Vec<Reservation>,
    /// How services are routed.
    pub routings: Vec<Routing>,
    /// Hosts.
    pub hosts: Vec<Host>,
    /// What is shown of steps.
    pub progress: Vec<Progress>,
}

impl Records {
    async fn read(context: &Context) -> Result<Self, StoreError> {
        let store = &*context.store;
        // Instances after migrations: what is adopted meanwhile is in use by one of them.
        Ok(Self {
            reservations: all(store, Kind::Reservation).await?,
            routings: all(store, Kind::Routing).await?,
            hosts: all(store, Kind::Host).await?,
            progress: all(store, Kind::Progress).await?,
            migrations: all(store, Kind::Migration).await?,
            instances: all(store, Kind::Instance).await?,
        })
    }

    fn migration(&self, id: &str) -> Option<&Migration> {
        self.migrations.iter().find(|known| known.id.as_str() == id)
    }

    /// Tags that something still has to do with.
    fn tags_in_use(&self) -> BTreeSet<&str> {
        let live = self.migrations.iter().filter(|m| !m.phase.is_over());
        let mut tags: BTreeSet<&str> = live
            .flat_map(|m| [m.id.as_str(), m.original.tag.as_str()])
            .collect();
        tags.extend(self.instances.iter().map(|i| i.replica.tag.as_str()));
        tags
    }

    /// Why a migration's belongings belong to nothing, if they do.
    fn over(&self, id: &MigrationId) -> Option<(Known, String)> {
        match self.migration(id.as_str()) {
            None => Some((Known::Unknown, format!("the store knows no migration {id}"))),
            Some(known) if known.phase.is_over() => Some((
                Known::Over,
                format!("migration {id} is {}", known.phase.name()),
            )),
            Some(_) => None,
        }
    }

    fn shard(&self, instance: Option<&InstanceId>, of: u32) -> Shard {
        let known = self.instances.iter().find(|i| Some(&i.spec.id) == instance);
        known.map_or(Shard::first(of), |i| Shard::of_service(&i.spec.service, of))
    }
}

/// Everything that belongs to nothing.
pub fn find(records: &Records, kept: &[Found]) -> Vec<Orphan> {
    let mut orphans = replicas(records, kept);
    let orphan = |kind, name: String, (known, reason), parts| Orphan {
        kind,
        name,
        reason,
        parts,
        known,
        fate: Fate::Found,
    };
    for held in &records.reservations {
        if let Some(why) = records.over(&held.migration) {
            let parts = vec![format!("on host {}", held.host)];
            let name = held.migration.to_string();
            orphans.push(orphan(OrphanKind::Reservation, name, why, parts));
        }
    }
    for routing in &records.routings {
        if let Some(split) = &routing.migration
            && let Some(why) = records.over(&split.migration)
        {
            let parts = vec![format!("split of {}", split.instance)];
            let name = routing.service.to_string();
            orphans.push(orphan(OrphanKind::Routing, name, why, parts));
        }
    }
    for host in &records.hosts {
        let owner = host.isolation.as_ref().map(|isolation| &isolation.owner);
        let migration = owner.and_then(|owner| owner.strip_prefix("migration/"));
        if let Some(id) = migration.and_then(|id| MigrationId::new(id).ok())
            && let Some(why) = records.over(&id)
        {
            let name = host.id.to_string();
            orphans.push(orphan(OrphanKind::Isolation, name, why, Vec::new()));
        }
    }
    for progress in &records.progress {
        if let Some((Known::Over, reason)) = records.over(&progress.migration) {
            let name = progress.migration.to_string();
            let why = (Known::Over, reason);
            orphans.push(orphan(OrphanKind::Progress, name, why, Vec::new()));
        }
    }
    orphans
}

fn replicas(records: &Records, kept: &[Found]) -> Vec<Orphan> {
    let in_use = records.tags_in_use();
    let mut orphans = Vec::new();
    for found in kept
        .iter()
        .filter(|found| !in_use.contains(found.tag.as_str()))
    {
        let of = found.instance.as_ref();
        let instance = records.instances.iter().find(|i| Some(&i.spec.id) == of);
        let by_migration = MigrationId::new(found.tag.as_str()).ok();
        let by_migration = by_migration.and_then(|id| records.over(&id));
        let (known, reason) = match (by_migration, instance) {
            (Some((Known::Over, reason)), _) => (Known::Over, reason),
            // An original's tag is its instance's id.
            (_, Some(instance)) if instance.spec.id.as_str() == found.tag => (
                Known::Over,
                format!("{} is served by {} now", found.tag, instance.replica.tag),
            ),
            (_, None | Some(_)) => (
                Known::Unknown,
                format!("the store knows nothing named {}", found.tag),
            ),
        };
        let kind = match (&found.running, found.side) {
            (Some(_), Some(Side::Original)) => OrphanKind::Original,
            (Some(_), Some(Side::Shadow) | None) => OrphanKind::Shadow,
            (None, Some(_)) => OrphanKind::Directory,
            (None, None) if found.parts.iter().any(|part| part == "directory") => {
                OrphanKind::Directory
            }
            (None, None) => OrphanKind::ControlGroup,
        };
        orphans.push(Orphan {
            kind,
            name: found.tag.clone(),
            reason,
            parts: found.parts.clone(),
            known,
            fate: Fate::Found,
        });
    }
    orphans
}

/// Why the store looks as if it had lost something, if it does.
pub fn distrust(records: &Records, kept: &[Found], orphans: &[Orphan]) -> Option<String> {
    let running = kept.iter().filter(|found| found.running.is_some()).count();
    if running > 0 && (records.instances.is_empty() || records.hosts.is_empty()) {
        return Some(format!(
            "the store knows {} instances and {} hosts, the driver runs {running} replicas",
            records.instances.len(),
            records.hosts.len()
        ));
    }
    let mut unknown = orphans.iter().filter(|o| o.known == Known::Unknown);
    let first = unknown.next()?;
    let more = unknown.count();
    Some(format!(
        "{} {}: {}{}",
        first.kind.name(),
        first.name,
        first.reason,
        if more > 0 {
            format!(", and {more} more")
        } else {
            String::new()
        }
    ))
}

/// Looks, and removes what may be removed, in one shard.
///
/// # Errors
/// What stands against it, in words.
pub(crate) async fn run(context: &Context, shard: Shard, mode: Mode) -> Result<Report, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    // The driver first: what is made meanwhile is not in its list.
    let kept = context.driver.list().await.map_err(|e| words(&e))?;
    let records = Records::read(context).await.map_err(|e| words(&e))?;
    let of = context.settings.shards;
    let mut orphans = find(&records, &kept);
    let distrust = distrust(&records, &kept, &orphans);
    orphans.retain(|orphan| home(&records, &kept, orphan, of) == shard);
    let may = match mode {
        Mode::Look => false,
        Mode::Remove => distrust.is_none(),
        Mode::RemoveUnknown => true,
    };
    if may {
        for orphan in &mut orphans {
            context.tenure.sure().await;
            orphan.fate = match remove(context, orphan).await {
                Ok(()) => Fate::Removed,
                Err(error) => Fate::Failed { error },
            };
            tracing::info!(kind = orphan.kind.name(), name = orphan.name, reason = orphan.reason, fate = ?orphan.fate, "orphan");
        }
    }
    Ok(Report {
        orphans,
        distrust,
        elsewhere: Vec::new(),
    })
}

/// The shard that an orphan belongs to; the first, where nobody can say.
fn home(records: &Records, kept: &[Found], orphan: &Orphan, of: u32) -> Shard {
    if orphan.kind == OrphanKind::Routing {
        let service = domain::ServiceId::new(orphan.name.as_str());
        return service.map_or(Shard::first(of), |s| Shard::of_service(&s, of));
    }
    if let Some(migration) = records.migration(&orphan.name) {
        return Shard::of_service(&migration.service, of);
    }
    let found = kept.iter().find(|found| found.tag == orphan.name);
    records.shard(found.and_then(|found| found.instance.as_ref()), of)
}

async fn remove(context: &Context, orphan: &Orphan) -> Result<(), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let fenced = || Transaction::new().fenced(&context.lease);
    let commit = async |transaction: Transaction| match context.store.commit(transaction).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    match orphan.kind {
        OrphanKind::Shadow
        | OrphanKind::Original
        | OrphanKind::Directory
        | OrphanKind::ControlGroup => {
            let ctx = OpContext {
                migration: MigrationId::new(orphan.name.as_str()).map_err(|e| words(&e))?,
                op: format!("gc/{}", orphan.name),
                lease: context.lease.name.clone(),
                epoch: context.lease.epoch,
                deadline: std::time::Duration::from_secs(30),
            };
            let collected = context.driver.collect(&ctx, &orphan.name).await;
            collected.map_err(|e| words(&e))
        }
        OrphanKind::Reservation => {
            let key = Key::new(Kind::Reservation, orphan.name.as_str());
            commit(fenced().delete(key, Expect::Any)).await
        }
        OrphanKind::Progress => {
            let key = Key::new(Kind::Progress, orphan.name.as_str());
            commit(fenced().delete(key, Expect::Any)).await
        }
        OrphanKind::Routing => {
            let key = Key::new(Kind::Routing, orphan.name.as_str());
            let Some(found) = context.store.get(&key).await.map_err(|e| words(&e))? else {
                return Ok(());
            };
            let found = found.parse::<Routing>().map_err(|e| words(&e))?;
            let usual = Routing {
                revision: found.value.revision + 1,
                epoch: context.lease.epoch,
                migration: None,
                ..found.value
            };
            let put = fenced().put(key, Expect::Generation(found.generation), &usual);
            commit(put.map_err(|e| words(&e))?).await
        }
        OrphanKind::Isolation => {
            let key = Key::new(Kind::Host, orphan.name.as_str());
            let Some(found) = context.store.get(&key).await.map_err(|e| words(&e))? else {
                return Ok(());
            };
            let found = found.parse::<Host>().map_err(|e| words(&e))?;
            let open = Host {
                isolation: None,
                ..found.value
            };
            let put = fenced().put(key, Expect::Generation(found.generation), &open);
            commit(put.map_err(|e| words(&e))?).await
        }
    }
}

#[cfg(test)]
mod tests;
