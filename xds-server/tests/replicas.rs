//! Several control planes on one store.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::envoy::envoy::config::route::v3::RouteConfiguration;
use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use common::client::node;
use common::fleet::{Fleet, weights};
use common::until;
use common::world::{Scene, bp};
use domain::{NodeId, RoutingState, RoutingStatus};
use foreshadow_xds_server::gate::PeerWord;
use foreshadow_xds_server::stream::Protocol;
use foreshadow_xds_server::{XdsConfig, XdsServer};
use prost::Message as _;
use store::{MemoryStore, SharedStore, SystemClock};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Longer than any test: nothing is applied because somebody was given up.
const PATIENCE: Duration = Duration::from_hours(1);

async fn replica(store: &SharedStore, name: &str) -> XdsServer {
    let config = XdsConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        name: name.to_owned(),
        node_patience: PATIENCE,
        ..XdsConfig::default()
    };
    XdsServer::start(config, Arc::clone(store), Arc::new(SystemClock))
        .await
        .unwrap()
}

/// What all of them say together.
async fn applied(scene: &Scene, store: &SharedStore, nodes: usize) -> RoutingStatus {
    let what = format!("revision {} applied by {nodes} nodes", scene.revision());
    until(&what, || async {
        let status = store::words::routing_status(&**store, &scene.service.id).await;
        let status = status.unwrap()?;
        (status.has_applied(scene.revision()) && status.nodes.len() == nodes).then_some(status)
    })
    .await
}

/// Where replicas are at this moment.
type Doors = Arc<Mutex<Vec<SocketAddr>>>;

/// What a client has been told.
#[derive(Default)]
struct Told {
    /// The shadow's weight in every version of the routes, in the order in which they came.
    weights: Vec<u32>,
    /// Resources that it was sent although it had them.
    again: Vec<String>,
}

/// A client that goes to another replica when it loses its stream.
struct Follower {
    name: String,
    doors: Doors,
    told: Arc<Mutex<Told>>,
    versions: HashMap<String, HashMap<String, String>>,
}

