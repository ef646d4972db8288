use std::collections::BTreeMap;

use domain::forecast::InstanceForecast;
use domain::{
    Capacity, ConsistencyClass, Endpoint, Forecast, HorizonForecast, Host, InstanceId,
    InstanceSpec, InstanceState, Isolation, ModelRef, Priority, QuantileCurve, Replica, ServiceId,
    Timestamp,
};

use super::*;

/// Millicores of every host; 80 % of them may be used.
const CAPACITY: f64 = 1_000.0;

fn host(name: &str) -> Host {
    Host {
        id: HostId::new(name).unwrap(),
        capacity: Capacity {
            cpu: Some(CAPACITY),
            memory: Some(1e9),
            ..Capacity::default()
        },
        cpus: Vec::new(),
        labels: BTreeMap::new(),
        isolation: None,
    }
}

fn instance(name: &str, on: &str) -> Instance {
    Instance {
        spec: InstanceSpec {
            id: InstanceId::new(name).unwrap(),
            service: ServiceId::new("shop").unwrap(),
            argv: vec!["server".to_owned()],
            env: BTreeMap::new(),
            health_path: "/healthz".to_owned(),
            hooks: domain::Hooks::default(),
            class: ConsistencyClass::Stateless,
            priority: Priority::Normal,
            anti_affinity: Vec::new(),
            memory_bytes: 1_000,
            movable: true,
            placement: domain::Placement::default(),
        },
        replica: Replica {
            host: HostId::new(on).unwrap(),
            endpoint: Endpoint(([127, 0, 0, 1], 1).into()),
            handle: String::new(),
            tag: name.to_owned(),
        },
        state: InstanceState::Running,
        placed_at: Timestamp(0),
    }
}

/// A forecast that is sure of one value at every horizon.
fn forecast(name: &str, millicores: f64) -> InstanceForecast {
    let instance = InstanceId::new(name).unwrap();
    let horizon = |ahead_ms| HorizonForecast {
        ahead_ms,
        demand: QuantileCurve::certain(millicores).unwrap(),
    };
    InstanceForecast {
        instance: instance.clone(),
        forecasts: vec![Forecast {
            instance,
            resource: Resource::Cpu,
            issued_at: Timestamp(1_000_000),
            data_age_ms: 0,
            samples: 2_016,
            cold_start: false,
            model: ModelRef {
                id: "test".to_owned(),
                version: "1".to_owned(),
                fallback: None,
            },
            last: Some(millicores),
            horizons: vec![horizon(60_000), horizon(3_600_000)],
        }],
    }
}

/// Hosts `a`, `b`, `c`; instances as (name, host, forecast millicores).
fn world(instances: &[(&str, &str, f64)]) -> World {
    let mut world = World {
        at: Timestamp(1_000_000),
        ..World::default()
    };
    for name in ["a", "b", "c"] {
        world.hosts.insert(HostId::new(name).unwrap(), host(name));
    }
    for &(name, on, millicores) in instances {
        let instance = instance(name, on);
        let id = instance.spec.id.clone();
        world
            .forecasts
            .insert(id.clone(), forecast(name, millicores));
        world.instances.insert(id, instance);
    }
    world
}

fn edit(world: &mut World, name: &str, change: impl FnOnce(&mut Instance)) {
    let id = InstanceId::new(name).unwrap();
    change(world.instances.get_mut(&id).unwrap());
}

fn settings() -> Settings {
    Settings {
        confirm_ticks: 1,
        of_ticks: 1,
        ..Settings::default()
    }
}

fn decided(world: &World) -> Decision {
    decide(world, &settings(), &mut Memory::default())
}

/// The move as "instance to host", or "nothing".
fn chosen(decision: &Decision) -> String {
    decision.moves.first().map_or("nothing".to_owned(), |best| {
        format!("{} to {}", best.instance, best.target)
    })
}

fn reason(decision: &Decision, name: &str, target: Option<&str>) -> String {
    decision
        .alternatives
        .iter()
        .find(|other| {
            other.instance.as_str() == name && other.target.as_ref().map(HostId::as_str) == target
        })
        .unwrap_or_else(|| panic!("{name} to {target:?} was not looked at: {decision:#?}"))
        .reason
        .clone()
}

