//! The gate against a simulated fleet: clients that are slow, come, go and come back, while what
//! is wanted changes at any moment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use std::net::SocketAddr;

use common::fleet::Fleet;
use common::world::{Scene, bp};
use domain::{Endpoint, NodeProgress, RoutingState, ServiceId, WeightSplit};
use foreshadow_xds_server::gate::PATIENCE_TICKS;
use foreshadow_xds_server::input::Inputs;
use foreshadow_xds_server::resources::ResourceType;
use foreshadow_xds_server::stream::{Protocol, Request};
use proptest::prelude::*;

fn elsewhere(number: u8) -> Endpoint {
    Endpoint(SocketAddr::from(([10, 0, 1, number], 9_000)))
}

fn both() -> [Protocol; 2] {
    [Protocol::Delta, Protocol::StateOfTheWorld]
}

#[test]
fn a_route_is_published_only_after_every_node_has_the_clusters_it_names() {
    for protocol in both() {
        let scene = Scene::new("shop", 2);
        let mut fleet = Fleet::new(&scene.inputs());
        let (fast, _slow) = (fleet.connect(protocol), fleet.connect(protocol));
        fleet.settle();
        let before = fleet.gate.published().generation;
        let scene = scene.migrate(1, bp(100), false);
        fleet.set(&scene.inputs());
        while fleet.step(fast) {}
        assert_eq!(
            fleet.gate.published().generation,
            before,
            "the slow node is not ready"
        );
        assert_eq!(fleet.state(&scene), RoutingState::Pending);
        fleet.settle();
        assert_eq!(fleet.gate.published().generation, before + 1);
        assert_eq!(fleet.state(&scene), RoutingState::Applied);
    }
}

#[test]
fn temporary_clusters_stay_until_every_node_has_the_route_that_dropped_them() {
    for protocol in both() {
        let scene = Scene::new("shop", 2).migrate(1, WeightSplit::SHADOW, false);
        let mut fleet = Fleet::new(&scene.inputs());
        let (fast, slow) = (fleet.connect(protocol), fleet.connect(protocol));
        fleet.settle();
        let scene = scene.commit(1);
        fleet.set(&scene.inputs());
        while fleet.step(slow) {}
        while fleet.step(fast) {}
        assert!(
            fleet
                .gate
                .published()
                .clusters
                .contains_key("shop~shop-1~shadow")
        );
        fleet.settle();
        assert!(
            !fleet
                .gate
                .published()
                .clusters
                .contains_key("shop~shop-1~shadow")
        );
        assert_eq!(fleet.state(&scene), RoutingState::Applied);
        assert!(
            fleet
                .clients
                .iter()
                .all(|client| client.clusters() == ["shop"])
        );
    }
}

#[test]
fn a_node_that_goes_away_is_waited_for_until_it_is_taken_for_gone() {
    let scene = Scene::new("shop", 2);
    let mut fleet = Fleet::new(&scene.inputs());
    let (stays, goes) = (
        fleet.connect(Protocol::Delta),
        fleet.connect(Protocol::Delta),
    );
    fleet.settle();
    let node = fleet.clients[goes].node.clone();
    fleet.gate.disconnect(fleet.clients[goes].id);
    let scene = scene.migrate(1, bp(100), false);
    fleet.set(&scene.inputs());
    while fleet.step(stays) {}
    // It may still route by what it had: the node that stays has it all, and yet it is pending.
    assert_eq!(fleet.state(&scene), RoutingState::Pending);
    let report = fleet.gate.last_report(&scene.service.id).unwrap();
    assert_eq!(report.nodes[&node], NodeProgress::Away);
    assert!(
        fleet.clients[stays]
            .routes
            .iter()
            .any(|(name, _)| name.ends_with("~shadow"))
    );
    for _ in 0..PATIENCE_TICKS {
        assert_eq!(fleet.state(&scene), RoutingState::Pending);
        fleet.gate.tick();
        fleet.pump();
    }
    // What it replaces goes now, too.
    fleet.settle();
    assert_eq!(fleet.state(&scene), RoutingState::Applied);
    assert_eq!(fleet.gate.take_roster().get(&node), Some(&false));
}

