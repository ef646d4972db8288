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
        published.put(ResourceType::Cluster, resource(name, content));
        published.put(ResourceType::Endpoint, resource(name, 0));
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

fn world(names: &[&str], version: &str, nonce: &str) -> Request {
    Request::World {
        names: names.iter().map(ToString::to_string).collect(),
        version: version.to_owned(),
        nonce: nonce.to_owned(),
        error: None,
    }
}

fn world_stream() -> Stream {
    let node = NodeId::new("n").unwrap();
    Stream::new(node, Protocol::StateOfTheWorld, None)
}

#[test]
fn a_client_that_is_back_is_told_of_its_clusters_when_it_has_said_which_it_has() {
    let (mut stream, state) = (world_stream(), published(&[("a", 1)]));
    let old = Version::of(b"another time").to_string();
    let request = world(&[], &old, "");
    stream
        .request(ResourceType::Cluster, request, &state)
        .unwrap();
    assert_eq!(
        stream.next_response(&state),
        None,
        "it is about to say more"
    );
    let request = world(&["a", "a~1~shadow"], &old, "");
    stream
        .request(ResourceType::Endpoint, request, &state)
        .unwrap();
    let clusters = stream.next_response(&state).unwrap();
    assert_eq!(
        told(&clusters),
        ["a", "a~1~shadow"],
        "what it routes to stays"
    );
    let request = world(&[], "", &clusters.nonce);
    stream
        .request(ResourceType::Cluster, request, &state)
        .unwrap();
    let endpoints = stream.next_response(&state).unwrap();
    assert_eq!(told(&endpoints), ["a"]);
    let request = world(&["a", "a~1~shadow"], "", &endpoints.nonce);
    stream
        .request(ResourceType::Endpoint, request, &state)
        .unwrap();
    let routes_of = |nonce: &str| world(&[api::xds::ROUTE_CONFIG], &old, nonce);
    stream
        .request(ResourceType::Route, routes_of(""), &state)
        .unwrap();
    let routes = stream.next_response(&state).unwrap();
    assert_eq!(routes.kind, ResourceType::Route);
    assert_eq!(
        stream.next_response(&state),
        None,
        "the routes are not acknowledged"
    );
    stream
        .request(ResourceType::Route, routes_of(&routes.nonce), &state)
        .unwrap();
    let clusters = stream.next_response(&state).unwrap();
    assert_eq!(
        (clusters.kind, told(&clusters)),
        (ResourceType::Cluster, vec!["a"])
    );
}

#[test]
fn a_client_that_has_the_whole_already_is_not_sent_it_again() {
    let state = published(&[("a", 1), ("b", 1)]);
    let mut first = world_stream();
    first
        .request(ResourceType::Cluster, world(&[], "", ""), &state)
        .unwrap();
    let version = first.next_response(&state).unwrap().version.to_string();
    let mut back = world_stream();
    for (kind, names) in [
        (ResourceType::Cluster, &[][..]),
        (ResourceType::Endpoint, &["a"]),
    ] {
        back.request(kind, world(names, &version, ""), &state)
            .unwrap();
    }
    let kinds: Vec<ResourceType> = std::iter::from_fn(|| back.next_response(&state))
        .map(|response| response.kind)
        .collect();
    assert_eq!(kinds, [ResourceType::Endpoint]);
    let newer = published(&[("a", 2), ("b", 1)]);
    back.changed(ResourceType::Cluster, &Arc::from("a"));
    assert_eq!(told(&back.next_response(&newer).unwrap()), ["a", "b"]);
}

#[test]
fn what_has_a_time_to_live_is_said_again_in_time_and_without_a_body() {
    let state = published(&[("a", 1)]);
    let (stream, _) = settled();
    let mut stream = stream.with_ttl(Some(9));
    for _ in 0..2 {
        stream.tick();
        assert_eq!(stream.next_response(&state), None);
    }
    assert!(stream.tick());
    let beats: Vec<_> = std::iter::from_fn(|| stream.next_response(&state)).collect();
    let kinds: Vec<ResourceType> = beats.iter().map(|beat| beat.kind).collect();
    assert_eq!(kinds, [ResourceType::Cluster, ResourceType::Endpoint]);
    assert!(
        beats
            .iter()
            .all(|beat| beat.is_heartbeat && beat.ttl == Some(9))
    );
    assert_eq!(told(&beats[0]), ["a"]);
}