#[test]
fn a_move_that_relieves_goes_before_a_better_scored_one_that_does_not() {
    // 950 of 800: only without `big` is the host below its limit, whatever priorities say.
    let mut world = world(&[
        ("big", "a", 400.0),
        ("cheap", "a", 100.0),
        ("other", "a", 450.0),
    ]);
    edit(&mut world, "cheap", |i| i.spec.priority = Priority::Low);
    edit(&mut world, "big", |i| i.spec.priority = Priority::High);
    edit(&mut world, "other", |i| i.spec.movable = false);
    let decision = decided(&world);
    assert_eq!(chosen(&decision), "big to b");
    let why = reason(&decision, "cheap", Some("b"));
    assert!(why.contains("would not be enough"), "{why}");
    assert!(decision.moves[0].reasons[0].contains("it is enough"));
}

#[test]
fn among_moves_that_relieve_the_low_priority_one_goes() {
    let mut world = world(&[("x", "a", 450.0), ("y", "a", 450.0)]);
    edit(&mut world, "y", |i| i.spec.priority = Priority::Low);
    let decision = decided(&world);
    assert_eq!(chosen(&decision), "y to b");
    assert!(reason(&decision, "x", Some("b")).contains("a better one"));
}

/// `x` costs less to move; that does not make up for the demand of `y`, which rises.
#[test]
fn a_move_that_is_a_little_cheaper_does_not_replace_a_better_scored_one() {
    let mut world = world(&[("x", "a", 450.0), ("y", "a", 450.0)]);
    edit(&mut world, "y", |i| i.spec.memory_bytes = 500_000_000);
    let y = InstanceId::new("y").unwrap();
    let rising = &mut world.forecasts.get_mut(&y).unwrap().forecasts[0];
    rising.last = Some(200.0);
    rising.horizons[0].demand = QuantileCurve::certain(200.0).unwrap();
    let decision = decided(&world);
    assert_eq!(chosen(&decision), "y to b");
    let why = reason(&decision, "x", Some("b"));
    assert!(why.contains("a better one scores"), "{why}");
    let mut others = decision.alternatives.iter();
    let target = &decision.moves[0].target;
    assert!(
        !others.any(|one| one.instance == y && one.target.as_ref() == Some(target)),
        "what is chosen is not passed over: {decision:#?}"
    );
}

#[test]
fn a_target_that_would_be_in_contention_itself_is_left_out() {
    let world = world(&[
        ("x", "a", 450.0),
        ("y", "a", 450.0),
        ("full", "b", 600.0),
        ("free", "c", 100.0),
    ]);
    let decision = decided(&world);
    assert_eq!(chosen(&decision), "x to c");
    assert!(reason(&decision, "x", Some("b")).contains("in contention itself"));
}

#[test]
fn isolated_hosts_and_hosts_of_an_enemy_are_left_out() {
    let mut world = world(&[("x", "a", 900.0), ("enemy", "b", 1.0)]);
    edit(&mut world, "enemy", |i| {
        i.spec.anti_affinity = vec![InstanceId::new("x").unwrap()];
    });
    let c = HostId::new("c").unwrap();
    world.hosts.get_mut(&c).unwrap().isolation = Some(Isolation {
        reason: "kernel update".to_owned(),
        owner: "ops".to_owned(),
        since: Timestamp(0),
    });
    let decision = decided(&world);
    assert_eq!(chosen(&decision), "nothing");
    assert!(reason(&decision, "x", Some("b")).contains("anti-affinity with enemy"));
    assert!(reason(&decision, "x", Some("c")).contains("kernel update"));
    assert!(decision.summary.contains("nothing can be moved"));
}

