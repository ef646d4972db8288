//! Rules of the protocol that a client relies on.

use super::*;
use crate::resources::configuration;

fn resource(name: &str, content: u8) -> Arc<Resource> {
    let mut resource = configuration([]);
    resource.name = Arc::from(name);
    resource.version = Version::of(&[content]);
    Arc::new(resource)
}

fn published(clusters: &[(&str, u8)]) -> Published {
    let mut published = Published::default();
    for &(name, content) in clusters {
        published
            .clusters
            .insert(Arc::from(name), resource(name, content));
        published
            .endpoints
            .insert(Arc::from(name), resource(name, 0));
    }
    published
}

fn subscribe(names: &[&str]) -> Request {
    answer("", names, None)
}

fn answer(nonce: &str, names: &[&str], error: Option<&str>) -> Request {
    Request::Delta {
        subscribe: names.iter().map(ToString::to_string).collect(),
        unsubscribe: Vec::new(),
        initial: Vec::new(),
        nonce: nonce.to_owned(),
        error: error.map(ToOwned::to_owned),
    }
}

fn stream() -> Stream {
    Stream::new(NodeId::new("n").unwrap(), Protocol::Delta, None)
}

fn told(response: &Response) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| &*resource.name)
        .collect()
}

/// A stream that has cluster `a` and its endpoints.
fn settled() -> (Stream, Published) {
    let (mut stream, state) = (stream(), published(&[("a", 1)]));
    for (kind, names) in [
        (ResourceType::Cluster, &[][..]),
        (ResourceType::Endpoint, &["a"][..]),
    ] {
        stream.request(kind, subscribe(names), &state).unwrap();
        let response = stream.next_response(&state).unwrap();
        assert_eq!((response.kind, told(&response)), (kind, vec!["a"]));
        stream
            .request(kind, answer(&response.nonce, &[], None), &state)
            .unwrap();
    }
    assert_eq!(stream.next_response(&state), None);
    (stream, state)
}

#[test]
fn a_changed_cluster_is_followed_by_its_unchanged_endpoints() {
    let (mut stream, _) = settled();
    let state = published(&[("a", 2)]);
    stream.changed(ResourceType::Cluster, &Arc::from("a"));
    let kinds: Vec<ResourceType> = std::iter::from_fn(|| stream.next_response(&state))
        .map(|response| response.kind)
        .collect();
    assert_eq!(kinds, [ResourceType::Cluster, ResourceType::Endpoint]);
}

#[test]
fn a_slow_client_gets_the_newest_state_and_not_every_state_between() {
    let (mut stream, _) = settled();
    let mut nonce = String::new();
    for content in 2..9 {
        let state = published(&[("a", content)]);
        stream.changed(ResourceType::Cluster, &Arc::from("a"));
        while let Some(response) = stream.next_response(&state) {
            if response.kind == ResourceType::Cluster {
                assert_eq!(content, 2, "sent while the one before is not acknowledged");
                nonce = response.nonce;
            }
        }
    }
    let state = published(&[("a", 8)]);
    stream
        .request(ResourceType::Cluster, answer(&nonce, &[], None), &state)
        .unwrap();
    let response = stream.next_response(&state).unwrap();
    assert_eq!(response.resources[0].version, Version::of(&[8]));
}

#[test]
fn what_is_on_the_way_does_not_count_as_acknowledged() {
    let (mut stream, _) = settled();
    let name: Arc<str> = Arc::from("a");
    assert!(stream.acknowledged(ResourceType::Cluster, "a").is_some());
    // Gone and back again: the client will be without it for a moment.
    let without = published(&[]);
    stream.changed(ResourceType::Cluster, &name);
    assert_eq!(
        stream.next_response(&without).unwrap().removed,
        [Arc::clone(&name)]
    );
    let state = published(&[("a", 1)]);
    stream.changed(ResourceType::Cluster, &name);
    assert_eq!(stream.acknowledged(ResourceType::Cluster, "a"), None);
    assert!(stream.may_have(ResourceType::Cluster, "a"));
    assert!(!stream.is_ready_for("a", &state));
}

#[test]
fn the_answer_to_a_new_subscription_does_not_wait_for_an_acknowledgement() {
    let (mut stream, state) = (stream(), published(&[("a", 1), ("b", 1)]));
    for name in ["a", "b"] {
        stream
            .request(ResourceType::Endpoint, subscribe(&[name]), &state)
            .unwrap();
        assert_eq!(told(&stream.next_response(&state).unwrap()), [name]);
    }
}

#[test]
fn a_refused_version_is_not_sent_again_but_another_is() {
    let (mut stream, _) = settled();
    let name: Arc<str> = Arc::from("a");
    let bad = published(&[("a", 2)]);
    stream.changed(ResourceType::Cluster, &name);
    let response = stream.next_response(&bad).unwrap();
    let refusal = stream
        .request(
            ResourceType::Cluster,
            answer(&response.nonce, &[], Some("no")),
            &bad,
        )
        .unwrap()
        .unwrap();
    assert_eq!(refusal.items, [(Arc::clone(&name), Version::of(&[2]))]);
    let again = std::iter::from_fn(|| stream.next_response(&bad));
    assert!(
        again
            .into_iter()
            .all(|response| response.kind != ResourceType::Cluster)
    );
    assert_eq!(
        stream.refusal(ResourceType::Cluster, "a", Version::of(&[2])),
        Some("no")
    );
    stream.changed(ResourceType::Cluster, &name);
    let good = published(&[("a", 1)]);
    assert_eq!(told(&stream.next_response(&good).unwrap()), ["a"]);
}

#[test]
fn a_client_that_forgets_a_resource_it_still_covers_is_told_again() {
    let (mut stream, state) = settled();
    let request = Request::Delta {
        subscribe: Vec::new(),
        unsubscribe: vec!["a".to_owned()],
        initial: Vec::new(),
        nonce: String::new(),
        error: None,
    };
    stream
        .request(ResourceType::Cluster, request, &state)
        .unwrap();
    assert_eq!(told(&stream.next_response(&state).unwrap()), ["a"]);
}