#[test]
fn a_node_that_comes_back_finds_what_it_still_routes_to() {
    for (protocol, split) in both().into_iter().flat_map(|p| [(p, bp(100)), (p, bp(0))]) {
        // The shared cluster of an only instance is empty while that is split.
        let scene = Scene::new("shop", 1);
        let mut fleet = Fleet::new(&scene.inputs());
        let (client, _stays) = (fleet.connect(protocol), fleet.connect(protocol));
        fleet.settle();
        let id = fleet.clients[client].id;
        fleet.gate.disconnect(id);
        let scene = scene.migrate(1, split, true);
        fleet.set(&scene.inputs());
        fleet.settle();
        // At every message a client checks that it routes to nothing that it lacks.
        fleet.reconnect(client);
        fleet.settle();
        assert_eq!(fleet.state(&scene), RoutingState::Applied);
    }
}

#[test]
fn a_control_plane_that_begins_in_the_middle_of_a_split_takes_nothing_away_from_old_routes() {
    for protocol in both() {
        let scene = Scene::new("shop", 1);
        let mut fleet = Fleet::new(&scene.inputs());
        let client = fleet.connect(protocol);
        fleet.settle();
        let known = fleet.gate.take_roster();
        let scene = scene.migrate(1, bp(0), true);
        fleet.gate = foreshadow_xds_server::gate::Gate::default();
        for node in known.into_keys() {
            fleet.gate.expect(node);
        }
        fleet.set(&scene.inputs());
        fleet.reconnect(client);
        fleet.settle();
        assert_eq!(fleet.state(&scene), RoutingState::Applied);
    }
}

#[test]
fn a_node_that_comes_back_is_waited_for_until_it_has_the_routes() {
    for protocol in both() {
        let scene = Scene::new("shop", 2);
        let mut fleet = Fleet::new(&scene.inputs());
        let client = fleet.connect(protocol);
        fleet.settle();
        fleet.gate.disconnect(fleet.clients[client].id);
        let scene = scene.migrate(1, bp(100), false);
        fleet.set(&scene.inputs());
        fleet.pump();
        assert_eq!(fleet.state(&scene), RoutingState::Pending);
        fleet.reconnect(client);
        assert_eq!(fleet.state(&scene), RoutingState::Pending);
        fleet.settle();
        assert_eq!(fleet.state(&scene), RoutingState::Applied);
    }
}

#[test]
fn a_control_plane_that_has_just_started_waits_for_the_nodes_that_the_last_one_knew() {
    let scene = Scene::new("shop", 2);
    let mut fleet = Fleet::new(&scene.inputs());
    let client = fleet.connect(Protocol::Delta);
    fleet.settle();
    let known = fleet.gate.take_roster();
    assert_eq!(known.get(&fleet.clients[client].node), Some(&true));

    let scene = scene.migrate(1, WeightSplit::SHADOW, false);
    fleet.gate = foreshadow_xds_server::gate::Gate::default();
    for node in known.into_keys() {
        fleet.gate.expect(node);
    }
    fleet.set(&scene.inputs());
    fleet.pump();
    assert_eq!(fleet.state(&scene), RoutingState::Pending);
    fleet.reconnect(client);
    fleet.settle();
    assert_eq!(fleet.state(&scene), RoutingState::Applied);
}