#[test]
fn single_writers_fixed_and_lately_moved_instances_stay_with_their_reason() {
    let mut world = world(&[
        ("fixed", "a", 300.0),
        ("recent", "a", 300.0),
        ("writer", "a", 300.0),
        ("sessions", "a", 10.0),
    ]);
    edit(&mut world, "fixed", |i| i.spec.movable = false);
    edit(&mut world, "recent", |i| i.placed_at = Timestamp(900_000));
    edit(&mut world, "writer", |i| {
        i.spec.class = ConsistencyClass::SingleWriter;
    });
    edit(&mut world, "sessions", |i| {
        i.spec.class = ConsistencyClass::Sessions;
    });
    let decision = decided(&world);
    assert_eq!(chosen(&decision), "nothing");
    assert!(reason(&decision, "fixed", None).contains("not movable"));
    assert!(reason(&decision, "recent", None).contains("cool-down"));
    assert!(reason(&decision, "writer", None).contains("hooks.writer"));
    assert!(reason(&decision, "sessions", None).contains("S2"));
    edit(&mut world, "writer", |i| {
        i.spec.hooks.writer = Some("/writer".to_owned());
    });
    assert_eq!(chosen(&decided(&world)), "writer to b");
}

#[test]
fn what_was_just_rolled_back_is_not_tried_again_at_once() {
    let mut world = world(&[("x", "a", 450.0), ("y", "a", 450.0)]);
    edit(&mut world, "y", |i| i.spec.movable = false);
    let x = InstanceId::new("x").unwrap();
    world.rolled_back.insert(x, Timestamp(900_000));
    let decision = decided(&world);
    assert_eq!(chosen(&decision), "nothing");
    assert!(reason(&decision, "x", None).contains("rolled back 100000 ms ago"));
    world.at = Timestamp(900_000 + Settings::default().retry_ms);
    assert_eq!(chosen(&decided(&world)), "x to b");
}

