//! A service with instances and, if asked, a migration; and its way into a store.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use domain::{
    BasisPoints, Endpoint, Epoch, HostId, Instance, InstanceId, InstanceSpec, InstanceState,
    MigrationId, MigrationRouting, Replica, Routing, RoutingState, RoutingStatus, Service,
    ServiceId, Timestamp, Traffic, WeightSplit,
};
use foreshadow_xds_server::input::{Inputs, join};
use store::{Expect, Key, Kind, SharedStore, Transaction};

pub fn bp(shadow: u32) -> WeightSplit {
    WeightSplit::shadow_share(BasisPoints::new(shadow).unwrap())
}

#[derive(Clone)]
pub struct Scene {
    pub service: Service,
    pub instances: BTreeMap<u16, Instance>,
    pub routing: Option<Routing>,
}

fn endpoint(host: u8, number: u16) -> Endpoint {
    Endpoint(SocketAddr::from(([10, 0, 0, host], 8_000 + number)))
}

impl Scene {
    pub fn new(service: &str, count: u16) -> Self {
        let id = ServiceId::new(service).unwrap();
        let mut scene = Self {
            service: Service {
                id,
                domains: Vec::new(),
                sticky_header: None,
                timeout_ms: 15_000,
            },
            instances: BTreeMap::new(),
            routing: None,
        };
        for number in 1..=count {
            scene = scene.instance(number, endpoint(1, number));
        }
        scene
    }

    pub fn id(&self, number: u16) -> InstanceId {
        InstanceId::new(format!("{}-{number}", self.service.id)).unwrap()
    }

    pub fn instance(mut self, number: u16, endpoint: Endpoint) -> Self {
        let spec: InstanceSpec = serde_json::from_value(serde_json::json!({
            "id": self.id(number), "service": self.service.id, "argv": ["x"],
        }))
        .unwrap();
        let replica = Replica {
            host: HostId::new("host").unwrap(),
            endpoint,
            handle: String::new(),
            tag: String::new(),
        };
        let state = InstanceState::Running;
        let placed_at = Timestamp(0);
        self.instances.insert(
            number,
            Instance {
                spec,
                replica,
                state,
                placed_at,
            },
        );
        self
    }

    pub fn domain(mut self, domain: &str) -> Self {
        self.service.domains.push(domain.to_owned());
        self
    }

    pub fn sticky(mut self, header: &str) -> Self {
        self.service.sticky_header = Some(header.to_owned());
        self
    }

    pub fn migrate(self, number: u16, split: WeightSplit, mirror: bool) -> Self {
        self.migrate_to(number, endpoint(2, number), split, mirror)
    }

    pub fn migrate_to(
        mut self,
        number: u16,
        shadow: Endpoint,
        split: WeightSplit,
        mirror: bool,
    ) -> Self {
        let migration = MigrationRouting {
            migration: MigrationId::new("m-1").unwrap(),
            instance: self.id(number),
            original: self.instances[&number].replica.endpoint,
            shadow,
            split,
            mirror,
            hold: domain::Hold::Off,
        };
        self.routing = Some(self.next_routing(Some(migration)));
        self
    }

    /// The migration is over: the instance lives where its shadow was.
    pub fn commit(mut self, number: u16) -> Self {
        let shadow = self
            .routing
            .as_ref()
            .unwrap()
            .migration
            .as_ref()
            .unwrap()
            .shadow;
        self.instances.get_mut(&number).unwrap().replica.endpoint = shadow;
        self.routing = Some(self.next_routing(None));
        self
    }

    fn next_routing(&self, migration: Option<MigrationRouting>) -> Routing {
        let revision = self.routing.as_ref().map_or(0, |routing| routing.revision) + 1;
        Routing {
            service: self.service.id.clone(),
            revision,
            epoch: Epoch(1),
            migration,
        }
    }

    pub fn revision(&self) -> u64 {
        self.routing.as_ref().map_or(0, |routing| routing.revision)
    }

    pub fn inputs(&self) -> Inputs {
        join(
            [&self.service],
            self.instances.values(),
            self.routing.iter(),
        )
    }

    /// Writes all of it to the store.
    pub async fn save(&self, store: &SharedStore) {
        let put = |transaction: Transaction, kind, id: &str, value: &serde_json::Value| {
            transaction
                .put(Key::new(kind, id), Expect::Any, value)
                .unwrap()
        };
        let json = |value: &dyn erased::Json| value.json();
        let id = self.service.id.as_str();
        let mut transaction = put(Transaction::new(), Kind::Service, id, &json(&self.service));
        for instance in self.instances.values() {
            let id = instance.spec.id.as_str();
            transaction = put(transaction, Kind::Instance, id, &json(instance));
        }
        if let Some(routing) = &self.routing {
            transaction = put(transaction, Kind::Routing, id, &json(routing));
        }
        store.commit(transaction).await.unwrap();
    }

    pub async fn status(&self, store: &SharedStore) -> Option<RoutingStatus> {
        let key = Key::new(Kind::RoutingStatus, self.service.id.as_str());
        Some(store.get(&key).await.unwrap()?.parse().unwrap().value)
    }

    pub async fn traffic(&self, store: &SharedStore) -> Option<Traffic> {
        let key = Key::new(Kind::Traffic, self.service.id.as_str());
        Some(store.get(&key).await.unwrap()?.parse().unwrap().value)
    }

    /// Waits until the current revision is applied by `nodes` nodes.
    pub async fn applied(&self, store: &SharedStore, nodes: usize) -> RoutingStatus {
        let what = format!("revision {} applied by {nodes} nodes", self.revision());
        super::until(&what, || async {
            let status = self.status(store).await?;
            let done = status.revision == self.revision()
                && status.state == RoutingState::Applied
                && status.nodes.len() == nodes;
            done.then_some(status)
        })
        .await
    }
}

mod erased {
    pub trait Json {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap()
        }
    }
}