/// Clients check at every step that they send nothing to an empty cluster.
#[test]
fn a_client_that_missed_a_split_keeps_its_endpoints_until_it_has_the_new_routes() {
    for protocol in both() {
        let scene = Scene::new("shop", 1);
        let mut fleet = Fleet::new(&scene.inputs());
        let client = fleet.connect(protocol);
        fleet.settle();
        // The only instance leaves the service's cluster while the client is away, and the
        // control plane is another when it comes back.
        fleet.clients[client].lose(&mut fleet.gate);
        let scene = scene.migrate(1, bp(100), false);
        fleet.gate = foreshadow_xds_server::gate::Gate::default();
        let node = fleet.clients[client].node.clone();
        fleet.gate.expect(node);
        fleet.set(&scene.inputs());
        fleet.pump();
        fleet.reconnect(client);
        fleet.settle();
        assert_eq!(fleet.state(&scene), RoutingState::Applied);
        assert_eq!(fleet.clients[client].endpoints["shop"], 0, "{protocol:?}");
    }
}

/// Clients check at every message that they route to nothing that they lack.
#[test]
fn a_client_that_missed_the_end_of_a_migration_keeps_its_clusters_until_it_has_the_new_routes() {
    for protocol in both() {
        for shadow in [0, 5_000, 10_000] {
            let scene = Scene::new("shop", 2).migrate(1, bp(shadow), false);
            let mut fleet = Fleet::new(&scene.inputs());
            let client = fleet.connect(protocol);
            fleet.settle();
            fleet.clients[client].lose(&mut fleet.gate);
            // It ends, and the control plane is another when the client is back.
            let scene = scene.commit(1);
            fleet.gate = foreshadow_xds_server::gate::Gate::default();
            let node = fleet.clients[client].node.clone();
            fleet.gate.expect(node);
            fleet.set(&scene.inputs());
            fleet.reconnect(client);
            fleet.settle();
            assert_eq!(fleet.state(&scene), RoutingState::Applied, "{protocol:?}");
            assert_eq!(fleet.clients[client].clusters(), ["shop"], "{protocol:?}");
        }
    }
}

fn three_nodes(scene: &Scene, protocol: Protocol) -> (Fleet, [usize; 3]) {
    let mut fleet = Fleet::new(&scene.inputs());
    let nodes = [0; 3].map(|_| fleet.connect(protocol));
    fleet.settle();
    (fleet, nodes)
}

/// How many clients have been sent the version.
fn reached(fleet: &Fleet, kind: ResourceType, version: &str) -> usize {
    let was_sent = |client: &&common::fleet::Client| {
        let mut seen = client.seen.iter();
        let waits = client.inbox.iter().filter(|response| response.kind == kind);
        let mut waiting = waits.flat_map(|response| &response.resources);
        seen.any(|(of, _, seen)| *of == kind && seen == version)
            || waiting.any(|resource| resource.version.to_string() == version)
    };
    fleet.clients.iter().filter(was_sent).count()
}

#[test]
fn what_is_new_goes_to_one_node_and_a_refusal_there_reaches_nobody_else_ever() {
    for protocol in both() {
        let good = Scene::new("shop", 2).migrate(1, bp(100), false);
        let (mut fleet, nodes) = three_nodes(&good, protocol);
        let bad = good.clone().migrate(1, bp(5_000), false);
        let version = foreshadow_xds_server::resources::build(&bad.inputs())
            .routes
            .version
            .to_string();
        for node in nodes {
            fleet.clients[node].refuses = Some((ResourceType::Route, version.clone()));
        }
        fleet.set(&bad.inputs());
        assert_eq!(reached(&fleet, ResourceType::Route, &version), 1);
        fleet.settle();
        assert_eq!(
            reached(&fleet, ResourceType::Route, &version),
            1,
            "{protocol:?}"
        );
        assert_eq!(fleet.state(&bad), RoutingState::Rejected);
        // One that starts afterwards gets the last good one.
        let late = fleet.connect(protocol);
        fleet.settle();
        assert_eq!(reached(&fleet, ResourceType::Route, &version), 1);
        assert_eq!(fleet.clients[late].routes, fleet.clients[nodes[0]].routes);
    }
}

