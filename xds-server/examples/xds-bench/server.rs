//! The control plane, with as many services as clusters are asked for, on a store in memory.

use std::sync::Arc;

use domain::{
    BasisPoints, Endpoint, Epoch, HostId, Instance, InstanceId, InstanceSpec, InstanceState,
    MigrationId, MigrationRouting, Replica, Routing, Service, ServiceId, Timestamp, WeightSplit,
};
use foreshadow_xds_server::{XdsConfig, XdsServer};
use store::{Expect, Key, Kind, MemoryStore, SharedStore, SystemClock, Transaction};

/// The service that changes.
pub(crate) const SERVICE: &str = "shop";
/// Domains of its own, so that its routes are about 1 KB.
const DOMAINS: usize = 10;
/// Most records in one transaction.
const CHUNK: usize = 500;

fn service(name: &str, domains: usize) -> Service {
    let domain = |number| format!("{name}-{number:02}.services.example.com");
    Service {
        id: ServiceId::new(name).unwrap(),
        domains: (0..domains).map(domain).collect(),
        sticky_header: None,
        timeout_ms: 15_000,
    }
}

fn endpoint(number: usize) -> Endpoint {
    let byte = |shift: usize| u8::try_from(number >> shift & 0xff).unwrap();
    Endpoint(([10, byte(16), byte(8), byte(0)], 8_000).into())
}

fn instance(service: &str, number: usize) -> Instance {
    let spec: InstanceSpec = serde_json::from_value(serde_json::json!({
        "id": format!("{service}-1"), "service": service, "argv": ["x"],
    }))
    .unwrap();
    Instance {
        spec,
        replica: Replica {
            host: HostId::new("host").unwrap(),
            endpoint: endpoint(number),
            handle: String::new(),
            tag: String::new(),
        },
        state: InstanceState::Running,
        placed_at: Timestamp(0),
    }
}

fn routing(revision: u64, shadow: u32) -> Routing {
    let split = WeightSplit::shadow_share(BasisPoints::new(shadow).unwrap());
    Routing {
        service: ServiceId::new(SERVICE).unwrap(),
        revision,
        epoch: Epoch(1),
        migration: Some(MigrationRouting {
            migration: MigrationId::new("m-1").unwrap(),
            instance: InstanceId::new(format!("{SERVICE}-1")).unwrap(),
            original: endpoint(1),
            shadow: endpoint(2),
            split,
            mirror: false,
            hold: domain::Hold::Off,
        }),
    }
}

async fn fill(store: &SharedStore, others: usize) {
    let mut names = vec![SERVICE.to_owned()];
    names.extend((0..others).map(|number| format!("idle-{number:05}")));
    for (chunk, names) in names.chunks(CHUNK).enumerate() {
        let mut writes = Transaction::new();
        for (index, name) in names.iter().enumerate() {
            let number = chunk * CHUNK + index + 1;
            let domains = if number == 1 { DOMAINS } else { 0 };
            let key = Key::new(Kind::Service, name.as_str());
            writes = writes
                .put(key, Expect::Any, &service(name, domains))
                .unwrap();
            let instance = instance(name, number);
            let key = Key::new(Kind::Instance, instance.spec.id.as_str());
            writes = writes.put(key, Expect::Any, &instance).unwrap();
        }
        store.commit(writes).await.unwrap();
    }
    split(store, 1, 100).await;
}

async fn split(store: &SharedStore, revision: u64, shadow: u32) {
    let key = Key::new(Kind::Routing, SERVICE);
    let writes = Transaction::new().put(key, Expect::Any, &routing(revision, shadow));
    store.commit(writes.unwrap()).await.unwrap();
}

/// Serves until its input ends; every line is a push.
pub(crate) async fn run(clusters: usize, port: u16) {
    let store: SharedStore = Arc::new(MemoryStore::new());
    // The service under migration has three clusters.
    fill(&store, clusters.saturating_sub(3)).await;
    let config = XdsConfig {
        listen: ([127, 0, 0, 1], port).into(),
        ..XdsConfig::default()
    };
    let server = XdsServer::start(config, Arc::clone(&store), Arc::new(SystemClock))
        .await
        .unwrap();
    println!("{}", server.local_addr().port());
    let mut lines = crate::process::lines();
    let mut revision = 1;
    while lines.recv().await.is_some() {
        revision += 1;
        // Always another weight, so that every push is new.
        split(&store, revision, 100 + u32::try_from(revision).unwrap()).await;
    }
}