impl Follower {
    fn start(number: usize, doors: &Doors) -> Arc<Mutex<Told>> {
        let told = Arc::<Mutex<Told>>::default();
        let mut follower = Self {
            name: format!("node-{number}"),
            doors: Arc::clone(doors),
            told: Arc::clone(&told),
            versions: HashMap::new(),
        };
        tokio::spawn(async move {
            for attempt in number.. {
                let door = {
                    let doors = follower.doors.lock().unwrap();
                    doors[attempt % doors.len()]
                };
                follower.follow(door).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        told
    }

    fn request(&self, kind: &str, names: Vec<String>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: Some(node(&self.name)),
            type_url: kind.to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: self.versions.get(kind).cloned().unwrap_or_default(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn clusters(&self) -> Vec<String> {
        let known = self.versions.get(api::xds::CLUSTER);
        known
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// One stream from its beginning to its end.
    async fn follow(&mut self, door: SocketAddr) -> Option<()> {
        let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{door}"))
            .await
            .ok()?;
        let (requests, stream) = mpsc::channel(16);
        requests
            .send(self.request(api::xds::CLUSTER, Vec::new()))
            .await
            .ok()?;
        let routes = || vec![api::xds::ROUTE_CONFIG.to_owned()];
        let clusters = self.clusters();
        if !clusters.is_empty() {
            requests
                .send(self.request(api::xds::ENDPOINT, clusters))
                .await
                .ok()?;
            requests
                .send(self.request(api::xds::ROUTE, routes()))
                .await
                .ok()?;
        }
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(stream))
            .await;
        let mut responses = responses.ok()?.into_inner();
        loop {
            let response = responses.message().await.ok()??;
            let before: BTreeSet<String> = self.clusters().into_iter().collect();
            self.take_in(&response);
            let mut answer = self.request(&response.type_url, Vec::new());
            answer.initial_resource_versions = HashMap::new();
            answer.response_nonce.clone_from(&response.nonce);
            requests.send(answer).await.ok()?;
            let after: BTreeSet<String> = self.clusters().into_iter().collect();
            let new: Vec<String> = after.difference(&before).cloned().collect();
            if !new.is_empty() {
                let mut more = self.request(api::xds::ENDPOINT, new);
                more.initial_resource_versions = HashMap::new();
                requests.send(more).await.ok()?;
                if !self.versions.contains_key(api::xds::ROUTE) {
                    requests
                        .send(self.request(api::xds::ROUTE, routes()))
                        .await
                        .ok()?;
                }
            }
        }
    }

    fn take_in(&mut self, response: &DeltaDiscoveryResponse) {
        let known = self.versions.entry(response.type_url.clone()).or_default();
        for name in &response.removed_resources {
            known.remove(name);
        }
        let mut told = self.told.lock().unwrap();
        for resource in &response.resources {
            let before = known.insert(resource.name.clone(), resource.version.clone());
            // The endpoints of a cluster are said again with it, and clusters are not changed here.
            if before.as_ref() == Some(&resource.version) && response.type_url != api::xds::ENDPOINT
            {
                told.again.push(resource.name.clone());
            }
            if response.type_url == api::xds::ROUTE {
                let body = resource.resource.as_ref().unwrap();
                let routes = RouteConfiguration::decode(body.value.as_slice()).unwrap();
                let all = weights(routes);
                let shadow = all.iter().find(|(name, _)| name.ends_with("~shadow"));
                told.weights.extend(shadow.map(|(_, weight)| *weight));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_never_go_back_at_a_client_when_replicas_end_in_the_middle_of_a_ramp() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let mut scene = Scene::new("shop", 2).migrate(1, bp(0), false);
    scene.save(&store).await;
    let mut replicas = [replica(&store, "a").await, replica(&store, "b").await];
    let doors: Doors = Arc::new(Mutex::new(
        replicas.iter().map(XdsServer::local_addr).collect(),
    ));
    let told: Vec<_> = (0..12)
        .map(|number| Follower::start(number, &doors))
        .collect();
    applied(&scene, &store, told.len()).await;
    let names = ["a", "b"];
    for step in 1..=20_u16 {
        scene = scene.migrate(1, bp(u32::from(step) * 500), false);
        scene.save(&store).await;
        // One ends while it publishes this, and another takes its place.
        let which = usize::from(step % 2);
        let next = replica(&store, names[which]).await;
        doors.lock().unwrap()[which] = next.local_addr();
        std::mem::replace(&mut replicas[which], next)
            .shutdown()
            .await;
        applied(&scene, &store, told.len()).await;
    }
    for (number, told) in told.iter().enumerate() {
        let told = told.lock().unwrap();
        assert!(
            told.weights.is_sorted(),
            "node-{number}: {:?}",
            told.weights
        );
        // Half of 10 000: another instance has the other half.
        assert_eq!(
            told.weights.last(),
            Some(&5_000),
            "node-{number}: {:?}",
            told.weights
        );
        assert!(told.again.is_empty(), "node-{number}: {:?}", told.again);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_replica_is_not_taken_for_away() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let scene = Scene::new("shop", 2);
    scene.save(&store).await;
    let replicas = [replica(&store, "a").await, replica(&store, "b").await];
    let doors: Vec<Doors> = replicas
        .iter()
        .map(|replica| Arc::new(Mutex::new(vec![replica.local_addr()])))
        .collect();
    let _told = [Follower::start(0, &doors[0]), Follower::start(1, &doors[1])];
    applied(&scene, &store, 2).await;
    // Each has a node of its own, and what ends with this needs the word of both.
    let scene = scene.migrate(1, bp(10_000), false);
    scene.save(&store).await;
    applied(&scene, &store, 2).await;
    let scene = scene.commit(1);
    scene.save(&store).await;
    applied(&scene, &store, 2).await;
    // One that begins now finds both with the others.
    let _third = replica(&store, "c").await;
    let scene = scene.migrate(2, bp(0), false);
    scene.save(&store).await;
    applied(&scene, &store, 2).await;
    for replica in replicas {
        replica.shutdown().await;
    }
}

fn word(node: &NodeId, revision: u64, has_routes: bool) -> PeerWord {
    let nodes = [(node.clone(), has_routes)].into();
    PeerWord { revision, nodes }
}

#[test]
fn what_a_node_of_another_replica_still_routes_to_stays_here_until_it_has_the_newer_routes() {
    let scene = Scene::new("shop", 1).migrate(1, bp(10_000), false);
    let mut fleet = Fleet::new(&scene.inputs());
    let (_stays, goes) = (
        fleet.connect(Protocol::Delta),
        fleet.connect(Protocol::Delta),
    );
    fleet.settle();
    let node = fleet.clients[goes].node.clone();
    fleet.clients[goes].lose(&mut fleet.gate);
    let id = scene.service.id.clone();
    let before = scene.revision();
    fleet.gate.met(node.clone(), 100);
    fleet
        .gate
        .hear(&id, "other", Some(word(&node, before, true)));
    let scene = scene.commit(1);
    fleet.set(&scene.inputs());
    fleet.settle();
    let has_shadow = |fleet: &Fleet| {
        let clusters = &fleet.gate.published().clusters;
        clusters.contains_key("shop~shop-1~shadow")
    };
    assert!(
        has_shadow(&fleet),
        "the other has not said that the node has the newer routes"
    );
    for has_routes in [false, true] {
        assert!(has_shadow(&fleet));
        let word = word(&node, scene.revision(), has_routes);
        fleet.gate.hear(&id, "other", Some(word));
        fleet.pump();
        fleet.settle();
    }
    assert!(!has_shadow(&fleet));
    assert_eq!(fleet.state(&scene), RoutingState::Applied);
    let report = fleet.gate.last_report(&id).unwrap();
    assert!(!report.nodes.contains_key(&node), "the other speaks for it");
}

#[test]
fn a_client_that_comes_over_with_newer_routes_is_not_sent_older_ones() {
    for protocol in [Protocol::Delta, Protocol::StateOfTheWorld] {
        let scene = Scene::new("shop", 2);
        // Two replicas; the second one has a slow node, and waits for it with the routes.
        let mut one = Fleet::new(&scene.inputs());
        let mut two = Fleet::new(&scene.inputs());
        let moves = one.connect(protocol);
        one.settle();
        two.next = 100;
        let slow = two.connect(Protocol::Delta);
        two.settle();
        let scene = scene.migrate(1, bp(5_000), false);
        one.set(&scene.inputs());
        one.settle();
        two.set(&scene.inputs());
        let mut client = one.clients.remove(moves);
        client.lose(&mut one.gate);
        let weights = client.routes.clone();
        assert!(weights.iter().any(|(name, _)| name.ends_with("~shadow")));
        two.clients.push(client);
        two.reconnect(1);
        while two.step(1) {}
        assert_eq!(two.clients[1].routes, weights, "{protocol:?}");
        while two.step(slow) {}
        two.settle();
        assert_eq!(two.clients[1].routes, weights, "{protocol:?}");
        assert_eq!(two.state(&scene), RoutingState::Applied, "{protocol:?}");
    }
}