#[test]
fn an_operator_may_move_what_rests_but_nothing_to_where_it_cannot_be() {
    let mut world = world(&[("x", "a", 300.0), ("full", "c", 700.0)]);
    edit(&mut world, "x", |i| i.placed_at = Timestamp(999_999));
    let ask = |world: &World, instance: &str, target: &str| {
        let (instance, target) = (InstanceId::new(instance), HostId::new(target));
        requested(world, &settings(), &instance.unwrap(), &target.unwrap())
    };
    assert_eq!(chosen(&ask(&world, "x", "b").unwrap()), "x to b");
    for (instance, target, words) in [
        ("nobody", "b", "instance nobody is unknown"),
        ("x", "nowhere", "host nowhere is unknown"),
        ("x", "a", "is on host a already"),
        ("x", "c", "in contention itself"),
    ] {
        let error = ask(&world, instance, target).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    edit(&mut world, "x", |i| i.spec.movable = false);
    let error = ask(&world, "x", "b").unwrap_err();
    assert!(error.contains("not movable"), "{error}");
}

#[test]
fn no_contention_no_move_and_it_says_so() {
    let decision = decided(&world(&[("x", "a", 700.0)]));
    assert_eq!(chosen(&decision), "nothing");
    assert!(decision.summary.contains("no contention in sight"));
}

#[test]
fn the_same_world_gives_the_same_decision() {
    let world = world(&[
        ("x", "a", 450.0),
        ("y", "a", 450.0),
        ("z", "b", 450.0),
        ("w", "b", 450.0),
    ]);
    assert_eq!(decided(&world), decided(&world));
}

mod worlds {
    //! Whole worlds, over time.

    use proptest::prelude::*;

    use super::*;
    use crate::explain::Evidence;
    use crate::pool::isolation::{Claim, Claims};

    /// Carries a decision out: everything has arrived.
    fn carry_out(world: &mut World, decision: &Decision) {
        for intent in &decision.moves {
            let at = world.at;
            let instance = world.instances.get_mut(&intent.instance).unwrap();
            assert_eq!(instance.replica.host, intent.from);
            instance.replica.host = intent.target.clone();
            instance.placed_at = at;
            world
                .left
                .entry(intent.instance.clone())
                .or_default()
                .push(crate::world::Left {
                    host: intent.from.clone(),
                    at,
                });
        }
    }

    fn drain(world: &mut World, name: &str) {
        let host = HostId::new(name).unwrap();
        let mut claims = Claims::none(host.clone());
        let claim = Claim {
            reason: "kernel update".to_owned(),
            since: world.at,
            until: None,
            drain: true,
        };
        claims.claim("ops", claim).unwrap();
        world.claims.insert(host, claims);
    }

    #[test]
    fn a_host_is_emptied_aborted_at_any_moment_and_emptied_again() {
        let names: Vec<String> = (0..30).map(|i| format!("i{i:02}")).collect();
        let placed: Vec<(&str, &str, f64)> = names
            .iter()
            .map(|name| (name.as_str(), "a", 10.0))
            .collect();
        for aborted_after in 0..15 {
            let mut world = world(&placed);
            let mut memory = Memory::default();
            let settings = Settings {
                max_migrations: 4,
                ..settings()
            };
            drain(&mut world, "a");
            let mut left = Vec::new();
            for tick in 0..40 {
                if tick == aborted_after {
                    let host = HostId::new("a").unwrap();
                    let claims = world.claims.get_mut(&host).unwrap();
                    assert!(claims.abort_drain("ops").unwrap());
                    let decision = decide(&world, &settings, &mut memory);
                    assert_eq!(chosen(&decision), "nothing", "aborted");
                    drain(&mut world, "a");
                }
                let decision = decide(&world, &settings, &mut memory);
                assert!(decision.moves.len() <= 2, "two to or from one host");
                carry_out(&mut world, &decision);
                world.at = world.at.plus(1_000);
                for forecast in world.forecasts.values_mut() {
                    forecast.forecasts[0].issued_at = world.at;
                }
                left.push(world.on_host(&HostId::new("a").unwrap()).count());
            }
            assert_eq!(left.last(), Some(&0), "{left:?}");
            assert!(left.windows(2).all(|pair| pair[1] <= pair[0]));
        }
    }

    #[test]
    fn a_forecaster_that_cries_for_everyone_moves_no_more_than_is_allowed_and_nothing_twice() {
        let names: Vec<String> = (0..12).map(|i| format!("i{i:02}")).collect();
        let hosts = ["a", "b", "c"];
        let placed: Vec<(&str, &str, f64)> = names
            .iter()
            .enumerate()
            .map(|(i, name)| (name.as_str(), hosts[i % 3], 900.0))
            .collect();
        let mut world = world(&placed);
        let (mut memory, settings) = (Memory::default(), settings());
        let mut moved: BTreeMap<InstanceId, u32> = BTreeMap::new();
        for _ in 0..50 {
            let decision = decide(&world, &settings, &mut memory);
            assert_eq!(decision.contention.len(), 3);
            assert!(decision.moves.len() <= settings.max_migrations);
            for intent in &decision.moves {
                *moved.entry(intent.instance.clone()).or_insert(0) += 1;
            }
            carry_out(&mut world, &decision);
            world.at = world.at.plus(60_000);
            for forecast in world.forecasts.values_mut() {
                forecast.forecasts[0].issued_at = world.at;
            }
        }
        assert!(moved.values().all(|&times| times <= 1), "{moved:?}");
        assert!(moved.is_empty(), "moving would help nobody: {moved:?}");
    }

    #[test]
    fn constraints_that_leave_no_host_are_named_with_how_many_they_exclude() {
        let mut world = world(&[("x", "a", 900.0)]);
        edit(&mut world, "x", |i| {
            i.spec
                .placement
                .require
                .insert("cpu-model".to_owned(), "zen5".to_owned());
        });
        let decision = decided(&world);
        assert_eq!(chosen(&decision), "nothing");
        assert!(
            decision.summary.contains("labels excludes 2"),
            "{}",
            decision.summary
        );
        let why = reason(&decision, "x", Some("b"));
        assert!(
            why.contains("label cpu-model is none; required is zen5"),
            "{why}"
        );
    }

    #[test]
    fn a_host_that_reports_no_capacity_takes_nothing_and_says_why() {
        let mut world = world(&[("x", "a", 450.0), ("y", "a", 450.0)]);
        for (name, capacity) in [("b", 0.0), ("c", -5.0)] {
            let host = world.hosts.get_mut(&HostId::new(name).unwrap()).unwrap();
            host.capacity.cpu = Some(capacity);
        }
        let decision = decided(&world);
        assert_eq!(chosen(&decision), "nothing");
        assert!(reason(&decision, "x", Some("c")).contains("reports -5"));
    }

    #[test]
    fn forecasts_from_the_future_and_those_that_are_all_past_are_not_believed() {
        for issued_at in [Timestamp(9_000_000_000), Timestamp(0)] {
            let mut world = world(&[("x", "a", 450.0), ("y", "a", 450.0)]);
            world.at = Timestamp(8_000_000_000);
            for forecast in world.forecasts.values_mut() {
                forecast.forecasts[0].issued_at = issued_at;
            }
            assert!(decided(&world).contention.is_empty());
        }
    }

    #[test]
    fn a_service_is_not_crowded_into_one_failure_domain() {
        let mut world = world(&[("x", "a", 450.0), ("y", "a", 450.0), ("z", "b", 1.0)]);
        for (name, zone) in [("a", "1"), ("b", "2"), ("c", "3")] {
            let host = world.hosts.get_mut(&HostId::new(name).unwrap()).unwrap();
            host.labels.insert("zone".to_owned(), zone.to_owned());
        }
        for name in ["x", "y"] {
            edit(&mut world, name, |i| {
                i.spec.placement.spread_label = Some("zone".to_owned());
                i.spec.placement.spread_most = 1;
            });
        }
        let decision = decided(&world);
        assert_eq!(chosen(&decision), "x to c");
        assert!(reason(&decision, "y", Some("b")).contains("zone 2 would hold 2"));
    }

    #[test]
    fn an_instance_does_not_go_back_to_where_it_just_was() {
        let mut world = world(&[("x", "a", 450.0), ("y", "a", 450.0), ("z", "c", 700.0)]);
        edit(&mut world, "y", |i| i.spec.movable = false);
        let before = decided(&world);
        assert_eq!(chosen(&before), "x to b");
        let left = crate::world::Left {
            host: HostId::new("b").unwrap(),
            at: Timestamp(999_000),
        };
        world.left.insert(InstanceId::new("x").unwrap(), vec![left]);
        // The benefit here is all of the window, far above twice the cost: it may return.
        assert_eq!(chosen(&decided(&world)), "x to b");
        let dear = Settings {
            planning: crate::settings::Planning {
                price: 0.45,
                ..crate::settings::Planning::default()
            },
            ..settings()
        };
        let decision = decide(&world, &dear, &mut Memory::default());
        assert_eq!(chosen(&decision), "nothing");
        assert!(reason(&decision, "x", Some("b")).contains("left this host"));
    }

    #[test]
    fn where_no_single_move_fits_two_together_do() {
        // On a 900 of 800; b and c have room for 150 each, and every instance of a is larger than
        // that but for two that only together are enough.
        let mut world = world(&[
            ("big", "a", 660.0),
            ("m", "a", 120.0),
            ("n", "a", 120.0),
            ("p", "b", 660.0),
            ("q", "c", 660.0),
        ]);
        edit(&mut world, "big", |i| i.spec.movable = false);
        let settings = Settings {
            max_migrations: 2,
            ..settings()
        };
        let decision = decide(&world, &settings, &mut Memory::default());
        // 660 + 120 + 120 = 900; without one of them 780: one is enough.
        assert_eq!(decision.moves.len(), 1);
        edit(&mut world, "m", |i| i.spec.priority = Priority::Low);
        for (name, millicores) in [("m", 70.0), ("n", 80.0), ("big", 780.0)] {
            let id = InstanceId::new(name).unwrap();
            world.forecasts.insert(id, forecast(name, millicores));
        }
        let decision = decide(&world, &settings, &mut Memory::default());
        assert_eq!(decision.moves.len(), 2, "{decision:#?}");
    }

    #[test]
    fn what_was_decided_is_decided_again_from_its_evidence_after_being_stored() {
        let mut world = world(&[("x", "a", 450.0), ("y", "a", 450.0), ("z", "b", 450.0)]);
        let mut memory = Memory::default();
        for tick in 0..5 {
            world.at = world.at.plus(1_000 * tick);
            let evidence = Evidence::of(&world, &settings(), &mut memory);
            let stored = serde_json::to_string(&evidence).unwrap();
            let back: Evidence = serde_saphyr::from_str(&stored).unwrap();
            assert_eq!(back, evidence);
            assert!(back.agrees());
            carry_out(&mut world, &evidence.decision);
        }
    }

    #[derive(Debug, Clone)]
    struct Drawn {
        host: usize,
        millicores: f64,
        memory: u64,
        apart: Option<usize>,
        zone: Option<bool>,
        movable: bool,
    }

    fn drawn() -> impl Strategy<Value = Drawn> {
        (
            0_usize..3,
            1.0..600.0_f64,
            1_u64..400_000_000,
            prop::option::of(0_usize..12),
            prop::option::of(any::<bool>()),
            prop::bool::weighted(0.9),
        )
            .prop_map(|(host, millicores, memory, apart, zone, movable)| Drawn {
                host,
                millicores,
                memory,
                apart,
                zone,
                movable,
            })
    }

    fn zone(second: bool) -> String {
        if second { "2" } else { "1" }.to_owned()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn in_no_world_a_hard_constraint_is_broken(
            drawn in prop::collection::vec(drawn(), 1..14),
            isolated in prop::option::of(0_usize..3),
            drained in prop::option::of(0_usize..3),
            most in 1_usize..5,
        ) {
            let hosts = ["a", "b", "c"];
            let names: Vec<String> = (0..drawn.len()).map(|i| format!("i{i:02}")).collect();
            let placed: Vec<(&str, &str, f64)> = names
                .iter()
                .zip(&drawn)
                .map(|(name, one)| (name.as_str(), hosts[one.host], one.millicores))
                .collect();
            let mut world = world(&placed);
            for (index, name) in hosts.iter().enumerate() {
                let host = world.hosts.get_mut(&HostId::new(*name).unwrap()).unwrap();
                host.labels.insert("zone".to_owned(), zone(index == 2));
                if isolated == Some(index) {
                    host.isolation = Some(Isolation {
                        reason: "r".to_owned(),
                        owner: "o".to_owned(),
                        since: Timestamp(0),
                    });
                }
            }
            if let Some(index) = drained {
                drain(&mut world, hosts[index]);
            }
            for (name, one) in names.iter().zip(&drawn) {
                let other = one.apart.and_then(|i| names.get(i)).filter(|other| *other != name);
                let other = other.map(|other| InstanceId::new(other.clone()).unwrap());
                edit(&mut world, name, |i| {
                    i.spec.memory_bytes = one.memory;
                    i.spec.movable = one.movable;
                    i.spec.anti_affinity = other.into_iter().collect();
                    if let Some(second) = one.zone {
                        i.spec.placement.require.insert("zone".to_owned(), zone(second));
                    }
                });
            }
            let settings = Settings { max_migrations: most, ..settings() };
            let before = world.clone();
            let decision = decide(&world, &settings, &mut Memory::default());
            prop_assert!(decision.moves.len() <= most);
            let mut moved = std::collections::BTreeSet::new();
            for host in hosts {
                let id = HostId::new(host).unwrap();
                let through = decision.moves.iter().filter(|m| m.from == id || m.target == id);
                prop_assert!(through.count() <= settings.max_per_host);
            }
            for intent in &decision.moves {
                prop_assert!(moved.insert(intent.instance.clone()), "twice");
                let spec = &before.instances[&intent.instance].spec;
                let target = &before.hosts[&intent.target];
                prop_assert!(spec.movable);
                prop_assert!(place::isolation(&before, target).is_none());
                for (label, value) in &spec.placement.require {
                    prop_assert_eq!(target.labels.get(label), Some(value));
                }
            }
            // Both replicas are there for a while: memory must hold with everything that comes.
            for host in hosts {
                let id = HostId::new(host).unwrap();
                let here: u64 = before.on_host(&id).map(|i| i.spec.memory_bytes).sum();
                let coming: u64 = decision
                    .moves
                    .iter()
                    .filter(|m| m.target == id)
                    .map(|m| before.instances[&m.instance].spec.memory_bytes)
                    .sum();
                prop_assert!(coming == 0 || (here + coming) as f64 <= 1e9);
            }
            carry_out(&mut world, &decision);
            for intent in &decision.moves {
                let spec = &world.instances[&intent.instance].spec;
                for other in world.on_host(&intent.target) {
                    prop_assert!(!spec.anti_affinity.contains(&other.spec.id));
                    prop_assert!(!other.spec.anti_affinity.contains(&spec.id));
                }
            }
        }
    }
}
