//! Conformance to the discovery protocol: the scenarios in `features`, in four variants (state of the
//! world and delta, one stream for all types and one for each), against a server whose state is set
//! through the adapter.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests say what they expect by failing"
)]

mod adapter;
mod gherkin;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use adapter::{Call, Driver, Names, One};
use foreshadow_xds_server::resources::ResourceType;
use foreshadow_xds_server::{XdsConfig, XdsServer};
use gherkin::Scenario;
use store::{MemoryStore, SystemClock};
use wire::{Client, Got, Variant};

const FEATURES: [&str; 5] = [
    include_str!("features/subscribing.feature"),
    include_str!("features/changes.feature"),
    include_str!("features/unsubscribing.feature"),
    include_str!("features/answers.feature"),
    include_str!("features/returning.feature"),
];

/// What a scenario has come to.
struct World {
    variant: Variant,
    driver: Driver,
    server: SocketAddr,
    client: Client,
    last: Option<Got>,
    /// Bodies that the client has, by type and name.
    bodies: BTreeMap<(ResourceType, String), Vec<u8>>,
    /// Names whose body the last response changed.
    changed: BTreeSet<String>,
    nonces: Vec<String>,
    version: u32,
}

fn kind(word: &str) -> ResourceType {
    let known = ResourceType::ALL.into_iter();
    let mut named = known.filter(|kind| kind.short_name() == word);
    named
        .next()
        .unwrap_or_else(|| panic!("no such service: {word}"))
}

fn names(list: &str) -> Vec<String> {
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(ToOwned::to_owned).collect()
}

fn set(list: &str) -> BTreeSet<String> {
    names(list).into_iter().collect()
}

impl World {
    async fn new(variant: Variant) -> Self {
        let config = XdsConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..XdsConfig::default()
        };
        let store = Arc::new(MemoryStore::new());
        let control = XdsServer::start(config, store, Arc::new(SystemClock));
        let control = control.await.unwrap();
        let server = control.local_addr();
        let driver = Driver::connect(adapter::open(control).await).await;
        Self {
            variant,
            driver,
            server,
            client: Client::new(server, variant),
            last: None,
            bodies: BTreeMap::new(),
            changed: BTreeSet::new(),
            nonces: Vec::new(),
            version: 1,
        }
    }

    async fn set_state(&mut self, kind: ResourceType, list: &str) {
        let names = Names {
            type_url: kind.url().to_owned(),
            names: names(list),
        };
        let call = Call {
            names: Some(names),
            one: None,
            version: "1".to_owned(),
        };
        self.driver.call("SetState", call).await.unwrap();
    }

    async fn change(&mut self, method: &str, kind: ResourceType, name: &str) {
        self.version += 1;
        let one = One {
            type_url: kind.url().to_owned(),
            name: name.to_owned(),
            version: self.version.to_string(),
        };
        let call = Call {
            names: None,
            one: Some(one),
            version: String::new(),
        };
        self.driver.call(method, call).await.unwrap();
    }

    async fn next(&mut self, kind: ResourceType) -> Got {
        let got = self.client.next(kind).await;
        self.changed.clear();
        for (name, body) in &got.resources {
            if let Some(body) = body {
                let before = self.bodies.insert((kind, name.clone()), body.clone());
                if before.as_ref() != Some(body) {
                    self.changed.insert(name.clone());
                }
            }
        }
        self.nonces.push(got.nonce.clone());
        self.last = Some(got.clone());
        got
    }

    /// The state of the world is all that is wanted; delta only what is new.
    async fn is_sent(&mut self, kind: ResourceType, new: &str, all: &str) -> Got {
        let got = self.next(kind).await;
        let sent: BTreeSet<String> = got.resources.keys().cloned().collect();
        let expected = if self.variant.is_delta { new } else { all };
        assert_eq!(sent, set(expected), "{got:?}");
        got
    }

    async fn is_silent(&mut self, kind: ResourceType) {
        if let Err(got) = self.client.is_silent(kind).await {
            panic!("unexpected: {got:?}");
        }
    }

    async fn answer(&mut self, error: Option<&str>) {
        let last = self.last.clone().expect("a response to answer");
        self.client.answer(&last, error).await;
    }

    /// A change of subscription may be answered with what is left of it; what is not wanted any more
    /// must not be in there.
    async fn does_not_come(&mut self, kind: ResourceType, gone: &str, left: &str) {
        while let Err(got) = self.client.is_silent(kind).await {
            let sent: BTreeSet<String> = got.resources.keys().cloned().collect();
            assert!(sent.is_subset(&set(left)), "{gone} of {sent:?}");
            self.client.answer(&got, None).await;
        }
    }

    async fn step(&mut self, step: &str) {
        let quoted: Vec<&str> = step.split('"').skip(1).step_by(2).collect();
        let plain: String = step.split('"').step_by(2).collect::<Vec<_>>().join("\"");
        let words: Vec<&str> = plain
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .collect();
        let service = |before: &str| {
            let at = words.iter().position(|word| *word == before);
            kind(words[at.expect("a service") + 1])
        };
        let of = || service("of");
        match (
            plain.split(&[',', '"'][..]).next().unwrap().trim(),
            quoted.as_slice(),
        ) {
            ("the server has", [list]) => self.set_state(of(), list).await,
            ("the client wants a time to live of 3 seconds", []) => self.client.with_ttl(3),
            ("the client subscribes to", [list]) => {
                self.client.say(of(), &names(list), &[], (None, None)).await;
            }
            ("the client unsubscribes from", [list]) => {
                self.client.say(of(), &[], &names(list), (None, None)).await;
            }
            ("it answers under the nonce", [nonce]) => {
                self.client.say(of(), &[], &[], (Some(nonce), None)).await;
            }
            ("it is sent a heartbeat for", [name]) => {
                let got = self.is_sent(of(), name, name).await;
                assert!(got.resources.values().all(Option::is_none), "{got:?}");
            }
            ("it is sent", [list]) => {
                self.is_sent(of(), list, list).await;
            }
            ("it is sent", [new, all]) if plain.contains("out of") => {
                self.is_sent(of(), new, all).await;
            }
            ("it is sent", [list, absent]) if plain.contains("is not there") => {
                let got = self.is_sent(of(), list, list).await;
                let told = if self.variant.is_delta { absent } else { "" };
                assert_eq!(got.removed, set(told), "{got:?}");
            }
            ("it is told that", [gone, left]) => {
                let got = self.is_sent(of(), "", left).await;
                let told = if self.variant.is_delta { gone } else { "" };
                assert_eq!(got.removed, set(told), "{got:?}");
            }
            ("only", [list]) => assert_eq!(self.changed, set(list)),
            ("it lives for 3 seconds", []) => {
                assert_eq!(self.last.as_ref().and_then(|got| got.ttl), Some(3));
            }
            ("its nonce is new", []) => {
                let different: BTreeSet<&String> = self.nonces.iter().collect();
                assert_eq!(different.len(), self.nonces.len(), "{:?}", self.nonces);
            }
            ("it acknowledges" | "the client acknowledges", []) => self.answer(None).await,
            ("it refuses", []) => self.answer(Some("it is not liked")).await,
            ("the client is away", []) => self.client.reconnect(),
            ("the client begins anew", []) => {
                self.client = Client::new(self.server, self.variant);
                self.bodies.clear();
            }
            (words, []) if words.starts_with("the client subscribes to everything") => {
                self.client.say(of(), &[], &[], (None, None)).await;
            }
            (words, []) if words.starts_with("the client comes back") => {
                self.client.reconnect();
                self.client.say(of(), &[], &[], (None, None)).await;
            }
            (words, []) if words.starts_with("nothing more") => self.is_silent(of()).await,
            ("", [name]) if plain.ends_with("is added") => {
                self.change("AddResource", of(), name).await;
            }
            ("", [name]) if plain.ends_with("is updated") => {
                self.change("UpdateResource", of(), name).await;
            }
            ("", [name]) if plain.ends_with("is removed") => {
                self.change("RemoveResource", of(), name).await;
            }
            ("", [gone, left]) if plain.contains("does not come") => {
                self.does_not_come(of(), gone, left).await;
            }
            _ => panic!("no such step: {step}"),
        }
    }
}

