//! The control plane: the real gate, fed from the store's records as `xds-server` feeds it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::{
    Instance, KnownNode, NodeId, NodeTraffic, Routing, RoutingStatus, Service, ServiceId,
    Timestamp, Traffic,
};
use serde::de::DeserializeOwned;
use store::{Clock as _, Expect, Key, Kind, Record, Store as _, StoreError, Transaction};
use xds_server::gate::{Gate, PATIENCE_TICKS, Report, StreamId};
use xds_server::input::{Inputs, join};

use super::clock::{SimClock, millis};
use super::faults::{Fault, Planted};
use super::world::{State, World};

/// What the control plane holds in memory; gone when its process is.
#[derive(Debug, Default)]
pub(crate) struct Plane {
    pub(crate) gate: Option<Gate>,
    inputs: Inputs,
    /// The records that the inputs were made from.
    records: Vec<Record>,
    pub(crate) next_stream: u64,
    /// What the nodes reported.
    pub(crate) telemetry: BTreeMap<NodeId, NodeTraffic>,
    reports: BTreeMap<ServiceId, Option<Report>>,
    roster: BTreeMap<NodeId, bool>,
    next_tick: u64,
    next_traffic: u64,
}

/// Does what is safe, and sends what is due.
pub(crate) fn pump(state: &mut State, now: u64) {
    let State {
        plane,
        proxies,
        active,
        ..
    } = state;
    let Some(gate) = &mut plane.gate else { return };
    gate.advance();
    for id in gate.take_ready() {
        let found = proxies.iter_mut().enumerate();
        let Some((index, proxy)) = found
            .into_iter()
            .find(|(_, proxy)| proxy.stream == Some(id))
        else {
            continue;
        };
        while let Some(response) = gate.next_response(id) {
            let slow = active.contains(&Fault::ProxySlow(index));
            let delay = if slow {
                proxy.rng.between(300, 2_500)
            } else {
                proxy.rng.between(1, 40)
            };
            proxy.receive(now + delay, response.into());
        }
    }
    plane.reports.extend(gate.take_reports());
    plane.roster.extend(gate.take_roster());
}

/// A fresh name for a stream.
pub(crate) fn stream_id(plane: &mut Plane) -> StreamId {
    plane.next_stream += 1;
    StreamId(plane.next_stream)
}

/// Runs the control plane for ever.
pub(crate) async fn run(world: Arc<World>) {
    let clock = SimClock::new(world.began, 0, 0);
    loop {
        let pause = world.state().chance.between(10, 30);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let (down, cut_off) = {
            let state = world.state();
            // It saw more than the store holds since that was put back.
            let cut_off = state.plane_is_cut_off() || state.era > 0;
            (state.is(Fault::PlaneDown), cut_off)
        };
        if down {
            fall(&mut world.state());
        } else if cut_off {
            tick(&mut world.state(), millis(world.began));
        } else if let Err(error) = work(&world, clock.now()).await {
            world
                .state()
                .violate(format!("the control plane cannot read: {error}"));
        }
    }
}

fn fall(state: &mut State) {
    if state.plane.gate.is_some() {
        state.history.say("plane    down");
        let next_stream = state.plane.next_stream;
        state.plane = Plane {
            next_stream,
            ..Plane::default()
        };
    }
}

fn tick(state: &mut State, now: u64) {
    if now >= state.plane.next_tick {
        state.plane.next_tick = now + 1_000;
        if let Some(gate) = &mut state.plane.gate {
            gate.tick();
        }
    }
    pump(state, now);
}

async fn work(world: &World, at: Timestamp) -> Result<(), StoreError> {
    follow(world).await?;
    let writes = {
        let mut state = world.state();
        let now = millis(world.began);
        tick(&mut state, now);
        let mut writes = news(&mut state.plane, at)?;
        if now >= state.plane.next_traffic {
            state.plane.next_traffic = now + 200;
            let lies = world.has(Planted::SilenceIsQuiet);
            writes = traffic(&mut state.plane, at, lies, writes)?;
        }
        writes
    };
    if !writes.writes.is_empty() {
        let delay = world.state().chance.between(0, 8);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        world.store.commit(writes).await?;
    }
    Ok(())
}

