//! The world before anything happens: hosts, services, instances, proxies.

use std::collections::BTreeMap;

use domain::{
    Capacity, ConsistencyClass, Host, HostId, Instance, InstanceSpec, InstanceState, Isolation,
    Replica, Service, Timestamp,
};
use serde::Serialize;
use store::{Expect, Key, Kind, Store as _, StoreError, Transaction};
use xds_server::stream::Protocol;

use super::checks::ROOM;
use super::faults::{self, Fault};
use super::proxy::Proxy;
use super::rng::Rng;
use super::world::World;

const GIB: u64 = 1 << 30;

/// Two or three proxies, each with its form of the protocol: only delta where the control plane
/// restarts. In the state-of-the-world form one that has just begun takes away the clusters that it
/// never knew, before the routes that do without them (open: `tests/TRACK_RECORD.md`).
pub(crate) fn proxies(seed: u64, wire: bool) -> Vec<Proxy> {
    let mut rng = Rng::new(seed, 5);
    let count = rng.between(2, 4);
    let restarts = !wire
        && faults::plan(seed, 2, wire)
            .iter()
            .any(|planned| planned.fault == Fault::PlaneDown);
    let proxy = |number: u64| {
        let sotw = rng.in_thousand(500) && !restarts;
        let protocol = if sotw {
            Protocol::StateOfTheWorld
        } else {
            Protocol::Delta
        };
        let own = Rng::new(seed, 200 + number);
        Proxy::new(&format!("proxy-{number}"), protocol, own)
    };
    (0..count).filter_map(proxy).collect()
}

/// Writes the records and starts what they name.
pub(crate) async fn records(world: &World) -> Result<(), Box<dyn std::error::Error>> {
    for name in ["a", "b", "c", "isolated"] {
        put(world, Kind::Host, name, &host(name)?).await?;
    }
    for name in ["shop", "cart", "vault"] {
        let service: Service = serde_json::from_value(serde_json::json!({"id": name}))?;
        put(world, Kind::Service, name, &service).await?;
    }
    for (name, service, host) in [
        ("shop-1", "shop", "a"),
        ("shop-2", "shop", "b"),
        ("cart-1", "cart", "a"),
        ("vault-1", "vault", "b"),
    ] {
        let instance = instance(world, name, service, host)?;
        put(world, Kind::Instance, name, &instance).await?;
        let mut state = world.state();
        let endpoint = instance.replica.endpoint;
        state.homes.insert(instance.spec.id.clone(), endpoint);
        state.machines.start(instance.replica, "", false);
    }
    Ok(())
}

async fn put<T: Serialize>(
    world: &World,
    kind: Kind,
    id: &str,
    value: &T,
) -> Result<(), StoreError> {
    let put = Transaction::new().put(Key::new(kind, id), Expect::Any, value)?;
    world.store.commit(put).await.map(|_| ())
}

fn host(name: &str) -> Result<Host, Box<dyn std::error::Error>> {
    let isolation = (name == "isolated").then(|| Isolation {
        reason: "the simulation wants it".to_owned(),
        owner: "operator".to_owned(),
        since: Timestamp(0),
    });
    Ok(Host {
        id: HostId::new(name)?,
        capacity: Capacity {
            memory: Some((GIB * ROOM as u64) as f64),
            ..Capacity::default()
        },
        cpus: Vec::new(),
        labels: BTreeMap::new(),
        isolation,
    })
}

fn instance(
    world: &World,
    name: &str,
    service: &str,
    host: &str,
) -> Result<Instance, Box<dyn std::error::Error>> {
    let spec = serde_json::json!({"id": name, "service": service, "argv": ["server"]});
    let mut spec: InstanceSpec = serde_json::from_value(spec)?;
    spec.memory_bytes = GIB;
    if service != "vault" {
        spec.class = ConsistencyClass::Stateless;
    }
    Ok(Instance {
        spec,
        replica: Replica {
            host: HostId::new(host)?,
            endpoint: world.state().machines.fresh_endpoint(),
            handle: String::new(),
            tag: name.to_owned(),
        },
        state: InstanceState::Running,
        placed_at: Timestamp(0),
    })
}
