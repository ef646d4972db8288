use domain::migration::Limits;
use domain::{
    Endpoint, Epoch, HostId, InstanceState, MigrationRouting, Move, Phase, PlanId, RampPlan,
    Replica, Resources, Timestamp, WeightSplit,
};

use super::*;

fn replica(tag: &str, port: u16) -> Replica {
    Replica {
        host: HostId::new("b").unwrap(),
        endpoint: Endpoint(([127, 0, 0, 1], port).into()),
        handle: format!("{port}@1"),
        tag: tag.to_owned(),
    }
}

fn instance(name: &str, tag: &str) -> Instance {
    let spec = serde_json::json!({"id": name, "service": "shop", "argv": ["server"]});
    Instance {
        spec: serde_json::from_value(spec).unwrap(),
        replica: replica(tag, 1),
        state: InstanceState::Running,
        placed_at: Timestamp(0),
    }
}

fn migration(id: &str, of: &str, phase: Phase) -> Migration {
    let intent = Move {
        instance: InstanceId::new(of).unwrap(),
        from: HostId::new("a").unwrap(),
        target: HostId::new("b").unwrap(),
        ramp: RampPlan::standard(1),
        reserve: Resources::default(),
        score: 0.0,
        reasons: Vec::new(),
        expected: domain::Expected::default(),
    };
    let mut migration = Migration::new(
        MigrationId::new(id).unwrap(),
        PlanId::new("p-1").unwrap(),
        &instance(of, of),
        &intent,
        Limits::default(),
        Epoch(1),
        Timestamp(0),
    );
    migration.phase = phase;
    migration
}

fn kept(tag: &str, side: Side, of: &str, runs: bool) -> Found {
    Found {
        tag: tag.to_owned(),
        side: Some(side),
        instance: Some(InstanceId::new(of).unwrap()),
        host: Some(HostId::new("b").unwrap()),
        running: runs.then(|| replica(tag, 2)),
        parts: vec!["directory".to_owned()],
    }
}

fn host(name: &str, owner: Option<&str>) -> Host {
    Host {
        id: HostId::new(name).unwrap(),
        capacity: domain::Capacity::default(),
        cpus: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        isolation: owner.map(|owner| domain::Isolation {
            reason: "test".to_owned(),
            owner: owner.to_owned(),
            since: Timestamp(0),
        }),
    }
}

fn named(orphans: &[Orphan]) -> Vec<(OrphanKind, &str, Known)> {
    orphans
        .iter()
        .map(|orphan| (orphan.kind, orphan.name.as_str(), orphan.known))
        .collect()
}

/// One instance at rest, one under migration, one whose migration is parked.
fn world() -> (Records, Vec<Found>) {
    let held = |id: &str| Reservation {
        migration: MigrationId::new(id).unwrap(),
        host: HostId::new("b").unwrap(),
        amount: Resources::default(),
    };
    let records = Records {
        migrations: vec![
            migration("m-1", "rests", Phase::Done),
            migration("m-2", "moves", Phase::Soaking),
            migration("m-3", "waits", Phase::Parked),
        ],
        instances: vec![
            instance("rests", "m-1"),
            instance("moves", "moves"),
            instance("waits", "waits"),
        ],
        reservations: vec![held("m-2"), held("m-3")],
        routings: Vec::new(),
        hosts: vec![
            host("a", Some("operator")),
            host("b", Some("migration/m-2")),
        ],
    };
    let kept = vec![
        kept("m-1", Side::Shadow, "rests", true),
        kept("moves", Side::Original, "moves", true),
        kept("m-2", Side::Shadow, "moves", true),
        kept("waits", Side::Original, "waits", true),
        kept("m-3", Side::Shadow, "waits", true),
    ];
    (records, kept)
}

#[test]
fn what_an_instance_or_a_migration_that_is_not_over_has_is_no_orphan() {
    let (records, kept) = world();
    let orphans = find(&records, &kept);
    assert_eq!(named(&orphans), []);
    assert_eq!(distrust(&records, &kept, &orphans), None);
}

#[test]
fn what_a_migration_left_behind_is_found_whatever_it_is() {
    let (mut records, mut found) = world();
    records.migrations[1].phase = Phase::RolledBack;
    // The first one's original was never terminated, and another roll-back left a directory.
    found.push(kept("rests", Side::Original, "rests", true));
    records
        .migrations
        .push(migration("m-4", "moves", Phase::RolledBack));
    found.push(kept("m-4", Side::Shadow, "moves", false));
    let mut groups = kept("m-5", Side::Shadow, "moves", false);
    (groups.side, groups.parts) = (None, vec!["control groups on b".to_owned()]);
    found.push(groups);
    records
        .migrations
        .push(migration("m-5", "moves", Phase::RolledBack));
    records.routings.push(Routing {
        service: domain::ServiceId::new("shop").unwrap(),
        revision: 3,
        epoch: Epoch(1),
        migration: Some(MigrationRouting {
            migration: MigrationId::new("m-2").unwrap(),
            instance: InstanceId::new("moves").unwrap(),
            original: replica("moves", 1).endpoint,
            shadow: replica("m-2", 2).endpoint,
            split: WeightSplit::ORIGINAL,
            mirror: false,
            hold: domain::Hold::Off,
        }),
    });
    let orphans = find(&records, &found);
    let over = Known::Over;
    assert_eq!(
        named(&orphans),
        [
            (OrphanKind::Shadow, "m-2", over),
            (OrphanKind::Original, "rests", over),
            (OrphanKind::Directory, "m-4", over),
            (OrphanKind::ControlGroup, "m-5", over),
            (OrphanKind::Reservation, "m-2", over),
            (OrphanKind::Routing, "shop", over),
            (OrphanKind::Isolation, "b", over),
        ]
    );
    assert!(
        orphans[0].reason.contains("migration m-2 is rolled back"),
        "{orphans:?}"
    );
    assert!(
        orphans[1].reason.contains("served by m-1 now"),
        "{orphans:?}"
    );
    assert_eq!(distrust(&records, &found, &orphans), None);
}

#[test]
fn a_store_that_lost_or_forgot_something_is_not_believed() {
    let (mut records, kept) = world();
    // It went back to before the second migration.
    records.migrations.remove(1);
    records.reservations.remove(0);
    let orphans = find(&records, &kept);
    let doubt = distrust(&records, &kept, &orphans).unwrap();
    assert!(doubt.contains("m-2"), "{doubt}");
    // It was flushed.
    let empty = Records::default();
    let orphans = find(&empty, &kept);
    let doubt = distrust(&empty, &kept, &orphans).unwrap();
    assert!(
        doubt.contains("0 instances") && doubt.contains("5 replicas"),
        "{doubt}"
    );
}