#[test]
fn a_client_of_many_resources_that_has_them_all_is_told_only_of_what_changes() {
    let many: Vec<String> = (0..200).map(|number| format!("c{number:03}")).collect();
    let content = |version: u8| {
        let all: Vec<(&str, u8)> = many
            .iter()
            .map(|name| (name.as_str(), if name == "c100" { version } else { 1 }))
            .collect();
        published(&all)
    };
    let (mut stream, state) = (stream(), content(1));
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    for (kind, names) in [
        (ResourceType::Cluster, &[][..]),
        (ResourceType::Endpoint, &names),
    ] {
        stream.request(kind, subscribe(names), &state).unwrap();
        let response = stream.next_response(&state).unwrap();
        assert_eq!(response.resources.len(), 200);
        stream
            .request(kind, answer(&response.nonce, &[], None), &state)
            .unwrap();
    }
    let state = content(2);
    assert!(stream.changed(ResourceType::Cluster, &Arc::from("c100")));
    let response = stream.next_response(&state).unwrap();
    assert_eq!(told(&response), ["c100"]);
    stream
        .request(
            ResourceType::Cluster,
            answer(&response.nonce, &[], None),
            &state,
        )
        .unwrap();
    assert_eq!(
        stream.acknowledged(ResourceType::Cluster, "c100"),
        Some(Version::of(&[2]))
    );
    assert_eq!(
        stream.acknowledged(ResourceType::Cluster, "c101"),
        Some(Version::of(&[1]))
    );
    // Its endpoints follow, once.
    let response = stream.next_response(&state).unwrap();
    assert_eq!(
        (response.kind, told(&response)),
        (ResourceType::Endpoint, vec!["c100"])
    );
    // What goes is taken away once, too.
    let mut gone = content(2);
    gone.take(ResourceType::Cluster, "c101");
    stream.changed(ResourceType::Cluster, &Arc::from("c101"));
    assert_eq!(&*stream.next_response(&gone).unwrap().removed[0], "c101");
}

#[test]
fn names_that_cannot_be_ones_end_the_stream_by_name() {
    let state = published(&[]);
    for bad in ["", "a\u{0}b", &"x".repeat(MAX_NAME + 1)] {
        for request in [subscribe(&[bad]), world(&[bad], "", "")] {
            let error = stream().request(ResourceType::Endpoint, request, &state);
            assert!(matches!(error, Err(LimitExceeded::Name { .. })), "{bad:?}");
        }
    }
}

#[test]
fn a_client_that_asks_for_more_under_the_nonce_that_it_has_acknowledged_gets_it() {
    let (mut stream, state) = (world_stream(), published(&[("a", 1), ("b", 1)]));
    let ask = |names: &[&str], nonce: &str| world(names, "", nonce);
    stream
        .request(ResourceType::Cluster, ask(&["a"], ""), &state)
        .unwrap();
    let first = stream.next_response(&state).unwrap();
    for names in [&["a"][..], &["a", "b"]] {
        stream
            .request(ResourceType::Cluster, ask(names, &first.nonce), &state)
            .unwrap();
    }
    let second = stream.next_response(&state).unwrap();
    assert_eq!(told(&second), ["a", "b"]);
    // One that is older than the newest response is stale.
    stream
        .request(ResourceType::Cluster, ask(&["a"], &first.nonce), &state)
        .unwrap();
    stream
        .request(
            ResourceType::Cluster,
            ask(&["a", "b"], &second.nonce),
            &state,
        )
        .unwrap();
    assert!(stream.follows(ResourceType::Cluster, "b"));
}

#[test]
fn who_asks_by_a_url_is_answered_by_it_and_counts_as_having_the_resource() {
    let (mut stream, state) = (stream(), published(&[("a", 1)]));
    let url = "xdstp://foreshadow/envoy.config.cluster.v3.Cluster/a";
    stream
        .request(ResourceType::Cluster, subscribe(&[url]), &state)
        .unwrap();
    let response = stream.next_response(&state).unwrap();
    assert_eq!(told(&response), [url]);
    let done = answer(&response.nonce, &[], None);
    stream.request(ResourceType::Cluster, done, &state).unwrap();
    assert!(stream.acknowledged(ResourceType::Cluster, "a").is_some());
    let newer = published(&[("a", 2)]);
    assert!(stream.changed(ResourceType::Cluster, &Arc::from("a")));
    assert_eq!(told(&stream.next_response(&newer).unwrap()), [url]);
    let plain = answer("", &["a"], None);
    stream
        .request(ResourceType::Cluster, plain, &newer)
        .unwrap();
    let response = stream.next_response(&newer).unwrap();
    assert_eq!(told(&response), ["a"], "it asked by the plain name last");
}
