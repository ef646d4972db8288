use std::collections::BTreeMap;

use domain::forecast::InstanceForecast;
use domain::{
    Capacity, ConsistencyClass, Endpoint, Forecast, HorizonForecast, InstanceId, InstanceSpec,
    InstanceState, Isolation, ModelRef, QuantileCurve, Replica, ServiceId, Timestamp,
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
    ]);
    edit(&mut world, "fixed", |i| i.spec.movable = false);
    edit(&mut world, "recent", |i| i.placed_at = Timestamp(900_000));
    edit(&mut world, "writer", |i| {
        i.spec.class = ConsistencyClass::SingleWriter;
    });
    let decision = decided(&world);
    assert_eq!(chosen(&decision), "nothing");
    assert!(reason(&decision, "fixed", None).contains("not movable"));
    assert!(reason(&decision, "recent", None).contains("cool-down"));
    assert!(reason(&decision, "writer", None).contains("S3"));
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
