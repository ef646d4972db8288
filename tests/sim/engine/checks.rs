//! The invariants of the design, checked when something lands and at every step.

use std::collections::BTreeMap;

use domain::{Endpoint, Instance, Migration, Phase, Replica, Routing};
use migrator::driver::OpContext;
use store::{Kind, Lease, Transaction};

use super::world::State;

/// Replicas that fit on one host of this world.
pub(crate) const ROOM: usize = 3;

/// A migrator was given the lease.
pub(crate) fn acquired(state: &mut State, client: usize, lease: &Lease) {
    state.history.say(&format!(
        "lease    migrator {client} leads in epoch {}",
        lease.epoch
    ));
    if state.leader.is_some_and(|(_, epoch)| epoch >= lease.epoch) {
        state.violate(format!(
            "I4: epoch {} was given twice or went back",
            lease.epoch
        ));
    }
    state.leader = Some((client, lease.epoch));
}

/// A transaction has been committed.
pub(crate) fn committed(state: &mut State, client: usize, transaction: &Transaction) {
    let newest = state.leader.map(|(_, epoch)| epoch);
    if let (Some(fence), Some(newest)) = (&transaction.fence, newest)
        && fence.epoch < newest
    {
        let what = transaction
            .writes
            .first()
            .map(|write| write.key.to_string());
        let what = what.unwrap_or_default();
        state.violate(format!(
            "I4: epoch {} wrote {what} while epoch {newest} leads",
            fence.epoch
        ));
    }
    for write in &transaction.writes {
        let Some(value) = &write.value else { continue };
        if write.key.kind == Kind::Routing {
            on(state, value, routed);
        } else if write.key.kind == Kind::Instance {
            on(state, value, placed);
        } else if write.key.kind == Kind::Migration {
            on(state, value, moved);
        }
    }
    for (log, entry) in &transaction.appends {
        if let Ok(line) = serde_json::from_slice::<migrator::saga::LogLine>(entry) {
            let (event, phase, next) = (line.event, line.phase.name(), line.next.join(", "));
            let log = &log.0;
            state.history.say(&format!(
                "{log} by {client}: {event} -> {phase}; next: {next}"
            ));
        }
    }
}

fn on<T: serde::de::DeserializeOwned>(state: &mut State, value: &[u8], check: fn(&mut State, &T)) {
    match serde_json::from_slice(value) {
        Ok(value) => check(state, &value),
        Err(error) => state.violate(format!("a record does not parse: {error}")),
    }
}

fn routed(state: &mut State, routing: &Routing) {
    let last = state.revisions.entry(routing.service.clone()).or_insert(0);
    let before = std::mem::replace(last, routing.revision);
    if routing.revision <= before {
        state.violate(format!(
            "I5: {} went from revision {before} to {}",
            routing.service, routing.revision
        ));
    }
    let Some(migration) = &routing.migration else {
        return;
    };
    let (shadow, original) = (
        migration.split.shadow().get(),
        migration.split.original().get(),
    );
    let m = &migration.migration;
    if shadow > 0 && !is_fit(state, migration.shadow) {
        state.violate(format!(
            "I2: {m} gives weight {shadow} to a shadow that is not fit"
        ));
    }
    if original > 0 && !is_fit(state, migration.original) {
        state.violate(format!(
            "I2: {m} gives weight {original} to an original that is not fit"
        ));
    }
}

/// Alive (or dead by injection) and verified.
fn is_fit(state: &State, endpoint: Endpoint) -> bool {
    let machine = state.machines.running.get(&endpoint);
    let verified = machine.is_some_and(|machine| machine.verified);
    verified && (state.machines.serves(endpoint) || state.load.excused.contains(&endpoint))
}

fn placed(state: &mut State, instance: &Instance) {
    let endpoint = instance.replica.endpoint;
    if !is_fit(state, endpoint) {
        state.violate(format!(
            "I2: {} is placed at a replica that is not fit",
            instance.spec.id
        ));
    }
    state.homes.insert(instance.spec.id.clone(), endpoint);
}

fn moved(state: &mut State, migration: &Migration) {
    let known = state.phases.insert(
        migration.id.clone(),
        (migration.instance.clone(), migration.phase),
    );
    if known.is_none() {
        one_at_a_time(state, migration);
    }
}

