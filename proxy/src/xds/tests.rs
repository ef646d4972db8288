//! The ledger: what is answered, and when.

use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use proptest::prelude::*;

use super::Ledger;
use super::fixtures::{cluster, endpoints, routes};
use crate::config::{Kind, Resources};

fn response(kind: Kind, nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.url().to_owned(),
        nonce: nonce.to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

/// "CDS ack 1", "RDS nack 2", "EDS +a -b".
fn shown(requests: &[DeltaDiscoveryRequest]) -> Vec<String> {
    requests
        .iter()
        .map(|request| {
            let mut text = api::xds::short_name(&request.type_url).to_owned();
            if !request.response_nonce.is_empty() {
                let answer = if request.error_detail.is_some() {
                    "nack"
                } else {
                    "ack"
                };
                text = format!("{text} {answer} {}", request.response_nonce);
            }
            for name in &request.resource_names_subscribe {
                text = format!("{text} +{name}");
            }
            for name in &request.resource_names_unsubscribe {
                text = format!("{text} -{name}");
            }
            text
        })
        .collect()
}

#[test]
fn routes_are_asked_for_when_the_first_clusters_are_warm() {
    let mut ledger = Ledger::default();
    assert_eq!(shown(&ledger.begin()), ["CDS +*"]);
    let step = ledger.response(response(Kind::Cluster, "1", vec![cluster("a")]), 0);
    assert_eq!(shown(&step.requests), ["EDS +a"]);
    let step = ledger.response(response(Kind::Endpoint, "2", vec![endpoints("a", 1)]), 0);
    assert_eq!(
        shown(&step.requests),
        ["EDS ack 2", "CDS ack 1", "RDS +foreshadow"]
    );
    let step = ledger.response(
        response(Kind::Route, "3", vec![routes("s", &[("a", 1)])]),
        0,
    );
    assert_eq!(shown(&step.requests), ["RDS ack 3"]);
    assert!(step.changed);
    assert_eq!(ledger.deadline_ms(), None);
}

#[test]
fn endpoints_that_never_come_are_waited_for_five_seconds() {
    let mut ledger = Ledger::default();
    ledger.begin();
    ledger.response(response(Kind::Cluster, "1", vec![cluster("a")]), 1_000);
    assert_eq!(ledger.deadline_ms(), Some(6_000));
    assert!(ledger.tick(5_999).requests.is_empty());
    assert_eq!(
        shown(&ledger.tick(6_000).requests),
        ["CDS ack 1", "RDS +foreshadow"]
    );
    ledger.response(
        response(Kind::Route, "2", vec![routes("s", &[("a", 1)])]),
        7_000,
    );
    assert_eq!(shown(&ledger.tick(12_000).requests), ["RDS ack 2"]);
}

#[test]
fn a_stream_that_broke_off_leaves_nothing_waiting_and_says_what_is_here() {
    let mut ledger = Ledger::default();
    ledger.begin();
    ledger.response(response(Kind::Cluster, "1", vec![cluster("a")]), 0);
    let first = ledger.begin();
    assert_eq!(shown(&first), ["CDS +*", "EDS +a", "RDS +foreshadow"]);
    assert_eq!(first[0].initial_resource_versions["a"], "1");
    assert!(first[1].initial_resource_versions.is_empty());
    assert_eq!(ledger.deadline_ms(), None);
}

#[test]
fn one_bad_resource_refuses_the_response_as_a_whole() {
    let mut ledger = Ledger::default();
    ledger.begin();
    let mut bad = cluster("b");
    bad.resource.as_mut().unwrap().value.push(0xff);
    let step = ledger.response(response(Kind::Cluster, "1", vec![cluster("a"), bad]), 0);
    assert_eq!(shown(&step.requests), ["CDS nack 1"]);
    assert!(!step.changed && ledger.resources().clusters.is_empty());
    let other = DeltaDiscoveryResponse {
        type_url: "x".into(),
        nonce: "2".into(),
        ..Default::default()
    };
    assert_eq!(shown(&ledger.response(other, 0).requests), ["xDS nack 2"]);
}

/// What a control plane that has lost its mind may say.
fn message() -> impl Strategy<Value = DeltaDiscoveryResponse> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let valid = (0..4_u8, name.clone(), name, 0_u32..3, 0_usize..3).prop_map(
        |(what, one, two, weight, count)| match what {
            0 => response(Kind::Cluster, "n", vec![cluster(one)]),
            1 => response(Kind::Endpoint, "n", vec![endpoints(one, count)]),
            2 => response(
                Kind::Route,
                "n",
                vec![routes("s", &[(one, weight), (two, 1)])],
            ),
            _ => DeltaDiscoveryResponse {
                removed_resources: vec![one.to_owned()],
                ..response(Kind::Cluster, "n", Vec::new())
            },
        },
    );
    (
        valid,
        any::<bool>(),
        any::<prop::sample::Index>(),
        any::<u8>(),
    )
        .prop_map(|(mut message, damaged, place, byte)| {
            if let Some(any) = message
                .resources
                .first_mut()
                .and_then(|r| r.resource.as_mut())
                && damaged
                && !any.value.is_empty()
            {
                let place = place.index(any.value.len());
                any.value[place] = byte;
            }
            message
        })
}

proptest! {
    #[test]
    fn whatever_is_said_the_routes_in_force_name_only_clusters_that_are_there(
        messages in prop::collection::vec(message(), 1..60),
    ) {
        let mut ledger = Ledger::default();
        ledger.begin();
        let registry = crate::telemetry::Registry::default();
        let mut table = crate::config::RoutingTable::default();
        for (now, message) in (0_u64..).step_by(700).zip(messages) {
            let kind = message.type_url.clone();
            let before = ledger.resources().routes.as_ref().map(|held| held.spec.clone());
            let step = ledger.response(message, now);
            let refused = step.refused.iter().any(|(_, refusal)| !refusal.reason.is_empty());
            prop_assert!(!(refused && step.requests.is_empty()));
            let resources = ledger.resources();
            if let Some(routes) = &resources.routes {
                for (name, _) in routes.spec.named() {
                    prop_assert!(resources.clusters.contains_key(name), "{} is missing", name);
                }
            }
            if kind != Kind::Route.url() && !step.changed {
                let after = resources.routes.as_ref().map(|held| held.spec.clone());
                prop_assert_eq!(before, after);
            }
            table = crate::config::RoutingTable::link(resources, &table, &registry);
            // What is kept can be read again, unless a cluster is only lingering.
            let kept = Resources::restore(resources.messages());
            prop_assert!(kept.is_ok(), "{:?}", kept.err());
        }
    }
}