#[test]
fn what_a_canary_acknowledges_goes_to_everybody_and_what_is_taken_back_does_so_at_once() {
    for protocol in both() {
        let scene = Scene::new("shop", 2).migrate(1, bp(100), false);
        let (mut fleet, _) = three_nodes(&scene, protocol);
        let up = scene.clone().migrate(1, bp(5_000), false);
        let version = |scene: &Scene| {
            let set = foreshadow_xds_server::resources::build(&scene.inputs());
            set.routes.version.to_string()
        };
        fleet.set(&up.inputs());
        assert_eq!(reached(&fleet, ResourceType::Route, &version(&up)), 1);
        fleet.settle();
        assert_eq!(reached(&fleet, ResourceType::Route, &version(&up)), 3);
        assert_eq!(fleet.state(&up), RoutingState::Applied);
        let down = up.migrate(1, bp(50), false);
        fleet.set(&down.inputs());
        assert_eq!(reached(&fleet, ResourceType::Route, &version(&down)), 3);
    }
}

#[test]
fn a_canary_that_does_not_answer_or_leaves_holds_up_nobody() {
    for leaves in [false, true] {
        let scene = Scene::new("shop", 2).migrate(1, bp(100), false);
        let (mut fleet, nodes) = three_nodes(&scene, Protocol::Delta);
        let up = scene.migrate(1, bp(5_000), false);
        let set = foreshadow_xds_server::resources::build(&up.inputs());
        let version = set.routes.version.to_string();
        fleet.set(&up.inputs());
        let waits = |node: &usize| !fleet.clients[*node].inbox.is_empty();
        let canary = nodes.into_iter().find(waits).unwrap();
        if leaves {
            fleet.clients[canary].lose(&mut fleet.gate);
            fleet.pump();
        }
        for _ in 0..10 {
            for node in nodes.into_iter().filter(|node| *node != canary) {
                while fleet.step(node) {}
            }
            fleet.gate.tick();
            fleet.pump();
        }
        let others = if leaves { 2 } else { 3 };
        assert_eq!(reached(&fleet, ResourceType::Route, &version), others);
    }
}

#[test]
fn what_a_data_plane_would_refuse_is_not_published_and_what_is_in_force_stays() {
    let good = Scene::new("shop", 1);
    let mut fleet = Fleet::new(&good.inputs());
    let client = fleet.connect(Protocol::Delta);
    fleet.settle();
    let before = fleet.gate.published().clone();
    let bad = good.clone().domain("two words");
    fleet.set(&bad.inputs());
    fleet.settle();
    assert_eq!(fleet.gate.published().routes, before.routes);
    let report = fleet.gate.last_report(&bad.service.id).unwrap();
    assert_eq!(report.state, RoutingState::Rejected);
    let reasons = format!("{:?}", report.nodes);
    assert!(reasons.contains("two words"), "{reasons}");
    let seen = fleet.clients[client].seen.len();
    let mended = good.domain("one.example.com");
    fleet.set(&mended.inputs());
    fleet.settle();
    assert!(fleet.clients[client].seen.len() > seen);
    assert_eq!(fleet.state(&mended), RoutingState::Applied);
}

#[test]
fn without_any_node_a_routing_is_applied_and_names_nobody() {
    let scene = Scene::new("shop", 2).migrate(1, bp(100), false);
    let mut fleet = Fleet::new(&scene.inputs());
    fleet.pump();
    let report = fleet.gate.last_report(&scene.service.id).unwrap();
    assert_eq!(
        (report.state, report.nodes.len()),
        (RoutingState::Applied, 0)
    );
}

#[test]
fn one_service_that_waits_holds_up_no_other() {
    let (a, b) = (Scene::new("a", 2), Scene::new("b", 2));
    let join = |a: &Scene, b: &Scene| {
        let mut inputs = a.inputs();
        inputs.extend(b.inputs());
        inputs
    };
    let mut fleet = Fleet::new(&join(&a, &b));
    let client = fleet.connect(Protocol::Delta);
    fleet.settle();
    // A weight of `b` needs no new cluster; the clusters of `a` are never acknowledged.
    let b = b.migrate(1, bp(100), false);
    fleet.set(&join(&a, &b));
    fleet.settle();
    let a = a.migrate(1, bp(100), false);
    let b = b.migrate(1, bp(200), false);
    fleet.set(&join(&a, &b));
    let held = fleet.clients[client]
        .inbox
        .iter()
        .position(|r| r.kind == ResourceType::Cluster);
    fleet.clients[client].inbox.remove(held.unwrap());
    fleet.settle();
    assert_eq!(fleet.state(&b), RoutingState::Applied);
    assert_eq!(fleet.state(&a), RoutingState::Pending);
}