fn fits(scenario: &Scenario, variant: Variant) -> bool {
    scenario.tags.iter().all(|tag| match tag.as_str() {
        "@delta" => variant.is_delta,
        "@world" => !variant.is_delta,
        "@aggregated" => variant.is_aggregated,
        tag => panic!("no such tag: {tag}"),
    })
}

/// Runs every scenario that fits the variant, and names those that fail.
async fn conforms(is_delta: bool, is_aggregated: bool) {
    let variant = Variant {
        is_delta,
        is_aggregated,
    };
    let scenarios: Vec<Scenario> = FEATURES.into_iter().flat_map(gherkin::read).collect();
    let mut running = tokio::task::JoinSet::new();
    for scenario in scenarios
        .into_iter()
        .filter(|scenario| fits(scenario, variant))
    {
        running.spawn(async move {
            let steps = scenario.steps.clone();
            let run = tokio::spawn(async move {
                let mut world = World::new(variant).await;
                for step in &steps {
                    world.step(step).await;
                }
            });
            let failed = run.await.is_err();
            failed.then(|| format!("{}: {}", scenario.feature, scenario.name))
        });
    }
    let all = running.join_all().await;
    let count = all.len();
    let failed: Vec<String> = all.into_iter().flatten().collect();
    assert!(count >= 60, "only {count} scenarios");
    assert!(
        failed.is_empty(),
        "{} of {count} failed: {failed:#?}",
        failed.len()
    );
    println!("{count} scenarios hold: delta {is_delta}, aggregated {is_aggregated}");
}

#[tokio::test]
async fn the_scenarios_hold_in_the_state_of_the_world_on_one_stream() {
    conforms(false, true).await;
}

#[tokio::test]
async fn the_scenarios_hold_in_the_state_of_the_world_with_a_stream_per_type() {
    conforms(false, false).await;
}

#[tokio::test]
async fn the_scenarios_hold_in_delta_on_one_stream() {
    conforms(true, true).await;
}

#[tokio::test]
async fn the_scenarios_hold_in_delta_with_a_stream_per_type() {
    conforms(true, false).await;
}
