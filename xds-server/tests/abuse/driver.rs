//! Plays what hostile clients say, given as bytes, against the gate: what a fuzzer changes at random.
//!
//! A word is four bytes and a text: which of four clients, which type, what it does, a number, and as
//! many bytes as the number says, from which the names and nonces are cut. Everything is bounded by the
//! length of the input.

use std::collections::BTreeMap;

use domain::NodeId;
use foreshadow_xds_server::gate::{Gate, StreamId};
use foreshadow_xds_server::resources::ResourceType;
use foreshadow_xds_server::stream::{MAX_NAMES, Protocol, Request, Stream};
use proptest::prelude::*;

use crate::common::fleet::Fleet;
use crate::common::world::{Scene, bp};

/// Most responses that one word may bring about per client: clusters, endpoints, listeners, routes and
/// secrets, and what follows from them.
const MAX_RESPONSES: usize = 40;

/// Something that a client says.
#[derive(Debug, Clone)]
pub struct Word {
    pub client: u8,
    pub kind: u8,
    pub act: u8,
    pub text: Vec<u8>,
}

pub fn word() -> impl Strategy<Value = Word> {
    let texts = prop_oneof![
        Just(b"shop".to_vec()),
        Just(b"*".to_vec()),
        Just(b"shop,shop~shop-1~shadow,foreshadow".to_vec()),
        Just(b"1".to_vec()),
        Just(b"xdstp://foreshadow/envoy.config.cluster.v3.Cluster/shop".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    (any::<u8>(), any::<u8>(), any::<u8>(), texts).prop_map(|(client, kind, act, text)| Word {
        client,
        kind,
        act,
        text,
    })
}

pub fn encode(words: &[Word]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in words {
        let length = u8::try_from(word.text.len()).unwrap_or(u8::MAX);
        bytes.extend([word.client, word.kind, word.act, length]);
        bytes.extend(&word.text[..usize::from(length)]);
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Vec<Word> {
    let mut words = Vec::new();
    while let [client, kind, act, length, rest @ ..] = bytes {
        let (text, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        words.push(Word {
            client: *client,
            kind: *kind,
            act: *act,
            text: text.to_vec(),
        });
        bytes = rest;
    }
    words
}

struct Play {
    gate: Gate,
    next: u64,
    clients: BTreeMap<u8, StreamId>,
    /// The newest nonce by client and type.
    nonces: BTreeMap<(u8, ResourceType), String>,
}

impl Play {
    fn stream(&mut self, client: u8) -> StreamId {
        if let Some(id) = self.clients.get(&client) {
            return *id;
        }
        self.next += 1;
        let id = StreamId(self.next);
        // Two clients of one node, and two forms.
        let node = NodeId::new(format!("hostile-{}", client / 2)).unwrap();
        self.gate
            .connect(id, Stream::new(node, protocol(client), None));
        self.clients.insert(client, id);
        id
    }

    fn leave(&mut self, client: u8) {
        if let Some(id) = self.clients.remove(&client) {
            self.gate.disconnect(id);
            self.nonces.retain(|(of, _), _| *of != client);
        }
    }

    fn say(&mut self, word: &Word) {
        let client = word.client % 4;
        let kind = ResourceType::ALL[usize::from(word.kind) % 5];
        match word.act % 16 {
            0 => self.leave(client),
            1 => self.gate.tick(),
            _ => {
                let id = self.stream(client);
                let request = self.request(client, kind, word);
                if self.gate.request(id, kind, request).is_err() {
                    self.leave(client);
                }
            }
        }
        self.pump();
    }

    fn request(&self, client: u8, kind: ResourceType, word: &Word) -> Request {
        let text = String::from_utf8_lossy(&word.text).into_owned();
        let list: Vec<String> = text.split(',').map(ToOwned::to_owned).collect();
        let known = self
            .nonces
            .get(&(client, kind))
            .cloned()
            .unwrap_or_default();
        let act = word.act % 16;
        let nonce = match act {
            2..=8 => known,
            9..=11 => String::new(),
            _ => text.clone(),
        };
        let error = matches!(act, 4 | 5 | 13).then(|| text.clone());
        let names = if act.is_multiple_of(2) {
            list.clone()
        } else {
            Vec::new()
        };
        match protocol(client) {
            Protocol::StateOfTheWorld => Request::World {
                names,
                version: text,
                nonce,
                error,
            },
            Protocol::Delta => Request::Delta {
                subscribe: names,
                unsubscribe: if act == 3 { list.clone() } else { Vec::new() },
                initial: if act == 14 {
                    list.iter()
                        .map(|name| (name.clone(), text.clone()))
                        .collect()
                } else {
                    Vec::new()
                },
                nonce,
                error,
            },
        }
    }

    fn pump(&mut self) {
        self.gate.advance();
        let mut ready = self.gate.take_ready();
        for _ in 0..8 {
            for id in std::mem::take(&mut ready) {
                let mut count = 0;
                while let Some(response) = self.gate.next_response(id) {
                    count += 1;
                    assert!(count <= MAX_RESPONSES, "an endless answer: {response:?}");
                    let client = self.clients.iter().find(|(_, known)| **known == id);
                    if let Some((client, _)) = client {
                        self.nonces.insert((*client, response.kind), response.nonce);
                    }
                }
            }
            ready = self.gate.take_ready();
            if ready.is_empty() {
                return;
            }
        }
        panic!("the streams never come to rest");
    }
}

fn protocol(client: u8) -> Protocol {
    if client.is_multiple_of(2) {
        Protocol::Delta
    } else {
        Protocol::StateOfTheWorld
    }
}

/// Plays an input, then lets an honest client come, which must get all that there is.
pub fn run(bytes: &[u8]) {
    let scene = Scene::new("shop", 2).migrate(1, bp(100), false);
    let mut play = Play {
        gate: Gate::default(),
        next: 1_000,
        clients: BTreeMap::new(),
        nonces: BTreeMap::new(),
    };
    play.gate.set_inputs(&scene.inputs());
    for word in decode(bytes) {
        play.say(&word);
    }
    for id in play.clients.values() {
        let stream = play.gate.stream(*id).unwrap();
        for kind in ResourceType::ALL {
            let following = stream.following(kind, play.gate.published()).len();
            assert!(following <= MAX_NAMES + 10, "{following} names of {kind:?}");
        }
    }
    for client in 0..4 {
        play.leave(client);
    }
    // What they refused is theirs to miss.
    let mut fleet = Fleet {
        gate: play.gate,
        clients: Vec::new(),
        next: 1,
    };
    let honest = fleet.connect(Protocol::Delta);
    fleet.settle();
    for _ in 0..10 {
        fleet.gate.tick();
        fleet.pump();
        fleet.settle();
    }
    let client = &fleet.clients[honest];
    assert!(
        client.clusters().contains(&"shop".to_owned()),
        "{:?}",
        client.clusters()
    );
    let weights: u32 = client.routes.iter().map(|(_, weight)| weight).sum();
    assert_eq!(weights, 10_000, "{:?}", client.routes);
}

fn says(client: u8, kind: ResourceType, act: u8, text: &str) -> Word {
    Word {
        client,
        kind: u8::try_from(kind.index()).unwrap(),
        act,
        text: text.as_bytes().to_vec(),
    }
}

/// Inputs worth having: each does something that a reader of the protocol would think of.
pub fn by_hand() -> Vec<(&'static str, Vec<Word>)> {
    use ResourceType::{Cluster, Endpoint, Listener, Route, Secret};
    let asks = |client, kind, names: &str| says(client, kind, 10, names);
    let refuses = |client, kind| says(client, kind, 4, "shop is bad");
    let mut loops = vec![asks(0, Cluster, "*")];
    loops.extend((0..100).map(|_| refuses(0, Cluster)));
    let mut routes = vec![asks(1, Cluster, ""), asks(1, Route, "foreshadow")];
    routes.extend((0..50).map(|_| refuses(1, Route)));
    let mut churn = Vec::new();
    for client in (0..4).cycle().take(80) {
        churn.push(asks(client, Cluster, "*"));
        churn.push(says(client, Cluster, 0, ""));
    }
    let mut flips = vec![asks(0, Endpoint, "shop")];
    for _ in 0..50 {
        flips.push(says(0, Endpoint, 3, "shop"));
        flips.push(asks(0, Endpoint, "shop"));
    }
    let ticks = |count| (0..count).map(|_| says(0, Cluster, 1, ""));
    let mut ages = vec![asks(0, Cluster, "*"), says(0, Cluster, 0, "")];
    ages.extend(ticks(70));
    vec![
        ("nack-loop-delta", loops),
        ("nack-loop-world", routes),
        ("stream-churn", churn),
        ("subscribe-and-back", flips),
        ("away-and-forgotten", ages),
        (
            "nonce-never-given",
            vec![
                asks(1, Cluster, ""),
                says(1, Cluster, 12, "18446744073709551616"),
                says(1, Cluster, 12, "-1"),
                says(0, Route, 12, "99"),
                says(0, Route, 13, "7"),
            ],
        ),
        (
            "answer-before-any-question",
            vec![
                says(0, Listener, 5, ""),
                says(1, Listener, 5, ""),
                refuses(0, Secret),
            ],
        ),
        (
            "unsubscribe-what-was-never-asked-for",
            vec![says(0, Endpoint, 3, "a,b,*"), says(0, Cluster, 3, "*")],
        ),
        (
            "versions-without-sense",
            vec![
                says(0, Cluster, 14, "shop,gone,zzzzzzzzzzzzzzzz"),
                says(0, Route, 14, "foreshadow,ffffffffffffffff"),
                says(3, Cluster, 10, "0123456789abcdef"),
            ],
        ),
        (
            "two-streams-of-one-node-that-disagree",
            vec![
                asks(0, Cluster, "*"),
                asks(1, Cluster, ""),
                refuses(0, Cluster),
                says(1, Cluster, 3, ""),
                asks(1, Route, "foreshadow,foreshadow/shop"),
                refuses(1, Route),
            ],
        ),
        (
            "urls",
            vec![
                asks(
                    0,
                    Cluster,
                    "xdstp://foreshadow/envoy.config.cluster.v3.Cluster/shop",
                ),
                asks(0, Cluster, "xdstp://,xdstp://%,xdstp://a/b/c?d=e#f,shop"),
                says(
                    0,
                    Cluster,
                    3,
                    "xdstp://foreshadow/envoy.config.cluster.v3.Cluster/shop",
                ),
                asks(
                    1,
                    Cluster,
                    "xdstp:///envoy.config.cluster.v3.Cluster/shop,shop",
                ),
            ],
        ),
        (
            "stars-everywhere",
            vec![
                asks(0, Endpoint, "*"),
                asks(0, Route, "*"),
                asks(0, Secret, "*"),
                asks(1, Route, "*,foreshadow"),
                says(0, Route, 3, "*"),
            ],
        ),
        (
            "secrets-of-others",
            vec![
                asks(0, Secret, "shop,hostile-1,root.ca,hostile-0/key"),
                asks(1, Secret, "x"),
            ],
        ),
    ]
}