/// A node refuses the route at 5000 basis points.
#[test]
fn a_refused_route_is_taken_back_everywhere_and_never_sent_again() {
    for protocol in both() {
        let good = Scene::new("shop", 2).migrate(1, bp(100), false);
        let mut fleet = Fleet::new(&good.inputs());
        let (refuses, accepts) = (fleet.connect(protocol), fleet.connect(protocol));
        fleet.settle();
        let before = fleet.gate.published().clone();
        let bad = good.clone().migrate(1, bp(5_000), false);
        let version = foreshadow_xds_server::resources::build(&bad.inputs())
            .routes
            .version;
        fleet.clients[refuses].refuses = Some((ResourceType::Route, version.to_string()));
        fleet.set(&bad.inputs());
        fleet.settle();
        // A second try of the same content under a new revision is refused without being sent.
        let mut again = bad.clone();
        again.routing.as_mut().unwrap().revision += 1;
        fleet.set(&again.inputs());
        fleet.settle();

        let report = fleet.gate.last_report(&bad.service.id).unwrap();
        assert_eq!(
            (report.revision, report.state),
            (again.revision(), RoutingState::Rejected)
        );
        let node = &report.nodes[&fleet.clients[refuses].node];
        let NodeProgress::Rejected {
            resource_type,
            reason,
        } = node
        else {
            panic!("{node:?}")
        };
        assert_eq!(
            (resource_type.as_str(), reason.as_str()),
            ("RDS", "foreshadow is bad")
        );
        assert_eq!(
            fleet.gate.published().routes,
            before.routes,
            "the last good one is in force"
        );
        assert_eq!(fleet.gate.published().clusters, before.clusters);
        let key = (
            ResourceType::Route,
            "foreshadow".to_owned(),
            version.to_string(),
        );
        let times = |client: usize| {
            fleet.clients[client]
                .seen
                .iter()
                .filter(|seen| **seen == key)
                .count()
        };
        assert_eq!((times(refuses), times(accepts) <= 1), (1, true));
        assert_eq!(fleet.clients[accepts].routes, fleet.clients[refuses].routes);

        // Another wish is tried again.
        let other = again.migrate(1, bp(200), false);
        fleet.set(&other.inputs());
        fleet.settle();
        assert_eq!(fleet.state(&other), RoutingState::Applied);
    }
}

#[test]
fn a_refusal_pins_the_service_at_fault_and_lets_the_others_go_on() {
    let (a, b) = (Scene::new("a", 2), Scene::new("b", 2));
    let join = |a: &Scene, b: &Scene| {
        let mut inputs = a.inputs();
        inputs.extend(b.inputs());
        inputs
    };
    let mut fleet = Fleet::new(&join(&a, &b));
    let client = fleet.connect(Protocol::Delta);
    fleet.settle();
    let bad = a.clone().migrate(1, bp(100), false);
    let wanted = join(&bad, &b);
    let shadow = foreshadow_xds_server::resources::build(&wanted);
    let version = shadow.clusters["a~a-1~shadow"].version.to_string();
    fleet.clients[client].refuses = Some((ResourceType::Cluster, version));
    fleet.set(&wanted);
    fleet.settle();
    assert_eq!(fleet.state(&bad), RoutingState::Rejected);
    let b = b.migrate(1, bp(300), false);
    fleet.set(&join(&bad, &b));
    fleet.settle();
    assert_eq!(fleet.state(&b), RoutingState::Applied);
    assert_eq!(fleet.state(&bad), RoutingState::Rejected);
    let report = fleet
        .gate
        .last_report(&ServiceId::new("a").unwrap())
        .unwrap();
    let progress = report.nodes.values().next().unwrap();
    assert!(
        matches!(progress, NodeProgress::Rejected { .. }),
        "{progress:?}"
    );
}