/// Looks whether a record has changed, and sets the gate's inputs if one has.
async fn follow(world: &World) -> Result<(), StoreError> {
    let mut records = Vec::new();
    for kind in [Kind::Service, Kind::Instance, Kind::Routing] {
        records.extend(world.store.list(kind).await?);
    }
    let known = {
        let plane = &world.state().plane;
        plane.gate.is_some() && plane.records == records
    };
    if known {
        return Ok(());
    }
    let inputs = read_inputs(world).await?;
    let nodes: Vec<KnownNode> = all(world, Kind::Node).await?;
    let mut state = world.state();
    take_in(&mut state, inputs, nodes, world.has(Planted::ForgetfulGate));
    state.plane.records = records;
    Ok(())
}

fn take_in(state: &mut State, inputs: Inputs, nodes: Vec<KnownNode>, forgetful: bool) {
    let plane = &mut state.plane;
    if plane.gate.is_none() {
        let mut gate = Gate::new(if forgetful { 1 } else { PATIENCE_TICKS });
        for known in nodes.into_iter().filter(|_| !forgetful) {
            gate.expect(known.node);
        }
        gate.set_inputs(&inputs);
        plane.gate = Some(gate);
        plane.inputs = inputs;
        state.history.say("plane    up");
    } else if plane.inputs != inputs {
        if let Some(gate) = &mut plane.gate {
            gate.set_inputs(&inputs);
        }
        plane.inputs = inputs;
    }
}

async fn read_inputs(world: &World) -> Result<Inputs, StoreError> {
    let services: Vec<Service> = all(world, Kind::Service).await?;
    let instances: Vec<Instance> = all(world, Kind::Instance).await?;
    let routings: Vec<Routing> = all(world, Kind::Routing).await?;
    Ok(join(&services, &instances, &routings))
}

/// All records of a kind.
pub(crate) async fn all<T: DeserializeOwned>(
    world: &World,
    kind: Kind,
) -> Result<Vec<T>, StoreError> {
    let records = world.store.list(kind).await?;
    records
        .iter()
        .map(|record| Ok(record.parse()?.value))
        .collect()
}

/// Nodes and progress that are not written yet.
fn news(plane: &mut Plane, at: Timestamp) -> Result<Transaction, StoreError> {
    let mut writes = Transaction::new();
    for (node, known) in std::mem::take(&mut plane.roster) {
        let key = Key::new(Kind::Node, node.as_str());
        writes = if known {
            writes.put(key, Expect::Any, &KnownNode { node, since: at })?
        } else {
            writes.delete(key, Expect::Any)
        };
    }
    for (service, report) in std::mem::take(&mut plane.reports) {
        let key = Key::new(Kind::RoutingStatus, service.as_str());
        if let Some(report) = report {
            let status = RoutingStatus {
                service,
                revision: report.revision,
                state: report.state,
                nodes: report.nodes,
                at,
            };
            writes = writes.put(key, Expect::Any, &status)?;
        }
    }
    Ok(writes)
}

/// What the nodes reported, by service.
fn traffic(
    plane: &mut Plane,
    at: Timestamp,
    silence_is_quiet: bool,
    mut writes: Transaction,
) -> Result<Transaction, StoreError> {
    if silence_is_quiet {
        for node in plane
            .telemetry
            .values_mut()
            .filter(|node| at.since(node.reported_at) > 450)
        {
            node.reported_at = at;
            node.reports += 2;
            node.clusters
                .values_mut()
                .for_each(|counts| counts.in_progress = 0);
        }
    }
    for service in plane.inputs.keys() {
        let mut nodes = plane.telemetry.clone();
        let temporary = format!("{service}~");
        for node in nodes.values_mut() {
            node.clusters
                .retain(|name, _| name == service.as_str() || name.starts_with(&temporary));
        }
        let record = Traffic {
            service: service.clone(),
            at,
            nodes,
        };
        let key = Key::new(Kind::Traffic, service.as_str());
        writes = writes.put(key, Expect::Any, &record)?;
    }
    Ok(writes)
}
