//! What must be so when everything is at rest: I7 and I9.

use std::collections::BTreeMap;

use domain::{Endpoint, Reservation, Routing};
use store::{Kind, StoreError};

use super::plane::all;
use super::world::{State, World};

/// What the gate publishes, by name and version.
type Names = BTreeMap<String, String>;

/// What is published now.
pub(crate) fn published(state: &State) -> Names {
    if state.wire {
        return super::wire::published(state);
    }
    let Some(gate) = &state.plane.gate else {
        return Names::new();
    };
    let published = gate.published();
    let clusters = published.clusters.values();
    let endpoints = published.endpoints.values();
    let mut names: Names = clusters
        .map(|resource| {
            (
                format!("cluster {}", resource.name),
                resource.version.to_string(),
            )
        })
        .collect();
    names.extend(endpoints.map(|r| (format!("endpoints of {}", r.name), r.version.to_string())));
    names.insert("routes".to_owned(), published.routes.version.to_string());
    names
}

/// Looks for what was left over.
pub(crate) async fn check(world: &World, before: &Names) -> Result<(), StoreError> {
    let reservations: Vec<Reservation> = all(world, Kind::Reservation).await?;
    let routings: Vec<Routing> = all(world, Kind::Routing).await?;
    let mut state = world.state();
    if state.era > 0 {
        // What was under way waits for a person, with all that belongs to it.
        return Ok(());
    }
    for reservation in reservations {
        state.violate(format!(
            "I7: the reservation of {} is left over",
            reservation.migration
        ));
    }
    for routing in routings
        .iter()
        .filter(|routing| routing.migration.is_some())
    {
        state.violate(format!(
            "I7: the routing of {} is still a migration's",
            routing.service
        ));
    }
    machines(&mut state);
    let now = published(&state);
    for name in now.keys().filter(|name| name.contains('~')) {
        state.violate(format!("I7: {name} is still published"));
    }
    let done = state
        .phases
        .values()
        .any(|(_, phase)| *phase == domain::Phase::Done);
    if !done && now != *before {
        state.violate("I9: what is published is not what was before".to_owned());
    }
    proxies(&mut state);
    Ok(())
}

fn machines(state: &mut State) {
    let homes: Vec<Endpoint> = state.homes.values().copied().collect();
    let running = state.machines.running.values();
    let orphans: Vec<_> = running
        .filter(|machine| !homes.contains(&machine.replica.endpoint))
        .map(|machine| machine.replica.tag.clone())
        .collect();
    let used = |endpoint: Endpoint| state.machines.running.contains_key(&endpoint);
    let rooms = state.machines.rooms.iter();
    let rooms: Vec<_> = rooms
        .filter(|(_, room)| !used(room.endpoint))
        .map(|(tag, _)| tag.clone())
        .collect();
    for tag in orphans {
        state.violate(format!("I7: replica {tag} is left over"));
    }
    for tag in rooms {
        state.violate(format!("I7: the room of {tag} is left over"));
    }
}

/// I8, as far as it shows here: every proxy has what is published.
fn proxies(state: &mut State) {
    let mut wrong = Vec::new();
    for proxy in &state.proxies {
        for (cluster, endpoint) in proxy.feeds() {
            if cluster.contains('~') || !state.homes.values().any(|home| *home == endpoint) {
                wrong.push(format!(
                    "I7: {} still routes to {endpoint} in {cluster}",
                    proxy.node
                ));
            }
        }
    }
    for what in wrong {
        state.violate(what);
    }
}