#[test]
fn a_node_that_refuses_what_was_in_force_takes_it_away_from_nobody() {
    let scene = Scene::new("shop", 1);
    let mut fleet = Fleet::new(&scene.inputs());
    fleet.pump();
    let odd = fleet.connect(Protocol::Delta);
    let version = fleet.gate.published().clusters["shop"].version.to_string();
    fleet.clients[odd].refuses = Some((ResourceType::Cluster, version));
    fleet.settle();
    assert_eq!(fleet.state(&scene), RoutingState::Rejected);
    assert!(fleet.gate.published().clusters.contains_key("shop"));
    let sent = fleet.clients[odd].seen.len();
    assert_eq!(sent, 1, "the refused version is not sent again");
}

#[test]
fn a_second_migration_of_an_instance_never_mixes_with_the_first() {
    let scene = Scene::new("shop", 1).migrate_to(1, elsewhere(1), WeightSplit::SHADOW, false);
    let mut fleet = Fleet::new(&scene.inputs());
    fleet.connect(Protocol::Delta);
    fleet.settle();
    // Committed and moved on at once, so that nobody sees the state between.
    let scene = scene
        .commit(1)
        .migrate_to(1, elsewhere(2), WeightSplit::ORIGINAL, false);
    fleet.set(&scene.inputs());
    fleet.settle();
    assert_eq!(fleet.state(&scene), RoutingState::Applied);
}

#[test]
fn a_rollback_restores_exactly_what_was_published_before() {
    for protocol in both() {
        let calm = Scene::new("shop", 3);
        let mut fleet = Fleet::new(&calm.inputs());
        fleet.connect(protocol);
        fleet.settle();
        let before = fleet.gate.published().clone();
        let mut scene = calm.migrate(1, bp(0), true);
        for shadow in [0, 100, 5_000, 0] {
            scene = scene.migrate(1, bp(shadow), false);
            fleet.set(&scene.inputs());
            fleet.settle();
        }
        let routing = scene.routing.as_mut().unwrap();
        (routing.revision, routing.migration) = (routing.revision + 1, None);
        fleet.set(&scene.inputs());
        fleet.settle();
        assert_eq!(fleet.state(&scene), RoutingState::Applied);
        let after = fleet.gate.published();
        assert_eq!(
            (&after.clusters, &after.endpoints, &after.routes),
            (&before.clusters, &before.endpoints, &before.routes)
        );
    }
}

#[test]
fn a_weight_that_falls_while_a_node_is_slow_reaches_the_others_at_once() {
    let scene = Scene::new("shop", 2).migrate(1, bp(100), false);
    let mut fleet = Fleet::new(&scene.inputs());
    let (fast, _slow) = (
        fleet.connect(Protocol::Delta),
        fleet.connect(Protocol::Delta),
    );
    fleet.settle();
    let scene = scene.migrate(1, bp(5_000), false);
    fleet.set(&scene.inputs());
    while fleet.step(fast) {}
    let scene = scene.migrate(1, bp(0), false);
    fleet.set(&scene.inputs());
    while fleet.step(fast) {}
    let shadow = |(name, weight): &(String, u32)| name.ends_with("~shadow") && *weight == 0;
    assert!(fleet.clients[fast].routes.iter().any(shadow));
    fleet.settle();
    assert_eq!(fleet.state(&scene), RoutingState::Applied);
}