/// I6: at most one migration per instance that is not over. One that is parked is not over.
fn one_at_a_time(state: &mut State, migration: &Migration) {
    let other = state.phases.iter().find(|(id, (instance, phase))| {
        **id != migration.id && *instance == migration.instance && !is_over(*phase)
    });
    if let Some((id, (instance, phase))) = other {
        let text = format!(
            "I6: {} begins while {id} of {instance} is {}",
            migration.id,
            phase.name()
        );
        state.violate(text);
    }
}

/// Whether nothing of it is left to be done by anybody.
pub(crate) const fn is_over(phase: Phase) -> bool {
    matches!(phase, Phase::Done | Phase::RolledBack)
}

/// I10: the intent is in the record before the effect comes about.
pub(crate) fn effect_is_logged(
    state: &mut State,
    operation: &str,
    ctx: &OpContext,
    number: u64,
    record: Option<&Migration>,
) {
    // What had left before the store was put back is in what it has forgotten.
    let is_known = record.is_some_and(|record| record.next_op > number);
    if !is_known && state.era == 0 {
        state.violate(format!("I10: {operation} {} is not in the record", ctx.op));
    }
}

/// I3: nothing may reach an original when it ends.
pub(crate) fn before_original_ends(state: &mut State, original: &Replica, forced: bool) {
    let endpoint = original.endpoint;
    if !state.machines.running.contains_key(&endpoint) {
        return;
    }
    if let Some(feeder) = feeder(state, endpoint) {
        state.violate(format!(
            "I3: {} ends while {feeder} routes to it",
            original.tag
        ));
    }
    let open = state.load.at(endpoint);
    if open > 0 && !forced {
        state.violate(format!(
            "I3: {} ends with {open} requests in progress",
            original.tag
        ));
    } else if open > 0 {
        state.load.excused.insert(endpoint);
    }
    if state.homes.values().any(|home| *home == endpoint) {
        state.violate(format!(
            "I1: {} ends while its record names it",
            original.tag
        ));
    }
}

/// I1, I2: a shadow that ends serves nobody.
pub(crate) fn before_shadow_ends(state: &mut State, shadow: &Replica) {
    if state.homes.values().any(|home| *home == shadow.endpoint) {
        state.violate(format!(
            "I1: {} ends as a shadow and is the instance",
            shadow.tag
        ));
    }
    let excused = state.load.excused.contains(&shadow.endpoint);
    if let Some(feeder) = feeder(state, shadow.endpoint).filter(|_| !excused) {
        state.violate(format!(
            "I2: {} ends while {feeder} routes to it",
            shadow.tag
        ));
    }
}

fn feeder(state: &State, endpoint: Endpoint) -> Option<String> {
    let mut proxies = state.proxies.iter();
    let found = proxies.find(|proxy| proxy.feeds().any(|(_, fed)| fed == endpoint));
    found.map(|proxy| proxy.node.to_string())
}

/// What must hold at every instant.
pub(crate) fn always(state: &mut State) {
    let mut wrong = Vec::new();
    for (instance, home) in &state.homes {
        if !state.machines.serves(*home) && !state.load.excused.contains(home) {
            wrong.push(format!("I1: no replica of {instance} is alive"));
        }
    }
    for proxy in &state.proxies {
        for (cluster, endpoint) in proxy.feeds() {
            let fit = is_fit(state, endpoint) || state.load.excused.contains(&endpoint);
            if !fit {
                wrong.push(format!(
                    "I2: {} routes to {endpoint} ({cluster}), which is not fit",
                    proxy.node
                ));
            }
        }
    }
    let mut hosts: BTreeMap<&str, usize> = BTreeMap::new();
    for machine in state.machines.running.values() {
        *hosts.entry(machine.replica.host.as_str()).or_default() += 1;
    }
    for (tag, room) in &state.machines.rooms {
        if !state.machines.running.contains_key(&room.endpoint) {
            *hosts.entry(room.host.as_str()).or_default() += 1;
        } else if !state
            .machines
            .running
            .values()
            .any(|m| m.replica.tag == *tag)
        {
            wrong.push(format!("the room of {tag} holds another replica"));
        }
    }
    for (host, replicas) in hosts {
        if replicas > ROOM || host == "isolated" {
            wrong.push(format!("I6: host {host} has {replicas} replicas"));
        }
    }
    for what in wrong {
        state.violate(what);
    }
}