#[test]
fn a_listener_that_a_node_refuses_is_shown_and_holds_up_no_routing() {
    let scene = Scene::new("shop", 1);
    let mut fleet = Fleet::new(&scene.inputs());
    let client = fleet.connect(Protocol::Delta);
    fleet.settle();
    let id = fleet.clients[client].id;
    let ask = |nonce: String, error: Option<String>| Request::Delta {
        subscribe: Vec::new(),
        unsubscribe: Vec::new(),
        initial: Vec::new(),
        nonce,
        error,
    };
    fleet
        .gate
        .request(id, ResourceType::Listener, ask(String::new(), None))
        .unwrap();
    fleet.gate.advance();
    let response = fleet.gate.next_response(id).unwrap();
    let refusal = ask(response.nonce, Some("address in use".to_owned()));
    fleet
        .gate
        .request(id, ResourceType::Listener, refusal)
        .unwrap();
    fleet.gate.advance();
    let report = fleet.gate.last_report(&scene.service.id).unwrap();
    assert_eq!(report.state, RoutingState::Applied);
    let progress = &report.nodes[&fleet.clients[client].node];
    assert!(
        matches!(progress, NodeProgress::Rejected { .. }),
        "{progress:?}"
    );
}

#[test]
fn a_deleted_service_leaves_nothing_behind() {
    let scene = Scene::new("shop", 1).migrate(1, bp(100), false);
    let mut fleet = Fleet::new(&scene.inputs());
    let client = fleet.connect(Protocol::Delta);
    fleet.settle();
    fleet.set(&Inputs::new());
    fleet.settle();
    assert!(fleet.clients[client].clusters().is_empty());
    assert_eq!(fleet.gate.take_reports()[&scene.service.id], None);
}

#[derive(Debug, Clone)]
enum Op {
    Weight(u32),
    Commit,
    Step(usize),
    Connect(bool),
    Reconnect(usize),
    Lose(usize),
    Leave(usize),
    /// The control plane ends and another begins.
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0_u32..=4).prop_map(|quarter| Op::Weight(quarter * 2_500)),
        2 => Just(Op::Commit),
        12 => (0_usize..4).prop_map(Op::Step),
        1 => any::<bool>().prop_map(Op::Connect),
        2 => (0_usize..4).prop_map(Op::Reconnect),
        1 => (0_usize..4).prop_map(Op::Lose),
        1 => (0_usize..4).prop_map(Op::Leave),
        1 => Just(Op::Restart),
    ]
}

/// Clients check at every message that they route to nothing that they lack.
fn play(count: u16, ops: Vec<Op>) {
    let mut scene = Scene::new("shop", count);
    let mut fleet = Fleet::new(&scene.inputs());
    let mut moves = 0_u8;
    let mut known = std::collections::BTreeSet::new();
    for op in ops {
        for (node, is_known) in fleet.gate.take_roster() {
            if is_known {
                known.insert(node);
            } else {
                known.remove(&node);
            }
        }
        match op {
            Op::Weight(shadow) => {
                let current = scene.routing.as_ref().and_then(|r| r.migration.as_ref());
                let target = current.map(|migration| migration.shadow);
                moves += u8::from(target.is_none());
                let target = target.unwrap_or_else(|| elsewhere(moves));
                scene = scene.migrate_to(1, target, bp(shadow), shadow == 0);
                fleet.set(&scene.inputs());
            }
            Op::Commit => {
                if scene
                    .routing
                    .as_ref()
                    .is_some_and(|r| r.migration.is_some())
                {
                    scene = scene.commit(1);
                    fleet.set(&scene.inputs());
                }
            }
            Op::Connect(delta) => {
                if fleet.clients.len() < 4 {
                    fleet.connect(both()[usize::from(!delta)]);
                }
            }
            Op::Step(index) if index < fleet.clients.len() => {
                fleet.step(index);
            }
            Op::Reconnect(index) if index < fleet.clients.len() => {
                fleet.reconnect(index);
            }
            // It goes on with what it has, while more is published.
            Op::Lose(index) if index < fleet.clients.len() => {
                fleet.clients[index].lose(&mut fleet.gate);
                fleet.pump();
            }
            Op::Leave(index) if index < fleet.clients.len() => {
                let client = fleet.clients.remove(index);
                fleet.gate.disconnect(client.id);
                fleet.pump();
            }
            Op::Restart => {
                let connected: Vec<usize> = (0..fleet.clients.len())
                    .filter(|index| !fleet.clients[*index].is_away)
                    .collect();
                for &index in &connected {
                    fleet.clients[index].lose(&mut fleet.gate);
                }
                fleet.gate = foreshadow_xds_server::gate::Gate::default();
                for node in &known {
                    fleet.gate.expect(node.clone());
                }
                fleet.set(&scene.inputs());
                for index in connected {
                    fleet.reconnect(index);
                }
            }
            Op::Step(_) | Op::Reconnect(_) | Op::Lose(_) | Op::Leave(_) => {}
        }
    }
    for index in 0..fleet.clients.len() {
        if fleet.clients[index].is_away {
            fleet.reconnect(index);
        }
    }
    fleet.settle();
    // A client that never had routes is not waited for to ask for them.
    for _ in 0..4 {
        fleet.gate.tick();
        fleet.pump();
        fleet.settle();
    }
    let left = fleet
        .gate
        .last_report(&scene.service.id)
        .unwrap()
        .nodes
        .len();
    assert_eq!(
        fleet.state(&scene) == RoutingState::Applied,
        left == fleet.clients.len()
    );
    for _ in 0..PATIENCE_TICKS {
        fleet.gate.tick();
    }
    fleet.pump();
    fleet.settle();
    assert_eq!(fleet.state(&scene), RoutingState::Applied);
    let clusters: Vec<String> = fleet
        .gate
        .published()
        .clusters
        .keys()
        .map(ToString::to_string)
        .collect();
    for client in &fleet.clients {
        assert_eq!(&client.clusters(), &clusters);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_client_routes_to_nothing_and_all_come_to_rest(
        count in 1_u16..4, ops in prop::collection::vec(op(), 1..120),
    ) {
        play(count, ops);
    }
}

/// What its routes name had come back under the same name, but for another node only.
#[test]
fn a_client_that_comes_back_keeps_clusters_whose_namesakes_are_held_for_a_canary() {
    use Op::{Commit, Connect, Lose, Restart, Step, Weight};
    play(
        1,
        vec![
            Connect(false),
            Weight(0),
            Connect(false),
            Restart,
            Connect(false),
            Step(2),
            Step(2),
            Step(2),
            Lose(2),
            Commit,
            Restart,
            Weight(0),
        ],
    );
}

/// It was taken for led over to the newest routes, as far as it might see them: newer ones were held
/// for a canary, and followed before it had asked for their clusters' endpoints.
#[test]
fn a_client_that_comes_back_while_newer_routes_are_held_is_led_over_to_these() {
    use Op::{Commit, Connect, Lose, Reconnect, Restart, Step, Weight};
    play(
        1,
        vec![
            Connect(false),
            Connect(false),
            Step(1),
            Weight(0),
            Connect(true),
            Step(2),
            Step(2),
            Commit,
            Step(2),
            Restart,
            Weight(0),
            Step(1),
            Lose(2),
            Reconnect(0),
            Step(0),
            Step(1),
            Step(0),
            Step(1),
            Step(1),
        ],
    );
}

/// It had the newest routes already, from before; those between were sent to it while the newest
/// were held for a canary, and their clusters were gone.
#[test]
fn a_client_that_has_the_newest_routes_already_is_not_sent_those_before() {
    use Op::{Commit, Connect, Lose, Restart, Step, Weight};
    play(
        1,
        vec![
            Connect(true),
            Connect(true),
            Connect(true),
            Step(2),
            Weight(0),
            Step(2),
            Connect(true),
            Step(1),
            Step(3),
            Step(1),
            Step(0),
            Step(1),
            Weight(0),
            Lose(1),
            Step(3),
            Step(3),
            Step(0),
            Step(2),
            Weight(0),
            Step(2),
            Step(0),
            Weight(0),
            Restart,
            Commit,
        ],
    );
}
